"""Paths of a batch: asking for all of them hashes its tree once, so that a recovering peer cannot stall a node."""

import random
from typing import Any

import pytest

from quorumcache.core import merkle


def counted(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """Grows by one with every hash from now on."""
    hashed: list[None] = []
    real = merkle.blake2b

    def counting(*args: Any, **kwargs: Any) -> Any:
        hashed.append(None)
        return real(*args, **kwargs)

    monkeypatch.setattr(merkle, "blake2b", counting)
    return hashed


def test_all_paths_of_a_batch_cost_one_tree(monkeypatch: pytest.MonkeyPatch) -> None:
    leaves = random.Random(7).randbytes(32 * 1024)
    hashed = counted(monkeypatch)
    paths = [merkle.path_of(leaves, position) for position in range(1024)]
    assert len(hashed) == 1023
    monkeypatch.undo()
    root = merkle.root_of(leaves)
    for position, path in enumerate(paths):
        leaf = leaves[32 * position : 32 * position + 32]
        assert merkle.root_from_path(leaf, position, 1024, path) == root


def test_one_path_of_each_of_many_batches_costs_no_tree(monkeypatch: pytest.MonkeyPatch) -> None:
    """A shard's report names entries of any number of batches, one of each: a million entries were a million trees."""
    leaves = random.Random(8).randbytes(32 * 1024)
    upper = merkle.upper_of(leaves)
    hashed = counted(monkeypatch)
    for position in range(1024):
        merkle.path_in(leaves, upper, position)
    assert len(hashed) == 6 * 1024
