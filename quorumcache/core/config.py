"""Reading and writing configurations: documents (plain dicts) and TOML text, strictly.

Belongs here: shapes and types, and errors that name the field. What the values have to satisfy is in
config_rules.py, what they are in config_model.py, whose names are all importable from here. Must not open files: text
comes in and goes out.
"""

import json
import re
import tomllib
from typing import Final

from quorumcache.core.config_model import (
    Configuration,
    Group,
    NamespaceInfo,
    NodeInfo,
    SignedConfiguration,
    WriterInfo,
    canonical,
    is_loopback,
    to_document,
    warnings_of,
)
from quorumcache.core.config_rules import ADMINS_MAX, NAMESPACES_MAX, NODES_MAX, SIGNATURE_BYTES, US, WRITERS_MAX
from quorumcache.core.rights import ANYONE, EVERY_WRITER, LIMIT_NAMES, RIGHTS_MAX, ROLES, Limits, RightInfo
from quorumcache.errors import ConfigurationError

__all__ = [
    "US",
    "Configuration",
    "Group",
    "Limits",
    "NamespaceInfo",
    "NodeInfo",
    "RightInfo",
    "SignedConfiguration",
    "WriterInfo",
    "canonical",
    "from_document",
    "is_loopback",
    "parse_toml",
    "to_document",
    "to_toml",
    "warnings_of",
]

TEXT_CHARS_MAX = 4 << 20
_HEX = re.compile(r"(?:[0-9a-f]{2})*")
_MISSING: Final = object()


