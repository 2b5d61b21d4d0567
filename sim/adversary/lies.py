"""What Byzantine nodes say instead of the truth. Each lie is a function with its power declared in its docstring.

A lie takes the node, who asks, the request and the honest answer, and returns what is answered instead: None for
nothing at all. It must not know which lie is drawn when, or how answers travel.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import msgspec

from quorumcache.core import merkle
from quorumcache.core import messages as m
from quorumcache.core.certificate import grant_string
from quorumcache.core.model import (
    ABSENT,
    PUT,
    Certificate,
    Entry,
    Grant,
    digest_of,
    header_slot,
    header_time,
)
from quorumcache.core.quorum import bitmap_of, full_bitmap
from sim.adversary.conspiracy import header_for
from sim.adversary.roles import SCRIPTED

if TYPE_CHECKING:
    from sim.adversary.nodes import ByzantineNode

Lie = Callable[["ByzantineNode", int, m.Request, m.Reply], m.Reply | None]
_FAR_US: Final = 1 << 61


# --- lies about anything ---------------------------------------------------------------------------------------------


def _silent(node: ByzantineNode, source: int, request: m.Request, honest: m.Reply) -> m.Reply | None:
    """Says nothing."""
    return None


def _slow(node: ByzantineNode, source: int, request: m.Request, honest: m.Reply) -> m.Reply | None:
    """Answers truthfully, as it was then, but late: by up to two op_time."""
    node.late_us = node.draw.randrange(2 * node.configuration.op_time_us)
    return honest


def _selective(node: ByzantineNode, source: int, request: m.Request, honest: m.Reply) -> m.Reply | None:
    """Serves some clients only."""
    return None if source in node.victims else honest


def _replay(node: ByzantineNode, source: int, request: m.Request, honest: m.Reply) -> m.Reply | None:
    """Says again what it once said to somebody, under its old id or this one."""
    said = node.said.get(type(honest))
    if not said:
        return honest
    old = node.draw.choice(said)
    return msgspec.structs.replace(old, id=request.id) if node.draw.random() < 0.7 else old


def _clock(node: ByzantineNode, source: int, request: m.Request, honest: m.Reply) -> m.Reply | None:
    """Shows a clock that is off by up to an hour, or by a little."""
    skew_us = node.configuration.max_skew_us
    off_us = node.draw.choice((-3_600_000_000, -2 * skew_us, 2 * skew_us, 3_600_000_000))
    return msgspec.structs.replace(honest, clock_us=max(0, node.world.now_us + off_us))


def _reject(node: ByzantineNode, source: int, request: m.Request, honest: m.Reply) -> m.Reply | None:
    """Rejects what is right."""
    return m.Reject(request.id, honest.clock_us, node.draw.choice(list(m.REJECTIONS)), "so it says")


def _nonsense(node: ByzantineNode, source: int, request: m.Request, honest: m.Reply) -> m.Reply | None:
    """Answers of the wrong kind, or with lists of the wrong length."""
    if isinstance(honest, m.ReadReply):
        return m.ReadReply(request.id, honest.clock_us, honest.digests[:-1], [])
    if isinstance(honest, m.CommitReply):
        return m.CommitReply(request.id, honest.clock_us, honest.codes * 2, [])
    if isinstance(honest, m.ReadFullReply):
        return m.ReadFullReply(request.id, honest.clock_us, [])
    return m.Pong(request.id, honest.clock_us)


# --- lies to readers --------------------------------------------------------------------------------------------------


def _older(node: ByzantineNode, slot: bytes) -> Entry | None:
    known = node.conspiracy.entries.get(slot)
    return node.draw.choice(known) if known else None


def _stale(node: ByzantineNode, source: int, request: m.Request, honest: m.Reply) -> m.Reply | None:
    """Shows an older entry, with its valid certificate; to a node that recovers, too."""
    if isinstance(request, m.Read):
        digests, values = [], []
        for i, slot in enumerate(request.slots):
            entry = _older(node, slot)
            digests.append(ABSENT if entry is None else digest_of(entry.header))
            if request.values_from <= i < request.values_to:
                values += [b"", b""] if entry is None else [entry.header, entry.salted]
        return m.ReadReply(request.id, honest.clock_us, b"".join(digests), values)
    if isinstance(request, m.ReadFull):
        answers = [m.FullAnswer(_older(node, slot), _floor(node)) for slot in request.slots]
        return m.ReadFullReply(request.id, honest.clock_us, answers)
    if isinstance(request, m.Report):
        found = {}
        for slot in sorted(node.conspiracy.entries):
            if slot > request.after and node.configuration.shard_of(slot) == request.shard:
                entry = _older(node, slot)
                if entry is not None and node.draw.random() < 0.8:
                    found[slot] = entry
        return m.ReportReply(request.id, honest.clock_us, _floor(node), list(found.values()), False)
    return honest


def _split(node: ByzantineNode, source: int, request: m.Request, honest: m.Reply) -> m.Reply | None:
    """Tells some readers the truth and others what is old."""
    return _stale(node, source, request, honest) if source in node.victims else honest


def _floor(node: ByzantineNode) -> int:
    now_us = node.world.now_us
    skew_us = node.configuration.max_skew_us
    return node.draw.choice((0, 0, now_us - 4 * skew_us, now_us, now_us + 3 * skew_us, _FAR_US))


def _absent(node: ByzantineNode, source: int, request: m.Request, honest: m.Reply) -> m.Reply | None:
    """Has nothing, with a floor of zero, of now, or of the far future."""
    if isinstance(request, m.Read):
        count = len(request.slots)
        wanted = max(0, min(request.values_to, count) - request.values_from)
        return m.ReadReply(request.id, honest.clock_us, ABSENT * count, [b""] * (2 * wanted))
    if isinstance(request, m.ReadFull):
        floor_us = _floor(node)
        return m.ReadFullReply(request.id, honest.clock_us, [m.FullAnswer(None, floor_us) for _ in request.slots])
    if isinstance(request, m.Report):
        return m.ReportReply(request.id, honest.clock_us, _floor(node), [], False)
    return honest


def made_up(node: ByzantineNode, slot: bytes) -> Entry:
    """An entry that nobody certified: some known certificate, a new header, a value of its own making."""
    if node.direct is not None and node.configuration.is_primary(slot):
        return node.direct.made_up(slot)
    draw = node.draw
    known = node.conspiracy.entries.get(slot)
    base = (known[-1] if draw.random() < 0.5 else draw.choice(known)) if known else None
    salted = draw.randbytes(16) + b"forged %d" % draw.getrandbits(30)
    writer = base.certificate.writer if base is not None else node.configuration.writers[0].key
    time_us = node.world.now_us + draw.choice((0, 0, 0, 3_600_000_000))
    header = header_for(slot, time_us, writer, draw.getrandbits(64), PUT, salted)
    if base is None:
        group = node.configuration.group_of(slot)
        grants = tuple(Grant(i, b"\x01", draw.randbytes(64)) for i in group.members[: node.configuration.q])
        certificate = Certificate(
            node.configuration.digest, group.id, digest_of(header), 1, writer, draw.randbytes(64), grants
        )
        return Entry(header, salted, certificate, 0, b"")
    choice = draw.randrange(4)
    if choice == 0:
        foreign = [e for s, e in node.conspiracy.entries.items() if s != slot]
        if foreign and draw.random() < 0.5:
            return foreign[0][-1]  # Valid, and of another slot.
        return Entry(header, salted, base.certificate, base.position, base.path)
    if choice == 1:
        return Entry(base.header, salted, base.certificate, base.position, base.path)
    certificate = base.certificate
    if choice == 2:
        # Garbage in place of one grant's signature; everything else is as it should be.
        spoiled = draw.randrange(len(certificate.grants))
        grants = tuple(
            Grant(g.node, g.bitmap, draw.randbytes(64)) if i == spoiled else g for i, g in enumerate(certificate.grants)
        )
        certificate = msgspec.structs.replace(certificate, grants=grants)
        return Entry(base.header, base.salted, certificate, base.position, base.path)
    # A certificate of its own alone, under the writer's real intent: its own grant, as often as it takes.
    own = [g for g in certificate.grants if g.node == node.index] or list(certificate.grants[:1])
    certificate = msgspec.structs.replace(certificate, grants=tuple(own * node.configuration.q))
    return Entry(base.header, base.salted, certificate, base.position, base.path)


def _forged(node: ByzantineNode, source: int, request: m.Request, honest: m.Reply) -> m.Reply | None:
    """Shows entries that nobody certified, and digests that nobody signed."""
    if isinstance(request, m.Read):
        digests, values = [], []
        for i, slot in enumerate(request.slots):
            entry = made_up(node, slot)
            digests.append(digest_of(entry.header) if node.draw.random() < 0.7 else node.draw.randbytes(32))
            if request.values_from <= i < request.values_to:
                values += [entry.header, entry.salted]
        if node.draw.random() < 0.5 and isinstance(honest, m.ReadReply):
            # The right digests with a wrong value.
            return m.ReadReply(request.id, honest.clock_us, honest.digests, values)
        return m.ReadReply(request.id, honest.clock_us, b"".join(digests), values)
    if isinstance(request, m.ReadFull):
        answers = [m.FullAnswer(made_up(node, slot), 0) for slot in request.slots]
        return m.ReadFullReply(request.id, honest.clock_us, answers)
    if isinstance(request, m.Report):
        slots = [s for s in sorted(node.conspiracy.entries) if s > request.after]
        entries = [made_up(node, s) for s in slots if node.configuration.shard_of(s) == request.shard]
        return m.ReportReply(request.id, honest.clock_us, 0, entries, False)
    return honest


def _withhold(node: ByzantineNode, source: int, request: m.Request, honest: m.Reply) -> m.Reply | None:
    """Names the right digests and withholds the values."""
    if isinstance(honest, m.ReadReply):
        return m.ReadReply(request.id, honest.clock_us, honest.digests, [b""] * len(honest.values))
    return honest


# --- lies to writers --------------------------------------------------------------------------------------------------


def _grant_all(node: ByzantineNode, source: int, request: m.Request, honest: m.Reply) -> m.Reply | None:
    """Grants everything to everyone: two headers under one stamp, what is below its floor, what is ahead."""
    if not isinstance(request, m.Prepare):
        return honest
    count = len(request.headers)
    root = merkle.root_of(b"".join(digest_of(header) for header in request.headers))
    bitmap = full_bitmap(count)
    message = grant_string(request.configuration, request.group, root, bitmap)
    return m.PrepareReply(request.id, honest.clock_us, bitmap, node.key.sign(message), [])


def _refuse(node: ByzantineNode, source: int, request: m.Request, honest: m.Reply) -> m.Reply | None:
    """Refuses with any reason: proofs that prove nothing, floors of the far future, clocks of the past."""
    if not isinstance(request, m.Prepare):
        return honest
    refusals = []
    for position, header in enumerate(request.headers):
        code = node.draw.choice(list(m.REFUSALS))
        proof = None
        if code == m.STALE:
            slot = header_slot(header)
            proof = _older(node, slot) if node.draw.random() < 0.5 else made_up(node, slot)
        time_us = _floor(node) if node.draw.random() < 0.5 else header_time(header) + node.draw.randrange(1000)
        refusals.append(m.Refusal(position, code, time_us, proof, "so it says"))
    bitmap = bitmap_of([], len(request.headers))
    return m.PrepareReply(request.id, honest.clock_us, bitmap, b"", refusals)


def _bad_grant(node: ByzantineNode, source: int, request: m.Request, honest: m.Reply) -> m.Reply | None:
    """Grants with a signature over nothing, or over another bitmap, or with a bitmap of the wrong form."""
    if not isinstance(request, m.Prepare):
        return honest
    count = len(request.headers)
    bitmap = node.draw.choice((full_bitmap(count), b"\xff" * len(full_bitmap(count)), b"", b"\x01\x00"))
    signature = node.draw.choice((node.draw.randbytes(64), node.key.sign(b"nothing"), b""))
    return m.PrepareReply(request.id, honest.clock_us, bitmap, signature, [])


def _false_ok(node: ByzantineNode, source: int, request: m.Request, honest: m.Reply) -> m.Reply | None:
    """Says that it stored what it did not, and forgets what it had."""
    if isinstance(request, m.Commit) and isinstance(honest, m.CommitReply):
        for bundle in request.bundles:
            for item in bundle.items:
                slot = node.node.slots.place_of(header_slot(item.header))
                if slot in node.node.slots.current and node.draw.random() < 0.5:
                    node.node.slots.drop(slot)
        return m.CommitReply(request.id, honest.clock_us, bytes([m.OK]) * len(honest.codes), [])
    return honest


def _false_evicted(node: ByzantineNode, source: int, request: m.Request, honest: m.Reply) -> m.Reply | None:
    """Says that it evicted what it never had."""
    if isinstance(honest, m.CommitReply):
        codes = bytes([m.EVICTED]) * len(honest.codes)
        return m.CommitReply(request.id, honest.clock_us, codes, [_floor(node) for _ in codes])
    return honest


def _bad_commit(node: ByzantineNode, source: int, request: m.Request, honest: m.Reply) -> m.Reply | None:
    """Answers commits with REVOKED, RECOVERING, FULL, INVALID or codes that do not exist."""
    if isinstance(honest, m.CommitReply):
        return m.CommitReply(
            request.id, honest.clock_us, bytes(node.draw.choice((2, 3, 4, 5, 77)) for _ in honest.codes), []
        )
    return honest


def _no_commits(node: ByzantineNode, source: int, request: m.Request, honest: m.Reply) -> m.Reply | None:
    """Grants everything, and is deaf to commits."""
    if isinstance(request, m.Commit):
        return None
    return _grant_all(node, source, request, honest)


def _complete(node: ByzantineNode, source: int, request: m.Request, honest: m.Reply) -> m.Reply | None:
    """Refuses what others prepare, gathers the grants for it behind their backs, and commits it once it knows the
    value."""
    if isinstance(request, m.Prepare):
        bitmap = bitmap_of([], len(request.headers))
        refusals = [m.Refusal(i, m.BELOW_FLOOR, header_time(h) + 1) for i, h in enumerate(request.headers)]
        return m.PrepareReply(request.id, honest.clock_us, bitmap, b"", refusals)
    return honest


def _honest(node: ByzantineNode, source: int, request: m.Request, honest: m.Reply) -> m.Reply | None:
    """Tells the truth; what makes it Byzantine is elsewhere."""
    return honest


def _scripted(node: ByzantineNode, source: int, request: m.Request, honest: m.Reply) -> m.Reply | None:
    """Says what its role asks for."""
    return honest if node.role is None else node.role.answer(node, source, request, honest)


#: Not drawn by seeds: only while a drama plays.
ROLES: Final[dict[str, Lie]] = {SCRIPTED: _scripted}

LIES: Final[dict[str, Lie]] = {
    "silent": _silent,
    "slow": _slow,
    "selective": _selective,
    "replay": _replay,
    "clock": _clock,
    "reject": _reject,
    "nonsense": _nonsense,
    "stale": _stale,
    "split": _split,
    "absent": _absent,
    "forged": _forged,
    "withhold": _withhold,
    "grant_all": _grant_all,
    "refuse": _refuse,
    "bad_grant": _bad_grant,
    "false_ok": _false_ok,
    "false_evicted": _false_evicted,
    "bad_commit": _bad_commit,
    "twins": _honest,
    "gossip": _honest,
    "complete": _complete,
    "no_commits": _no_commits,
}


def powers() -> dict[str, str]:
    """What each lie does, in prose."""
    extra: dict[str, Any] = {
        "twins": "Is two nodes with one key: which of them answers depends on who asks.",
        "gossip": "Commits old, valid entries to any node, at any time.",
    }
    return {name: extra.get(name) or (lie.__doc__ or "") for name, lie in LIES.items()}
