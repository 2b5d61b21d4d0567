"""`quorumcache watch`: what changes in a cluster, as it happens."""

from __future__ import annotations

import asyncio
import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from quorumcache.cli.connecting import (
    ClusterOption,
    KeyOption,
    NamespaceOption,
    TimeoutOption,
    bytes_of,
    cluster_path,
)

if TYPE_CHECKING:
    from quorumcache.client import Change, Gap


def watch(
    prefix: Annotated[
        str, typer.Argument(metavar="[PREFIX]", help="Only keys that begin with it.", show_default=False)
    ] = "",
    one: Annotated[str | None, typer.Option("--only", metavar="KEY", help="Only this key.", show_default=False)] = None,
    cluster: ClusterOption = None,
    key_file: KeyOption = None,
    namespace: NamespaceOption = None,
    resume: Annotated[
        str | None, typer.Option(metavar="TOKEN", help="Go on where an earlier watch stood.", show_default=False)
    ] = None,
    count: Annotated[
        int | None, typer.Option(min=1, help="Stop after so many changes; never unless given.", show_default=False)
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="A JSON object a line.")] = False,
    interval: Annotated[float, typer.Option(min=0.001, max=3600, help="Seconds between two looks.")] = 0.1,
    timeout: TimeoutOption = 5.0,
) -> None:
    """Print what changes in the keys of a namespace, one change a line, until Ctrl-C: "set KEY", "deleted KEY", or
    "gap" where some may have been missed. In the end, on the error stream, the token to go on with.

    Example: [bold]quorumcache watch user:[/bold]
    """
    connect: dict[str, Any] = {"namespace": namespace, "timeout": timeout}
    if key_file is not None:
        connect["key"] = key_file
    from quorumcache.cli.loops import run_loop

    options: dict[str, Any] = {"resume": resume, "interval": interval}
    if one is not None:
        options["key"] = bytes_of(one)
    run_loop(_watch(cluster_path(cluster), connect, bytes_of(prefix), options, count, json_))


async def _watch(
    cluster: Path, connect: dict[str, Any], prefix: bytes, options: dict[str, Any], count: int | None, as_json: bool
) -> None:
    from quorumcache.cli.loops import end_of_service
    from quorumcache.client import Client

    async with await Client.connect(cluster, **connect) as client, client.watch(prefix, **options) as watch:
        end = asyncio.create_task(end_of_service().wait())
        if sys.stderr.isatty():
            typer.secho("Watching. Ctrl-C ends it.", dim=True, err=True)
        seen = 0
        try:
            while count is None or seen < count:
                following = asyncio.ensure_future(anext(watch))
                await asyncio.wait({following, end}, return_when=asyncio.FIRST_COMPLETED)
                if not following.done():
                    following.cancel()
                    break
                change = await following
                print(json.dumps(_data_of(change)) if as_json else _line_of(change), flush=True)
                seen += 1
        finally:
            end.cancel()
            typer.echo(f"to go on from here: --resume {watch.token}", err=True)


def _line_of(change: Change | Gap) -> str:
    from quorumcache.client import Gap

    if isinstance(change, Gap):
        return f"gap: {change.reason}"
    words = ["deleted" if change.deleted else "set", _shown(change.key)]
    if change.field is not None:
        words.append(_shown(change.field))
    return " ".join(words)


def _data_of(change: Change | Gap) -> dict[str, Any]:
    from quorumcache.client import Gap

    if isinstance(change, Gap):
        return {"change": "gap", "reason": change.reason}
    data: dict[str, Any] = {"change": "deleted" if change.deleted else "set", "key": _text(change.key)}
    if change.field is not None:
        data["field"] = _text(change.field)
    if change.writer is not None and change.time_us is not None:
        data["writer"] = change.writer.hex()
        data["time"] = datetime.fromtimestamp(change.time_us / 1e6, UTC).isoformat()
    return data


def _text(name: str | bytes) -> str:
    return name.decode("utf-8", "backslashreplace") if isinstance(name, bytes) else name


def _shown(name: str | bytes) -> str:
    """In what a terminal can show: other characters as Python escapes them."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in _text(name))
