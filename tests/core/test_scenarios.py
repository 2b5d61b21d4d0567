"""Golden scenarios (protocol 11): each counterexample behind a marked rule, played against the real core.

tests/scenarios/NAME.txt is what happened, compared as text; `pytest tests/core/test_scenarios.py --update-scenarios`
writes the files anew, to be reviewed as diffs. The docstring is the file's header: which rule, and what goes wrong
without it. What must hold is asserted besides, so that no careless update can bless a violation.
"""

import inspect
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from quorumcache.core import messages as m
from quorumcache.core.model import digest_of, header_slot
from quorumcache.core.outcome import Found, Missed, Written
from tests.cluster import START_US, Client, configuration_of, slot
from tests.making import SECOND_US, Draft, passed_on
from tests.transcript import NAMES, Transcript

FILES = Path(__file__).parent.parent / "scenarios"
S = SECOND_US


def entry_of(t: Transcript, value: str, at_us: int, writer: str = "w1", grants: str = "ABC"):  # type: ignore[no-untyped-def]
    """A certified entry for k, granted by these nodes."""
    draft = Draft(t.world.configuration, writer).put("k", value.encode(), at_us=START_US + at_us)
    return draft.entry(nodes=[NAMES.index(node) for node in grants])


def value_of(outcome: object) -> bytes:
    assert isinstance(outcome, Found), outcome
    return outcome.salted[16:]


def settled(t: Transcript, client: Client) -> None:
    """Time for a client's clock: it hears all nodes once."""
    client.read("warm-up")
    t.pump()
    t.lines.clear()


