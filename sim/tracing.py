"""What messages are about and which answers are lies: noted while a run happens, for those who ask for it.

A seed gives the same run each time, so a run is traced by running it again; runs that nobody looks into pay nothing.
It must not change what happens: the digest of a traced run is that of the run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from quorumcache.core import messages as m
from quorumcache.core.model import header_slot
from sim.adversary import lies as answers
from sim.adversary.epochlies import EPOCH_LIES
from sim.adversary.exact import EXACT_LIES
from sim.adversary.keylies import KEY_LIES
from sim.adversary.nodes import ByzantineNode
from sim.adversary.proofs import PROOF_LIES
from sim.engine import Engine
from sim.results import Run, result_of


class Lie(NamedTuple):
    """A Byzantine node answered other than an honest one would have: when (true microseconds), which node to which
    process, the lie's name, what was asked (the kind and the id of the request), and "changed", "silent" or "late"."""

    time_us: int
    node: int
    target: int
    lie: str
    asked: str
    id: int
    effect: str


class Trace(NamedTuple):
    """`run` again, with `slots` (which slots a request is about, by client and id) and the `lies` in their order."""

    run: Run
    slots: dict[tuple[int, int], frozenset[bytes]]
    lies: list[Lie]


def trace(found: Run) -> Trace:
    """Run it again and look closely. Raises RuntimeError where it does not come out the same: a bug of the simulator,
    or code that changed in between."""
    began = time.perf_counter()
    engine = Engine(found.config, found.seed, found.plan, checkers=found.checkers)
    start_us = engine.now_us
    slots: dict[tuple[int, int], frozenset[bytes]] = {}
    lies: list[Lie] = []
    send = engine.network.send
    clients = {client.address for client in engine.clients}

    def sending(source: int, target: int, message: m.Request | m.Reply, extra_us: int = 0) -> None:
        # Clients' only: an adversary's headers need not be any.
        if source in clients and isinstance(message, m.Request):
            slots[source, message.id] = frozenset(_slots_of(message))
        send(source, target, message, extra_us)

    engine.network.send = sending  # type: ignore[method-assign]
    with _watched(engine, lies):
        engine.run()
    if engine.digest != found.digest:
        raise RuntimeError(
            f"seed {found.seed} came out differently when it was run again ({engine.digest}, not {found.digest})"
        )
    return Trace(result_of(engine, start_us, began, found.checkers), slots, lies)


def _slots_of(message: m.Request) -> Iterable[bytes]:
    if isinstance(message, (m.Read, m.ReadFull)):
        return message.slots
    if isinstance(message, m.Prepare):
        return map(header_slot, message.headers)
    if isinstance(message, m.Commit):
        return (header_slot(item.header) for bundle in message.bundles for item in bundle.items)
    return ()


@contextmanager
def _watched(engine: Engine, lies: list[Lie]) -> Iterator[None]:
    """Note the lies that this engine's nodes tell; other engines' are told as ever."""
    plain = {**answers.LIES, **KEY_LIES, **EXACT_LIES, **PROOF_LIES, **EPOCH_LIES, **answers.ROLES}

    def watching(name: str, lie: answers.Lie) -> Callable[..., m.Reply | None]:
        def told(node: ByzantineNode, source: int, request: m.Request, honest: m.Reply) -> m.Reply | None:
            answer = lie(node, source, request, honest)
            if node.world is engine.world:
                effect = _effect(node, honest, answer)
                if effect:
                    kind = type(request).__name__
                    lies.append(Lie(engine.now_us, node.number, source, name, kind, request.id, effect))
            return answer

        return told

    catalogues: tuple[dict[str, Any], ...] = (answers.LIES, KEY_LIES, EXACT_LIES, PROOF_LIES, EPOCH_LIES, answers.ROLES)
    for known in catalogues:
        known.update({name: watching(name, plain[name]) for name in known})
    try:
        yield
    finally:
        for known in catalogues:
            known.update({name: plain[name] for name in known})


def _effect(node: ByzantineNode, honest: m.Reply, answer: m.Reply | None) -> str:
    if answer is None:
        return "silent"
    if answer is not honest and answer != honest:
        return "changed"
    return "late" if node.late_us else ""
