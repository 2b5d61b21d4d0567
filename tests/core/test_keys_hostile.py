"""Keys with many fields against writers, nodes and networks that mean harm, and against bad luck (protocol 6)."""

from __future__ import annotations

import pytest

from quorumcache.core import messages as m
from quorumcache.core.model import DELETE, PUT, Entry, header_stamp
from quorumcache.core.outcome import Failed, Found, Missed, Written
from quorumcache.core.types import FIELD_TYPES
from quorumcache.core.types.base import field_slot, generation_of
from quorumcache.core.types.siblings import SEEN_MAX, SIBLINGS_OF_WRITER_MAX, encode_seen
from tests.cluster import Client, Cluster, key_of
from tests.fields import base_slot, cluster_of, delete_key, generation, put, read, slot_at, value_of
from tests.making import Draft, passed_on
from tests.steps import finish, is_quiet

S = 1_000_000


def commit_at(cluster: Cluster, nodes: tuple[int, ...], entry: Entry) -> None:
    """Bring a certified entry to these nodes only."""
    for node in nodes:
        cluster.nodes[node].handle(passed_on(entry, cluster.configuration), cluster.now_us)


def base_entry(
    cluster: Cluster, at_us: int, *, writer: str = "w2", kind: int = PUT, goes_on: bytes = b"", of: str = "map"
) -> Entry:
    """A base with its certificate, as q nodes would have promised it."""
    draft = Draft(cluster.configuration, writer, nonce=99)
    return draft.put(slot_bytes=base_slot(of), value=b"", kind=kind, at_us=at_us, metadata=goes_on).entry()


def field_entry(
    cluster: Cluster, at_us: int, generation: bytes, value: bytes = b"v", *, writer: str = "w2", name: bytes = b"x"
) -> Entry:
    draft = Draft(cluster.configuration, writer, nonce=99)
    return draft.put(slot_bytes=slot_at("map", name), value=value, at_us=at_us, metadata=generation).entry()


def evidence(cluster: Cluster) -> list[object]:
    return [proof for node in cluster.nodes.values() for proof in node.evidence]


def run_without_commits_to(client: Client, lagging: int) -> None:
    """Deliver everything but commits to one node."""
    for _ in range(100):
        for node, request in client.take():
            if node != lagging or not isinstance(request, m.Commit):
                client.deliver(node, request)


# --- stamps of correct writers ---


def test_a_field_never_takes_a_stamp_twice() -> None:
    """Protocol 5.7: correct parties never produce evidence. A generation may lie ahead of cluster time (here because
    of a floor), and fields are not below it; each write of one has a stamp of its own all the same."""
    cluster = cluster_of()
    for node in cluster.nodes.values():
        node.slots.raise_floor(node.slots.shard(base_slot("map")), cluster.now_us + 900_000)
    client = cluster.client()
    assert isinstance(finish(client, put(client, "map", b"x", b"0")), Written)
    assert generation(client, "map")[:8] > cluster.now_us.to_bytes(8, "big")
    token = put(client, "map", b"y", b"1")
    run_without_commits_to(client, 3)
    assert isinstance(client.outcomes[token], Written)
    assert isinstance(finish(client, put(client, "map", b"y", b"2")), Written)
    assert not evidence(cluster)
    assert value_of(client, "map") == {b"x": b"0", b"y": b"2"}


def test_a_generation_ahead_of_a_writers_clock_does_not_spoil_its_batch() -> None:
    """A field's stamp is not below its generation, which is another writer's stamp: the field's is its own all the
    same, or nodes reject the whole batch."""
    cluster = cluster_of()
    commit_at(cluster, (0, 1, 2, 3), base_entry(cluster, cluster.now_us + 500_000))
    client = cluster.client("w1")
    tokens = [put(client, "map", b"x", b"1"), client.write("k", b"beside it")]
    client.core.write(base_slot("map"), PUT, b"", cluster.now_us + 60 * S, "touch")
    tokens.append("touch")
    for token in tokens:
        assert isinstance(finish(client, token, S), Written)
    assert value_of(client, "map") == {b"x": b"1"}


