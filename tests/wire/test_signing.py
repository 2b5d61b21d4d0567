"""Protocol 9: an administrator's key signs one successor of a configuration, durably, and never another."""

from __future__ import annotations

from pathlib import Path

import pytest

from quorumcache.core import amend
from quorumcache.core.config import SignedConfiguration
from quorumcache.core.succession import check_link
from quorumcache.errors import ConfigurationError
from quorumcache.wire.founding import found_cluster
from quorumcache.wire.keys import SigningKey, verify
from quorumcache.wire.signing import read_draft, sign_successor, write_draft

FOUNDED = found_cluster(writers=["alice", "bob"])
FIRST = FOUNDED.configuration
DRAFT = SignedConfiguration(amend.revoke_writer(FIRST, "alice"))
OTHER = SignedConfiguration(amend.retire_writer(FIRST, "alice"))


def test_a_key_signs_one_successor_again_and_again_and_no_other(tmp_path: Path) -> None:
    """Also after a crash between the record and the signature: the record alone decides."""
    signed = sign_successor(DRAFT, FIRST, FOUNDED.admin, tmp_path / "r")
    check_link(signed, FIRST, verify)
    assert sign_successor(signed, FIRST, FOUNDED.admin, tmp_path / "r") == signed
    assert sign_successor(DRAFT, FIRST, FOUNDED.admin, tmp_path / "r") == signed
    with pytest.raises(ConfigurationError, match="already signed another"):
        sign_successor(OTHER, FIRST, FOUNDED.admin, tmp_path / "r")
    assert len(list((tmp_path / "r").iterdir())) == 1
    follows = SignedConfiguration(amend.retire_writer(signed.configuration, "bob"))
    check_link(
        sign_successor(follows, signed.configuration, FOUNDED.admin, tmp_path / "r"), DRAFT.configuration, verify
    )


def test_what_cannot_be_remembered_is_not_signed(tmp_path: Path) -> None:
    (tmp_path / "r").write_text("in the way")
    with pytest.raises(ConfigurationError, match="nothing was signed"):
        sign_successor(DRAFT, FIRST, FOUNDED.admin, tmp_path / "r")


def test_strangers_and_what_may_not_follow_are_refused_before_anything_is_noted(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no administrator"):
        sign_successor(DRAFT, FIRST, SigningKey.generate(), tmp_path / "r")
    with pytest.raises(ConfigurationError, match="epoch"):
        sign_successor(SignedConfiguration(FIRST), FIRST, FOUNDED.admin, tmp_path / "r")
    assert not (tmp_path / "r").exists()


def test_signatures_that_do_not_count_are_left_out_of_the_file(tmp_path: Path) -> None:
    """Else whoever handles the draft could fill its 64 places, or put a bad signature behind a good one."""
    stranger = SigningKey.generate()
    junk = ((stranger.public, bytes(64)), (FOUNDED.admin.public, bytes(64)))
    signed = sign_successor(SignedConfiguration(DRAFT.configuration, junk), FIRST, FOUNDED.admin, tmp_path / "r")
    assert [admin for admin, _ in signed.signatures] == [FOUNDED.admin.public]
    check_link(signed, FIRST, verify)


def test_drafts_come_back_from_files_and_bad_ones_name_the_file(tmp_path: Path) -> None:
    file = tmp_path / "next.toml"
    write_draft(file, DRAFT)
    write_draft(file, OTHER)
    assert read_draft(file) == OTHER
    assert [path.name for path in tmp_path.iterdir()] == ["next.toml"]
    for content in (b"\xff", b"epoch = ", b"epoch = 1"):
        file.write_bytes(content)
        with pytest.raises(ConfigurationError, match=r"next\.toml"):
            read_draft(file)
    with pytest.raises(ConfigurationError, match="cannot be read"):
        read_draft(tmp_path / "none.toml")
    with pytest.raises(ConfigurationError, match="cannot be written"):
        write_draft(tmp_path / "none" / "next.toml", DRAFT)
