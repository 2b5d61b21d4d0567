"""Rights and limits: what the configuration says, and what a node makes of it (protocol 3, prepare rules 1 and 7)."""

from __future__ import annotations

import dataclasses
import random

import pytest

from quorumcache.core import messages as m
from quorumcache.core.allowance import entry_size, is_of_key
from quorumcache.core.config import (
    Configuration,
    Limits,
    NamespaceInfo,
    RightInfo,
    WriterInfo,
    from_document,
    to_document,
)
from quorumcache.core.model import DELETE, PUT, encode_header, header_writer, slot_of
from quorumcache.core.outcome import DENIED, Failed, Found, Missed, Outcome, Written
from quorumcache.core.rights import ADMIN, READ, WRITE
from quorumcache.core.rights import DELETE as DELETE_ROLE
from quorumcache.errors import ConfigurationError
from tests.cluster import Client, Cluster, configuration_of, key_of
from tests.steps import S, finish

SPACES = (NamespaceInfo("test", writers=("w1",)), NamespaceInfo("closed", writers=(), readers=()))
RIGHTS = (
    RightInfo(("w2",), "test", (WRITE,), "mine/"),
    RightInfo(("w2", "w3"), "closed", (READ, WRITE), "shared/"),
    RightInfo(("w3",), "closed", (DELETE_ROLE,)),
    RightInfo(("w1",), "closed", (ADMIN,)),
)


def configuration(**limits: Limits) -> Configuration:
    writers = tuple(WriterInfo(w, key_of(w).public, limits=limits.get(w, Limits())) for w in ("w1", "w2", "w3"))
    return dataclasses.replace(configuration_of(namespaces=SPACES), rights=RIGHTS, writers=writers)


def allowed(config: Configuration, writer: str, namespace: str, name: bytes) -> str:
    """The first letters of what a writer may do."""
    roles = [role for role in (READ, WRITE, DELETE_ROLE) if _may(config, writer, role, namespace, name)]
    return "".join(role[0] for role in roles)


def _may(config: Configuration, writer: str, role: str, namespace: str, name: bytes) -> bool:
    key = key_of(writer).public if writer else b""
    return config.rights_table.may(key, role, namespace.encode(), name)


def test_what_may_be_done_follows_from_writers_readers_and_rights() -> None:
    config = configuration()
    table = {
        ("w1", "test", b"k"): "rwd",
        ("w2", "test", b"k"): "r",
        ("w2", "test", b"mine/k"): "rw",
        ("w2", "test", b"mine"): "r",
        ("", "test", b"k"): "r",
        ("w1", "closed", b"k"): "rwd",
        ("w2", "closed", b"k"): "",
        ("w2", "closed", b"shared/k"): "rw",
        ("w3", "closed", b"k"): "d",
        ("w3", "closed", b"shared/k"): "rwd",
        ("", "closed", b"shared/k"): "",
        ("w1", "unknown", b"k"): "",
    }
    for (writer, namespace, name), expected in table.items():
        assert allowed(config, writer, namespace, name) == expected, (writer, namespace, name)
    assert not config.rights_table.reading_is_open
    assert configuration_of().rights_table.reading_is_open
    # Nodes hold it all.
    assert config.rights_table.may(key_of("node 1").public, READ, b"closed", b"k")
    assert from_document(to_document(config)) == config


def test_prefixes_add_up_and_those_for_every_writer_are_for_writers_only() -> None:
    rights = (
        RightInfo(("w1",), "closed", (WRITE,), "a/"),
        RightInfo(("*",), "closed", (READ, WRITE), "all/"),
        RightInfo(("w1", "w2"), "closed", (WRITE, READ), "b/"),
    )
    config = dataclasses.replace(configuration_of(namespaces=SPACES), rights=rights)
    names = (b"a/k", b"b/k", b"all/k", b"k", b"")
    assert [allowed(config, "w1", "closed", name) for name in names] == ["w", "rw", "rw", "", ""]
    assert [allowed(config, "w3", "closed", name) for name in names] == ["", "", "rw", "", ""]
    assert [allowed(config, "", "closed", name) for name in names] == [""] * 5
    assert [allowed(config, "stranger", "closed", name) for name in names] == [""] * 5


