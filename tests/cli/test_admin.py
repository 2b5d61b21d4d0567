"""`quorumcache admin`: drafts, plans and signatures, offline (protocol 9)."""

from __future__ import annotations

from pathlib import Path

import pytest

from quorumcache.cli import exits
from quorumcache.core.succession import check_link
from quorumcache.wire.founding import read_cluster_file
from quorumcache.wire.keys import SigningKey, verify, write_key_file
from quorumcache.wire.signing import read_draft
from tests.cli.test_commands import run

NEW = SigningKey.generate().public.hex()


@pytest.fixture
def cluster(tmp_path: Path) -> Path:
    assert run("init", tmp_path / "c", "--nodes", 5, "--writers", "alice,bob")[0] == exits.OK
    return tmp_path / "c"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("add-writer", "carol", NEW, "--namespaces", "default"), "writer carol"),
        (("retire-writer", "bob"), "what it wrote stands"),
        (("revoke-writer", "bob"), "what it wrote is dropped"),
        (("rotate-key", "bob", NEW), "bob.1"),
        (("set-quota", "default", "1048576"), "quota_bytes 0 -> 1048576"),
        (("add-node", "n9", NEW, "--address", "h:1"), "node n9"),
        (("remove-node", "n4"), "node n4"),
        (("replace-node", "n0", NEW), "leaves"),
    ],
)
def test_each_change_is_drafted_signed_and_shown_and_each_step_repeats(
    cluster: Path, arguments: tuple[str, ...], says: str
) -> None:
    current = read_cluster_file(cluster)
    for _ in range(2):
        code, output = run("admin", *arguments, "--cluster", cluster)
        assert code == exits.OK, output
        assert says in output
        assert "epoch 1 -> 2" in output
        assert "signed by nobody; 1 more needed" in output
    for _ in range(2):
        code, output = run("admin", "sign", "--cluster", cluster, "--key", cluster / "keys" / "admin.key", "--yes")
        assert code == exits.OK, output
        assert "all that are needed" in output
    check_link(read_draft(cluster / "next.toml"), current.configuration, verify)
    assert read_cluster_file(cluster / "next.toml").configuration.epoch == 2
    code, output = run("admin", "show", "--cluster", cluster)
    assert code == exits.OK
    assert says in output
    assert "all that are needed" in output
    # The draft with its signature is still there when the change is asked for once more.
    code, output = run("admin", *arguments, "--cluster", cluster)
    assert "all that are needed" in output
    assert read_cluster_file(cluster) == current


def test_another_draft_is_not_written_over_and_a_second_is_not_signed(cluster: Path, tmp_path: Path) -> None:
    """Two concurrent proposals of one epoch: an administrator's key takes part in one of them only."""
    key = cluster / "keys" / "admin.key"
    assert run("admin", "revoke-writer", "bob", "--cluster", cluster)[0] == exits.OK
    code, output = run("admin", "retire-writer", "bob", "--cluster", cluster)
    assert code == exits.MISUSE
    assert "another draft is there" in output
    other = tmp_path / "other.toml"
    assert run("admin", "retire-writer", "bob", "--cluster", cluster, "--out", other)[0] == exits.OK
    assert run("admin", "sign", "--cluster", cluster, "--key", key, "--yes")[0] == exits.OK
    code, output = run("admin", "sign", other, "--cluster", cluster, "--key", key, "--yes")
    assert code == exits.MISUSE
    assert "already signed another successor" in output
    assert read_draft(other).signatures == ()


def test_sign_asks_first_and_takes_no_strangers_key_and_no_changed_file(cluster: Path, tmp_path: Path) -> None:
    assert run("admin", "revoke-writer", "bob", "--cluster", cluster)[0] == exits.OK
    code, output = run("admin", "sign", "--cluster", cluster, "--key", cluster / "keys" / "admin.key")
    assert code != exits.OK
    write_key_file(tmp_path / "x.key", SigningKey.generate(), role="admin")
    code, output = run("admin", "sign", "--cluster", cluster, "--key", tmp_path / "x.key", "--yes")
    assert code == exits.MISUSE
    assert "no administrator" in output
    code, output = run("admin", "sign", "--cluster", cluster, "--key", cluster / "keys" / "writer-bob.key", "--yes")
    assert code == exits.MISUSE
    draft = cluster / "next.toml"
    draft.write_text(draft.read_text().replace("epoch = 2", "epoch = 3"))
    code, output = run("admin", "sign", "--cluster", cluster, "--key", cluster / "keys" / "admin.key", "--yes")
    assert code == exits.MISUSE
    assert "does not follow epoch 1" in output


def test_what_apply_will_refuse_is_said_before_anybody_signs_it(tmp_path: Path) -> None:
    """A key that signed it signs no other draft of that epoch."""
    cluster = tmp_path / "c"
    assert run("init", cluster, "--namespaces", "default,locks:exact")[0] == exits.OK
    code, output = run("admin", "set-quota", "default", "1048576", "--cluster", cluster)
    assert code == exits.OK, output
    assert "apply will refuse" not in output
    (cluster / "next.toml").unlink()
    code, output = run("admin", "add-node", "n9", NEW, "--address", "h:1", "--cluster", cluster)
    assert code == exits.OK, output
    assert "apply will refuse" in output
    assert "locks is exact" in output
    sign = ("admin", "sign", "--cluster", cluster, "--key", cluster / "keys" / "admin.key", "--yes")
    code, output = run(*sign)
    assert code != exits.OK
    assert "Nothing was signed" in output
    assert not list(cluster.glob("keys/*.signed"))
    code, output = run(*sign, "--stopped")
    assert code == exits.OK, output
    assert "all that are needed" in output


def test_what_a_namespace_promises_is_shown(tmp_path: Path) -> None:
    """Mode primary gives up Byzantine freshness: an administrator has to see it."""
    cluster = tmp_path / "c"
    assert run("init", cluster, "--namespaces", "default,sessions", "--primary", "sessions=2")[0] == exits.OK
    code, output = run("admin", "show", "--cluster", cluster)
    assert code == exits.OK
    assert "register, mode quorum" in output
    assert "register, mode primary, ack 2" in output


@pytest.mark.parametrize(
    "arguments",
    [
        ("add-writer", "carol", "abc"),
        ("add-writer", "alice", NEW),
        ("revoke-writer", "nobody"),
        ("set-quota", "nowhere", "1048576"),
        ("set-quota", "default", "1"),
        ("remove-node", "nobody"),
        ("add-node", "n9", NEW, "--address", "nowhere"),
        ("show", "missing.toml"),
    ],
)
def test_misuse_is_told_in_words_and_leaves_no_draft(cluster: Path, arguments: tuple[str, ...]) -> None:
    code, output = run("admin", *arguments, "--cluster", cluster)
    assert code == exits.MISUSE, output
    assert "Traceback" not in output
    assert not (cluster / "next.toml").exists()
