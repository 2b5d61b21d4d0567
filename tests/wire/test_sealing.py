"""Sealed values open where they were sealed for, with the key that they name, and nowhere else."""

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quorumcache.core.model import slot_of, stamp_of
from quorumcache.errors import CannotOpen, KeyFileError
from quorumcache.wire.sealing import (
    DATA_KEYS_MAX,
    SEALED_BYTES_MORE,
    DataKeys,
    place_of,
    read_data_keys,
    write_data_keys,
)

OLD, NEW, NAMES = bytes(range(32)), bytes(range(1, 33)), bytes(range(2, 34))
KEYS = DataKeys([OLD], names=NAMES)
PLACE = place_of("local", slot_of(b"secret", b"k"))
STAMP = stamp_of(1_700_000_000_000_000, bytes(32), 7)


@given(value=st.binary(max_size=300))
@settings(max_examples=50)
def test_what_is_sealed_opens(value: bytes) -> None:
    sealed = KEYS.seal(PLACE, STAMP, value)
    assert len(sealed) == len(value) + SEALED_BYTES_MORE
    assert KEYS.open(PLACE, STAMP, sealed) == value
    assert KEYS.seal(PLACE, STAMP, value) != sealed, "a nonce was used twice"


@pytest.mark.parametrize(
    ("place", "stamp"),
    [
        (place_of("local", slot_of(b"secret", b"other")), STAMP),
        (place_of("local", slot_of(b"other", b"k")), STAMP),
        (place_of("local", slot_of(b"secret", b"k", b"field")), STAMP),
        (place_of("other", slot_of(b"secret", b"k")), STAMP),
        (PLACE, stamp_of(1_700_000_000_000_001, bytes(32), 7)),
        (PLACE, stamp_of(1_700_000_000_000_000, bytes(31) + b"\1", 7)),
        (PLACE, stamp_of(1_700_000_000_000_000, bytes(32), 8)),
    ],
    ids=["key", "namespace", "field", "cluster", "time", "writer", "nonce"],
)
def test_a_value_does_not_open_in_another_place_or_under_another_write(place: bytes, stamp: bytes) -> None:
    with pytest.raises(CannotOpen, match="sealed for another key of the cache, another write"):
        KEYS.open(place, stamp, KEYS.seal(PLACE, STAMP, b"value"))


