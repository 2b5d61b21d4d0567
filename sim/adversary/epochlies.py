"""Lies about epochs (protocol 9): to those that follow, to administrators and to members that join.

Powers: what was signed and sealed so far, cut or mixed as it pleases; signatures with the adversary's own keys; and
what it makes up. Lies that are told by not doing something (two_epochs, never_seals) are in moving.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from quorumcache.core import messages as m
from quorumcache.core.config_model import CONFIGURATION_TAG
from quorumcache.core.epochmessages import Shown, Signed, signed_of
from quorumcache.core.seals import Seal, seal_string

if TYPE_CHECKING:
    from sim.adversary.nodes import ByzantineNode

_BEFORE_MAX: Final = 4


def _seals(node: ByzantineNode, successor: bytes) -> list[Seal]:
    """Seals as good as it can make them: its own, as often as it likes, and others that nobody signed."""
    draw = node.draw
    own = Seal(node.key.public, node.key.sign(seal_string(node.configuration.digest, successor)))
    forged = [Seal(info.key, draw.randbytes(64)) for info in node.configuration.nodes if info.key != own.node]
    return draw.choice(([], [own], [own] * len(node.configuration.nodes), [own, *forged]))


def _unsealed_step(node: ByzantineNode, source: int, request: m.Request, honest: m.Reply) -> m.Reply | None:
    """Shows a successor that administrators signed as if the cluster had moved there, with few seals or forged ones."""
    heard = node.conspiracy.successors.get(node.configuration.digest)
    if not isinstance(request, m.Follow) or heard is None:
        return honest
    step = Shown(signed_of(heard), _seals(node, heard.configuration.digest))
    return m.FollowReply(request.id, honest.clock_us, [step], None, [])


def _made_up_epoch(node: ByzantineNode, source: int, request: m.Request, honest: m.Reply) -> m.Reply | None:
    """Shows a successor that no administrator signed: in their name, or signed with its own key."""
    if not isinstance(request, m.Follow):
        return honest
    draw = node.draw
    document = draw.choice((draw.randbytes(40), b"{}", b"[" * 200, b'{"epoch": 2}'))
    message = CONFIGURATION_TAG + document
    signer = draw.choice((node.configuration.admins[0], node.key.public))
    signed = Signed(document, ((signer, draw.choice((draw.randbytes(64), node.key.sign(message)))),))
    step = Shown(signed, _seals(node, draw.randbytes(32)))
    steps, sealed = ([step], None) if draw.random() < 0.5 else ([], step)
    return m.FollowReply(request.id, honest.clock_us, steps, sealed, [])


def _old_steps(node: ByzantineNode, source: int, request: m.Request, honest: m.Reply) -> m.Reply | None:
    """Shows fewer steps than there are, or none, as if nothing had happened."""
    if not isinstance(honest, m.FollowReply):
        return honest
    steps = honest.steps[: node.draw.choice((0, 0, 1))]
    return m.FollowReply(request.id, honest.clock_us, steps, None, [])


def _false_history(node: ByzantineNode, source: int, request: m.Request, honest: m.Reply) -> m.Reply | None:
    """Makes up what came before, or tells it in another order."""
    if not isinstance(honest, m.FollowReply):
        return honest
    draw = node.draw
    before = draw.choice((honest.before[::-1], honest.before[1:], [draw.randbytes(60)] * _BEFORE_MAX, [b"{}"]))
    steps = draw.choice((honest.steps, honest.steps[::-1], honest.steps[1:]))
    return m.FollowReply(request.id, honest.clock_us, steps, honest.sealed, before)


def _false_seals(node: ByzantineNode, source: int, request: m.Request, honest: m.Reply) -> m.Reply | None:
    """Says that the next epoch has begun, with few seals or forged ones."""
    if not isinstance(request, m.SealEpoch):
        return honest
    heard = node.conspiracy.successors.get(node.configuration.digest)
    successor = node.draw.randbytes(32) if heard is None else heard.configuration.digest
    return m.SealReply(request.id, honest.clock_us, _seals(node, successor), node.draw.random() < 0.7)


def _says_sealed(node: ByzantineNode, source: int, request: m.Request, honest: m.Reply) -> m.Reply | None:
    """Says that the epoch has ended, to whoever wants anything of it."""
    if isinstance(request, (m.Read, m.ReadFull, m.Prepare, m.Commit, m.Report)):
        return m.Reject(request.id, honest.clock_us, m.SEALED, "so it says")
    return honest


def _empty_report(node: ByzantineNode, source: int, request: m.Request, honest: m.Reply) -> m.Reply | None:
    """Tells members that join or recover that there is nothing, and never was."""
    if isinstance(request, m.Report):
        return m.ReportReply(request.id, honest.clock_us, 0, [], False)
    return honest


def _old_report(node: ByzantineNode, source: int, request: m.Request, honest: m.Reply) -> m.Reply | None:
    """Tells members that join or recover what is long over, with its valid certificates."""
    if not isinstance(request, m.Report):
        return honest
    known = node.conspiracy.entries
    here = [
        slot
        for slot in sorted(known)
        if known[slot] and slot > request.after and node.configuration.shard_of(slot) == request.shard
    ]
    return m.ReportReply(request.id, honest.clock_us, 0, [known[slot][0] for slot in here], False)


def _honest(node: ByzantineNode, source: int, request: m.Request, honest: m.Reply) -> m.Reply | None:
    """Tells the truth; what makes it Byzantine is elsewhere."""
    return honest


EPOCH_LIES: Final[dict[str, Callable[[ByzantineNode, int, m.Request, m.Reply], m.Reply | None]]] = {
    "unsealed_step": _unsealed_step,
    "made_up_epoch": _made_up_epoch,
    "old_steps": _old_steps,
    "false_history": _false_history,
    "false_seals": _false_seals,
    "says_sealed": _says_sealed,
    "empty_report": _empty_report,
    "old_report": _old_report,
    "two_epochs": _honest,
    "never_seals": _honest,
}
