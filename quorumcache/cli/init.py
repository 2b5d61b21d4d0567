"""`quorumcache init`: a new cluster's configuration and keys, in a directory."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from quorumcache.core.config import Limits, RightInfo


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _reader(text: str) -> tuple[str, tuple[str, ...]]:
    name, _, who = text.partition("=")
    return name, tuple(who.split("+")) if who else ()


def _right(text: str) -> RightInfo:
    from quorumcache.core.config import RightInfo
    from quorumcache.errors import ConfigurationError

    who, first, rest = text.partition(":")
    roles, second, where = rest.partition(":")
    if not (first and second and who and roles and where):
        raise ConfigurationError(f"--right {text[:80]}: is not like bob:read+write:default/users/")
    namespace, _, prefix = where.partition("/")
    return RightInfo(tuple(who.split("+")), namespace, tuple(roles.split("+")), prefix)


def _limit(text: str) -> tuple[str, Limits]:
    from quorumcache.core.config import Limits
    from quorumcache.core.rights import LIMIT_NAMES
    from quorumcache.errors import ConfigurationError

    who, _, given = text.partition(":")
    limits = {}
    for item in given.split(","):
        name, _, number = item.partition("=")
        if name not in LIMIT_NAMES or not (number.isascii() and number.isdigit() and len(number) < 20):
            raise ConfigurationError(
                f"--limit {text[:80]}: is not like bob:writes_per_s=100,keys_max=1000; "
                f"there are {', '.join(LIMIT_NAMES)}"
            )
        limits[name] = int(number)
    return who, Limits(**limits)


def _quota(text: str) -> tuple[str, int]:
    from quorumcache.errors import ConfigurationError

    name, _, number = text.partition("=")
    if not (number.isascii() and number.isdigit() and len(number) < 20):
        raise ConfigurationError(f"--quotas {text[:80]}: is not like default=67108864, in bytes")
    return name, int(number)


def _ack(text: str) -> tuple[str, int]:
    from quorumcache.errors import ConfigurationError

    name, given, number = text.partition("=")
    if given and not (number.isascii() and number.isdigit() and len(number) < 4):
        raise ConfigurationError(f"--primary {text[:80]}: is not like fast, or fast=2 for two nodes")
    return name, int(number) if given else 1


def _name_of(directory: Path) -> str:
    """A cluster's name after its directory, with what names may not have left out."""
    return re.sub(r"[^a-zA-Z0-9_.-]+", "-", directory.resolve().name)[:64] or "cluster"


