"""Founding a cluster: fresh keys for its nodes, writers and administrator, a configuration, and the files they go to.

Belongs here: what `quorumcache init`, `quorumcache up` and LocalCluster have in common. The layout of a cluster's
directory is decided here and nowhere else. It must not know terminals, processes or sockets.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

from quorumcache.core.config import (
    Configuration,
    Limits,
    NamespaceInfo,
    NodeInfo,
    RightInfo,
    SignedConfiguration,
    WriterInfo,
    parse_toml,
    to_toml,
)
from quorumcache.core.config_rules import F_MAX, NODES_MAX, PLACEMENT_STEPS_MAX, SHARDS_MAX, WRITERS_MAX
from quorumcache.errors import ConfigurationError
from quorumcache.wire.keys import SigningKey, verify, write_key_file
from quorumcache.wire.sealrecord import SealRecord, record_beside

CLUSTER_FILE: Final = "cluster.toml"
KEYS_DIRECTORY: Final = "keys"


@dataclass(frozen=True)
class Founded:
    """A new cluster: its signed configuration, and the keys in the order of its nodes and of its writers."""

    signed: SignedConfiguration
    admin: SigningKey
    nodes: tuple[SigningKey, ...]
    writers: dict[str, SigningKey]

    @property
    def configuration(self) -> Configuration:
        """The configuration, without its signatures."""
        return self.signed.configuration

    def write(self, directory: Path) -> Path:
        """Write cluster.toml and the keys (mode 0600, their directory 0700); returns cluster.toml's path.

        Raises ConfigurationError where a cluster is there already, or the directory cannot be written.
        """
        file = directory / CLUSTER_FILE
        keys = directory / KEYS_DIRECTORY
        for path in (file, keys):
            if path.exists():
                raise ConfigurationError(
                    f"{path}: exists already, and a cluster is never written over. Choose another directory."
                )
        try:
            directory.mkdir(parents=True, exist_ok=True)
            keys.mkdir(mode=0o700)
        except OSError as problem:
            raise ConfigurationError(f"{keys}: cannot be created: {problem.strerror}.") from None
        write_key_file(keys / "admin.key", self.admin, role="admin")
        for node, key in zip(self.configuration.nodes, self.nodes, strict=True):
            write_key_file(node_key_path(directory, node.name), key, role="node")
            SealRecord(record_beside(node_key_path(directory, node.name)), key.public).begin()
        for name, key in self.writers.items():
            write_key_file(writer_key_path(directory, name), key, role="writer")
        try:
            # Last, and at once: a directory with a cluster.toml is a whole one.
            draft = file.with_suffix(".toml.new")
            draft.write_text(to_toml(self.signed), encoding="ascii")
            os.replace(draft, file)
        except OSError as problem:
            raise ConfigurationError(f"{file}: cannot be written: {problem.strerror}.") from None
        return file


def begin_records(directory: Path, configuration: Configuration) -> None:
    """Begin the nodes' records of seals in a cluster's directory, where none of them has one: it was made before there
    were any. Where some have one, those of the others were lost, and are not made up for."""
    records = [record_beside(node_key_path(directory, node.name)) for node in configuration.nodes]
    if configuration.epoch == 1 and not any(record.exists() for record in records):
        for record, node in zip(records, configuration.nodes, strict=True):
            SealRecord(record, node.key).begin()


#: What a cluster has unless it is told otherwise: one namespace of each type, registers first.
NAMESPACES = (
    NamespaceInfo("default"),
    NamespaceInfo("counters", "counter"),
    NamespaceInfo("sets", "set"),
    NamespaceInfo("maps", "map"),
    NamespaceInfo("siblings", "siblings"),
)


def found_cluster(
    *,
    f: int = 1,
    nodes: int | None = None,
    writers: Sequence[str] = ("default",),
    namespaces: Sequence[NamespaceInfo] = NAMESPACES,
    addresses: Sequence[str] | None = None,
    host: str = "127.0.0.1",
    base_port: int = 7411,
    cluster_id: str = "local",
    max_skew_us: int = 1_000_000,
    op_time_us: int = 5_000_000,
    grace_us: int = 200_000,
    shards: int | None = None,
    zones: int | Sequence[str] = 1,
    tls: bool = True,
    rights: Sequence[RightInfo] = (),
    limits: Mapping[str, Limits] = MappingProxyType({}),
) -> Founded:
    """A cluster that does not exist yet, with fresh keys from the operating system and one administrator.

    `nodes` defaults to 3f+1, `addresses` ("host:port", one per node) to `host` and ports from `base_port` on, `shards`
    to what spreads evenly over the nodes. `zones`: the zone of each node, or a number of zones that they are dealt to
    in turn. Raises ConfigurationError where the numbers do not fit each other.
    """
    # Before any key is made: there would be one for each node of a number that was mistyped.
    if not 0 <= f <= F_MAX:
        raise ConfigurationError(f"f = {f}; it is a number from 0 to {F_MAX}")
    count = 3 * f + 1 if nodes is None else nodes
    if count > NODES_MAX:
        raise ConfigurationError(f"{count} nodes; a cluster has at most {NODES_MAX}")
    if len(writers) > WRITERS_MAX:
        raise ConfigurationError(f"{len(writers)} writers; a cluster has at most {WRITERS_MAX}")
    if count < 3 * f + 1:
        raise ConfigurationError(
            f"{count} nodes withstand at most f = {max(count - 1, 0) // 3} faulty ones, not {f}; "
            f"f = {f} takes at least {3 * f + 1} nodes"
        )
    unknown = sorted(set(limits) - set(writers))
    if unknown:
        raise ConfigurationError(f"{unknown[0]!r} has limits, and is none of the writers")
    if len(set(writers)) != len(writers):
        raise ConfigurationError("a writer is named twice; each needs a name of its own")
    places = list(addresses) if addresses is not None else [f"{host}:{base_port + i}" for i in range(count)]
    if len(places) != count:
        raise ConfigurationError(f"{len(places)} addresses for {count} nodes; one for each is needed")
    zone_names = _zones(zones, count)
    admin = SigningKey.generate()
    node_keys = tuple(SigningKey.generate() for _ in range(count))
    writer_keys = {name: SigningKey.generate() for name in writers}
    configuration = Configuration(
        cluster_id=cluster_id,
        f=f,
        tls=tls,
        admins=(admin.public,),
        admins_needed=1,
        nodes=tuple(
            NodeInfo(i, f"n{i}", key.public, place, zone)
            for i, (key, place, zone) in enumerate(zip(node_keys, places, zone_names, strict=True))
        ),
        writers=tuple(
            WriterInfo(name, key.public, limits=limits.get(name, Limits())) for name, key in writer_keys.items()
        ),
        rights=tuple(rights),
        namespaces=tuple(namespaces),
        shards=shards_for(count, 3 * f + 1) if shards is None else shards,
        max_skew_us=max_skew_us,
        op_time_us=op_time_us,
        grace_us=grace_us,
    )
    unsigned = SignedConfiguration(configuration)
    signed = SignedConfiguration(configuration, ((admin.public, admin.sign(unsigned.signed_message)),))
    return Founded(signed, admin, node_keys, writer_keys)


def shards_for(nodes: int, n: int) -> int:
    """How many shards a cluster should have: enough for 256 places of groups per node, so that the most loaded node has
    about a fifth more than the mean; 1,024 at least, and a power of two (docs/placement.md)."""
    wanted = max(1024, 1 << (256 * nodes // n - 1).bit_length())
    return min(wanted, 1 << (PLACEMENT_STEPS_MAX // nodes).bit_length() - 1, SHARDS_MAX)


def _zones(zones: int | Sequence[str], count: int) -> list[str]:
    if isinstance(zones, int):
        if not 1 <= zones <= count:
            raise ConfigurationError(f"{zones} zones for {count} nodes; 1 to {count}")
        return [f"z{i % zones}" if zones > 1 else "" for i in range(count)]
    if len(zones) != count:
        raise ConfigurationError(f"{len(zones)} zones named for {count} nodes; name one for each node, or a number")
    return list(zones)


def node_key_path(directory: Path, name: str) -> Path:
    """Where a cluster's directory keeps the key of the node `name`."""
    return directory / KEYS_DIRECTORY / f"node-{name}.key"


