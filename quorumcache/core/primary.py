"""Mode primary, on nodes (protocol 10): signed writes are stored as they come, and forwarded in the background.

No quorum, no certificate: an entry is what its writer signed, and of two for one slot the higher (stamp, digest) stays,
so that all nodes come to hold the same. It must not know sockets or clocks, nor how a client chooses whom to ask.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Final

from quorumcache.core import admission, merkle
from quorumcache.core import messages as m
from quorumcache.core.certificate import Batch, Verifier, check_value, intent_string
from quorumcache.core.model import (
    BATCH_COUNT_MAX,
    DELETE,
    Certificate,
    Header,
    Malformed,
    header_slot,
    parse_header,
    slot_parts,
)
from quorumcache.core.rights import DELETE as DELETE_ROLE
from quorumcache.core.rights import WRITE
from quorumcache.core.slots import Held

if TYPE_CHECKING:
    from quorumcache.core.node import Node

#: Entries that wait to be forwarded to one node: beyond these the oldest are left to anti-entropy.
QUEUE_MAX: Final = 65_536
FORWARD_COUNT_MAX: Final = 256
FORWARD_BYTES_MAX: Final = 1 << 20
#: A node that does not answer a forward for so long gets it again, and then after twice as long each time.
SILENCE_US: Final = 500_000
SILENCE_US_MAX: Final = 5_000_000
MODE: Final = "primary"


def put(node: Node, request: m.Put, now_us: int) -> m.Reply:
    """Take a writer's batch: each header that the rules allow is stored at once."""
    configuration = node.configuration
    group = configuration.groups.get(request.group)
    if group is None or node.index not in group.members:
        raise Malformed("this node does not serve the group that the batch names")
    headers = [parse_header(raw) for raw in request.headers]
    if len(request.salted) != len(headers):
        raise Malformed("a batch with another number of values than headers")
    for header, salted in zip(headers, request.salted, strict=True):
        if header.writer != request.writer:
            raise Malformed("a header's writer is not the intent's signer")
        if configuration.group_of(header.slot) is not group:
            raise Malformed("a header's slot does not belong to the group that the batch names")
        if not configuration.is_primary(header.slot):
            raise Malformed("a header of a namespace whose mode is not primary")
        check_value(header.raw, salted)
    if len({header.slot for header in headers}) != len(headers):
        raise Malformed("a slot occurs twice in the batch")
    leaves = b"".join([header.digest for header in headers])
    root = merkle.root_of(leaves)
    if not node.verifier.is_signed(
        request.writer, intent_string(configuration.digest, group.id, root), request.signature
    ):
        return m.Reject(request.id, now_us, m.BAD_SIGNATURE, "the batch is not signed by the writer it names")
    certificate = Certificate(configuration.digest, group.id, root, len(headers), request.writer, request.signature, ())
    batch = Batch(certificate, leaves, b"")
    codes, times, detail = bytearray(), [], ""
    for position, (header, salted) in enumerate(zip(headers, request.salted, strict=True)):
        held = Held(header.digest, header.raw, salted, batch, position, None)
        code, time_us, why = _accept(node, header, held, now_us)
        codes.append(code)
        times.append(time_us)
        detail = detail or why
        if code == m.OK and request.forward:
            node.forwarding.note(header.slot, group.members, now_us)
    return m.PutReply(request.id, now_us, bytes(codes), times if any(times) else [], detail)


def forward(node: Node, request: m.Forward, now_us: int) -> m.Reply:
    """Take what another member of the group took: every signature and right is checked here too."""
    if sum(len(bundle.items) for bundle in request.bundles) > BATCH_COUNT_MAX:
        raise Malformed("too many entries at once")
    codes = bytearray()
    for bundle in request.bundles:
        batch = Batch(bundle.certificate, bundle.leaves, b"")
        for header, item in entries_in(bundle, node.verifier):
            if node.index not in node.configuration.group_of(header.slot).members:
                raise Malformed("this node does not serve the entry's slot")
            path = None if bundle.leaves else item.path
            held = Held(header.digest, header.raw, item.salted, batch, item.position, path)
            code, _, _ = _accept(node, header, held, now_us)
            codes.append(m.OK if code == m.STALE else code)
    return m.ForwardReply(request.id, now_us, bytes(codes))


def get(node: Node, request: m.Get, now_us: int) -> m.Reply:
    """The signed entries of some slots, as many of the first as fit an answer."""
    slots = node.slots
    found: list[Held] = []
    size = answered = 0
    behind = False
    for slot in request.slots:
        slot_parts(slot)  # Raises Malformed.
        if size + slots.lacking_bytes > m.REPLY_VALUES_BYTES_MAX:
            break
        answered += 1
        held = slots.current.get(slot)
        if held is None or held.batch.certificate.grants:
            behind = behind or slots.shard(slot).recovering
            continue
        size += len(held.header) + len(slots.value_of(held))
        found.append(held)
    slots.memory.touched(request.slots[:answered])
    return m.GetReply(request.id, now_us, answered, bundles_of(found), behind)