@pytest.mark.parametrize("status", ["retired", "revoked"])
def test_only_active_writers_have_rights(status: str) -> None:
    writers = (WriterInfo("w1", key_of("w1").public, status),)
    config = dataclasses.replace(configuration_of(namespaces=SPACES), rights=RIGHTS[3:], writers=writers)
    assert allowed(config, "w1", "closed", b"k") == ""
    assert allowed(config, "w1", "test", b"k") == "r", "that is open to anyone"
    assert config.rights_table.missing(key_of("w1").public, WRITE, b"test", b"k") == f"the writer is {status}"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rights": [{"writers": ["erin"], "namespace": "a", "may": ["read"]}]}, r"rights\[0\]\.writers: 'erin' is no"),
        ({"rights": [{"writers": ["w1"], "namespace": "b", "may": ["read"]}]}, r"rights\[0\]\.namespace: 'b' is no"),
        ({"rights": [{"writers": ["w1"], "namespace": "a", "may": ["rule"]}]}, r"rights\[0\]\.may: .* read, write"),
        ({"rights": [{"writers": ["w1"], "namespace": "a", "may": []}]}, r"rights\[0\]\.may"),
        ({"rights": [{"writers": ["w1"], "namespace": "a", "may": ["read"] * 2}]}, r"rights\[0\]\.may"),
        (
            {"rights": [{"writers": ["w1"], "namespace": "a", "may": ["read"], "prefix": "\n"}]},
            r"\.prefix: .* ASCII",
        ),
        ({"rights": [{"writers": ["w1"], "namespace": "a", "may": ["read"], "who": 1}]}, r"rights\[0\]\.who: unknown"),
        ({"rights": [{"writers": ["w1"], "namespace": "h", "may": ["read"], "prefix": "x"}]}, r"\.prefix: .* hide the"),
        ({"namespaces": [{"name": "a", "readers": ["erin"]}]}, r"namespaces\[0\]\.readers: 'erin' is no writer"),
        ({"namespaces": [{"name": "a", "readers": ["anyone", "w1"]}]}, r"readers: 'anyone' is no writer"),
        ({"writers": [{"name": "w1", "key": "11" * 32, "keys_max": -1}]}, r"writers\[0\]\.keys_max: -1 is not allowed"),
        ({"writers": [{"name": "w1", "key": "11" * 32, "keys": 1}]}, r"writers\[0\]\.keys: unknown field"),
    ],
)
def test_what_is_wrong_is_named(changes: dict[str, object], message: str) -> None:
    document = to_document(configuration_of())
    document["writers"] = [{"name": "w1", "key": "11" * 32}]
    document["namespaces"] = [{"name": "a"}, {"name": "h", "encryption": "client", "hide_keys": True}]
    with pytest.raises(ConfigurationError, match=message):
        from_document({**document, **changes})


# --- at nodes ---


def put(client: Client, name: str, *, namespace: str = "test", kind: int = PUT, value: bytes = b"v") -> Outcome:
    """Write or delete, and how that ended."""
    token = (namespace, name, kind, client.cluster.now_us, len(client.outcomes))
    client.core.write(slot_of(namespace.encode(), name.encode()), kind, b"" if kind == DELETE else value, 0, token)
    outcome = finish(client, token, within_us=7 * S)
    assert isinstance(outcome, Written | Failed)
    return outcome


@pytest.mark.parametrize(
    ("writer", "namespace", "name", "kind", "words"),
    [
        ("w2", "test", "k", PUT, "w2 has no right to write in namespace test and has read for this key"),
        ("w2", "test", "mine/k", PUT, ""),
        ("w2", "test", "mine/k", DELETE, "w2 has no right to delete in namespace test and has read, write"),
        ("w3", "closed", "k", PUT, "w3 has no right to write in namespace closed and has delete for this key"),
        ("w3", "closed", "k", DELETE, ""),
        ("w2", "closed", "shared/k", PUT, ""),
        ("w1", "closed", "k", PUT, ""),
        ("w1", "test", "k", DELETE, ""),
    ],
)
def test_prepare_rule_1_names_the_right_that_is_missing(
    writer: str, namespace: str, name: str, kind: int, words: str
) -> None:
    cluster = Cluster(configuration=configuration())
    outcome = put(cluster.client(writer), name, namespace=namespace, kind=kind)
    if not words:
        assert isinstance(outcome, Written)
        return
    assert isinstance(outcome, Failed)
    assert outcome.kind == DENIED
    assert words in outcome.detail
    role = "delete" if kind == DELETE else "write"
    assert cluster.nodes[0].denied_counts == {f"{writer}: {role}": 1}


