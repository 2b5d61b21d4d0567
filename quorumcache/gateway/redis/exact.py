"""The one seam to compare-and-set: whatever is done only if something is still as it was goes through here.

Redis runs one command at a time, so there it needs no thought. Here several gateways and clients write at once, and to
read and then write would lose what came between. Where a database's strings are in a namespace of type exact, a command
says what is to stand in place of what stood there, and compare-and-set sees to it; elsewhere it is refused, by name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from quorumcache.client.bulk import error_of
from quorumcache.client.envelope import MAGIC, parse
from quorumcache.client.mixed import ChangeSlot
from quorumcache.core.exactwrite import Change
from quorumcache.core.model import DELETE, PUT, SALT_BYTES, header_expires_at
from quorumcache.core.outcome import Decided, Failed
from quorumcache.errors import QuorumCacheError
from quorumcache.gateway.redis.faults import WRONG_TYPE, Fault, fault_of
from quorumcache.gateway.redis.table import Call, Steps
from quorumcache.gateway.redis.wholes import kind_of, pack, unpack

STRING: Final = "string"
#: Of whatever type a key is.
ANY: Final = "any"


class Stood(NamedTuple):
    """What stands under a key: its value if it is a string (None: nothing), when it expires (cluster time in
    microseconds, 0: never), the cluster's time, its header (empty: nothing), and its bytes as they are stored. `kind`:
    its type if that is none of strings; then `value` is what is stored."""

    value: bytes | None
    expires_at_us: int
    now_us: int
    header: bytes = b""
    stored: bytes = b""
    kind: str | None = None


class Put(NamedTuple):
    """What is to stand there: a string (None: nothing), until then. `is_stored`: it is bytes as they are stored."""

    value: bytes | None
    expires_at_us: int = 0
    is_stored: bool = False


#: What stands there -> what is to stand there, or None for: as it is. May raise Fault. Called as often as others are
#: first; what it returned last counts.
Edit = Callable[[Stood], Put | None]


def kept(stood: Stood, expires_at_us: int) -> Put:
    """What stands there, whatever it is, until then."""
    return Put(stood.stored, expires_at_us, is_stored=True)


def edit(call: Call, key: bytes, make: Edit, *, kind: str = STRING) -> Steps:
    """Change a key of that type as `make` says: whether it was changed. `kind` may be ANY. Raises Fault: refused,
    WRONGTYPE, what `make` raised, or failed."""
    database = call.database
    if not database.is_exact:
        raise refuse(call.command.name.upper())
    faults: list[Fault] = []

    def change(header: bytes, salted: bytes, cluster_us: int) -> Change | None:
        faults.clear()
        stood = Stood(None, 0, cluster_us)
        if header:
            stood = stood_of(salted[SALT_BYTES:], header_expires_at(header), cluster_us, header)
        try:
            if kind != ANY and header and (stood.kind or STRING) != kind:
                raise Fault(WRONG_TYPE)
            put = make(stood)
            if put is None or (put.value is None and not header):
                return None
            if put.value is None:
                return Change(DELETE)
            stored = put.value if put.is_stored else database.strings._stored(put.value)
            return Change(PUT, stored, put.expires_at_us)
        except Fault as fault:
            faults.append(fault)
        except QuorumCacheError as error:
            faults.append(fault_of(error))
        return None

    (outcome,) = yield [ChangeSlot(database.string_slot(key), change)]
    if isinstance(outcome, Failed):
        raise fault_of(error_of(outcome))
    if faults:
        raise faults[0]
    return isinstance(outcome, Decided)


def edit_items(
    call: Call, key: bytes, kind: str, make: Callable[[dict[bytes, bytes]], dict[bytes, bytes] | None]
) -> Steps:
    """Change a hash or a set as `make` says of its fields or members: None for as it is, empty for nothing; it goes on
    to expire when it did. Raises as `edit`."""
    database = call.database

    def change(stood: Stood) -> Put | None:
        items = make(unpack(kind, stood.stored) if stood.header else {})
        if items is None:
            return None
        if not items:
            return Put(None)
        stored = database.strings._data(pack(kind, items))
        return Put(stored, stood.expires_at_us if stood.header else database.lasting(), is_stored=True)

    return (yield from edit(call, key, change, kind=kind))


def stood_of(stored: bytes, expires_at_us: int, now_us: int, header: bytes) -> Stood:
    """What stands there, of what is stored."""
    kind = kind_of(stored)
    value = stored if kind is not None or stored[:4] != MAGIC else parse(stored).data or b""
    return Stood(value, expires_at_us, now_us, header, stored, kind)


def refuse(what: str) -> Fault:
    """The error for a command that cannot be right without compare-and-set."""
    return Fault(
        f"ERR {what} needs compare-and-set: SELECT a database whose strings are in a namespace of type exact, which "
        "the gateway is given as --database N=NAMESPACE"
    )
