"""Recovery of keys with fields (protocol 7): a key as a whole or not at all, also where its pages are read while it
changes, and whatever one of the reporters says."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from quorumcache.core import messages as m
from quorumcache.core.model import PUT, header_time
from quorumcache.core.node import Node
from quorumcache.core.outcome import Found, Written
from quorumcache.core.repair import Recovery
from quorumcache.core.types.base import field_slot
from quorumcache.core.types.siblings import Siblings, encode_seen
from tests.cluster import Client, Cluster, key_of
from tests.fields import base_slot, cluster_of, delete_key, put, read
from tests.steps import finish

S = 1_000_000


def recovered(cluster: Cluster, between: Callable[[int], None]) -> Node:
    """Restart node 0 without state and recover it; `between` is called with the number of each page beforehand."""
    node = cluster.start(0)
    recovery = Recovery(node, cluster.now_us, first_id=1)
    cluster.now_us += 11 * S
    pages = 0
    for _ in range(3000):
        if recovery.finished:
            break
        recovery.wake(cluster.now_us)
        out, recovery.outbox = recovery.outbox, []
        for nodes, request in out:
            for peer in nodes:
                between(pages)
                pages += 1
                reply = cluster.answer(peer, request)
                if reply is not None:
                    recovery.receive(peer, reply, cluster.now_us)
        assert pages < 1000, "asked without end"
        if not recovery.outbox:
            cluster.now_us += 100_000
    assert recovery.finished
    return node


def filled(count: int) -> tuple[Cluster, Client]:
    cluster = cluster_of(shards=1)
    client = cluster.client()
    for token in [put(client, "map", b"%03d" % i) for i in range(count)]:
        assert isinstance(finish(client, token), Written)
    finish(client, put(client, "set", b"beside it"))
    return cluster, client


def test_a_new_time_to_live_between_two_pages_does_not_spoil_the_report() -> None:
    cluster, client = filled(100)

    def touch(page: int) -> None:
        if page == 3:
            client.core.write(base_slot("map"), PUT, b"", cluster.now_us + 60 * S, "touch")
            client.run()
            assert isinstance(client.outcomes["touch"], Written)

    node = recovered(cluster, touch)
    assert len(node.slots.keys[base_slot("map")].fields) == 100
    assert node.slots.keys[base_slot("map")].digest() == cluster.nodes[1].slots.keys[base_slot("map")].digest()


@pytest.mark.parametrize("count", [63, 0, 62])
def test_a_field_that_comes_after_a_key_was_reported_does_not_spoil_the_report(count: int) -> None:
    """The page ends with the key, and then the key goes on after all."""
    cluster, client = filled(max(count, 1))

    def add(page: int) -> None:
        if page == 3:
            client_put = put(client, "map", b"999")
            client.run()
            assert isinstance(client.outcomes[client_put], Written)

    node = recovered(cluster, add)
    assert len(node.slots.keys[base_slot("map")].fields) >= max(count, 1)
    assert base_slot("set") in node.slots.keys


def test_a_new_generation_between_two_pages_costs_that_key_and_no_more() -> None:
    cluster, client = filled(100)

    def renew(page: int) -> None:
        if page == 3:
            finish(client, delete_key(client, "map"))
            for token in [put(client, "map", b"%03d" % i) for i in range(100)]:
                assert isinstance(finish(client, token), Written)

    node = recovered(cluster, renew)
    assert base_slot("set") in node.slots.keys
    key = node.slots.keys.get(base_slot("map"))
    assert key is None or len(key.fields) == 100


def test_of_siblings_that_peers_report_those_stay_that_none_replaces() -> None:
    """One peer still has what another's entry replaces: with both, the node would differ from all others for good."""
    cluster = cluster_of(shards=1)
    client = cluster.client()
    slots = [field_slot(base_slot("siblings"), key_of("w1").public + bytes((i,)) * 8) for i in range(3)]
    for i in range(2):
        client.core.write(slots[i], PUT, b"old", 0, i, b"")
        finish(client, i)
    found = read(client, base_slot("siblings"))
    assert isinstance(found, Found)
    seen = Siblings().seen_in(found.fields or ())
    cluster.now_us += S
    cluster.down.add(3)
    client.core.write(slots[2], PUT, b"new", 0, "new", encode_seen(seen))
    finish(client, "new")
    cluster.down.clear()
    assert [len(cluster.nodes[i].slots.keys[base_slot("siblings")].fields) for i in range(4)] == [1, 1, 1, 2]
    node = recovered(cluster, lambda page: None)
    key = node.slots.keys[base_slot("siblings")]
    assert list(key.fields) == [slots[2]]
    assert key.digest() == cluster.nodes[1].slots.keys[base_slot("siblings")].digest()
    assert key.barrier_us >= max(header_time(raw) for raw, _ in found.fields or ())


@pytest.mark.parametrize(("count", "comes_back"), [(3, True), (4, False)])
def test_of_siblings_no_more_are_compared_than_a_node_has_time_for(
    monkeypatch: pytest.MonkeyPatch, count: int, comes_back: bool
) -> None:
    """Each is compared with all others, and a liar reports whatever was certified, ever: a key of which too much is
    reported is left out, and nothing else is."""
    cluster, client = filled(1)
    for i in range(count):
        slot = field_slot(base_slot("siblings"), key_of("w1").public + bytes((i,)) * 8)
        client.core.write(slot, PUT, b"", 0, i, b"")
        assert isinstance(finish(client, i), Written)
    monkeypatch.setattr(Siblings, "fields_max", 1)
    node = recovered(cluster, lambda page: None)
    assert (base_slot("siblings") in node.slots.keys) == comes_back
    assert {base_slot("map"), base_slot("set")} <= node.slots.keys.keys()


def test_a_report_that_goes_on_with_nothing_is_not_asked_for_again() -> None:
    """A liar repeats the key's base, page after page."""
    cluster, _ = filled(100)

    def lie(request: m.Request, reply: m.Reply) -> m.Reply:
        if isinstance(request, m.Report) and isinstance(reply, m.ReportReply) and request.after:
            base = cluster.nodes[1].slots.keys[base_slot("map")].base.entry()
            return m.ReportReply(reply.id, reply.clock_us, reply.floor_us, [base], True, True)
        return reply

    cluster.lies[1] = lie
    recovered(cluster, lambda page: None)
