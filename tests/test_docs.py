"""The documents keep to the code: links lead somewhere, examples compile, limits and names are the code's."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from quorumcache.client import engine
from quorumcache.client.operations import MANY_MAX
from quorumcache.core import config_rules, merkle, model
from quorumcache.core import messages as m
from quorumcache.core.config import Configuration
from quorumcache.core.node import NodeLimits
from quorumcache.net import answers, link, server
from quorumcache.testing.byzantine import LIES
from quorumcache.wire import codec, frame
from tests.cluster import configuration_of

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def anchors_of(text: str) -> set[str]:
    """The anchors of a page's headings, as forges make them."""
    headings = re.findall(r"^#+ (.+)$", _FENCE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_lead_somewhere(page: Path) -> None:
    for target in _LINK.findall(_FENCE.sub("", page.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), f"{page.name}: {target} leads nowhere"
        if anchor:
            assert anchor in anchors_of(there.read_text(encoding="utf-8")), f"{page.name}: no heading for {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_python_examples_compile(page: Path) -> None:
    for language, code in _FENCE.findall(page.read_text(encoding="utf-8")):
        if language == "python":
            compile(code, str(page), "exec")


def test_the_encoding_example_is_what_the_code_makes() -> None:
    """Protocol 12."""
    slot = model.slot_of(b"default", b"greeting")
    stamp = model.stamp_of(1_700_000_000_000_000, bytes(range(32)), 0x0102030405060708)
    value_hash = model.value_hash_of(bytes(range(16)) + b"hello")
    header = model.encode_header(slot, stamp, model.PUT, value_hash, 5, 0)
    digest = model.digest_of(header)
    example = {
        "slot": slot.hex(),
        "shard": str(configuration_of(shards=1024).shard_of(slot)),
        "value hash": value_hash.hex(),
        "header": header.hex(),
        "digest": digest.hex(),
        "root of it": merkle.root_of(digest).hex(),
    }
    written = dict(re.findall(r"^([a-z ]+?) {2,}([0-9a-f]+)$", section("## 12", "## 13"), re.MULTILINE))
    assert written == example


def test_the_message_table_is_the_codes() -> None:
    """Protocol 13: numbers, names and the order of fields."""
    written = re.findall(r"^\| (\d+) \| `(\w+)` \| (.*) \|$", section("## 13", "## 14"), re.MULTILINE)
    kinds = {kind.__name__: kind for pair in m.TABLE.items() for kind in pair} | {"Reject": m.Reject}
    assert {name for _, name, _ in written} == set(kinds)
    for number, name, fields in written:
        kind = kinds[name]
        assert kind.__struct_config__.tag == int(number)
        named = [word for word in re.findall(r"`(\w+)`", fields) if word in kind.__struct_fields__]
        assert list(dict.fromkeys(named)) == list(kind.__struct_fields__[2:]), name


def test_the_codes_are_the_codes() -> None:
    """Protocol 13: refusals, commit codes, rejections."""
    for kind, codes in (
        ("refusal", m.REFUSALS),
        ("commit", dict(enumerate(m.COMMIT_CODES))),
        ("reject", m.REJECTIONS),
    ):
        (row,) = re.findall(rf"^\| {kind} \| (.*) \|$", section("## 13", "## 14"), re.MULTILINE)
        assert {int(code): name for code, name in re.findall(r"(\d+) `(\w+)`", row)} == codes


def section(begin: str, end: str) -> str:
    text = text_of("docs/protocol.md")
    return text[text.index(begin) : text.index(end)]


def test_limits_in_the_documents_are_the_codes() -> None:
    limits = NodeLimits()
    defaults = Configuration.__dataclass_fields__
    operations = text_of("docs/operations.md")
    for row in (
        f"| key, field | {model.KEY_BYTES_MAX:,} bytes each |",
        f"| namespace | {model.NAMESPACE_BYTES_MAX} bytes |",
        f"| value | {model.VALUE_BYTES_MAX:,} bytes,",
        f"| batch | {model.BATCH_COUNT_MAX:,} headers, about {m.BATCH_BYTES_MAX >> 20} MiB;",
        f"| keys in one call | {MANY_MAX:,} |",
        f"| operations under way in a client | {engine.OPERATIONS_MAX:,} |",
        f"| frame | {codec.PAYLOAD_BYTES_MAX >> 20} MiB of payload, {codec.MESSAGES_PER_FRAME_MAX} messages |",
        f"| {server.CREDIT_BYTES >> 20} MiB, and {link.BACKLOG_BYTES_MAX >> 20} MiB waiting at the client |",
        f"| sessions of a node | {server.SESSIONS_MAX:,} |",
        f"| memory for entries | {limits.bytes_max >> 20} MiB a node",
        f"| memory for promises | {limits.promises_bytes_max >> 20} MiB a node",
        f"| `quota_bytes` of a namespace | {config_rules.QUOTA_BYTES_MIN:,} at least",
        f"| open promises | {limits.promises_max:,} a node, {limits.open_max} a writer and slot |",
        f"| faulty nodes | f up to {config_rules.F_MAX} |",
        f"| nodes in a cluster | {config_rules.NODES_MAX:,} |",
        f"| shards | {defaults['shards'].default:,} unless configured, {config_rules.SHARDS_MAX:,} at most |",
    ):
        assert row in operations, row
    assert model.KEY_BYTES_MAX == model.FIELD_BYTES_MAX
    protocol = text_of("docs/protocol.md")
    for words in (
        f"at most {model.HEADER_BYTES_MAX:,})",
        f"length of the metadata, at most {model.METADATA_BYTES_MAX:,} ",
        f"payloads of {frame.COMPRESS_BYTES_MIN:,} bytes and more",
        f"`grace_us`, {defaults['grace_us'].default // 1000} ms unless configured",
        f"several of about {answers.REPLIES_BYTES_GOAL >> 10} KiB",
        f"| `slots` (1 to {m.READ_FULL_SLOTS_MAX}) |",
        f"`entries` (at most {m.REPORT_ENTRIES_MAX},",
    ):
        assert words in protocol, words


def test_tests_named_in_the_threat_model_exist() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", text_of("docs/threat-model.md"))
    assert named
    for path, name in named:
        assert f"def {name or 'test_'}" in text_of(path), f"{path} has no {name}"


def test_the_table_of_attacks_and_the_marked_tests_agree() -> None:
    """Every attack has its test, every test marked as an attack is in the table, and each row says what is left."""
    text = text_of("docs/threat-model.md")
    table = text[text.index("## Attacks on real sockets") : text.index("## Rules, and the tests")]
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line.startswith("| ")
    ]
    assert [row[0] for row in rows[1:]] == [str(number) for number in range(1, len(rows))]
    assert all(len(row) == 7 and all(row) for row in rows[1:])
    named = [re.fullmatch(r"`(tests/[\w/]+\.py)::(\w+)(?:\[([\w-]+)\])?`", row[5]) for row in rows[1:]]
    assert all(named)
    assert len({match.group() for match in named if match}) == len(named) >= 40
    marked = {
        (str(path.relative_to(ROOT)), function.name)
        for path in (ROOT / "tests").rglob("test_*.py")
        for function in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        and any(ast.unparse(mark) == "pytest.mark.attack" for mark in function.decorator_list)
    }
    assert {(match.group(1), match.group(2)) for match in named if match} == marked
    lies = {match.group(3) for match in named if match and match.group(3)}
    assert lies == {kind.name for kind in LIES}
