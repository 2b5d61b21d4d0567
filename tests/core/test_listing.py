"""Protocol 4, scan: which keys one node lists, in which order, and where it stops."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quorumcache.core import listing
from quorumcache.core import messages as m
from quorumcache.core.config import NamespaceInfo
from quorumcache.core.model import DELETE, slot_of
from quorumcache.core.node import Node
from tests.cluster import START_US, configuration_of
from tests.making import SECOND_US, Alone

TWO = configuration_of(namespaces=(NamespaceInfo("test"), NamespaceInfo("tes")))


def filled(*keys: bytes, alone: Alone | None = None) -> Alone:
    alone = alone or Alone()
    draft = alone.draft()
    for key in keys:
        draft.put(slot_bytes=slot_of(b"test", key))
    assert set(alone.commit(draft)) <= {"OK"}
    return alone


def asked(
    alone: Alone, prefix: bytes = b"", start: m.Position | None = None, count: int = 1024, namespace: bytes = b"test"
) -> m.ScanReply:
    configuration = alone.configuration
    group = configuration.shard_groups[0].id
    request = m.Scan(7, configuration.digest, group, namespace, prefix, start or m.Position(0), count)
    reply = alone.node.handle(request, alone.now_us)
    assert isinstance(reply, m.ScanReply), reply
    assert len(reply.digests) == 32 * len(reply.keys)
    return reply


def walked(alone: Alone, prefix: bytes, count: int) -> list[bytes]:
    """All keys, part by part, as the node says where to go on."""
    keys: list[bytes] = []
    start: m.Position | None = m.Position(0)
    for _ in range(10_000):
        reply = asked(alone, prefix, start, count)
        assert len(reply.keys) <= count
        keys += reply.keys
        start = reply.stop
        if start is None:
            return keys
    raise AssertionError("the listing never ends")


def in_order(node: Node, keys: list[bytes]) -> list[bytes]:
    return sorted(keys, key=lambda k: (node.configuration.shard_of(slot_of(b"test", k)), slot_of(b"test", k)))


def test_it_lists_live_keys_of_the_namespace_and_prefix_with_the_digests_that_a_read_reports() -> None:
    alone = Alone(TWO)
    filled(b"a", b"ab", b"abc", b"b", b"\xff\x00", alone=alone)
    draft = alone.draft(nonce=1).put("deleted", b"", kind=DELETE, at_us=START_US)
    draft.put("expired", expires_at_us=START_US + SECOND_US).put("lasting", expires_at_us=START_US + 2 * SECOND_US)
    draft.put(slot_bytes=slot_of(b"tes", b"t\0\0"))
    alone.commit(draft)
    alone.now_us = START_US + SECOND_US
    everything = asked(alone)
    assert everything.keys == in_order(alone.node, [b"a", b"ab", b"abc", b"b", b"\xff\x00", b"lasting"])
    assert everything.stop is None
    read = alone.node.handle(m.Read(1, TWO.digest, [slot_of(b"test", key) for key in everything.keys]), alone.now_us)
    assert isinstance(read, m.ReadReply)
    assert read.digests == everything.digests
    assert asked(alone, b"ab").keys == in_order(alone.node, [b"ab", b"abc"])
    # A prefix ends with the key: the zeros after it in a slot are none of its bytes.
    assert asked(alone, b"a\0").keys == []
    assert asked(alone, namespace=b"tes").keys == [b"t\0\0"]
    assert asked(alone, namespace=b"other").keys == []


def test_what_is_current_counts_as_a_put_again() -> None:
    alone = filled(b"k")
    alone.commit(alone.draft(nonce=1).put("k", b"", kind=DELETE, at_us=START_US + 1))
    assert asked(alone).keys == []
    alone.commit(alone.draft(nonce=2).put("k", b"v", at_us=START_US + 2))
    assert asked(alone).keys == [b"k"]


def test_a_listing_is_no_use_of_a_key() -> None:
    """docs/eviction.md: who lists everything does not keep everything in memory."""
    alone = filled(b"k")
    place = alone.node.slots.memory.pools[0].policy.places[slot_of(b"test", b"k")]
    before = place.uses
    asked(alone)
    assert place.uses == before


def test_it_stops_within_a_shard_only_where_keys_or_bytes_are_full(monkeypatch: pytest.MonkeyPatch) -> None:
    one = Alone(configuration_of(shards=1))
    filled(*[b"key %02d" % i for i in range(10)], alone=one)
    reply = asked(one, count=4)
    assert (reply.keys, reply.stop) == ([b"key %02d" % i for i in range(4)], m.Position(0, b"key 03"))
    reply = asked(one, start=reply.stop, count=6)
    assert (len(reply.keys), reply.stop) == (6, m.Position(0, b"key 09"))
    assert asked(one, start=reply.stop) == m.ScanReply(7, one.now_us, [], b"", None)
    monkeypatch.setattr(m, "SCAN_BYTES_MAX", 13)
    reply = asked(one)
    assert (reply.keys, reply.stop) == ([b"key 00", b"key 01", b"key 02"], m.Position(0, b"key 02"))


def test_it_stops_at_the_end_of_a_shard_when_it_has_looked_at_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = filled(*[b"key %02d" % i for i in range(100)])
    monkeypatch.setattr(listing, "SLOTS_MAX", 20)
    reply = asked(alone, b"nothing begins so")
    assert reply.keys == []
    looked_at = 0
    for shard in alone.node.slots.shards:
        if looked_at >= 20:
            assert reply.stop == m.Position(shard.number)
            break
        looked_at += len(shard.slots)


def test_it_lists_the_shards_of_a_group_that_it_serves_and_no_others() -> None:
    wide = configuration_of(nodes=6, shards=32)
    alone = Alone(wide, index=2)
    for shard, group in enumerate(wide.shard_groups):
        request = m.Scan(1, wide.digest, group.id, b"test", b"", m.Position(shard), 10)
        reply = alone.node.handle(request, alone.now_us)
        assert isinstance(reply, m.ScanReply if 2 in group.members else m.Reject)
    assert isinstance(alone.rejected(m.Scan(1, wide.digest, bytes(16), b"test", b"", m.Position(0), 10)), m.Reject)


@settings(max_examples=60, deadline=None)
@given(
    st.sets(st.binary(min_size=1, max_size=3) | st.sampled_from([b"a" * n for n in range(1, 20)]), max_size=40),
    st.sampled_from([b"", b"a", b"aa", b"\0"]),
    st.integers(1, 7),
    st.integers(1, 30),
    st.sampled_from([1, 3, 8]),
)
def test_part_by_part_each_key_comes_once_in_order(
    keys: set[bytes], prefix: bytes, count: int, budget: int, shards: int
) -> None:
    """Whatever bounds a part, the parts together are the sorted keys."""
    alone = Alone(configuration_of(shards=shards))
    if keys:
        filled(*keys, alone=alone)
    before, listing.SLOTS_MAX = listing.SLOTS_MAX, budget  # type: ignore[misc]
    try:
        expected = in_order(alone.node, [key for key in keys if key.startswith(prefix)])
        assert walked(alone, prefix, count) == expected
    finally:
        listing.SLOTS_MAX = before  # type: ignore[misc]
