"""Types (protocol 6): merging is commutative, associative and idempotent; forms that no node may promise."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quorumcache.core.model import (
    DELETE,
    PUT,
    Header,
    encode_header,
    header_slot,
    parse_header,
    slot_of,
    stamp_of,
    value_hash_of,
)
from quorumcache.core.types import FIELD_TYPES
from quorumcache.core.types.base import (
    FieldEntry,
    base_fault,
    base_slot_of,
    field_of,
    field_slot,
    generation_of,
    is_base_slot,
    metadata_of,
    name_field,
    rank_of,
)
from quorumcache.core.types.counter import Tally, encode_totals, totals_of
from quorumcache.core.types.siblings import (
    SEEN_MAX,
    Siblings,
    author_of,
    covers,
    encode_seen,
    join,
    seen_of,
    standing,
    time_of,
)

WRITERS = [bytes([n]) * 32 for n in (1, 2, 3)]
BASE = slot_of(b"space", b"key")
GENERATION = stamp_of(1, WRITERS[0], 0)


def entry(
    field: bytes,
    time_us: int,
    writer: bytes = WRITERS[0],
    *,
    nonce: int = 0,
    kind: int = PUT,
    value: bytes = b"",
    details: bytes = b"",
    generation: bytes = GENERATION,
) -> FieldEntry:
    salted = b"salt of sixteen." + value
    stamp = stamp_of(time_us, writer, nonce)
    slot = field_slot(BASE, field)
    raw = encode_header(slot, stamp, kind, value_hash_of(salted), len(value), 0, generation + details)
    return raw, salted


def header(*args: Any, **more: Any) -> Header:
    return parse_header(entry(*args, **more)[0])


times = st.integers(2, 40)
writers = st.sampled_from(WRITERS)
named = st.builds(
    lambda name, time_us, writer, kind, value: entry(
        name_field(name), time_us, writer, kind=kind, value=b"" if kind == DELETE else value
    ),
    st.sampled_from([b"a", b"b", b"c"]),
    times,
    writers,
    st.sampled_from([PUT, DELETE]),
    st.sampled_from([b"x", b"y"]),
)


@st.composite
def counted(draw: st.DrawFn) -> FieldEntry:
    # As a correct writer's: totals grow with the stamp.
    writer, time_us = draw(writers), draw(times)
    return entry(writer + bytes(8), time_us, writer, details=encode_totals(3 * time_us, time_us))


@st.composite
def sibling_histories(draw: st.DrawFn) -> list[FieldEntry]:
    """Writers that read some of what is there, and write with what they saw."""
    history: list[FieldEntry] = []
    for number in range(draw(st.integers(1, 12))):
        seen_entries = draw(st.lists(st.sampled_from(history), max_size=4)) if history else []
        headers = [raw for raw, _ in seen_entries]
        seen = join([*(seen_of(raw) for raw in headers), *({author_of(raw): time_of(raw)} for raw in headers)])
        author = draw(st.sampled_from([(w, n) for w in WRITERS for n in (0, 1)]))
        seen.pop(author[0] + author[1].to_bytes(8, "big"), None)
        history.append(
            entry(
                number.to_bytes(16, "big"),
                number + 2,
                author[0],
                nonce=author[1],
                value=b"%d" % number,
                details=encode_seen(seen),
            )
        )
    return history


@pytest.mark.parametrize("kind", ["map", "set", "counter", "siblings"])
@given(data=st.data(), seed=st.integers(0, 1 << 20))
def test_any_order_and_repetition_gives_the_same_value(kind: str, data: st.DataObject, seed: int) -> None:
    """Commutative, associative, idempotent: a value is a function of the set of entries."""
    if kind == "siblings":
        entries = data.draw(sibling_histories())
    else:
        entries = data.draw(st.lists(counted() if kind == "counter" else named, max_size=12))
    # Two entries under one stamp with different digests do not exist (protocol 5.2).
    entries = list({(header_slot(raw), raw[3:51]): (raw, salted) for raw, salted in entries}.values())
    value_of = FIELD_TYPES[kind].value_of
    shuffled = [*entries, *entries[: len(entries) // 2]]
    random.Random(seed).shuffle(shuffled)
    assert value_of(shuffled) == value_of(entries)


@given(st.lists(named, max_size=12))
def test_the_highest_stamp_of_each_name_wins(entries: list[FieldEntry]) -> None:
    entries = list({(header_slot(raw), raw[3:51]): (raw, salted) for raw, salted in entries}.values())
    best: dict[bytes, FieldEntry] = {}
    for found in sorted(entries, key=lambda e: e[0][3:51]):
        best[field_of(header_slot(found[0]))[1:]] = found
    expected = {name: salted[16:] for name, (raw, salted) in best.items() if raw[2] == PUT}
    assert FIELD_TYPES["map"].value_of(entries) == expected
    assert FIELD_TYPES["set"].value_of(entries) == set(expected)


@given(sibling_histories())
def test_what_stands_covers_what_does_not(history: list[FieldEntry]) -> None:
    """Nothing is lost: each sibling stands, or one that stands has seen it."""
    headers = [raw for raw, _ in history]
    left = standing(headers)
    assert left or not headers
    for raw in headers:
        assert raw in left or any(covers(seen_of(other), raw) for other in left)
        assert (raw in left) == (not Siblings().replaced(raw, headers))


@given(sibling_histories(), st.integers(0, 1 << 20))
def test_dropping_what_is_replaced_changes_nothing(history: list[FieldEntry], seed: int) -> None:
    """Nodes drop replaced siblings as they come, in any order: readers see the same."""
    draw = random.Random(seed)
    kind = Siblings()
    held: dict[bytes, FieldEntry] = {}
    for raw, salted in draw.sample(history, len(history)):
        if kind.replaced(raw, list(held)):
            continue
        held[raw] = (raw, salted)
        for other in list(held):
            if other != raw and kind.replaced(other, [raw]):
                del held[other]
    assert kind.value_of(held.values()) == kind.value_of(history)


@given(st.dictionaries(st.binary(min_size=40, max_size=40), st.integers(1, 1 << 60), max_size=SEEN_MAX + 5))
def test_vectors_come_back_as_they_were(seen: dict[bytes, int]) -> None:
    raw, _ = entry(bytes(16), 1 << 61, details=encode_seen(seen))
    found = seen_of(raw)
    assert len(found) == min(len(seen), SEEN_MAX)
    assert found.items() <= seen.items()
    if len(seen) > SEEN_MAX:
        # Those seen longest ago are left out.
        assert min(found.values()) >= max(time_us for author, time_us in seen.items() if author not in found)


def test_parts_of_slots_and_headers() -> None:
    slot = field_slot(BASE, b"=name")
    assert base_slot_of(slot) == base_slot_of(BASE) == BASE
    assert is_base_slot(BASE)
    assert not is_base_slot(slot)
    assert field_of(slot) == b"=name"
    raw, _ = entry(b"=name", 5, details=b"more")
    assert metadata_of(raw) == GENERATION + b"more"
    assert generation_of(raw) == GENERATION
    assert rank_of(raw) == GENERATION + raw[3:51]
    base = encode_header(BASE, GENERATION, PUT, bytes(32), 0, 0)
    assert generation_of(base) == GENERATION
    assert rank_of(base) == GENERATION + GENERATION
    tombstone = encode_header(BASE, GENERATION, DELETE, bytes(32), 0, 0)
    goes_on = encode_header(BASE, b"\xfe" * 48, PUT, bytes(32), 0, 0, GENERATION)
    assert rank_of(base) < rank_of(goes_on) < rank_of(tombstone)
    assert rank_of(tombstone)[:48] == generation_of(tombstone) == GENERATION


@pytest.mark.parametrize(
    ("kind", "bad"),
    [
        ("map", {"field": b"name"}),
        ("map", {"field": b"=name", "details": b"x"}),
        ("map", {"field": b"=name", "time_us": 0}),
        ("set", {"field": b"=name", "value": b"v"}),
        ("counter", {"field": b"=name", "details": encode_totals(1, 0)}),
        ("counter", {"field": WRITERS[1] + bytes(8), "details": encode_totals(1, 0)}),
        ("counter", {"field": WRITERS[0] + bytes(8), "details": b"short"}),
        ("counter", {"field": WRITERS[0] + bytes(8), "details": b"\xff" * 16}),
        ("counter", {"field": WRITERS[0] + bytes(8), "details": encode_totals(1, 0), "kind": DELETE}),
        ("siblings", {"field": b"short"}),
        ("siblings", {"field": WRITERS[1] + bytes(8)}),
        ("siblings", {"field": WRITERS[0] + bytes(8), "details": bytes(47)}),
        ("siblings", {"field": WRITERS[0] + bytes(8), "kind": DELETE}),
        ("siblings", {"field": WRITERS[0] + bytes(8), "details": encode_seen({WRITERS[0] + bytes(8): 9})}),
        (
            "siblings",
            {"field": WRITERS[0] + bytes(8), "details": encode_seen({b"b" * 40: 1}) + encode_seen({b"a" * 40: 1})},
        ),
    ],
)
def test_forms_that_no_node_promises(kind: str, bad: dict[str, Any]) -> None:
    """Protocol 6: prepare rule 1, by form."""
    made = header(**{"time_us": 5, **bad})
    assert FIELD_TYPES[kind].fault(made)


@pytest.mark.parametrize(
    ("kind", "good"),
    [
        ("map", {"field": b"=", "value": b"v"}),
        ("set", {"field": b"=name", "kind": DELETE}),
        ("counter", {"field": WRITERS[0] + bytes(8), "details": encode_totals(1, 0)}),
        (
            "siblings",
            {"field": WRITERS[0] + bytes(8), "value": b"v", "details": encode_seen({WRITERS[0] + bytes(8): 4})},
        ),
    ],
)
def test_forms_that_nodes_promise(kind: str, good: dict[str, Any]) -> None:
    assert not FIELD_TYPES[kind].fault(header(**{"time_us": 5, **good}))


def test_forms_of_bases() -> None:
    def base(time_us: int, kind: int = PUT, metadata: bytes = b"", size: int = 0) -> Header:
        stamp = stamp_of(time_us, WRITERS[0], 0)
        return parse_header(encode_header(BASE, stamp, kind, bytes(32), size, 0, metadata))

    assert not base_fault(base(5))
    assert not base_fault(base(5, DELETE))
    assert not base_fault(base(5, PUT, GENERATION))
    assert base_fault(base(5, DELETE, GENERATION))
    assert base_fault(base(5, PUT, GENERATION[:-1]))
    assert base_fault(base(1, PUT, GENERATION))
    assert base_fault(base(5, PUT, b"", 3))


def test_totals_of_a_counter_never_go_down() -> None:
    """Protocol 6, counter: not below the current entry, nor a promise under a lower stamp; not above one under a
    higher."""
    counter = FIELD_TYPES["counter"]
    field = WRITERS[0] + bytes(8)

    def at(time_us: int, added: int, taken: int = 0) -> Header:
        return header(field, time_us, details=encode_totals(added, taken))

    assert not counter.fault_beside(at(9, 5), at(5, 5).raw, [])
    assert counter.fault_beside(at(9, 4), at(5, 5).raw, [])
    assert counter.fault_beside(at(9, 9, 0), at(5, 5, 1).raw, [])
    assert counter.fault_beside(at(9, 4), None, [at(8, 5)])
    assert not counter.fault_beside(at(9, 4), None, [at(10, 5)])
    assert counter.fault_beside(at(9, 6), None, [at(10, 5)])


@given(st.lists(st.lists(st.integers(-(1 << 46), 1 << 46), min_size=1, max_size=5), max_size=8))
def test_a_tally_counts_what_was_confirmed(writes: list[list[int]]) -> None:
    tally = Tally(WRITERS[0] + bytes(8))
    for amounts in writes:
        tally.begin(amounts)
        tally.confirm(GENERATION)
    tally.begin([])
    raw, _ = entry(tally.field, 5, details=tally.details(GENERATION))
    added, taken = totals_of(raw)
    assert added - taken == sum(sum(amounts) for amounts in writes)
    # Under another generation it starts anew.
    raw, _ = entry(tally.field, 5, details=tally.details(stamp_of(3, WRITERS[0], 0)))
    assert totals_of(raw) == (0, 0)
