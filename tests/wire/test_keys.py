"""Keys: signatures accept nothing but themselves, and key files keep their secret."""

import os
import pickle
import shlex
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quorumcache.errors import KeyFileError
from quorumcache.wire import keys
from quorumcache.wire.keys import ROLES, SigningKey, read_key_file, verify, write_key_file

KEY = SigningKey(bytes(range(32)))
POSIX = pytest.mark.skipif(os.name != "posix", reason="modes and pipes are POSIX")


def test_rfc_8032_section_7_1_test_2() -> None:
    key = SigningKey(bytes.fromhex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb"))
    assert key.public.hex() == "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c"
    assert key.sign(b"\x72").hex() == (
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
        "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
    )


@given(st.binary(max_size=300))
def test_a_signature_is_valid_for_its_key_and_message_alone(message: bytes) -> None:
    signature = KEY.sign(message)
    assert len(signature) == 64
    assert verify(KEY.public, message, signature)
    assert not verify(KEY.public, message + b"\0", signature)
    assert not verify(SigningKey(bytes(32)).public, message, signature)


def test_any_flipped_bit_is_noticed() -> None:
    message = b"tag\0message"
    signature = KEY.sign(message)
    whole = KEY.public + signature + message
    for bit in range(8 * len(whole)):
        broken = bytearray(whole)
        broken[bit // 8] ^= 1 << bit % 8
        text = bytes(broken)
        assert not verify(text[:32], text[96:], text[32:96]), f"bit {bit}"


@pytest.mark.parametrize("length", [0, 1, 31, 33, 63, 65, 128])
def test_other_lengths_are_not_valid(length: int) -> None:
    signature = KEY.sign(b"m")
    assert not verify(KEY.public, b"m", (signature * 2)[:length])
    if length != 32:
        assert not verify((KEY.public * 4)[:length], b"m", signature)


def test_a_longer_signature_is_not_a_shorter_message() -> None:
    signature = KEY.sign(b"message")
    assert not verify(KEY.public, b"essage", signature + b"m")


def test_keys_of_small_order_and_noncanonical_signatures_are_refused() -> None:
    # With the neutral element as key, R = neutral and s = 0 would satisfy the equation for any message.
    neutral = bytes([1]) + bytes(31)
    assert not verify(neutral, b"any", neutral + bytes(32))
    # s + L is the same number modulo the group's order: a second signature, if it were accepted.
    order = 2**252 + 27742317777372353535851937790883648493
    signature = KEY.sign(b"m")
    second = int.from_bytes(signature[32:], "little") + order
    assert not verify(KEY.public, b"m", signature[:32] + second.to_bytes(32, "little"))


def test_a_seed_has_32_bytes() -> None:
    for length in (0, 31, 33, 64):
        with pytest.raises(ValueError, match="exactly 32"):
            SigningKey(bytes(length))
    assert SigningKey.generate().public != SigningKey.generate().public


def test_the_secret_appears_in_no_text() -> None:
    for text in (repr(KEY), str(KEY), f"{KEY}", repr([KEY])):
        assert KEY.seed.hex() not in text
        assert repr(KEY.seed)[2:-1] not in text
        assert KEY.public.hex() in text
    assert pickle.loads(pickle.dumps(KEY)).public == KEY.public  # for worker processes, on purpose


@pytest.mark.parametrize("role", ROLES)
def test_key_files_round_trip(tmp_path: Path, role: str) -> None:
    path = tmp_path / "a.key"
    write_key_file(path, KEY, role=role)
    for again in (read_key_file(path), read_key_file(str(path), role=role)):
        assert again.public == KEY.public
        assert again.sign(b"m") == KEY.sign(b"m")


@POSIX
def test_key_files_have_mode_0600_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        write_key_file(tmp_path / "a.key", KEY, role="node")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.key").stat().st_mode) == 0o600


@POSIX
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644, 0o610, 0o601])
def test_wider_modes_are_refused_with_the_command_to_run(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "a.key"
    write_key_file(path, KEY, role="node")
    path.chmod(mode)
    with pytest.raises(KeyFileError) as caught:
        read_key_file(path)
    assert f"chmod 600 {shlex.quote(str(path))}" in str(caught.value)
    path.chmod(0o400)
    assert read_key_file(path).public == KEY.public


def test_an_existing_file_or_link_is_never_written_over(tmp_path: Path) -> None:
    path = tmp_path / "a.key"
    path.write_text("precious")
    with pytest.raises(KeyFileError, match="exists already"):
        write_key_file(path, KEY, role="node")
    assert path.read_text() == "precious"
    if os.name == "posix":
        link, target = tmp_path / "link.key", tmp_path / "target"
        link.symlink_to(target)
        with pytest.raises(KeyFileError, match="exists already"):
            write_key_file(link, KEY, role="node")
        assert not target.exists()


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(KeyFileError, match="cannot be written: No space left on device"):
        write_key_file(tmp_path / "a.key", KEY, role="node")
    assert list(tmp_path.iterdir()) == []


def test_missing_places_and_roles_get_clear_errors(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match=r"no such file\. Make a key with: quorumcache keygen"):
        read_key_file(tmp_path / "none.key")
    with pytest.raises(KeyFileError, match="cannot be created"):
        write_key_file(tmp_path / "none" / "a.key", KEY, role="node")
    with pytest.raises(KeyFileError, match="no key file has the role 'king'; one of admin, node, writer"):
        write_key_file(tmp_path / "a.key", KEY, role="king")
    write_key_file(tmp_path / "a.key", KEY, role="writer")
    with pytest.raises(KeyFileError, match="for the role writer, and one for the role node is needed"):
        read_key_file(tmp_path / "a.key", role="node")


@POSIX
def test_what_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    for path in (tmp_path / "pipe", tmp_path):
        with pytest.raises(KeyFileError, match=r"not a regular file|cannot be read: Is a directory"):
            read_key_file(path)


GOOD = f"quorumcache key file 1\nrole: node\npublic: {KEY.public.hex()}\nsecret: {KEY.seed.hex()}\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "first line"),
        ("-----BEGIN PRIVATE KEY-----\n", "first line"),
        (GOOD[:-3], "'secret: ' does not hold 64 lowercase hex digits"),
        (GOOD[:40], "'public: ' (is missing|does not hold)"),
        (GOOD.replace("secret: ", "secret = "), "'secret: ' is missing"),
        (GOOD.replace("role: node", "role: king"), "its role is none of"),
        (GOOD.replace(KEY.public.hex(), "00" * 32), "does not belong to its secret key"),
        (GOOD.replace(KEY.seed.hex(), KEY.seed.hex().upper()), "64 lowercase hex"),
        (GOOD + "more\n", "more in it"),
        (GOOD + "#" * 5000, "longer than 4096"),
        (GOOD + "é", "not ASCII"),
        (GOOD.replace("key file 1", "key file 2"), "first line"),
    ],
)
def test_corrupt_files_get_a_clear_error_without_the_secret(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "a.key"
    path.write_text(text, encoding="utf-8")
    path.chmod(0o600)
    with pytest.raises(KeyFileError, match=message) as caught:
        read_key_file(path)
    assert str(path) in str(caught.value)
    assert KEY.seed.hex()[:16] not in str(caught.value).lower()


@given(st.binary(max_size=300))
def test_no_content_gets_anything_but_a_clear_error(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("keys") / "a.key"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(KeyFileError, match="no usable key file"):
        read_key_file(path)


def test_a_key_may_come_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "key"
    key = SigningKey.generate()
    write_key_file(path, key, role="writer")
    monkeypatch.setenv("SOME_KEY", path.read_text())
    assert read_key_file("env:SOME_KEY", role="writer").public == key.public
    for value in (key.seed.hex(), "x" * 100_000, ""):
        monkeypatch.setenv("SOME_KEY", value)
        with pytest.raises(KeyFileError, match="env:SOME_KEY") as raised:
            read_key_file("env:SOME_KEY")
        assert key.seed.hex() not in str(raised.value)
    with pytest.raises(KeyFileError, match="no such environment variable"):
        read_key_file("env:NO_SUCH_KEY")


def test_a_key_may_come_from_a_file_descriptor_which_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "key"
    key = SigningKey.generate()
    write_key_file(path, key, role="node")
    ours, theirs = os.pipe()
    os.write(theirs, path.read_bytes())
    os.close(theirs)
    assert read_key_file(f"fd:{ours}").public == key.public
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(ours)
    with pytest.raises(KeyFileError, match="cannot be read"):
        read_key_file(f"fd:{ours}")
    ours, theirs = os.pipe()
    os.close(theirs)
    with pytest.raises(KeyFileError, match="nothing is written"):
        read_key_file(f"fd:{ours}")
    monkeypatch.setattr(keys, "_DESCRIPTOR_S_MAX", 0.01)
    ours, theirs = os.pipe()
    with pytest.raises(KeyFileError, match="nobody ended"):
        read_key_file(f"fd:{ours}")
    os.close(theirs)
