"""Mutants of clients: reads, settling, writes (protocol 4)."""

from __future__ import annotations

from typing import Any

import msgspec

from quorumcache.core import messages as m
from quorumcache.core import read, refusal, settle, write
from quorumcache.core.commits import CERTIFIED, Commits
from quorumcache.core.coordinator import Coordinator
from quorumcache.core.model import Entry, Malformed, parse_header
from quorumcache.core.outcome import UNAVAILABLE, Failed, Written
from quorumcache.core.queue import WriteQueue
from quorumcache.core.read import ReadBatch
from quorumcache.core.refusal import PendingWrite
from quorumcache.core.settle import Answer, Settle
from quorumcache.core.write import WriteBatch
from sim.mutants.base import Catalogue, Patches

catalogue = Catalogue()
add = catalogue.add


# --- reads ---


@add("4, read 1: 2f+1 equal answers end a read", fast=True)
def _read_f_plus_1_equal(patches: Patches) -> None:
    def make(compare: Any) -> Any:
        def mutant(self: ReadBatch, q: int, now_us: int) -> None:
            compare(self, self._context.configuration.f + 1, now_us)

        return mutant

    patches.wrap(ReadBatch, "_compare", make)


@add("4, read 1: the value is checked against its hash", fast=True)
def _read_value_unchecked(patches: Patches) -> None:
    patches.set(read, "is_value_of", lambda digest, header, salted: len(header) > 95)


@add("4: a read joins another only while that has not been sent", fast=True)
def _join_sent_read(patches: Patches) -> None:
    def make(original: Any) -> Any:
        def mutant(self: Coordinator, slot: bytes, token: Any, *, full: bool = False) -> None:
            for machine in self._routes.values():
                if isinstance(machine, ReadBatch) and not machine.finished and slot in machine._slots:
                    position = machine._slots.index(slot)
                    if machine._states[position] == 0:
                        machine._tokens[position].append(token)
                        return
            original(self, slot, token, full=full)

        return mutant

    patches.wrap(Coordinator, "read", make)


@add("4, read 2: the entry is written back before it is returned", fast=True)
def _no_write_back(patches: Patches) -> None:
    def mutant(self: Settle, position: int, now_us: int) -> None:
        answers = self._answers[position]
        good = settle.good_entries(answers, self._context.configuration.q)
        self._finish(position, good[0][0] if good else None, now_us)

    patches.set(Settle, "_evaluate", mutant)


@add("11, good set: the highest entry of q answers is not enough", features_add=("evict",))
def _highest_of_q(patches: Patches) -> None:
    def mutant(answers: dict[int, Answer], q: int) -> list[tuple[Entry, set[int]]]:
        entries: dict[bytes, tuple[Entry, set[int]]] = {}
        for node, answer in answers.items():
            if answer.entry is not None:
                entries.setdefault(answer.entry.header, (answer.entry, set()))[1].add(node)
        return sorted(entries.values(), key=lambda found: found[0].stamp, reverse=True)[:1]

    patches.set(settle, "good_entries", mutant)


def _taking(patches: Patches, *, verify: bool) -> None:
    def mutant(self: Settle, position: int, node: int, answer: m.FullAnswer, now_us: int) -> None:
        entry = answer.entry
        if entry is not None:
            try:
                if verify:
                    self._context.verifier.check_entry(entry)
                else:
                    parse_header(entry.header)
            except Malformed:
                return
        answers = self._answers[position]
        answers[node] = Answer(entry, answer.floor_us)
        if len(answers) >= self._context.configuration.q:
            if not self._quorum_us:
                self._quorum_us = now_us
                self.deadline_us = min(self.deadline_us, now_us + self._context.configuration.grace_us)
            self._evaluate(position, now_us)

    patches.set(Settle, "_take", mutant)


@add(
    "4, read 2: a claim without a valid certificate is not an answer",
    lies=("forged",),
    byzantine_nodes=1,
    features_add=("contention",),
)
def _trust_uncertified(patches: Patches) -> None:
    _taking(patches, verify=False)


@add(
    "4, read 2: an answer is of the slot that was asked for",
    lies=("forged",),
    byzantine_nodes=1,
    features_add=("contention",),
)
def _any_slot_will_do(patches: Patches) -> None:
    _taking(patches, verify=True)


@add(
    "4, read 1: 2f+1 absent make a miss, not f+1",
    features_drop=(
        "loss",
        "lateness",
        "partition",
        "one_way",
        "crash",
        "wipe",
        "slow",
        "revoke",
        "ambush",
        "evict",
        "expire",
        "far",
    ),
    byzantine_nodes=1,
    lies=("absent", "stale"),
    schemes=("subset",),
    byzantine_writers=1,
)
def _miss_of_f_plus_1(patches: Patches) -> None:
    def make(evaluate: Any) -> Any:
        def mutant(self: Settle, position: int, now_us: int) -> None:
            absent = sum(answer.entry is None for answer in self._answers[position].values())
            if absent > self._context.configuration.f:
                self._finish(position, None, now_us)
            else:
                evaluate(self, position, now_us)

        return mutant

    patches.wrap(Settle, "_evaluate", make)


# --- writes ---


