"""The public names: each can be had, and nothing is loaded before it is asked for."""

import subprocess
import sys

import pytest

import quorumcache


@pytest.mark.parametrize("name", quorumcache.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(quorumcache, name) is not None
    assert name in dir(quorumcache)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Cleint'"):
        _ = quorumcache.Cleint


def test_importing_the_package_loads_neither_network_nor_cryptography() -> None:
    code = "import sys, quorumcache; print([m for m in ('aiohttp', 'nacl', 'msgspec') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
