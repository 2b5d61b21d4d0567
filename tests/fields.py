"""What tests of keys with fields share: a configuration with a namespace of each type, and operations on fields."""

from __future__ import annotations

from quorumcache.core.config import Configuration, NamespaceInfo
from quorumcache.core.model import DELETE, PUT, slot_of
from quorumcache.core.outcome import Found, Missed, Outcome
from quorumcache.core.types import FIELD_TYPES
from quorumcache.core.types.base import field_slot, generation_of, name_field
from tests.cluster import Client, Cluster, configuration_of
from tests.steps import finish

TYPES = ("set", "map", "counter", "siblings")


def configuration(f: int = 1, **changes: object) -> Configuration:
    """A configuration with the namespace "test" of registers, and one of each other type, named as its type."""
    spaces = (NamespaceInfo("test"), *(NamespaceInfo(kind, kind) for kind in TYPES))
    return configuration_of(f, **{"namespaces": spaces, **changes})  # type: ignore[arg-type]


def cluster_of(f: int = 1, **changes: object) -> Cluster:
    return Cluster(f, configuration(f, **changes))


def base_slot(kind: str, key: str = "k") -> bytes:
    return slot_of(kind.encode(), key.encode())


def slot_at(kind: str, name: bytes, key: str = "k") -> bytes:
    """The slot of a name in a map, or an element of a set."""
    return field_slot(base_slot(kind, key), name_field(name))


def put(client: Client, kind: str, name: bytes, value: bytes = b"", key: str = "k", *, details: bytes = b"") -> object:
    """Queue a put of one field (a name or an element)."""
    token = ("put", kind, name, value, len(client.outcomes), object())
    client.core.write(slot_at(kind, name, key), PUT, value, 0, token, details)
    return token


def remove(client: Client, kind: str, name: bytes, key: str = "k") -> object:
    token = ("remove", kind, name, object())
    client.core.write(slot_at(kind, name, key), DELETE, b"", 0, token)
    return token


def delete_key(client: Client, kind: str, key: str = "k") -> object:
    token = ("delete", kind, object())
    client.core.write(base_slot(kind, key), DELETE, b"", 0, token)
    return token


def read(client: Client, slot: bytes) -> Outcome:
    token = ("read", object())
    client.core.read(slot, token)
    outcome = finish(client, token)
    assert isinstance(outcome, Found | Missed), outcome
    return outcome


def value_of(client: Client, kind: str, key: str = "k") -> object:
    """The key's value as its type gives it; None for a miss."""
    outcome = read(client, base_slot(kind, key))
    if isinstance(outcome, Missed):
        return None
    assert outcome.fields is not None
    return FIELD_TYPES[kind].value_of(outcome.fields)


def generation(client: Client, kind: str, key: str = "k") -> bytes:
    outcome = read(client, base_slot(kind, key))
    assert isinstance(outcome, Found)
    return generation_of(outcome.header)
