"""Protocol 4, scan: whole listings, page by page, from clusters in which nodes lie about what they have.

Real nodes and coordinators of the core, real pages and cursors of the client; the network is the test's.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Final

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quorumcache.client.cursor import make_cursor
from quorumcache.client.listing import LIMIT_MAX, PARTS_MAX, Key, Listing, Page
from quorumcache.core import messages as m
from quorumcache.core.config import Configuration
from quorumcache.core.model import DELETE, slot_of, slot_parts
from quorumcache.core.outcome import Failed, Found, Listed, Missed, Written
from quorumcache.errors import InvalidKey, Misuse
from tests.cluster import START_US, Client, Cluster, configuration_of, slot
from tests.steps import S, finish, is_quiet

Lie = Callable[[m.Scan, m.ScanReply], m.Reply | None]


class Walk:
    """Listings by one client of a cluster, with what they cost."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.client = cluster.client(None)
        self.parts = 0
        self.listing = Listing(cluster.configuration, b"test", self._part, self._are_there)

    @property
    def doubted(self) -> int:
        return self.client.core.counts["keys_doubted"]

    async def _part(self, prefix: bytes, start: m.Position, count: int) -> Listed:
        self.parts += 1
        outcome = finish(self.client, self.client.scan(prefix, start, count))
        assert isinstance(outcome, Listed), outcome
        return outcome

    async def _are_there(self, slots: list[bytes]) -> list[bool]:
        tokens = [self.client.read(slot_parts(s)[1].decode("latin-1")) for s in slots]
        outcomes = [finish(self.client, token) for token in tokens]
        assert not any(isinstance(outcome, Failed) for outcome in outcomes)
        return [isinstance(outcome, Found) for outcome in outcomes]

    def page(self, prefix: Key = b"", limit: int = 1000, cursor: str | None = None) -> Page:
        return asyncio.run(self.listing.page(prefix, limit, cursor))

    def all(self, prefix: Key = b"", limit: int = 1000, between: Callable[[], None] = lambda: None) -> list[Key]:
        """All pages' keys; `between` happens between two of them."""
        keys: list[Key] = []
        cursor = None
        for _ in range(500):
            page = self.page(prefix, limit, cursor)
            assert len(page.keys) <= limit
            keys += page.keys
            cursor = page.cursor
            if cursor is None:
                return keys
            between()
        raise AssertionError("the listing never ends")


def filled(keys: list[str], configuration: Configuration | None = None, f: int = 1) -> tuple[Cluster, Client]:
    cluster = Cluster(f, configuration)
    client = cluster.client()
    written(client, keys)
    return cluster, client


def written(client: Client, keys: list[str]) -> None:
    tokens = [client.write(key, b"v") for key in keys]
    client.run()
    assert all(isinstance(client.outcomes[t], Written) for t in tokens)


def place_of(cluster: Cluster, key: bytes) -> tuple[int, int, bytes]:
    return (cluster.configuration.shard_of(slot_of(b"test", key)), len(key), key)


def in_order(cluster: Cluster, keys: list[str]) -> list[Key]:
    """By group, shard and slot."""
    configuration = cluster.configuration
    groups = list(configuration.shards_of_groups)

    def place(key: bytes) -> tuple[int, tuple[int, int, bytes]]:
        at = place_of(cluster, key)
        return groups.index(configuration.shard_groups[at[0]].id), at

    return sorted((key.encode() for key in keys), key=place)


# --- lies ---


def listed(request: m.Scan, reply: m.ScanReply, keys: list[bytes], stop: m.Position | None) -> m.ScanReply:
    return m.ScanReply(request.id, reply.clock_us, keys, b"\x01" * 32 * len(keys), stop)


