"""Protocol 9 and decision 0016: seals end an epoch, q of every group's begin the next, and all of it proves itself."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quorumcache.core import amend
from quorumcache.core.config import Configuration, NamespaceInfo, SignedConfiguration, from_document
from quorumcache.core.seals import Ending, Seal, Seals, Step, check_step, follow, seal_string
from quorumcache.errors import ConfigurationError
from tests.core.test_config import document, key
from tests.core.test_succession import mac, signed, verify

FIRST = from_document(document(nodes=6, namespaces=[{"name": "default"}]))
ADMINS = FIRST.admins
SECOND = amend.revoke_writer(FIRST, "alice")
OTHER = amend.retire_writer(FIRST, "alice")


def seal_of(node: bytes, before: Configuration, successor: Configuration) -> Seal:
    return Seal(node, mac(node, seal_string(before.digest, successor.digest)))


def step(before: Configuration, successor: Configuration, *without: int) -> Step:
    """A step as it should be, but for the seals of these nodes."""
    seals = [seal_of(x.key, before, successor) for x in before.nodes if x.index not in without]
    return Step(signed(successor, *before.admins[:2]), tuple(seals))


class Life:
    """One node's way out of FIRST, with its memory over restarts."""

    def __init__(self, index: int) -> None:
        self.key = FIRST.nodes[index].key
        self.remembered: list[SignedConfiguration] = []
        self.fails = False
        self.signed_count = 0
        self.ending = self.start()

    def start(self) -> Ending:
        remembered = self.remembered[0] if self.remembered else None
        self.ending = Ending(FIRST, self.key, self._sign, verify, self._remember, remembered=remembered)
        return self.ending

    def _sign(self, message: bytes) -> bytes:
        self.signed_count += 1
        return mac(self.key, message)

    def _remember(self, successor: SignedConfiguration) -> None:
        assert self.signed_count == 0, "a seal is remembered before it is signed"
        if self.fails:
            raise OSError("no room")
        self.remembered.append(successor)


@settings(max_examples=60, deadline=None)
@given(st.sets(st.integers(0, 5)), st.randoms())
def test_a_successor_needs_q_seals_of_every_group(silent: set[int], order: object) -> None:
    """0016, 1 and 6. Not of those groups alone that change, and in whatever order they come."""
    seals = Seals(FIRST, SECOND.digest, verify)
    given_ = [seal_of(x.key, FIRST, SECOND) for x in FIRST.nodes if x.index not in silent]
    order.shuffle(given_)  # type: ignore[attr-defined]
    assert all(seals.add(seal) for seal in given_)
    short = {
        group.id: FIRST.q - count
        for group in FIRST.groups.values()
        if (count := len(set(group.members) - silent)) < FIRST.q
    }
    assert seals.lacking == short
    assert seals.complete == (not short)
    assert set(seals.found) == set(given_)
    handed = step(FIRST, SECOND, *silent)
    if short:
        with pytest.raises(ConfigurationError, match="has not moved to epoch 2 yet"):
            check_step(handed, FIRST, verify)
    else:
        assert check_step(handed, FIRST, verify) == SECOND


def test_a_seal_counts_once_and_for_one_epoch_one_successor_one_node() -> None:
    """0016, 1: with seals counted twice, or others' seals, fewer than q would do."""
    node, stranger = FIRST.nodes[0].key, key("stranger")
    seals = Seals(FIRST, SECOND.digest, verify)
    before = seals.lacking
    for wrong in (
        seal_of(node, FIRST, OTHER),
        seal_of(node, SECOND, SECOND),
        seal_of(stranger, FIRST, SECOND),
        Seal(node, seal_of(FIRST.nodes[1].key, FIRST, SECOND).signature),
        Seal(node, b""),
        Seal(node, seal_of(node, FIRST, SECOND).signature + b"\0"),
    ):
        assert not seals.add(wrong)
        assert (seals.lacking, seals.found) == (before, ())
    right = seal_of(node, FIRST, SECOND)
    assert [seals.add(right), seals.add(right)] == [True, False]
    assert seals.found == (right,)


