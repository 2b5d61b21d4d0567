"""Who may do what: rights per namespace and prefix of keys, and limits per writer, as the configuration has them.

Belongs here: their data, what of them is allowed, and the answer to "may this key do that there?". Counting what limits
bound is in allowance.py. It must not know nodes, sessions or messages.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Final

from quorumcache.errors import ConfigurationError

if TYPE_CHECKING:
    from quorumcache.core.config_model import NamespaceInfo, WriterInfo

READ: Final = "read"
WRITE: Final = "write"
DELETE: Final = "delete"
#: All of the above, and not held to the writer's limits.
ADMIN: Final = "admin"
ROLES: Final = (READ, WRITE, DELETE, ADMIN)

EVERY_WRITER: Final = ("*",)
#: As readers of a namespace: also clients without a key.
ANYONE: Final = ("anyone",)

RIGHTS_MAX: Final = 10_000
PREFIX_CHARS_MAX: Final = 255
LIMIT_MAX: Final = (1 << 63) - 1

_NOBODY: Final[frozenset[bytes]] = frozenset()


@dataclass(frozen=True, slots=True)
class RightInfo:
    """A right: these writers (names, or ("*",) for every one) may do this in the namespace, to keys that begin with the
    prefix (ASCII; empty for all). `may`: of "read", "write", "delete", "admin"."""

    writers: tuple[str, ...]
    namespace: str
    may: tuple[str, ...]
    prefix: str = ""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a writer is held to, at each node and over all namespaces; 0 is no limit.

    `writes_per_s`: promises a second, a second's worth at once. `bytes_max`, `keys_max`, `fields_max`: what its current
    entries (headers and values), its keys and its fields of keys may come to. `value_bytes_max`, `ttl_s_max`: of each
    value; with the latter, a value has to have an end.
    """

    writes_per_s: int = 0
    bytes_max: int = 0
    keys_max: int = 0
    fields_max: int = 0
    value_bytes_max: int = 0
    ttl_s_max: int = 0

    @property
    def are_any(self) -> bool:
        """Whether there is any limit."""
        return self != _NO_LIMITS


LIMIT_NAMES: Final = tuple(field.name for field in fields(Limits))
_NO_LIMITS: Final = Limits()


class Rights:
    """The rights of a configuration, for quick answers.

    A namespace's `writers` may write and delete in all of it, its `readers` read; rights add to that. Only active
    writers have rights; nodes read everything, since they hold it.
    """

    def __init__(
        self,
        namespaces: Iterable[NamespaceInfo],
        writers: Iterable[WriterInfo],
        rights: Iterable[RightInfo],
        nodes: frozenset[bytes],
    ) -> None:
        writers = tuple(writers)
        self._names = {writer.key: writer.name for writer in writers}
        self._statuses = {writer.key: writer.status for writer in writers}
        active = {writer.name: writer.key for writer in writers if writer.status == "active"}
        self._open_to_read: set[bytes] = set()
        self._active = frozenset(active.values())
        #: (role, namespace) -> who may, in all of it.
        self._whole: dict[tuple[str, bytes], frozenset[bytes]] = {}
        #: (role, namespace) -> below which prefixes each may, by key; the empty key is every active writer's. So
        #: whoever asks costs as much as its own rights, not as much as all that there are.
        self._parts: dict[tuple[str, bytes], dict[bytes, tuple[bytes, ...]]] = {}
        parts: dict[tuple[str, bytes], dict[bytes, list[bytes]]] = {}

        def keys_of(names: Sequence[str]) -> frozenset[bytes]:
            if tuple(names) == EVERY_WRITER:
                return self._active
            return frozenset(active[name] for name in names if name in active)

        all_names = []
        for namespace in namespaces:
            name = namespace.name.encode("ascii")
            all_names.append(name)
            if namespace.readers == ANYONE:
                self._open_to_read.add(name)
            else:
                self._whole[READ, name] = keys_of(namespace.readers) | nodes
            self._whole[WRITE, name] = self._whole[DELETE, name] = keys_of(namespace.writers)
        for right in rights:
            name, prefix = right.namespace.encode("ascii"), right.prefix.encode("ascii")
            roles = ROLES if ADMIN in right.may else right.may
            for role in roles:
                if not prefix:
                    self._whole[role, name] = self._whole.get((role, name), _NOBODY) | keys_of(right.writers)
                    continue
                there = parts.setdefault((role, name), {})
                for key in (b"",) if right.writers == EVERY_WRITER else keys_of(right.writers):
                    there.setdefault(key, []).append(prefix)
        for at, of_keys in parts.items():
            self._parts[at] = {key: tuple(prefixes) for key, prefixes in of_keys.items()}
        #: Whether anybody may read everything, so that nobody needs to look.
        self.reading_is_open = len(self._open_to_read) == len(all_names)

    def may(self, key: bytes, role: str, namespace: bytes, name: bytes) -> bool:
        """Whether whoever has this public key (empty: nobody known) may do this to the entry's key `name`."""
        if key in self._whole.get((role, namespace), _NOBODY):
            return True
        if role == READ and namespace in self._open_to_read:
            return True
        parts = self._parts.get((role, namespace))
        if parts is None or key not in self._active:
            return False
        return name.startswith(parts.get(key, ()) + parts.get(b"", ()))

    def may_read(self, key: bytes, slot: bytes) -> bool:
        """Whether whoever has this public key may read the slot; one that is no slot has nothing to read."""
        at = 1 + slot[0] if slot else 1
        return self.may(key, READ, slot[1:at], slot[at + 2 : at + 2 + int.from_bytes(slot[at : at + 2], "big")])

    def name_of(self, key: bytes) -> str:
        """What to call whoever has this public key."""
        return self._names.get(key) or (key.hex()[:16] if key else "a client without a key")

    def missing(self, key: bytes, role: str, namespace: bytes, name: bytes) -> str:
        """Which right is missing, for whoever asked; at most 200 characters."""
        status = self._statuses.get(key, "active")
        if status != "active":
            return f"the writer is {status}"
        there = namespace.decode("ascii", "replace")[:64]
        has = [other for other in ROLES if self.may(key, other, namespace, name)]
        what = f" and has {', '.join(has)}" if has else ""
        return (
            f"{self.name_of(key)} has no right to {role} in namespace {there}"
            f"{what}{' for this key' if (role, namespace) in self._parts else ''}"
        )[:200]


