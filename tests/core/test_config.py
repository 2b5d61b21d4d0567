"""The configuration (protocol 9): strict reading, canonical bytes, groups, rights, signatures."""

import copy
import json
from collections.abc import Callable
from hashlib import blake2b
from typing import Any
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quorumcache.core.config import (
    Configuration,
    NamespaceInfo,
    NodeInfo,
    SignedConfiguration,
    WriterInfo,
    canonical,
    from_document,
    parse_toml,
    to_document,
    to_toml,
    warnings_of,
)
from quorumcache.errors import ConfigurationError

NAMES = st.from_regex(r"[a-zA-Z0-9_.-]{1,64}", fullmatch=True)
KEYS = st.binary(min_size=32, max_size=32)


def key(text: str) -> bytes:
    return blake2b(text.encode(), digest_size=32).digest()


def document(nodes: int = 4, **changes: Any) -> dict[str, Any]:
    return {
        "cluster_id": "test",
        "f": 1,
        "admins": [key("admin a").hex(), key("admin b").hex(), key("admin c").hex()],
        "admins_needed": 2,
        "nodes": [
            {"name": f"n{i}", "key": key(f"node {i}").hex(), "address": f"127.0.0.1:{7001 + i}"} for i in range(nodes)
        ],
        "writers": [
            {"name": "alice", "key": key("alice").hex()},
            {"name": "bob", "key": key("bob").hex(), "status": "retired"},
            {"name": "carol", "key": key("carol").hex(), "status": "revoked"},
            {"name": "dave", "key": key("dave").hex(), "status": "active"},
        ],
        "namespaces": [
            {"name": "default"},
            {"name": "private", "writers": ["dave", "carol"], "value_bytes_max": 100, "ttl_s_max": 60},
            {"name": "closed", "type": "set", "writers": []},
        ],
        **changes,
    }


def slot(namespace: bytes, name: bytes, field: bytes = b"") -> bytes:
    lengths = len(namespace).to_bytes(1, "big"), len(name).to_bytes(2, "big"), len(field).to_bytes(2, "big")
    return lengths[0] + namespace + lengths[1] + name + lengths[2] + field


TYPES = st.sampled_from(["register", "siblings", "counter", "set", "map"])