def ask(cluster: Cluster, client: str | None, request: m.Request) -> m.Reply:
    """What node 0 answers to whoever has proven this writer's key; "" is a stranger, None vouched for by the driver."""
    key = None if client is None else key_of(client).public if client else b""
    return cluster.nodes[0].handle(request, cluster.now_us, key)


@pytest.mark.parametrize("kind", ["Read", "ReadFull", "Outline", "Fields"])
def test_reads_of_every_kind_need_the_right(kind: str) -> None:
    cluster = Cluster(configuration=configuration())
    digest = cluster.configuration.digest
    secret, shared, public = (slot_of(n, k) for n, k in ((b"closed", b"k"), (b"closed", b"shared/k"), (b"test", b"k")))

    def request(*slots: bytes) -> m.Request:
        if kind == "Read":
            return m.Read(1, digest, list(slots), 0, len(slots))
        if kind == "ReadFull":
            return m.ReadFull(1, digest, list(slots))
        if kind == "Outline":
            return m.Outline(1, digest, slots[-1])
        return m.Fields(1, digest, slots[-1], b"\0", b"", b"")

    for client, slots, missing in (
        ("w1", [public, secret], ""),
        ("w2", [public, shared], ""),
        ("w2", [public, secret], "w2 has no right to read in namespace closed"),
        ("w3", [secret], "w3 has no right to read in namespace closed and has delete"),
        ("", [public], ""),
        ("", [public, shared], "a client without a key has no right to read in namespace closed for this key"),
        ("node 2", [secret], ""),
        (None, [secret], ""),
    ):
        reply = ask(cluster, client, request(*slots))
        if missing:
            assert isinstance(reply, m.Reject), (client, slots)
            assert reply.code == m.NOT_ALLOWED
            assert missing in reply.detail
        else:
            assert not (isinstance(reply, m.Reject) and reply.code == m.NOT_ALLOWED), (client, slots)
    assert sum(cluster.nodes[0].denied_counts.values()) == 3


def test_every_message_that_tells_of_entries_is_checked() -> None:
    """A message that comes new has to be put on one of these lists: unchecked, it would open every closed namespace."""
    cluster = Cluster(configuration=configuration())
    digest = cluster.configuration.digest
    group = next(iter(cluster.configuration.groups))
    secret = slot_of(b"closed", b"k")
    header = encode_header(secret, bytes(48), 0, bytes(32), 0, 0)
    closed = {
        m.Read: m.Read(1, digest, [secret], 0, 1),
        m.ReadFull: m.ReadFull(1, digest, [secret]),
        m.Report: m.Report(1, digest, 0, b""),
        m.Outline: m.Outline(1, digest, secret),
        m.Fields: m.Fields(1, digest, secret, b"\0", b"", b""),
        m.Scan: m.Scan(1, digest, group, b"closed", b"", m.Position(0), 10),
        m.ShardList: m.ShardList(1, digest, 0, b""),
        m.Witness: m.Witness(1, digest, secret, bytes(32)),
        m.Get: m.Get(1, digest, [secret]),
        m.Changes: m.Changes(1, digest, b"closed", b"k", True, 0, 0),
        m.Vote: m.Vote(1, digest, group, header, b"", bytes(64), bytes(48)),
        m.Lock: m.Lock(1, digest, group, header, b"", bytes(64), bytes(48), ()),
        m.ExactReport: m.ExactReport(1, digest, 0, b""),
    }
    # A writer's signature and certificates speak for themselves; hashes and clocks tell of no entry; proofs are sorted
    # out one by one; configurations are no secret, and who follows one has to be able to ask.
    harmless = {m.Prepare, m.Commit, m.Put, m.Forward, m.Ping, m.ShardSums, m.Evidence, m.Follow, m.SealEpoch}
    assert {*closed, *harmless} == set(m.TABLE)
    for client in ("", "w2"):
        for request in closed.values():
            reply = ask(cluster, client, request)
            assert isinstance(reply, m.Reject), request
            assert reply.code == m.NOT_ALLOWED, request


