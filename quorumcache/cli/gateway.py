"""`quorumcache gateway`: a cluster for Redis clients, through a client in this process."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from quorumcache.cli.connecting import ClusterOption, DataKeysOption, KeyOption, TimeoutOption, cluster_path, key_path

if TYPE_CHECKING:
    from quorumcache.gateway.redis import Settings
    from quorumcache.gateway.redis.settings import DatabaseNames

PASSWORD_VARIABLE = "QUORUMCACHE_GATEWAY_PASSWORD"
_PASSWORD_BYTES_MAX = 1024


def gateway(
    cluster: ClusterOption = None,
    key_file: KeyOption = None,
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port; 0 for any free one.")] = 6379,
    database: Annotated[
        list[str] | None,
        typer.Option(
            metavar="N=STRINGS[,HASHES[,SETS]]",
            help="A database and its namespaces: of type register, map and set; or one of type exact. May be given "
            "many times. Unless given, "
            "databases 0 to 15 share the cluster's first namespace of each type.",
            show_default=False,
        ),
    ] = None,
    prefix: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PREFIX=STRINGS[,HASHES[,SETS]]",
            help="Keys of database 0 that begin so are in these namespaces. May be given many times: the longest "
            "prefix counts.",
            show_default=False,
        ),
    ] = None,
    read_only: Annotated[
        bool, typer.Option("--read-only", help="Take no key: whoever connects can only read.")
    ] = False,
    password_file: Annotated[
        Path | None,
        typer.Option(help=f"What AUTH asks for: a file's first line. Or in {PASSWORD_VARIABLE}.", show_default=False),
    ] = None,
    tls_cert: Annotated[
        Path | None, typer.Option(help="The certificate (PEM) that the gateway shows.", show_default=False)
    ] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its private key (PEM).", show_default=False)] = None,
    connections_max: Annotated[int, typer.Option(min=1, max=65_536, help="Connections at a time.")] = 10_000,
    idle: Annotated[float, typer.Option(min=0, help="Seconds that a connection may say nothing; 0 for ever.")] = 0.0,
    data_keys: DataKeysOption = None,
    timeout: TimeoutOption = 10.0,
    watch_stdin: Annotated[bool, typer.Option("--watch-stdin", hidden=True)] = False,
) -> None:
    """Serve a cluster to Redis clients on this machine until Ctrl-C or SIGTERM.

    Whoever can connect writes with the key that is given here, and takes this process's word for what it reads: run it
    beside the programs that use it. Other addresses than loopback take a password and TLS.

    Example: [bold]quorumcache gateway --port 6379[/bold], then [bold]redis-cli set greeting hello[/bold]
    """
    from quorumcache.cli.loops import run_loop
    from quorumcache.gateway.redis import Settings

    settings = Settings(
        host=host.strip("[]"),
        port=port,
        password=_password(password_file),
        tls=_tls(tls_cert, tls_key),
        databases=dict(_database(text) for text in database or ()),
        prefixes=dict(_prefix(text) for text in prefix or ()),
        idle_s=idle,
        connections_max=connections_max,
    )
    path = cluster_path(cluster)
    writer = None if read_only else key_path(path, key_file)
    run_loop(_serve(path, {"key": writer, "data_keys": data_keys, "timeout": timeout}, settings, watch_stdin))


def _password(file: Path | None) -> str | None:
    from quorumcache.errors import Misuse

    if file is None:
        return os.environ.get(PASSWORD_VARIABLE) or None
    try:
        with file.open(encoding="utf-8") as lines:
            password = lines.readline(_PASSWORD_BYTES_MAX).rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as problem:
        raise Misuse(f"the password file {file} cannot be read: {problem}") from None
    if not password:
        raise Misuse(f"the password file {file} has an empty first line")
    return password


def _tls(certificate: Path | None, key: Path | None) -> Any:
    import ssl

    from quorumcache.errors import Misuse

    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        raise Misuse("TLS takes both --tls-cert and --tls-key")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as problem:
        raise Misuse(f"--tls-cert {certificate} and --tls-key {key} cannot be used: {problem}") from None
    return context


def _database(text: str) -> tuple[int, DatabaseNames]:
    from quorumcache.errors import Misuse

    number, _, words = text.partition("=")
    names = _names(words)
    if not (number.isascii() and number.isdigit() and len(number) < 4) or names is None:
        raise Misuse(f"--database {text[:80]}: is not like 0=default,maps,sets or 1=sessions")
    return int(number), names


def _prefix(text: str) -> tuple[bytes, DatabaseNames]:
    from quorumcache.errors import Misuse

    prefix, _, words = text.rpartition("=")
    names = _names(words)
    if not prefix or names is None:
        raise Misuse(f"--prefix {text[:80]}: is not like sessions:=sessions or user:=default,maps,sets")
    return os.fsencode(prefix), names


def _names(words: str) -> DatabaseNames | None:
    from quorumcache.gateway.redis.settings import DatabaseNames

    parts = [name.strip() or None for name in words.split(",")]
    if not parts[0] or len(parts) > 3:
        return None
    strings, hashes, sets = (*parts, None, None)[:3]
    assert strings is not None
    return DatabaseNames(strings, hashes, sets)


async def _serve(cluster: Path, connect: dict[str, Any], settings: Settings, watch_stdin: bool) -> None:
    from quorumcache.cli.loops import end_of_service, words_of
    from quorumcache.client import Client
    from quorumcache.errors import Misuse
    from quorumcache.gateway.redis import RedisGateway
    from quorumcache.node.collecting import collect_seldom, keep_what_is_there

    end = end_of_service(with_stdin=watch_stdin)
    collect_seldom()
    async with await Client.connect(cluster, **connect) as client:
        gateway = RedisGateway(client, settings)
        try:
            await gateway.start()
        except OSError as problem:
            raise Misuse(
                f"cannot listen on {settings.host} port {settings.port}: {words_of(problem)}. Another port: --port"
            ) from None
        may = "read only" if connect["key"] is None else "read and write"
        scheme = "redis" if settings.tls is None else "rediss"
        typer.echo(
            f"Serving cluster {client.configuration.cluster_id} ({may}) on {scheme}://{settings.host}:{gateway.port}",
            err=True,
        )
        keep_what_is_there()
        await end.wait()
        await gateway.stop()
