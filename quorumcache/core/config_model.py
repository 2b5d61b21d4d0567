"""What a cluster configuration is, and what the rest of the core asks of it.

Belongs here: the data, the digest, shards and groups, rights. How a configuration
is read from and written to a file is in core/config.py, from where all of this is imported too. Must not know
who trusts it, where it is stored, or what time it is.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import blake2b
from zlib import crc32

from quorumcache.core.config_rules import ADMINS_MAX, DIGEST_BYTES, US, check, fault
from quorumcache.core.placement import groups_for
from quorumcache.core.rights import ANYONE, EVERY_WRITER, LIMIT_NAMES, WRITE, Limits, RightInfo, Rights

CONFIGURATION_TAG = b"quorumcache configuration 1\0"
#: The type of namespaces that are written by compare-and-set alone.
EXACT = "exact"
GROUP_TAG = b"quorumcache group 1\0"


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """A node. `index` is its place in the list; `address` a hint: "host:port", or empty where not known."""

    index: int
    name: str
    key: bytes
    address: str
    zone: str = ""
    weight: int = 1


@dataclass(frozen=True, slots=True)
class WriterInfo:
    """A writer. `status`: "active", "retired" (what it wrote stands) or "revoked" (what it wrote is gone)."""

    name: str
    key: bytes
    status: str = "active"
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True, slots=True)
class NamespaceInfo:
    """A namespace. `writers` are names, or ("*",) for every writer listed; a limit of 0 is no limit. `quota_bytes`:
    what its keys may take of each node's memory.

    `readers` are names, ("*",), or ("anyone",): also clients without a key. Further rights are in `rights`.

    `mode` "primary": a write is one round trip to `ack` nodes of the group, forwarded in the background (protocol 10).

    `type` "exact": registers that are written by compare-and-set alone (protocol 17).

    `encryption` "client": clients seal values, and with `hide_keys` keys too, under data keys that nodes do not have.
    """

    name: str
    type: str = "register"
    mode: str = "quorum"
    writers: tuple[str, ...] = EVERY_WRITER
    value_bytes_max: int = 0
    ttl_s_max: int = 0
    quota_bytes: int = 0
    encryption: str = "none"
    hide_keys: bool = False
    readers: tuple[str, ...] = ANYONE
    ack: int = 1


@dataclass(frozen=True, slots=True)
class Group:
    """The 3f+1 nodes that serve a shard.

    `id`: BLAKE2b-128 of ``b"quorumcache group 1\\0"`` and the members' keys in ascending order, 16 bytes.
    `members`: their indices, ascending.
    """

    id: bytes
    members: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Configuration:
    """A cluster configuration (protocol 9): valid by construction, or ConfigurationError says what is not.

    `previous` is the digest of the predecessor, None only at epoch 1. `valid_until_us` 0 means no end. `tls`: whether
    sessions run over TLS 1.3; without it, whoever is on the way reads everything. Two are equal when their digests are.
    """

    cluster_id: str
    f: int
    admins: tuple[bytes, ...]
    admins_needed: int
    nodes: tuple[NodeInfo, ...]
    namespaces: tuple[NamespaceInfo, ...] = ()
    writers: tuple[WriterInfo, ...] = ()
    epoch: int = 1
    previous: bytes | None = None
    shards: int = 1024
    max_skew_us: int = 1 * US
    op_time_us: int = 5 * US
    grace_us: int = US // 5
    valid_until_us: int = 0
    oldest_epoch: int = 1
    tls: bool = True
    rights: tuple[RightInfo, ...] = ()

    def __post_init__(self) -> None:
        check(self)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Configuration) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    @cached_property
    def n(self) -> int:
        """Nodes in a group: 3f+1."""
        return 3 * self.f + 1

    @cached_property
    def q(self) -> int:
        """Nodes in a quorum: 2f+1."""
        return 2 * self.f + 1

    @cached_property
    def digest(self) -> bytes:
        """BLAKE2b-256 of ``b"quorumcache configuration 1\\0"`` and the canonical bytes."""
        return blake2b(CONFIGURATION_TAG + canonical(self), digest_size=DIGEST_BYTES).digest()

    @cached_property
    def groups(self) -> dict[bytes, Group]:
        """The distinct groups, by id."""
        return {group.id: group for group in self.shard_groups}

    @cached_property
    def shard_groups(self) -> tuple[Group, ...]:
        """The group of each shard, by the shard's number. Shards with the same members share one object."""
        if self._only_group is not None:
            return (self._only_group,) * self.shards
        known: dict[tuple[int, ...], Group] = {}
        found = []
        for order in self._shard_orders:
            members = tuple(sorted(order))
            group = known.get(members)
            if group is None:
                group = known[members] = self._group(members)
            found.append(group)
        return tuple(found)

    @cached_property
    def shards_of_groups(self) -> dict[bytes, tuple[int, ...]]:
        """The numbers of each group's shards, ascending, by its id; groups in the order of their first shards."""
        found: dict[bytes, list[int]] = {}
        for shard, group in enumerate(self.shard_groups):
            found.setdefault(group.id, []).append(shard)
        return {group_id: tuple(shards) for group_id, shards in found.items()}

    @cached_property
    def _shard_orders(self) -> list[tuple[int, ...]]:
        nodes = self.nodes
        keys, weights, zones = [x.key for x in nodes], [x.weight for x in nodes], [x.zone for x in nodes]
        return groups_for(keys, weights, zones, shards=self.shards, n=self.n)

    @cached_property
    def _only_group(self) -> Group | None:
        """Where every node serves every shard, nothing has to be computed per shard to know the group."""
        return self._group(tuple(range(self.n))) if len(self.nodes) == self.n else None

    def _group(self, members: tuple[int, ...]) -> Group:
        keys = sorted(self.nodes[index].key for index in members)
        return Group(blake2b(GROUP_TAG + b"".join(keys), digest_size=16).digest(), members)

    def shard_of(self, slot: bytes) -> int:
        """The shard of a slot: CRC-32 of the slot without its field, modulo the number of shards.

        `slot` is well-formed: u8 length | namespace | u16 length | key | u16 length | field, big-endian.
        """
        key_at = 3 + slot[0]
        end = key_at + (slot[key_at - 2] << 8 | slot[key_at - 1])
        return crc32(slot[:end]) % self.shards

    def group_of(self, slot: bytes) -> Group:
        """The group that serves a slot. `slot` as in `shard_of`."""
        return self._only_group or self.shard_groups[self.shard_of(slot)]

    def order_of_shard(self, shard: int) -> tuple[int, ...]:
        """The members of the shard's group, as node indices, in rendezvous order (core/placement.py)."""
        return self._shard_orders[shard]

    @cached_property
    def _nodes_by_key(self) -> dict[bytes, NodeInfo]:
        return {node.key: node for node in self.nodes}

    @cached_property
    def _namespaces_by_name(self) -> dict[bytes, NamespaceInfo]:
        return {namespace.name.encode("ascii"): namespace for namespace in self.namespaces}

    @cached_property
    def _revoked(self) -> frozenset[bytes]:
        return frozenset(writer.key for writer in self.writers if writer.status == "revoked")

    @cached_property
    def rights_table(self) -> Rights:
        """Who may do what."""
        return Rights(self.namespaces, self.writers, self.rights, frozenset(self._nodes_by_key))

    def node_by_key(self, key: bytes) -> NodeInfo | None:
        """The node that holds this public key, or None."""
        return self._nodes_by_key.get(key)

    @cached_property
    def _clients(self) -> frozenset[bytes]:
        return frozenset(writer.key for writer in self.writers) | frozenset(self._nodes_by_key)

    def is_client(self, key: bytes) -> bool:
        """Whether the key is a writer's, of whatever status, or a node's: one that a session may be opened with."""
        return key in self._clients

    def namespace(self, name: bytes) -> NamespaceInfo | None:
        """The namespace of this name, or None."""
        return self._namespaces_by_name.get(name)

    def is_known_namespace(self, name: bytes) -> bool:
        """Whether the configuration has a namespace of this name."""
        return name in self._namespaces_by_name

    def may_write(self, writer_key: bytes, namespace: bytes) -> bool:
        """Whether the key belongs to an active writer with the right to write to all keys of the (known) namespace."""
        return self.rights_table.may(writer_key, WRITE, namespace, b"")

    @cached_property
    def _primary_prefixes(self) -> frozenset[bytes]:
        names = [x.name.encode("ascii") for x in self.namespaces if x.mode == "primary"]
        return frozenset(bytes((len(name),)) + name for name in names)

    def is_primary(self, slot: bytes) -> bool:
        """Whether the slot is of a namespace in mode primary. `slot` as in `shard_of`."""
        return bool(self._primary_prefixes) and slot[: 1 + slot[0]] in self._primary_prefixes

    @cached_property
    def exact_prefixes(self) -> frozenset[bytes]:
        """How the slots of exact namespaces begin (protocol 17)."""
        names = [x.name.encode("ascii") for x in self.namespaces if x.type == EXACT]
        return frozenset(bytes((len(name),)) + name for name in names)

    def is_exact(self, slot: bytes) -> bool:
        """Whether the slot is of an exact namespace. `slot` as in `shard_of`."""
        return bool(self.exact_prefixes) and slot[: 1 + slot[0]] in self.exact_prefixes

    def is_revoked(self, writer_key: bytes) -> bool:
        """Whether the key belongs to a revoked writer. An unknown key is not; it just may not write."""
        return writer_key in self._revoked