def init(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Where to write it.", show_default=False)],
    f: Annotated[int, typer.Option("--f", help="How many faulty nodes it has to withstand.")] = 1,
    nodes: Annotated[
        int | None, typer.Option(help="How many nodes; at least 3f+1, which is the default.", show_default=False)
    ] = None,
    writers: Annotated[str, typer.Option(help="Names of the writers, with commas between them.")] = "default",
    namespaces: Annotated[
        str,
        typer.Option(
            help="Namespaces: name, or name:type (register, counter, set, map, siblings, exact), or "
            "name=writer+writer or name:type=writer+writer to let only these write."
        ),
    ] = "default,counters:counter,sets:set,maps:map,siblings:siblings",
    encrypt: Annotated[
        str, typer.Option(help="Those namespaces whose values clients seal, so that nodes cannot read them.")
    ] = "",
    hide_keys: Annotated[str, typer.Option(help="Those of them whose keys clients hide, too.")] = "",
    readers: Annotated[
        str,
        typer.Option(help="Namespaces that not anyone may read: name=writer+writer, name=* for all writers, or name=."),
    ] = "",
    right: Annotated[
        list[str] | None,
        typer.Option(
            metavar="WRITER+WRITER:ROLE+ROLE:NAMESPACE[/PREFIX]",
            help="A further right: read, write, delete, admin. May be given many times.",
            show_default=False,
        ),
    ] = None,
    limit: Annotated[
        list[str] | None,
        typer.Option(
            metavar="WRITER:LIMIT=N,...",
            help="What a writer is held to: writes_per_s, bytes_max, keys_max, fields_max, value_bytes_max, ttl_s_max.",
            show_default=False,
        ),
    ] = None,
    host: Annotated[str, typer.Option(help="Host of all nodes' addresses.")] = "127.0.0.1",
    base_port: Annotated[int, typer.Option(help="The first node's port; the others follow.")] = 7411,
    addresses: Annotated[
        str, typer.Option(help="host:port of each node, with commas between, in place of --host and --base-port.")
    ] = "",
    cluster_id: Annotated[str, typer.Option(help="The cluster's name; DIR's unless given.", show_default=False)] = "",
    max_skew_ms: Annotated[int, typer.Option(help="The most by which the nodes' clocks differ.")] = 1000,
    op_time_ms: Annotated[int, typer.Option(help="How long an operation may take.")] = 5000,
    shards: Annotated[
        int | None,
        typer.Option(help="Shards that keys are spread over; by the number of nodes unless given.", show_default=False),
    ] = None,
    zones: Annotated[
        str,
        typer.Option(help="How many zones, to which nodes are dealt in turn; or each node's, with commas between."),
    ] = "1",
    quotas: Annotated[
        str, typer.Option(help="What namespaces may take of each node's memory: name=BYTES, with commas between.")
    ] = "",
    primary: Annotated[
        str,
        typer.Option(
            metavar="NAME[=ACK],...",
            help="Namespaces in mode primary: one round trip to ACK nodes (1 unless given), then forwarded. "
            "Faster, never forged, but a lying node can serve old values.",
        ),
    ] = "",
    tls: Annotated[
        bool,
        typer.Option("--tls/--no-tls", help="Sessions over TLS 1.3; without it, whoever is on the way reads all."),
    ] = True,
) -> None:
    """Found a cluster: write DIR/cluster.toml, signed, and a key file per node, writer and administrator.

    cluster.toml is public: every node and client gets a copy. Each key file goes to the one machine that uses it, and
    is removed from here; the administrator's key signs every later change, so keep it offline.

    Example: [bold]quorumcache init my-cluster --f 1 --writers alice,bob[/bold]
    """
    from rich.console import Console
    from rich.markup import escape

    from quorumcache.core.config import NamespaceInfo, warnings_of
    from quorumcache.core.rights import ANYONE
    from quorumcache.errors import ConfigurationError
    from quorumcache.wire.founding import found_cluster

    may_read = dict(_reader(item) for item in _names(readers))
    may_take = dict(_quota(item) for item in _names(quotas))
    acks = dict(_ack(item) for item in _names(primary))
    spaces = []
    for item in _names(namespaces):
        named, limited, allowed = item.partition("=")
        name, typed, kind = named.partition(":")
        spaces.append(
            NamespaceInfo(
                name,
                kind if typed else "register",
                writers=tuple(allowed.split("+")) if limited else ("*",),
                encryption="client" if name in _names(encrypt) else "none",
                hide_keys=name in _names(hide_keys),
                readers=may_read.pop(name, ANYONE),
                quota_bytes=may_take.pop(name, 0),
                mode="primary" if name in acks else "quorum",
                ack=acks.pop(name, 1),
            )
        )
    if may_read:
        raise ConfigurationError(f"{next(iter(may_read))!r} has readers, and is none of the --namespaces")
    if may_take:
        raise ConfigurationError(f"{next(iter(may_take))!r} has a quota, and is none of the --namespaces")
    if acks:
        raise ConfigurationError(f"{next(iter(acks))!r} is to be in mode primary, and is none of the --namespaces")
    unknown = sorted({*_names(encrypt), *_names(hide_keys)} - {space.name for space in spaces})
    if unknown:
        raise ConfigurationError(f"{unknown[0]!r} is to be sealed, and is none of the --namespaces")
    if not spaces or not _names(writers):
        raise ConfigurationError("--writers and --namespaces take at least one name each: nobody could use the cluster")
    founded = found_cluster(
        f=f,
        nodes=nodes,
        writers=_names(writers),
        namespaces=spaces,
        addresses=_names(addresses) or None,
        host=host,
        base_port=base_port,
        cluster_id=cluster_id or _name_of(directory),
        max_skew_us=1000 * max_skew_ms,
        op_time_us=1000 * op_time_ms,
        grace_us=min(200_000, 1000 * op_time_ms),
        shards=shards,
        zones=int(zones) if zones.isascii() and zones.isdigit() and len(zones) < 10 else _names(zones),
        tls=tls,
        rights=[_right(text) for text in right or ()],
        limits=dict(_limit(text) for text in limit or ()),
    )
    file = founded.write(directory)
    configuration = founded.configuration
    console = Console(highlight=False, soft_wrap=True)
    at = escape(str(directory))
    count = len(configuration.nodes)
    console.print(
        f"Founded cluster [bold]{configuration.cluster_id}[/bold]: {count} nodes, "
        f"each key on {configuration.n} of them, up to {configuration.f} of those may lie.\n"
    )
    console.print(f"  {escape(str(file))}  the configuration, signed; public: every node and client gets a copy")
    console.print(f"  {at}/keys/node-n0.key ... node-n{count - 1}.key  one for each node's machine,")
    console.print("    with the directory of the same name that ends in .seals")
    for name in founded.writers:
        console.print(f"  {at}/keys/writer-{escape(name)}.key  for the writer {escape(name)}")
    console.print(f"  {at}/keys/admin.key  signs every later change: keep it offline")
    for warning in warnings_of(configuration):
        console.print(f"\n[yellow]Warning:[/yellow] {escape(warning)}")
    first = configuration.nodes[0]
    console.print("\nNext, start each node on its machine, and try it:")
    console.print(
        f"  quorumcache node --cluster {at} --name {first.name}    [dim]# listens on {escape(first.address)}[/dim]"
    )
    # Of several keys one has to be named, and the namespace that set takes may not be for everyone.
    able = [name for name in founded.writers if name in spaces[0].writers] or list(founded.writers)
    whose = f" --key {at}/keys/writer-{escape(able[0])}.key" if len(founded.writers) > 1 else ""
    console.print(f"  quorumcache set hello world --cluster {at}{whose}")
    console.print(f"  quorumcache get hello --cluster {at}")
