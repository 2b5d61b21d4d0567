"""A run's operations as JSON lines, for checkers of other people. docs/simulator.md has the format; keep it in step.

It must not know tables or plots, and imports nothing that a plain Python lacks.
"""

from __future__ import annotations

import hashlib
import json
from os import PathLike
from pathlib import Path
from typing import Any, Final

from quorumcache.core.model import slot_parts
from quorumcache.version import VERSION
from sim.record import PENDING, UNKNOWN, Op
from sim.results import Run

FORMAT: Final = "quorumcache-history-1"
#: Values longer than this appear as their digest.
VALUE_BYTES_MAX: Final = 256


def save(found: Run, path: str | PathLike[str]) -> int:
    """Write the history; returns the number of operations. Raises OSError."""
    with Path(path).open("w", encoding="utf-8", newline="\n") as file:
        for row in [head(found), *(line(found, op) for op in found.ops)]:
            file.write(json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n")
    return len(found.ops)


def head(found: Run) -> dict[str, Any]:
    """The first line: what run this is of."""
    return {
        "format": FORMAT,
        "quorumcache": VERSION,
        "seed": found.seed,
        "digest": found.digest,
        "nodes": found.config.nodes,
        "f": found.config.f,
        "byzantine_writers": found.plan.byzantine_writers,
        "operations": len(found.ops),
        "forgotten": found.op_count - len(found.ops),
    }


def line(found: Run, op: Op) -> dict[str, Any]:
    """One operation. An operation without an end may take effect at any time from its start on, or never."""
    namespace, key, field = slot_parts(op.slot)
    ended = op.end_us is not None and op.outcome not in (PENDING, UNKNOWN)
    row: dict[str, Any] = {
        "op": op.id,
        "process": op.client,
        "kind": op.kind,
        "namespace": namespace.decode(),
        "key": key.decode(),
        "field": field.decode(errors="backslashreplace"),
        **_value(op),
        "stamp": op.stamp.hex() or None,
        "start": (op.start_us - found.start_us) * 1000,
        "end": ((op.end_us or 0) - found.start_us) * 1000 if ended else None,
        "outcome": UNKNOWN if op.outcome == PENDING else op.outcome,
    }
    if op.type:
        row["type"] = op.type
        row["generation"] = op.generation.hex() or None
    if op.expires_at_us:
        row["expires"] = (op.expires_at_us - found.start_us) * 1000
    if op.overtaken:
        row["overtaken"] = True
    return row


def _value(op: Op) -> dict[str, str | None]:
    if op.kind == "delete" or (op.kind == "read" and op.outcome != "ok"):
        return {"value": None}
    if len(op.value) <= VALUE_BYTES_MAX:
        try:
            return {"value": op.value.decode()}
        except UnicodeDecodeError:
            pass  # Bytes that are no text appear as their digest.
    return {"digest": hashlib.blake2b(op.value, digest_size=32).hexdigest()}