@dataclass(frozen=True, slots=True)
class SignedConfiguration:
    """A configuration with its administrators' signatures: pairs of (administrator's key, signature)."""

    configuration: Configuration
    signatures: tuple[tuple[bytes, bytes], ...] = ()

    @property
    def signed_message(self) -> bytes:
        """What each administrator signs: the tag and the configuration's digest."""
        return CONFIGURATION_TAG + self.configuration.digest

    def verify(self, verify: Callable[[bytes, bytes, bytes], bool]) -> None:
        """Raise ConfigurationError unless enough of its own administrators signed it.

        `verify(key, message, signature)` checks one signature. That the administrators are the right ones
        does not follow: the first configuration has to come from a trusted place, and later ones from their
        predecessor.
        """
        if len(self.signatures) > ADMINS_MAX:
            raise fault("signatures", f"{len(self.signatures)} are too many; at most {ADMINS_MAX}")
        message = self.signed_message
        admins = set(self.configuration.admins)
        signed: set[bytes] = set()
        for key, signature in self.signatures:
            if key in admins and key not in signed and verify(key, message, signature):
                signed.add(key)
        needed = self.configuration.admins_needed
        if len(signed) < needed:
            raise fault(
                "signatures",
                f"{len(signed)} of {len(admins)} administrators signed it, and {needed} are needed; "
                "if the file was changed by hand, its signatures no longer fit: have it signed again",
            )


