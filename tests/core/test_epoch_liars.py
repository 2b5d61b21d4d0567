"""Protocol 9 where liars, or one epoch right after another, meet operations: what the simulator found
(docs/found-by-simulation.md)."""

from __future__ import annotations

from quorumcache.core import messages as m
from quorumcache.core.epochmessages import Shown, signed_of
from quorumcache.core.membership import Membership
from quorumcache.core.model import PUT
from quorumcache.core.onward import _anew
from quorumcache.core.outcome import Found, Written
from quorumcache.core.refusal import FieldWrite
from tests.cluster import configuration_of, slot
from tests.core.test_membership import Person, World, harmless, order, signed


def lying(node: Membership, *kinds: type[m.Request]) -> None:
    """Have a node reject requests of these kinds."""
    handle = node.handle

    def lie(request: m.Request, now_us: int, client: bytes | None = None) -> m.Reply:
        if isinstance(request, kinds):
            return m.Reject(request.id, now_us, m.BAD_FORM, "so it says")
        return handle(request, now_us, client)

    node.handle = lie  # type: ignore[method-assign]


def test_a_liar_that_rejects_and_a_node_that_sealed_fail_no_operation() -> None:
    """Protocol 5.6: the epoch's end at one node is no refusal; beside f of those, the others still answer, or end the
    epoch too."""
    world = World(configuration_of())
    writer, reader = Person(world), Person(world, None)
    writer.set("k", b"before")
    keys = [info.key for info in world.first.nodes]
    lying(world.nodes[keys[0]], m.Read, m.ReadFull, m.Prepare, m.Commit)
    world.is_lost = lambda source, target: source in keys and target in keys
    order(world, harmless(world.first), at=1)
    reads = [reader.begin_read("k"), reader.begin_read("k", full=True)]
    writes = [writer.begin_write("k2", b"v")]
    world.advance(30_000)
    assert not reader.outcomes
    assert len(writer.outcomes) == 1
    world.is_lost = lambda _source, _target: False
    world.advance(1_000_000)
    assert all(isinstance(reader.outcomes[token], Found) for token in reads)
    assert writes[0] in writer.outcomes
    assert reader.get("k2") == b"v"


def test_an_epoch_that_has_begun_is_no_successor_of_itself() -> None:
    """Administrators signed the present configuration, too: a liar that shows it as the next one is not believed."""
    world = World(configuration_of())
    second = harmless(world.first)
    order(world, second)
    world.advance(300_000)
    assert world.epochs() == [2] * 4
    liar = world.nodes[world.first.nodes[0].key]
    handle = liar.handle

    def lie(request: m.Request, now_us: int, client: bytes | None = None) -> m.Reply:
        if isinstance(request, m.Follow):
            return m.FollowReply(request.id, now_us, [], Shown(signed_of(signed(second)), []), [])
        return handle(request, now_us, client)

    liar.handle = lie  # type: ignore[method-assign]
    for info in world.first.nodes[1:]:
        world.nodes[info.key].look(world.now_us)
    world.advance(500_000)  # Raises where a node takes it for one that it has to follow.
    assert world.epochs() == [2] * 4
    assert not any(node.is_sealed for node in world.nodes.values())


def test_what_was_sent_out_keeps_its_stamp_over_an_epoch() -> None:
    """0016, 3: a base that was committed once counts as written where q nodes have *it*; without its stamp any older
    base of the generation would do."""
    write = FieldWrite(b"\x03map\x00\x01k\x00\x00", PUT, b"", 0, b"", [1], 0)
    write.committed, write.stamp = b"g" * 48, b"s" * 48
    again = _anew(write)
    assert isinstance(again, FieldWrite)
    assert (again.committed, again.stamp) == (write.committed, write.stamp)
    write.committed = b""
    again = _anew(write)
    assert isinstance(again, FieldWrite)
    assert again.stamp == b""


def test_a_certificate_that_was_sent_stands_over_two_epochs() -> None:
    """0016, 3: after a commit was sent nothing else is proposed, however many epochs pass before it is confirmed."""
    world = World(configuration_of())
    writer = Person(world)
    commits: list[m.Commit] = []
    prepares: list[m.Request] = []
    ask = world.ask

    def unheard(source: bytes, target: bytes, request: m.Request) -> m.Reply | None:
        reply = ask(source, target, request)
        if isinstance(request, m.Prepare):
            prepares.append(request)
        if isinstance(request, m.Commit) and isinstance(reply, m.CommitReply):
            commits.append(request)
            return None
        return reply

    world.ask = unheard  # type: ignore[method-assign]
    token = writer.begin_write("k", b"v")
    world.pump()
    count, configuration = len(prepares), world.first
    for epoch in (2, 3):
        configuration = harmless(configuration)
        order(world, configuration)
        world.advance(600_000)
        assert writer.core.configuration.epoch == epoch
    world.ask = ask  # type: ignore[method-assign]
    world.advance(600_000)
    assert isinstance(writer.outcomes[token], Written)
    assert len(prepares) == count
    assert {request.bundles[0].items[0].header for request in commits} == {
        node.node.slots.current[slot("k")].header for node in world.nodes.values()
    }