def from_document(document: dict[str, object]) -> Configuration:
    """The configuration that a document describes; `to_document` is the inverse.

    Unknown fields, wrong types and whatever the rules forbid raise ConfigurationError, which names the field
    and what is allowed there. Fields with a default may be left out.
    """
    top = _Table(document, "")
    config = Configuration(
        cluster_id=top.text("cluster_id"),
        epoch=top.integer("epoch", 1),
        previous=None if top.get("previous", None) is None else top.data("previous"),
        f=top.integer("f"),
        shards=top.integer("shards", 1024),
        max_skew_us=top.integer("max_skew_us", 1 * US),
        op_time_us=top.integer("op_time_us", 5 * US),
        grace_us=top.integer("grace_us", US // 5),
        valid_until_us=top.integer("valid_until_us", 0),
        oldest_epoch=top.integer("oldest_epoch", 1),
        tls=top.boolean("tls", True),
        rights=tuple(_right(table) for table in top.tables("rights", RIGHTS_MAX, [])),
        admins=tuple(_hex(key, at) for key, at in top.texts("admins", ADMINS_MAX)),
        admins_needed=top.integer("admins_needed"),
        nodes=tuple(_node(index, table) for index, table in enumerate(top.tables("nodes", NODES_MAX))),
        writers=tuple(_writer(table) for table in top.tables("writers", WRITERS_MAX, [])),
        namespaces=tuple(_namespace(table) for table in top.tables("namespaces", NAMESPACES_MAX, [])),
    )
    top.done()
    return config


def parse_toml(text: str) -> SignedConfiguration:
    """A configuration file's content. Signatures are read, not verified; raises ConfigurationError."""
    if len(text) > TEXT_CHARS_MAX:
        raise ConfigurationError(
            f"configuration: the text has {len(text)} characters; at most {TEXT_CHARS_MAX} are allowed"
        )
    try:
        document = tomllib.loads(text)
    except (ValueError, RecursionError) as problem:
        # ValueError: TOMLDecodeError, and numbers with absurdly many digits. RecursionError: absurd nesting.
        what = "values are nested too deeply" if isinstance(problem, RecursionError) else problem
        raise ConfigurationError(f"configuration: not valid TOML: {what}") from None
    signatures = []
    for table in _Table({"signatures": document.pop("signatures", [])}, "").tables("signatures", ADMINS_MAX):
        signature = table.data("signature")
        if len(signature) != SIGNATURE_BYTES:
            raise table.error("signature", f"{len(signature)} bytes; exactly {SIGNATURE_BYTES}, as hex digits")
        signatures.append((table.data("admin"), signature))
        table.done()
    return SignedConfiguration(from_document(document), tuple(signatures))


_HEADER = """\
# A quorumcache cluster configuration. The signatures at the end cover every value in this file (not the
# comments): after a change it has to be signed again, and a running cluster moves to it as a new epoch.
# Times ending in _us are microseconds; keys are ed25519 public keys in hex. Nothing in this file is secret.
"""

_COMMENTS = {
    "previous": "digest of the configuration that this one follows",
    "f": "faulty nodes that each group of 3f+1 withstands",
    "shards": "keys hash to this many shards, each served by one group",
    "max_skew_us": "the most by which correct nodes' clocks differ",
    "op_time_us": "an operation counts only answers received within this time",
    "grace_us": "how long to wait for more answers once a quorum has answered",
    "valid_until_us": "since 1970; 0 = no end",
    "oldest_epoch": "certificates of earlier epochs no longer count",
    "tls": "false: nothing is encrypted; for closed networks and benchmarks only",
    "admins_needed": "signatures needed: more than half of the administrators",
}


def to_toml(signed: SignedConfiguration) -> str:
    """The text of a configuration file, for people to read; `parse_toml` gives back an equal object."""
    lines = [_HEADER]
    tables: list[tuple[str, dict[str, object]]] = []
    for name, value in to_document(signed.configuration).items():
        if isinstance(value, list) and name != "admins":
            tables += [(name, item) for item in value]
        elif value is not None:
            comment = f"  # {_COMMENTS[name]}" if name in _COMMENTS else ""
            lines.append(f"{name} = {_toml(value)}{comment}")
    for key, signature in signed.signatures:
        tables.append(("signatures", {"admin": key.hex(), "signature": signature.hex()}))
    for name, table in tables:
        lines.append(f"\n[[{name}]]")
        lines += [f"{field} = {_toml(value)}" for field, value in table.items()]
    return "\n".join(lines) + "\n"


def _toml(value: object) -> str:
    # The values are integers, booleans and printable ASCII strings, whose JSON form is their TOML form.
    if isinstance(value, list):
        items = [_toml(item) for item in value]
        line = f"[{', '.join(items)}]"
        return line if len(line) <= 80 else "[\n" + "".join(f"    {item},\n" for item in items) + "]"
    return json.dumps(value)


def _node(index: int, table: "_Table") -> NodeInfo:
    node = NodeInfo(
        index=index,
        name=table.text("name"),
        key=table.data("key"),
        address=table.text("address", ""),
        zone=table.text("zone", ""),
        weight=table.integer("weight", 1),
    )
    table.done()
    return node


def _writer(table: "_Table") -> WriterInfo:
    writer = WriterInfo(
        name=table.text("name"),
        key=table.data("key"),
        status=table.text("status", "active"),
        limits=Limits(**{name: table.integer(name, 0) for name in LIMIT_NAMES}),
    )
    table.done()
    return writer


def _namespace(table: "_Table") -> NamespaceInfo:
    namespace = NamespaceInfo(
        name=table.text("name"),
        type=table.text("type", "register"),
        mode=table.text("mode", "quorum"),
        writers=tuple(name for name, _ in table.texts("writers", WRITERS_MAX, list(EVERY_WRITER))),
        value_bytes_max=table.integer("value_bytes_max", 0),
        ttl_s_max=table.integer("ttl_s_max", 0),
        quota_bytes=table.integer("quota_bytes", 0),
        encryption=table.text("encryption", "none"),
        hide_keys=table.boolean("hide_keys", False),
        readers=tuple(name for name, _ in table.texts("readers", WRITERS_MAX, list(ANYONE))),
        ack=table.integer("ack", 1),
    )
    table.done()
    return namespace


def _right(table: "_Table") -> RightInfo:
    right = RightInfo(
        writers=tuple(name for name, _ in table.texts("writers", WRITERS_MAX)),
        namespace=table.text("namespace"),
        may=tuple(role for role, _ in table.texts("may", len(ROLES))),
        prefix=table.text("prefix", ""),
    )
    table.done()
    return right


class _Table:
    """One table of a document: fields are asked for by name and type; any other is an error."""

    def __init__(self, value: object, path: str) -> None:
        if not isinstance(value, dict):
            raise ConfigurationError(f"configuration, {path or 'document'}: {_kind(value)}; a table is needed")
        self._fields: dict[object, object] = value
        self._path = path
        self._asked: set[str] = set()

    def error(self, name: str, problem: str) -> ConfigurationError:
        return ConfigurationError(f"configuration, {self._at(name)}: {problem}")

    def _at(self, name: str) -> str:
        return f"{self._path}.{name}" if self._path else name

    def get(self, name: str, default: object) -> object:
        self._asked.add(name)
        value = self._fields.get(name, default)
        if value is _MISSING:
            raise self.error(name, "missing; this field is required")
        return value

    def text(self, name: str, default: object = _MISSING) -> str:
        value = self.get(name, default)
        if not isinstance(value, str):
            raise self.error(name, f"{_kind(value)}; a string is needed")
        return value

    def integer(self, name: str, default: object = _MISSING) -> int:
        value = self.get(name, default)
        if not isinstance(value, int) or isinstance(value, bool):
            raise self.error(name, f"{_kind(value)}; an integer is needed")
        if abs(value) >> 64:
            raise self.error(name, "the number is too large; at most 63 bits")
        return value

    def boolean(self, name: str, default: object = _MISSING) -> bool:
        value = self.get(name, default)
        if not isinstance(value, bool):
            raise self.error(name, f"{_kind(value)}; true or false is needed")
        return value

    def data(self, name: str) -> bytes:
        return _hex(self.text(name), self._at(name))

    def items(self, name: str, most: int, default: object = _MISSING) -> list[object]:
        value = self.get(name, default)
        if not isinstance(value, list):
            raise self.error(name, f"{_kind(value)}; a list is needed")
        if len(value) > most:
            raise self.error(name, f"{len(value)} are too many; at most {most}")
        return value

    def texts(self, name: str, most: int, default: object = _MISSING) -> list[tuple[str, str]]:
        """The strings of a list, each with its place for errors."""
        found = []
        for index, item in enumerate(self.items(name, most, default)):
            if not isinstance(item, str):
                raise self.error(f"{name}[{index}]", f"{_kind(item)}; a string is needed")
            found.append((item, self._at(f"{name}[{index}]")))
        return found

    def tables(self, name: str, most: int, default: object = _MISSING) -> list["_Table"]:
        items = self.items(name, most, default)
        return [_Table(item, self._at(f"{name}[{index}]")) for index, item in enumerate(items)]

    def done(self) -> None:
        unknown = sorted(str(name) for name in self._fields if name not in self._asked)
        if unknown:
            allowed = ", ".join(sorted(self._asked))
            raise self.error(unknown[0][:80], f"unknown field; allowed here: {allowed}")


def _hex(text: str, at: str) -> bytes:
    if not _HEX.fullmatch(text):
        raise ConfigurationError(f"configuration, {at}: {text[:80]!r} is not lowercase hex digits, two per byte")
    return bytes.fromhex(text)


def _kind(value: object) -> str:
    return f"a value of type {type(value).__name__}"
