"""Entries that come one by one are kept as if they had come together, and verified as if they stood alone."""

from __future__ import annotations

import msgspec
import pytest

from quorumcache.core import arriving
from quorumcache.core.model import Entry, Malformed
from quorumcache.core.repair import ENTRIES_AT_ONCE, SHARDS_AT_ONCE_MAX, Recovery
from tests.cluster import START_US, Cluster, configuration_of
from tests.core.test_recovery import OP_TIME_US, Restart
from tests.making import Alone, Draft, passed_on

COUNT = 24


def draft_of(cluster: Cluster, count: int = COUNT) -> Draft:
    draft = Draft(cluster.configuration)
    for i in range(count):
        draft.put(f"k{i}", b"value %d" % i, at_us=START_US)
    return draft


def fill(cluster: Cluster) -> None:
    """All but node 0 have a batch, as its writer committed it."""
    for node in (1, 2, 3):
        cluster.nodes[node].handle(draft_of(cluster).commit(), cluster.now_us)


def batches_of(restart: Restart) -> set[int]:
    return {id(held.batch) for held in restart.node.slots.current.values()}


def test_a_node_that_recovered_has_each_certificate_once() -> None:
    restart = Restart(f=1, shards=4, fill=fill)
    restart.run()
    slots = restart.node.slots
    assert len(slots.current) == COUNT
    assert len(batches_of(restart)) == 1
    (batch,) = {held.batch.certificate: held.batch for held in slots.current.values()}.values()
    assert batch.held_count == COUNT
    for held in slots.current.values():
        restart.cluster.nodes[1].verifier.check_entry(held.entry())


def test_what_each_entry_costs_more_is_counted_and_comes_to_nothing() -> None:
    """An entry without its batch's leaves has a path of its own, which no other entry pays for."""
    restart = Restart(f=1, fill=fill)
    restart.run()
    slots, other = restart.node.slots, restart.cluster.nodes[1].slots
    paths = sum(len(held.path or b"") for held in slots.current.values())
    assert paths >= COUNT * 32 * 4
    own = sum(map(slots.cost_of, slots.current.values()))
    assert own >= sum(map(other.cost_of, other.current.values())) + paths
    for slot in list(slots.current):
        slots.drop(slot)
    assert slots.memory.bytes_used == 0
    assert all(slots.memory.batch_with(entry.certificate) is None for entry in [draft_of(restart.cluster).entry()])


def test_a_missing_entry_of_a_batch_that_is_here_needs_no_path() -> None:
    alone = Alone()
    draft = draft_of(Cluster(configuration=alone.configuration))
    commit = draft.commit()
    commit.bundles[0].items.pop()
    alone.codes(commit)
    entry = draft.entry(COUNT - 1)
    held = arriving.held_of(alone.node, arriving.check_entry(alone.node, entry), entry)
    assert held.path is None
    assert held.batch is next(iter(alone.node.slots.current.values())).batch
    assert held.entry() == entry


def test_what_entries_here_prove_is_not_verified_again() -> None:
    alone = Alone()
    draft = draft_of(Cluster(configuration=alone.configuration))
    alone.codes(passed_on(draft.entry(0), alone.configuration))
    alone.node.verifier._remembered.clear()
    before = alone.node.verifier.verified_count
    arriving.check_entry(alone.node, draft.entry(1))
    assert alone.node.verifier.verified_count == before


def forged(draft: Draft) -> list[Entry]:
    good = draft.entry(1)
    certificate = good.certificate
    grant = certificate.grants[0]
    replace = msgspec.structs.replace
    return [
        replace(good, certificate=replace(certificate, signature=bytes(64))),
        replace(good, certificate=replace(certificate, grants=certificate.grants[:-1])),
        replace(
            good,
            certificate=replace(certificate, grants=(replace(grant, signature=bytes(64)), *certificate.grants[1:])),
        ),
        replace(good, certificate=replace(certificate, count=COUNT + 1)),
        replace(good, position=2),
        replace(good, path=bytes(len(good.path))),
        replace(good, salted=good.salted + b"!"),
        replace(good, header=draft.headers[2]),
    ]


@pytest.mark.parametrize("number", range(8))
def test_what_is_not_the_same_certificate_to_the_last_bit_is_verified(number: int) -> None:
    """Nothing rides on a good certificate but the entries that it proves."""
    alone = Alone()
    draft = draft_of(Cluster(configuration=alone.configuration))
    alone.codes(passed_on(draft.entry(0), alone.configuration))
    with pytest.raises(Malformed):
        arriving.check_entry(alone.node, forged(draft)[number])


def test_an_unknown_configuration_counts_no_more_whatever_is_here() -> None:
    """An epoch that ended is taken from the chain: what it certified is no reason to skip that."""
    alone = Alone()
    draft = draft_of(Cluster(configuration=alone.configuration))
    alone.codes(passed_on(draft.entry(0), alone.configuration))
    alone.node.verifier.chain.clear()
    with pytest.raises(Malformed, match="configuration"):
        arriving.check_entry(alone.node, draft.entry(1))


def test_two_certificates_of_one_batch_are_kept_apart() -> None:
    alone = Alone()
    draft = draft_of(Cluster(configuration=alone.configuration))
    for position, nodes in enumerate([(0, 1, 2), (1, 2, 3), (0, 1, 2)]):
        alone.codes(passed_on(draft.entry(position, nodes), alone.configuration))
    one, two = draft.certificate((0, 1, 2)), draft.certificate((1, 2, 3))
    found = [alone.node.slots.memory.batch_with(certificate) for certificate in (one, two)]
    assert [None if batch is None else batch.certificate for batch in found] == [one, two]


def test_large_shards_are_recovered_one_at_a_time() -> None:
    """Habit 6: what waits in memory until q peers have reported all of a shard is bounded by entries, not by shards."""
    cluster = Cluster(configuration=configuration_of(shards=64))
    node = cluster.start(0)
    recovery = Recovery(node, START_US, first_id=0)
    for size, shards in ((0, SHARDS_AT_ONCE_MAX), (ENTRIES_AT_ONCE // 3, 3), (ENTRIES_AT_ONCE, 1), (10**9, 1)):
        recovery._active.clear()
        recovery.outbox.clear()
        recovery._entries_in_one = size
        recovery._advance(START_US + 2 * OP_TIME_US)
        assert len(recovery._active) == shards
        assert len(recovery.outbox) == 3 * shards