class Lies:
    """What a node can say instead of what it has."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.planted = 0

    def _first(self, request: m.Scan, count: int) -> list[bytes]:
        """Keys that nobody wrote, which come before all that somebody did: endless ones, shorter than any other."""
        made: list[bytes] = []
        low = place_of_position(request.start)
        number = 0
        while len(made) < count and number < 1 << 16:
            key = request.prefix + number.to_bytes(2, "big")
            place = place_of(self.cluster, key)
            if place > low and place[0] == request.start.shard:
                made.append(key)
            number += 1
        self.planted += len(made)
        return sorted(made, key=lambda key: place_of(self.cluster, key))

    def hides_all(self, request: m.Scan, reply: m.ScanReply) -> m.Reply | None:
        return listed(request, reply, [], None)

    def hides_half(self, request: m.Scan, reply: m.ScanReply) -> m.Reply | None:
        digests = b"".join(reply.digests[at : at + 32] for at in range(0, len(reply.digests), 64))
        stop = reply.stop if reply.stop is None or not reply.stop.after else None
        return msgspec.structs.replace(reply, keys=reply.keys[::2], digests=digests, stop=stop)

    def plants(self, request: m.Scan, reply: m.ScanReply) -> m.Reply | None:
        keys = self._first(request, 3)
        return listed(request, reply, keys, None)

    def plants_without_end(self, request: m.Scan, reply: m.ScanReply) -> m.Reply | None:
        keys = self._first(request, request.count)
        if len(keys) < request.count:
            return reply
        return listed(request, reply, keys, m.Position(request.start.shard, keys[-1]))

    def other_digests(self, request: m.Scan, reply: m.ScanReply) -> m.Reply | None:
        return listed(request, reply, reply.keys, reply.stop)

    def absent_digests(self, request: m.Scan, reply: m.ScanReply) -> m.Reply | None:
        return msgspec.structs.replace(reply, digests=bytes(len(reply.digests)))

    def twice(self, request: m.Scan, reply: m.ScanReply) -> m.Reply | None:
        return listed(request, reply, (reply.keys[:1] * 2 + reply.keys[1:])[: request.count], reply.stop)

    def backwards(self, request: m.Scan, reply: m.ScanReply) -> m.Reply | None:
        return listed(request, reply, reply.keys[::-1], reply.stop)

    def in_one_shard(self, request: m.Scan, reply: m.ScanReply) -> m.Reply | None:
        return listed(request, reply, sorted(reply.keys, key=lambda key: (len(key), key)), reply.stop)

    def stands_still(self, request: m.Scan, reply: m.ScanReply) -> m.Reply | None:
        return listed(request, reply, [], request.start)

    def crawls(self, request: m.Scan, reply: m.ScanReply) -> m.Reply | None:
        return listed(request, reply, reply.keys[:1], m.Position(request.start.shard, (reply.keys or [b"k"])[0]))

    def a_shard_at_a_time(self, request: m.Scan, reply: m.ScanReply) -> m.Reply | None:
        following = request.start.shard + 1
        return listed(request, reply, [], m.Position(following) if following < 8 else None)

    def goes_back(self, request: m.Scan, reply: m.ScanReply) -> m.Reply | None:
        return listed(request, reply, reply.keys, m.Position(0))

    def ends_early(self, request: m.Scan, reply: m.ScanReply) -> m.Reply | None:
        return msgspec.structs.replace(reply, stop=None)

    def begins_again(self, request: m.Scan, reply: m.ScanReply) -> m.Reply | None:
        """Everything there is, whatever was asked for: what came before, other groups' keys, other prefixes."""
        keys = {slot_parts(s)[1] for node in self.cluster.nodes.values() for s in node.slots.current}
        return listed(request, reply, sorted(keys, key=lambda key: place_of(self.cluster, key))[: request.count], None)

    def goes_astray(self, request: m.Scan, reply: m.ScanReply) -> m.Reply | None:
        """In order and from the start that was asked for, but also from shards of other groups."""
        keys = {slot_parts(s)[1] for node in self.cluster.nodes.values() for s in node.slots.current}
        places = sorted(place_of(self.cluster, key) for key in keys if key.startswith(request.prefix))
        keys_after = [place[2] for place in places if place > place_of_position(request.start)]
        return listed(request, reply, keys_after[: request.count], None)

    def beyond_the_end(self, request: m.Scan, reply: m.ScanReply) -> m.Reply | None:
        return listed(request, reply, reply.keys, m.Position(60_000))

    def too_many(self, request: m.Scan, reply: m.ScanReply) -> m.Reply | None:
        return listed(request, reply, self._first(request, request.count + 1), None)

    def few_digests(self, request: m.Scan, reply: m.ScanReply) -> m.Reply | None:
        return msgspec.structs.replace(reply, digests=reply.digests[:-1] or b"\x01")

    def no_key(self, request: m.Scan, reply: m.ScanReply) -> m.Reply | None:
        return listed(request, reply, [b"", *reply.keys][: request.count], reply.stop)

    def other_prefix(self, request: m.Scan, reply: m.ScanReply) -> m.Reply | None:
        return listed(request, reply, [b"\xffother"], None)

    def rejects(self, request: m.Scan, reply: m.ScanReply) -> m.Reply | None:
        return m.Reject(request.id, reply.clock_us, m.OVERLOADED, "not today")

    def silent(self, request: m.Scan, reply: m.ScanReply) -> m.Reply | None:
        return None

    def another_reply(self, request: m.Scan, reply: m.ScanReply) -> m.Reply | None:
        return m.Pong(request.id, reply.clock_us)


