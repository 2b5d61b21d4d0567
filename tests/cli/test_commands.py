"""Commands that need no cluster, and what they say to misuse: a clear message, its exit code, never a traceback."""

import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from quorumcache.cli import data, exits
from quorumcache.cli.app import COMMANDS, app
from quorumcache.cli.app import run as run_here
from quorumcache.cli.status import _behind
from quorumcache.core.config import Limits, RightInfo
from quorumcache.core.config_rules import PLACEMENT_STEPS_MAX, SHARDS_MAX
from quorumcache.wire.founding import read_cluster_file, shards_for
from quorumcache.wire.keys import read_key_file
from quorumcache.wire.sealing import read_data_keys


def run(*arguments: object) -> tuple[int, str]:
    """The exit code and all that was printed. An exception that comes through fails the test."""
    result = CliRunner().invoke(
        app,
        [str(argument) for argument in arguments],
        env={"QUORUMCACHE_CLUSTER": None, "QUORUMCACHE_KEY": None, "COLUMNS": "200"},
        catch_exceptions=False,
    )
    return result.exit_code, result.output


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_each_command_has_an_example(name: str) -> None:
    code, output = run(name, "--help")
    assert code == exits.OK
    assert f"quorumcache {name}" in output
    assert "xample" in output


def test_init_founds_a_cluster_and_never_writes_one_over(tmp_path: Path) -> None:
    code, output = run("init", tmp_path / "c", "--f", 2, "--writers", "alice,bob", "--namespaces", "a,b=bob")
    assert code == exits.OK, output
    configuration = read_cluster_file(tmp_path / "c").configuration
    assert (configuration.f, configuration.cluster_id, len(configuration.nodes)) == (2, "c", 7)
    assert [(x.name, x.writers) for x in configuration.namespaces] == [("a", ("*",)), ("b", ("bob",))]
    read_key_file(tmp_path / "c" / "keys" / "writer-bob.key", role="writer")
    read_key_file(tmp_path / "c" / "keys" / "node-n6.key", role="node")
    assert "writer-alice.key\n" in output.partition("quorumcache set hello world")[2]
    code, output = run("init", tmp_path / "c")
    assert code == exits.MISUSE
    assert "never written over" in output


@pytest.mark.parametrize("looking", [True, False])
def test_a_terminal_is_told_that_nodes_are_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], looking: bool
) -> None:
    """Nobody answers at these ports. What is printed elsewhere is for programs."""
    addresses = ",".join(f"127.0.0.1:{port}" for port in (1, 2, 3, 4))
    assert run("init", tmp_path / "c", "--addresses", addresses)[0] == exits.OK
    monkeypatch.setattr(data, "QUIET_S", 0.0)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: looking)
    code = run_here(["get", "k", "--cluster", str(tmp_path / "c"), "--timeout", "0.5"])
    assert code == exits.UNAVAILABLE
    assert ("Waiting for enough nodes" in capsys.readouterr().err) == looking


def test_init_and_status_say_which_zones_cannot_be_lost(tmp_path: Path) -> None:
    """Protocol 9: with at most f members of any group in a zone, losing a zone stops nothing; else it is said."""
    code, output = run("init", tmp_path / "three", "--nodes", 9, "--zones", 3, "--quotas", "default=99999")
    assert code == exits.OK, output
    assert "one zone holds more than f = 1" in " ".join(output.split())
    configuration = read_cluster_file(tmp_path / "three").configuration
    assert [node.zone for node in configuration.nodes] == ["z0", "z1", "z2"] * 3
    assert configuration.namespaces[0].quota_bytes == 99999
    code, output = run("status", "--cluster", tmp_path / "three", "--timeout", 0.1)
    assert "one zone holds more than f = 1" in " ".join(output.split())
    code, output = run("init", tmp_path / "four", "--nodes", 8, "--zones", "a,a,b,b,c,c,d,d")
    assert code == exits.OK, output
    assert "zone" not in output
    assert len(read_cluster_file(tmp_path / "four").configuration.groups) > 1


@pytest.mark.parametrize(("nodes", "n", "shards"), [(4, 4, 1024), (10, 7, 1024), (30, 4, 2048), (100, 4, 8192)])
def test_shards_are_enough_for_the_nodes(nodes: int, n: int, shards: int) -> None:
    assert shards_for(nodes, n) == shards