def to_document(config: Configuration) -> dict[str, object]:
    """The configuration as dicts, lists, strings, integers and booleans; bytes as lowercase hex.

    All fields are present but those that came after the first format and have their default: so a configuration that
    does not use them keeps its digest.
    """
    later: dict[str, object] = {} if config.tls else {"tls": False}
    if config.rights:
        later["rights"] = [
            {"writers": list(x.writers), "namespace": x.namespace, "may": list(x.may), "prefix": x.prefix}
            for x in config.rights
        ]
    return {
        "cluster_id": config.cluster_id,
        "epoch": config.epoch,
        "previous": None if config.previous is None else config.previous.hex(),
        "f": config.f,
        "shards": config.shards,
        "max_skew_us": config.max_skew_us,
        "op_time_us": config.op_time_us,
        "grace_us": config.grace_us,
        "valid_until_us": config.valid_until_us,
        "oldest_epoch": config.oldest_epoch,
        **later,
        "admins": [key.hex() for key in config.admins],
        "admins_needed": config.admins_needed,
        "nodes": [
            {"name": x.name, "key": x.key.hex(), "address": x.address, "zone": x.zone, "weight": x.weight}
            for x in config.nodes
        ],
        "writers": [
            {
                "name": x.name,
                "key": x.key.hex(),
                "status": x.status,
                **{name: value for name in LIMIT_NAMES if (value := getattr(x.limits, name))},
            }
            for x in config.writers
        ],
        "namespaces": [
            {
                "name": x.name,
                "type": x.type,
                "mode": x.mode,
                "writers": list(x.writers),
                "value_bytes_max": x.value_bytes_max,
                "ttl_s_max": x.ttl_s_max,
                "quota_bytes": x.quota_bytes,
                **({"encryption": x.encryption} if x.encryption != "none" else {}),
                **({"hide_keys": True} if x.hide_keys else {}),
                **({"readers": list(x.readers)} if x.readers != ANYONE else {}),
                **({"ack": x.ack} if x.ack != 1 else {}),
            }
            for x in config.namespaces
        ],
    }


def canonical(config: Configuration) -> bytes:
    """The bytes that the digest covers: the document as JSON, keys sorted, no whitespace, ASCII only."""
    document = to_document(config)
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode("ascii")


def warnings_of(config: Configuration) -> list[str]:
    """What is allowed and yet worth saying to whoever starts a node or client with this configuration."""
    found = []
    remote = [node.name for node in config.nodes if not is_loopback(node.address.rpartition(":")[0])]
    if not config.tls and remote:
        found.append(
            f"tls = false, and {', '.join(remote[:5])}{' ...' if len(remote) > 5 else ''} can be reached from "
            "elsewhere: keys and values travel readable. For closed networks and benchmarks only."
        )
    if config.f == 0:
        found.append("f = 0: no node may be faulty, and one that lies is believed. For development only.")
    zones = {node.zone for node in config.nodes}
    if config.f > 0 and len(zones) > 1:
        short = 0
        for group in config.groups.values():
            members = [config.nodes[index].zone for index in group.members]
            short += max(members.count(zone) for zone in set(members)) > config.f
        if short:
            found.append(
                f"{len(zones)} zones: in {short} of {len(config.groups)} groups one zone holds more than f = "
                f"{config.f} members, so the loss of that zone stops them. Four zones or more of like size avoid it."
            )
    return found


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches the host: "localhost", 127.0.0.0/8 or ::1. An empty one reaches nobody."""
    host = host.strip("[]").lower()
    return host in ("", "localhost", "::1") or (host.startswith("127.") and host.replace(".", "").isdigit())
