"""Commit and read at one node (protocol 3): each rule, their order, and everything that is verified before them."""

import dataclasses

import msgspec
import pytest

from quorumcache.core import messages as m
from quorumcache.core.certificate import Verifier, grant_string
from quorumcache.core.model import DELETE, Entry, Grant, Malformed, slot_of
from quorumcache.wire.keys import verify
from tests.cluster import START_US, configuration_of, key_of, slot
from tests.making import SECOND_US, Alone, Draft, passed_on


def raise_floor(alone: Alone, floor_us: int, key: str = "k") -> None:
    alone.node.slots.raise_floor(alone.node.slots.shard(slot(key)), floor_us)


# --- the rules ---


@pytest.mark.parametrize("f", [1, 2, 3])
def test_rule_5_store(f: int) -> None:
    """protocol 3, commit rule 5: stored as current, promises with stamps up to it are dropped, higher ones stay."""
    alone = Alone(configuration_of(f))
    for at_us in (START_US - 1, START_US, START_US + 1):
        assert alone.grants(alone.draft().put(at_us=at_us))
    assert alone.commit(alone.draft().put(at_us=START_US)) == ["OK"]
    assert alone.value() == b"v"
    assert alone.promises() == 1
    assert alone.floor() == 0, "settled promises raise no floor"


def test_rule_5_needs_no_promise() -> None:
    """protocol 3, commit: a certificate is enough, this node need not have granted."""
    alone = Alone(index=3)
    assert alone.commit(alone.draft().put()) == ["OK"]
    assert alone.value() == b"v"


def test_rule_5_a_newer_one_replaces() -> None:
    """protocol 3, commit rule 5: above current, stored; a delete is stored like any other."""
    alone = Alone()
    assert alone.commit(alone.draft().put(value=b"one")) == ["OK"]
    assert alone.commit(alone.draft("w2").put(value=b"two", at_us=START_US + 1)) == ["OK"]
    assert alone.value() == b"two"
    assert alone.commit(alone.draft().put(value=b"", kind=DELETE, at_us=START_US + 2)) == ["OK"]
    entry = alone.full().entry
    assert entry is not None
    assert entry.header[2] == DELETE


def test_rule_1_current_itself() -> None:
    """protocol 3, commit rule 1: `current` itself is OK, however often it comes."""
    alone = Alone()
    draft = alone.draft().put()
    assert [alone.commit(draft) for _ in range(3)] == [["OK"]] * 3


def test_rule_2_revoked() -> None:
    """protocol 3, commit rule 2: its writer is revoked in this node's configuration."""
    before = configuration_of()
    now = configuration_of(revoked=("w1",), epoch=2)
    alone = Alone(now, chain=[before])
    request = passed_on(Draft(before).put().entry(), now)
    assert alone.codes(request) == ["REVOKED"]
    assert alone.value() is None
    assert alone.floor() == 0


def test_rule_2_a_retired_writer_stands() -> None:
    """protocol 5.5: a retired writer gets no new grants, but what was certified stands."""
    before = configuration_of()
    writers = tuple(dataclasses.replace(w, status="retired") for w in before.writers)
    now = dataclasses.replace(before, writers=writers, epoch=2, previous=before.digest)
    alone = Alone(now, chain=[before])
    assert alone.codes(passed_on(Draft(before).put().entry(), now)) == ["OK"]


def test_rule_3_superseded() -> None:
    """protocol 3, commit rule 3: at or below current is OK, and changes nothing."""
    alone = Alone()
    assert alone.commit(alone.draft().put(value=b"new", at_us=START_US + 1)) == ["OK"]
    assert alone.commit(alone.draft("w2").put(value=b"old")) == ["OK"]
    assert alone.value() == b"new"


