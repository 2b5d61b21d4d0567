"""Keys with fields, one node: whatever it promised or took, it never promises another header under that stamp, so it
never signs evidence against itself (protocol 5.2 and 5.7); what it can be made to hold is bounded (protocol 6)."""

from __future__ import annotations

import random
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quorumcache.core import fields as fields_module
from quorumcache.core import keys
from quorumcache.core import messages as m
from quorumcache.core.journal import Journal
from quorumcache.core.model import DELETE, PUT, stamp_of
from quorumcache.core.types.base import field_slot
from quorumcache.core.types.counter import encode_totals
from quorumcache.core.types.siblings import encode_seen
from tests.cluster import START_US, key_of
from tests.fields import base_slot, configuration, slot_at
from tests.making import Alone, Draft

NOW = START_US


def stamp(time_us: int, writer: str = "w1", nonce: int = 0) -> bytes:
    return stamp_of(time_us, key_of(writer).public, nonce)


def alone() -> Alone:
    return Alone(configuration())


def base(
    node: Alone, at_us: int, *, writer: str = "w1", kind: int = PUT, goes_on: bytes = b"", of: str = "map"
) -> Draft:
    return node.draft(writer).put(slot_bytes=base_slot(of), value=b"", kind=kind, at_us=at_us, metadata=goes_on)


def field(
    node: Alone, at_us: int, generation: bytes, value: bytes = b"v", *, writer: str = "w2", name: bytes = b"x"
) -> Draft:
    return node.draft(writer).put(slot_bytes=slot_at("map", name), value=value, at_us=at_us, metadata=generation)


def sibling(
    node: Alone, at_us: int, generation: bytes, number: int, seen: dict[bytes, int], value: bytes = b"v"
) -> Draft:
    slot = field_slot(base_slot("siblings"), key_of("w2").public + bytes([number]) * 8)
    return node.draft("w2", nonce=number).put(
        slot_bytes=slot, value=value, at_us=at_us, metadata=generation + encode_seen(seen)
    )


def test_a_promise_of_an_older_generation_is_not_forgotten() -> None:
    """Commit drops promises by rank: one of a lower generation may have the higher stamp, and stays promised."""
    node = alone()
    node.commit(base(node, NOW - 1000))
    assert node.grants(field(node, NOW, stamp(NOW - 1000)))
    node.commit(base(node, NOW - 500, kind=DELETE, writer="w3"))
    node.commit(base(node, NOW - 400))
    assert node.commit(field(node, NOW - 300, stamp(NOW - 400))) == ["OK"]
    assert not node.grants(field(node, NOW, stamp(NOW - 400), b"other"))


def test_a_base_that_went_on_is_not_forgotten() -> None:
    node = alone()
    node.commit(base(node, NOW - 1000))
    assert node.grants(base(node, NOW, goes_on=stamp(NOW - 1000)))
    node.commit(base(node, NOW - 500, kind=DELETE, writer="w3"))
    assert not node.grants(base(node, NOW))


def test_a_covered_sibling_is_not_forgotten() -> None:
    """A covered commit is answered OK and not stored: its stamp is promised all the same."""
    node = alone()
    generation = stamp(NOW - 1000)
    node.commit(base(node, NOW - 1000, of="siblings"))
    covered = sibling(node, NOW, generation, 1, {})
    assert node.grants(covered)
    node.commit(sibling(node, NOW - 100, generation, 2, {stamp(0, "w2", 1)[8:]: NOW}))
    assert node.commit(covered) == ["OK"]
    assert not node.grants(sibling(node, NOW, generation, 1, {stamp(0, "w3", 7)[8:]: NOW - 5}, b"other"))


