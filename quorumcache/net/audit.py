"""Ask the nodes of a cluster for proofs of misbehaviour, verify them, and look for more (protocol 16).

What a node says counts for nothing here unless it convicts somebody. Knows sessions; must not know how findings are
shown or kept.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from quorumcache.core import merkle
from quorumcache.core import messages as m
from quorumcache.core.certificate import Verifier, grant_string
from quorumcache.core.config import Configuration
from quorumcache.core.evidence import (
    CHALLENGE_BYTES,
    DoubleGrant,
    Equivocation,
    GrantedHeader,
    Proof,
    Retraction,
    SignedHeader,
    Verdict,
    Witnessed,
    challenge_after,
    check_witnessed,
    proves,
)
from quorumcache.core.model import Malformed, digest_of, parse_header
from quorumcache.net.peers import Peers
from quorumcache.wire.keys import SigningKey, verify

#: Pages that are read of one node's proofs, writers that are probed, times each is probed.
PAGES_MAX: Final = 100
PROBES_MAX: Final = 100
PROBE_ROUNDS: Final = 4
WITNESSED_MAX: Final = 10_000


@dataclass(slots=True)
class Findings:
    """What an audit found: `proofs`, one for each key convicted, with its verdict; `silent` nodes, which did not answer
    (in time, or at all); and `troubles` in words: what proves nothing, but should not be."""

    proofs: list[tuple[Verdict, Proof]] = field(default_factory=list)
    silent: list[int] = field(default_factory=list)
    troubles: list[str] = field(default_factory=list)


#: (node, slot) -> what the node signed last.
Memory = dict[tuple[int, bytes], Witnessed]


class Auditor:
    """One audit of a cluster under the key of a writer or node of it, or as a stranger (None).

    `memory` has the signed answers of earlier audits, and takes those of this one: nodes are held to them.
    """

    def __init__(
        self, configuration: Configuration, key: SigningKey | None, *, timeout_s: float, memory: Memory | None = None
    ) -> None:
        self.findings = Findings()
        self.memory: Memory = {} if memory is None else memory
        self._configuration = configuration
        self._verifier = Verifier(verify, [configuration])
        self._peers = Peers(configuration, range(len(configuration.nodes)), key)
        self._timeout_s = timeout_s
        self._next_id = int.from_bytes(os.urandom(7), "big")
        self._answers: dict[tuple[int, int], m.AnyReply] = {}
        self._accused: set[bytes] = set()
        self._troubled: set[str] = set()

    async def run(self, slots: Sequence[bytes] = (), *, probe: bool = False) -> Findings:
        """Collect what nodes can prove; with `probe`, ask them for what a convicted writer would have them promise; and
        have them sign what they hold in these slots, twice."""
        nodes = range(len(self._configuration.nodes))
        self._peers.on_reply = self._heard
        async with self._peers as peers:
            await peers.up(len(nodes), wait_s_max=self._timeout_s)
            await self._collect(nodes)
            if probe:
                await self._probe()
            for _ in range(2):
                for slot in slots:
                    await self._witness(slot)
        return self.findings

    def _heard(self, node: int, reply: m.AnyReply) -> None:
        self._answers[node, reply.id] = reply

    async def _ask(self, requests: dict[int, m.Request]) -> dict[int, m.AnyReply]:
        """Each node's answer to its request, from those that answer in time."""
        self._answers.clear()
        self._peers.send(((node,), request) for node, request in requests.items())
        loop = asyncio.get_running_loop()
        end_s = loop.time() + self._timeout_s
        wanted = {(node, request.id) for node, request in requests.items()}
        while not wanted <= self._answers.keys() and (left_s := end_s - loop.time()) > 0:
            await self._peers.heard(left_s)
        return {node: self._answers[node, id_] for node, id_ in wanted if (node, id_) in self._answers}

    def _id(self) -> int:
        self._next_id += 1
        return self._next_id

    def _keep(self, proof: Proof, source: str) -> None:
        try:
            verdict = proves(proof, self._verifier)
        except Malformed as fault:
            self._trouble(f"{source} handed out a proof that proves nothing: {fault}")
            return
        if verdict.key not in self._accused:
            self._accused.add(verdict.key)
            self.findings.proofs.append((verdict, proof))

    def _trouble(self, text: str) -> None:
        if text not in self._troubled and len(self._troubled) < 1000:
            self._troubled.add(text)
            self.findings.troubles.append(text)

    async def _collect(self, nodes: Iterable[int]) -> None:
        digest = self._configuration.digest
        first = dict.fromkeys(nodes, 0)
        for page in range(PAGES_MAX):
            answers = await self._ask({n: m.Evidence(self._id(), digest, at) for n, at in first.items()})
            if not page:
                self.findings.silent = sorted(n for n in first if n not in answers)
            then = {}
            for node, reply in sorted(answers.items()):
                name = self._configuration.nodes[node].name
                if not isinstance(reply, m.EvidenceReply):
                    self._trouble(f"{name} answered with a {type(reply).__name__}, not with what it can prove")
                    continue
                for proof in reply.proofs:
                    self._keep(proof, name)
                if reply.next > first[node]:
                    then[node] = reply.next
            first = then
            if not first:
                return

    # --- what convicted writers would have nodes promise ---

    async def _probe(self) -> None:
        """Show each node both of the headers that convict a writer: a correct one promises one of them at most."""
        proofs = [proof for _, proof in self.findings.proofs if isinstance(proof, Equivocation)]
        for proof in proofs[:PROBES_MAX]:
            if proof.first.count != 1 or proof.second.count != 1:
                continue  # The rest of the batch is not known, so its intent cannot be shown.
            slot = parse_header(proof.first.header).slot
            members = self._configuration.group_of(slot).members
            granted: dict[int, list[GrantedHeader | None]] = {node: [None, None] for node in members}
            for _ in range(PROBE_ROUNDS):
                for which, signed in enumerate((proof.first, proof.second)):
                    await self._probe_with(signed, which, granted)
            for node, (one, other) in granted.items():
                if one is not None and other is not None:
                    info = self._configuration.nodes[node]
                    self._keep(DoubleGrant(self._configuration.digest, info.key, one, other), info.name)

    async def _probe_with(
        self, signed: SignedHeader, which: int, granted: dict[int, list[GrantedHeader | None]]
    ) -> None:
        digest = self._configuration.digest
        writer = parse_header(signed.header).writer
        requests: dict[int, m.Request] = {
            node: m.Prepare(self._id(), digest, signed.group, writer, signed.signature, [signed.header])
            for node, found in granted.items()
            if found[which] is None and node not in self.findings.silent
        }
        if not requests:
            return
        string = grant_string(digest, signed.group, merkle.root_of(digest_of(signed.header)), b"\1")
        for node, reply in (await self._ask(requests)).items():
            key = self._configuration.nodes[node].key
            if (
                isinstance(reply, m.PrepareReply)
                and reply.bitmap == b"\1"
                and self._verifier.is_signed(key, string, reply.signature)
            ):
                granted[node][which] = GrantedHeader(signed.header, signed.group, 1, 0, b"", b"\1", reply.signature)

    # --- what nodes sign of what they hold ---

    async def _witness(self, slot: bytes) -> None:
        configuration = self._configuration
        digest = configuration.digest
        requests: dict[int, m.Request] = {}
        for node in configuration.group_of(slot).members:
            before = self.memory.get((node, slot))
            challenge = os.urandom(CHALLENGE_BYTES) if before is None else challenge_after(digest, before)
            if node not in self.findings.silent:
                requests[node] = m.Witness(self._id(), digest, slot, challenge)
        for node, reply in sorted((await self._ask(requests)).items()):
            info = configuration.nodes[node]
            if not isinstance(reply, m.WitnessReply):
                why = f": {reply.detail}" if isinstance(reply, m.Reject) else ""
                self._trouble(f"{info.name} signed no answer{why}")
                continue
            request = requests[node]
            assert isinstance(request, m.Witness)
            now = Witnessed(
                reply.incarnation,
                request.challenge,
                reply.clock_us,
                reply.floor_us,
                slot,
                reply.header,
                reply.signature,
            )
            try:
                check_witnessed(digest, info.key, now, self._verifier)
            except Malformed as fault:
                self._trouble(f"{info.name} gave an answer that does not hold: {fault}")
                continue
            before = self.memory.get((node, slot))
            if before is not None:
                proof = Retraction(digest, info.key, before, now)
                if _is_proof(proof, self._verifier):
                    self._keep(proof, info.name)
            if before is not None or len(self.memory) < WITNESSED_MAX:
                self.memory[node, slot] = now


def _is_proof(proof: Proof, verifier: Verifier) -> bool:
    try:
        proves(proof, verifier)
    except Malformed:
        return False
    return True