@given(data=st.data())
@settings(max_examples=200)
def test_damage_is_noticed(data: st.DataObject) -> None:
    sealed = bytearray(KEYS.seal(PLACE, STAMP, b"value"))
    at = data.draw(st.integers(0, len(sealed) - 1))
    sealed[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(CannotOpen):
        KEYS.open(PLACE, STAMP, bytes(sealed))


@given(junk=st.binary(max_size=120))
@settings(max_examples=200)
def test_what_was_never_sealed_is_no_value(junk: bytes) -> None:
    with pytest.raises(CannotOpen):
        KEYS.open(PLACE, STAMP, junk)


def test_a_missing_key_is_named() -> None:
    sealed = DataKeys([NEW]).seal(PLACE, STAMP, b"value")
    with pytest.raises(CannotOpen, match=f"under the data key {DataKeys([NEW]).ids[0]}.*has {KEYS.ids[0]}"):
        KEYS.open(PLACE, STAMP, sealed)


def test_rotation_overlaps() -> None:
    """First every client can open what the new key seals, then it seals, then the old key goes."""
    learnt = KEYS.with_key(NEW)
    turned = learnt.with_key(NEW, first=True)
    ended = DataKeys([NEW], names=NAMES)
    assert learnt.ids == (KEYS.ids[0], ended.ids[0])
    assert turned.ids == (ended.ids[0], KEYS.ids[0])
    old, new = learnt.seal(PLACE, STAMP, b"old"), turned.seal(PLACE, STAMP, b"new")
    for keys in (learnt, turned):
        assert keys.open(PLACE, STAMP, old) == b"old"
        assert keys.open(PLACE, STAMP, new) == b"new"
    assert ended.open(PLACE, STAMP, new) == b"new"
    with pytest.raises(CannotOpen, match=KEYS.ids[0]):
        ended.open(PLACE, STAMP, old)
    # What keys are called, and how names are hidden, does not change with it.
    assert {keys.hidden_name(b"k") for keys in (KEYS, learnt, turned, ended)} == {KEYS.hidden_name(b"k")}


def test_the_form_stays() -> None:
    """What was sealed by another version, or another implementation, has to open: docs/decisions/0013."""
    sealed = bytes.fromhex(
        "014fa42b7a2e679cc6000102030405060708090a0b0c0d0e0f1011121314151617ea3de76334bfabfb16ad96c9c6dc995855785ce2c0"
    )
    assert KEYS.open(PLACE, STAMP, sealed) == b"value"
    assert KEYS.hidden_name(b"k").hex() == "61a3ef3ed45941e26d3796b112cb27d86139be633088095fa42fc2cb5e5d9d38"


def test_hidden_names_are_keyed() -> None:
    assert KEYS.hidden_name(b"k") != KEYS.hidden_name(b"l")
    assert KEYS.hidden_name(b"k") != DataKeys([OLD], names=NEW).hidden_name(b"k")
    assert len(KEYS.hidden_name(b"k" * 1024)) == 32


def test_a_file_gives_the_keys_back(tmp_path: Path) -> None:
    path = tmp_path / "data.keys"
    for keys in (KEYS, DataKeys([NEW, OLD]), DataKeys.generate()):
        path.unlink(missing_ok=True)
        write_data_keys(path, keys)
        assert path.stat().st_mode & 0o777 == 0o600
        assert read_data_keys(path).ids == keys.ids
        assert read_data_keys(path).has_names == keys.has_names
        assert keys.open(PLACE, STAMP, read_data_keys(path).seal(PLACE, STAMP, b"v")) == b"v"
    with pytest.raises(KeyFileError, match="never written over"):
        write_data_keys(path, KEYS)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"quorumcache key file 1\n",
        b"quorumcache data keys 1\n",
        b"quorumcache data keys 1\nkey: 00\n",
        b"quorumcache data keys 1\nkey: " + b"GG" * 32,
        b"quorumcache data keys 1\n" + b"key: " + b"00" * 32 + b"\n" + b"key: " + b"00" * 32,
        b"quorumcache data keys 1\nkey: "
        + b"00" * 32
        + b"\n"
        + b"names: "
        + b"00" * 32
        + b"\n"
        + b"names: "
        + b"11" * 32,
        b"quorumcache data keys 1\n" + b"".join(b"key: %064x\n" % i for i in range(DATA_KEYS_MAX + 1)),
        b"quorumcache data keys 1\nkey: " + b"\xff" * 64,
        os.urandom(5000),
    ],
)
def test_no_other_file_is_one(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "data.keys"
    path.touch(0o600)
    path.write_bytes(content)
    with pytest.raises(KeyFileError) as told:
        read_data_keys(path)
    assert str(path) in str(told.value)
    assert "0000" not in str(told.value), "an error shows what may be a secret"


def test_a_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "data.keys"
    write_data_keys(path, KEYS)
    path.chmod(0o640)
    with pytest.raises(KeyFileError, match="chmod 600"):
        read_data_keys(path)
    with pytest.raises(KeyFileError, match="--role data"):
        read_data_keys(tmp_path / "none")


def test_secrets_are_in_no_text() -> None:
    for text in (repr(KEYS), str(KEYS)):
        assert KEYS.ids[0] in text
        assert OLD.hex() not in text
        assert NAMES.hex() not in text


@pytest.mark.parametrize("keys", [[], [OLD, OLD], [b"short"], [bytes((i,)) * 32 for i in range(17)]])
def test_keys_are_bounded_and_distinct(keys: list[bytes]) -> None:
    with pytest.raises(ValueError):
        DataKeys(keys)
