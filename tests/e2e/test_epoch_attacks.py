"""Attacks on the way from epoch to epoch, on real sockets (docs/threat-model.md): ended by strangers, hoards that are
released after a revocation, nodes that go on in what has ended, keys without their record."""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import replace
from pathlib import Path

import pytest

from quorumcache.client import Client
from quorumcache.core import amend
from quorumcache.core import messages as m
from quorumcache.core.config import Configuration, SignedConfiguration
from quorumcache.core.epochmessages import Signed, signed_of
from quorumcache.core.model import slot_of
from quorumcache.errors import QuorumCacheError
from quorumcache.net.peers import Peers
from quorumcache.testing.byzantine import LyingNode
from quorumcache.wire.founding import found_cluster
from quorumcache.wire.keys import SigningKey
from tests.cli.test_commands import run
from tests.e2e.test_epochs import Live, live

_ids = itertools.count(1)


async def said(configuration: Configuration, node: int, request: m.Request, key: SigningKey | None = None) -> m.Reply:
    """What one node answers."""
    replies: list[m.Reply] = []
    async with Peers(configuration, [node], key) as peers:
        peers.on_reply = lambda _node, reply: replies.append(reply)
        peers.send([((node,), request)])
        async with asyncio.timeout(20):
            while not replies:
                await peers.heard(1.0)
    return replies[0]


@pytest.mark.attack
async def test_who_is_no_administrator_ends_no_epoch(tmp_path: Path) -> None:
    """What is sent is not even read before administrators' signatures over its digest were checked."""
    async with live(tmp_path) as cluster:
        before = cluster.configuration
        after = amend.revoke_writer(before, "alice")
        writer = cluster.founded.writers["bob"]
        message = SignedConfiguration(after).signed_message
        forged = SignedConfiguration(after, ((writer.public, writer.sign(message)),))
        named = Signed(signed_of(forged).document, ((before.admins[0], writer.sign(message)),))
        deep = Signed(b"[" * (3 << 20), ((before.admins[0], bytes(64)),))
        for successor in (signed_of(SignedConfiguration(after)), signed_of(forged), named, deep):
            for key in (None, writer):
                reply = await said(before, 0, m.SealEpoch(next(_ids), before.digest, successor, []), key)
                assert isinstance(reply, m.Reject)
                assert reply.code == m.NOT_ALLOWED
        assert not any(node.membership.is_sealed for node in cluster.running.values())
        async with await Client.connect(cluster.signed, key=cluster.founded.writers["alice"]) as client:
            await client.set("k", b"v")
            assert await client.get("k") == b"v"


@pytest.mark.attack
async def test_a_hoard_that_is_released_after_the_revocation_appears_nowhere(tmp_path: Path) -> None:
    """0016, 4: certificates kept from all nodes while the writer might write, handed to one node after another later,
    by the writer and by strangers, under the configuration of before and that of after."""
    async with live(tmp_path) as cluster:
        founded, before = cluster.founded, cluster.configuration
        keys = [f"hoarded {i}" for i in range(8)]
        hoard: list[m.Commit] = []
        bob = await Client.connect(founded.signed, key=founded.writers["bob"])
        honest = await Client.connect(founded.signed, key=founded.writers["alice"])
        async with honest:
            await honest.set(keys[0], b"honest")
            for link in bob._engine.links.values():
                send = link.send

                def keep(request_id: int, encoded: bytes, send: object = send) -> None:
                    from quorumcache.wire import codec

                    (request,) = codec.decode_requests(codec.join([encoded]))
                    if isinstance(request, m.Commit):
                        hoard.append(request)
                    else:
                        send(request_id, encoded)  # type: ignore[operator]

                link.send = keep  # type: ignore[method-assign]
            writing = [asyncio.create_task(bob.set(key, b"hoarded")) for key in keys]
            async with asyncio.timeout(20):
                while sum(len(b.items) for x in hoard for b in x.bundles) < len(keys):  # noqa: ASYNC110 - no event
                    await asyncio.sleep(0.01)
            await bob.close()
            for outcome in await asyncio.gather(*writing, return_exceptions=True):
                assert isinstance(outcome, QuorumCacheError)
            assert await honest.get(keys[1]) is None
            await cluster.change(amend.revoke_writer(before, "bob"))
            after = cluster.configuration
            for node in range(4):
                for commit in hoard:
                    for configuration in (before, after):
                        for key in (None, founded.writers["bob"]):
                            request = m.Commit(next(_ids), configuration.digest, commit.bundles)
                            reply = await said(after, node, request, key)
                            if isinstance(reply, m.CommitReply):
                                assert set(reply.codes) == {m.REVOKED}
                            else:
                                assert isinstance(reply, m.Reject)
                                assert reply.code == m.SEALED
                for signed in (founded.signed, cluster.signed):
                    async with await Client.connect(signed) as reader:
                        found = await reader.get_many(keys)
                        assert found == {keys[0]: b"honest"}
            for running in cluster.running.values():
                assert not any(slot_of(b"default", key.encode()) in running.node.slots.current for key in keys[1:])


@pytest.mark.attack
async def test_a_node_that_goes_on_in_an_epoch_that_ended_is_believed_by_nobody(tmp_path: Path) -> None:
    """0016, 1: f nodes that neither seal nor move, and answer as if nothing had happened; with files old and new."""
    async with live(tmp_path) as cluster:
        founded, before = cluster.founded, cluster.configuration
        bob = await Client.connect(founded.signed, key=founded.writers["bob"])
        alice = await Client.connect(founded.signed, key=founded.writers["alice"])
        async with bob, alice:
            await alice.set("k", b"old")
            await bob.set("bobs", b"secret")
            liar = founded.nodes[0]
            await cluster.running.pop(liar.public).stop()
            lying = Stubborn(before, liar, "honest")
            await lying.start()
            try:
                await cluster.change(amend.revoke_writer(before, "bob"))
                await alice.set("k", b"new")
                for signed in (founded.signed, cluster.signed):
                    async with await Client.connect(signed) as reader:
                        for _ in range(5):
                            assert await reader.get("k") == b"new"
                            assert await reader.get("bobs") is None
                assert lying.configuration.epoch == 1
            finally:
                await lying.stop()


class Stubborn(LyingNode):
    """It hears of no other epoch."""

    def handle(self, request: m.Request, client: bytes) -> m.Reply | None:
        if isinstance(request, m.Follow | m.SealEpoch):
            return None
        return self._behaviour.answer(self.node, request, self.clock_us(), client)

    def heard(self, reply: m.Reply) -> None:
        pass


@pytest.mark.attack
def test_a_key_without_its_record_does_not_start(tmp_path: Path) -> None:
    """0016, 7: a node that forgot a seal would answer in an epoch that is over."""
    founded = found_cluster()
    file = founded.write(tmp_path / "c")
    record = tmp_path / "c" / "keys" / "node-n0.seals"
    (record / "begun").unlink()
    record.rmdir()
    code, said_ = run("node", "--cluster", file, "--name", "n0")
    assert code != 0
    assert "there is no record" in said_


@pytest.mark.attack
async def test_a_file_that_is_too_old_leads_nowhere(tmp_path: Path) -> None:
    """0016, 8: `valid_until` bounds how old a configuration a client begins with."""
    cluster = Live(tmp_path)
    old = replace(cluster.configuration, valid_until_us=1_700_000_000_000_000)
    admin = cluster.founded.admin
    signed = SignedConfiguration(old, ((admin.public, admin.sign(SignedConfiguration(old).signed_message)),))
    with pytest.raises(QuorumCacheError, match=r"2023-11-14.*newer"):
        await Client.connect(signed)