def bundles_of(entries: Iterable[Held]) -> list[m.Bundle]:
    """Entries as they are passed on, by batch: with all leaves where most of a batch is there, else each with its
    path."""
    batches: dict[int, list[Held]] = {}
    for held in entries:
        batches.setdefault(id(held.batch), []).append(held)
    bundles = []
    for of_batch in batches.values():
        batch = of_batch[0].batch
        if batch.leaves and 64 * len(of_batch) >= len(batch.leaves):
            items = [m.Item(held.position, held.header, held.salted) for held in of_batch]
            bundles.append(m.Bundle(batch.certificate, batch.leaves, items))
        else:
            items = [m.Item(e.position, e.header, e.salted, e.path) for e in (held.entry() for held in of_batch)]
            bundles.append(m.Bundle(batch.certificate, b"", items))
    return bundles


def entries_in(bundle: m.Bundle, verifier: Verifier) -> Iterator[tuple[Header, m.Item]]:
    """The entries of a bundle, each verified: that its writer signed it is all that is asked here. Raises Malformed."""
    certificate, leaves = bundle.certificate, bundle.leaves
    configuration, group = verifier.check_intent(certificate)
    if leaves and (len(leaves) != 32 * certificate.count or merkle.root_of(leaves) != certificate.root):
        raise Malformed("the leaves do not lead to the batch's root")
    for item in bundle.items:
        header = verifier.check_signed_header(item.header, certificate, configuration, group)
        position = item.position
        if leaves:
            if item.path or leaves[position << 5 : (position + 1) << 5] != header.digest:
                raise Malformed("an item's header is not the one in its place of the batch")
        elif merkle.root_from_path(header.digest, position, certificate.count, item.path) != certificate.root:
            raise Malformed("an item's path does not lead to its batch's root")
        check_value(item.header, item.salted)
        yield header, item


def restore(node: Node, header: Header, held: Held, now_us: int) -> int:
    """Take what recovery or anti-entropy found at a peer, and verified; a commit code. Floors do not count: what was
    lost may come back from whoever has it, in the mode that promises no freshness."""
    if admission.denial(node, header, now_us, MODE):
        return m.REVOKED
    if not is_higher(node, header):
        return m.OK
    if header.time_us > now_us + node.configuration.max_skew_us:
        return m.INVALID
    return m.OK if node.slots.store(header.slot, held, now_us) else m.COMMIT_FULL


def is_higher(node: Node, header: Header) -> bool:
    """Whether this goes above what is here: by stamp, and by digest where a writer signed two headers under one."""
    before = node.slots.current.get(header.slot)
    return before is None or (header.stamp, header.digest) > (before.stamp, before.digest)


def _accept(node: Node, header: Header, held: Held, now_us: int) -> tuple[int, int, str]:
    """Store an entry if the rules allow it: a code (0, or one of `REFUSALS`), the time that it speaks of, and why."""
    slots = node.slots
    denial = admission.denial(node, header, now_us, MODE)
    if denial:
        node.denied(header.writer, DELETE_ROLE if header.kind == DELETE else WRITE)
        return m.DENIED, 0, denial
    before = slots.current.get(header.slot)
    if before is not None and not is_higher(node, header):
        return (m.OK if before.digest == header.digest else m.STALE), before.time_us, ""
    if header.time_us > now_us + node.configuration.max_skew_us:
        return m.AHEAD, now_us, ""
    if slots.allowances is not None:
        over = slots.allowances.denial(header, before)
        if over:
            return m.DENIED, 0, over
        over = slots.allowances.delay(header, before, now_us)
        if over:
            node.denied(header.writer, "limit")
            return m.BUSY, 0, over
        slots.allowances.granted(header, now_us)
    return (m.OK, 0, "") if slots.store(header.slot, held, now_us) else (m.FULL, 0, "")


class _Queue:
    __slots__ = ("in_flight", "request_id", "resend_us", "silence_us", "waiting")

    def __init__(self) -> None:
        #: Slot -> since when, oldest first. What is sent is what is current then: writes of one slot collapse.
        self.waiting: OrderedDict[bytes, int] = OrderedDict()
        self.in_flight: dict[bytes, int] = {}
        self.request_id = 0
        self.resend_us = 0
        self.silence_us = SILENCE_US


