"""The examples on the pages of the client library run as they stand there, each against a cluster."""

from __future__ import annotations

import ast
import asyncio
import doctest
import inspect
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from quorumcache.client import DataKeys, SyncClient
from quorumcache.core.config import NamespaceInfo
from quorumcache.testing import LocalCluster

DOCS = Path(__file__).resolve().parents[2] / "docs"
_FENCE = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PAGES = ["api.md", "client.md", "database.md"]


def _code_of(page: str) -> str:
    return "\n\n".join(_FENCE.findall((DOCS / page).read_text(encoding="utf-8")))


def _examples() -> list[tuple[str, str]]:
    return [
        (page, node.name)
        for page in PAGES
        for node in ast.parse(_code_of(page)).body
        if isinstance(node, ast.AsyncFunctionDef | ast.FunctionDef)
    ]


@pytest_asyncio.fixture
async def typed_cluster() -> AsyncIterator[LocalCluster]:
    """With a namespace of each kind that the examples use."""
    kinds = [NamespaceInfo(f"{kind}s".replace("ss", "s"), kind) for kind in ("counter", "set", "map", "siblings")]
    private = NamespaceInfo("private", encryption="client")
    async with LocalCluster(max_skew=0.02, op_time=30.0, grace=0.05, namespaces=[*kinds, private]) as running:
        yield running


@pytest.mark.parametrize(("page", "name"), _examples())
async def test_an_example_runs(page: str, name: str, typed_cluster: LocalCluster, tmp_path: Path) -> None:
    """Every top-level function of the page: its parameters say what it needs."""
    scope: dict[str, Any] = {"__name__": page}
    exec(compile(_code_of(page), page, "exec"), scope)
    cluster = typed_cluster
    offered = {
        "client": cluster.client,
        "path": lambda: tmp_path,
        "cluster": lambda: cluster.signed,
        "key": lambda: cluster.writers["default"],
        "data_keys": DataKeys.generate,
    }
    function = scope[name]
    given = list(inspect.signature(function).parameters)
    if given == ["cache", "key", "value"]:

        def use() -> None:
            with SyncClient(cluster.signed, key=cluster.writers["default"]) as cache:
                function(cache, "k", b"v")

        await asyncio.to_thread(use)
    elif inspect.iscoroutinefunction(function):
        arguments = {}
        for parameter in given:
            value = offered[parameter]()
            arguments[parameter] = await value if inspect.isawaitable(value) else value
        await function(**arguments)
    else:
        await asyncio.to_thread(lambda: function(**{parameter: offered[parameter]() for parameter in given}))


def test_the_session_on_the_api_page_goes_as_it_says(distant_cluster: LocalCluster) -> None:
    """Doctests: `cluster` is a cluster, `key` a writer's key of it."""
    fenced = re.compile(r"^```.*$", re.MULTILINE)
    text = fenced.sub("", (DOCS / "api.md").read_text(encoding="utf-8"))
    scope = {"__name__": "__main__", "cluster": distant_cluster.signed, "key": distant_cluster.writers["default"]}
    session = doctest.DocTestParser().get_doctest(text, scope, "api.md", "api.md", 0)
    said: list[str] = []
    results = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(session, out=said.append)
    assert results.attempted > 20
    assert not results.failed, "".join(said)
