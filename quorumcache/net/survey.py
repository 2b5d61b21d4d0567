"""Ask all nodes of a cluster for their status at once.

That the node says it is proven, over TLS; what it says is not: it is for people to look at, and for nothing else to
rest on. Knows aiohttp;
must not know how it is shown.
"""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass
from typing import Any, Final

import aiohttp

from quorumcache.core.config import Configuration, NodeInfo
from quorumcache.net.link import words_of
from quorumcache.net.peers import Http, open_http
from quorumcache.net.tls import NodePin

STATUS_BYTES_MAX: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class NodeReport:
    """What came of asking one node: its status, or with None the problem in words.

    `round_trip_us`: how long the answer took. `clock_offset_us`: its clock less ours half-way; exact to half of that.
    """

    node: NodeInfo
    status: dict[str, Any] | None
    problem: str = ""
    round_trip_us: int = 0
    clock_offset_us: int = 0


async def survey(configuration: Configuration, *, timeout_s: float) -> list[NodeReport]:
    """Each node's status, in the order of the configuration; those that do not answer in time are told apart."""
    async with open_http() as http:
        return list(await asyncio.gather(*(_ask(http, configuration, node, timeout_s) for node in configuration.nodes)))


async def _ask(http: Http, configuration: Configuration, node: NodeInfo, timeout_s: float) -> NodeReport:
    if not node.address:
        return NodeReport(node, None, "the cluster file has no address for it")
    sent_ns = time.monotonic_ns()
    try:
        async with asyncio.timeout(timeout_s):
            url = f"{'https' if configuration.tls else 'http'}://{node.address}/v1/status"
            check = NodePin(node) if configuration.tls else True
            async with http.get(url, ssl=check, allow_redirects=False) as response:
                code = response.status
                body = await response.content.read(STATUS_BYTES_MAX)
                while len(body) < STATUS_BYTES_MAX and (more := await response.content.read(STATUS_BYTES_MAX)):
                    body += more
    except TimeoutError:
        return NodeReport(node, None, f"no answer within {timeout_s:g} s")
    except (aiohttp.ClientError, OSError, ValueError) as problem:
        return NodeReport(node, None, words_of(problem, tls=configuration.tls) or type(problem).__name__)
    round_trip_us = (time.monotonic_ns() - sent_ns) // 1000
    try:
        status = json.loads(body) if code == 200 else None
    except (ValueError, RecursionError):
        status = None
    if not isinstance(status, dict):
        return NodeReport(node, None, f"what answers there is no node (HTTP {code})", round_trip_us)
    if status.get("key") != node.key.hex():
        return NodeReport(node, None, f"another node answers there: {str(status.get('name'))[:64]!r}", round_trip_us)
    clock_us = status.get("clock_us")
    offset_us = clock_us - time.time_ns() // 1000 + round_trip_us // 2 if isinstance(clock_us, int) else 0
    return NodeReport(node, status, "", round_trip_us, offset_us)