@pytest.mark.parametrize("name", [b"x", b"y"])
def test_a_field_of_a_generation_that_is_gone_is_not_forgotten(name: bytes) -> None:
    """The floor that refuses its generation may be below its own stamp."""
    node = alone()
    generation = stamp(NOW - 1000)
    node.commit(base(node, NOW - 1000))
    wanted = field(node, NOW, generation)
    assert node.grants(wanted)
    node.node.slots.drop(base_slot("map"))
    assert node.commit(field(node, NOW + 1, generation, name=name)) == ["EVICTED"]
    assert node.commit(wanted) == ["EVICTED"]
    assert not node.grants(field(node, NOW, stamp(NOW - 900), b"other"))


def test_a_covered_sibling_waits_for_storage() -> None:
    """While storage takes nothing, no promise is dropped."""
    node = alone()
    generation = stamp(NOW - 1000)
    node.commit(base(node, NOW - 1000, of="siblings"))
    covered = sibling(node, NOW, generation, 1, {})
    node.grants(covered)
    node.commit(sibling(node, NOW - 100, generation, 2, {stamp(0, "w2", 1)[8:]: NOW}))
    node.node.slots.frozen = True
    assert node.commit(covered) == ["FULL"]
    assert len(node.node.slots.promises) == 1


# --- what storage could not write ---


def test_a_barrier_outlives_what_storage_could_not_write() -> None:
    """A key that was let go of and put back, floor and all, still remembers what was promised in it."""
    node = alone()
    generation = stamp(NOW - 1000)
    node.commit(base(node, NOW - 1000, of="siblings"))
    covered = sibling(node, NOW, generation, 1, {})
    assert node.grants(covered)
    node.commit(sibling(node, NOW - 100, generation, 2, {stamp(0, "w2", 1)[8:]: NOW}))
    assert node.commit(covered) == ["OK"]
    node.node.slots.journal = journal = Journal()
    node.node.slots.drop(base_slot("siblings"))
    journal.undo(node.node.slots)
    assert len(node.node.slots.keys[base_slot("siblings")].fields) == 1
    assert not node.grants(sibling(node, NOW, generation, 1, {stamp(0, "w3", 7)[8:]: NOW - 5}, b"other"))