@pytest.mark.parametrize("nodes", [1, 4, 999, 1000])
def test_shards_for_any_number_of_nodes_are_allowed(nodes: int) -> None:
    for n in (1, 4, 100):
        assert 1 <= shards_for(nodes, n) <= min(SHARDS_MAX, PLACEMENT_STEPS_MAX // nodes)


def test_init_takes_rights_readers_and_limits(tmp_path: Path) -> None:
    code, output = run(
        *("init", tmp_path / "c", "--writers", "shop,ingest", "--namespaces", "orders=shop,open"),
        *("--readers", "orders=shop", "--right", "ingest:read+write:orders/in/", "--right", "shop:admin:open"),
        *("--limit", "ingest:writes_per_s=10,keys_max=5", "--encrypt", "open", "--no-tls", "--primary", "open=2"),
    )
    assert code == exits.OK, output
    configuration = read_cluster_file(tmp_path / "c").configuration
    assert [space.readers for space in configuration.namespaces] == [("shop",), ("anyone",)]
    assert configuration.rights == (
        RightInfo(("ingest",), "orders", ("read", "write"), "in/"),
        RightInfo(("shop",), "open", ("admin",)),
    )
    assert [writer.limits for writer in configuration.writers] == [Limits(), Limits(writes_per_s=10, keys_max=5)]
    assert configuration.namespaces[1].encryption == "client"
    assert [(space.mode, space.ack) for space in configuration.namespaces] == [("quorum", 1), ("primary", 2)]
    assert not configuration.tls


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--f", "9999999"], "0 to 33"),
        (["--f", "-1"], "0 to 33"),
        (["--nodes", "99999999"], "at most 1000"),
        (["--nodes", "3"], "at least 4"),
        (["--primary", "other"], "none of the --namespaces"),
        (["--primary", "default=x"], "is not like fast"),
        (["--primary", "default=5"], "1 to 4"),
        (["--primary", "sets"], "only registers"),
        (["--namespaces", "a=zed"], "'zed' is no writer"),
        (["--namespaces", ""], "at least one name"),
        (["--namespaces", "a="], "no writer"),
        (["--readers", "zed=*"], "'zed' has readers, and is none of the --namespaces"),
        (["--readers", "default=zed"], "'zed' is no writer"),
        (["--right", "default:read"], "is not like bob:read"),
        (["--right", "zed:read:default"], "'zed' is no writer"),
        (["--right", "default:rule:default"], "each once of read, write, delete, admin"),
        (["--limit", "default:keys=7"], "is not like bob:writes_per_s"),
        (["--limit", "zed:keys_max=7"], "'zed' has limits, and is none of the writers"),
        (["--encrypt", "zed"], "'zed' is to be sealed, and is none of the --namespaces"),
        (["--hide-keys", "default"], "only where values are sealed"),
        (["--writers", ""], "at least one name"),
        (["--writers", "../x"], "not allowed"),
        (["--writers", "a,a"], "named twice"),
        (["--max-skew-ms", "-1"], "max_skew_us"),
        (["--op-time-ms", "9" * 30], "op_time_us"),
        (["--shards", "99999999"], "shards"),
        (["--zones", "5"], "5 zones for 4 nodes"),
        (["--zones", "a,b"], "2 zones named for 4 nodes"),
        (["--quotas", "default=much"], "is not like default=67108864"),
        (["--quotas", "default=1"], "quota_bytes"),
        (["--quotas", "zed=99999"], "'zed' has a quota, and is none of the --namespaces"),
        (["--addresses", "a:1"], "1 addresses for 4 nodes"),
        (["--addresses", "a,b,c,d"], "host:port"),
        (["--base-port", "65535"], "65536"),
        (["--f", "x"], "integer"),
    ],
)
def test_init_refuses_what_makes_no_cluster_and_writes_nothing(tmp_path: Path, options: list[str], said: str) -> None:
    code, output = run("init", tmp_path / "c", *options)
    assert code == exits.MISUSE, output
    assert said in output
    assert not (tmp_path / "c").exists()


def test_keygen_makes_a_key_of_a_role_once(tmp_path: Path) -> None:
    code, output = run("keygen", tmp_path / "k", "--role", "node")
    assert code == exits.OK
    assert read_key_file(tmp_path / "k", role="node").public.hex() in output
    assert run("keygen", tmp_path / "k")[0] == exits.MISUSE
    assert run("keygen", tmp_path / "other", "--role", "king")[0] == exits.MISUSE
    code, output = run("keygen", tmp_path / "data", "--role", "data")
    assert code == exits.OK
    assert read_data_keys(tmp_path / "data").ids[0] in output
    assert not (tmp_path / "other").exists()