def test_listing_takes_the_right_to_read_below_the_prefix() -> None:
    cluster = Cluster(configuration=configuration())
    group = next(iter(cluster.configuration.groups))
    for client, prefix, may in (("w2", b"shared/", True), ("w2", b"shared/x", True), ("w2", b"shared", False)):
        request = m.Scan(1, cluster.configuration.digest, group, b"closed", prefix, m.Position(0), 10)
        assert isinstance(ask(cluster, client, request), m.ScanReply) == may


def test_reports_are_for_nodes() -> None:
    """Protocol 7: recovery asks for whole shards; nobody else has a use for them."""
    for config in (configuration(), configuration_of()):
        cluster = Cluster(configuration=config)
        request = m.Report(1, config.digest, 0, b"")
        for client in ("", "w1"):
            reply = ask(cluster, client, request)
            assert isinstance(reply, m.Reject)
            assert reply.code == m.NOT_ALLOWED
        assert isinstance(ask(cluster, "node 3", request), m.ReportReply)


@pytest.mark.parametrize("junk", [b"", b"\xff", b"\x04test", b"\x06closed\xff\xff", bytes(7)])
def test_junk_in_place_of_a_slot_is_refused_and_no_more(junk: bytes) -> None:
    cluster = Cluster(configuration=configuration())
    assert isinstance(ask(cluster, "w2", m.ReadFull(1, cluster.configuration.digest, [junk])), m.Reject)


def test_a_client_does_not_ask_for_what_it_may_not_read() -> None:
    """One that asked would have the reads that travel with it refused, too."""
    cluster = Cluster(configuration=configuration())
    client = cluster.client("w2")
    client.core.read(slot_of(b"closed", b"k"), "secret")
    client.core.read(slot_of(b"closed", b"shared/k"), "shared")
    client.run()
    assert isinstance(client.outcomes["shared"], Missed)
    denied = client.outcomes["secret"]
    assert isinstance(denied, Failed)
    assert denied.kind == DENIED
    assert "no right to read" in denied.detail


def test_refusals_by_most_nodes_are_a_denial() -> None:
    cluster = Cluster(configuration=configuration())
    client = cluster.client("w1")
    for node in (1, 2):
        cluster.lies[node] = lambda request, reply: m.Reject(request.id, reply.clock_us, m.NOT_ALLOWED, "not you")
    client.core.read(slot_of(b"closed", b"k"), "read")
    client.run()
    cluster.advance(6 * S)
    assert client.outcomes["read"] == Failed(DENIED, "not you")


# --- limits ---


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        (Limits(value_bytes_max=10), "values of the writer w1 have at most 10 bytes"),
        (Limits(ttl_s_max=60), "values of the writer w1 live at most 60 s, and have to have an end"),
    ],
)
def test_limits_of_a_value_are_named(limits: Limits, words: str) -> None:
    cluster = Cluster(configuration=configuration(w1=limits))
    outcome = put(cluster.client("w1"), "k", value=bytes(11))
    assert isinstance(outcome, Failed)
    assert outcome.kind == DENIED
    assert words in outcome.detail
    assert isinstance(put(cluster.client("w1"), "k", kind=DELETE), Written)
    # Whoever administers a namespace is not held to them there.
    assert isinstance(put(cluster.client("w1"), "k", namespace="closed", value=bytes(11)), Written)


def test_a_writer_at_its_keys_may_overwrite_and_delete_and_no_more() -> None:
    cluster = Cluster(configuration=configuration(w1=Limits(keys_max=2)))
    client = cluster.client("w1")
    assert isinstance(put(client, "a"), Written)
    assert isinstance(put(client, "b"), Written)
    over = put(client, "c")
    assert isinstance(over, Failed)
    assert over.kind == DENIED
    assert "the writer w1 is at its limit of 2 keys" in over.detail
    assert isinstance(put(client, "a", value=b"again"), Written)
    assert isinstance(put(client, "b", kind=DELETE), Written)
    for _ in range(4):
        # A tombstone is a key as well, until it is reaped.
        cluster.advance(S)
        for node in cluster.nodes.values():
            node.tick(cluster.now_us)
    assert isinstance(put(client, "c"), Written)


def test_a_writer_at_its_bytes_may_only_write_what_is_no_longer() -> None:
    cluster = Cluster(configuration=configuration(w1=Limits(bytes_max=2000)))
    client = cluster.client("w1")
    assert isinstance(put(client, "a", value=bytes(800)), Written)
    assert isinstance(put(client, "b", value=bytes(800)), Written)
    for name, size in (("c", 300), ("a", 1300)):
        over = put(client, name, value=bytes(size))
        assert isinstance(over, Failed)
        assert "at its limit of 2000 bytes" in over.detail
    assert isinstance(put(client, "a", value=bytes(100)), Written)
    assert isinstance(put(client, "c", value=bytes(300)), Written)


