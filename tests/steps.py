"""Steps that tests of clients share: read a value, run an operation to its end, raise a floor, lie about one."""

from __future__ import annotations

from collections.abc import Callable

from quorumcache.core import messages as m
from quorumcache.core.outcome import Found, Missed
from tests.cluster import Client, Cluster, slot

S = 1_000_000


def value_of(client: Client, key: str) -> bytes | None:
    """The value read, None for a miss."""
    token = client.read(key)
    client.run()
    client.cluster.advance(S)
    outcome = client.outcomes[token]
    assert isinstance(outcome, Found | Missed), outcome
    return outcome.salted[16:] if isinstance(outcome, Found) else None


def finish(client: Client, token: object, within_us: int = 6 * S) -> object:
    """Run until the operation ended, and return how."""
    client.run()
    for _ in range(within_us // 10_000):
        if token in client.outcomes:
            return client.outcomes[token]
        client.cluster.advance(10_000)
    raise AssertionError("the operation never ended")


def is_quiet(client: Client) -> bool:
    """Whether nothing is left of any operation."""
    client.run()
    core = client.core
    return core.is_idle and not core._delayed and not core._routes and core.deadline_us is None


def raise_floor(cluster: Cluster, node: int, key: str, time_us: int) -> None:
    slots = cluster.nodes[node].slots
    slots.raise_floor(slots.shard(slot(key)), time_us)


def kinds(sent: list[tuple[int, m.Request]]) -> list[tuple[int, str]]:
    return [(node, type(request).__name__) for node, request in sent]


def floor_liar(floor_us: int) -> Callable[[m.Request, m.Reply], m.Reply | None]:
    """Claims a floor for whatever is prepared."""

    def lie(request: m.Request, reply: m.Reply) -> m.Reply:
        if isinstance(request, m.Prepare):
            refusals = [m.Refusal(i, m.BELOW_FLOOR, floor_us) for i in range(len(request.headers))]
            return m.PrepareReply(request.id, reply.clock_us, bytes((len(refusals) + 7) // 8), b"", refusals)
        return reply

    return lie