LIES: Final = sorted(name for name in vars(Lies) if not name.startswith("_"))


def place_of_position(position: m.Position) -> tuple[int, int, bytes]:
    return position.shard, len(position.after), position.after


def lying(lie: Lie) -> Callable[[m.Request, m.Reply], m.Reply | None]:
    def twist(request: m.Request, reply: m.Reply) -> m.Reply | None:
        return lie(request, reply) if isinstance(request, m.Scan) and isinstance(reply, m.ScanReply) else reply

    return twist


KEYS: Final = [f"key {i}" for i in range(60)]
#: What no correct node sends: it counts for nothing, and against the node.
NONSENSE: Final = (
    "absent_digests",
    "backwards",
    "begins_again",
    "beyond_the_end",
    "crawls",
    "few_digests",
    "goes_back",
    "no_key",
    "other_prefix",
    "stands_still",
    "too_many",
    "twice",
)


@pytest.mark.parametrize("name", NONSENSE)
def test_what_no_correct_node_sends_is_no_answer(name: str) -> None:
    """Protocol 4, scan 1: out of order, twice, unasked for, too many, or stopped where there was room for more."""
    cluster, _ = filled(KEYS)
    lies = Lies(cluster)
    cluster.lies[0] = lying(getattr(lies, name))
    client = cluster.client(None)
    # In the middle of the listing, so that there is something before it.
    start = m.Position(3, min(k.encode() for k in KEYS if place_of(cluster, k.encode())[0] == 3))
    outcome = finish(client, client.scan(b"key ", start, 7))
    assert isinstance(outcome, Listed)
    after = sorted(place for key in KEYS if (place := place_of(cluster, key.encode())) > place_of_position(start))
    assert outcome.keys == [place[2] for place in after[:7]]
    assert outcome.doubtful == []
    assert client.core.counts["lies_rejected"] == 1
    # The other three agree and end it at once; where one of them is silent, two and a lie are no quorum.
    cluster.lies[1] = lying(lies.silent)
    token = client.scan(b"key ", start, 7)
    client.run()
    assert token not in client.outcomes
    assert client.core.counts["lies_rejected"] == 2
    cluster.lies.pop(1)
    assert finish(client, token) == outcome


