"""What a mutant is: a seeded bug, put into the core from outside and taken out again. The shipped code knows none."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

_MISSING: Final = object()


class Patches:
    """Attributes replaced for a while."""

    def __init__(self) -> None:
        self._undo: list[tuple[Any, str, Any]] = []

    def set(self, owner: Any, name: str, value: Any) -> None:
        """Replace an attribute of a class or module that has it."""
        before = vars(owner).get(name, _MISSING)
        if before is _MISSING:
            raise AttributeError(f"{owner!r} has no {name}: the mutant no longer fits the core")
        self._undo.append((owner, name, before))
        setattr(owner, name, value)

    def wrap(self, owner: Any, name: str, make: Callable[[Any], Any]) -> None:
        """Replace a function by what `make` makes of it."""
        self.set(owner, name, make(vars(owner).get(name, _MISSING)))

    def undo(self) -> None:
        """Put everything back."""
        while self._undo:
            owner, name, before = self._undo.pop()
            setattr(owner, name, before)


@dataclass(frozen=True)
class Mutant:
    """A bug: the rule it breaks, how it is put in, and the settings that aim seeds at it (none: any seed may do).

    `aim` has settings of `SimConfig`, or a `scenario` that has them, with a drama perhaps; `features_add` and
    `features_drop` change what the seed draws. `fast` mutants are part of `make test`.
    """

    name: str
    rule: str
    patch: Callable[[Patches], None]
    aim: Mapping[str, Any] = field(default_factory=dict)
    fast: bool = False


class Catalogue:
    """Mutants by name, in the order of their definition."""

    def __init__(self) -> None:
        self.mutants: dict[str, Mutant] = {}

    def add(
        self, rule: str, *, fast: bool = False, **aim: Any
    ) -> Callable[[Callable[[Patches], None]], Callable[[Patches], None]]:
        """Enter the decorated function as a mutant under its own name."""

        def enter(patch: Callable[[Patches], None]) -> Callable[[Patches], None]:
            name = patch.__name__.strip("_").replace("_", "-")
            self.mutants[name] = Mutant(name, rule, patch, aim, fast)
            return patch

        return enter
