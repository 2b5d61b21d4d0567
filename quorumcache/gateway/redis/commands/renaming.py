"""RENAME and RENAMENX, in exact databases: two compare-and-sets, of which the second takes the old key away only if it
is still what the first wrote under the new one. So for a moment both are there, and at no time neither.
"""

from __future__ import annotations

from typing import Final

from quorumcache.client.mixed import ReadSlot
from quorumcache.core.model import SALT_BYTES, header_expires_at
from quorumcache.core.outcome import Found
from quorumcache.gateway.redis.database import check_missed
from quorumcache.gateway.redis.encoding import OK
from quorumcache.gateway.redis.exact import ANY, Edit, Put, Stood, edit, refuse
from quorumcache.gateway.redis.faults import Fault
from quorumcache.gateway.redis.table import Call, Steps, command

_BOTH: Final = (1, 2, 1)
#: How often the old key may change meanwhile.
_TRIES_MAX: Final = 16


class _Copy:
    """The new key: written where it is free, or, with `over`, whatever is there; later only over what was written."""

    def __init__(self, over: bool) -> None:
        self._over = over
        self._put: Put | None = None
        self.is_taken = False

    @property
    def is_written(self) -> bool:
        """Whether the new key has been written."""
        return self._put is not None

    def write(self, call: Call, put: Put) -> Steps:
        """Write it; `is_taken` says that another was first."""
        before = self._put

        def make(stood: Stood) -> Put | None:
            if before is None:
                self.is_taken = not self._over and bool(stood.header)
            else:
                self.is_taken = stood.stored != before.value
            return None if self.is_taken else put

        yield from edit(call, call.arguments[2], make, kind=ANY)
        if not self.is_taken:
            self._put = put


def _away_if(header: bytes) -> Edit:
    """A key goes, if what is there has this header."""
    return lambda stood: Put(None) if stood.header == header else None


def _move(call: Call, over: bool) -> Steps:
    """Whether it was moved: not where the new key is taken, and may not be written over."""
    database, (_, old, new) = call.database, call.arguments
    if not database.is_exact:
        raise refuse(call.command.name.upper())
    copy = _Copy(over)
    try:
        for _ in range(_TRIES_MAX):
            (found,) = yield [ReadSlot(database.string_slot(old))]
            if not isinstance(found, Found):
                check_missed(found)
                raise Fault("ERR no such key")
            if old == new:
                return over
            yield from copy.write(call, Put(found.salted[SALT_BYTES:], header_expires_at(found.header), is_stored=True))
            if copy.is_taken and not copy.is_written:
                return False
            if copy.is_taken:
                raise Fault("ERR the new key was written by somebody else meanwhile")
            if (yield from edit(call, old, _away_if(found.header), kind=ANY)):
                return True
        raise Fault("ERR the old key changes all the time")
    except Fault as fault:
        if not copy.is_written:
            raise
        raise Fault(f"OUTCOMEUNKNOWN the new key is written, and the old one may still be there: {fault}") from None


@command("rename", 3, "write", _BOTH, group="generic", summary="Renames a key: the new one comes before the old goes.")
def rename(call: Call) -> Steps:
    yield from _move(call, over=True)
    return OK


@command("renamenx", 3, "write fast", _BOTH, group="generic", summary="Renames a key where the new name is free.")
def renamenx(call: Call) -> Steps:
    return int((yield from _move(call, over=False)))
