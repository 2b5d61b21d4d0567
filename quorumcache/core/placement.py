"""Which nodes serve which shard: weighted rendezvous hashing, spread over zones.

Pure arithmetic over node keys, weights and zones; knows nothing of configurations, slots or the network.
Every party must come to the same answer, so the order is defined in integers and floats only speed it up.

**The order of a shard.** Shard s and node key K give an integer k: BLAKE2b-512 of
``b"quorumcache placement 1\\0" | u32 (s // 8) | K`` is eight big-endian 64-bit words; k is the upper 53 bits
of word s % 8, or 1 where they are zero. With u = k / 2^53 the node's score is -weight / ln(u) (Highest random
weight: Thaler & Ravishankar 1998; the weighted form: Schindelhauer & Schomaker, SPAA 2005). Highest score
first; where two scores are exactly equal, the lower key first. Node a is before node b if k_a^w_b * 2^(53
w_a) > k_b^w_a * 2^(53 w_b), which is the same statement in integers and settles what floats cannot.

**The group of a shard.** A node's rank is its position, by score, among the nodes of its own zone. The group
is the first n nodes by (rank, position in the shard's order): the best of every zone, then the second best of
every zone, and so on. So no zone gives more than ceil(n / zones) members unless other zones have no more
nodes, and with one zone the group is the first n by score. The members are listed in the shard's order.

A node's score depends on no other node. With one zone, adding a node can therefore only push out the last of
the group.
"""

import math
import struct
from collections.abc import Iterator, Sequence
from functools import cmp_to_key
from hashlib import blake2b
from itertools import pairwise

_TAG = b"quorumcache placement 1\0"
_WORDS = struct.Struct(">8Q")
_UNIT = 1 << 53
# Far above the error of any libm's logarithm (a few 2^-53), far below most distances between scores.
_CLOSE = 1e-12


def groups_for(
    keys: Sequence[bytes], weights: Sequence[int], zones: Sequence[str], *, shards: int, n: int
) -> list[tuple[int, ...]]:
    """The members of each shard's group: indices into `keys`, in the shard's order; one tuple per shard.

    One per node: `keys` (distinct 32-byte public keys), `weights` (positive integers), `zones` (names); n <=
    nodes.
    """
    assert len(keys) == len(weights) == len(zones)
    assert 0 < n <= len(keys)
    one_zone = len(set(zones)) == 1
    return [tuple(order[:n]) if one_zone else _spread(order, zones, n) for order in orders(keys, weights, shards)]


def orders(keys: Sequence[bytes], weights: Sequence[int], shards: int) -> Iterator[list[int]]:
    """Every shard's order of all nodes, as indices into `keys`, for shards 0, 1, ..., shards - 1."""
    common = math.gcd(*weights)
    light = [weight // common for weight in weights]
    equal = all(weight == 1 for weight in light)
    for block in range((shards + 7) // 8):
        prefix = _TAG + block.to_bytes(4, "big")
        words = [_WORDS.unpack(blake2b(prefix + key).digest()) for key in keys]
        for column in list(zip(*words, strict=True))[: shards - 8 * block]:
            draws = [word >> 11 or 1 for word in column]
            yield _by_draw(draws, keys) if equal else _by_score(draws, light, keys)


def _by_draw(draws: list[int], keys: Sequence[bytes]) -> list[int]:
    """With equal weights the higher draw has the higher score: no logarithm at all."""
    order = sorted(range(len(draws)), key=draws.__getitem__, reverse=True)
    if len(set(draws)) < len(draws):
        order.sort(key=lambda i: (-draws[i], keys[i]))
    return order


def _by_score(draws: list[int], weights: list[int], keys: Sequence[bytes]) -> list[int]:
    log = math.log
    scores = [-weight / log(draw / _UNIT) for weight, draw in zip(weights, draws, strict=True)]
    order = sorted(range(len(draws)), key=scores.__getitem__, reverse=True)
    ranked = [scores[i] for i in order]
    if any(a - b <= a * _CLOSE for a, b in pairwise(ranked)):

        def compare(a: int, b: int) -> int:
            if abs(scores[a] - scores[b]) > _CLOSE * max(scores[a], scores[b]):
                return -1 if scores[a] > scores[b] else 1
            return compare_exactly((draws[a], weights[a], keys[a]), (draws[b], weights[b], keys[b]))

        order.sort(key=cmp_to_key(compare))
    return order


def compare_exactly(a: tuple[int, int, bytes], b: tuple[int, int, bytes]) -> int:
    """Negative if node a comes before node b, each given as (draw, weight, key); zero only for itself."""
    (draw_a, weight_a, key_a), (draw_b, weight_b, key_b) = a, b
    left = draw_a**weight_b << 53 * weight_a
    right = draw_b**weight_a << 53 * weight_b
    if left != right:
        return -1 if left > right else 1
    return (key_a > key_b) - (key_a < key_b)


def _spread(order: list[int], zones: Sequence[str], n: int) -> tuple[int, ...]:
    taken: dict[str, int] = {}
    ranked = []
    for position, node in enumerate(order):
        rank = taken.get(zones[node], 0)
        taken[zones[node]] = rank + 1
        ranked.append((rank, position))
    ranked.sort()
    return tuple(order[position] for position in sorted(position for _, position in ranked[:n]))
