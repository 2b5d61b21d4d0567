"""Protocol 9: which configuration may follow another, who has to sign it, and the changes that administrators make."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from hashlib import blake2b
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quorumcache.core import amend
from quorumcache.core.config import Configuration, NamespaceInfo, SignedConfiguration, from_document
from quorumcache.core.succession import changes, check_chain, check_link, check_successor, signatures_of
from quorumcache.errors import ConfigurationError
from tests.core.test_config import document, key

FIRST = from_document(document(nodes=5, namespaces=[{"name": "default"}, {"name": "own", "writers": ["dave"]}]))
ADMINS = FIRST.admins


def mac(admin: bytes, message: bytes) -> bytes:
    """A signature as far as these rules are concerned."""
    return blake2b(message, key=admin, digest_size=64).digest()


def verify(admin: bytes, message: bytes, signature: bytes) -> bool:
    return mac(admin, message) == signature


def signed(config: Configuration, *admins: bytes) -> SignedConfiguration:
    unsigned = SignedConfiguration(config)
    return SignedConfiguration(config, tuple((x, mac(x, unsigned.signed_message)) for x in admins))


CHANGES: dict[str, Callable[[Configuration], Configuration]] = {
    "add": lambda c: amend.add_writer(c, f"w{c.epoch}", key(f"w{c.epoch}"), namespaces=["own", "default"]),
    "retire": lambda c: amend.retire_writer(c, "alice"),
    "revoke": lambda c: amend.revoke_writer(c, "alice"),
    "revoke retired": lambda c: amend.revoke_writer(c, "bob"),
    "rotate": lambda c: amend.rotate_key(c, "dave", key(f"dave {c.epoch}")),
    "quota": lambda c: amend.set_quota(c, "default", (1 << 20) + c.epoch),
    "add node": lambda c: amend.add_node(c, f"m{c.epoch}", key(f"m{c.epoch}"), address="a:1", zone="z", weight=2),
    "remove node": lambda c: amend.remove_node(c, c.nodes[1].name),
    "replace node": lambda c: amend.replace_node(c, c.nodes[0].name, key(f"r{c.epoch}")),
}


@pytest.mark.parametrize("name", CHANGES)
def test_each_change_is_a_successor_that_says_what_it_changes(name: str) -> None:
    after = CHANGES[name](FIRST)
    assert (after.epoch, after.previous) == (2, FIRST.digest)
    check_successor(after, FIRST)
    assert changes(after, FIRST)
    assert changes(FIRST, FIRST) == ()


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from(sorted(CHANGES)), max_size=8), st.data())
def test_a_chain_holds_as_it_is_and_no_other_way(names: list[str], data: st.DataObject) -> None:
    """Whatever administrators do, the chain checks; with a link left out, doubled, swapped or unsigned it does not.
    And no key that was once revoked is ever anything else."""
    chain = [FIRST]
    for name in names:
        try:
            chain.append(CHANGES[name](chain[-1]))
        except ConfigurationError:
            continue  # Retired twice, or no node left to spare.
    links = [signed(config, *ADMINS[:2]) for config in chain[1:]]
    assert check_chain(FIRST, links, verify) == tuple(chain)
    for earlier, later in pairwise(chain):
        gone = {x.key for x in earlier.writers if earlier.is_revoked(x.key)}
        assert all(later.is_revoked(x) for x in gone)
    if not links:
        return
    at = data.draw(st.integers(0, len(links) - 1))
    broken = [
        [*links[: at + 1], *links[at:]],
        [*links[:at], SignedConfiguration(links[at].configuration, links[at].signatures[:1]), *links[at + 1 :]],
    ]
    if at < len(links) - 1:
        broken.append([*links[:at], *links[at + 1 :]])
        broken.append([*links[:at], links[at + 1], links[at], *links[at + 2 :]])
    for other in broken:
        with pytest.raises(ConfigurationError):
            check_chain(FIRST, other, verify)


NEXT = amend.revoke_writer(FIRST, "alice")
UNREVOKED = replace(NEXT, writers=FIRST.writers)
REFUSED: dict[str, tuple[Configuration, Configuration, str]] = {
    "itself": (FIRST, FIRST, "epoch"),
    "an older one": (FIRST, NEXT, "epoch"),
    "an epoch left out": (replace(NEXT, epoch=3), FIRST, "epoch"),
    "another predecessor": (replace(NEXT, previous=key("other")), FIRST, "previous"),
    "another cluster": (replace(NEXT, cluster_id="other"), FIRST, "cluster_id"),
    "max_skew": (replace(NEXT, max_skew_us=2), FIRST, "max_skew_us"),
    "op_time": (replace(NEXT, op_time_us=7_000_000), FIRST, "op_time_us"),
    "tls off": (replace(NEXT, tls=False), FIRST, "tls"),
    "revoked is active again": (
        replace(UNREVOKED, epoch=3, previous=NEXT.digest),
        NEXT,
        "alice is revoked",
    ),
    "revoked is retired": (
        replace(
            NEXT, epoch=3, previous=NEXT.digest, writers=(replace(NEXT.writers[0], status="retired"), *NEXT.writers[1:])
        ),
        NEXT,
        "alice is revoked",
    ),
    "revoked is listed no more": (
        amend.successor_of(NEXT, writers=NEXT.writers[1:]),
        NEXT,
        "alice is revoked",
    ),
    "another key under a revoked name": (
        amend.successor_of(NEXT, writers=(replace(NEXT.writers[0], key=key("new")), *NEXT.writers[1:])),
        NEXT,
        "alice is revoked",
    ),
    "type": (
        amend.successor_of(FIRST, namespaces=(NamespaceInfo("default", "counter"), FIRST.namespaces[1])),
        FIRST,
        "default, type",
    ),
    "sealing": (
        amend.successor_of(FIRST, namespaces=(NamespaceInfo("default", encryption="client"), FIRST.namespaces[1])),
        FIRST,
        "default, encryption",
    ),
    "a namespace less": (amend.successor_of(FIRST, namespaces=FIRST.namespaces[:1]), FIRST, "own is gone"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_may_not_follow_is_refused_and_the_field_named(name: str) -> None:
    config, after, field = REFUSED[name]
    with pytest.raises(ConfigurationError, match=field):
        check_successor(config, after)


def test_oldest_epoch_never_falls_and_what_no_longer_counts_may_be_forgotten() -> None:
    """Rules 3 to 5: where nothing certified before counts, revoked keys and old namespaces may go."""
    third = amend.successor_of(NEXT, oldest_epoch=3, writers=NEXT.writers[1:], namespaces=NEXT.namespaces[:1])
    check_successor(third, NEXT)
    with pytest.raises(ConfigurationError, match="oldest_epoch"):
        check_successor(amend.successor_of(third, oldest_epoch=2), third)


def test_signatures_of_strangers_doubles_and_others_messages_do_not_count() -> None:
    """m of the predecessor's administrators: distinct, valid, over this very configuration."""
    stranger = key("stranger")
    one = signed(NEXT, ADMINS[0])
    check_link(signed(NEXT, ADMINS[0], ADMINS[2]), FIRST, verify)
    for bad in (
        signed(NEXT),
        one,
        signed(NEXT, ADMINS[0], ADMINS[0]),
        signed(NEXT, ADMINS[0], stranger),
        SignedConfiguration(NEXT, (*one.signatures, *signed(FIRST, ADMINS[1]).signatures)),
        SignedConfiguration(NEXT, (*one.signatures, (ADMINS[1], bytes(64)))),
    ):
        with pytest.raises(ConfigurationError, match="signatures"):
            check_link(bad, FIRST, verify)
    with pytest.raises(ConfigurationError, match="too many"):
        check_link(SignedConfiguration(NEXT, 65 * one.signatures), FIRST, verify)