def test_rule_4_evicted() -> None:
    """protocol 3, commit rule 4: absent, no such promise, at or below the floor: EVICTED with the floor, and promises
    up to the stamp are dropped, or a later commit would bring it back below something newer."""
    alone = Alone()
    assert alone.grants(alone.draft("w2").put(at_us=START_US - 1))
    assert alone.grants(alone.draft("w2").put(at_us=START_US + 1))
    raise_floor(alone, START_US)
    reply = alone.node.handle(alone.draft().put().commit(), alone.now_us)
    assert isinstance(reply, m.CommitReply)
    assert reply.codes == bytes((m.EVICTED,))
    assert reply.floors == [START_US]
    assert alone.value() is None
    assert alone.promises() == 1


def test_rule_4_recovering() -> None:
    """protocol 3, commit rule 4: RECOVERING if the shard is."""
    alone = Alone(fresh=True)
    assert alone.floor() == START_US + 2 * SECOND_US
    assert alone.commit(alone.draft().put()) == ["RECOVERING"]
    alone.node.slots.shard(slot("k")).recovering = False
    assert alone.commit(alone.draft().put()) == ["EVICTED"]
    assert alone.value() is None


def test_rule_4_a_recovering_shard_takes_what_is_above_its_floor() -> None:
    """protocol 3, commit rule 4 asks for the floor first: above it, a recovering node stores and says OK."""
    alone = Alone(fresh=True)
    assert alone.commit(alone.draft().put(at_us=START_US + 2 * SECOND_US + 1)) == ["OK"]


def test_rule_4_not_where_this_very_promise_is_open() -> None:
    """protocol 3, commit rule 4: a floor raised above an open promise does not shut out its entry."""
    alone = Alone()
    draft = alone.draft().put()
    assert alone.grants(draft)
    raise_floor(alone, START_US + 7)
    assert alone.commit(draft) == ["OK"]
    assert alone.value() == b"v"


def test_rule_4_another_promise_does_not_count() -> None:
    """protocol 3, commit rule 4: *this very* promise, not another on the slot."""
    alone = Alone()
    assert alone.grants(alone.draft("w2").put())
    raise_floor(alone, START_US + 7)
    assert alone.commit(alone.draft().put()) == ["EVICTED"]


def test_rule_4_not_where_the_slot_holds_something() -> None:
    """protocol 3, commit rule 4 is for absent slots: above current, the floor is no hindrance."""
    alone = Alone()
    assert alone.commit(alone.draft().put(at_us=START_US - 9)) == ["OK"]
    raise_floor(alone, START_US + 7)
    assert alone.commit(alone.draft("w2").put(value=b"new")) == ["OK"]
    assert alone.value() == b"new"


# --- their order ---


def revoking(entry_at_us: int = START_US) -> tuple[Alone, Draft]:
    """A node in an epoch where w1 is revoked, and an entry of w1 from before."""
    before = configuration_of()
    return Alone(configuration_of(revoked=("w1",), epoch=2), chain=[before]), Draft(before).put(at_us=entry_at_us)


def test_order_rule_1_before_2() -> None:
    """protocol 3, commit rule 1 before rule 2: what is still current is OK (until activation evicts it)."""
    alone, draft = revoking()
    header = alone.node.verifier.check_entry(draft.entry())
    before = alone.node.configuration
    alone.node.configuration = draft.configuration
    assert alone.codes(passed_on(draft.entry(), draft.configuration)) == ["OK"]
    alone.node.configuration = before
    assert alone.full().entry is not None
    assert header.writer == key_of("w1").public
    assert alone.codes(passed_on(draft.entry(), before)) == ["OK"]


def test_order_rule_2_before_3() -> None:
    """protocol 3, commit rule 2 before rule 3: else a hidden entry of a revoked writer is vouched for."""
    alone, draft = revoking()
    assert alone.commit(alone.draft("w2").put(at_us=START_US + 5)) == ["OK"]
    assert alone.codes(passed_on(draft.entry(), alone.configuration)) == ["REVOKED"]