@pytest.mark.parametrize("liar", [0, 2, 3])
@pytest.mark.parametrize("limit", [7, 1000])
@pytest.mark.parametrize("name", LIES)
def test_one_liar_of_four_neither_hides_nor_plants_nor_repeats_a_key(name: str, limit: int, liar: int) -> None:
    """Protocol 4, scan: and it costs a bounded number of reads and of parts."""
    cluster, _ = filled(KEYS)
    lies = Lies(cluster)
    cluster.lies[liar] = lying(getattr(lies, name))
    walk = Walk(cluster)
    assert walk.all(b"", limit) == in_order(cluster, KEYS)
    assert walk.parts <= -(-60 // min(limit, 1024)) + 8, "as many parts as without a liar, or one a shard at most"
    assert walk.doubted <= 2 * len(KEYS) + lies.planted
    assert is_quiet(walk.client)


@pytest.mark.parametrize("name", LIES)
def test_two_liars_of_seven(name: str) -> None:
    cluster, _ = filled(KEYS[:20], f=2)
    for liar in (1, 4):
        cluster.lies[liar] = lying(getattr(Lies(cluster), name))
    assert Walk(cluster).all(b"", 6) == in_order(cluster, KEYS[:20])


@pytest.mark.parametrize("name", LIES)
def test_a_liar_beside_a_correct_node_that_has_nothing(name: str) -> None:
    """Every key is doubtful then: reads settle each (protocol 4, read 2), and write it back."""
    cluster, _ = filled(KEYS[:12])
    cluster.start(3, floor_us=0)
    cluster.lies[0] = lying(getattr(Lies(cluster), name))
    assert Walk(cluster).all(b"", 5) == in_order(cluster, KEYS[:12])


def test_deleted_keys_are_not_revived_by_a_liar_that_keeps_their_entries() -> None:
    """Protocol 5.3: valid certificates, old digests, and the very bytes that were true once."""
    cluster, client = filled(KEYS[:10])
    kept = {i: cluster.nodes[0].slots.digest_at(slot(f"key {i}")) for i in range(10)}
    for key in KEYS[:5]:
        client.core.write(slot(key), DELETE, b"", 0, ("delete", key))
    client.run()

    def revives(request: m.Scan, reply: m.ScanReply) -> m.Reply | None:
        keys = sorted((f"key {i}".encode() for i in range(10)), key=lambda key: place_of(cluster, key))
        digests = b"".join(kept[int(key[4:])] for key in keys)
        return m.ScanReply(request.id, reply.clock_us, keys, digests, None)

    for liar in range(4):
        cluster.lies = {liar: lying(revives)}
        walk = Walk(cluster)
        assert walk.all() == in_order(cluster, KEYS[5:10])
        assert walk.doubted <= 10


def test_agreement_costs_no_read_and_one_request_a_node() -> None:
    cluster, _ = filled(KEYS)
    walk = Walk(cluster)
    assert walk.all() == in_order(cluster, KEYS)
    assert (walk.parts, walk.doubted) == (1, 0)
    assert walk.client.core.counts["reads_fast"] == 0


def test_a_key_that_changes_between_two_nodes_answers_is_listed_once() -> None:
    cluster, client = filled(KEYS[:10])
    walk = Walk(cluster)

    def overwrites(request: m.Scan, reply: m.ScanReply) -> m.Reply | None:
        cluster.lies.clear()
        written(client, KEYS[:3])
        return reply

    cluster.lies[1] = lying(overwrites)
    assert walk.all() == in_order(cluster, KEYS[:10])
    assert walk.doubted == 3, "two nodes listed the old entries, two the new ones"


def test_an_endless_liar_and_a_slow_node_cost_time_but_no_page_lasts_for_ever() -> None:
    """One fault too many for speed: a page still ends after a bounded number of parts, each within the grace time."""
    cluster, _ = filled(KEYS)
    lies = Lies(cluster)
    cluster.lies = {0: lying(lies.plants_without_end), 3: lying(lies.silent)}
    walk = Walk(cluster)
    page = walk.page(b"", 4)
    assert walk.parts <= PARTS_MAX
    assert set(page.keys) <= set(in_order(cluster, KEYS))
    assert cluster.now_us - START_US <= PARTS_MAX * 300_000
    cluster.lies.clear()
    rest = page.keys
    while page.cursor is not None:
        page = walk.page(b"", 4, page.cursor)
        rest += page.keys
    assert rest == in_order(cluster, KEYS)


@pytest.mark.parametrize("down", [{0}, {3}])
def test_with_a_node_down_nobody_waits_where_the_others_agree(down: set[int]) -> None:
    cluster, _ = filled(KEYS)
    cluster.down = down
    before_us = cluster.now_us
    assert Walk(cluster).all(b"", 9) == in_order(cluster, KEYS)
    assert cluster.now_us == before_us


def test_without_a_quorum_a_part_fails_within_op_time_and_says_why() -> None:
    cluster, _ = filled(KEYS[:3])
    cluster.down = {0, 1}
    client = cluster.client(None)
    outcome = finish(client, client.scan())
    assert isinstance(outcome, Failed)
    assert outcome.kind == "unavailable"
    assert "2 of 4" in outcome.detail
    assert is_quiet(client)


def test_more_than_f_that_refuse_or_send_nonsense_end_a_part_at_once() -> None:
    cluster, _ = filled(KEYS[:3])
    lies = Lies(cluster)
    for broken in (lies.rejects, lies.stands_still):
        cluster.lies = {0: lying(broken), 2: lying(broken)}
        client = cluster.client(None)
        before_us = cluster.now_us
        token = client.scan()
        client.run()
        outcome = client.outcomes[token]
        assert isinstance(outcome, Failed), broken
        assert "2 of 4" in outcome.detail
        assert cluster.now_us == before_us
        assert is_quiet(client)


def test_a_lost_request_is_sent_again() -> None:
    cluster, _ = filled(KEYS[:3])
    lost = {1, 2}

    def loses(node: int) -> Lie:
        def lie(request: m.Scan, reply: m.ScanReply) -> m.Reply | None:
            if node in lost:
                lost.discard(node)
                return None
            return reply

        return lie

    cluster.lies = {node: lying(loses(node)) for node in (1, 2)}
    assert Walk(cluster).all() == in_order(cluster, KEYS[:3])


def test_lists_that_differ_much_make_no_page_longer_than_its_limit() -> None:
    """Each key is at two nodes only, as after writes that were cut off: reads complete them (protocol 4, read 2)."""
    cluster, _ = filled(KEYS)
    for i, key in enumerate(KEYS):
        for node in (2 * (i % 2), 2 * (i % 2) + 1):
            cluster.nodes[node].slots.put_back(slot(key), None)
    walk = Walk(cluster)
    assert walk.all(b"", 5) == in_order(cluster, KEYS)
    assert walk.doubted >= 60


# --- pages and cursors ---


def test_groups_follow_one_another() -> None:
    """More nodes than a group has: each shard is listed by those that serve it."""
    configuration = configuration_of(nodes=6, shards=16)
    assert len(configuration.groups) > 3
    cluster, _ = filled(KEYS, configuration)
    for limit in (5, 1000):
        assert Walk(cluster).all(b"", limit) == in_order(cluster, KEYS)


@pytest.mark.parametrize("name", ["begins_again", "goes_astray"])
@pytest.mark.parametrize("liar", range(5))
def test_a_liar_that_lists_other_groups_keys_and_other_prefixes_repeats_none(liar: int, name: str) -> None:
    """Reads would find them: so they are no answer where they do not belong."""
    configuration = configuration_of(nodes=6, shards=16)
    cluster, _ = filled(KEYS, configuration)
    lies = Lies(cluster)
    cluster.lies = {liar: lying(getattr(lies, name)), 5: lying(slow(2))}
    for prefix in ("", "key 1"):
        wanted = [key for key in KEYS if key.startswith(prefix)]
        assert Walk(cluster).all(prefix.encode(), 6) == in_order(cluster, wanted)


def slow(times: int) -> Lie:
    """Answers a request when it comes for so many times: after the grace time."""
    asked: dict[int, int] = {}

    def lie(request: m.Scan, reply: m.ScanReply) -> m.Reply | None:
        asked[request.id] = asked.get(request.id, 0) + 1
        return reply if asked[request.id] >= times else None

    return lie


def test_keys_come_as_the_prefix_is_given() -> None:
    cluster, client = filled(["a", "é"])
    client.core.write(slot_of(b"test", b"\xff"), 0, b"v", 0, "raw")
    client.run()
    walk = Walk(cluster)
    assert set(walk.all("")) == {"a", "é", b"\xff"}
    assert set(walk.all(b"")) == {b"a", "é".encode(), b"\xff"}
    assert walk.all("é") == ["é"]
    assert walk.all(b"\xff") == [b"\xff"]


@pytest.mark.parametrize("prefix", ["\udc80", b"k" * 1025, 7, None])
def test_what_no_key_begins_with_is_no_prefix(prefix: object) -> None:
    with pytest.raises(InvalidKey):
        Walk(Cluster()).page(prefix)  # type: ignore[arg-type]


@pytest.mark.parametrize("limit", [0, -1, LIMIT_MAX + 1, 1.5, True, None])
def test_a_limit_has_its_bounds(limit: object) -> None:
    with pytest.raises(Misuse, match="limit"):
        Walk(Cluster()).page(b"", limit)  # type: ignore[arg-type]


def test_a_cursor_goes_on_with_its_own_listing_only() -> None:
    cluster, _ = filled(KEYS)
    walk = Walk(cluster)
    cursor = walk.page("key", 7).cursor
    assert cursor is not None
    assert cursor.isascii()
    assert cursor.isprintable()
    assert walk.page("key", 3, cursor) == walk.page("key", 3, cursor)
    for prefix in ("", "ke", "key 1"):
        with pytest.raises(Misuse, match="another namespace or prefix"):
            walk.page(prefix, 7, cursor)
    later = Cluster(configuration=configuration_of(epoch=2))
    with pytest.raises(Misuse, match="another configuration"):
        Walk(later).page("key", 7, cursor)


@pytest.mark.parametrize(
    "position", [m.Position(8), m.Position(65_535), m.Position(0, b"other"), m.Position(7, b"key 1")]
)
def test_a_cursor_to_nowhere_is_refused(position: m.Position) -> None:
    """No such shard, another prefix, a key of another shard."""
    cluster = FILLED.cluster
    assert place_of(cluster, b"key 1")[0] != 7
    cursor = make_cursor(cluster.configuration, b"test", b"key", position)
    with pytest.raises(Misuse, match="altered"):
        FILLED.page("key", 7, cursor)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_an_altered_cursor_is_refused_or_harmless(data: st.DataObject) -> None:
    """Whatever comes back as a cursor: a clear error, or a page of keys that are there."""
    cursor = FILLED.page("key", 7).cursor
    assert cursor is not None
    at = data.draw(st.integers(0, len(cursor) - 1))
    other = data.draw(st.text(max_size=3) | st.sampled_from("ABCxyz-_09"))
    altered = data.draw(st.sampled_from([cursor[:at] + other + cursor[at + 1 :], other, cursor[:at], cursor * 99]))
    with contextlib.suppress(Misuse):
        assert set(FILLED.page("key", 7, altered).keys) <= set(KEYS)


FILLED: Final = Walk(filled(KEYS)[0])


@pytest.mark.parametrize("cursor", [7, b"x", "", "é", "a", "AA==", "!"])
def test_what_is_no_cursor_is_told(cursor: object) -> None:
    with pytest.raises(Misuse, match="cursor"):
        FILLED.page("key", 7, cursor)  # type: ignore[arg-type]


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["stay", "churn", "late"]), st.integers(0, 30)), max_size=40),
    st.integers(1, 9),
    st.sampled_from(["", "stay", "stay 1", "churn", "x"]),
    st.none() | st.sampled_from(LIES),
    st.integers(0, 3),
    st.sampled_from([1, 8]),
    st.data(),
)
def test_the_model_of_a_listing_under_change(
    made: list[tuple[str, int]],
    limit: int,
    prefix: str,
    lie: str | None,
    liar: int,
    shards: int,
    data: st.DataObject,
) -> None:
    """What was complete and stays is listed exactly once, in order; nothing that was never there or had gone before."""
    keys = list(dict.fromkeys(f"{kind} {number}" for kind, number in made if kind != "late"))
    late = list(dict.fromkeys(f"{kind} {number}" for kind, number in made if kind == "late"))
    cluster, client = filled(keys, configuration_of(shards=shards))
    churn = [key for key in keys if key.startswith("churn")]
    gone = [key for key in churn if data.draw(st.booleans())]
    for key in gone:
        client.core.write(slot(key), DELETE, b"", 0, ("gone", key))
    client.run()
    if lie is not None:
        cluster.lies[liar] = lying(getattr(Lies(cluster), lie))
    churn = [key for key in churn if key not in gone]

    def between() -> None:
        """Somebody overwrites, deletes and adds while the listing goes on."""
        cluster.now_us += 1000
        what = data.draw(st.integers(0, 3))
        if what == 0 and keys:
            stays = [key for key in keys if key.startswith("stay")]
            written(client, data.draw(st.lists(st.sampled_from(stays), max_size=3)) if stays else [])
        elif what == 1 and churn:
            key = data.draw(st.sampled_from(churn))
            client.core.write(slot(key), DELETE, b"", 0, ("d", cluster.now_us))
            client.run()
        elif what == 2 and late:
            written(client, [data.draw(st.sampled_from(late))])

    found = Walk(cluster).all(prefix, limit, between)
    assert len(set(found)) == len(found), "a key was listed twice"
    as_text = [key if isinstance(key, str) else key.decode() for key in found]
    assert [key.encode() for key in as_text] == in_order(cluster, as_text)
    assert {key for key in keys if key.startswith("stay") and key.startswith(prefix)} <= set(as_text)
    assert set(as_text) <= {key for key in keys + late if key.startswith(prefix) and key not in gone}
    cluster.advance(S)
    cluster.lies.clear()
    left = {key for key in keys + late if isinstance(client_read(client, key), Found)}
    assert set(Walk(cluster).all("")) == left


def client_read(client: Client, key: str) -> Found | Missed:
    outcome = finish(client, client.read(key))
    assert isinstance(outcome, Found | Missed)
    return outcome