def test_administrators_hand_over_only_together_with_those_who_follow_them() -> None:
    """The old majority alone could name keys that nobody has; the new alone could take over."""
    fresh = (key("x"), key("y"))
    handed = amend.successor_of(FIRST, admins=(ADMINS[2], *fresh), admins_needed=2)
    for few in ((ADMINS[0], ADMINS[1]), fresh, (ADMINS[2], fresh[0])):
        with pytest.raises(ConfigurationError, match="signatures"):
            check_link(signed(handed, *few), FIRST, verify)
    full = signed(handed, ADMINS[1], ADMINS[2], fresh[1])
    check_link(full, FIRST, verify)
    found = signatures_of(signed(handed, *fresh), FIRST, verify)
    assert (found.missing_before, found.missing_own, found.complete) == (2, 0, False)
    # Those who left have no say in what follows.
    with pytest.raises(ConfigurationError, match="signatures"):
        check_link(signed(amend.retire_writer(handed, "dave"), *ADMINS), handed, verify)


def test_a_rotated_key_keeps_name_rights_and_limits_and_the_old_one_is_retired() -> None:
    """Protocol 5.5: what was certified under the old key stands."""
    after = amend.rotate_key(FIRST, "dave", key("dave's new"))
    now = {x.name: x for x in after.writers}
    assert now["dave"].key == key("dave's new")
    assert (now["dave.1"].key, now["dave.1"].status) == (key("dave"), "retired")
    assert after.may_write(key("dave's new"), b"own")
    assert not after.may_write(key("dave"), b"own")
    assert not after.is_revoked(key("dave"))


@pytest.mark.parametrize(
    "change",
    [
        lambda: amend.retire_writer(FIRST, "nobody"),
        lambda: amend.retire_writer(FIRST, "bob"),
        lambda: amend.revoke_writer(FIRST, "carol"),
        lambda: amend.rotate_key(FIRST, "bob", key("new")),
        lambda: amend.add_writer(FIRST, "alice", key("new")),
        lambda: amend.add_writer(FIRST, "new", key("alice")),
        lambda: amend.add_writer(FIRST, "new", key("new"), namespaces=["nowhere"]),
        lambda: amend.set_quota(FIRST, "nowhere", 1 << 20),
        lambda: amend.set_quota(FIRST, "default", 0),
        lambda: amend.set_quota(FIRST, "default", 1),
        lambda: amend.add_node(FIRST, "n1", key("new")),
        lambda: amend.remove_node(FIRST, "nobody"),
        lambda: amend.remove_node(amend.remove_node(FIRST, "n0"), "n1"),
        lambda: amend.replace_node(FIRST, "n0", key("node 1")),
    ],
)
def test_a_change_that_does_not_fit_is_refused_in_words(change: Callable[[], Configuration]) -> None:
    with pytest.raises(ConfigurationError, match=r"configuration, "):
        change()