def test_order_rule_2_before_4() -> None:
    """protocol 3, commit rule 2 before rule 4: EVICTED would count for a revoked writer's entry, REVOKED does not."""
    alone, draft = revoking()
    raise_floor(alone, START_US + 5)
    assert alone.codes(passed_on(draft.entry(), alone.configuration)) == ["REVOKED"]


def test_order_rule_3_before_4() -> None:
    """protocol 3, commit rule 3 before rule 4: superseded is OK below the floor too."""
    alone = Alone()
    assert alone.commit(alone.draft("w2").put(at_us=START_US + 5)) == ["OK"]
    raise_floor(alone, START_US + 9)
    assert alone.commit(alone.draft().put()) == ["OK"]


def test_many_entries_have_each_their_code() -> None:
    """protocol 3, commit is per entry; floors stand beside the codes, 0 where nothing was evicted."""
    alone = Alone()
    shard_of = alone.configuration.shard_of
    low, high = (next(k for k in map(str, range(99)) if shard_of(slot(k)) == shard) for shard in (1, 2))
    raise_floor(alone, START_US + 5, low)
    reply = alone.node.handle(alone.draft().put(low).put(high).commit(), alone.now_us)
    assert isinstance(reply, m.CommitReply)
    assert (list(reply.codes), reply.floors) == ([m.EVICTED, m.OK], [START_US + 5, 0])


# --- what is verified before ---


def damaged_commits(draft: Draft) -> dict[str, m.Commit]:
    """Commits of a batch of two, each damaged in one way."""
    good = draft.commit()
    bundle = good.bundles[0]
    certificate, items = bundle.certificate, bundle.items
    replace = msgspec.structs.replace

    def with_certificate(**changes: object) -> m.Commit:
        return replace(good, bundles=[replace(bundle, certificate=replace(certificate, **changes))])

    def with_item(**changes: object) -> m.Commit:
        return replace(good, bundles=[replace(bundle, items=[replace(items[0], **changes)])])

    grants = certificate.grants
    lying = Grant(2, b"\x07", key_of("node 2").sign(b"x"))
    other = Draft(draft.configuration, "w2").put("a").put("b")
    alone = draft.entry(0)
    with_path = m.Item(0, alone.header, alone.salted, alone.path)
    spare = Grant(
        2,
        b"\x07",
        key_of("node 2").sign(grant_string(draft.configuration.digest, draft.group, draft.root, b"\x07")),
    )
    return {
        "fewer grants than q": with_certificate(grants=grants[:2]),
        "one node twice": with_certificate(grants=(*grants[:2], grants[1])),
        "grants out of order": with_certificate(grants=grants[::-1]),
        "a node that does not exist": with_certificate(grants=(*grants[:2], Grant(9, b"\x03", grants[2].signature))),
        "a grant that is not signed": with_certificate(grants=(*grants[:2], lying)),
        "spare bits set": with_certificate(grants=(*grants[:2], spare)),
        "a bitmap too long": with_certificate(grants=(*grants[:2], Grant(2, b"\x03\x00", grants[2].signature))),
        "another's signature": with_certificate(grants=(*grants[:2], Grant(3, b"\x03", grants[2].signature))),
        "an intent of another writer": with_certificate(writer=other.key.public),
        "a bad intent": with_certificate(signature=bytes(64)),
        "another count": with_certificate(count=3),
        "no count": with_certificate(count=0),
        "another root": with_certificate(root=other.root),
        "another group": with_certificate(group=bytes(16)),
        "an unknown configuration": with_certificate(configuration=bytes(32)),
        "the leaves of another batch": replace(good, bundles=[replace(bundle, leaves=other.leaves)]),
        "leaves cut short": replace(good, bundles=[replace(bundle, leaves=bundle.leaves[:-1])]),
        "neither leaves nor path": replace(good, bundles=[replace(bundle, leaves=b"")]),
        "leaves and path": replace(good, bundles=[replace(bundle, items=[with_path])]),
        "a header of another place": with_item(position=1),
        "a place outside the batch": with_item(position=2),
        "another value": with_item(salted=items[0].salted + b"x"),
        "another salt": with_item(salted=b"S" + items[0].salted[1:]),
        "no salt at all": with_item(salted=b""),
        "another header": with_item(header=other.headers[0]),
        "a header cut short": with_item(header=items[0].header[:-1]),
    }


