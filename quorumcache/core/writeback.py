"""Mode primary, for clients (protocol 10): what of their queues is of this mode, and its writes.

A write is one round trip to the first nodes of a shard's order, or the next. It must not know sockets, how nodes
forward among themselves, or what reads believe (`core/directread.py`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from quorumcache.core import merkle
from quorumcache.core import messages as m
from quorumcache.core.certificate import intent_string
from quorumcache.core.directread import GetBatch
from quorumcache.core.inorder import InOrder
from quorumcache.core.machine import is_worth_asking_again
from quorumcache.core.model import (
    BATCH_COUNT_MAX,
    SALT_BYTES,
    digest_of,
    encode_header,
    stamp_of,
    value_hash_of,
)
from quorumcache.core.outcome import DENIED, UNKNOWN, Failed, Written
from quorumcache.core.primary import MODE
from quorumcache.core.refusal import AHEAD_POLL_US, PendingWrite

if TYPE_CHECKING:
    from quorumcache.core.config import Group
    from quorumcache.core.coordinator import Coordinator

#: A node that said so often to one write that something newer is there may be lying: the next is asked beside it.
_NEWER_MAX: Final = 2
#: Values of one request come to about so much; a larger batch is split.
_BYTES_MAX: Final = m.BATCH_BYTES_MAX


class Direct:
    """Takes from a client's queues what is of namespaces in mode primary, and runs it."""

    def __init__(self, context: Coordinator) -> None:
        self._context = context
        #: A slot's first bytes, with its namespace -> how many nodes a write has to reach.
        self._acks: dict[bytes, int] = {}
        for info in context.configuration.namespaces:
            if info.mode == MODE:
                name = info.name.encode("ascii")
                self._acks[bytes((len(name),)) + name] = info.ack

    def __bool__(self) -> bool:
        return bool(self._acks)

    def reads(self, reads: dict[bytes, list[Any]], full: bool, now_us: int) -> dict[bytes, list[Any]]:
        """Run those reads that are of this mode; returns the others."""
        configuration = self._context.configuration
        others: dict[bytes, list[Any]] = {}
        orders: dict[tuple[int, ...], list[bytes]] = {}
        for slot, tokens in reads.items():
            if slot[: 1 + slot[0]] in self._acks:
                orders.setdefault(configuration.order_of_shard(configuration.shard_of(slot)), []).append(slot)
            else:
                others[slot] = tokens
        for order, slots in orders.items():
            for at in range(0, len(slots), m.READ_SLOTS_MAX):
                part = slots[at : at + m.READ_SLOTS_MAX]
                self._context.schedule(
                    GetBatch(self._context, order, part, [reads[slot] for slot in part], full, now_us)
                )
        return others

    def writes(self, ready: dict[bytes, PendingWrite], now_us: int) -> dict[bytes, PendingWrite]:
        """Run those writes that are of this mode; returns the others."""
        context = self._context
        configuration = context.configuration
        others: dict[bytes, PendingWrite] = {}
        orders: dict[tuple[tuple[int, ...], int], list[PendingWrite]] = {}
        for slot, write in ready.items():
            ack = self._acks.get(slot[: 1 + slot[0]])
            if ack is None:
                others[slot] = write
            else:
                order = configuration.order_of_shard(configuration.shard_of(slot))
                orders.setdefault((order, ack), []).append(write)
        for (order, ack), writes in orders.items():
            part: list[PendingWrite] = []
            size = 0
            for write in writes:
                if part and (len(part) == BATCH_COUNT_MAX or size + len(write.value) > _BYTES_MAX):
                    context.schedule(PutBatch(context, order, ack, part, now_us))
                    part, size = [], 0
                part.append(write)
                size += len(write.value) + len(write.slot) + 256
            context.schedule(PutBatch(context, order, ack, part, now_us))
        return others


