"""What the commands that use a cluster have in common: which cluster, whose key, which namespace.

Each comes from an option or from the environment. It must not know what a command does with them.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from quorumcache.errors import Misuse

CLUSTER_VARIABLE = "QUORUMCACHE_CLUSTER"
KEY_VARIABLE = "QUORUMCACHE_KEY"
DATA_KEYS_VARIABLE = "QUORUMCACHE_DATA_KEYS"

ClusterOption: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--cluster", "-c", envvar=CLUSTER_VARIABLE, help="cluster.toml, or the directory it is in.", show_default=False
    ),
]
KeyOption: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--key",
        "-k",
        envvar=KEY_VARIABLE,
        help="A writer's key file, env:NAME or fd:NUMBER. To write, unless given, the only one in keys/ beside "
        "cluster.toml.",
        show_default=False,
    ),
]
DataKeysOption: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--data-keys",
        envvar=DATA_KEYS_VARIABLE,
        help="The file of data keys, where clients seal the namespace's values.",
        show_default=False,
    ),
]
NamespaceOption: TypeAlias = Annotated[
    str | None, typer.Option("--namespace", "-n", help="The cluster's first unless given.", show_default=False)
]
TimeoutOption: TypeAlias = Annotated[
    float, typer.Option(min=0.1, max=3600, help="Seconds to wait for enough nodes to connect.")
]


def cluster_path(cluster: Path | None) -> Path:
    """The cluster file that the user named. Raises Misuse where none was."""
    if cluster is None:
        raise Misuse(
            f"which cluster? Name its file with --cluster cluster.toml or in {CLUSTER_VARIABLE}; "
            "to get one on this machine: quorumcache up"
        )
    return cluster


def key_path(cluster: Path, key: Path | None) -> Path:
    """The writer's key file: the one that was named, or the only one beside the cluster file. Raises Misuse."""
    from quorumcache.wire.founding import writer_key_paths

    if key is not None:
        return key
    found = writer_key_paths(cluster)
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(str(path) for path in found)
        raise Misuse(f"whose key? Name one with --key or in {KEY_VARIABLE}; there are {names}")
    raise Misuse(f"writing needs a writer's key: name its file with --key or in {KEY_VARIABLE}")


def bytes_of(argument: str) -> bytes:
    """A command line argument as the bytes that the user typed, be they UTF-8 or not."""
    return os.fsencode(argument)