def writer_key_path(directory: Path, name: str) -> Path:
    """Where a cluster's directory keeps the key of the writer `name`."""
    return directory / KEYS_DIRECTORY / f"writer-{name}.key"


def writer_key_paths(cluster: Path) -> list[Path]:
    """The writers' key files in the directory of a cluster file (or in that directory), sorted."""
    directory = cluster if cluster.is_dir() else cluster.parent
    return sorted((directory / KEYS_DIRECTORY).glob("writer-*.key"))


def cluster_file_of(path: Path) -> Path:
    """The cluster file that a path names: itself, or cluster.toml in it where it is a directory."""
    return path / CLUSTER_FILE if path.is_dir() else path


def read_cluster_file(path: Path) -> SignedConfiguration:
    """The signed configuration in a file, or in a cluster's directory, its signatures verified.

    Raises ConfigurationError, which names the file, where it cannot be read or is not valid.
    """
    file = cluster_file_of(path)
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigurationError(f"{file}: no such file. Make a cluster with: quorumcache init DIR") from None
    except OSError as problem:
        raise ConfigurationError(f"{file}: cannot be read: {problem.strerror}.") from None
    except UnicodeDecodeError:
        raise ConfigurationError(f"{file}: is not text, so no cluster file.") from None
    try:
        signed = parse_toml(text)
        signed.verify(verify)
    except ConfigurationError as problem:
        raise ConfigurationError(f"{file}: {problem}") from None
    return signed
