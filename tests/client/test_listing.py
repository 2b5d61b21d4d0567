"""Protocol 4, scan: whole listings, page by page, from clusters in which nodes lie about what they have.

Real nodes and coordinators of the core, real pages and cursors of the client; the network is the test's.
"""

from __future__ import annotations

import contextlib
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quorumcache.client.cursor import make_cursor
from quorumcache.client.listing import LIMIT_MAX, PARTS_MAX
from quorumcache.core import messages as m
from quorumcache.core.model import DELETE, slot_of
from quorumcache.core.outcome import Failed, Found, Listed, Missed
from quorumcache.errors import InvalidKey, Misuse
from tests.cluster import START_US, Client, Cluster, configuration_of, slot
from tests.steps import S, finish, is_quiet
from tests.walks import (
    KEYS,
    LIES,
    NONSENSE,
    Lie,
    Lies,
    Walk,
    filled,
    in_order,
    lying,
    place_of,
    place_of_position,
    written,
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