def test_what_is_promised_counts_so_that_a_limit_cannot_be_passed_in_one_go() -> None:
    """Else a writer would prepare a thousand keys before it commits the first."""
    cluster = Cluster(configuration=configuration(w1=Limits(keys_max=5)))
    client = cluster.client("w1")
    for i in range(20):
        client.core.write(slot_of(b"test", b"%d" % i), PUT, b"v", 0, i)
    client.run()
    for _ in range(700):
        cluster.advance(10_000)
        client.run()
    outcomes = [client.outcomes[i] for i in range(20)]
    assert sum(isinstance(outcome, Written) for outcome in outcomes) == 5
    refused = [outcome for outcome in outcomes if isinstance(outcome, Failed)]
    assert {outcome.kind for outcome in refused} == {DENIED}
    for node in cluster.nodes.values():
        assert len(node.slots.current) == 5


def test_a_rate_delays_writes_and_fails_none_that_it_allows_in_time() -> None:
    cluster = Cluster(configuration=configuration(w1=Limits(writes_per_s=10)))
    client = cluster.client("w1")
    start_us = cluster.now_us
    for i in range(30):
        client.core.write(slot_of(b"test", b"%d" % i), PUT, b"v", 0, i)
    client.run()
    assert sum(isinstance(outcome, Written) for outcome in client.outcomes.values()) <= 10, "a second's worth at once"
    while len(client.outcomes) < 30 and cluster.now_us < start_us + 6 * S:
        cluster.advance(10_000)
        client.run()
    assert all(isinstance(outcome, Written) for outcome in client.outcomes.values())
    assert cluster.now_us - start_us >= 2 * S - 100_000, "20 beyond the first second's take two more"
    assert cluster.nodes[0].denied_counts["w1: limit"] > 0
    # Others are not held up by it.
    assert isinstance(put(cluster.client("w2"), "mine/k"), Written)


def test_use_is_what_is_there_after_anything() -> None:
    """The sums are those of the current entries and open promises, whatever was written, deleted, reaped or evicted."""
    limits = Limits(bytes_max=50_000, keys_max=40)
    cluster = Cluster(configuration=configuration(w1=limits, w2=limits))
    clients = [cluster.client("w1"), cluster.client("w2")]
    randomness = random.Random(3)
    cluster.down = {3}
    for _ in range(300):
        client = randomness.choice(clients)
        name = f"mine/{randomness.randrange(30)}"
        if randomness.randrange(4):
            put(client, name, value=randomness.randbytes(randomness.randrange(300)))
        else:
            put(client, name, kind=DELETE)
        if not randomness.randrange(10):
            cluster.advance(randomness.randrange(3 * S))
            for node in cluster.nodes.values():
                node.tick(cluster.now_us)
        if not randomness.randrange(30):
            slots = cluster.nodes[0].slots
            for slot in randomness.sample(sorted(slots.current), min(3, len(slots.current))):
                slots.drop(slot)
    for node in cluster.nodes.values():
        assert node.slots.allowances is not None
        for writer in ("w1", "w2"):
            key = key_of(writer).public
            used = node.slots.allowances._used[key]
            own = [(slot, held) for slot, held in node.slots if header_writer(held.header) == key]
            assert used.held == [
                sum(entry_size(held.header) for _, held in own),
                sum(is_of_key(slot) for slot, _ in own),
                sum(not is_of_key(slot) for slot, _ in own),
            ]
            promised = [promise.header for promise in node.slots.promises if promise.header.writer == key]
            assert used.open == [sum(len(h.raw) + h.size for h in promised), len(promised), 0]


def test_what_is_read_is_what_the_rights_say() -> None:
    cluster = Cluster(configuration=configuration())
    assert isinstance(put(cluster.client("w1"), "shared/k", namespace="closed", value=b"secret"), Written)
    reader = cluster.client("w3")
    reader.core.read(slot_of(b"closed", b"shared/k"), "read")
    reader.run()
    outcome = reader.outcomes["read"]
    assert isinstance(outcome, Found)
    assert outcome.salted[16:] == b"secret"
