"""Protocol 2: stamps are unique, so a copy of a client in a forked process writes nothing, and says why."""

import asyncio
import os

import pytest

from quorumcache.client import Client
from quorumcache.errors import Misuse


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
async def test_a_copy_in_a_forked_process_is_refused(client: Client) -> None:
    child = os.fork()
    if not child:
        # Nothing may run here but the one step that is asked for: the loop and its sockets are the parent's.
        answer = 1
        try:
            client.set("k", b"v").send(None)
        except Misuse as problem:
            answer = 0 if "before a fork" in str(problem) else 2
        finally:
            os._exit(answer)
    assert os.waitstatus_to_exitcode((await asyncio.to_thread(os.waitpid, child, 0))[1]) == 0
    await client.set("k", b"the parent goes on")
    assert await client.get("k") == b"the parent goes on"
