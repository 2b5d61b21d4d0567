"""Protocol 9 and decision 0016: what a node takes along into the next epoch, and whom one that joins has to ask."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from itertools import combinations, product

import pytest

from quorumcache.core import amend
from quorumcache.core.carrying import Carried, carry, joins_anew, sources_of, stays_in
from quorumcache.core.config import Configuration
from quorumcache.core.node import NodeLimits
from quorumcache.core.outcome import Written
from quorumcache.core.rights import Limits
from tests.cluster import START_US, configuration_of, key_of, slot
from tests.fields import base_slot, cluster_of, put
from tests.making import Alone, passed_on
from tests.steps import finish

SECOND_US = 1_000_000
FIRST = configuration_of()


def activate(
    alone: Alone, after: Configuration, *, index: int = 0, limits: NodeLimits | None = None, oldest: bool = False
) -> tuple[Alone, Carried]:
    """The node in the next epoch, with what it carried."""
    before = alone.configuration
    chain = () if oldest else (before,)
    moved = Alone(after, index=index, limits=limits, chain=chain)
    moved.now_us = alone.now_us
    key = key_of("node 0").public
    return moved, carry(alone.node.slots, moved.node.slots, key, alone.now_us, moved.node.verifier.chain)


def test_entries_promises_and_floors_stay_where_the_node_stays() -> None:
    """0016, 3 and 9: members that stay keep their promises; a certificate of e is committed again as it is."""
    alone = Alone(FIRST)
    stored, open_ = alone.draft().put("a", b"1"), alone.draft().put("b", b"2", at_us=START_US + 5)
    alone.prepare(stored)
    alone.commit(stored)
    assert alone.grants(open_)
    alone.node.slots.raise_floor(alone.node.slots.shard(slot("b")), START_US + 100)
    after = amend.retire_writer(FIRST, "w1")
    moved, carried = activate(alone, after)
    assert carried == Carried(kept=1, gone=0, promises=1, joined=())
    assert moved.value("a") == b"1"
    assert (moved.promises("b"), moved.floor("b")) == (1, START_US + 100)
    assert not any(shard.recovering for shard in moved.node.slots.shards)
    # Below the floor, and its promise is what lets it in: as before. What a retired writer had certified stands.
    assert moved.codes(passed_on(open_.entry(), after)) == ["OK"]
    assert (moved.value("b"), moved.promises("b")) == (b"2", 0)


def test_a_revoked_writers_entries_and_promises_go_for_good() -> None:
    """0016, 4: a hoard that is released to a node that activated is REVOKED, and what it has gone over stays gone."""
    alone = Alone(FIRST)
    honest, bad = alone.draft("w2").put("a", b"1"), alone.draft("w1").put("a", b"2", at_us=START_US + 10)
    hoard = alone.draft("w1").put("b", b"3", at_us=START_US + 20)
    for draft in (honest, bad, hoard):
        assert alone.grants(draft)
    for draft in (honest, bad):
        assert alone.commit(draft) == ["OK"]
    after = amend.revoke_writer(FIRST, "w1")
    moved, carried = activate(alone, after)
    assert carried == Carried(kept=0, gone=1, promises=0, joined=())
    assert (moved.value("a"), moved.value("b"), moved.promises("b")) == (None, None, 0)
    assert (moved.floor("a"), moved.floor("b")) == (START_US + 10, START_US + 20)
    assert [moved.codes(passed_on(x.entry(), after)) for x in (bad, hoard)] == [["REVOKED"], ["REVOKED"]]
    assert moved.codes(passed_on(honest.entry(), after)) == ["EVICTED"], "what it had overwritten does not come back"


def test_what_no_longer_counts_is_evicted() -> None:
    """Protocol 9: entries certified before the oldest epoch that counts are evicted."""
    alone = Alone(FIRST)
    draft = alone.draft().put("a", b"1")
    alone.prepare(draft)
    alone.commit(draft)
    moved, carried = activate(alone, amend.successor_of(FIRST, oldest_epoch=2), oldest=True)
    assert (carried.kept, carried.gone) == (0, 1)
    assert (moved.value("a"), moved.floor("a")) == (None, START_US)


def test_a_key_goes_whole_where_a_field_of_it_does() -> None:
    """A removal that is dropped would bring back what it removed: the key goes, as it would by eviction."""
    cluster = cluster_of()
    clients = {writer: cluster.client(writer) for writer in ("w1", "w2")}
    for writer, key in (("w1", "both"), ("w2", "both"), ("w2", "own")):
        client = clients[writer]
        assert isinstance(finish(client, put(client, "set", writer.encode(), key=key)), Written)
    after = amend.revoke_writer(cluster.configuration, "w1")
    old = cluster.nodes[0].slots
    assert len(old.keys) == 2
    newest_us = old.newest_us(base_slot("set", "both"))
    digest = old.keys[base_slot("set", "own")].digest()
    old.keys[base_slot("set", "own")].raise_barrier(START_US + 7)
    moved = Alone(after, chain=[cluster.configuration])
    new = moved.node.slots
    carried = carry(old, new, key_of("node 0").public, cluster.now_us, moved.node.verifier.chain)
    assert (carried.kept, carried.gone) == (2, 3)
    assert list(new.keys) == [base_slot("set", "own")]
    assert new.keys[base_slot("set", "own")].digest() == digest
    assert new.keys[base_slot("set", "own")].barrier_us == START_US + 7
    assert new.shard(base_slot("set", "both")).floor_us == newest_us


def test_a_shard_that_is_joined_begins_above_all_that_was_granted() -> None:
    """0016, 2: a node that replaces another, or whose shards are others, knows nothing of what was granted there."""
    before = configuration_of(nodes=5, shards=64)
    alone = Alone(before)
    after = amend.remove_node(before, "n1")
    key = key_of("node 0").public
    joined = tuple(
        s for s in range(64) if 0 in after.shard_groups[s].members and 0 not in before.shard_groups[s].members
    )
    assert joined, "the node takes over some of the other's shards"
    moved, carried = activate(alone, after)
    assert carried.joined == joined
    for shard in moved.node.slots.shards:
        is_joined = shard.number in joined
        assert shard.recovering == is_joined
        assert shard.floor_us == (START_US + 2 * after.max_skew_us if is_joined else 0)
        assert stays_in(after, before, shard.number, key) == (not is_joined)
        sources = sources_of(before, shard.number, key)
        assert len(sources) >= before.q
        if is_joined:
            assert len(sources) == before.n
    assert any(key_of("node 1").public in sources_of(before, s, key) for s in joined), "who leaves is asked too"


@pytest.mark.parametrize(
    ("changes", "anew"), [({"shards": 16}, True), ({"f": 0}, True), ({"grace_us": 1}, False), ({"f": 1}, False)]
)
def test_all_members_join_anew_where_f_falls_or_shards_are_others(changes: dict[str, int], anew: bool) -> None:
    """Protocol 9: where f falls, all members join anew; and where shards are others, so are all floors."""
    alone = Alone(FIRST)
    draft = alone.draft().put("a", b"1")
    alone.prepare(draft)
    alone.commit(draft)
    after = amend.successor_of(FIRST, **changes)
    assert joins_anew(after, FIRST) == anew
    moved, carried = activate(alone, after)
    assert (carried.kept, carried.gone) == ((0, 1) if anew else (1, 0))
    assert moved.floor("a") == (START_US + 2 * SECOND_US if anew and 0 in _members(after) else 0)


def _members(after: Configuration) -> tuple[int, ...]:
    return after.group_of(slot("a")).members


def test_a_smaller_node_drops_what_it_has_no_room_for() -> None:
    """Every bound holds in the next epoch too; what goes raises its floor."""
    alone = Alone(FIRST)
    for i in range(20):
        draft = alone.draft().put(f"k{i}", bytes(10_000), at_us=START_US + i)
        alone.prepare(draft)
        alone.commit(draft)
    moved, carried = activate(alone, amend.retire_writer(FIRST, "w2"), limits=NodeLimits(bytes_max=100_000))
    memory = moved.node.slots.memory
    assert 0 < carried.kept < 20
    assert carried.kept + carried.gone == 20
    assert memory.bytes_used <= memory.bytes_max
    for i in range(20):
        assert moved.value(f"k{i}") is not None or moved.floor(f"k{i}") >= START_US + i


def test_no_proof_spans_two_epochs() -> None:
    """A promise of e names an intent of e: beside a header of e+1 it would make a proof that nobody can verify."""
    alone = Alone(FIRST)
    assert alone.grants(alone.draft().put("a", b"1"))
    moved, _ = activate(alone, amend.retire_writer(FIRST, "w2"))
    refusal = moved.refusal(moved.draft().put("a", b"2"))
    assert refusal.detail == "another header is open under this very stamp"
    assert moved.node.evidence == []
    assert moved.grants(moved.draft().put("a", b"1")), "the same header is promised still"


# --- why one that joins asks those who have recovered: every case of one small group ---


def _stale_reads(stay_count: int, asked_of_old: bool) -> int:
    """Of a group of f = 1, nodes 0 to 3, `stay_count` stay, and others join. A value is complete in e, acknowledged by
    q of them; one lies. Each that joins asks q of the old group, or of the new one whoever else has just joined it;
    then anyone reads from q of the new group. In how many cases can all of those answer with the value before."""
    old, q = range(4), 3
    stale = 0
    for acknowledged, liar, stay in product(combinations(old, q), old, combinations(old, stay_count)):
        holders = set(acknowledged) - {liar}
        joiners = set(range(4, 8 - stay_count))
        for asked in combinations(old, q) if asked_of_old else [stay]:
            after = holders.intersection(stay) | (joiners if holders.intersection(asked) else set())
            stale += len(joiners.union(stay) - after) >= q
    return stale


def test_reports_of_nodes_that_recover_themselves_do_not_count() -> None:
    """0016, 2, made exact. At most f correct nodes of a group that are not recovering lack a complete write: so any q
    of those name it. Where two of f = 1's four change there are no q of those in the new group; and where one that has
    just joined counts among q, a liar and a node that the write never reached are all that is asked."""
    assert _stale_reads(3, asked_of_old=True) == _stale_reads(2, asked_of_old=True) == 0
    assert _stale_reads(3, asked_of_old=False) == 0, "one at a time, all others of the new group will do"
    assert _stale_reads(2, asked_of_old=False) > 0


# --- what is handed over is counted as it was ---


@pytest.mark.parametrize("quota_bytes", [0, 65_536, 1 << 20])
@pytest.mark.parametrize("was_bytes", [0, 1 << 20])
@pytest.mark.parametrize("on_disk", [False, True])
def test_memory_and_limits_are_counted_on(quota_bytes: int, was_bytes: int, on_disk: bool) -> None:
    """Every bound holds in the next epoch too, whatever quotas it has: what is there costs what it would cost anew, and
    when all of it has gone, nothing is left."""
    spaces = tuple(replace(space, quota_bytes=was_bytes) for space in FIRST.namespaces)
    limits = Limits(keys_max=9, writes_per_s=1)
    limited = tuple(replace(w, limits=limits) if w.name == "w1" else w for w in FIRST.writers)
    before = replace(FIRST, namespaces=spaces, writers=limited)
    alone = Alone(before)
    if on_disk:
        alone.node.leave_values_to_storage(kept_bytes_max=16)
    for i in range(12):
        draft = alone.draft("w2").put(f"k{i}", bytes(20_000), at_us=START_US + i).put(f"m{i}", at_us=START_US + i)
        if before.group_of(slot(f"k{i}")) is before.group_of(slot(f"m{i}")):
            alone.prepare(draft)
            if i % 3:
                alone.commit(draft)
    own = alone.draft("w1").put("own", b"1", at_us=START_US + 50)
    assert alone.grants(own)
    alone.commit(own)
    spaces = tuple(replace(space, quota_bytes=quota_bytes) for space in FIRST.namespaces)
    after = amend.successor_of(before, namespaces=spaces)
    moved = Alone(after, chain=(before,))
    if on_disk:
        moved.node.leave_values_to_storage(kept_bytes_max=16)
    old, new = alone.node.slots, moved.node.slots
    carried = carry(old, new, key_of("node 0").public, START_US, moved.node.verifier.chain)
    assert carried.kept + carried.gone > 6
    assert (carried.gone > 0) == (quota_bytes == 65_536)
    anew = Alone(after, chain=(before,)).node
    if on_disk:
        anew.leave_values_to_storage(kept_bytes_max=16)
    copies = deepcopy(new.current)
    for held in copies.values():
        held.batch.held_count = 0
    for place, held in copies.items():
        anew.slots.put_back(place, held)
    assert new.memory.bytes_used == anew.slots.memory.bytes_used
    assert [p.bytes_used for p in new.memory.pools] == [p.bytes_used for p in anew.slots.memory.pools]
    if new.values is not None and anew.slots.values is not None:
        assert new.values.stored_bytes == anew.slots.values.stored_bytes
        assert new.values.hot_count == anew.slots.values.hot_count > 0
    assert new.allowances is not None
    assert "1 writes a second" in moved.refusal(moved.draft("w1").put("more", at_us=START_US + 60)).detail
    for place in list(new.current):
        new.drop(place)
    for promise in list(new.promises):
        new.drop_promise(promise)
    assert not any([new.memory.bytes_used, new.memory.promises_bytes, *(p.bytes_used for p in new.memory.pools)])
    assert new.values is None or (new.values.stored_bytes, new.values.hot_count) == (0, 0)