@given(st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_undoing_gives_back_what_was_there(rng: random.Random) -> None:
    """The journal: whatever a frame did to keys with fields, undone it leaves entries, digests and memory as before;
    and dropping everything leaves no memory in use."""
    node = alone()
    slots = node.node.slots
    generations = [stamp(NOW - 1000)]

    def act(number: int) -> None:
        at_us = NOW - 900 + number
        what = rng.randrange(8)
        generation = rng.choice(generations[-2:])
        if what == 0:
            node.commit(base(node, at_us, kind=rng.randrange(2), of=rng.choice(("map", "siblings"))))
            generations.append(stamp(at_us))
        elif what == 1:
            node.commit(base(node, at_us, goes_on=generation, of=rng.choice(("map", "siblings"))))
        elif what == 2:
            slot = base_slot(rng.choice(("map", "siblings")))
            if slot in slots.current:
                slots.drop(slot)
        elif what < 6:
            node.commit(field(node, at_us, generation, name=b"%d" % rng.randrange(3)))
        else:
            seen = {stamp(0, "w2", n)[8:]: NOW for n in range(3) if rng.random() < 0.3}
            draft = sibling(node, at_us, generation, rng.randrange(3, 6), seen)
            if rng.random() < 0.5:
                node.prepare(draft)
            node.commit(draft)

    def state() -> object:
        keys = {s: (k.base, dict(k.fields), k.digest(), k.size, k.generation) for s, k in slots.keys.items()}
        promises = {s: tuple(p) for s, p in slots.open.items()}
        return dict(slots.current), keys, promises, slots.memory.bytes_used, slots.shards[0].floor_us

    node.commit(base(node, NOW - 1000))
    node.commit(base(node, NOW - 1000, of="siblings"))
    for number in range(rng.randrange(12)):
        act(number)
    before = state()
    slots.journal = journal = Journal()
    for number in range(20, 20 + rng.randrange(12)):
        act(number)
    journal.undo(slots)
    assert state() == before
    for slot in list(slots.keys):
        slots.drop(slot)
    for promise in list(slots.promises):
        slots.drop_promise(promise)
    assert (slots.current, slots.memory.bytes_used, slots.promised_in_key) == ({}, 0, {})


# --- bounds ---


def test_what_is_promised_in_one_key_is_bounded() -> None:
    """Siblings: each is compared with all others, so promises count too, or a batch of them would pass the bound."""
    node = alone()
    generation = stamp(NOW - 1000)
    node.commit(base(node, NOW - 1000, of="siblings"))
    draft = node.draft("w2")
    for number in range(300):
        slot = field_slot(base_slot("siblings"), key_of("w2").public + number.to_bytes(8, "big"))
        draft.put(slot_bytes=slot, at_us=NOW, metadata=generation)
    reply = node.prepare(draft)
    assert {m.REFUSALS[refusal.code] for refusal in reply.refusals} == {"BUSY"}
    assert len(reply.refusals) == 300 - 64
    assert node.node.slots.promised_in_key[base_slot("siblings")][0] == 64


def test_a_key_that_is_not_there_yet_bounds_its_promises_too() -> None:
    """Of a generation that the node has not heard of, too: its base may come later."""
    node = alone()
    for at in range(40):
        draft = field(node, NOW + at, stamp(NOW), b"x" * (1 << 20), name=b"%d" % at)
        if not node.grants(draft):
            assert m.REFUSALS[node.refusal(draft).code] == "BUSY"
            assert at <= 17
            return
    raise AssertionError("all was promised")


def test_a_large_key_is_not_packed_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that comes to more than a reply's bound only once it is packed is left out without packing, however often
    one read names it."""
    node = alone()
    generation = stamp(NOW - 1000)
    node.commit(base(node, NOW - 1000))
    draft = node.draft("w2")
    for at in range(8):
        draft.put(slot_bytes=slot_at("map", b"%d" % at), value=bytes(1 << 19), at_us=NOW, metadata=generation)
    room = m.REPLY_VALUES_BYTES_MAX - 8 * (len(draft.headers[0]) + 16) - 7 * (1 << 19) - 1
    draft.headers.pop()
    draft.salted.pop()
    draft.put(slot_bytes=slot_at("map", b"7"), value=bytes(room), at_us=NOW, metadata=generation)
    assert node.commit(draft) == ["OK"] * 8
    assert node.node.slots.keys[base_slot("map")].size == m.REPLY_VALUES_BYTES_MAX - 1
    packed = 0

    def counted(fields: Iterable[tuple[bytes, bytes]]) -> bytes:
        nonlocal packed
        packed += 1
        return keys.pack(fields)

    monkeypatch.setattr(fields_module, "pack", counted)
    reply = node.node.handle(m.Read(1, node.configuration.digest, [base_slot("map")] * 50, 0, 50), NOW)
    assert isinstance(reply, m.ReadReply)
    assert set(reply.values) == {b""}
    assert not packed


@pytest.mark.parametrize("is_there", [False, True], ids=["no-key", "key-of-another-generation"])
def test_totals_of_a_generation_to_come_do_not_go_back_either(is_there: bool) -> None:
    """Protocol 6, counter: totals are held against open promises within their generation, also of one that the node
    has not heard of: a Byzantine writer collects what it will commit once that has begun."""
    node = alone()
    if is_there:
        node.commit(base(node, NOW - 1000, of="counter"))
    slot = field_slot(base_slot("counter"), key_of("w2").public + bytes(8))

    def increment(at_us: int, added: int) -> Draft:
        metadata = stamp(NOW) + encode_totals(added, 0)
        return node.draft("w2").put(slot_bytes=slot, value=b"", at_us=at_us, metadata=metadata)

    assert node.grants(increment(NOW + 1, 10))
    assert m.REFUSALS[node.refusal(increment(NOW + 2, 5)).code] == "DENIED"
    assert node.grants(increment(NOW + 3, 10))
