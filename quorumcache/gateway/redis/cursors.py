"""Where listings go on: SCAN's cursors are numbers, a listing's are strings.

The newest are kept, for all clients of the gateway: a cursor may be used on another connection of a pool. It must not
know what they lead to.
"""

from __future__ import annotations

import secrets
from collections import OrderedDict
from typing import Final, TypeVar

from quorumcache.gateway.redis.faults import Fault

CURSORS_MAX: Final = 16_384

T = TypeVar("T")


class Cursors:
    """Numbers for places."""

    def __init__(self) -> None:
        self._places: OrderedDict[int, object] = OrderedDict()

    def keep(self, place: object) -> int:
        """A number for a place, never 0 and of at most 53 bits, which all languages can hold."""
        number = secrets.randbelow((1 << 53) - 1) + 1
        self._places[number] = place
        if len(self._places) > CURSORS_MAX:
            self._places.popitem(last=False)
        return number

    def find(self, word: bytes, kind: type[T]) -> T | None:
        """The place; None for 0, the beginning. It may be asked for again. Raises Fault for another number."""
        if not word.isdigit() or len(word) > 20:
            raise Fault("ERR invalid cursor")
        number = int(word)
        if not number:
            return None
        place = self._places.get(number)
        if not isinstance(place, kind):
            raise Fault(
                "ERR invalid cursor: the gateway that gave it has been started anew, or has given out "
                f"{CURSORS_MAX} since. Begin again with 0"
            )
        return place
