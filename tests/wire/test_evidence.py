"""Evidence files (protocol 16): anyone checks them with what is in them; one encoding; bad input is told so."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quorumcache.cli.app import run
from quorumcache.core.config import SignedConfiguration
from quorumcache.core.evidence import DoubleGrant, Equivocation, GrantedHeader, Proof, SignedHeader, Witnessed
from quorumcache.errors import InvalidProof
from quorumcache.wire.evidence import EVIDENCE_BYTES_MAX, Recollection, check_evidence, make_evidence
from tests import strategies
from tests.cluster import configuration_of, key_of
from tests.making import Draft
from tests.wire.test_proof import PROOF

ADMIN = key_of("admin")


def signed_of(**changes: object) -> SignedConfiguration:
    unsigned = SignedConfiguration(configuration_of(**changes))  # type: ignore[arg-type]
    return SignedConfiguration(unsigned.configuration, ((ADMIN.public, ADMIN.sign(unsigned.signed_message)),))


SIGNED = signed_of()
CONFIGURATION = SIGNED.configuration
DRAFTS = [Draft(CONFIGURATION).put("k", b"one"), Draft(CONFIGURATION).put("k", b"two").put("l")]


def equivocation() -> Equivocation:
    parts = [SignedHeader(d.headers[0], d.group, len(d.headers), 0, d.entry().path, d.intent) for d in DRAFTS]
    return Equivocation(CONFIGURATION.digest, parts[0], parts[1])


def double_grant() -> DoubleGrant:
    parts = []
    for draft in DRAFTS:
        grant = draft.grant(2)
        parts.append(
            GrantedHeader(
                draft.headers[0], draft.group, len(draft.headers), 0, draft.entry().path, grant.bitmap, grant.signature
            )
        )
    return DoubleGrant(CONFIGURATION.digest, key_of("node 2").public, parts[0], parts[1])


@pytest.mark.parametrize(("make", "role", "name"), [(equivocation, "writer", "w1"), (double_grant, "node", "n2")])
def test_a_file_says_whom_it_convicts_and_of_what(make: Callable[[], Proof], role: str, name: str) -> None:
    data = make_evidence(make(), SIGNED)
    found = check_evidence(data)
    assert (found.role, found.name, found.namespace, found.slot_key) == (role, name, "test", b"k")
    assert "under one stamp" in found.offence
    assert not found.admins_trusted
    assert check_evidence(data, trusted_admins=[ADMIN.public]).admins_trusted
    assert len(data) < EVIDENCE_BYTES_MAX
    with pytest.raises(InvalidProof, match="administrators you trust"):
        check_evidence(data, trusted_admins=[key_of("w1").public])


def test_what_convicts_nobody_makes_no_file() -> None:
    proof = equivocation()
    with pytest.raises(InvalidProof, match="convicts nobody"):
        make_evidence(msgspec.structs.replace(proof, second=proof.first), SIGNED)
    with pytest.raises(InvalidProof, match="not known"):
        make_evidence(proof, signed_of(shards=16))
    with pytest.raises(InvalidProof, match="configuration"):
        make_evidence(proof, SignedConfiguration(CONFIGURATION))


DATA = make_evidence(double_grant(), SIGNED)


@settings(max_examples=200, deadline=None)
@given(at=st.integers(0, len(DATA) - 1), bit=st.integers(0, 7))
def test_any_bit_flipped_in_a_file_is_refused(at: int, bit: int) -> None:
    with pytest.raises(InvalidProof):
        check_evidence(DATA[:at] + bytes((DATA[at] ^ 1 << bit,)) + DATA[at + 1 :])


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=300) | st.integers(0, len(DATA)).map(lambda n: DATA[:n]) | st.just(DATA + b"\0"))
def test_arbitrary_bytes_are_told_to_be_no_evidence(data: bytes) -> None:
    if data != DATA:
        with pytest.raises(InvalidProof):
            check_evidence(data)


@settings(max_examples=100, deadline=None)
@given(strategies.proofs)
def test_arbitrary_proofs_convict_nobody(proof: Proof) -> None:
    """Whatever a node hands out: nothing but InvalidProof."""
    with pytest.raises(InvalidProof):
        make_evidence(msgspec.structs.replace(proof, configuration=CONFIGURATION.digest), SIGNED)


def test_a_file_that_is_too_large_is_not_decoded() -> None:
    with pytest.raises(InvalidProof, match="no evidence file has more"):
        check_evidence(bytes(EVIDENCE_BYTES_MAX + 1))


def test_the_program_tells_what_is_wrong_with_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, bad = tmp_path / "good", tmp_path / "bad"
    good.write_bytes(DATA)
    bad.write_bytes(DATA[:-1])
    assert run(["evidence", "verify", str(good)]) == 0
    assert "node n2" in capsys.readouterr().out
    assert run(["evidence", "show", str(bad)]) == 7
    assert "Not a valid proof" in capsys.readouterr().err
    assert run(["verify", str(good)]) == 7
    assert "quorumcache evidence verify" in " ".join(capsys.readouterr().err.split())
    bad.write_bytes(PROOF)
    assert run(["evidence", "verify", str(bad)]) == 7
    assert "proves a value, and convicts nobody" in " ".join(capsys.readouterr().err.split())
    assert run(["evidence", "verify", str(tmp_path / "none")]) == 2
    assert "cannot be read" in capsys.readouterr().err


def test_what_nodes_signed_is_kept_from_one_audit_to_the_next() -> None:
    recollection = Recollection(CONFIGURATION)
    memory = {(1, b"slot"): Witnessed(b"i" * 16, b"c" * 32, 1, 2, b"slot", b"", b"s" * 64)}
    data = recollection.dump(memory)
    assert recollection.load(data) == memory
    assert Recollection(configuration_of(shards=16)).load(data) == {}
    for damaged in (b"", data[:-1], data + b"\0", data.replace(b"answers 1", b"answers 2")):
        with pytest.raises(InvalidProof):
            recollection.load(damaged)