@add(
    "2: values are salted",
    features_add=("contention", "client_crash", "lateness"),
    byzantine_nodes=1,
    lies=("complete",),
)
def _no_salt(patches: Patches) -> None:
    def make(init: Any) -> Any:
        def mutant(self: Coordinator, *arguments: Any, **rest: Any) -> None:
            rest["random_bytes"] = bytes
            init(self, *arguments, **rest)

        return mutant

    patches.wrap(Coordinator, "__init__", make)


@add("2: each client object draws its nonce", features_add=("shared_writer",))
def _same_nonce(patches: Patches) -> None:
    def make(init: Any) -> Any:
        def mutant(self: Coordinator, *arguments: Any, **rest: Any) -> None:
            rest["nonce"] = 1
            init(self, *arguments, **rest)

        return mutant

    patches.wrap(Coordinator, "__init__", make)


@add("4, write 4: q nodes have to answer for a write", fast=True)
def _write_done_at_2f(patches: Patches) -> None:
    def make(take: Any) -> Any:
        def mutant(self: Commits, request_id: int, node: int, reply: m.CommitReply, now_us: int) -> None:
            take(self, request_id, node, reply, now_us)
            part = self._commits.get(request_id)
            if part is not None and len(part.full) >= 2 * self._context.configuration.f:
                self._complete(request_id, part, range(len(part.positions)))
                self._close_if_done()

        return mutant

    patches.wrap(Commits, "_take_committed", make)


@add("4, write 2: only what a valid certificate proves counts", byzantine_nodes=1, lies=("refuse",))
def _believe_claims(patches: Patches) -> None:
    def make(judge: Any) -> Any:
        def mutant(verifier: Any, slot: bytes, stamp: bytes, refusals: dict[int, m.Refusal], granted: int) -> Any:
            judgement = judge(verifier, slot, stamp, refusals, granted)
            claimed = [r.proof.header[3:51] for r in refusals.values() if r.code == m.STALE and r.proof is not None]
            return msgspec.structs.replace(judgement, proved=claimed)

        return mutant

    patches.wrap(write, "judge", make)


@add("4, write 2: the (f+1)-th highest claimed floor, not the highest", byzantine_nodes=1, lies=("refuse",))
def _believe_highest_floor(patches: Patches) -> None:
    patches.set(refusal, "nth_highest", lambda values, n: max(values, default=None))


@add("11, grace in prepare", byzantine_nodes=1, lies=("silent",), features_add=("contention",))
def _no_grace_in_prepare(patches: Patches) -> None:
    def make(evaluate: Any) -> Any:
        def mutant(self: WriteBatch, now_us: int) -> None:
            if self._quorum_us:
                self._quorum_us = now_us
            evaluate(self, now_us)

        return mutant

    patches.wrap(WriteBatch, "_evaluate", make)


@add(
    "4, write 3: an overtaken write completes what overtook it",
    features_add=("contention", "client_crash", "loss", "far"),
    schemes=("subset", "lurk", "edge"),
    byzantine_writers=2,
    byzantine_nodes=1,
)
def _overtaken_does_not_complete(patches: Patches) -> None:
    def mutant(self: WriteBatch, pending: PendingWrite, stamp: bytes, above: bytes, now_us: int, *_: Any) -> None:
        self._context.finish_write(pending, Written(stamp, overtaken=True))
        self._close_if_done()

    patches.set(WriteBatch, "_overtaken", mutant)


@add("4, write 3: only what was not complete when the write began may overtake it")
def _overtaken_at_once(patches: Patches) -> None:
    def make(refused: Any) -> Any:
        def mutant(self: WriteBatch, i: int, may_wait: bool, now_us: int) -> None:
            pending = self._writes[i]
            if pending.attempt == 1:
                pending.attempt = 2
                pending.first_bound_us = 0
            refused(self, i, may_wait, now_us)

        return mutant

    patches.wrap(WriteBatch, "_refused", make)


@add("1: only answers within op_time count")
def _op_time_ignored(patches: Patches) -> None:
    def make(init: Any) -> Any:
        def mutant(self: WriteBatch, context: Any, group: Any, writes: list[PendingWrite], now_us: int) -> None:
            for pending in writes:
                pending.deadline_us = pending.deadline_us or now_us + 20 * context.configuration.op_time_us
            init(self, context, group, writes, now_us)

        return mutant

    patches.wrap(WriteBatch, "__init__", make)


@add("4, write 2: a write that was refused prepares again", features_add=("contention",))
def _refused_is_final(patches: Patches) -> None:
    def mutant(self: WriteQueue, pending: PendingWrite, not_before_us: int, now_us: int) -> None:
        self.finish_write(pending, Failed(UNAVAILABLE, "refused"))

    patches.set(WriteQueue, "retry", mutant)


@add("4: a refused write prepares again with another batch, committed or not")
def _propose_again_after_commit(patches: Patches) -> None:
    def make(take: Any) -> Any:
        def mutant(self: Commits, request_id: int, node: int, reply: m.CommitReply, now_us: int) -> None:
            take(self, request_id, node, reply, now_us)
            part = self._commits.get(request_id)
            if part is not None and m.EVICTED in reply.codes:
                for place, i in enumerate(part.positions):
                    if reply.codes[place : place + 1] == bytes([m.EVICTED]) and self._states[i] == CERTIFIED:
                        self._leave(i)
                        self._writes[i].time_min_us = 0
                        self._context.retry(self._writes[i], now_us, now_us)
                self._close_if_done()

        return mutant

    patches.wrap(Commits, "_take_committed", make)