def check_rights(
    rights: Sequence[RightInfo], namespaces: Iterable[NamespaceInfo], writers: Iterable[WriterInfo]
) -> None:
    """Raise ConfigurationError where rights, readers or limits name what is not there or are out of bounds."""
    names = {writer.name for writer in writers}
    spaces = {namespace.name: namespace for namespace in namespaces}
    for index, namespace in enumerate(spaces.values()):
        if namespace.readers not in (ANYONE, EVERY_WRITER):
            _check_names(f"namespaces[{index}].readers", namespace.readers, names, 'or ["*"] or ["anyone"] alone')
    if len(rights) > RIGHTS_MAX:
        raise _error("rights", f"{len(rights)} are too many; at most {RIGHTS_MAX}")
    for index, right in enumerate(rights):
        at = f"rights[{index}]"
        if right.writers != EVERY_WRITER:
            _check_names(f"{at}.writers", right.writers, names, 'or ["*"] alone')
        if right.namespace not in spaces:
            raise _error(f"{at}.namespace", f"{right.namespace[:80]!r} is no namespace")
        if not right.may or len(set(right.may)) != len(right.may) or not set(right.may) <= set(ROLES):
            raise _error(f"{at}.may", f"{right.may!r:.80} is not allowed; each once of {', '.join(ROLES)}")
        if not (right.prefix.isascii() and (right.prefix.isprintable())) or len(right.prefix) > PREFIX_CHARS_MAX:
            raise _error(f"{at}.prefix", f"at most {PREFIX_CHARS_MAX} printable ASCII characters are allowed")
        if right.prefix and spaces[right.namespace].hide_keys:
            raise _error(f"{at}.prefix", "clients hide the keys of the namespace, so nodes see no prefixes")
    for index, writer in enumerate(writers):
        for name in LIMIT_NAMES:
            value = getattr(writer.limits, name)
            if not 0 <= value <= LIMIT_MAX:
                raise _error(f"writers[{index}].{name}", f"{value} is not allowed; 0 to {LIMIT_MAX}")


def _check_names(at: str, given: Sequence[str], names: set[str], else_: str) -> None:
    for name in given:
        if name not in names:
            raise _error(at, f"{name[:80]!r} is no writer; name one, {else_}")
    if len(set(given)) != len(given):
        raise _error(at, "a writer occurs twice; each may occur once")


def _error(field: str, problem: str) -> ConfigurationError:
    return ConfigurationError(f"configuration, {field}: {problem}")