class Forwarding:
    """Passes on what a node took from clients to the other members of its groups, one batch at a time to each. A
    machine like a client's: `outbox` has what to send, `receive` takes replies, `wake` time."""

    def __init__(self, node: Node, *, first_id: int = 0) -> None:
        self.node = node
        self.outbox: list[tuple[tuple[int, ...], m.Request]] = []
        self.forwarded_count = 0
        #: How many were left to anti-entropy, for a queue was full.
        self.left_count = 0
        #: Called when something waits where nothing did: `wake` has something to do.
        self.on_work: Callable[[], None] | None = None
        self._is_resting = True
        self._next_id = first_id
        self._queues: dict[int, _Queue] = {}

    def note(self, slot: bytes, members: Iterable[int], now_us: int) -> None:
        """This slot changed here, and the others of its group do not know."""
        for peer in members:
            if peer == self.node.index:
                continue
            queue = self._queues.get(peer)
            if queue is None:
                queue = self._queues[peer] = _Queue()
            if slot not in queue.waiting:
                queue.waiting[slot] = now_us
                if len(queue.waiting) > QUEUE_MAX:
                    queue.waiting.popitem(last=False)
                    self.left_count += 1
        if self._is_resting and self.on_work is not None:
            self._is_resting = False
            self.on_work()

    def rests(self) -> bool:
        """Whether nothing waits or is on its way: then nobody need `wake` it until `on_work` is called."""
        self._is_resting = self.is_idle
        return self._is_resting

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits or is on its way."""
        return not any(queue.waiting or queue.in_flight for queue in self._queues.values())

    def lag(self, now_us: int) -> dict[int, tuple[int, int]]:
        """Peer -> how many entries it has not confirmed, and for how long the oldest has waited, in microseconds."""
        found = {}
        for peer, queue in self._queues.items():
            count = len(queue.waiting) + len(queue.in_flight)
            if count:
                since = [next(iter(queue.waiting.values()))] if queue.waiting else []
                found[peer] = (count, now_us - min([*since, *queue.in_flight.values()]))
        return found

    def wake(self, now_us: int) -> None:
        """Send what waits, and again what a silent node has not confirmed."""
        for peer, queue in self._queues.items():
            if queue.in_flight:
                if now_us < queue.resend_us:
                    continue
                # What has changed since is sent as it is now; what has not, once more.
                queue.silence_us = min(2 * queue.silence_us, SILENCE_US_MAX)
                self._put_back(queue)
            if queue.waiting and now_us >= queue.resend_us:
                self._send(peer, queue, now_us)

    def _put_back(self, queue: _Queue) -> None:
        for slot, since_us in reversed(queue.in_flight.items()):
            queue.waiting[slot] = since_us
            queue.waiting.move_to_end(slot, last=False)
        queue.in_flight = {}
        queue.request_id = 0

    def _send(self, peer: int, queue: _Queue, now_us: int) -> None:
        slots = self.node.slots
        going: list[Held] = []
        size = 0
        while queue.waiting and len(queue.in_flight) < FORWARD_COUNT_MAX and size < FORWARD_BYTES_MAX:
            slot, since_us = queue.waiting.popitem(last=False)
            held = slots.current.get(slot)
            if held is None or held.batch.certificate.grants or not held.salted:
                continue  # It went meanwhile, or its value is on disk only: anti-entropy brings what matters.
            size += len(held.header) + len(held.salted)
            going.append(held)
            queue.in_flight[slot] = since_us
        if not going:
            return
        bundles = bundles_of(going)
        # In the order in which the reply's codes come.
        in_order = [header_slot(item.header) for bundle in bundles for item in bundle.items]
        queue.in_flight = {slot: queue.in_flight[slot] for slot in in_order}
        self._next_id = (self._next_id + 1) & ((1 << 63) - 1)
        queue.request_id = self._next_id
        queue.resend_us = now_us + queue.silence_us
        self.outbox.append(((peer,), m.Forward(self._next_id, self.node.configuration.digest, bundles)))

    def receive(self, peer: int, reply: m.Reply, now_us: int) -> None:
        """Take a peer's confirmation."""
        queue = self._queues.get(peer)
        if queue is None or not queue.request_id or reply.id != queue.request_id:
            return
        if not isinstance(reply, m.ForwardReply) or len(reply.codes) != len(queue.in_flight):
            return  # It rejects them, or talks nonsense: as if it were silent.
        self.forwarded_count += reply.codes.count(m.OK)
        # Denied for good by that node is denied: another configuration, or limits of its own.
        queue.in_flight = {
            slot: at
            for (slot, at), code in zip(queue.in_flight.items(), reply.codes, strict=True)
            if code in (m.AHEAD, m.BUSY, m.FULL)
        }
        if queue.in_flight:
            self._put_back(queue)
            queue.resend_us = now_us + queue.silence_us
        else:
            queue.request_id = 0
            queue.silence_us = SILENCE_US
            queue.resend_us = 0
            if queue.waiting:
                self._send(peer, queue, now_us)
