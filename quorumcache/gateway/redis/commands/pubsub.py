"""PUBLISH and SUBSCRIBE: between the clients of this gateway, and of no other; and what changes in the cluster."""

from __future__ import annotations

from collections.abc import Callable

from quorumcache.gateway.redis.encoding import Push, Several
from quorumcache.gateway.redis.faults import Fault, unknown_subcommand, wrong_arguments
from quorumcache.gateway.redis.globs import Glob
from quorumcache.gateway.redis.session import SUBSCRIPTIONS_MAX, Session
from quorumcache.gateway.redis.table import Call, command

_FLAGS = "pubsub loading stale"


def _subscribe(call: Call, word: bytes, add: Callable[[Session, bytes], None]) -> Several:
    session, names = call.session, call.arguments[1:]
    if session.subscriptions + len(names) > SUBSCRIPTIONS_MAX:
        raise Fault(f"ERR a connection listens to {SUBSCRIPTIONS_MAX} channels and patterns at most")
    told = Several()
    for name in names:
        add(session, name)
        told.append(Push([word, name, session.subscriptions]))
    return told


def _unsubscribe(call: Call, word: bytes, names: list[bytes], remove: Callable[[Session, bytes], None]) -> Several:
    session = call.session
    told = Several()
    for name in names:
        remove(session, name)
        told.append(Push([word, name, session.subscriptions]))
    return told or Several([Push([word, None, session.subscriptions])])


@command("subscribe", -2, f"{_FLAGS} pubsub_context no_multi", group="pubsub", summary="Listens to channels.")
async def subscribe(call: Call) -> object:
    await call.session.gateway.notifications.begin_for(call.arguments[1:])
    return _subscribe(call, b"subscribe", call.session.gateway.channels.subscribe)


@command("psubscribe", -2, f"{_FLAGS} pubsub_context no_multi", group="pubsub", summary="Listens to patterns.")
async def psubscribe(call: Call) -> object:
    await call.session.gateway.notifications.begin_for(call.arguments[1:])
    return _subscribe(call, b"psubscribe", call.session.gateway.channels.subscribe_pattern)


@command("unsubscribe", -1, f"{_FLAGS} pubsub_context no_multi", group="pubsub", summary="Listens to channels no more.")
async def unsubscribe(call: Call) -> object:
    names = call.arguments[1:] or sorted(call.session.channels)
    return _unsubscribe(call, b"unsubscribe", names, call.session.gateway.channels.unsubscribe)


@command(
    "punsubscribe", -1, f"{_FLAGS} pubsub_context no_multi", group="pubsub", summary="Listens to patterns no more."
)
async def punsubscribe(call: Call) -> object:
    names = call.arguments[1:] or sorted(call.session.patterns)
    return _unsubscribe(call, b"punsubscribe", names, call.session.gateway.channels.unsubscribe_pattern)


@command("publish", 3, f"{_FLAGS} fast", group="pubsub", summary="Tells those who listen to a channel at this gateway.")
async def publish(call: Call) -> object:
    return call.session.gateway.channels.publish(call.arguments[1], call.arguments[2])


@command("pubsub", -2, _FLAGS, group="pubsub", summary="Tells of channels: CHANNELS, NUMSUB, NUMPAT.")
def pubsub(call: Call) -> object:
    channels, words = call.session.gateway.channels, call.arguments[2:]
    subcommand = call.arguments[1].upper()
    if subcommand == b"CHANNELS" and len(words) <= 1:
        glob = Glob(words[0] if words else b"*")
        return sorted(name for name in channels.channels if glob.fits(name))
    if subcommand == b"NUMSUB":
        return [item for name in words for item in (name, len(channels.channels.get(name, ())))]
    if subcommand == b"NUMPAT" and not words:
        return len(channels.patterns)
    if subcommand in (b"CHANNELS", b"NUMPAT"):
        raise wrong_arguments(f"pubsub|{subcommand.decode()}")
    raise unknown_subcommand("pubsub", call.arguments[1])