def test_a_node_seals_once_and_remembers_it_first() -> None:
    """0016, 5 and 7: what it sealed for is durable before the seal exists, and over restarts it is the same."""
    life = Life(0)
    life.fails = True
    with pytest.raises(OSError):
        life.ending.seal(signed(SECOND, *ADMINS[:2]))
    assert (life.ending.is_sealed, life.signed_count) == (False, 0), "what could not be remembered has not happened"
    life.fails = False
    seal = life.ending.seal(signed(SECOND, *ADMINS[:2]))
    assert verify(seal.node, seal_string(FIRST.digest, SECOND.digest), seal.signature)
    for ending in (life.ending, life.start()):
        assert ending.is_sealed
        assert ending.seal(signed(SECOND, *ADMINS[1:3])) == seal, "the same successor, signed by others"
        with pytest.raises(ConfigurationError, match="seals it for no other"):
            ending.seal(signed(OTHER, *ADMINS[:2]))
        assert ending.successor is not None
        assert ending.successor.configuration == SECOND
    assert len(life.remembered) == 1


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (signed(SECOND, ADMINS[0]), "1 more of the administrators of epoch 1"),
        (signed(SECOND), "have it signed"),
        (signed(replace(SECOND, previous=bytes(32)), *ADMINS[:2]), "is not the predecessor's digest"),
        (signed(FIRST, *ADMINS[:2]), "does not follow epoch 1"),
        (
            signed(
                amend.successor_of(
                    FIRST, namespaces=(*FIRST.namespaces, NamespaceInfo("locks", "exact")), nodes=FIRST.nodes[:5]
                ),
                *ADMINS[:2],
            ),
            "locks is exact",
        ),
        (signed(amend.successor_of(FIRST, shards=2 * FIRST.shards), *ADMINS[:2]), "every node begins anew"),
        (signed(amend.successor_of(FIRST, f=0), *ADMINS[:2]), "every node begins anew"),
    ],
)
def test_nothing_is_sealed_that_may_not_be_moved_to(wrong: SignedConfiguration, says: str) -> None:
    """0016, 5: a node seals only with the whole signed successor in hand."""
    life = Life(0)
    with pytest.raises(ConfigurationError, match=says):
        life.ending.seal(wrong)
    assert (life.ending.is_sealed, life.remembered, life.signed_count) == (False, [], 0)


def test_nodes_activate_with_seals_of_q_and_hand_on_what_they_have() -> None:
    """0016, 5: any of them has all that the next one needs, whoever coordinated it before."""
    lives = [Life(i) for i in range(6)]
    assert lives[0].ending.take([seal_of(lives[1].key, FIRST, SECOND)]) == 0, "it has not sealed: for which successor?"
    first = lives[0].ending
    assert set(first.lacking.values()) == {FIRST.q}
    for life in lives:
        life.ending.seal(signed(SECOND, *ADMINS[:2]))
    assert first.step is None
    for life in lives[1:]:
        own = life.ending.seal(signed(SECOND, *ADMINS[:2]))
        assert [first.take([own]), first.take([own])] == [1, 0]
    handed = first.step
    assert handed is not None
    assert not first.lacking
    assert follow(FIRST, [handed], verify) == (FIRST, SECOND)
    last = lives[5].ending
    assert last.take(handed.seals) == 5
    assert last.step is not None


def test_a_client_follows_seals_and_not_signatures_alone() -> None:
    """0016, 8: keys of administrators may have leaked, long after the cluster had moved on without them."""
    third = amend.retire_writer(SECOND, "dave")
    whole = [step(FIRST, SECOND), step(SECOND, third, 5)]
    assert follow(FIRST, whole, verify) == (FIRST, SECOND, third)
    assert follow(FIRST, [], verify) == (FIRST,)
    stale = Step(whole[1].successor, whole[0].seals)
    for broken, says in (
        ([Step(whole[0].successor, ())], "0 of epoch 1 count"),
        ([whole[0], stale], "0 of epoch 2 count"),
        ([whole[1]], "does not follow"),
        ([whole[0], whole[0]], "does not follow"),
        ([Step(signed(SECOND, ADMINS[0]), whole[0].seals)], "1 more"),
        ([Step(whole[0].successor, whole[0].seals * 1000)], "are too many"),
    ):
        with pytest.raises(ConfigurationError, match=says):
            follow(FIRST, broken, verify)


@pytest.mark.parametrize("f", [1, 2])
def test_no_quorum_answers_in_an_epoch_that_q_sealed(f: int) -> None:
    """0016, 1: whoever f of a group are, and whichever q sealed, fewer than q still answer. With 2f seals, q may: the
    liars sealed and answer all the same."""
    n, q = 3 * f + 1, 2 * f + 1
    for needed, may_answer in ((q, False), (q - 1, True)):
        most = max(
            len((set(range(n)) - set(sealed)) | set(liars))
            for sealed in combinations(range(n), needed)
            for liars in combinations(range(n), f)
        )
        assert (most >= q) == may_answer
