"""Decision 0022, "who may report to a member that joins": a node that starts again before it has recovered what it
joined still asks the members of the epoch before, whatever it stores."""

from __future__ import annotations

from pathlib import Path

import pytest

from quorumcache.core import amend
from quorumcache.core.config import Configuration, SignedConfiguration
from quorumcache.core.seals import Seal, Step, seal_string
from quorumcache.net.listening import free_ports
from quorumcache.node import RunningNode
from quorumcache.storage import storage_of
from quorumcache.wire.founding import Founded, found_cluster
from quorumcache.wire.keys import SigningKey
from quorumcache.wire.sealrecord import SealRecord


def step_of(founded: Founded, after: Configuration, *, nodes: int = 5) -> Step:
    """What shows that the cluster moved on."""
    unsigned, admin = SignedConfiguration(after), founded.admin
    successor = SignedConfiguration(after, ((admin.public, admin.sign(unsigned.signed_message)),))
    message = seal_string(after.previous or b"", after.digest)
    return Step(successor, tuple(Seal(node.public, node.sign(message)) for node in founded.nodes[:nodes]))


@pytest.mark.parametrize("storage", ["memory", "sqlite"])
async def test_a_node_that_starts_again_goes_on_joining(tmp_path: Path, storage: str) -> None:
    """Two that joined with stored state took each other's empty reports for word of the group otherwise: what only
    those who stayed and those who left had was gone, for every reader."""
    key = SigningKey.generate()
    *ports, own = free_ports(5)
    founded = found_cluster(nodes=4, addresses=[f"127.0.0.1:{port}" for port in ports], shards=8)
    before = founded.configuration
    after = amend.replace_node(before, before.nodes[3].name, key.public, address=f"127.0.0.1:{own}")
    step = step_of(founded, after)
    record = SealRecord(tmp_path / "node.seals", key.public)
    record.begin()
    record.remember(before, step.successor)
    record.began(before, step)
    data_dir = None if storage == "memory" else tmp_path / "data"
    for is_again in (False, True):
        node = RunningNode(before, key, record=record, storage=storage_of(storage, data_dir))
        await node.start()
        try:
            assert node.resumed == (is_again and storage == "sqlite")
            assert node.status()["shards_recovering"] == 8
            assert node._term is not None
            assert node._term.joining == [(before, tuple(range(8)))]
            assert not node._term.has_joined
        finally:
            await node.stop()
    assert not record.has_joined(before)


async def test_a_node_that_stays_goes_on_joining_the_shards_that_are_new_to_it(tmp_path: Path) -> None:
    *ports, own = free_ports(5)
    founded = found_cluster(nodes=5, addresses=[f"127.0.0.1:{port}" for port in (own, *ports)], shards=16)
    before, key = founded.configuration, founded.nodes[0]
    after = amend.remove_node(before, before.nodes[4].name)
    new = [number for number, group in enumerate(before.shard_groups) if 0 not in group.members]
    assert new
    record = SealRecord(tmp_path / "node.seals", key.public)
    record.begin()
    for start in range(4):
        node = RunningNode(before, key, record=record, storage=storage_of("sqlite", tmp_path / "data"))
        await node.start()
        try:
            assert node.resumed == (start > 0)
            assert node._term is not None
            assert node._term.joining == ([(before, tuple(new))] if start else [])
            if start == 2:
                # Another epoch comes meanwhile: who left with the last one can tell, and who is there may not be q.
                third = amend.successor_of(after, grace_us=after.grace_us + 1)
                node.membership.advance([step_of(founded, third, nodes=4)], node.clock_us())
                node._go_on()
                assert node.configuration == third
                assert node._term.joining == [(before, tuple(new))]
                assert [each._asked.epoch for each in node._term.recoveries] == [3, 1, 2]
        finally:
            await node.stop()
        if not start:
            step = step_of(founded, after)
            record.remember(before, step.successor)
            record.began(before, step)
