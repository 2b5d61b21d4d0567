"""The examples on the pages of the client library run as they stand there, each against a cluster."""

from __future__ import annotations

import ast
import doctest
import inspect
import re
from pathlib import Path
from typing import Any

import pytest

from quorumcache.testing import LocalCluster

DOCS = Path(__file__).resolve().parents[2] / "docs"
_FENCE = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PAGES = ["api.md", "database.md"]


def _code_of(page: str) -> str:
    return "\n\n".join(_FENCE.findall((DOCS / page).read_text(encoding="utf-8")))


def _examples() -> list[tuple[str, str]]:
    return [
        (page, node.name)
        for page in PAGES
        for node in ast.parse(_code_of(page)).body
        if isinstance(node, ast.AsyncFunctionDef)
    ]


@pytest.mark.parametrize(("page", "name"), _examples())
async def test_an_example_runs(page: str, name: str, cluster: LocalCluster, tmp_path: Path) -> None:
    """Every top-level async function of the page: its parameters say what it needs."""
    scope: dict[str, Any] = {"__name__": page}
    exec(compile(_code_of(page), page, "exec"), scope)
    offered = {"client": cluster.client, "path": lambda: tmp_path}
    arguments = {}
    for parameter in inspect.signature(scope[name]).parameters:
        value = offered[parameter]()
        arguments[parameter] = await value if inspect.isawaitable(value) else value
    await scope[name](**arguments)


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