def test_two_clients_of_one_writer_do_not_share_stamps() -> None:
    """The generation may have been named by another client object of the same writer, whose clock is ahead."""
    cluster = cluster_of()
    one, two = cluster.client("w1"), cluster.client("w1")
    cluster.now_us += 100_000
    put(one, "map", b"x", b"1")
    run_without_commits_to(one, 3)
    cluster.now_us -= 50_000
    assert isinstance(finish(two, put(two, "map", b"x", b"2")), Written)
    assert not evidence(cluster)
    assert value_of(one, "map") == {b"x": b"2"}


# --- what became of a write ---


def says(code: int, when: type[m.Request] = m.Commit) -> object:
    """A node that answers every field (or every prepare of one) with this code, without proof."""

    def lie(request: m.Request, reply: m.Reply) -> m.Reply:
        if isinstance(request, when) and isinstance(request, m.Commit):
            return m.CommitReply(request.id, reply.clock_us, bytes((code,)) * len(reply.codes), [])  # type: ignore[attr-defined]
        if isinstance(request, when) and isinstance(request, m.Prepare):
            refusals = [m.Refusal(i, code, reply.clock_us) for i in range(len(request.headers))]
            return m.PrepareReply(request.id, reply.clock_us, bytes(-(-len(refusals) // 8)), b"", refusals)
        return reply

    return lie


def test_what_was_committed_is_not_proposed_again_under_its_generation() -> None:
    """Protocol 4: a committed write is never proposed again, or others see its value, another one, and it again. A liar
    and a node that evicted the key say that its generation is gone, yet a quorum names it."""
    cluster = cluster_of()
    client = cluster.client()
    finish(client, put(client, "map", b"a"))
    cluster.lies[0] = says(m.OTHER)  # type: ignore[assignment]
    token = put(client, "map", b"x", b"1")
    for _ in range(20):
        for node, request in client.take():
            if isinstance(request, m.Commit) and base_slot("map") in cluster.nodes[3].slots.keys:
                cluster.nodes[3].slots.drop(base_slot("map"))
            client.deliver(node, request)
    seen = set()
    while token not in client.outcomes:
        held = cluster.nodes[1].slots.current.get(slot_at("map", b"x"))
        if held is not None:
            seen.add((generation_of(held.header), header_stamp(held.header)))
        cluster.advance(100_000)
    assert len(seen) == len({of for of, _ in seen}) == 1
    # When its patience is over it ends that generation, and is written under another one.
    outcome = client.outcomes[token]
    assert isinstance(outcome, Written)
    assert outcome.generation not in {of for of, _ in seen}
    assert is_quiet(client)


def test_a_delete_is_not_lost_to_a_new_time_to_live_behind_it() -> None:
    """Protocol 4: writes that queue up collapse, as if ordered one before the other. A key that was deleted and then
    given another time to expire is not there; the survivor has to be the deletion."""
    cluster = cluster_of()
    client = cluster.client()
    finish(client, put(client, "map", b"a"))
    deleted = delete_key(client, "map")
    client.core.write(base_slot("map"), PUT, b"", cluster.now_us + 60 * S, "touch")
    assert isinstance(finish(client, deleted), Written)
    assert "touch" in client.outcomes
    assert value_of(client, "map") is None


def test_a_delete_does_not_stand_before_what_goes_on() -> None:
    """Protocol 4, write 3: the deletion is overtaken by tombstones that only a liar shows; what stands at the nodes
    goes on with the generation that was to be deleted, under a higher stamp."""
    cluster = cluster_of()
    client, other = cluster.client("w1"), cluster.client("w3")
    finish(other, put(other, "map", b"a"))
    before = generation(other, "map")
    cluster.now_us += S
    hidden = [base_entry(cluster, cluster.now_us + at_us, kind=DELETE) for at_us in (400_000, 800_000)]
    goes_on = base_entry(cluster, cluster.now_us + 900_000, goes_on=before)

    def lie(request: m.Request, reply: m.Reply) -> m.Reply | None:
        if isinstance(request, m.Prepare) and hidden:
            shown = hidden.pop(0)
            proof = Entry(shown.header, b"", shown.certificate, shown.position, shown.path)
            return m.PrepareReply(request.id, reply.clock_us, b"\0", b"", [m.Refusal(0, m.STALE, 0, proof)])
        if isinstance(request, m.ReadFull):
            cluster.down.clear()
            commit_at(cluster, (1, 2, 3), goes_on)
            return None
        return reply

    cluster.lies[0] = lie
    cluster.down.add(3)
    token = delete_key(client, "map")
    outcome = finish(client, token)
    cluster.down.clear()
    cluster.lies.clear()
    assert isinstance(outcome, Failed) or value_of(client, "map") is None


# --- one liar among the nodes does not keep writers from ending ---


def test_a_liars_word_for_another_generation_does_not_starve_a_writer() -> None:
    """Protocol 4, write 2 and 3: a writer goes above what a valid certificate proves. A Byzantine writer keeps the
    field ahead of everyone's clocks, a Byzantine node claims that the generation is another: without raising its stamp
    the writer would look for that generation until its time is over."""
    cluster = cluster_of()
    client = cluster.client()
    finish(client, put(client, "map", b"x", b"0"))
    under = generation(client, "map")
    cluster.lies[0] = says(m.GENERATION, m.Prepare)  # type: ignore[assignment]
    token = put(client, "map", b"x", b"1")
    for _ in range(60):
        commit_at(cluster, (1, 2, 3), field_entry(cluster, cluster.now_us + 900_000, under, b"bad"))
        client.run()
        cluster.advance(20_000)
    assert isinstance(client.outcomes.get(token), Written)


def test_a_liar_does_not_keep_racing_creators_racing() -> None:
    """Protocol 6: of two that begin a key at once, one waits for the other, whatever f nodes say beside that."""
    for code in (m.GENERATION, m.DENIED, m.STALE, m.BELOW_FLOOR):
        cluster = cluster_of()
        cluster.lies[0] = says(code, m.Prepare)  # type: ignore[assignment]
        one, two = cluster.client("w1"), cluster.client("w2")
        tokens = [(one, put(one, "map", b"1")), (two, put(two, "map", b"2"))]
        for step in range(400):
            for client, order in ((one, (1, 2, 3, 0)), (two, (3, 2, 1, 0))):
                for node, request in sorted(client.take(), key=lambda sent: order.index(sent[0])):
                    if step > 30 or not isinstance(request, m.Prepare) or node in order[:2]:
                        client.deliver(node, request)
            if all(token in client.outcomes for client, token in tokens):
                break
            cluster.now_us += 5_000
            one.core.wake(cluster.now_us)
            two.core.wake(cluster.now_us)
        for client, token in tokens:
            assert isinstance(finish(client, token), Written), (m.REFUSALS[code], client.outcomes[token])
        assert set(value_of(one, "map")) == {b"1", b"2"}  # type: ignore[call-overload]


def test_fields_go_on_when_their_base_runs_out_of_time() -> None:
    """A base ends with the first of its fields; those that were asked for later have time left."""
    cluster = cluster_of()
    client = cluster.client()
    early = put(client, "map", b"early")
    cluster.down = {0, 1}
    client.run()
    cluster.advance(3 * S)
    late = put(client, "map", b"late")
    cluster.down = {0}
    held = lambda request, reply: None if isinstance(request, m.Prepare) else reply  # noqa: E731
    cluster.lies = {1: held}
    cluster.advance(2_500_000)
    cluster.lies.clear()
    assert isinstance(client.outcomes[early], Failed)
    assert isinstance(finish(client, late, S), Written)


def test_a_context_that_names_a_time_to_come_does_not_silence_its_reader() -> None:
    """Siblings: a Byzantine writer claims to have seen of another what that one has yet to write. Who read that, and
    writes with it, is neither refused nor taken for replaced."""
    cluster = cluster_of()
    client = cluster.client("w1")
    owners = [key_of(writer).public for writer in ("w1", "w2", "w1")]
    slots = [field_slot(base_slot("siblings"), owner + bytes([n]) * 8) for n, owner in enumerate(owners)]
    client.core.write(slots[0], PUT, b"old", 0, "old")
    assert isinstance(finish(client, "old"), Written)
    under = generation(client, "siblings")
    author = under[8:]
    draft = Draft(cluster.configuration, "w2", nonce=99).put(
        slot_bytes=slots[1],
        value=b"bad",
        at_us=cluster.now_us + 500,
        metadata=under + encode_seen({author: cluster.now_us + 900_000}),
    )
    commit_at(cluster, (0, 1, 2, 3), draft.entry())
    found = read(client, base_slot("siblings"))
    assert isinstance(found, Found)
    kind = FIELD_TYPES["siblings"]
    seen = kind.seen_in(found.fields)  # type: ignore[attr-defined]
    client.core.write(slots[2], PUT, b"new", 0, "new", encode_seen(seen))
    assert isinstance(finish(client, "new", 2 * S), Written)
    assert value_of(client, "siblings") == [b"new"]


def test_a_base_is_not_begun_while_another_write_of_its_slot_is_about_to_be_sent() -> None:
    """Protocol 4: one write in flight per slot. What queued up behind a new time to live becomes ready when that ends
    in a miss, and in the same moment a field wants to begin the key."""
    cluster = cluster_of()
    client = cluster.client()
    client.core.write(base_slot("map"), PUT, b"", cluster.now_us + 60 * S, "touch")
    field = put(client, "map", b"x")
    sent = client.take()
    deleted = delete_key(client, "map")
    for node, request in sent:
        client.deliver(node, request)
    assert isinstance(client.outcomes["touch"], Missed)
    assert isinstance(finish(client, field), Written)
    assert isinstance(finish(client, deleted), Written)
    assert is_quiet(client)


# --- tombstones, and those that were revoked ---


@pytest.mark.parametrize("late", [False, True], ids=["deletion-first", "deletion-last"])
def test_no_new_time_to_live_undoes_a_deletion(late: bool) -> None:
    """Protocol 6, rank: a tombstone is above what says it goes on with its generation, in whichever order they come. A
    Byzantine writer had that promised by nodes that had not heard of the deletion yet."""
    cluster = cluster_of()
    client = cluster.client("w1")
    finish(client, put(client, "map", b"a"))
    cluster.now_us += S
    tombstone = base_entry(cluster, cluster.now_us, kind=DELETE, writer="w3")
    revives = base_entry(cluster, cluster.now_us + 1000, goes_on=header_stamp(tombstone.header))
    field = field_entry(cluster, cluster.now_us + 2000, header_stamp(tombstone.header))
    entries = [revives, field, tombstone] if late else [tombstone, revives, field]
    for entry in entries:
        commit_at(cluster, (0, 1, 2, 3), entry)
    assert value_of(client, "map") is None
    for node in cluster.nodes.values():
        key = node.slots.keys[base_slot("map")]
        assert key.is_deleted
        assert not key.fields
        assert slot_at("map", b"x") not in node.slots.current


def test_a_hoarded_base_of_a_revoked_writer_hides_nothing() -> None:
    """Protocol 6, a read, and 5.6: a liar shows a tombstone of a writer that is revoked, above all that is there. The
    others refuse it, so that it is never settled; it is no answer then, and the key is found."""
    cluster = cluster_of()
    client, other = cluster.client("w1"), cluster.client("w3")
    finish(other, put(other, "map", b"a"))
    cluster.now_us += S
    hoarded = base_entry(cluster, cluster.now_us, kind=DELETE)

    def shows(request: m.Request, reply: m.Reply) -> m.Reply:
        if isinstance(request, m.Outline):
            return m.OutlineReply(request.id, reply.clock_us, hoarded, 0, [], b"")
        if isinstance(request, m.Read):
            return m.ReadReply(request.id, reply.clock_us, bytes(32) * len(request.slots), [b"", b""])
        return reply

    def knows(request: m.Request, reply: m.Reply) -> m.Reply:
        if isinstance(request, m.Commit) and request.bundles[0].items[0].header == hoarded.header:
            return m.CommitReply(request.id, reply.clock_us, bytes((m.REVOKED,)), [])
        return reply

    cluster.lies = {0: shows, 1: knows, 2: knows, 3: knows}
    cluster.nodes[3].slots.put_back(slot_at("map", b"a"), None)  # So they differ, and a read in full is needed.
    assert value_of(client, "map") == {b"a": b""}


# --- siblings ---


def sibling_of(cluster: Cluster, under: bytes, owner: str, writer: str, number: int, seen: dict[bytes, int]) -> Draft:
    field = key_of(owner).public + number.to_bytes(8, "big")
    return Draft(cluster.configuration, writer, nonce=number).put(
        slot_bytes=field_slot(base_slot("siblings"), field),
        value=b"%d" % number,
        at_us=cluster.now_us + number,
        metadata=under + encode_seen(seen),
    )


def granted(cluster: Cluster, draft: Draft) -> bool:
    reply = cluster.nodes[0].handle(draft.prepare(), cluster.now_us)
    assert isinstance(reply, m.PrepareReply)
    return not reply.refusals


def test_nobody_writes_into_anothers_sibling() -> None:
    """Protocol 6, siblings: a field belongs to the writer whose key it begins with. Else a Byzantine writer replaces
    what it has not seen, by the higher stamp."""
    cluster = cluster_of()
    client = cluster.client("w1")
    slot = field_slot(base_slot("siblings"), key_of("w1").public + bytes(8))
    client.core.write(slot, PUT, b"mine", 0, "mine")
    assert isinstance(finish(client, "mine"), Written)
    under = generation(client, "siblings")
    cluster.now_us += S
    assert not granted(cluster, sibling_of(cluster, under, "w1", "w2", 0, {}))
    assert granted(cluster, sibling_of(cluster, under, "w2", "w2", 0, {}))


def test_one_writer_does_not_fill_a_key_with_siblings() -> None:
    """Protocol 6, siblings: what says to have seen as much as there is room for is never replaced, so one writer has a
    share of a key only, and others go on."""
    cluster = cluster_of()
    client = cluster.client("w1")
    client.core.write(field_slot(base_slot("siblings"), key_of("w1").public + bytes(8)), PUT, b"mine", 0, "mine")
    assert isinstance(finish(client, "mine"), Written)
    under = generation(client, "siblings")
    cluster.now_us += S
    full = {key_of("w3").public + n.to_bytes(8, "big"): 1 for n in range(SEEN_MAX)}
    for number in range(SIBLINGS_OF_WRITER_MAX):
        draft = sibling_of(cluster, under, "w2", "w2", number, full)
        assert granted(cluster, draft)
        commit_at(cluster, (0, 1, 2, 3), draft.entry())
    assert not granted(cluster, sibling_of(cluster, under, "w2", "w2", 1000, full))
    assert granted(cluster, sibling_of(cluster, under, "w3", "w3", 1001, {}))
    assert len(value_of(client, "siblings")) == 1 + SIBLINGS_OF_WRITER_MAX  # type: ignore[arg-type]
