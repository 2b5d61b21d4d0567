"""Portable proofs (protocol 2, "Entry": anyone who knows the configuration can verify it, offline)."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quorumcache.core.config import NamespaceInfo, SignedConfiguration
from quorumcache.core.model import Entry
from quorumcache.core.outcome import Found
from quorumcache.errors import ConfigurationError, InvalidProof
from quorumcache.wire.founding import found_cluster, read_cluster_file
from quorumcache.wire.proof import check_proof, make_proof
from tests.cluster import Cluster, configuration_of, key_of

ADMIN = key_of("admin")


def signed_of(cluster: Cluster) -> SignedConfiguration:
    unsigned = SignedConfiguration(cluster.configuration)
    return SignedConfiguration(cluster.configuration, ((ADMIN.public, ADMIN.sign(unsigned.signed_message)),))


def entry_of(cluster: Cluster, key: str = "k", value: bytes = b"value") -> Entry:
    client = cluster.client()
    for other in "abc":  # A batch of four, so that the path matters.
        client.write(other, b"other")
    client.write(key, value)
    client.run()
    found = client.get(key, full=True)
    assert isinstance(found, Found)
    assert found.entry is not None
    return found.entry


CLUSTER = Cluster()
SIGNED = signed_of(CLUSTER)
ENTRY = entry_of(CLUSTER)
PROOF = make_proof(ENTRY, SIGNED)


def test_a_proof_says_who_wrote_what() -> None:
    proven = check_proof(PROOF, trusted_admins=[ADMIN.public])
    assert (proven.namespace, proven.key, proven.value) == ("test", b"k", b"value")
    assert proven.writer == "w1"
    assert proven.batch_count == 4
    assert len(proven.granted_by) >= 3
    assert proven.admins_trusted
    assert not check_proof(PROOF).admins_trusted


@given(st.integers(0, 8 * len(PROOF) - 1))
def test_any_flipped_bit_makes_a_proof_invalid(bit: int) -> None:
    damaged = bytearray(PROOF)
    damaged[bit >> 3] ^= 1 << (bit & 7)
    with pytest.raises(InvalidProof):
        check_proof(bytes(damaged))


@given(st.binary(max_size=200))
def test_junk_is_no_proof(data: bytes) -> None:
    with pytest.raises(InvalidProof):
        check_proof(data)


@pytest.mark.parametrize("cut", [0, 1, 100, len(PROOF) - 1])
def test_a_proof_cut_short_or_with_a_tail_is_invalid(cut: int) -> None:
    with pytest.raises(InvalidProof):
        check_proof(PROOF[:cut])
    with pytest.raises(InvalidProof):
        check_proof(PROOF + PROOF[:1])


def test_a_proof_of_another_cluster_is_not_trusted() -> None:
    with pytest.raises(InvalidProof, match="administrators you trust"):
        check_proof(PROOF, trusted_admins=[key_of("another admin").public])


def test_an_entry_of_another_configuration_proves_nothing() -> None:
    other = Cluster(configuration=configuration_of(cluster_id="other"))
    with pytest.raises(InvalidProof, match="another configuration"):
        make_proof(ENTRY, signed_of(other))


def test_signatures_that_count_for_nothing_do_not_get_into_a_proof() -> None:
    stranger = key_of("stranger")
    padded = SignedConfiguration(
        SIGNED.configuration, (*SIGNED.signatures, (stranger.public, stranger.sign(SIGNED.signed_message)))
    )
    assert make_proof(ENTRY, padded) == PROOF


def test_an_unsigned_configuration_proves_nothing() -> None:
    with pytest.raises(InvalidProof, match="administrators signed it"):
        make_proof(ENTRY, SignedConfiguration(SIGNED.configuration))


def test_a_founded_cluster_is_read_back(tmp_path: Path) -> None:
    founded = found_cluster(f=2, writers=["alice", "bob"], namespaces=[NamespaceInfo("a", writers=("bob",))])
    file = founded.write(tmp_path / "c")
    assert read_cluster_file(file).configuration == founded.configuration
    assert read_cluster_file(tmp_path / "c").configuration.n == 7
    for path in (tmp_path / "c" / "keys").iterdir():
        assert path.stat().st_mode & 0o077 == 0
    with pytest.raises(ConfigurationError, match="never written over"):
        founded.write(tmp_path / "c")


def test_too_few_nodes_for_f_are_refused_in_words() -> None:
    with pytest.raises(ConfigurationError, match="takes at least 7 nodes"):
        found_cluster(f=2, nodes=4)