def test_verify_tells_what_is_no_proof_from_what_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "junk").write_bytes(b"junk")
    assert run("verify", tmp_path / "junk")[0] == exits.INVALID
    assert run("verify", tmp_path)[0] == exits.MISUSE
    assert run("verify", tmp_path / "nothing")[0] == exits.MISUSE


@pytest.fixture(scope="module")
def founded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a cluster whose nodes do not run."""
    directory = tmp_path_factory.mktemp("clusters") / "c"
    # Nothing listens on port 1, and nothing may without leave.
    addresses = ",".join(["127.0.0.1:1"] * 4)
    code, output = run("init", directory, "--writers", "alice,bob", "--addresses", addresses)
    assert code == exits.OK, output
    return directory


def test_without_a_cluster_the_message_says_how_to_get_one() -> None:
    for command in (
        ["get", "k"],
        ["set", "k", "v"],
        ["delete", "k"],
        ["keys"],
        ["status"],
        ["http"],
        ["gateway"],
        ["node", "--name", "n0"],
    ):
        code, output = run(*command)
        assert code == exits.MISUSE
        assert "quorumcache up" in output


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["set", "k", "v"], "whose key?"),
        (["set", "k", "v", "--key", "/nonexistent"], "no such file"),
        (["set", "k", "v", "--key", "DIR/keys/admin.key"], "role admin"),
        (["set", "k", "v", "--key", "DIR/cluster.toml"], "mode"),
        (["get", "k", "--namespace", "other"], "no namespace 'other'"),
        (["get", "k", "--timeout", "0"], "0.1"),
        (["set", "k", "v", "--ttl", "soon"], "number"),
        (["node"], "which node"),
        (["node", "--name", "n9"], "no node 'n9'"),
        (["node", "--name", "../x"], "no node"),
        (["node", "--name", "n0", "--key", "k"], "which node"),
        (["node", "--key", "DIR/keys/writer-bob.key"], "role writer"),
        (["node", "--name", "n0", "--listen", "7411"], "HOST:PORT"),
        (["http", "--host", "0.0.0.0"], "--allow-remote"),
        (["http", "--host", "example.org"], "--allow-remote"),
        (["http", "--port", "70000"], "65535"),
        (["gateway", "--host", "0.0.0.0"], "a password and TLS"),
        (["gateway", "--database", "0"], "is not like 0=default,maps,sets"),
        (["gateway", "--tls-cert", "c.pem"], "both --tls-cert and --tls-key"),
        (["gateway", "--password-file", "no-such-file"], "cannot be read"),
    ],
)
def test_misuse_is_told_before_anything_is_sent(founded: Path, command: list[str], said: str) -> None:
    (founded / "cluster.toml").chmod(0o644)
    arguments = [argument.replace("DIR", str(founded)) for argument in command]
    code, output = run(*arguments, "--cluster", founded)
    assert code == exits.MISUSE, output
    assert said in output


def test_a_cluster_that_does_not_run_is_unavailable(founded: Path) -> None:
    code, output = run("get", "k", "--cluster", founded, "--timeout", "0.3")
    assert code == exits.UNAVAILABLE
    assert "only 0 of 4 nodes" in output
    assert "safe to try again" in output
    code, output = run("status", "--cluster", founded)
    assert code == exits.UNAVAILABLE
    assert output.count("Connection refused") == 4


def test_a_cluster_file_that_was_changed_is_refused(founded: Path, tmp_path: Path) -> None:
    text = (founded / "cluster.toml").read_text()
    (tmp_path / "cluster.toml").write_text(text.replace("f = 1", "f = 0"))
    code, output = run("get", "k", "--cluster", tmp_path)
    assert code == exits.MISUSE
    assert "signed" in output


@pytest.mark.parametrize(
    ("lag", "behind"),
    [
        ({"n2": {"entries": 12, "oldest_s": 3.5}, "n3": {"entries": 40, "oldest_s": 0.2}}, 12),
        ({}, 0),
        ("nonsense", 0),
        ({"n2": {"entries": "many", "oldest_s": 9}, "n3": 7, "n1": None}, 0),
        ({"n2": {"entries": 1 << 80, "oldest_s": 9}}, 0),
    ],
)
def test_status_says_how_many_writes_of_mode_primary_others_lack(lag: object, behind: int) -> None:
    """Protocol 10, lag; whatever a node says of itself."""
    assert _behind({"forward_lag": lag}) == behind
