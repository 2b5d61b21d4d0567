"""Protocol 3: what a node grants, and stores, in one glance is what its rules do header by header, and it has promised
and stored the same either way."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quorumcache.core import admission, together
from quorumcache.core import messages as m
from quorumcache.core.config_model import NamespaceInfo
from quorumcache.core.memory import PROMISE_BYTES_MAX
from quorumcache.core.model import DELETE, PUT, slot_of
from quorumcache.core.node import NodeLimits
from quorumcache.core.rights import WRITE, RightInfo
from tests.cluster import START_US, configuration_of
from tests.making import Alone, Draft

S = 1_000_000
Commits = tuple[list[int], bool] | None
Step = tuple[str, list[dict[str, Any]], Commits, int]
CONFIGURATION = configuration_of(
    namespaces=(
        NamespaceInfo("test"),
        NamespaceInfo("small", value_bytes_max=4),
        NamespaceInfo("short", ttl_s_max=10),
        NamespaceInfo("others", writers=("w2",)),
        NamespaceInfo("puts", writers=()),
        NamespaceInfo("led", mode="primary"),
        NamespaceInfo("map", "map"),
    ),
    writers=("w1", "w2"),
    rights=(RightInfo(("w1",), "puts", (WRITE,), ""),),
)
#: The first has room for every batch; the others have none for the largest of entries, or run out on the way.
LIMITS = (
    NodeLimits(),
    NodeLimits(bytes_max=2500),
    NodeLimits(promises_max=5),
    NodeLimits(promises_bytes_max=PROMISE_BYTES_MAX + 3000),
    NodeLimits(bytes_max=(1 << 20) + 15_000),
)

headers = st.fixed_dictionaries(
    {
        "namespace": st.sampled_from(b"test test small short others puts led map nowhere".split()),
        "key": st.sampled_from([b"a", b"b", b"c" * 9, b"\0\0", b"d\0\0"]),
        "field": st.sampled_from([b"", b"", b"", b"f", b"\0\0"]),
        "value": st.sampled_from([b"", b"1234", b"12345", bytes(2000)]),
        "kind": st.sampled_from([PUT, PUT, PUT, DELETE]),
        "metadata": st.sampled_from([b"", b"", b"", bytes(48)]),
        "expires_at_us": st.sampled_from([0, START_US + S, START_US + 100 * S]),
        "at_us": st.integers(-4, 2).map(lambda s: START_US + s * S),
    }
)
#: Which items of a batch are committed, in which order: all in theirs, some, some twice; whether a value among them is
#: another than its header names; or none.
commits = st.one_of(
    st.just(None),
    st.just(([], False)),
    st.tuples(st.lists(st.integers(0, 7), min_size=1, max_size=9), st.booleans()),
)
batches = st.lists(
    st.tuples(
        st.sampled_from(["w1", "w2", "w3"]),
        st.lists(headers, min_size=1, max_size=8),
        commits,
        st.sampled_from([0, 0, 3, 8]).map(lambda s: s * S),  # Then entries and promises are old enough to go.
    ),
    min_size=1,
    max_size=5,
)


def drafts_of(steps: list[Step]) -> list[tuple[Draft, Commits, int]]:
    found = []
    now_us = START_US
    for number, (writer, wanted, commits, later_us) in enumerate(steps):
        now_us += later_us
        by_slot: dict[bytes, dict[str, Any]] = {}
        for header in wanted:
            slot = slot_of(header["namespace"], header["key"], header["field"])
            by_slot.setdefault(slot, header)
        draft = Draft(CONFIGURATION, writer, nonce=number)
        for slot, header in by_slot.items():
            what = {k: v for k, v in header.items() if k in ("value", "kind", "metadata", "expires_at_us", "at_us")}
            what["at_us"] += now_us - START_US
            if what["kind"] == DELETE:
                what |= {"value": b"", "expires_at_us": 0}
            draft.put(slot_bytes=slot, **what)
        found.append((draft, commits, now_us))
    return found


def commit_of(draft: Draft, commits: tuple[list[int], bool]) -> m.Commit:
    """The batch's commit, with the items wanted."""
    commit = draft.commit()
    wanted, spoils = commits
    items = commit.bundles[0].items
    if wanted:
        items = [items[i % len(items)] for i in wanted]
    if spoils:
        items[len(items) // 2] = m.Item(
            items[len(items) // 2].position, items[len(items) // 2].header, bytes(16) + b"x"
        )
    commit.bundles[0].items = items
    return commit


def state_of(alone: Alone) -> list[Any]:
    """All that follows from what was stored: entries in their order, sums, floors, what watches are told, what is to be
    reaped, and what would be evicted next."""
    slots = alone.node.slots
    return [
        [(slot, held.digest, held.salted, held.batch.held_count) for slot, held in slots.current.items()],
        [(shard.floor_us, shard.sum, list(shard.slots)) for shard in slots.shards],
        slots.feed.since(slots.feed.tail),
        (slots.feed.head, slots.evicted_count, slots.floor_max_us),
        sorted(slots._reap),
        [(place.key, place.uses, place.cost) for place in slots.memory.places.values()],
        {slot: [p.header.digest for p in here] for slot, here in slots.open.items()},
    ]


@settings(max_examples=150, deadline=None)
@given(batches, st.sampled_from(LIMITS))
def test_one_glance_grants_what_the_rules_grant(steps: list[Step], limits: NodeLimits) -> None:
    quick, careful = Alone(CONFIGURATION, limits=limits), Alone(CONFIGURATION, limits=limits)
    for draft, commits, now_us in drafts_of(steps):
        for shard in quick.node.slots.shards + careful.node.slots.shards:
            shard.sum = b"a sum of what was there"
        replies = [quick.node.handle(draft.prepare(), now_us)]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(admission, "has_room_for_all", lambda *_: False)
            patch.setattr(admission, "plain_size_max", lambda *_: -1)
            replies.append(careful.node.handle(draft.prepare(), now_us))
        assert replies[0] == replies[1]
        if commits is not None:
            replies = [quick.node.handle(commit_of(draft, commits), now_us)]
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(together, "may_store_all", lambda *_: False)
                replies.append(careful.node.handle(commit_of(draft, commits), now_us))
            assert replies[0] == replies[1]
        for a, b in zip(quick.node.slots.promises, careful.node.slots.promises, strict=True):
            assert a.header == b.header
        assert quick.node.slots.memory.bytes_used == careful.node.slots.memory.bytes_used
        assert quick.node.slots.memory.promises_bytes == careful.node.slots.memory.promises_bytes
        assert state_of(quick) == state_of(careful)


def test_most_of_a_batch_that_is_granted_takes_one_glance() -> None:
    """The test above compares something: the usual batch asks for no header's rules."""
    node = Alone(CONFIGURATION)
    draft = node.draft()
    for i in range(100):
        draft.put(f"key {i}", b"value")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(admission, "lets_in", lambda *_: pytest.fail("a header was looked at by itself"))
        assert node.prepare(draft).bitmap == b"\xff" * 12 + b"\x0f"


def test_most_of_a_batch_that_is_stored_takes_one_glance() -> None:
    """As above, of the commit."""
    node = Alone(CONFIGURATION)
    for nonce in range(2):
        draft = node.draft(nonce=nonce)
        for i in range(100):
            draft.put(f"key {i}", b"value", at_us=START_US + nonce)
        node.prepare(draft)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(node.node, "store", lambda *_: pytest.fail("an entry was looked at by itself"))
            assert node.commit(draft) == ["OK"] * 100


def test_a_header_for_which_room_is_made_is_not_granted_below_the_floor_that_this_raised() -> None:
    """Prepare rule 4 after rule 7, in the glance too."""
    configuration = configuration_of(shards=1)
    node = Alone(configuration, limits=NodeLimits(bytes_max=2500))
    old = Draft(configuration).put("old", at_us=START_US + S)
    assert node.grants(old)
    assert node.commit(old) == ["OK"]
    node.now_us = START_US + 10 * S
    late = Draft(configuration, nonce=1).put("new", at_us=START_US + S - 1)
    assert node.node.slots.floor_max_us < START_US
    refusal = node.refusal(late)
    assert node.node.slots.evicted_count == 1, "there was room: this test shows nothing"
    assert (refusal.code, refusal.time_us) == (m.BELOW_FLOOR, START_US + S)