def normal(t: Transcript) -> None:
    """The normal course: a write is two round trips (prepare, commit), a read is one.

    The client prepares at the whole group and needs 2f+1 = 3 grants for a certificate, then commits it and is done
    with 3 answers. A reader asks one node for the value too; 3 equal digests end the read, no signature is checked.
    (protocol 4, write 1, 2, 4 and read 1)
    """
    writer, reader = t.client("w1", "w1"), t.client("reader")
    token = writer.write("k", b"hello")
    t.pump()
    assert isinstance(writer.outcomes[token], Written)
    t.say("one node is silent: nothing changes but who answers")
    t.hold(writer, "Z")
    token = writer.write("k", b"again")
    t.wait(S // 100)
    assert isinstance(writer.outcomes[token], Written)
    token = reader.read("k")
    t.wait(S // 10)
    assert value_of(reader.outcomes[token]) == b"again"
    t.show()


def good_set(t: Transcript) -> None:
    """Good sets: an entry counts only where it is above the floor of every absent answer beside it.

    t is complete at A, B and Z; C still has the older u. A evicts t. A reader that hears A absent, C u and Z (lying)
    u must not take u for the highest of a quorum, write it back, and return it: it would be stale. A's floor is not
    below u's time, so {A, C, Z} is no good set, and without B's answer the read ends as a miss.
    (protocol 4, read 2, and protocol 11, good set)
    """
    reader = t.client("reader")
    older, newer = entry_of(t, "u", 0), entry_of(t, "t", S, grants="ABZ")
    t.world.now_us += 2 * S
    t.give(older, "C", "w1")
    t.give(newer, "ABZ", "w1")
    t.world.now_us += 2 * S
    t.evict("A")

    def show_older(request: m.Request, reply: m.Reply) -> m.Reply | None:
        honest = t.world.nodes[2].handle(request, t.world.now_us)
        return honest if isinstance(request, m.Read | m.ReadFull) else reply

    t.say("Z says what C says; B is slow")
    t.lie(show_older)
    t.hold(reader, "B")
    first = reader.read("k")
    t.wait(S // 2)
    assert isinstance(reader.outcomes[first], Missed)
    t.show()
    t.say("another reader hears B as well, so that {B, C, Z} is good: t is found, and written back to C")
    t.lose()
    t.free(reader, "B")
    second = reader.read("k")
    t.wait(S // 2)
    assert value_of(reader.outcomes[second]) == b"t"


def recovery_waits(t: Transcript) -> None:
    """Recovery begins 2 op_time after a start, and a client counts no answer older than op_time.

    u is stored at C only (its writer is slow) when C restarts with nothing. Were C to ask at once, it would take the
    older t from A, B and Z. Then u reaches A, and with C's answer from before the restart and Z's the write of u would
    count as complete, while C, B and Z report t: stale. By waiting, every write that counts C's old answer is over.
    (protocol 1, op_time; protocol 7, recovery; protocol 11, op_time and waiting in recovery)
    """
    slow = t.client("w2", "w2")
    settled(t, slow)
    t.give(entry_of(t, "t", 0), "ABZ", "w1")
    t.world.now_us += S
    t.say("w2 writes u; its commit reaches C, while those to A, B and Z are on the way")
    token = slow.write("k", b"u")
    t._send(slow, slow.take())
    t.hold(slow, "ABZ")
    t.pump()
    t.show()
    t.say("C restarts, and may not recover yet")
    recovery = t.restart("C")
    t.recover("C", recovery)
    assert slot("k") not in t.world.nodes[2].slots.current
    t.say("the commit reaches A: two answers are counted, C's from before the restart among them; Z never confirms")
    t.lie(lambda request, reply: None)
    t.free(slow, "A")
    t.say("op_time passes: w2 can no longer count C's answer, and reports that it does not know")
    t.wait(6 * S)
    assert getattr(slow.outcomes[token], "kind", "") == "unknown"
    t.lose()
    t.lie(None)
    t.say("2 op_time after its start C recovers; A holds u now, and that is the highest entry of three reports")
    t.world.now_us += 5 * S
    t.recover("C", recovery)
    t.show()
    assert t.world.nodes[2].slots.current[slot("k")].salted[16:] == b"u"


def two_max_skew_at_start(t: Transcript) -> None:
    """A node that starts without stored state puts its floors at now + 2 max_skew, not now + max_skew.

    max_skew is 1 s. A's clock is 1 s behind the others', who take stamps up to 1 s ahead of theirs: up to 2 s ahead of
    A's. s@+1.5s is at C only, t@+1.9s complete at A, B and Z. A restarts at +0s of its own. With a floor of its now +
    max_skew = +1s it would take s back, and with C and a lying Z a reader would hear s three times: stale.
    (protocol 7, start without stored state; protocol 11, two max_skew at start)
    """
    older, newer = entry_of(t, "s", 1_500_000, grants="BCZ"), entry_of(t, "t", 1_900_000, grants="ABZ")
    t.world.now_us = START_US + S
    t.world.skew_us[0] = -S
    t.give(older, "C", "w1")
    t.give(newer, "ABZ", "w1")
    t.restart("A")
    t.say("somebody who keeps a copy of s commits it at A, and asks A to grant a stamp as old")
    t.give(older, "A", "Z")
    t.tell("A", Draft(t.world.configuration, "w2").put(at_us=START_US + 1_500_001).prepare(), "w2")
    t.show()
    assert slot("k") not in t.world.nodes[0].slots.current


def salt(t: Transcript) -> None:
    """The salt travels with the commit only: nobody but its writer can commit a header that was promised.

    A and B grant w1's first attempt; C and Z refuse it for their floors, so w1 moves on to another stamp. Z could now
    grant the first attempt after all, and so could C: three grants, a certificate. When Z learns the value from the
    second attempt, it would commit the first one too, and readers would see v, another's y, and v again. But the
    first attempt's header names the hash of a salt that nobody was told, so no node takes it.
    (protocol 2, value hash; protocol 11, salt)
    """
    writer = t.client("w1", "w1")
    settled(t, writer)
    shard = t.world.nodes[2].slots.shards[0]
    t.world.nodes[2].slots.raise_floor(shard, START_US + 500)
    t.lie(lambda request, reply: _below_floor(request, reply, START_US + 500))
    t.say("C has a high floor, Z claims one too")
    seen: list[m.Prepare] = []
    token = writer.write("k", b"v")
    sent = writer.take()
    seen += [request for _, request in sent if isinstance(request, m.Prepare)][:1]
    t._send(writer, sent)
    t.wait(1000)
    assert isinstance(writer.outcomes[token], Written)
    t.say("Z has three grants for the first attempt (A's, B's, its own) and knows the value, but not the salt")
    first = seen[0]
    held = t.world.nodes[0].slots.current[slot("k")]
    draft = Draft(t.world.configuration, "w1")
    draft.headers, draft.salted = list(first.headers), [held.salted]
    for node in ("B", "C"):
        entry = draft.entry(nodes=[0, 1, 3])
        reply = t.tell(node, passed_on(entry, t.world.configuration), "Z")
        assert isinstance(reply, m.Reject)


def _below_floor(request: m.Request, reply: m.Reply, floor_us: int) -> m.Reply:
    if isinstance(request, m.Prepare) and int.from_bytes(request.headers[0][3:11], "big") <= floor_us:
        return m.PrepareReply(request.id, reply.clock_us, b"\0", b"", [m.Refusal(0, m.BELOW_FLOOR, floor_us)])
    return reply


def order_of_commit_rules(t: Transcript) -> None:
    """A commit's writer is checked before its stamp: REVOKED comes before "I have something newer: OK".

    w1 was revoked while a certified entry of its own was hidden by Z. B holds a newer entry of w2. Were B to answer
    OK (superseded) to w1's entry, its answer would count towards a quorum that vouches for a revoked writer's
    entry, and a reader could return it. So B answers REVOKED, which never counts.
    (protocol 3, commit rules 2 and 3; protocol 11, order of the commit rules)
    """
    before = configuration_of(shards=1)
    hidden = Draft(before, "w1").put("k", b"hidden", at_us=START_US).entry(nodes=[0, 1, 3])
    for node in t.world.nodes.values():
        node.verifier.chain[before.digest] = before
    reader = t.client("reader")
    reader.core.verifier.chain[before.digest] = before
    t.world.now_us += S
    t.give(entry_of(t, "newer", S // 2, writer="w2"), "B", "w2")
    t.say("Z passes the hidden entry on to all")
    t.give(hidden, "ABC", "Z")
    t.say("and shows it to a reader, as the highest entry of a good set; B is slow to report its own")

    def show_hidden(request: m.Request, reply: m.Reply) -> m.Reply:
        if isinstance(request, m.Read):
            value = [hidden.header, hidden.salted] if request.values_to else []
            return m.ReadReply(request.id, reply.clock_us, digest_of(hidden.header), value)
        if isinstance(request, m.ReadFull):
            return m.ReadFullReply(request.id, reply.clock_us, [m.FullAnswer(hidden, 0)])
        return m.CommitReply(request.id, reply.clock_us, bytes((m.OK,)), [])

    t.lie(show_hidden)
    token = reader.read("k")
    reader_sent = reader.take()
    t._send(reader, [pair for pair in reader_sent if pair[0] != 1])
    t.wait(S // 2)
    outcome = reader.outcomes[token]
    assert isinstance(outcome, Missed) or value_of(outcome) == b"newer"


def evicted_counts(t: Transcript) -> None:
    """EVICTED counts as an answer to a commit, and the node that says it drops its promises up to that stamp.

    w1's messages to C are slow; A, B and Z grant, A and B store t, and Z is silent from then on. Meanwhile C's floor
    passes t by ordinary eviction of another key. If only OK counted, the write could never end, with one faulty
    node. C is safe to count: absent with floor >= t, it rules out everything below t in any later quorum. But then
    its promise of an older stamp has to go, or a later commit would bring that back.
    (protocol 3, commit rule 4; protocol 4, write 4; protocol 11, EVICTED counts)
    """
    writer = t.client("w1", "w1")
    settled(t, writer)
    t.say("C has promised w2 an older stamp, and holds another key; w1's messages to C are slow")
    older = Draft(t.world.configuration, "w2").put("k", b"older", at_us=START_US - 1)
    t.tell("C", older.prepare(), "w2")
    other = Draft(t.world.configuration, "w2").put("other", b"x", at_us=START_US + S // 2)
    t.give(other.entry(), "C", "w2")
    t.hold(writer, "C")
    token = writer.write("k", b"t")
    t._send(writer, writer.take())
    t.say("from now on Z is silent")
    t.lie(lambda request, reply: None)
    t.wait(3 * S)
    assert token not in writer.outcomes
    t.say("what is older than 2 s may go at C; then w1's messages arrive there")
    t.evict("C", "other")
    t.free(writer, "C")
    assert isinstance(writer.outcomes[token], Written)
    t.show()
    t.say("the older stamp's commit comes late: it does not come back")
    t.give(older.entry(), "C", "w2")
    assert slot("k") not in t.world.nodes[2].slots.current


def a_miss_must_end(t: Transcript) -> None:
    """A read has an end even where the only good set's entry can never be written back.

    The entry is of w1, whom one node's newer rules refuse (REVOKED never counts); Z is silent. A holds the entry, B and
    C are absent with low floors, so {A, B, C} is good and its entry is written back; B stores it, C refuses for ever.
    Two answers are no quorum, and a third will not come. At the end of the grace time the read is a miss.
    (protocol 4, read 2; protocol 11, a miss must have a way to end)
    """
    reader = t.client("reader")
    t.give(entry_of(t, "v", 0), "A", "w1")
    c = t.world.nodes[2]
    strict = configuration_of(shards=1, revoked=("w1",))

    t.lie(lambda request, reply: None)
    t.say("C knows already that w1 is revoked; Z says nothing")
    is_revoked = type(c.configuration).is_revoked
    c_store = c.store

    def store(header, held, now_us):  # type: ignore[no-untyped-def]
        return m.REVOKED if is_revoked(strict, header.writer) else c_store(header, held, now_us)

    c.store = store  # type: ignore[method-assign]
    token = reader.read("k")
    t.wait(S)
    assert isinstance(reader.outcomes[token], Missed)


def grace_in_prepare(t: Transcript) -> None:
    """A prepare that has q answers, but neither q grants nor more than f refusals, goes on after the grace time.

    A and B grant. C refuses with proof of a newer entry, Z is silent. Two grants are too few, one refusal is not
    enough to say that q grants are out of reach, and Z's answer may never come: the writer would wait for ever. After
    the grace time it goes above what C proved.
    (protocol 4, write 2; protocol 11, grace in prepare)
    """
    writer = t.client("w1", "w1")
    settled(t, writer)
    t.world.now_us += S
    t.give(entry_of(t, "other", S + 1000, writer="w2"), "C", "w2")
    t.lie(lambda request, reply: None)
    token = writer.write("k", b"mine")
    t.wait(S // 10)
    assert token not in writer.outcomes
    t.say("the grace time of 0.2 s ends")
    t.wait(S // 5)
    assert isinstance(writer.outcomes[token], Written)
    t.show()


def promises_age_out(t: Transcript) -> None:
    """Promises age out, and raise the floor, instead of blocking the slot for ever.

    w2 crashes between prepare and commit, as often as it may: at A and B it has 4 promises open (max_open). Were
    promises kept for ever, w2 could not write this slot again, and enough crashed writers would fill every table.
    A promise older than 2 max_skew + op_time = 7 s is dropped, which raises the floor to its stamp's time, so a late
    commit of it is refused and nothing that was promised since can be contradicted.
    (protocol 3, prepare rule 7; protocol 11, promises age out instead of blocking)
    """
    drafts = [Draft(t.world.configuration, "w2").put("k", b"lost", at_us=START_US + i) for i in range(5)]
    for draft in drafts:
        for node in "AB":
            t.tell(node, draft.prepare(), "w2")
    t.show()
    t.say("7 s later the oldest has to make way")
    t.wait(7 * S + 1)
    for node in "AB":
        t.tell(node, drafts[4].prepare(), "w2")
    t.say("the first one's commit comes late after all")
    t.give(drafts[0].entry(), "AB", "w2")
    t.show()
    assert slot("k") not in t.world.nodes[0].slots.current


def overtaken(t: Transcript) -> None:
    """A write that is refused again, by an entry that was not complete when it began, is ordered just before that.

    w1 is far away, w2 near: whenever w1's prepare arrives, w2 has written something newer, and w1 would meet STALE
    for ever. The second refusal proves an entry V above a stamp that itself exceeded everything in a quorum of answers
    to the first attempt. So V was not complete when w1's write began: w1 completes V and counts as just before it.
    (protocol 4, write 3; protocol 11, overtaken)
    """
    far, near = t.client("w1", "w1"), t.client("w2", "w2")
    settled(t, far)
    settled(t, near)
    t.say("w1's prepare is on its way; w2 is faster")
    t.hold(far, "ABCZ")
    token = far.write("k", b"mine")
    t.pump()
    t.wait(1000)
    near.write("k", b"first")
    t.pump()
    t.say("it arrives; w1 tries again with a higher stamp, and w2 is faster again")
    cut, t.cut = t.cut, set()
    held, t.held = t.held, []
    for client, node, request in held:
        t._deliver(client, node, request)
    t.cut = cut
    t.pump()
    t.wait(1000)
    near.write("k", b"second")
    t.pump()
    t.say("refused once more: w1 reads V in full, and commits it")
    t.free(far, "ABCZ")
    t.wait(1000)
    outcome = far.outcomes[token]
    assert isinstance(outcome, Written)
    assert outcome.overtaken
    t.show()


def evict_only_what_is_old(t: Transcript) -> None:
    """Only what is older than now - 2 max_skew may be evicted; a node full of younger entries answers FULL.

    A is full of fresh entries. Were it to evict one, its floor would rise to a stamp that may lie up to max_skew ahead
    of its clock, and every write that clients with correct clocks propose to the whole shard would be BELOW_FLOOR.
    FULL says: not now. Two seconds later the old ones may go, and the floor stays behind everybody's clock.
    (protocol 7, evict; protocol 11, evict only what is old)
    """
    node = t.world.nodes[0]
    for i in range(4):
        draft = Draft(t.world.configuration).put(f"old{i}", b"fresh", at_us=START_US + S - i)
        t.give(draft.entry(), "A", "w1")
    node.slots.memory.bytes_max = node.slots.memory.bytes_used
    t.say("full: a prepare is refused, a commit is not stored, no floor moves")
    early = Draft(t.world.configuration, "w2").put("k", b"early", at_us=START_US + S)
    reply = t.tell("A", early.prepare(), "w2")
    t.give(early.entry(), "A", "w2")
    assert isinstance(reply, m.PrepareReply)
    assert reply.refusals[0].code == m.FULL
    assert node.slots.shards[0].floor_us == 0
    t.say("3 s later")
    t.world.now_us += 3 * S + 1
    late = Draft(t.world.configuration, "w2").put("k", b"late", at_us=t.world.now_us)
    t.tell("A", late.prepare(), "w2")
    t.give(late.entry(), "A", "w2")
    t.show()
    assert 0 < node.slots.shards[0].floor_us < t.world.now_us - 2 * S


def signature_cache(t: Transcript) -> None:
    """The cache of checked signatures is keyed by signer, signed string and signature.

    A verified w1's entry, so it remembers the grants in it. Z sends the same entry with garbage in place of one
    grant's signature. Were the cache keyed by signer and string only, A would take it, and serve it; every reader
    verifies for itself, finds no valid certificate, and discards A's answer: A would be as good as absent.
    (protocol 2; protocol 11, signature cache keyed by the signature too)
    """
    good = entry_of(t, "v", 0)
    t.give(good, "AB", "w1")
    t.say("the same grants, but C's signature is 64 zero bytes")
    grants = good.certificate.grants
    garbage = (*grants[:2], msgspec.structs.replace(grants[2], signature=bytes(64)))
    bad = msgspec.structs.replace(good, certificate=msgspec.structs.replace(good.certificate, grants=garbage))
    for node in "AB":
        reply = t.tell(node, passed_on(bad, t.world.configuration), "Z")
        assert isinstance(reply, m.Reject)
    reader = t.client("reader")
    t.say("a reader takes no such answer from Z either")

    def serve_garbage(request: m.Request, reply: m.Reply) -> m.Reply:
        if isinstance(request, m.ReadFull):
            return m.ReadFullReply(request.id, reply.clock_us, [m.FullAnswer(bad, 0)])
        return reply

    t.lie(serve_garbage)
    token = reader.read("k")
    t.wait(S // 2)
    assert reader.core.counts["lies_rejected"] > 0
    assert value_of(reader.outcomes[token]) == b"v"
    assert header_slot(good.header) == slot("k")


SCENARIOS: list[Callable[[Transcript], None]] = [
    normal,
    good_set,
    recovery_waits,
    two_max_skew_at_start,
    salt,
    order_of_commit_rules,
    evicted_counts,
    a_miss_must_end,
    grace_in_prepare,
    promises_age_out,
    overtaken,
    evict_only_what_is_old,
    signature_cache,
]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda s: s.__name__)
def test_scenario(scenario: Callable[[Transcript], None], request: pytest.FixtureRequest) -> None:
    """protocol 11: each counterexample, as its header says."""
    revoking = scenario is order_of_commit_rules
    t = Transcript(configuration_of(shards=1, revoked=("w1",), epoch=2) if revoking else None)
    scenario(t)
    text = inspect.getdoc(scenario) + "\n\n" + "\n".join(t.lines).strip("\n") + "\n"  # type: ignore[operator]
    path = FILES / f"{scenario.__name__}.txt"
    if request.config.getoption("--update-scenarios"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    assert text == path.read_text(), "changed on purpose? Then --update-scenarios, and review the diff."
    assert text.count("\n") <= 150


def test_every_file_has_its_scenario() -> None:
    """Habit 9: no golden file that nobody plays."""
    assert sorted(path.stem for path in FILES.glob("*.txt")) == sorted(s.__name__ for s in SCENARIOS)
