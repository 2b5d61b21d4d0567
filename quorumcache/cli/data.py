"""`quorumcache get`, `set` and `delete`: one key of a cluster, or all that begin alike.

Values are bytes: what goes in comes out, and nothing is added but a line end on a terminal.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from quorumcache.cli import exits
from quorumcache.cli.connecting import (
    ClusterOption,
    DataKeysOption,
    KeyOption,
    NamespaceOption,
    TimeoutOption,
    bytes_of,
    cluster_path,
    key_path,
)

#: How long a terminal stays silent while nodes are waited for.
QUIET_S = 2.0

KeyArgument = Annotated[str, typer.Argument(metavar="KEY", help="The key, 1 to 1024 bytes.", show_default=False)]


def get(
    key: KeyArgument,
    cluster: ClusterOption = None,
    key_file: KeyOption = None,
    namespace: NamespaceOption = None,
    proof: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Also write a portable proof of the value there.", show_default=False),
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="A miss that is not certain is an error.")] = False,
    data_keys: DataKeysOption = None,
    timeout: TimeoutOption = 5.0,
) -> None:
    """Print the value of a key, as it is. Exit status 1: there is no such key.

    Reading takes a key file only where not anyone may read. With --proof, the value can be shown to anybody:
    quorumcache verify FILE.

    Example: [bold]quorumcache get hello[/bold]
    """
    connect: dict[str, Any] = {"namespace": namespace, "data_keys": data_keys, "timeout": timeout}
    if key_file is not None:
        connect["key"] = key_file
    found = _run(_get(cluster_path(cluster), connect, bytes_of(key), proof is not None, strict))
    if found is None:
        typer.echo(f"No value: there is no key {key!r}, or it has expired.", err=True)
        raise typer.Exit(exits.NOT_FOUND)
    value, proof_bytes = found
    if proof is not None:
        _write(proof, proof_bytes)
    out = sys.stdout.buffer
    out.write(value)
    if sys.stdout.isatty():
        out.write(b"\n")
    out.flush()


def set_(
    key: KeyArgument,
    value: Annotated[
        str, typer.Argument(metavar="VALUE", help="The value, or - for standard input.", show_default=False)
    ],
    cluster: ClusterOption = None,
    key_file: KeyOption = None,
    namespace: NamespaceOption = None,
    ttl: Annotated[
        float | None, typer.Option(help="Seconds to live; for ever unless given.", show_default=False)
    ] = None,
    data_keys: DataKeysOption = None,
    timeout: TimeoutOption = 5.0,
) -> None:
    """Set a key to a value, signed by a writer. When it returns, every later get finds it.

    Example: [bold]quorumcache set hello world --ttl 60[/bold], or [bold]quorumcache set page - < page.html[/bold]
    """
    path = cluster_path(cluster)
    writer = key_path(path, key_file)
    data = _standard_input() if value == "-" else bytes_of(value)
    connect = {"key": writer, "namespace": namespace, "data_keys": data_keys, "timeout": timeout}
    _run(_set(path, connect, bytes_of(key), data, ttl))
    if sys.stderr.isatty():
        until = f", for {ttl:g} s" if ttl is not None else ""
        typer.secho(f"Set {key!r}: {len(data)} bytes{until}.", dim=True, err=True)


def delete(
    key: Annotated[
        str | None, typer.Argument(metavar="[KEY]", help="The key, 1 to 1024 bytes.", show_default=False)
    ] = None,
    prefix: Annotated[
        str | None, typer.Option(help="Instead of one key, all that begin with this.", show_default=False)
    ] = None,
    cluster: ClusterOption = None,
    key_file: KeyOption = None,
    namespace: NamespaceOption = None,
    data_keys: DataKeysOption = None,
    timeout: TimeoutOption = 5.0,
) -> None:
    """Delete a key, whether it is there or not; or all keys with a prefix.

    Example: [bold]quorumcache delete hello[/bold], or [bold]quorumcache delete --prefix user:[/bold]
    """
    from quorumcache.errors import Misuse

    path = cluster_path(cluster)
    if (key is None) == (prefix is None):
        raise Misuse("what is to be deleted? Name one key, or a prefix with --prefix")
    connect = {"key": key_path(path, key_file), "namespace": namespace, "data_keys": data_keys, "timeout": timeout}
    if prefix is not None:
        count = _run(_delete_prefix(path, connect, bytes_of(prefix)))
        typer.echo(f"Deleted {count} key{'' if count == 1 else 's'}.", err=True)
        return
    assert key is not None
    _run(_delete(path, connect, bytes_of(key)))
    if sys.stderr.isatty():
        typer.secho(f"Deleted {key!r}.", dim=True, err=True)


async def _get(
    cluster: Path, connect: dict[str, Any], key: bytes, with_proof: bool, strict: bool
) -> tuple[bytes, bytes] | None:
    from quorumcache.client import Client

    async with await Client.connect(cluster, **connect) as client:
        if with_proof:
            return await client.get(key, strict=strict, with_proof=True)
        value = await client.get(key, strict=strict)
        return None if value is None else (value, b"")


async def _set(cluster: Path, connect: dict[str, Any], key: bytes, value: bytes, ttl: float | None) -> None:
    from quorumcache.client import Client

    async with await Client.connect(cluster, **connect) as client:
        await client.set(key, value, ttl=ttl)


async def _delete(cluster: Path, connect: dict[str, Any], key: bytes) -> None:
    from quorumcache.client import Client

    async with await Client.connect(cluster, **connect) as client:
        await client.delete(key)


async def _delete_prefix(cluster: Path, connect: dict[str, Any], prefix: bytes) -> int:
    from quorumcache.client import Client

    async with await Client.connect(cluster, **connect) as client:
        return await client.delete_prefix(prefix)


def _run(operation: Any) -> Any:
    from quorumcache.cli.loops import run_loop

    return run_loop(_told(operation) if sys.stderr.isatty() else operation)


async def _told(operation: Any) -> Any:
    """Do it, and say so where somebody may be looking and it takes long: a cluster that is down, or slow."""
    import asyncio

    words = "Waiting for enough nodes to answer ..."
    saying = asyncio.get_running_loop().call_later(QUIET_S, lambda: typer.secho(words, dim=True, err=True))
    try:
        return await operation
    finally:
        saying.cancel()


def _standard_input() -> bytes:
    from quorumcache.core.model import VALUE_BYTES_MAX
    from quorumcache.errors import InvalidValue

    data = sys.stdin.buffer.read(VALUE_BYTES_MAX + 1)
    if len(data) > VALUE_BYTES_MAX:
        raise InvalidValue(f"standard input is longer than {VALUE_BYTES_MAX} bytes, the most that a value may have")
    return data


def _write(path: Path, data: bytes) -> None:
    from quorumcache.errors import Misuse

    try:
        path.write_bytes(data)
    except OSError as problem:
        raise Misuse(f"{path}: the proof cannot be written there: {problem.strerror}") from None
