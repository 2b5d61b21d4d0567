"""A value with its proof, from a running cluster (protocol 2, "Entry": anyone can verify it, offline)."""

import pytest

from quorumcache.errors import InvalidValue
from quorumcache.testing import LocalCluster
from quorumcache.wire.proof import check_proof


async def test_a_value_comes_with_a_proof_of_itself_or_not_at_all() -> None:
    async with LocalCluster() as cluster, await cluster.client(serializer="str") as client:
        await client.set("k", "value")
        found = await client.get("k", with_proof=True)
        assert found is not None
        value, proof = found
        assert value == "value"
        proven = check_proof(proof, trusted_admins=cluster.configuration.admins)
        assert (proven.namespace, proven.key, proven.value, proven.writer) == ("default", b"k", b"value", "default")
        assert await client.get("nothing", with_proof=True) is None
        assert await client.get("nothing", "instead", with_proof=True) == "instead"


async def test_a_namespace_without_a_limit_takes_values_up_to_the_protocols() -> None:
    async with LocalCluster(value_bytes_max=0) as cluster, await cluster.client() as client:
        await client.set("k", bytes(1 << 20))
        with pytest.raises(InvalidValue, match="1048576"):
            await client.set("k", bytes((1 << 20) + 1))
