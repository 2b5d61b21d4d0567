"""Protocol 2: an entry verifies as a whole or not at all, and so does evidence."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quorumcache.core import merkle
from quorumcache.core.certificate import Verifier, grant_string, intent_string
from quorumcache.core.evidence import Equivocation, SignedHeader, verify_equivocation
from quorumcache.core.model import Certificate, Entry, Malformed
from quorumcache.core.quorum import bitmap_of
from quorumcache.wire.keys import verify
from tests import craft
from tests.cluster import START_US, configuration_of, key_of, slot

CONFIGURATION = configuration_of()
BATCH = [craft.craft(f"k{i}", START_US, b"value %d" % i) for i in range(11)]
ENTRY = craft.entry(CONFIGURATION, BATCH[4], BATCH)


def fields_of(entry: Entry) -> Iterator[tuple[str, bytes | int]]:
    """Every field of an entry, by name; those of grants with their place."""
    yield "header", entry.header
    yield "salted", entry.salted
    yield "position", entry.position
    yield "path", entry.path
    for name in ("configuration", "group", "root", "count", "writer", "signature"):
        yield f"certificate.{name}", getattr(entry.certificate, name)
    for i, grant in enumerate(entry.certificate.grants):
        for name in ("node", "bitmap", "signature"):
            yield f"grants.{i}.{name}", getattr(grant, name)


def changed(entry: Entry, name: str, value: object) -> Entry:
    """The entry with one field replaced."""
    if name.startswith("grants"):
        _, place, field = name.split(".")
        grants = list(entry.certificate.grants)
        grants[int(place)] = msgspec.structs.replace(grants[int(place)], **{field: value})
        return changed(entry, "certificate.grants", tuple(grants))
    if name.startswith("certificate."):
        certificate: Certificate = msgspec.structs.replace(entry.certificate, **{name.split(".")[1]: value})
        return msgspec.structs.replace(entry, certificate=certificate)
    return msgspec.structs.replace(entry, **{name: value})


def flipped(value: bytes | int, bit: int) -> bytes | int:
    if isinstance(value, int):
        return value ^ (1 << bit % 63)
    spoiled = bytearray(value)
    spoiled[bit // 8 % len(value)] ^= 1 << bit % 8
    return bytes(spoiled)


@settings(max_examples=300)
@given(st.sampled_from(list(fields_of(ENTRY))), st.integers(0, 10_000), st.booleans())
def test_any_single_bit_flipped_is_rejected(field: tuple[str, bytes | int], bit: int, warm: bool) -> None:
    """By a verifier that has seen nothing, and by one that remembers the good signatures (section 11)."""
    verifier = Verifier(verify, [CONFIGURATION])
    if warm:
        verifier.check_entry(ENTRY)
    name, value = field
    with pytest.raises(Malformed):
        verifier.check_entry(changed(ENTRY, name, flipped(value, bit)))
    assert verifier.check_entry(ENTRY).digest == BATCH[4].digest


@pytest.mark.parametrize("f", [0, 1, 2, 3])
def test_q_to_n_grants_make_a_certificate_and_no_other_number_does(f: int) -> None:
    configuration = configuration_of(f)
    verifier = Verifier(verify, [configuration])
    for count in range(configuration.n + 1):
        certified = craft.certificate(configuration, BATCH, range(count))
        entry = craft.entry(configuration, BATCH[0], BATCH, certified)
        if count >= configuration.q:
            verifier.check_entry(entry)
        else:
            with pytest.raises(Malformed):
                verifier.check_entry(entry)


def test_a_header_needs_its_own_bit_in_q_grants() -> None:
    bits = {0: {0, 1, 2}, 1: {0, 1}, 2: {0, 2}, 3: {0, 1, 2}}
    batch = BATCH[:3]
    bitmaps = {node: bitmap_of(b, 3) for node, b in bits.items()}
    certified = craft.certificate(CONFIGURATION, batch, range(4), bitmaps)
    verifier = Verifier(verify, [CONFIGURATION])
    for position, grants in ((0, 4), (1, 3), (2, 3)):
        assert sum(position in b for b in bits.values()) == grants
        verifier.check_entry(craft.entry(CONFIGURATION, batch[position], batch, certified))
    fewer = craft.certificate(CONFIGURATION, batch, range(3), bitmaps)
    verifier.check_entry(craft.entry(CONFIGURATION, batch[0], batch, fewer))
    for position in (1, 2):
        with pytest.raises(Malformed):
            verifier.check_entry(craft.entry(CONFIGURATION, batch[position], batch, fewer))


def test_grants_of_nodes_outside_the_group_do_not_count() -> None:
    configuration = configuration_of(nodes=9, shards=64)
    group = configuration.group_of(slot("a"))
    outsider = next(i for i in range(9) if i not in group.members)
    nodes = sorted([*group.members[:2], outsider])
    crafted = craft.craft("a", START_US)
    entry = craft.entry(configuration, crafted, None, craft.certificate(configuration, [crafted], nodes))
    with pytest.raises(Malformed, match="outside its group"):
        Verifier(verify, [configuration]).check_entry(entry)


def test_a_slot_of_another_group_does_not_verify() -> None:
    configuration = configuration_of(nodes=9, shards=64)
    group = configuration.group_of(slot("a"))
    foreign = next(f"k{i}" for i in range(99) if configuration.group_of(slot(f"k{i}")) is not group)
    crafted = craft.craft(foreign, START_US)
    certified = craft.certificate(configuration, [crafted], group.members[:3])
    with pytest.raises(Malformed, match="group"):
        Verifier(verify, [configuration]).check_entry(craft.entry(configuration, crafted, None, certified))


def test_an_entry_of_a_configuration_that_does_not_count_is_rejected() -> None:
    with pytest.raises(Malformed):
        Verifier(verify, [configuration_of(shards=16)]).check_entry(ENTRY)


def test_signatures_are_verified_once_and_the_memory_of_them_is_bounded() -> None:
    verifier = Verifier(verify, [CONFIGURATION], remembered_max=16)
    for _ in range(3):
        verifier.check_entry(ENTRY)
    assert verifier.verified_count == 4, "one intent and three grants"
    for i in range(50):
        verifier.remember(bytes(32), b"%d" % i, bytes(64))
        assert len(verifier._remembered) <= 16


def test_signed_strings_start_with_their_own_tag_and_have_no_two_readings() -> None:
    parts = (b"c" * 32, b"g" * 16, b"r" * 32)
    intent, grant = intent_string(*parts), grant_string(*parts, b"\x01")
    assert intent == b"quorumcache intent 1\0" + b"".join(parts)
    assert grant == b"quorumcache grant 1\0" + b"".join(parts) + b"\x01"


# --- evidence ---


def signed(batch: list[craft.Crafted], position: int) -> SignedHeader:
    group = CONFIGURATION.group_of(slot("a")).id
    message = intent_string(CONFIGURATION.digest, group, craft.root_of(batch))
    leaves = b"".join(c.digest for c in batch)
    path = merkle.path_of(leaves, position)
    signature = key_of(batch[0].writer).sign(message)
    return SignedHeader(batch[position].raw, group, len(batch), position, path, signature)


ONE, TWO = craft.craft("a", START_US, b"one"), craft.craft("a", START_US, b"two")


def test_evidence_of_two_headers_under_one_stamp_convicts_their_writer() -> None:
    """Protocol 5.7."""
    proof = Equivocation(CONFIGURATION.digest, signed([ONE], 0), signed([*BATCH[:2], TWO], 2))
    assert verify_equivocation(proof, Verifier(verify, [CONFIGURATION])) == key_of("w1").public


@pytest.mark.parametrize(
    "second",
    [
        signed([ONE], 0),
        signed([craft.craft("a", START_US + 1)], 0),
        signed([craft.craft("b", START_US)], 0),
        signed([craft.craft("a", START_US, writer="w2")], 0),
        msgspec.structs.replace(signed([TWO], 0), signature=bytes(64)),
        msgspec.structs.replace(signed([TWO], 0), count=0),
        msgspec.structs.replace(signed([TWO], 0), count=-1),
        msgspec.structs.replace(signed([TWO], 0), count=1 << 33, path=bytes(32 * 33)),
        msgspec.structs.replace(signed([TWO], 0), count=1 << 62, position=5, path=bytes(32 * 62)),
        msgspec.structs.replace(signed([TWO], 0), position=-1),
        msgspec.structs.replace(signed([TWO], 0), path=b"x"),
        msgspec.structs.replace(signed([TWO], 0), header=b""),
        msgspec.structs.replace(signed([TWO], 0), group=b""),
    ],
)
def test_anything_less_convicts_nobody(second: SignedHeader) -> None:
    """And raises nothing but Malformed: proofs are handed around by strangers."""
    proof = Equivocation(CONFIGURATION.digest, signed([ONE], 0), second)
    with pytest.raises(Malformed):
        verify_equivocation(proof, Verifier(verify, [CONFIGURATION]))


def test_evidence_under_an_unknown_configuration_convicts_nobody() -> None:
    proof = Equivocation(bytes(32), signed([ONE], 0), signed([TWO], 0))
    with pytest.raises(Malformed):
        verify_equivocation(proof, Verifier(verify, [CONFIGURATION]))


def test_a_header_of_another_writer_does_not_verify_in_a_batch() -> None:
    """Protocol 2 (R): every header's writer is the intent's signer."""
    batch = [craft.craft("a", START_US), craft.craft("b", START_US, writer="w2")]
    verifier = Verifier(verify, [CONFIGURATION])
    verifier.check_entry(craft.entry(CONFIGURATION, batch[0], batch))
    with pytest.raises(Malformed, match="signer"):
        verifier.check_entry(craft.entry(CONFIGURATION, batch[1], batch))
