"""What writers with limits have used of them, at one node: held and promised bytes, keys and fields, and their rate.

Counts and compares; which limits there are is in rights.py, and what a refusal means in node.py. Must not know messages
or signatures.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from quorumcache.core.config import Configuration
from quorumcache.core.model import DELETE, SALT_BYTES, Header, header_salted_bytes, header_writer, slot_parts
from quorumcache.core.rights import ADMIN, Limits

if TYPE_CHECKING:
    from quorumcache.core.slots import Held

_S: Final = 1_000_000


class _Used:
    """One writer's use: [bytes, keys, fields] of its current entries and of its open promises. `rate_free_us`: when its
    rate will be all unused again."""

    __slots__ = ("held", "limits", "name", "open", "rate_free_us")

    def __init__(self, name: str, limits: Limits) -> None:
        self.name = name
        self.limits = limits
        self.held = [0, 0, 0]
        self.open = [0, 0, 0]
        self.rate_free_us = 0


class Allowances:
    """The use of all writers that have limits; others cost nothing here."""

    def __init__(self, configuration: Configuration) -> None:
        self._rights = configuration.rights_table
        self._max_skew_us = configuration.max_skew_us
        self._used = {
            writer.key: _Used(writer.name, writer.limits) for writer in configuration.writers if writer.limits.are_any
        }

    @property
    def are_any(self) -> bool:
        """Whether any writer has limits."""
        return bool(self._used)

    # --- what slots tell ---

    def entered(self, slot: bytes, raw: bytes, sign: int) -> None:
        """An entry with this header became current in the slot (`sign` 1), or left it (-1)."""
        used = self._used.get(header_writer(raw))
        if used is not None:
            _add(used.held, slot, entry_size(raw), sign)

    def promised(self, header: Header, sign: int) -> None:
        """A promise became open (`sign` 1), or is no more (-1)."""
        used = self._used.get(header.writer)
        if used is not None:
            _add(used.open, header.slot, len(header.raw) + header.size, sign)

    def take_over(self, before: Allowances | None) -> None:
        """Go on with the rates of `before`: who was at its limit still is. What is held and open is told anew."""
        for key, used in self._used.items():
            old = None if before is None else before._used.get(key)
            used.rate_free_us = 0 if old is None else old.rate_free_us

    # --- what a node asks ---

    def fault(self, header: Header, now_us: int) -> str:
        """What about the header itself its writer's limits forbid; empty where nothing."""
        used = self._limited(header)
        if used is None or header.kind == DELETE:
            return ""
        limits = used.limits
        if limits.value_bytes_max and header.size > limits.value_bytes_max:
            return f"values of the writer {used.name} have at most {limits.value_bytes_max} bytes"
        latest_us = now_us + limits.ttl_s_max * _S + self._max_skew_us
        if limits.ttl_s_max and is_of_key(header.slot) and not 0 < header.expires_at_us <= latest_us:
            return f"values of the writer {used.name} live at most {limits.ttl_s_max} s, and have to have an end"
        return ""

    def denial(self, header: Header, held: Held | None) -> str:
        """Which limit the writer is at with what is current; empty where none. `held`: what stands in the slot. A
        delete makes room: only the rate holds for it."""
        used = self._limited(header)
        if used is None or header.kind == DELETE:
            return ""
        over = _over(used.limits, used.held, header, held)
        return f"the writer {used.name} is at its limit of {over}" if over else ""

    def delay(self, header: Header, held: Held | None, now_us: int) -> str:
        """Which limit the writer is at for the moment: the rate, or others with what is promised; empty where none."""
        used = self._limited(header)
        if used is None:
            return ""
        rate = used.limits.writes_per_s
        if rate and used.rate_free_us - now_us > _S - _S // rate:
            return f"the writer {used.name} is at its limit of {rate} writes a second"
        if header.kind == DELETE:
            return ""
        both = [held_ + open_ for held_, open_ in zip(used.held, used.open, strict=True)]
        over = _over(used.limits, both, header, held)
        return f"the writer {used.name} is near its limit of {over}, and others of its writes are open" if over else ""

    def is_over(self, header: Header, held: Held | None, now_us: int) -> bool:
        """Whether any limit is in the way now."""
        return bool(self.denial(header, held) or self.delay(header, held, now_us))

    def granted(self, header: Header, now_us: int) -> None:
        """The header got a promise: it counts towards its writer's rate."""
        used = self._limited(header)
        if used is not None and used.limits.writes_per_s:
            used.rate_free_us = max(used.rate_free_us, now_us) + _S // used.limits.writes_per_s

    def _limited(self, header: Header) -> _Used | None:
        used = self._used.get(header.writer)
        if used is None:
            return None
        namespace, name, _ = slot_parts(header.slot)
        return None if self._rights.may(header.writer, ADMIN, namespace, name) else used


def entry_size(raw: bytes) -> int:
    """What an entry counts: the bytes of header and value."""
    return len(raw) + header_salted_bytes(raw) - SALT_BYTES


def _add(sums: list[int], slot: bytes, size: int, sign: int) -> None:
    sums[0] += sign * size
    sums[1 if is_of_key(slot) else 2] += sign


def is_of_key(slot: bytes) -> bool:
    """Whether the slot's field is empty, so that it stands for a key."""
    key_at = 3 + slot[0]
    return len(slot) == key_at + (slot[key_at - 2] << 8 | slot[key_at - 1]) + 2


def _over(limits: Limits, sums: list[int], header: Header, held: Held | None) -> str:
    """Which limit the sums and this header come to more than; empty where none, or where it adds nothing."""
    own = held is not None and header_writer(held.header) == header.writer
    more = len(header.raw) + header.size - (entry_size(held.header) if own and held is not None else 0)
    if limits.bytes_max and more > 0 and sums[0] + more > limits.bytes_max:
        return f"{limits.bytes_max} bytes"
    if own:
        return ""
    if is_of_key(header.slot):
        return f"{limits.keys_max} keys" if limits.keys_max and sums[1] >= limits.keys_max else ""
    return f"{limits.fields_max} fields" if limits.fields_max and sums[2] >= limits.fields_max else ""
