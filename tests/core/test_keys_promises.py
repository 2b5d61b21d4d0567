"""Keys with fields, one node: whatever it promised or took, it never promises another header under that stamp, so it
never signs evidence against itself (protocol 5.2 and 5.7); what it can be made to hold is bounded (protocol 6)."""

from __future__ import annotations

import pytest

from quorumcache.core.model import DELETE, PUT, stamp_of
from quorumcache.core.types.base import field_slot
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
    slot = field_slot(base_slot("siblings"), bytes([number]) * 16)
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