@st.composite
def configurations(draw: st.DrawFn) -> Configuration:
    f = draw(st.integers(0, 2))
    nodes = draw(
        st.lists(
            st.tuples(NAMES, KEYS),
            min_size=3 * f + 1,
            max_size=3 * f + 3,
            unique_by=(lambda x: x[0], lambda x: x[1]),
        )
    )
    writers = draw(st.lists(st.tuples(NAMES, KEYS), max_size=4, unique_by=(lambda x: x[0], lambda x: x[1])))
    admins = draw(st.lists(KEYS, min_size=1, max_size=5, unique=True))
    names = [name for name, _ in writers]
    subsets = st.lists(st.sampled_from(names), unique=True).map(tuple) if names else st.just(())
    epoch = draw(st.integers(1, 2**63 - 1))
    return Configuration(
        cluster_id=draw(NAMES),
        epoch=epoch,
        previous=None if epoch == 1 else draw(KEYS),
        f=f,
        shards=draw(st.integers(1, 40)),
        valid_until_us=draw(st.integers(0, 2**63 - 1)),
        oldest_epoch=draw(st.integers(1, epoch)),
        tls=draw(st.booleans()),
        admins=tuple(admins),
        admins_needed=draw(st.integers(len(admins) // 2 + 1, len(admins))),
        nodes=tuple(
            NodeInfo(
                i,
                name,
                public,
                draw(st.sampled_from(["", "h:1", "[::1]:65535", "a.example-b:7001"])),
                draw(st.just("") | NAMES),
                draw(st.integers(1, 1000)),
            )
            for i, (name, public) in enumerate(nodes)
        ),
        writers=tuple(
            WriterInfo(name, public, draw(st.sampled_from(["active", "retired", "revoked"])))
            for name, public in writers
        ),
        namespaces=tuple(
            NamespaceInfo(
                name,
                kind := "register"
                if (encryption := draw(st.sampled_from(["none", "client"]))) == "client"
                else draw(TYPES),
                mode := draw(st.sampled_from(["quorum", "primary"])) if kind == "register" else "quorum",
                draw(st.just(("*",)) | subsets),
                draw(st.integers(0, 2**30)),
                draw(st.integers(0, 2**32 - 1)),
                draw(st.sampled_from([0, 1 << 30])),
                encryption,
                encryption == "client" and draw(st.booleans()),
                ack=draw(st.integers(1, 3 * f + 1)) if mode == "primary" else 1,
            )
            for name in draw(st.lists(NAMES, max_size=3, unique=True))
        ),
    )


@given(configurations(), st.lists(st.tuples(KEYS, st.binary(min_size=64, max_size=64)), max_size=3))
def test_text_and_document_round_trip(config: Configuration, signatures: list[tuple[bytes, bytes]]) -> None:
    assert to_document(from_document(to_document(config))) == to_document(config)
    signed = SignedConfiguration(config, tuple(signatures))
    again = parse_toml(to_toml(signed))
    assert again == signed
    assert again.configuration.digest == config.digest
    assert to_document(again.configuration) == to_document(config)


@given(configurations())
def test_canonical_bytes_are_what_the_comment_says(config: Configuration) -> None:
    text = canonical(config)
    assert text.isascii()
    assert b" " not in text
    assert json.loads(text) == to_document(config)
    assert list(json.loads(text)) == sorted(to_document(config))
    assert config.digest == blake2b(b"quorumcache configuration 1\0" + text, digest_size=32).digest()


def test_digest_vector_for_other_implementations() -> None:
    config = from_document(document())
    assert config.digest.hex() == DIGEST
    assert {group.hex() for group in config.groups} == {GROUP}


DIGEST = "17e1ee3315a70d82077b986968c98d5ef75cd645e8c777a7bc51662adc9d3957"
GROUP = "3d92d3a2dbbe67efd5ef6ad262d07859"


def test_the_digest_covers_every_field() -> None:
    config = from_document(document())
    digests = {config.digest}
    plain = to_document(config)

    def others(value: Any) -> list[Any]:
        if isinstance(value, int):
            return [value + 1]
        if value is None:
            return []
        if isinstance(value, str):
            return [value[:-1] + ("0" if value[-1] != "0" else "1")] if value else ["z"]
        return []

    changed = 0

    def walk(place: Any, where: Any) -> None:
        nonlocal changed
        for new in others(place[where]):
            old, place[where] = place[where], new
            digest = blake2b(
                b"quorumcache configuration 1\0" + json.dumps(plain, sort_keys=True, separators=(",", ":")).encode(),
                digest_size=32,
            ).digest()
            assert digest not in digests
            digests.add(digest)
            changed += 1
            place[where] = old
        if isinstance(place[where], dict | list):
            inner = place[where]
            for step in inner if isinstance(inner, dict) else range(len(inner)):
                walk(inner, step)

    for field in plain:
        walk(plain, field)
    assert changed > 40
    assert json.dumps(plain, sort_keys=True, separators=(",", ":")).encode() == canonical(config)


def _set(*path: Any, to: Any) -> Callable[[dict[str, Any]], None]:
    def change(doc: dict[str, Any]) -> None:
        place: Any = doc
        for step in path[:-1]:
            place = place[step]
        place[path[-1]] = to

    return change


BAD: list[tuple[Callable[[dict[str, Any]], None], str]] = [
    (_set("colour", to=1), r"colour: unknown field; allowed here: admins, admins_needed, cluster_id"),
    (
        _set("nodes", 3, "wieght", to=1),
        r"nodes\[3\]\.wieght: unknown field; allowed here: address, key, name",
    ),
    (lambda d: d.pop("cluster_id"), r"cluster_id: missing"),
    (lambda d: d["nodes"][1].pop("key"), r"nodes\[1\]\.key: missing"),
    (_set("cluster_id", to="a b"), r"cluster_id: 'a b' is not allowed; 1 to 64"),
    (_set("cluster_id", to=""), r"cluster_id: ''"),
    (_set("cluster_id", to="x\n"), r"cluster_id"),
    (_set("cluster_id", to=7), r"cluster_id: a value of type int; a string"),
    (_set("f", to=True), r"f: a value of type bool; an integer"),
    (_set("f", to=1.0), r"f: a value of type float"),
    (_set("f", to=-1), r"f: -1 is not allowed; 0 to 33"),
    (_set("f", to=34), r"f: 34 is not allowed"),
    (_set("f", to=2), r"nodes \(how many\): 4 is not allowed; 7 to 1000"),
    (_set("epoch", to=0), r"epoch: 0 is not allowed"),
    (_set("epoch", to=10**5000), r"epoch: the number is too large"),
    (_set("epoch", to=2), r"previous: .* required from epoch 2"),
    (_set("previous", to="00" * 32), r"previous: .* absent at epoch 1"),
    (_set("oldest_epoch", to=2), r"oldest_epoch: 2 is not allowed; 1 to 1"),
    (_set("shards", to=0), r"shards: 0 is not allowed; 1 to 65536"),
    (_set("shards", to=65537), r"shards: 65537"),
    (_set("max_skew_us", to=0), r"max_skew_us: 0"),
    (_set("op_time_us", to=0), r"op_time_us: 0"),
    (_set("grace_us", to=5_000_001), r"grace_us: 5000001 is not allowed; 0 to 5000000"),
    (_set("valid_until_us", to=-1), r"valid_until_us: -1"),
    (_set("admins", to=[]), r"admins \(how many\): 0"),
    (_set("admins", to="ab"), r"admins: a value of type str; a list"),
    (_set("admins", 0, to=7), r"admins\[0\]: a value of type int; a string"),
    (_set("admins", 0, to="ABCD"), r"admins\[0\]: 'ABCD' is not lowercase hex"),
    (_set("admins", 0, to="abc"), r"admins\[0\]: 'abc' is not lowercase hex"),
    (_set("admins", 0, to="abcd"), r"admins\[0\]: 2 bytes are not allowed; exactly 32"),
    (_set("admins", 0, to=key("admin b").hex()), r"admins: .* occurs twice"),
    (_set("admins_needed", to=1), r"admins_needed: 1 is not allowed; 2 to 3"),
    (_set("admins_needed", to=4), r"admins_needed: 4 is not allowed; 2 to 3"),
    (_set("nodes", to={}), r"nodes: a value of type dict; a list"),
    (_set("nodes", 0, to=1), r"nodes\[0\]: a value of type int; a table"),
    (_set("nodes", 0, "name", to="n1"), r"nodes, name: 'n1' occurs twice"),
    (_set("nodes", 0, "key", to=key("node 1").hex()), r"nodes, key: .* occurs twice"),
    (_set("nodes", 0, "weight", to=0), r"nodes\[0\]\.weight: 0 is not allowed; 1 to 1000"),
    (_set("nodes", 0, "weight", to=1001), r"nodes\[0\]\.weight: 1001"),
    (_set("nodes", 0, "zone", to="a/b"), r"nodes\[0\]\.zone: 'a/b'"),
    (_set("nodes", 0, "address", to="host"), r"nodes\[0\]\.address: 'host' is not allowed; host:port"),
    (_set("nodes", 0, "address", to="host:0"), r"nodes\[0\]\.address"),
    (_set("nodes", 0, "address", to="host:65536"), r"nodes\[0\]\.address"),
    (_set("nodes", 0, "address", to='a"b:1'), r"nodes\[0\]\.address"),
    (_set("nodes", 0, "address", to="h:1\n"), r"nodes\[0\]\.address"),
    (_set("writers", 1, "name", to="alice"), r"writers, name: 'alice' occurs twice"),
    (_set("writers", 1, "key", to=key("alice").hex()), r"writers, key: .* occurs twice"),
    (_set("writers", 0, "status", to="gone"), r"writers\[0\]\.status: 'gone' .* active, retired, revoked"),
    (_set("namespaces", 0, "name", to="closed"), r"namespaces, name: 'closed' occurs twice"),
    (_set("namespaces", 0, "type", to="queue"), r"namespaces\[0\]\.type: 'queue' .* register"),
    (_set("namespaces", 2, "mode", to="primary"), r"namespaces\[2\]\.mode: only registers"),
    (_set("namespaces", 0, "ack", to=2), r"namespaces\[0\]\.ack: 2 is not allowed; 1 to 1"),
    (_set("namespaces", 0, "mode", to="fast"), r"namespaces\[0\]\.mode: 'fast' .* quorum, primary"),
    (_set("namespaces", 0, "writers", to=["erin"]), r"namespaces\[0\]\.writers: 'erin' is no writer"),
    (_set("namespaces", 0, "writers", to=["*", "alice"]), r"namespaces\[0\]\.writers: '\*' is no writer"),
    (_set("namespaces", 0, "writers", to=["alice", "alice"]), r"namespaces\[0\]\.writers: 'alice' occurs"),
    (_set("namespaces", 0, "encryption", to="server"), r"namespaces\[0\]\.encryption: 'server' .* none, client"),
    (_set("namespaces", 2, "encryption", to="client"), r"namespaces\[2\]\.encryption: .* the type has to be register"),
    (_set("namespaces", 0, "hide_keys", to=True), r"namespaces\[0\]\.hide_keys: .* only where values are sealed"),
    (_set("namespaces", 0, "hide_keys", to=1), r"namespaces\[0\]\.hide_keys: a value of type int; true or false"),
    (_set("tls", to="no"), r"tls: a value of type str; true or false"),
    (_set("namespaces", 0, "value_bytes_max", to=-1), r"namespaces\[0\]\.value_bytes_max: -1"),
    (_set("namespaces", 0, "ttl_s_max", to=2**32), r"namespaces\[0\]\.ttl_s_max"),
    (_set("namespaces", to=[{"name": f"s{i}"} for i in range(1001)]), r"namespaces: 1001 are too many"),
    (_set("writers", to=[{}] * 10_001), r"writers: 10001 are too many; at most 10000"),
]


@pytest.mark.parametrize(("change", "message"), BAD, ids=[message for _, message in BAD])
def test_what_is_wrong_is_named(change: Callable[[dict[str, Any]], None], message: str) -> None:
    broken = copy.deepcopy(document())
    change(broken)
    with pytest.raises(ConfigurationError, match=message):
        from_document(broken)


def test_too_much_placement_is_refused_before_it_is_computed() -> None:
    with pytest.raises(ConfigurationError, match=r"shards: 65536 are too many for 65 nodes; at most 64527"):
        from_document(document(nodes=65, shards=65_536))


SIGNED = to_toml(SignedConfiguration(from_document(document())))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("f = ", "not valid TOML"),
        ("x = " + "[" * 100_000, "not valid TOML: values are nested too deeply"),
        ("x = " + "9" * 100_000, "not valid TOML"),
        ("#" * ((4 << 20) + 1), "4194305 characters; at most 4194304"),
        ("", "cluster_id: missing"),
        ("signatures = 1", "signatures: a value of type int; a list"),
        (
            SIGNED + '\n[[signatures]]\nadmin = "00"\nsignature = "00"\n',
            r"signatures\[0\]\.signature: 1 bytes",
        ),
        (SIGNED + "\n[[signatures]]\n", r"signatures\[0\]\.signature: missing"),
        (SIGNED.replace("f = 1 ", "f = 2024-01-01 "), "f: a value of type date"),
    ],
)
def test_bad_text_gets_a_clear_error(text: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        parse_toml(text)


@given(st.text(max_size=200))
def test_no_text_gets_anything_but_a_clear_error(text: str) -> None:
    with pytest.raises(ConfigurationError):
        parse_toml(text)


def test_sizes_follow_from_f() -> None:
    for f in range(4):
        config = from_document(document(nodes=10, f=f))
        assert (config.n, config.q) == (3 * f + 1, 2 * f + 1)


def test_fields_that_came_later_do_not_change_the_digests_of_those_that_do_not_use_them() -> None:
    plain = document()
    later = document(tls=True)
    later["namespaces"][0] |= {"encryption": "none", "hide_keys": False}
    assert from_document(later).digest == from_document(plain).digest
    others = [document(tls=False), document(), document()]
    others[1]["namespaces"][0] |= {"encryption": "client"}
    others[2]["namespaces"][0] |= {"encryption": "client", "hide_keys": True}
    assert len({from_document(each).digest for each in (plain, *others)}) == 4


def test_the_shard_is_the_crc_of_the_slot_without_its_field() -> None:
    config = from_document(document(nodes=9))
    for name in (b"", b"k", b"k" * 300):
        prefix = slot(b"default", name)[:-2]
        assert config.shard_of(slot(b"default", name)) == crc32(prefix) % 1024
        assert config.shard_of(slot(b"default", name, b"field")) == crc32(prefix) % 1024
        group = config.group_of(slot(b"default", name, b"field"))
        assert group is config.shard_groups[crc32(prefix) % 1024]


@pytest.mark.parametrize("nodes", [4, 9])
def test_groups_are_consistent(nodes: int) -> None:
    config = from_document(document(nodes=nodes))
    assert len(config.shard_groups) == config.shards
    for shard, group in enumerate(config.shard_groups):
        assert config.groups[group.id] is group
        assert list(group.members) == sorted(group.members)
        assert sorted(config.order_of_shard(shard)) == list(group.members)
        keys = b"".join(sorted(config.nodes[index].key for index in group.members))
        assert group.id == blake2b(b"quorumcache group 1\0" + keys, digest_size=16).digest()
    assert (len(config.groups) == 1) == (nodes == 4)
    if nodes == 4:
        orders = {config.order_of_shard(shard) for shard in range(config.shards)}
        assert len(orders) == 24, "one group, and yet every order: load is spread"


def test_group_ids_and_placement_do_not_depend_on_the_listing() -> None:
    plain = document(nodes=9)
    mixed = {**plain, "nodes": plain["nodes"][::-1]}
    first, second = from_document(plain), from_document(mixed)
    assert first != second
    assert [group.id for group in first.shard_groups] == [group.id for group in second.shard_groups]


def test_rights() -> None:
    config = from_document(document())
    may = {
        (name, namespace)
        for name in ("alice", "bob", "carol", "dave", "mallory")
        for namespace in ("default", "private", "closed", "unknown")
        if config.may_write(key(name), namespace.encode())
    }
    assert may == {("alice", "default"), ("dave", "default"), ("dave", "private")}
    assert [name for name in ("alice", "bob", "carol", "mallory") if config.is_revoked(key(name))] == ["carol"]
    assert config.is_known_namespace(b"closed")
    assert not config.is_known_namespace(b"unknown")
    private = config.namespace(b"private")
    assert private == NamespaceInfo("private", "register", "quorum", ("dave", "carol"), 100, 60)
    assert config.namespace(b"unknown") is None
    node = config.node_by_key(key("node 2"))
    assert node is config.nodes[2]
    assert config.node_by_key(key("alice")) is None


def sign(admin: str, message: bytes) -> tuple[bytes, bytes]:
    return key(admin), blake2b(key(admin) + message, digest_size=64).digest()


def check(public: bytes, message: bytes, signature: bytes) -> bool:
    return blake2b(public + message, digest_size=64).digest() == signature


def test_enough_distinct_administrators_must_sign_this_very_configuration() -> None:
    config = from_document(document())
    message = b"quorumcache configuration 1\0" + config.digest
    a, b, stranger = sign("admin a", message), sign("admin b", message), sign("mallory", message)
    wrong = sign("admin b", message + b"x")
    SignedConfiguration(config, (a, b)).verify(check)
    SignedConfiguration(config, (stranger, wrong, a, b)).verify(check)
    bad: list[tuple[tuple[bytes, bytes], ...]] = [(), (a,), (a, a), (a, stranger), (a, wrong), (a,) * 65]
    for signatures in bad:
        with pytest.raises(ConfigurationError, match="signatures: "):
            SignedConfiguration(config, signatures).verify(check)
    other = from_document(document(cluster_id="other"))
    with pytest.raises(ConfigurationError, match="0 of 3 administrators signed it, and 2 are needed"):
        SignedConfiguration(other, (a, b)).verify(check)


def test_warnings() -> None:
    assert warnings_of(from_document(document())) == []
    assert "f = 0" in warnings_of(from_document(document(f=0)))[0]
    two_zones = document(nodes=6)
    for index, node in enumerate(two_zones["nodes"]):
        node["zone"] = "ab"[index % 2]
    assert "2 zones: in" in warnings_of(from_document(two_zones))[0]
    for index, node in enumerate(two_zones["nodes"]):
        node["zone"] = "abcd"[index % 4]
    assert warnings_of(from_document(two_zones)) == []
