"""One node as a state machine: a request and the time go in, a reply comes out (protocol 3 and 7).

`Node.handle(request, now_us)` answers any request; `Node.tick(now_us)` does what time brings. The node must not know
sockets, files or keys: signing and verifying are injected.
"""

from __future__ import annotations

from typing import Final

import msgspec

from quorumcache.core import admission, entropy, exact, feed, fields, listing, merkle, noticing, primary, together
from quorumcache.core import messages as m
from quorumcache.core.ballots import BallotSigner
from quorumcache.core.certificate import (
    Batch,
    Sign,
    Verifier,
    check_value,
    check_value_of,
    grant_string,
    intent_string,
)
from quorumcache.core.config import Configuration, Group
from quorumcache.core.evidence import Proof
from quorumcache.core.model import (
    ABSENT,
    BATCH_COUNT_MAX,
    DELETE,
    PUT,
    Entry,
    Header,
    Malformed,
    digest_of,
    parse_header,
    slot_parts,
)
from quorumcache.core.paging import page_of
from quorumcache.core.quorum import bitmap_of, full_bitmap
from quorumcache.core.rights import DELETE as DELETE_ROLE
from quorumcache.core.rights import WRITE
from quorumcache.core.slots import Held, Promise, Shard, Slots
from quorumcache.core.values import KEPT_BYTES_MAX, Values

_FOR_NODES: Final = (m.Report, m.ShardList, m.ExactReport)
TICK_WORK_MAX: Final = 256
_LEAVES_FORM: Final = "leaves and paths exclude each other"


