"""Seeded protocol bugs, each switched on from outside: `with applied("no-salt"): ...`.

They show what the simulator can see: each has to be caught. By where they sit: nodes.py, clients.py, listings.py,
recovery.py, upkeep.py, primary.py; those of keys with fields in keys.py, of compare-and-set in exact.py, of what is
signed together in proofs.py, of epochs in epochs.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from sim.mutants import clients, epochs, exact, keys, listings, nodes, primary, proofs, recovery, upkeep
from sim.mutants.base import Mutant, Patches
from sim.settings import BadSetting

MUTANTS: Final[dict[str, Mutant]] = {
    **nodes.catalogue.mutants,
    **recovery.catalogue.mutants,
    **upkeep.catalogue.mutants,
    **clients.catalogue.mutants,
    **listings.catalogue.mutants,
    **keys.catalogue.mutants,
    **exact.catalogue.mutants,
    **proofs.catalogue.mutants,
    **primary.catalogue.mutants,
    **epochs.catalogue.mutants,
}


@contextmanager
def applied(name: str | None) -> Iterator[None]:
    """The core with this bug in it, until the block ends. None: the core as it is."""
    if name is None:
        yield
        return
    mutant = MUTANTS.get(name)
    if mutant is None:
        raise BadSetting(f"there is no mutant {name[:80]!r}; there are {', '.join(MUTANTS)}")
    patches = Patches()
    try:
        mutant.patch(patches)
        yield
    finally:
        patches.undo()


__all__ = ["MUTANTS", "Mutant", "applied"]
