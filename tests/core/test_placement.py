"""Placement (protocol 9): weighted rendezvous hashing and zones, against a dumb twin in exact integers."""

from collections import Counter
from functools import cmp_to_key
from hashlib import blake2b
from itertools import islice
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quorumcache.core import placement
from quorumcache.core.placement import compare_exactly, groups_for, orders


def key(number: int) -> bytes:
    return blake2b(b"node %d" % number, digest_size=32).digest()


def draw(node: bytes, shard: int) -> int:
    """As the module's docstring says it, word for word and without any speed."""
    text = blake2b(b"quorumcache placement 1\0" + (shard // 8).to_bytes(4, "big") + node).digest()
    at = 8 * (shard % 8)
    return max(1, int.from_bytes(text[at : at + 8], "big") >> 11)


def twin_order(nodes: list[tuple[bytes, int]], shard: int) -> list[int]:
    known = [(draw(node, shard), weight, node) for node, weight in nodes]
    return sorted(range(len(nodes)), key=cmp_to_key(lambda a, b: compare_exactly(known[a], known[b])))


def twin_group(order: list[int], zones: list[str], n: int) -> list[int]:
    """Level by level: the best of each zone not yet taken, then the next."""
    taken: list[int] = []
    level = 0
    while len(taken) < n:
        level += 1
        for node in order:
            in_zone = sum(zones[other] == zones[node] for other in taken)
            if len(taken) < n and node not in taken and in_zone < level:
                taken.append(node)
    return [node for node in order if node in taken]


@st.composite
def clusters(draw: st.DrawFn) -> tuple[list[bytes], list[int], list[str], int]:
    f = draw(st.integers(0, 3))
    n = 3 * f + 1
    size = draw(st.integers(n, n + 8))
    numbers = draw(st.lists(st.integers(0, 10**6), min_size=size, max_size=size, unique=True))
    weights = draw(st.lists(st.sampled_from([1, 1, 2, 3, 997, 1000]), min_size=size, max_size=size))
    zones = draw(st.lists(st.sampled_from("abcde"), min_size=size, max_size=size))
    return [key(number) for number in numbers], weights, zones, n


@given(clusters())
def test_order_and_groups_are_those_of_the_dumb_twin(
    case: tuple[list[bytes], list[int], list[str], int],
) -> None:
    keys, weights, zones, n = case
    groups = groups_for(keys, weights, zones, shards=11, n=n)
    assert len(groups) == 11
    for shard, order in enumerate(orders(keys, weights, 11)):
        assert order == twin_order(list(zip(keys, weights, strict=True)), shard)
        assert list(groups[shard]) == twin_group(order, zones, n)


@given(clusters())
def test_members_are_distinct_and_zones_share_evenly(
    case: tuple[list[bytes], list[int], list[str], int],
) -> None:
    keys, weights, zones, n = case
    sizes = Counter(zones)
    for members in groups_for(keys, weights, zones, shards=9, n=n):
        assert len(set(members)) == len(members) == n
        held = Counter(zones[node] for node in members)
        for zone in sizes:
            # A zone has two members more than another only where the other has no more nodes to give.
            for other in sizes:
                assert held[zone] <= held[other] + 1 or held[other] == sizes[other]


@given(clusters(), st.randoms(use_true_random=False))
def test_listing_order_does_not_matter(case: tuple[list[bytes], list[int], list[str], int], random: Random) -> None:
    keys, weights, zones, n = case
    mixed = list(range(len(keys)))
    random.shuffle(mixed)
    first = groups_for(keys, weights, zones, shards=9, n=n)
    second = groups_for([keys[i] for i in mixed], [weights[i] for i in mixed], [zones[i] for i in mixed], shards=9, n=n)
    assert [[keys[i] for i in group] for group in first] == [[keys[mixed[i]] for i in group] for group in second]


@given(st.integers(0, 10**6), st.integers(1, 1000), st.integers(4, 12))
def test_a_new_node_takes_at_most_one_place_per_group(number: int, weight: int, size: int) -> None:
    keys = [key(-i - 1) for i in range(size)] + [key(number)]
    weights = [1 + i % 3 for i in range(size)] + [weight]
    before = groups_for(keys[:-1], weights[:-1], [""] * size, shards=64, n=4)
    after = groups_for(keys, weights, [""] * (size + 1), shards=64, n=4)
    for old, new in zip(before, after, strict=True):
        kept = [node for node in new if node != size]
        assert kept == list(old[: len(kept)]), "those who stay keep their order, and only the last may go"
        assert len(kept) >= 3


def test_floats_decide_nothing_that_integers_decide_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = [key(i) for i in range(12)]
    weights = [1 + i % 5 for i in range(12)]
    by_float = list(orders(keys, weights, 200))
    monkeypatch.setattr(placement, "_CLOSE", 10.0)  # no difference is large enough: integers decide everything
    assert list(orders(keys, weights, 200)) == by_float


def test_equal_scores_are_settled_by_key() -> None:
    # u = 1/4 at weight 2 scores exactly as u = 1/2 at weight 1.
    quarter, half = 1 << 51, 1 << 52
    assert compare_exactly((quarter, 2, b"b"), (half, 1, b"a")) > 0
    assert compare_exactly((quarter, 2, b"a"), (half, 1, b"b")) < 0
    assert compare_exactly((quarter + 1, 2, b"b"), (half, 1, b"a")) < 0
    assert placement._by_score([quarter, half, quarter + 1], [2, 1, 2], [b"b", b"a", b"c"]) == [2, 1, 0]
    assert placement._by_draw([half, quarter, half], [b"c", b"b", b"a"]) == [2, 0, 1]


def test_weights_are_shares() -> None:
    keys = [key(i) for i in range(8)]
    weights = [1, 1, 1, 1, 3, 3, 3, 3]
    firsts = Counter(group[0] for group in groups_for(keys, weights, [""] * 8, shards=8000, n=1))
    light, heavy = sum(firsts[i] for i in range(4)), sum(firsts[i] for i in range(4, 8))
    # Binomial(8000, 3/4): the bounds are more than six standard deviations away, and the keys are fixed.
    assert 5750 < heavy < 6250
    assert light + heavy == 8000


def test_vector_for_other_implementations() -> None:
    keys = [bytes([i]) * 32 for i in range(1, 8)]
    groups = groups_for(keys, [1, 2, 3, 1, 2, 3, 1], ["a", "a", "b", "b", "c", "c", "c"], shards=10, n=4)
    assert groups == VECTOR
    assert list(islice(orders(keys, [5] * 7, 10), 2)) == VECTOR_EQUAL


VECTOR = [
    (1, 2, 4, 0),
    (5, 2, 3, 1),
    (2, 5, 1, 6),
    (1, 4, 5, 2),
    (1, 2, 3, 5),
    (3, 0, 2, 6),
    (0, 4, 1, 2),
    (0, 2, 1, 5),
    (3, 5, 4, 1),
    (2, 5, 1, 4),
]
VECTOR_EQUAL = [[1, 0, 4, 2, 3, 5, 6], [5, 3, 2, 1, 0, 6, 4]]
