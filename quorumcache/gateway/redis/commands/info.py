"""What the gateway says of itself: INFO, CONFIG GET, COMMAND, TIME."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any, Final

from quorumcache.gateway.redis.commands.connection import REDIS_VERSION
from quorumcache.gateway.redis.faults import Fault, unknown_subcommand, wrong_arguments
from quorumcache.gateway.redis.globs import Glob
from quorumcache.gateway.redis.parsing import ARGUMENT_BYTES_MAX
from quorumcache.gateway.redis.settings import DATABASES
from quorumcache.gateway.redis.table import COMMANDS, Call, Command, command
from quorumcache.version import VERSION

if TYPE_CHECKING:
    from quorumcache.gateway.redis.server import RedisGateway

#: Flags of ours that Redis's COMMAND does not know by these names.
_OWN_FLAGS: Final = frozenset(("no_multi", "pubsub_context"))


@command("time", 1, "fast loading stale", group="server", summary="Returns the cluster's time.")
def time_(call: Call) -> object:
    seconds, microseconds = divmod(call.session.gateway.client.time_us, 1_000_000)
    return [b"%d" % seconds, b"%d" % microseconds]


def _facts(gateway: RedisGateway) -> dict[str, dict[str, Any]]:
    """Section -> name -> value. What starts with quorumcache_ Redis does not have."""
    client = gateway.client
    configuration, unreachable = client.configuration, client.unreachable
    uptime_s = int(time.monotonic() - gateway.began_s)
    return {
        "Server": {
            "redis_version": REDIS_VERSION,
            "redis_mode": "standalone",
            "quorumcache_version": VERSION,
            "quorumcache_cluster_id": configuration.cluster_id,
            "quorumcache_epoch": configuration.epoch,
            "process_id": os.getpid(),
            "tcp_port": gateway.port,
            "uptime_in_seconds": uptime_s,
            "uptime_in_days": uptime_s // 86400,
        },
        "Clients": {
            "connected_clients": len(gateway.connections),
            "maxclients": gateway.settings.connections_max,
            "pubsub_clients": sum(bool(each.session.subscriptions) for each in gateway.connections),
        },
        "Memory": {"quorumcache_requests_bytes": gateway.held_bytes},
        "Stats": {
            "total_connections_received": gateway.connections_count,
            "total_commands_processed": gateway.commands_count,
            "rejected_connections": gateway.refused_count,
            "pubsub_channels": len(gateway.channels.channels),
            "pubsub_patterns": len(gateway.channels.patterns),
            **{f"quorumcache_{name}": count for name, count in client.counts.items()},
        },
        "Replication": {"role": "master", "connected_slaves": 0},
        "Quorumcache": {
            "f": configuration.f,
            "nodes": len(configuration.nodes),
            "nodes_unreachable": len(unreachable),
            **{f"node_{info.name}": "down" if info.name in unreachable else "up" for info in configuration.nodes},
        },
    }


@command("info", -1, "loading stale", group="server", summary="Tells of the gateway and its cluster.")
def info(call: Call) -> object:
    wanted = {word.lower().decode("ascii", "replace") for word in call.arguments[1:]}
    sections = _facts(call.session.gateway)
    if wanted and not wanted & {"all", "everything", "default"}:
        sections = {name: facts for name, facts in sections.items() if name.lower() in wanted}
    return "\r\n".join(
        f"# {name}\r\n" + "".join(f"{key}:{value}\r\n" for key, value in facts.items())
        for name, facts in sections.items()
    ).encode()


@command("config", -2, "admin loading stale", group="server", summary="CONFIG GET: what Redis clients ask for.")
def config(call: Call) -> object:
    subcommand = call.arguments[1].upper()
    if subcommand == b"GET":
        if len(call.arguments) < 3:
            raise wrong_arguments("config|get")
        settings = call.session.gateway.settings
        known = {
            b"appendonly": b"no",
            b"databases": b"%d" % DATABASES,
            b"maxclients": b"%d" % settings.connections_max,
            b"maxmemory": b"0",
            b"maxmemory-policy": b"allkeys-lru",
            b"notify-keyspace-events": b"KEg$hs",
            b"port": b"%d" % call.session.gateway.port,
            b"proto-max-bulk-len": b"%d" % ARGUMENT_BYTES_MAX,
            b"save": b"",
            b"timeout": b"%d" % settings.idle_s,
        }
        globs = [Glob(word.lower()) for word in call.arguments[2:]]
        return {name: value for name, value in known.items() if any(glob.fits(name) for glob in globs)}
    if subcommand in (b"SET", b"RESETSTAT", b"REWRITE"):
        raise Fault("ERR the gateway is configured when it starts: quorumcache gateway --help")
    raise unknown_subcommand("config", call.arguments[1])


def _described(each: Command) -> list[Any]:
    flags = {flag for flag in each.flags if flag not in _OWN_FLAGS}
    categories = {f"@{each.group}", *("@" + word for word in ("write", "fast") if word in flags)}
    categories |= {"@read"} if "readonly" in flags else set()
    return [each.name.encode(), each.arity, flags, *each.keys, categories, [], [], []]


@command(
    "command", -1, "loading stale", group="server", summary="Describes commands: COUNT, INFO, DOCS, LIST, GETKEYS."
)
def command_(call: Call) -> object:
    if len(call.arguments) == 1:
        return [_described(each) for each in COMMANDS.values()]
    subcommand, words = call.arguments[1].upper(), call.arguments[2:]
    named = [COMMANDS.get(word.lower()) for word in words]
    if subcommand == b"COUNT" and not words:
        return len(COMMANDS)
    if subcommand == b"LIST" and not words:
        return list(COMMANDS)
    if subcommand == b"INFO":
        if not words:
            return [_described(each) for each in COMMANDS.values()]
        return [None if each is None else _described(each) for each in named]
    if subcommand == b"DOCS":
        shown = [each for each in named if each is not None] if words else list(COMMANDS.values())
        return {
            each.name.encode(): {b"summary": each.summary.encode(), b"group": each.group.encode()} for each in shown
        }
    if subcommand == b"GETKEYS" and words:
        each = named[0]
        if each is None:
            raise Fault("ERR Invalid command specified")
        if each.check(words) is not None:
            raise Fault("ERR Invalid number of arguments specified for command")
        keys = each.keys_of(words)
        if not keys:
            raise Fault("ERR The command has no key arguments")
        return keys
    if subcommand in (b"COUNT", b"LIST", b"GETKEYS"):
        raise wrong_arguments(f"command|{subcommand.decode()}")
    raise unknown_subcommand("command", call.arguments[1])