NAMES = sorted(damaged_commits(Draft(configuration_of()).put("a").put("b", b"w")))


@pytest.mark.parametrize("damage", NAMES)
@pytest.mark.parametrize("promised", [False, True], ids=["unasked", "promised"])
def test_damaged_commits_are_rejected(damage: str, promised: bool) -> None:
    """protocol 3, commit: certificate, salt and value hash are verified, whether the node knows the header or not."""
    alone = Alone()
    draft = alone.draft().put("a").put("b", b"w")
    if promised:
        assert alone.prepare(draft).bitmap == b"\x03"
    assert alone.rejected(damaged_commits(draft)[damage]).code == m.BAD_FORM
    assert not alone.node.slots.current
    assert alone.commit(draft) == ["OK", "OK"], "and a rejection stands in nobody's way"


def test_uneven_grants_certify_only_what_q_promise() -> None:
    """protocol 2, Certificate: q grants from distinct nodes, each with the header's bit set."""
    alone = Alone()
    draft = alone.draft().put("a").put("b")
    grants = (draft.grant(0), draft.grant(1, b"\x01"), draft.grant(2, b"\x02"), draft.grant(3, b"\x01"))
    certificate = msgspec.structs.replace(draft.certificate(), grants=grants)
    first = msgspec.structs.replace(draft.entry(0), certificate=certificate)
    second = msgspec.structs.replace(draft.entry(1), certificate=certificate)
    assert alone.codes(passed_on(first, alone.configuration)) == ["OK"]
    assert "too few" in alone.rejected(passed_on(second, alone.configuration)).detail


def test_a_foreign_entry_is_refused() -> None:
    """protocol 2: an entry of a group that this node is not in."""
    configuration = configuration_of(nodes=7, shards=32)
    group = configuration.group_of(slot("k"))
    outside = next(i for i in range(7) if i not in group.members)
    draft = Draft(configuration).put()
    assert "serve" in Alone(configuration, index=outside).rejected(draft.commit()).detail
    assert Alone(configuration, index=group.members[-1]).commit(draft) == ["OK"]


def test_a_grant_from_outside_the_group_does_not_count() -> None:
    """protocol 2, Certificate: distinct nodes *of the group*."""
    configuration = configuration_of(nodes=7, shards=32)
    members = configuration.group_of(slot("k")).members
    outside = next(i for i in range(7) if i not in members)
    nodes = sorted([*members[:2], outside])
    alone = Alone(configuration, index=members[0])
    assert "outside" in alone.rejected(Draft(configuration).put().commit(nodes=nodes)).detail


def test_signature_cache_is_keyed_by_the_signature_too() -> None:
    """protocol 2 and 11: else garbage signatures ride on a cached good one, and readers later discard the entry."""
    alone = Alone()
    draft = alone.draft().put()
    assert alone.commit(draft) == ["OK"]
    certificate = draft.certificate()
    first = certificate.grants[0]
    garbage = (msgspec.structs.replace(first, signature=bytes(64)), *certificate.grants[1:])
    entry = msgspec.structs.replace(draft.entry(), certificate=msgspec.structs.replace(certificate, grants=garbage))
    assert alone.rejected(passed_on(entry, alone.configuration)).code == m.BAD_FORM


def test_signature_cache_is_bounded_and_saves_work() -> None:
    """protocol 2: a verifier keeps an LRU of signatures already checked; habit 6: within a bound."""
    verifier = Verifier(verify, [configuration_of()], remembered_max=10)
    draft = Draft(configuration_of()).put("a").put("b")
    verifier.check_entry(draft.entry(0))
    assert verifier.verified_count == 4
    verifier.check_entry(draft.entry(1))
    assert verifier.verified_count == 4
    for i in range(100):
        verifier.remember(bytes(32), b"%d" % i, bytes(64))
        assert len(verifier._remembered) <= 10
    verifier.check_entry(draft.entry(0))
    assert verifier.verified_count == 8


