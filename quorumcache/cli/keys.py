"""`quorumcache keys`: which keys a cluster has.

Keys are bytes: they are printed as they are, one a line, except on a terminal, which gets nothing that could steer it.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from quorumcache.cli.connecting import (
    ClusterOption,
    KeyOption,
    NamespaceOption,
    TimeoutOption,
    bytes_of,
    cluster_path,
)


def keys(
    prefix: Annotated[
        str, typer.Argument(metavar="[PREFIX]", help="Only keys that begin with it.", show_default=False)
    ] = "",
    cluster: ClusterOption = None,
    key_file: KeyOption = None,
    namespace: NamespaceOption = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Stop after so many; all unless given.", show_default=False)
    ] = None,
    null: Annotated[bool, typer.Option("--null", "-0", help="End each key with a zero byte, for xargs -0.")] = False,
    timeout: TimeoutOption = 5.0,
) -> None:
    """Print the keys of a namespace that begin with a prefix, one a line. Their order is not alphabetical.

    Example: [bold]quorumcache keys user:[/bold]
    """
    connect: dict[str, Any] = {"namespace": namespace, "timeout": timeout}
    if key_file is not None:
        connect["key"] = key_file
    from quorumcache.cli.loops import run_loop

    count = run_loop(_print(cluster_path(cluster), connect, bytes_of(prefix), limit, b"\0" if null else b"\n"))
    if sys.stderr.isatty():
        typer.secho(f"{count} key{'' if count == 1 else 's'}.", dim=True, err=True)


async def _print(cluster: Path, connect: dict[str, Any], prefix: bytes, limit: int | None, end: bytes) -> int:
    from quorumcache.client import Client
    from quorumcache.client.listing import LIMIT

    out, is_terminal = sys.stdout.buffer, sys.stdout.isatty()
    count, cursor = 0, None
    async with await Client.connect(cluster, **connect) as client:
        while limit is None or count < limit:
            page = await client.scan(prefix, LIMIT if limit is None else min(LIMIT, limit - count), cursor)
            for key in page.keys:
                assert isinstance(key, bytes)
                out.write((_harmless(key) if is_terminal else key) + end)
            out.flush()
            count += len(page.keys)
            cursor = page.cursor
            if cursor is None:
                break
    return count


def _harmless(key: bytes) -> bytes:
    """The key in what a terminal can show: other bytes and characters as Python escapes them."""
    text = key.decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text).encode()
