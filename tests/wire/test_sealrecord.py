"""Decision 0016, 5 and 7: what a node sealed is beside its key, durable before the seal exists, and never forgotten."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from quorumcache.core import amend
from quorumcache.core.config import Configuration, SignedConfiguration, to_toml
from quorumcache.core.seals import Ending, Seal, Step, seal_string
from quorumcache.errors import ConfigurationError
from quorumcache.wire import once
from quorumcache.wire.founding import found_cluster
from quorumcache.wire.keys import SigningKey, verify
from quorumcache.wire.sealrecord import SealRecord, record_beside

FOUNDED = found_cluster(writers=["alice", "bob"], shards=8)
FIRST = FOUNDED.configuration
NODE = FOUNDED.nodes[0]


def signed(config: Configuration) -> SignedConfiguration:
    unsigned = SignedConfiguration(config)
    return SignedConfiguration(config, ((FOUNDED.admin.public, FOUNDED.admin.sign(unsigned.signed_message)),))


SECOND = signed(amend.revoke_writer(FIRST, "alice"))
OTHER = signed(amend.retire_writer(FIRST, "alice"))
THIRD = signed(amend.retire_writer(SECOND.configuration, "bob"))


def step(before: Configuration, successor: SignedConfiguration) -> Step:
    message = seal_string(before.digest, successor.configuration.digest)
    return Step(successor, tuple(Seal(key.public, key.sign(message)) for key in FOUNDED.nodes[:3]))


def record(tmp_path: Path, *, begun: bool = True) -> SealRecord:
    made = SealRecord(record_beside(tmp_path / "node-n0.key"), NODE.public)
    if begun:
        made.begin()
    return made


def test_a_key_without_its_record_does_not_go_on(tmp_path: Path) -> None:
    """0016, 7: only somebody who knows that the key was never used may begin its record."""
    lost = record(tmp_path, begun=False)
    assert lost.directory == tmp_path / "node-n0.seals"
    with pytest.raises(ConfigurationError, match="replace the node"):
        lost.check()
    with pytest.raises(ConfigurationError, match="replace the node"):
        lost.remember(FIRST, SECOND)
    assert not lost.directory.exists()
    lost.begin()
    lost.begin()
    lost.check()
    others = SealRecord(lost.directory, FOUNDED.nodes[1].public)
    for refused in (others.check, others.begin):
        with pytest.raises(ConfigurationError, match="another key's record"):
            refused()
    assert (lost.remembered(FIRST), lost.steps_from(FIRST)) == (None, ())


def test_one_successor_is_remembered_of_each_configuration(tmp_path: Path) -> None:
    kept = record(tmp_path)
    kept.remember(FIRST, SECOND)
    kept.remember(FIRST, SECOND)
    with pytest.raises(ConfigurationError, match="it seals only one"):
        kept.remember(FIRST, OTHER)
    assert kept.remembered(FIRST) == SECOND
    assert kept.remembered(SECOND.configuration) is None


def test_a_node_finds_its_epoch_again_whatever_file_it_is_started_with(tmp_path: Path) -> None:
    """0016, 5: sealed and not activated, and activated, are both found again after a crash."""
    kept = record(tmp_path)
    ending = Ending(FIRST, NODE.public, NODE.sign, verify, lambda successor: kept.remember(FIRST, successor))
    seal = ending.seal(SECOND)
    again = record(tmp_path, begun=False)
    assert again.steps_from(FIRST) == ()
    ending = Ending(FIRST, NODE.public, NODE.sign, verify, pytest.fail, remembered=again.remembered(FIRST))
    assert ending.seal(SECOND) == seal
    whole = step(FIRST, SECOND)
    assert ending.take(whole.seals) == 2
    assert ending.step is not None
    again.began(FIRST, ending.step)
    again.began(FIRST, whole)
    again.remember(SECOND.configuration, THIRD)
    assert again.steps_from(FIRST) == (ending.step,)
    again.began(SECOND.configuration, step(SECOND.configuration, THIRD))
    assert [x.successor for x in again.steps_from(FIRST)] == [SECOND, THIRD]
    assert [x.successor for x in again.steps_from(SECOND.configuration)] == [THIRD]


def test_a_seal_that_cannot_be_remembered_is_not_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = record(tmp_path)
    ending = Ending(FIRST, NODE.public, NODE.sign, verify, lambda successor: kept.remember(FIRST, successor))

    def full(_directory: Path) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(once, "sync_directory", full)
        with pytest.raises(ConfigurationError, match="nothing was sealed: No space"):
            ending.seal(SECOND)
    assert not ending.is_sealed
    # Its file may be there all the same: then the node seals for that successor or for none.
    with pytest.raises(ConfigurationError, match="it seals only one"):
        ending.seal(OTHER)
    assert ending.seal(SECOND).node == NODE.public
    assert not list(kept.directory.glob("*.new"))


@pytest.mark.parametrize("damage", ["", "zz", "ff " * 3, "00 00\n", "\x80", "[[" * 9])
def test_a_damaged_record_is_said_to_be_so(tmp_path: Path, damage: str) -> None:
    kept = record(tmp_path)
    kept.remember(FIRST, SECOND)
    kept.began(FIRST, step(FIRST, SECOND))
    for kind in ("seals", "toml"):
        file = kept.directory / f"{FIRST.digest.hex()}.{kind}"
        whole = file.read_bytes()
        file.write_bytes(damage.encode("latin-1"))
        with pytest.raises(ConfigurationError, match=str(kept.directory)):
            kept.steps_from(FIRST)
        file.write_bytes(whole)
    assert len(kept.steps_from(FIRST)) == 1
    (kept.directory / "begun").write_text("other")
    with pytest.raises(ConfigurationError, match="damaged"):
        kept.check()
    shutil.rmtree(kept.directory)
    with pytest.raises(ConfigurationError, match="no record"):
        kept.check()


def test_a_record_that_another_epochs_step_was_put_into_does_not_count(tmp_path: Path) -> None:
    """Whoever can write there can stop the node, but not lead it astray: all of it is signed."""
    kept = record(tmp_path)
    kept.remember(FIRST, SECOND)
    kept.began(FIRST, Step(SECOND, step(FIRST, OTHER).seals))
    with pytest.raises(ConfigurationError, match="has not moved to epoch 2 yet"):
        kept.steps_from(FIRST)
    stranger = SigningKey.generate()
    unsigned = SignedConfiguration(THIRD.configuration, ((stranger.public, bytes(64)),))
    (kept.directory / f"{SECOND.configuration.digest.hex()}.toml").write_text(to_toml(unsigned))
    with pytest.raises(ConfigurationError, match="signatures"):
        kept.remembered(SECOND.configuration)