def test_an_entry_verifies_alone() -> None:
    """protocol 2, Entry: anyone who knows the configuration chain can verify it, and no one else."""
    draft = Draft(configuration_of()).put("a").put("b").put("c")
    for position in range(3):
        Verifier(verify, [configuration_of()]).check_entry(draft.entry(position))
    with pytest.raises(Malformed):
        Verifier(verify, [configuration_of(epoch=2)]).check_entry(draft.entry())
    entry = draft.entry(0)
    without = Entry(entry.header, b"", entry.certificate, entry.position, entry.path)
    Verifier(verify, [configuration_of()]).check_entry(without, with_value=False)
    with pytest.raises(Malformed):
        Verifier(verify, [configuration_of()]).check_entry(without)


# --- read ---


def test_read_reports_digests_and_the_values_asked_for() -> None:
    """protocol 3, read: per slot current or absent; the whole value where the client asks for it."""
    alone = Alone()
    draft = alone.draft().put("a", b"1").put("b", b"2")
    assert alone.commit(draft) == ["OK", "OK"]
    slots = [slot("a"), slot("none"), slot("b")]
    reply = alone.node.handle(m.Read(7, alone.configuration.digest, slots, 1, 3), alone.now_us)
    assert isinstance(reply, m.ReadReply)
    assert reply.digests == draft.leaves[:32] + bytes(32) + draft.leaves[32:]
    assert reply.values == [b"", b"", draft.headers[1], draft.salted[1]]


def test_read_stays_within_a_reply(monkeypatch: pytest.MonkeyPatch) -> None:
    """Habit 6: a node stops adding values beyond a bound; the digests are all there."""
    monkeypatch.setattr(m, "REPLY_VALUES_BYTES_MAX", 100)
    alone = Alone()
    draft = alone.draft().put("a", bytes(150)).put("b", b"2")
    assert alone.commit(draft) == ["OK", "OK"]
    request = m.Read(7, alone.configuration.digest, [slot("a"), slot("b")], 0, 2)
    reply = alone.node.handle(request, alone.now_us)
    assert isinstance(reply, m.ReadReply)
    assert reply.digests == draft.leaves
    assert reply.values == [draft.headers[0], draft.salted[0], b"", b""]


def test_read_full_of_absent_has_the_floor() -> None:
    """protocol 3, read: `absent` with the floor; what is no slot is rejected."""
    alone = Alone()
    raise_floor(alone, START_US)
    answer = alone.full()
    assert (answer.entry, answer.floor_us) == (None, START_US)
    bad = m.ReadFull(9, alone.configuration.digest, [slot("k") + b"x"])
    assert alone.rejected(bad).code == m.BAD_FORM


def test_read_reports_expired_entries_like_any_other() -> None:
    """protocol 3, read (R): expired entries are reported like any other."""
    alone = Alone()
    assert alone.commit(alone.draft().put(expires_at_us=START_US + 1)) == ["OK"]
    alone.now_us += SECOND_US
    assert alone.value() == b"v"


def test_ping_and_every_reply_carry_the_clock() -> None:
    """protocol 4: cluster time comes from the clocks that nodes reported."""
    alone = Alone()
    assert alone.node.handle(m.Ping(5, alone.configuration.digest), 123) == m.Pong(5, 123)
    assert alone.rejected(m.Ping(5, bytes(32))).clock_us == alone.now_us


def test_another_slot_is_another_slot() -> None:
    """protocol 2, Slot: namespace, key and field do not run into each other."""
    names = {slot_of(b"a", b"bc"), slot_of(b"ab", b"c"), slot_of(b"a", b"b", b"c"), slot_of(b"a", b"b\0", b"c")}
    assert len(names) == 4
