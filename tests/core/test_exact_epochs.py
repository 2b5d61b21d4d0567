"""Protocol 17 over a change of epoch with the same groups: votes and locks go along, locks of before are finished in
the next epoch, a revoked writer's are dropped, and no operation is judged across the change."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from quorumcache.core import amend
from quorumcache.core import messages as m
from quorumcache.core.config import Configuration
from quorumcache.core.model import header_stamp
from quorumcache.core.outcome import DENIED, UNKNOWN, Decided, Failed, Unchanged
from quorumcache.core.seals import check_movable
from quorumcache.errors import ConfigurationError
from tests.core.test_epochs import with_nodes
from tests.core.test_membership import Person, World, harmless, order
from tests.exact import add, exact_configuration, lock_slot, plus, put

FIRST = exact_configuration()


def revoking(before: Configuration, name: str) -> Configuration:
    writers = tuple(replace(w, status="revoked") if w.name == name else w for w in before.writers)
    return amend.successor_of(before, writers=writers)


def begin(person: Person, change: object, key: str = "k") -> int:
    person._token += 1
    person.core.exact(lock_slot(key), change, person._token)  # type: ignore[arg-type]
    return person._token


def ask(person: Person, change: object, key: str = "k") -> object:
    token = begin(person, change, key)
    person.world.pump()
    for _ in range(80):
        if token in person.outcomes:
            break
        person.world.advance(100_000)
    return person.outcomes.get(token)


def value(outcome: object) -> bytes:
    assert isinstance(outcome, Decided | Unchanged), outcome
    return outcome.salted[16:]


def without(world: World, kind: type[m.Request], nodes: range = range(4)) -> list[m.Request]:
    """From now on such requests do not reach these nodes; returns those that were sent."""
    lost: list[m.Request] = []
    ask_, keys = world.ask, [world.first.nodes[i].key for i in nodes]

    def asked(source: bytes, target: bytes, request: m.Request) -> m.Reply | None:
        if isinstance(request, kind) and target in keys:
            lost.append(request)
            return None
        return ask_(source, target, request)

    world.ask = asked  # type: ignore[method-assign]
    return lost


def everything(world: World) -> None:
    del world.ask  # type: ignore[method-assign]


def dies_before_its_commit(world: World, person: Person, change: object) -> list[m.Request]:
    """The change is locked at all nodes and granted by them; its commits, which are returned, reach none."""
    commits = without(world, m.Commit)
    token = begin(person, change)
    world.pump()
    assert commits
    assert token not in person.outcomes
    world.clients.remove(person)
    everything(world)
    return commits


def test_counts_go_on_over_epochs() -> None:
    world = World(FIRST)
    one, two = Person(world, "w1"), Person(world, "w2")
    configuration, tokens = FIRST, []
    for number in range(6):
        outcome = ask(one if number % 2 else two, plus())
        assert value(outcome) == b"%d" % (number + 1)
        assert isinstance(outcome, Decided)
        tokens.append(header_stamp(outcome.header))
        configuration = harmless(configuration)
        order(world, configuration)
        world.advance(100_000)
    assert tokens == sorted(tokens)
    assert world.epochs() == [7] * 4


def test_what_was_locked_before_is_finished_after() -> None:
    """Its writer died with q grants in hand: whoever comes next in the next epoch finds the lock and finishes it, with
    votes and an intent of before."""
    world = World(FIRST)
    dies_before_its_commit(world, Person(world, "w1"), add(b"dead"))
    order(world, harmless(FIRST))
    world.advance(100_000)
    assert world.epochs() == [2] * 4
    other = Person(world, "w2")
    outcome = ask(other, add(b"other"))
    assert isinstance(outcome, Unchanged), outcome
    assert value(outcome) == b"dead"
    for node in world.nodes.values():
        held = node.node.slots.current[lock_slot()]
        assert held.batch.certificate.configuration == harmless(FIRST).digest  # Granted in the next epoch.


def test_what_a_retired_writer_had_locked_is_finished_too() -> None:
    """It may have been decided: what was certified stands, and so does what is on the way to it."""
    world = World(FIRST)
    dies_before_its_commit(world, Person(world, "w1"), add(b"dead"))
    writers = tuple(replace(w, status="retired") if w.name == "w1" else w for w in FIRST.writers)
    order(world, amend.successor_of(FIRST, writers=writers))
    world.advance(100_000)
    assert value(ask(Person(world, "w2"), add(b"other"))) == b"dead"
    outcome = ask(Person(world, "w1"), put(b"more"))
    assert isinstance(outcome, Failed)
    assert outcome.kind == DENIED


def test_a_lock_of_two_epochs_ago_is_finished_too() -> None:
    world = World(FIRST)
    dies_before_its_commit(world, Person(world, "w1"), add(b"dead"))
    configuration = FIRST
    for _ in range(2):
        configuration = harmless(configuration)
        order(world, configuration)
        world.advance(100_000)
    assert value(ask(Person(world, "w2"), add(b"other"))) == b"dead"


def test_what_was_sent_is_not_judged_by_another_epoch() -> None:
    """In the next epoch a revoked writer's entries are forgotten early, so what stands there proves nothing of before:
    unknown, and what had not begun goes on."""
    world = World(FIRST)
    person = Person(world, "w1")
    without(world, m.Lock)
    sent, behind = begin(person, plus()), begin(person, plus())
    world.pump()
    everything(world)
    order(world, harmless(FIRST))
    world.advance(2_000_000)
    outcome = person.outcomes[sent]
    assert isinstance(outcome, Failed)
    assert outcome.kind == UNKNOWN
    assert value(person.outcomes[behind]) in (b"1", b"2")


def test_a_revoked_writers_lock_is_dropped_and_binds_nobody() -> None:
    """At once, not after its TTL: and the next holder's token is higher."""
    world = World(FIRST)
    bad, good = Person(world, "w3"), Person(world, "w1")
    held = ask(bad, add(b"mine", 60_000_000))
    assert isinstance(held, Decided)
    dies_before_its_commit(world, bad, put(b"still mine"))
    assert isinstance(ask(good, add(b"good")), Unchanged)
    order(world, revoking(FIRST, "w3"))
    world.advance(100_000)
    outcome = ask(good, add(b"good"))
    assert isinstance(outcome, Decided), outcome
    assert header_stamp(outcome.header) > header_stamp(held.header)
    assert all(
        node.node.slots.instances is not None
        and all(i.locked is None or b"mine" not in i.locked.salted for _, i in node.node.slots.instances.items())
        for node in world.nodes.values()
    )


