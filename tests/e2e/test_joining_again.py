"""Decision 0022, "who may report to a member that joins": a node that starts again before it has recovered what it
joined still asks the members of the epoch before, whatever it stores."""

from __future__ import annotations

from pathlib import Path

import pytest

from quorumcache.core import amend
from quorumcache.core.config import SignedConfiguration
from quorumcache.core.seals import Seal, Step, seal_string
from quorumcache.net.listening import free_ports
from quorumcache.node import RunningNode
from quorumcache.storage import storage_of
from quorumcache.wire.founding import found_cluster
from quorumcache.wire.keys import SigningKey
from quorumcache.wire.sealrecord import SealRecord


@pytest.mark.parametrize("storage", ["memory", "sqlite"])
async def test_a_node_that_starts_again_goes_on_joining(tmp_path: Path, storage: str) -> None:
    """Two that joined with stored state took each other's empty reports for word of the group otherwise: what only
    those who stayed and those who left had was gone, for every reader."""
    key = SigningKey.generate()
    *ports, own = free_ports(5)
    founded = found_cluster(nodes=4, addresses=[f"127.0.0.1:{port}" for port in ports], shards=8)
    before = founded.configuration
    after = amend.replace_node(before, before.nodes[3].name, key.public, address=f"127.0.0.1:{own}")
    successor = SignedConfiguration(after)
    admin = founded.admin
    successor = SignedConfiguration(after, ((admin.public, admin.sign(successor.signed_message)),))
    message = seal_string(before.digest, after.digest)
    step = Step(successor, tuple(Seal(node.public, node.sign(message)) for node in founded.nodes[:3]))
    record = SealRecord(tmp_path / "node.seals", key.public)
    record.begin()
    record.remember(before, successor)
    record.began(before, step)
    data_dir = None if storage == "memory" else tmp_path / "data"
    for is_again in (False, True):
        node = RunningNode(before, key, record=record, storage=storage_of(storage, data_dir))
        await node.start()
        try:
            assert node.resumed == (is_again and storage == "sqlite")
            assert node.status()["shards_recovering"] == 8
            assert node._term is not None
            assert node._term.joining == list(range(8))
            assert not node._term.has_joined
        finally:
            await node.stop()
    assert not record.has_joined(before)
