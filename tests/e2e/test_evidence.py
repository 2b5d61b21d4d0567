"""Protocol 16 on real sockets: an audit names exactly those who misbehaved, and its files convict them offline."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path

import pytest

from quorumcache.cli.app import run
from quorumcache.core import messages as m
from quorumcache.core.config import Configuration, to_toml
from quorumcache.core.model import slot_of
from quorumcache.net.audit import Auditor, Findings, Memory
from quorumcache.net.peers import Peers
from quorumcache.testing import LocalCluster
from quorumcache.wire.evidence import name_of
from quorumcache.wire.keys import SigningKey
from tests.making import Draft

S = 1_000_000


class EquivocatingWriter:
    """Signs two values under one stamp, and shows each to some nodes."""

    def __init__(self, cluster: LocalCluster, writer: str) -> None:
        self.configuration = cluster.configuration
        self.key = cluster.writers[writer]
        self._ids = itertools.count(1)

    def draft(self, value: bytes, at_us: int) -> Draft:
        draft = Draft(self.configuration)
        draft.key = self.key
        slot = slot_of(b"default", b"contended")
        return draft.put(value=value, at_us=at_us, slot_bytes=slot)

    async def lie(self, at_us: int) -> dict[int, m.AnyReply]:
        """One value to nodes 0, 1 and 2, the other to all."""
        replies: dict[int, m.AnyReply] = {}
        async with Peers(self.configuration, range(4), self.key) as peers:
            peers.on_reply = lambda node, reply: replies.__setitem__(node, reply)
            assert await peers.up(4, wait_s_max=10.0) == 4
            for value, nodes in ((b"one", (0, 1, 2)), (b"two", (0, 1, 2, 3))):
                replies.clear()
                peers.send([(nodes, self.draft(value, at_us).prepare(next(self._ids)))])
                while len(replies) < len(nodes):
                    await peers.heard(5.0)
        return replies


async def audited(
    configuration: Configuration,
    key: SigningKey | None = None,
    slots: tuple[bytes, ...] = (),
    memory: Memory | None = None,
    *,
    probe: bool = False,
) -> tuple[list[tuple[str, str]], Findings]:
    findings = await Auditor(configuration, key, timeout_s=10.0, memory=memory).run(slots, probe=probe)
    return sorted((v.role, name_of(configuration, v)) for v, _ in findings.proofs), findings


@pytest.mark.attack
async def test_an_audit_names_the_equivocating_writer_and_node_and_nobody_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with LocalCluster(writers=("good", "evil"), byzantine={2: "equivocating-grants"}) as cluster:
        async with await cluster.client("good") as client:
            await client.set_many({f"k{i}": b"v" for i in range(20)})
        assert (await audited(cluster.configuration))[0] == []
        clock_us = int((await cluster.status(0))["clock_us"])
        replies = await EquivocatingWriter(cluster, "evil").lie(clock_us)
        assert [r.code for r in replies[0].refusals] == [m.EQUIVOCATION]  # type: ignore[union-attr]
        convicted, _ = await audited(cluster.configuration)
        assert convicted == [("writer", "evil")]
        convicted, findings = await audited(cluster.configuration, probe=True)
        assert convicted == [("node", cluster.configuration.nodes[2].name), ("writer", "evil")]
        assert not findings.silent
        # The same by the program, and its files for somebody who has nothing else.
        out, file = tmp_path / "found", tmp_path / "cluster.toml"
        file.write_text(to_toml(cluster.signed))
        arguments = ["audit", "--cluster", str(file), "--probe", "--out", str(out)]
        assert await asyncio.to_thread(run, arguments) == 6
    told = capsys.readouterr().out
    assert "writer evil" in told
    assert f"node {cluster.configuration.nodes[2].name}" in told
    files = sorted(out.iterdir())
    assert len(files) == 2
    for found in files:
        assert run(["evidence", "verify", str(found)]) == 0
        assert run(["evidence", "show", str(found), "--cluster", str(file)]) == 0
    assert "under one stamp" in capsys.readouterr().out


@pytest.mark.attack
@pytest.mark.parametrize("behaviour", ["lying-floor", "stale"])
async def test_a_node_is_held_to_what_it_signed(behaviour: str) -> None:
    """Retraction: it signs the truth while nothing is at stake, and then a lie."""
    slot = slot_of(b"default", b"k")
    async with LocalCluster(writers=("a",), byzantine={1: "honest"}) as cluster:
        memory: Memory = {}
        async with await cluster.client("a") as client:
            await client.set("k", b"1")
            await cluster.make_byzantine(1, behaviour)
            # The stale one freezes what it has when something newer comes.
            await client.set("k", b"2")
            frozen = cluster.node(1)._behaviour
            await cluster.make_byzantine(1, "honest")
            await client.set("k", b"3")
            convicted, findings = await audited(cluster.configuration, None, (slot,), memory)
            assert convicted == []
            assert not findings.troubles
            cluster.node(1)._behaviour = frozen
            convicted, _ = await audited(cluster.configuration, None, (slot,), memory)
            assert convicted == [("node", cluster.configuration.nodes[1].name)]


async def test_restarts_and_new_values_convict_nobody() -> None:
    """Protocol 16: across a start without stored state an honest node has forgotten, and says so by its incarnation."""
    slots = (slot_of(b"default", b"k"), slot_of(b"default", b"never"))
    async with LocalCluster(writers=("a",)) as cluster:
        memory: Memory = {}
        async with await cluster.client("a") as client:
            for value in (b"1", b"2"):
                await client.set("k", value)
                assert (await audited(cluster.configuration, None, slots, memory))[0] == []
            await cluster.restart(3)
            await client.delete("k")
            convicted, findings = await audited(cluster.configuration, None, slots, memory)
            assert convicted == []
            assert not findings.troubles