class PutBatch(InOrder):
    """Writes of one order: done when `ack` nodes store them. Each node keeps the highest, and forwards what it took."""

    __slots__ = (
        "_ack",
        "_ahead",
        "_denied",
        "_end",
        "_id",
        "_left",
        "_oks",
        "_patience_us",
        "_request",
        "_said",
        "_stamps",
        "_writes",
    )

    def __init__(
        self, context: Coordinator, order: tuple[int, ...], ack: int, writes: list[PendingWrite], now_us: int
    ) -> None:
        configuration = context.configuration
        for write in writes:
            write.attempt += 1
            if not write.deadline_us:
                write.deadline_us = now_us + configuration.op_time_us
        super().__init__(context, order, min(write.deadline_us for write in writes), now_us)
        self._ack = ack
        #: A stamp is at most 3 max_skew ahead of cluster time; by then a correct node is ahead of it.
        self._patience_us = now_us + 4 * configuration.max_skew_us
        self._writes = writes
        self._left = len(writes)
        self._oks = [0] * len(writes)
        self._denied = [0] * len(writes)
        self._end = bytearray(len(writes))
        self._said: set[int] = set()
        self._ahead: set[int] = set()
        self._stamps: list[bytes] = []
        headers, salted, leaves = self._draft(context, writes, now_us)
        group = configuration.group_of(writes[0].slot)
        assert context.writer is not None
        assert context.sign is not None
        signature = context.sign(intent_string(configuration.digest, group.id, merkle.root_of(leaves)))
        self._id = context.new_id(self)
        self._request = m.Put(
            self._id, configuration.digest, group.id, context.writer, signature, headers, salted, False
        )
        context.counts["write_attempts"] += 1
        # Not counted on: a liar would have a writer go above it again and again.
        self._useless |= {node for write in writes for node in self._doubted(write)}
        self._ask_more(ack)

    def _doubted(self, write: PendingWrite) -> list[int]:
        """Who said once too often that something newer is there."""
        return [node for node, count in (write.newer or {}).items() if count >= _NEWER_MAX]

    def _note_newer(self, write: PendingWrite, node: int) -> None:
        """A node says that something newer is there."""
        if write.newer is None:
            write.newer = {}
        write.newer[node] = write.newer.get(node, 0) + 1
        if len(self._doubted(write)) > self._context.configuration.f:
            write.newer.clear()  # A correct one is among them: there was something newer. From now on, anew.

    def _draft(
        self, context: Coordinator, writes: list[PendingWrite], now_us: int
    ) -> tuple[list[bytes], list[bytes], bytes]:
        time_us, writer, nonce = context.clock.next_us(now_us), context.writer, context.nonce
        assert writer is not None
        salts = context.random_bytes(SALT_BYTES * len(writes))
        headers, values = [], []
        for i, write in enumerate(writes):
            at_us = max(time_us, write.time_min_us, context.ahead_of(write.slot) + 1)
            if at_us > time_us:
                context.note_ahead(write.slot, at_us, now_us)
            stamp = stamp_of(at_us, writer, nonce)
            value = write.value if write.seal is None else write.seal(write.slot, stamp, write.value)
            salted = salts[i * SALT_BYTES : (i + 1) * SALT_BYTES] + value
            headers.append(
                encode_header(
                    write.slot,
                    stamp,
                    write.kind,
                    value_hash_of(salted),
                    len(value),
                    write.expires_at_us,
                    write.metadata,
                )
            )
            values.append(salted)
            self._stamps.append(stamp)
        return headers, values, b"".join(map(digest_of, headers))

    def _group(self) -> Group:
        return self._context.configuration.groups[self._request.group]

    def _ask(self, node: int) -> None:
        request = self._request
        # The first forwards, whenever it is asked; so does whoever takes over from a node that did not do.
        place = self._asked.index(node)
        forward = place == 0 or place >= self._ack
        self._context.send(
            (node,),
            m.Put(
                request.id,
                request.configuration,
                request.group,
                request.writer,
                request.signature,
                request.headers,
                request.salted,
                forward,
            ),
        )

    def receive(self, request_id: int, node: int, reply: m.Reply, now_us: int) -> None:
        """Take a node's answer."""
        if self.finished or node not in self._asked or node in self._said:
            return
        if isinstance(reply, m.Reject):
            self._rejects[node] = reply
            self._useless.add(node)
            failed = self._all_rejected()
            if failed is not None:
                # One that rejects it now may have stored it when it was asked first, and a liar at any time.
                kind = DENIED if failed.kind == DENIED else UNKNOWN
                self._end_all(Failed(kind, f"{failed.detail}; it may have taken effect"))
                return
        elif isinstance(reply, m.PutReply) and len(reply.codes) == len(self._writes):
            self._rejects.pop(node, None)
            self._silent.discard(node)
            if self._take(node, reply, now_us):
                self._said.add(node)
        else:
            return
        if not self._left:
            self._finish()
        else:
            self._ask_more(self._ack)

    def _take(self, node: int, reply: m.PutReply, now_us: int) -> bool:
        """Whether the node has said all that it has to say."""
        context = self._context
        configuration = context.configuration
        latest_us = context.clock.time_us(now_us) + 3 * configuration.max_skew_us
        times = reply.times if len(reply.times) == len(reply.codes) else [0] * len(reply.codes)
        is_final = True
        for i, (code, time_us) in enumerate(zip(reply.codes, times, strict=True)):
            if self._end[i]:
                continue
            write = self._writes[i]
            if code == m.OK:
                self._oks[i] += 1
                if self._oks[i] >= self._ack:
                    self._done(i, Written(self._stamps[i]))
            elif code == m.STALE and time_us <= latest_us and node in self._doubted(write):
                write.trouble = "newer writes of the same key came in between"
            elif code == m.STALE and time_us <= latest_us:
                # Something newer is there: above it then. That time is a claim; one beyond all clocks is a lie.
                self._note_newer(write, node)
                write.time_min_us = max(write.time_min_us, time_us + 1)
                write.trouble = "newer writes of the same key came in between"
                self._end[i] = 1
                self._left -= 1
                context.retry(write, now_us, now_us)
            elif code == m.AHEAD:
                self._ahead.add(node)
                is_final = False
            elif code == m.DENIED:
                self._denied[i] += 1
                self._useless.add(node)
                if self._denied[i] > configuration.f:
                    self._done(i, Failed(DENIED, reply.detail or "the nodes deny it"))
            else:
                self._useless.add(node)
                write.trouble = f"{configuration.nodes[node].name}: {m.REFUSALS.get(code, 'an unknown code')}"
                if code == m.STALE:
                    context.suspect(node, 4.0, lie=True)
        if is_final:
            self._ahead.discard(node)
        else:
            self.deadline_us = min(self.deadline_us, now_us + AHEAD_POLL_US)
        return is_final

    def _done(self, i: int, outcome: Written | Failed) -> None:
        self._end[i] = 1
        self._left -= 1
        self._context.finish_write(self._writes[i], outcome)

    def _end_all(self, outcome: Failed) -> None:
        for i in range(len(self._writes)):
            if not self._end[i]:
                self._done(i, outcome)
        self._finish()

    def _finish(self) -> None:
        self.finished = True
        self._context.forget(self._id)

    def wake(self, now_us: int) -> None:
        """Ask the next in order for whoever is silent, the silent again; give up at op_time."""
        if self.finished:
            return
        if now_us >= self.end_us:
            got = sum(node in self._said for node in self._asked)
            detail = (
                f"{got} of the {len(self._asked)} nodes asked answered, {self._ack} have to store it; "
                "it may have taken effect"
            )
            self._end_all(Failed(UNKNOWN, detail))
            return
        for node in self._asked:
            if node in self._ahead:
                self._ask(node)
                if now_us >= self._patience_us:
                    self._silent.add(node)  # No correct clock is so far behind.
            elif node not in self._said and is_worth_asking_again(node, self._rejects):
                self._silent.add(node)
                self._ask(node)
        self._ask_more(self._ack)
        self._wait(now_us)
        if self._ahead:
            self.deadline_us = min(self.deadline_us, now_us + AHEAD_POLL_US)
