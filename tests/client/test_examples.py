"""The examples on the pages of the client library run as they stand there, each against a cluster."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path
from typing import Any

import pytest

from quorumcache.testing import LocalCluster

DOCS = Path(__file__).resolve().parents[2] / "docs"
_FENCE = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PAGES = ["database.md"]


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
