"""Merkle roots and paths (protocol 2, Batch) against a dumb recursive twin of RFC 6962, section 2.1."""

from hashlib import blake2b

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quorumcache.core import merkle


def h(data: bytes) -> bytes:
    return blake2b(data, digest_size=32).digest()


def tree(leaves: list[bytes]) -> bytes:
    """RFC 6962: the left subtree has the largest power of two of leaves that is smaller than their count."""
    if len(leaves) == 1:
        return leaves[0]
    k = 1
    while 2 * k < len(leaves):
        k *= 2
    return h(b"\1" + tree(leaves[:k]) + tree(leaves[k:]))


def path(m: int, leaves: list[bytes]) -> list[bytes]:
    if len(leaves) == 1:
        return []
    k = 1
    while 2 * k < len(leaves):
        k *= 2
    if m < k:
        return [*path(m, leaves[:k]), tree(leaves[k:])]
    return [*path(m - k, leaves[k:]), tree(leaves[:k])]


def root(leaves: list[bytes]) -> bytes:
    return h(b"\3" + len(leaves).to_bytes(4, "big") + tree(leaves))


def leaves_of(count: int) -> list[bytes]:
    return [h(b"leaf %d" % i) for i in range(count)]


@pytest.mark.parametrize("count", [*range(1, 35), 63, 64, 65, 127, 1000, 1023, 1024])
def test_root_and_paths_are_those_of_the_twin(count: int) -> None:
    """protocol 2: RFC 6962 shape, leaf and node domains apart, and the count in the root."""
    leaves = leaves_of(count)
    joined = b"".join(leaves)
    assert merkle.root_of(joined) == root(leaves)
    for position in {0, 1, count // 2, count - 2, count - 1} & set(range(count)):
        expected = b"".join(path(position, leaves))
        assert merkle.path_of(joined, position) == expected
        assert merkle.path_in(joined, merkle.upper_of(joined), position) == expected
        assert merkle.root_from_path(leaves[position], position, count, expected) == root(leaves)


@given(st.integers(1, 1024))
@settings(max_examples=60)
def test_paths_from_the_upper_part_are_the_same(count: int) -> None:
    joined = b"".join(leaves_of(count))
    upper = merkle.upper_of(joined)
    assert len(upper) == merkle.upper_bytes(count)
    for position in {0, count // 3, count // 2, count - 1}:
        assert merkle.path_in(joined, upper, position) == merkle.path_of(joined, position)


@given(st.integers(1, 70), st.data())
@settings(max_examples=150)
def test_a_path_leads_nowhere_else(count: int, data: st.DataObject) -> None:
    """protocol 2, checks of form: index < count, path of the right shape; no other place or count fits a path."""
    leaves = leaves_of(count)
    joined = b"".join(leaves)
    right = merkle.root_of(joined)
    position = data.draw(st.integers(0, count - 1))
    good = merkle.path_of(joined, position)
    other = data.draw(st.integers(-3, 80).filter(lambda p: p != position))
    assert merkle.root_from_path(leaves[position], other, count, good) != right
    wrong_count = data.draw(st.integers(0, 2000).filter(lambda c: c != count))
    assert merkle.root_from_path(leaves[position], position, wrong_count, good) != right
    for path_ in (good + bytes(32), good[:-32], good[:-1], good + b"x"):
        if path_ != good:
            assert merkle.root_from_path(leaves[position], position, count, path_) is None
    assert merkle.root_from_path(h(b"another"), position, count, good) != right


@given(st.integers(2, 40), st.data())
@settings(max_examples=50)
def test_any_change_of_leaves_changes_the_root(count: int, data: st.DataObject) -> None:
    """protocol 2: the root names the headers and their order."""
    leaves = leaves_of(count)
    shuffled = data.draw(st.permutations(leaves))
    assert (merkle.root_of(b"".join(shuffled)) == root(leaves)) == (shuffled == leaves)
    # A batch that ends with its last leaf twice is another batch (as it would not be where odd nodes are doubled).
    assert merkle.root_of(b"".join([*leaves, leaves[-1]])) != root(leaves)


def test_inner_nodes_are_no_leaves() -> None:
    """protocol 2: domains apart: the two children of a node cannot pass for a batch of one."""
    leaves = leaves_of(2)
    assert merkle.root_of(b"".join(leaves)) != merkle.root_of(tree(leaves))


@pytest.mark.parametrize("leaves", [b"", bytes(31), bytes(33)])
def test_leaves_are_whole(leaves: bytes) -> None:
    """Habit 5: misuse is an error of ours."""
    with pytest.raises(ValueError):
        merkle.root_of(leaves)


@pytest.mark.parametrize("position", [-1, 2])
def test_paths_of_leaves_that_exist(position: int) -> None:
    """Habit 5: misuse is an error of ours."""
    with pytest.raises(ValueError):
        merkle.path_of(bytes(64), position)