class NodeLimits(msgspec.Struct, frozen=True):
    """Bounds of one node: bytes of entries in memory, and of headers and values in all where storage keeps the values
    (0: 16 times as many), open promises in all and their bytes, those of one writer on one slot, and
    kept proofs, of which there is one for each writer convicted; and who was denied what, which is counted apart."""

    bytes_max: int = 256 << 20
    stored_bytes_max: int = 0
    promises_max: int = 100_000
    promises_bytes_max: int = 64 << 20
    open_max: int = 4
    evidence_max: int = 1000
    denied_max: int = 1000

    @classmethod
    def within(cls, memory_bytes_max: int, stored_bytes_max: int = 0) -> NodeLimits:
        """The usual limits for a node that may take so much memory, one MiB at least, for what it holds: an eighth of
        it, 64 MiB at most, for promises."""
        promises_bytes_max = min(memory_bytes_max // 8, 64 << 20)
        return cls(
            bytes_max=memory_bytes_max - promises_bytes_max,
            promises_bytes_max=promises_bytes_max,
            stored_bytes_max=stored_bytes_max,
        )


class Node:
    """One node of a cluster.

    `index` is its place in `configuration.nodes`; `sign` signs with its key. A node that starts without stored state
    passes `started_us`: its floors begin at that time + 2 max_skew and its shards are recovering (protocol 7).
    `started_us=None` is for state that was kept: the caller fills `slots` before the first request. `incarnation` (16
    random bytes) names this start in answers that the node signs; without one it signs none. `ballots` signs votes
    and grants; a driver that gives one may have them signed together.
    """

    def __init__(
        self,
        configuration: Configuration,
        index: int,
        sign: Sign,
        verifier: Verifier,
        *,
        started_us: int | None,
        limits: NodeLimits | None = None,
        incarnation: bytes = b"",
        ballots: BallotSigner | None = None,
    ) -> None:
        self.configuration = configuration
        self.index = index
        self.incarnation = incarnation
        self.key = configuration.nodes[index].key
        self.limits = limits or NodeLimits()
        self.verifier = verifier
        self.sign = sign
        self.ballots = ballots or BallotSigner(sign)
        fresh = started_us is not None
        self.slots = Slots(
            configuration,
            floor_us=started_us + 2 * configuration.max_skew_us if started_us is not None else 0,
            recovering=fresh and configuration.n > 1,
            bytes_max=self.limits.bytes_max,
            promises_max=self.limits.promises_max,
            promises_bytes_max=self.limits.promises_bytes_max,
        )
        #: Proofs of others' misbehaviour, one for each key that is convicted.
        self.evidence: list[Proof] = []
        self.accused: set[bytes] = set()
        self.refused_counts: dict[int, int] = dict.fromkeys(m.REFUSALS, 0)
        self.request_counts: dict[str, int] = {}
        self.forwarding = primary.Forwarding(self)
        #: How often whom which right was denied, or a limit held: "name: right" -> count.
        self.denied_counts: dict[str, int] = {}
        self.rights = configuration.rights_table

    def leave_values_to_storage(self, *, kept_bytes_max: int = KEPT_BYTES_MAX) -> None:
        """From now on storage has the values, and memory those that are used: see core/values.py. Before anything is
        in `slots`."""
        stored_bytes_max = self.limits.stored_bytes_max or 16 * self.limits.bytes_max
        self.slots.values = Values(self.slots, stored_bytes_max, kept_bytes_max)

    # --- the one door ---

    def handle(self, request: m.Request, now_us: int, client: bytes | None = None) -> m.Reply:
        """Answer one request. Never raises for what a peer sent: a malformed or wrongful request gets a Reject.

        `client` is the key that whoever asks has proven, empty for a stranger; None where the caller vouches for it.
        """
        kind = type(request)
        name = kind.__name__
        self.request_counts[name] = self.request_counts.get(name, 0) + 1
        if request.configuration != self.configuration.digest:
            return m.Reject(
                request.id,
                now_us,
                m.WRONG_CONFIGURATION,
                f"this node works under epoch {self.configuration.epoch} of cluster "
                f"{self.configuration.cluster_id}, configuration {self.configuration.digest.hex()[:16]}; "
                f"the request names {request.configuration.hex()[:16]}: fetch the current configuration",
            )
        try:
            if client is not None and (kind in _FOR_NODES or not self.rights.reading_is_open):
                denial = admission.reading_denial(self, request, client)
                if denial:
                    return m.Reject(request.id, now_us, m.NOT_ALLOWED, denial)
            if kind is m.Read:
                return self._read(request, now_us)  # type: ignore[arg-type]
            if kind is m.Prepare:
                return self._prepare(request, now_us)  # type: ignore[arg-type]
            if kind is m.Commit:
                return self._commit(request, now_us)  # type: ignore[arg-type]
            if kind is m.ReadFull:
                return self._read_full(request, now_us)  # type: ignore[arg-type]
            if kind is m.Report:
                return self._report(request, now_us)  # type: ignore[arg-type]
            if kind is m.Ping:
                return m.Pong(request.id, now_us)
            if kind is m.Outline:
                return fields.outline(self, request, now_us)  # type: ignore[arg-type]
            if kind is m.Fields:
                return fields.fields(self, request, now_us)  # type: ignore[arg-type]
            if kind is m.ShardSums:
                return entropy.sums(self, request, now_us)  # type: ignore[arg-type]
            if kind is m.ShardList:
                return entropy.names(self, request, now_us)  # type: ignore[arg-type]
            if kind is m.Scan:
                return listing.scan(self, request, now_us)  # type: ignore[arg-type]
            if kind is m.Evidence:
                return noticing.evidence(self, request, now_us, client)  # type: ignore[arg-type]
            if kind is m.Witness:
                return noticing.witness(self, request, now_us)  # type: ignore[arg-type]
            if kind is m.Put:
                return primary.put(self, request, now_us)  # type: ignore[arg-type]
            if kind is m.Get:
                return primary.get(self, request, now_us)  # type: ignore[arg-type]
            if kind is m.Forward:
                return primary.forward(self, request, now_us)  # type: ignore[arg-type]
            if kind is m.Vote:
                return exact.vote(self, request, now_us, client)  # type: ignore[arg-type]
            if kind is m.Lock:
                return exact.lock(self, request, now_us, client)  # type: ignore[arg-type]
            if kind is m.ExactReport:
                return exact.report(self, request, now_us)  # type: ignore[arg-type]
            if kind is m.Changes:
                return feed.changes(self, request, now_us)  # type: ignore[arg-type]
        except Malformed as fault:
            return m.Reject(request.id, now_us, m.BAD_FORM, str(fault))
        return m.Reject(request.id, now_us, m.BAD_FORM, f"no node answers a {name}")

    def tick(self, now_us: int) -> None:
        """What time brings: promises that aged out, expired entries, tombstones. A bounded amount of work a call."""
        self.slots.drop_old_promises(now_us, TICK_WORK_MAX)
        self.slots.reap(now_us, TICK_WORK_MAX)
        if self.slots.instances is not None:
            self.slots.instances.tick(now_us, TICK_WORK_MAX)

    # --- rights ---

    def denied(self, key: bytes, what: str) -> None:
        """Count what was denied to whom."""
        who = f"{self.rights.name_of(key)}: {what}"
        if who in self.denied_counts or len(self.denied_counts) < self.limits.denied_max:
            self.denied_counts[who] = self.denied_counts.get(who, 0) + 1

    # --- prepare ---

    def _prepare(self, request: m.Prepare, now_us: int) -> m.Reply:
        group, count = self.group_asked(request), len(request.headers)
        headers = self.headers_asked(request, group, 0, count)
        leaves, root = self.batch_asked(request, group, headers)
        if not root:
            return m.Reject(request.id, now_us, m.BAD_SIGNATURE, "the intent is not signed by the writer it names")
        refusals: list[m.Refusal] = []
        self.promise(request, group, headers, leaves, 0, now_us, refusals)
        return self.granted(request, group, root, refusals, now_us)

    # In these parts, in this order, so that what is large can be worked on in pieces: see cutting.py.

    def group_asked(self, request: m.Prepare) -> Group:
        """The group that a batch names. Raises Malformed."""
        group = self.configuration.groups.get(request.group)
        if group is None or self.index not in group.members:
            raise Malformed("this node does not serve the group that the batch names")
        if not 1 <= len(request.headers) <= BATCH_COUNT_MAX:
            raise Malformed("a batch has 1 to 1024 headers")
        return group

    def headers_asked(self, request: m.Prepare, group: Group, begin: int, end: int) -> list[Header]:
        """Some of a batch's headers, parsed, and each checked by itself. Raises Malformed."""
        configuration, writer = self.configuration, request.writer
        headers = [parse_header(raw) for raw in request.headers[begin:end]]
        for header in headers:
            if header.writer != writer:
                raise Malformed("a header's writer is not the intent's signer")
            if configuration.group_of(header.slot) is not group:
                raise Malformed("a header's slot does not belong to the group that the batch names")
        return headers

    def batch_asked(self, request: m.Prepare, group: Group, headers: list[Header]) -> tuple[bytes, bytes]:
        """The leaves and the root of a batch, which is empty where its writer did not sign it. Raises Malformed."""
        if len({header.slot for header in headers}) != len(headers):
            raise Malformed("a slot occurs twice in the batch")
        leaves = b"".join([header.digest for header in headers])
        root = merkle.root_of(leaves)
        message = intent_string(self.configuration.digest, group.id, root)
        return leaves, root if self.verifier.is_signed(request.writer, message, request.signature) else b""

    def promise(
        self,
        request: m.Prepare,
        group: Group,
        headers: list[Header],
        leaves: bytes,
        begin: int,
        now_us: int,
        refusals: list[m.Refusal],
    ) -> None:
        """Promise these headers, the first of which is the batch's at `begin`, or add why not to the refusals."""
        configuration, writer = self.configuration, request.writer
        proof_bytes = sum(_proof_cost(each.proof) for each in refusals if each.proof is not None)
        slots = self.slots
        current, open_ = slots.current, slots.open
        ahead_us = now_us + configuration.max_skew_us
        is_roomy, easy = admission.has_room_for_all(slots, headers), list[Promise]()
        namespace, size_max, key_at = b"", -1, 0
        for position, header in enumerate(headers, begin):
            slot = header.slot
            held = current.get(slot)
            if header.namespace != namespace:
                namespace = header.namespace
                size_max, key_at = admission.plain_size_max(self, writer, namespace), 3 + len(namespace)
            promise = Promise(header, now_us, group.id, request.signature, leaves, position)
            # The common case in one glance: a put of a plain key, with neither metadata nor a field, that its namespace
            # lets pass. Anything else goes through the rules one by one.
            is_easy = (
                is_roomy
                and header.size <= size_max
                and header.kind == PUT
                and not header.metadata
                and len(slot) == key_at + 2 + (slot[key_at - 2] << 8 | slot[key_at - 1])
            )
            if not is_easy:
                together.promise_all(slots, easy)
                easy.clear()
            if (
                slot in open_
                or (held is not None and header.stamp <= held.stamp)
                or not (is_easy or admission.lets_in(self, header, held, now_us))
                # Last, for making room, for this header or one before it, may have raised floors.
                or not slots.floor_max_us < header.time_us <= ahead_us
            ):
                together.promise_all(slots, easy)
                easy.clear()
                refusal = self._refusal(promise, now_us)
                if refusal is not None:
                    if refusal.proof is not None:
                        proof_bytes += _proof_cost(refusal.proof)
                        if proof_bytes > m.REPLY_VALUES_BYTES_MAX:
                            refusal.proof = None
                    self.refused_counts[refusal.code] += 1
                    if refusal.code == m.DENIED:
                        self.denied(writer, DELETE_ROLE if header.kind == DELETE else WRITE)
                    refusals.append(refusal)
                    continue
                if self._is_promised(header):
                    continue
            elif is_easy:
                easy.append(promise)
                continue
            slots.add_promise(promise)
            if slots.allowances is not None:
                slots.allowances.granted(header, now_us)
        together.promise_all(slots, easy)

    def granted(
        self, request: m.Prepare, group: Group, root: bytes, refusals: list[m.Refusal], now_us: int
    ) -> m.PrepareReply:
        """The answer to a batch whose headers were promised, but for those refused."""
        configuration, count = self.configuration, len(request.headers)
        if refusals:
            refused = {refusal.position for refusal in refusals}
            bitmap = bitmap_of([i for i in range(count) if i not in refused], count)
            if len(refused) == count:
                return m.PrepareReply(request.id, now_us, bitmap, b"", refusals)
        else:
            bitmap = full_bitmap(count)
        message = grant_string(configuration.digest, group.id, root, bitmap)
        signature = self.sign(message)
        # Its own grants come back in certificates: no need to verify them then.
        self.verifier.remember(self.key, message, signature)
        return m.PrepareReply(request.id, now_us, bitmap, signature, refusals)

    def _is_promised(self, header: Header) -> bool:
        here = self.slots.open.get(header.slot)
        if here is not None and any(p.header.digest == header.digest for p in here):
            return True
        held = self.slots.current.get(header.slot)
        return held is not None and held.digest == header.digest

    def _refusal(self, wanted: Promise, now_us: int) -> m.Refusal | None:
        """The prepare rules of protocol 3 in their order; None where the header is granted."""
        position, header = wanted.position, wanted.header
        denial = admission.denial(self, header, now_us)
        if denial:
            return m.Refusal(position, m.DENIED, 0, None, denial)
        slots = self.slots
        kind = slots.type_of(header.slot)
        if kind is not None:
            refusal = fields.refusal_of(self, kind, wanted, now_us)
            if refusal is not None or self._is_promised(header):
                return refusal
            return admission.refusal_for_room(self, wanted, now_us)
        held = slots.current.get(header.slot)
        if held is not None and header.stamp <= held.stamp:
            if held.digest == header.digest:
                if noticing.has_granted(self, held):
                    return None
            elif header.stamp == held.stamp:
                noticing.accuse_beside(self, held, wanted)
            return m.Refusal(position, m.STALE, 0, held.entry(with_value=False))
        here = slots.open.get(header.slot, ())
        for promise in here:
            if promise.header.stamp == header.stamp:
                if promise.header.digest == header.digest:
                    return None
                noticing.accuse(self, promise, wanted)
                return m.Refusal(position, m.EQUIVOCATION, 0, None, "another header is open under this very stamp")
        shard = slots.shard(header.slot)
        if header.time_us <= shard.floor_us:
            return m.Refusal(position, m.BELOW_FLOOR, shard.floor_us)
        if header.time_us > now_us + self.configuration.max_skew_us:
            return m.Refusal(position, m.AHEAD, now_us)
        return admission.refusal_for_room(self, wanted, now_us)

    # --- commit ---

    def _commit(self, request: m.Commit, now_us: int) -> m.Reply:
        codes = bytearray()
        floors: list[int] = []
        for bundle in request.bundles:
            self.commit_bundle(bundle, now_us, codes, floors)
        return m.CommitReply(request.id, now_us, bytes(codes), floors if any(floors) else [])

    def commit_bundle(
        self, bundle: m.Bundle, now_us: int, codes: bytearray, floors: list[int], batch: Batch | None = None
    ) -> Batch:
        """Verify and store entries of one batch, whose codes and floors are appended. `batch`: what this returned for
        other items of the same bundle. Raises Malformed; the entries before the wrong one are stored then."""
        certificate = bundle.certificate
        configuration, group, counts = self.verifier.check_certificate(certificate)
        leaves = bundle.leaves
        if batch is None:
            if leaves and (len(leaves) != 32 * certificate.count or merkle.root_of(leaves) != certificate.root):
                raise Malformed("the leaves do not lead to the certificate's root")
            batch = Batch(certificate, leaves, counts)
        slots, q, is_now = self.slots, configuration.q, configuration is self.configuration
        open_, current, types = slots.open, slots.current, slots.types
        writer, group_id, count = certificate.writer, certificate.group, certificate.count
        #: What takes one glance, by slots: what was promised, and nothing else, of a plain key, above what is there and
        #: all floors. Anything else goes through the rules one by one.
        easy: dict[bytes, tuple[Held, Promise]] = {}
        is_plain = (
            is_now
            and bool(certificate.grants)
            and not certificate.ballot
            and together.may_store_all(slots)
            and not configuration.is_revoked(writer)
        )
        try:
            for item in bundle.items:
                position, raw, salted = item.position, item.header, item.salted
                slot = raw[95:-2]
                here = open_.get(slot, ())
                header = promise = None
                for promise in here:
                    # Parsed, hashed and checked when it was prepared, under the configuration of then, which is the one
                    # of now.
                    known = promise.header
                    if known.raw == raw and known.writer == writer and promise.group == group_id:
                        header = known
                digest = digest_of(raw) if header is None else header.digest
                if leaves:
                    if item.path:
                        raise Malformed(_LEAVES_FORM)
                    if leaves[position << 5 : (position + 1) << 5] != digest:
                        raise Malformed("an item's header is not the one in its place of the batch")
                elif merkle.root_from_path(digest, position, count, item.path) != certificate.root:
                    raise Malformed("an item's path does not lead to the certificate's root")
                if counts and counts[position] < q:
                    raise Malformed("too few grants promise this header")
                held = Held(digest, raw, salted, batch, position, None if leaves else item.path)
                if header is None:
                    check_value(raw, salted)
                    header = self.verifier.check_header(raw, certificate, configuration, group)
                    if not is_now and self.index not in self.configuration.group_of(header.slot).members:
                        raise Malformed("this node does not serve the entry's shard")
                    if is_now and self.index not in group.members:
                        raise Malformed("this node does not serve the entry's group")
                else:
                    check_value_of(header, salted)
                    before = current.get(slot)
                    if (
                        is_plain
                        and promise is not None
                        and len(here) == 1
                        and (before is None or before.header[3:51] < header.stamp)
                        and header.time_us > slots.floor_max_us
                        and not (types and slot[: 1 + slot[0]] in types)
                        and slot not in easy
                    ):
                        easy[slot] = held, promise
                        codes.append(m.OK)
                        floors.append(0)
                        continue
                self._store_easy(easy, now_us, codes, floors)
                self._note_code(self.store(header, held, now_us), header, codes, floors)
        finally:
            self._store_easy(easy, now_us, codes, floors)
        return batch

    def _store_easy(
        self, easy: dict[bytes, tuple[Held, Promise]], now_us: int, codes: bytearray, floors: list[int]
    ) -> None:
        """Store what took one glance, the last of the items so far."""
        if easy and not together.store_all(self.slots, easy):
            del codes[-len(easy) :], floors[-len(easy) :]
            for held, promise in easy.values():
                self._note_code(self.store(promise.header, held, now_us), promise.header, codes, floors)
        easy.clear()

    def _note_code(self, code: int, header: Header, codes: bytearray, floors: list[int]) -> None:
        codes.append(code)
        floors.append(self.slots.shard(header.slot).floor_us if code == m.EVICTED else 0)

    def store(self, header: Header, held: Held, now_us: int) -> int:
        """The commit rules of protocol 3, in their order, for one entry that was verified; returns a commit code."""
        slots = self.slots
        certificate = held.batch.certificate
        if not certificate.grants:
            return primary.restore(self, header, held, now_us)
        if certificate.ballot:
            return exact.store(self, header, held, now_us)
        if slots.types and (kind := slots.type_of(header.slot)) is not None:
            return fields.store(self, kind, header, held, now_us)
        slot, stamp = header.slot, header.stamp
        before = slots.current.get(slot)
        if before is not None and before.digest == held.digest:
            return m.OK
        if self.configuration.is_revoked(header.writer):
            return m.REVOKED
        if before is not None:
            if stamp <= before.stamp:
                if stamp == before.stamp:
                    noticing.two_certified(self, before, held)
                return m.OK
        elif header.time_us <= slots.floor_max_us:
            shard = slots.shard(slot)
            if header.time_us <= shard.floor_us and not any(
                p.header.digest == held.digest for p in slots.open.get(slot, ())
            ):
                if slots.frozen and slot in slots.open:
                    return m.COMMIT_FULL  # A promise dropped must stay so; storage cannot hold that now.
                slots.settle_promises(slot, stamp)
                return m.RECOVERING if shard.recovering else m.EVICTED
        if not (slots.store_plain if slots.values is None else slots.store)(slot, held, now_us):
            return m.COMMIT_FULL
        here = slots.open.get(slot)
        if here is not None and here[0].header.digest != held.digest:
            noticing.stored_over(self, header, held, here)
        slots.settle_promises(slot, stamp)
        return m.OK

    # --- read ---

    def _read(self, request: m.Read, now_us: int) -> m.Reply:
        current = self.slots.current
        slots = request.slots
        types = self.slots.types
        if types and self.slots.keys:  # Where there are none, a field is as absent as a plain key that is not there.
            for slot in slots:
                if not slot or slot[: 1 + slot[0]] in types:
                    return fields.read_keys(self, request, now_us)
        found = [current.get(slot) for slot in slots]
        digests = b"".join([ABSENT if held is None else held.digest for held in found])
        values: list[bytes] = []
        if request.values_to > request.values_from:
            size = 0
            for held in found[request.values_from : request.values_to]:
                if held is None or size > m.REPLY_VALUES_BYTES_MAX:
                    values += (b"", b"")
                else:
                    salted = held.salted
                    if not salted:
                        salted = self.slots.value_of(held)
                        size += held.size
                    values += (held.header, salted)
                    size += len(salted)
        if not self.slots.lacking_bytes:  # Else this is asked again, and is one use all the same.
            self.slots.memory.touched(slots)
        return m.ReadReply(request.id, now_us, digests, values)

    def _read_full(self, request: m.ReadFull, now_us: int) -> m.Reply:
        answers = []
        for slot in request.slots:
            slot_parts(slot)  # Raises Malformed: what is no slot belongs to no shard.
            held = self.slots.current.get(slot)
            floor_us = self.slots.shard(slot).floor_us
            answers.append(m.FullAnswer(None if held is None else self.slots.entry_of(held), floor_us))
        return m.ReadFullReply(request.id, now_us, answers)

    def _report(self, request: m.Report, now_us: int) -> m.Reply:
        if request.shard >= len(self.slots.shards):
            raise Malformed("the configuration has no such shard")
        if request.after:
            slot_parts(request.after)
        shard: Shard = self.slots.shards[request.shard]
        page, more, partial = page_of(self.slots, shard, request.after, m.REPORT_ENTRIES_MAX, m.REPLY_VALUES_BYTES_MAX)
        return m.ReportReply(
            request.id, now_us, shard.floor_us, [self.slots.entry_of(held) for held in page], more, partial
        )


def _proof_cost(proof: Entry) -> int:
    return len(proof.header) + len(proof.path) + 256 * (len(proof.certificate.grants) + 1)
