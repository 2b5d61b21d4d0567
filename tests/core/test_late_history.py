"""Protocol 9 and decision 0022, "History": whoever begins with a later file learns which configurations came before,
however late the others come and however many there were. Who does not takes every entry of then for a lie."""

from __future__ import annotations

import pytest

from quorumcache.core import epochmessages
from quorumcache.core.carrying import joined_over, still_joining, to_ask
from quorumcache.core.config import Configuration
from quorumcache.core.repair import Recovery
from quorumcache.core.succession import changes
from tests.cluster import configuration_of
from tests.core.test_epochs import FIRST, with_nodes
from tests.core.test_membership import Memory, Person, World, harmless, order


def moved(world: World, epochs: int) -> Configuration:
    """The configuration of the epoch to which the world was moved, so many on."""
    configuration = world.first
    for _ in range(epochs):
        configuration = harmless(configuration)
        order(world, configuration)
        world.advance(200_000)
    assert world.epochs() == [1 + epochs] * len(world.nodes)
    return configuration


def begin_anew(world: World, configuration: Configuration) -> bytes:
    """Start the last node with the newest file, and a record that knows of nothing; its key."""
    key = configuration.nodes[-1].key
    world.records[key] = Memory()
    world.start(key, configuration, started_us=world.now_us)
    world.nodes[key].look(world.now_us)
    return key


def test_a_node_that_starts_long_before_the_others_learns_what_was_before() -> None:
    world = World(configuration_of())
    key = begin_anew(world, moved(world, 1))
    world.is_lost = lambda source, target: key in (source, target)
    world.advance(20_000_000)
    world.is_lost = lambda _source, _target: False
    world.advance(3_000_000)
    assert [each.digest for each in world.nodes[key].known] == [world.first.digest]


def test_a_node_whose_next_epoch_comes_meanwhile_learns_what_was_before() -> None:
    world = World(configuration_of())
    second = moved(world, 1)
    key = begin_anew(world, second)
    third = harmless(second)
    order(world, third, to=key)
    world.advance(500_000)
    assert world.epochs() == [3] * 4
    assert [each.digest for each in world.nodes[key].known] == [world.first.digest, second.digest]


@pytest.mark.parametrize("lies", ["none", "nothing", "no more"])
def test_more_history_than_one_reply_carries_is_learnt(monkeypatch: pytest.MonkeyPatch, lies: str) -> None:
    """By a node, over losses, and from it by a client; a liar beside them tells nothing, or no more than the first
    reply carries."""
    monkeypatch.setattr(epochmessages, "STEPS_MAX", 3)
    world = World(configuration_of())
    Person(world).set("k", b"v")
    last = moved(world, 8)
    key = begin_anew(world, last)
    liar = world.nodes[last.nodes[0].key]
    if lies != "none":
        del liar.known[: -3 if lies == "no more" else None]
    lost = iter([False] * 5 + [True] * 9)
    world.is_lost = lambda source, target: key in (source, target) and next(lost, False)
    world.advance(6_000_000)
    world.is_lost = lambda _source, _target: False
    assert [each.epoch for each in world.nodes[key].known] == list(range(1, 9))
    # It has the configurations, and not the steps: it tells of them all the same.
    others = {info.key for info in last.nodes[:3]}
    late = Person(world, None, last)
    world.is_lost = lambda source, target: late.key == source and target in others
    late.core.onward.look(world.now_us)
    world.advance(1_000_000)
    assert not late.core.onward.lacks_history
    world.is_lost = lambda _source, _target: False
    assert late.get("k") == b"v"


def test_who_goes_two_epochs_at_once_still_joins_what_it_joined_with_the_first() -> None:
    """Decision 0022: these shards it asks the members of before for, until q have reported."""
    world = World()
    away, others = FIRST.nodes[0].key, [info.key for info in FIRST.nodes[1:4]]
    world.is_lost = lambda source, target: away in (source, target)
    second = with_nodes(FIRST, [0, 1, 2, 3])
    order(world, second, to=others[0])
    world.advance(200_000)
    order(world, harmless(second), to=others[0])
    world.advance(200_000)
    world.is_lost = lambda _source, _target: False
    node = world.nodes[away]
    node.look(world.now_us)
    world.advance(200_000)
    carried = [move.carried for move in node.moved if move.carried is not None]
    assert node.configuration.epoch == 3
    assert [bool(each.joined) for each in carried] == [True, False]
    slots = node.node.slots
    moves = [(move.before, each.joined) for move, each in zip(node.moved, carried, strict=True)]
    assert still_joining(moves, slots) == [(FIRST, carried[0].joined)]
    # So it is after a start that finds them recovering, unless it was noted that they had been recovered.
    chain = [FIRST, second, node.configuration]
    assert joined_over(chain, slots.recovering, away, lambda _before: False) == [(FIRST, carried[0].joined)]
    assert joined_over(chain, slots.recovering, away, lambda before: before == FIRST) == []
    assert to_ask([(FIRST, carried[0].joined)], second) == [(FIRST, carried[0].joined), (second, carried[0].joined)]
    assert to_ask([(FIRST, carried[0].joined)], FIRST) == [(FIRST, carried[0].joined)]
    one, *rest = carried[0].joined
    again = [*moves, (second, rest)]
    assert still_joining(again, slots) == [(FIRST, (one,)), (second, tuple(rest))]
    slots.activate(slots.shards[one])
    assert still_joining(moves, slots) == [(FIRST, tuple(rest))]
    # Of two that ask for the same shards, one is content with what the other has found.
    recoveries = [Recovery(node.node, world.now_us, first_id=1, joined=rest, before=x) for x in (FIRST, second)]
    for recovery in recoveries:
        recovery.wake(world.now_us)
        assert recovery.outbox
        assert not recovery.finished
    for number in rest:
        slots.activate(slots.shards[number])
    assert all(recovery.finished for recovery in recoveries)


def test_it_is_said_before_anybody_signs_where_those_who_leave_are_needed() -> None:
    """With fewer than q members that stay, a node that leaves and is stopped too soon leaves those that join waiting
    for ever."""
    at_once = changes(with_nodes(FIRST, [0, 1, 2, 7, 8]), FIRST)
    assert any("has to stay up until" in line for line in at_once)
    assert not any("has to stay up until" in line for line in changes(with_nodes(FIRST, [0, 1, 2, 3, 7]), FIRST))
    assert not any("has to stay up until" in line for line in changes(harmless(), FIRST))