def test_a_hoarded_certificate_of_a_revoked_writer_comes_to_nothing() -> None:
    world = World(FIRST)
    bad = Person(world, "w3")
    hoard = dies_before_its_commit(world, bad, add(b"hoarded"))
    order(world, revoking(FIRST, "w3"))
    world.advance(100_000)
    commit = hoard[0]
    assert isinstance(commit, m.Commit)
    for node in world.nodes.values():
        request = m.Commit(1, node.configuration.digest, commit.bundles)
        reply = node.handle(request, world.now_us)
        assert isinstance(reply, m.CommitReply)
        assert set(reply.codes) == {m.REVOKED}
    assert isinstance(ask(Person(world, "w1"), add(b"good")), Decided)


def test_a_node_votes_for_one_header_in_a_ballot_over_epochs() -> None:
    """I0: what it voted for goes along, so two lock certificates of one ballot never come to be, one of each epoch."""
    world = World(FIRST)
    person = Person(world, "w1")
    votes = without(world, m.Lock)
    begin(person, add(b"v"))
    world.pump()
    assert votes
    before = {key: node.node.slots.instances.get(lock_slot()) for key, node in world.nodes.items()}  # type: ignore[union-attr]
    assert any(instance.voted for instance in before.values())
    everything(world)
    world.clients.remove(person)
    order(world, harmless(FIRST))
    world.advance(100_000)
    for key, node in world.nodes.items():
        assert node.node.slots.instances is not None
        after = node.node.slots.instances.get(lock_slot())
        assert (after.promised, after.voted) == (before[key].promised, before[key].voted)


def test_a_node_that_is_silent_stays_so() -> None:
    world = World(FIRST)
    key = FIRST.nodes[3].key
    world.start(key, FIRST, started_us=world.now_us)
    order(world, harmless(FIRST))
    world.advance(100_000)
    node = world.nodes[key].node
    assert node.slots.instances is not None
    assert node.slots.instances.is_silent(lock_slot())


def test_other_groups_are_refused() -> None:
    """Who joins a group would have to learn its votes: not while nodes run."""
    for after in (
        with_nodes(FIRST, [0, 1, 2, 3, 4]),
        with_nodes(FIRST, [0, 1, 2, 7]),
        with_nodes(FIRST, [1, 0, 2, 3]),
    ):
        with pytest.raises(ConfigurationError, match="exact"):
            check_movable(after, FIRST)
    check_movable(revoking(FIRST, "w1"), FIRST)


@pytest.mark.parametrize("seed", range(8))
def test_counting_under_change(seed: int) -> None:
    """Increments by several clients, messages lost, epochs in between: each result is its own, none is skipped but by
    what is unknown, and the last one is the count."""
    draw = random.Random(f"exact epochs {seed}")
    world = World(FIRST)
    world.is_lost = lambda _source, _target: draw.random() < 0.03
    people = [Person(world, name) for name in ("w1", "w2", "w3")]
    configuration, results, unknown = FIRST, [], 0
    for round_ in range(8):
        tokens = [(person, begin(person, plus())) for person in people if draw.random() < 0.8]
        for _ in range(draw.randrange(4)):
            world.pump()
        if round_ % 3 == 1:
            configuration = harmless(configuration)
            while not isinstance(order(world, configuration, to=draw.choice(list(world.nodes))), m.SealReply):
                world.advance(10_000)
        for _ in range(200):
            if all(token in person.outcomes for person, token in tokens):
                break
            world.advance(100_000)
            for node in world.nodes.values():
                node.look(world.now_us)
        for person, token in tokens:
            outcome = person.outcomes[token]
            if isinstance(outcome, Decided):
                results.append(int(outcome.salted[16:]))
            else:
                assert isinstance(outcome, Failed)
                unknown += outcome.kind == UNKNOWN
    world.is_lost = lambda _source, _target: False
    assert len(set(results)) == len(results)
    final = int(value(ask(people[0], plus())))
    assert len(results) + 1 <= final <= len(results) + 1 + unknown
    assert max(results) < final
