"""The coordinator on an event loop: its clock, its links, its timer, its futures.

All that is asked for in one turn of the loop leaves together: one frame per node, one batch per group; what comes while
a batch is under way may wait for it (pacing.py). There is no task and no lock per operation; an operation is a token
whose `set_result` is called when it ends. It must not know keys' or values' meaning.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Final, Protocol
from weakref import WeakValueDictionary

from quorumcache.client.flight import Flights
from quorumcache.client.pacing import Pace
from quorumcache.core.certificate import Verifier
from quorumcache.core.config import Configuration, NodeInfo, SignedConfiguration
from quorumcache.core.coordinator import Coordinator
from quorumcache.core.messages import AnyReply
from quorumcache.core.onward import go_over
from quorumcache.core.outcome import Outcome
from quorumcache.errors import Unavailable
from quorumcache.net.link import Link
from quorumcache.net.peers import Http, open_http, send_all
from quorumcache.wire.keys import SigningKey, verify

if TYPE_CHECKING:
    from quorumcache.client.collections.counter import Adder

OPERATIONS_MAX: Final = 65_536
CLEAN_S: Final = 1.0
#: How long reads wait at most for those before them to end; writes, and compare-and-sets.
READS_HELD_S: Final = 0.001
WRITES_HELD_S: Final = 0.004
#: How long a client that connects waits for nodes of its configuration before it asks others what came after it.
LOOK_S: Final = 1.0


class _Forks:
    """How often this process is a fork of the one that imported this module: asked for with each operation, where a
    question to the operating system would be the dearest part of a read."""

    count = 0

    @classmethod
    def note(cls) -> None:
        """This is another process now."""
        cls.count += 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_Forks.note)


class Token(Protocol):
    """What waits for an outcome: a future, or a part of a bulk operation."""

    def done(self) -> bool:
        """Whether nobody waits any more."""

    def set_result(self, outcome: Outcome, /) -> None:
        """Take the outcome."""


def now_us() -> int:
    """The process's monotonic clock, in microseconds."""
    return time.monotonic_ns() // 1000


class Engine:
    """Drives one coordinator. Made and used within one event loop and process."""

    def __init__(self, configuration: Configuration, key: SigningKey | None, *, compress: bool) -> None:
        self.configuration = configuration
        self.key = key
        self.loop = asyncio.get_running_loop()
        self._forks_count = _Forks.count
        self.core = Coordinator(
            configuration,
            Verifier(verify, [configuration]),
            writer=key.public if key is not None else None,
            sign=key.sign if key is not None else None,
            nonce=int.from_bytes(os.urandom(8), "big"),
            random_bytes=os.urandom,
            first_id=int.from_bytes(os.urandom(7), "big"),
            guess_us=time.time_ns() // 1000 - now_us(),
        )
        self.links: dict[int, Link] = {}
        #: The signed configurations that it knows, by their digests.
        self.signed: dict[bytes, SignedConfiguration] = {}
        #: The loaders under way, by slot: of all clients over these sessions.
        self.flights: Flights[Any] = Flights()
        self.closed = False
        self._compress = compress
        self._http: Http | None = None
        self._flushing = False
        self._reads = Pace(self.loop, READS_HELD_S, self.kick)
        self._writes = Pace(self.loop, WRITES_HELD_S, self.kick)
        self._exact = Pace(self.loop, WRITES_HELD_S, self.kick)
        self._paces = (self._reads, self._writes, self._exact)
        self._timer: asyncio.TimerHandle | None = None
        self._timer_us = 0
        self._cleaner: asyncio.TimerHandle | None = None
        self._operations = 0
        #: Links to nodes that left, on their way out.
        self._leaving: list[asyncio.Task[None]] = []
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._changed = asyncio.Event()
        #: Base slot -> what carries this client object's increments of that counter.
        self.adders: dict[bytes, Adder] = {}
        #: Base slot -> held while a sibling of that key is being written.
        self.sibling_locks: WeakValueDictionary[bytes, asyncio.Lock] = WeakValueDictionary()

    # --- life ---

    async def start(self, wait_s_max: float) -> None:
        """Connect. Returns as soon as q nodes of the configuration are connected, or q and a moment more for the rest.
        Raises Unavailable where fewer are after `wait_s_max`."""
        self._http = open_http()
        for info in self.configuration.nodes:
            self._connect(info)
        self._clean()
        began_s = self.loop.time()
        end_s, look_s = began_s + wait_s_max, began_s + min(LOOK_S, wait_s_max / 4)
        while self._up() < len(self.links) and self.loop.time() < end_s:
            if self._up() >= len(self.links) - self.configuration.f:
                end_s = min(end_s, self.loop.time() + 0.05)
            elif self._up() and self.loop.time() >= look_s:
                # Of the nodes that this configuration names some may have left since: any other can show that. Not at
                # once: it takes a liar's session away, which may be one of just enough.
                self.core.onward.look(now_us())
                self._after()
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                until_s = min(end_s, look_s) if self.loop.time() < look_s else end_s
                async with asyncio.timeout(max(0.0, until_s - self.loop.time())):
                    await self._changed.wait()
        up = self._up()
        if up < self.configuration.q:
            problems = "; ".join(
                f"{link.node.name} at {link.node.address}: {link.problem}"
                for link in self.links.values()
                if not link.up
            )
            await self.stop()
            raise Unavailable(
                f"only {up} of {len(self.links)} nodes of cluster {self.configuration.cluster_id} could be "
                f"reached within {wait_s_max:g} s, {self.configuration.q} are needed. {problems}"
            )

        if self.core.onward.lacks_history:
            await self._learn_history(max(wait_s_max, 1.0))

    async def _learn_history(self, wait_s_max: float) -> None:
        """Ask for the configurations before, without which entries of earlier epochs prove nothing."""
        end_s = self.loop.time() + wait_s_max
        self.core.onward.look(now_us())
        while self.core.onward.lacks_history:
            self._after()
            if self.loop.time() >= end_s:
                await self.stop()
                raise Unavailable(
                    f"no node told which configurations came before epoch {self.configuration.epoch} of cluster "
                    f"{self.configuration.cluster_id}: without them, what was written then cannot be checked"
                )
            await asyncio.sleep(0.01)
            self.core.wake(now_us())

    def _connect(self, info: NodeInfo) -> None:
        assert self._http is not None
        link = self.links[info.index] = Link(
            self.configuration,
            info,
            self._http,
            on_replies=self._on_replies,
            on_change=self._on_change,
            key=self.key,
            compress=self._compress,
        )
        self.core.reachable(info.index, False)
        link.start()

    def _go_over(self) -> None:
        """The cluster is in a later epoch: go on there, over the sessions that there are."""
        for step in self.core.onward.steps:
            self.signed[step.successor.configuration.digest] = step.successor
        self.core = go_over(self.core, self.core.onward.chain, now_us())
        self.configuration = self.core.configuration
        links = {link.node.key: link for link in self.links.values()}
        self.links = {}
        for info in self.configuration.nodes:
            link = links.get(info.key)
            if link is None or link.node.address != info.address:
                self._connect(info)
                continue
            del links[info.key]
            link.moved(self.configuration, info)
            self.links[info.index] = link
            self.core.reachable(info.index, link.up)
        for link in links.values():
            self._leaving.append(self.loop.create_task(link.stop(), name=f"leaving {link.node.name}"))
        self.kick()  # What was under way is queued again.

    @property
    def is_copied(self) -> bool:
        """Whether this is a copy, in a process that was forked from the one where it was made."""
        return self._forks_count != _Forks.count

    def _up(self) -> int:
        return sum(link.up for link in self.links.values())

    async def stop(self) -> None:
        """Close all sessions. Operations that have not ended end as Unavailable or OutcomeUnknown."""
        self.closed = True
        await self.flights.stop()
        for timer in (self._timer, self._cleaner):
            if timer is not None:
                timer.cancel()
        for pace in self._paces:
            pace.stop()
        # What is under way can get no answers now: each operation says how it ended.
        self.core.abandon(now_us())
        self._collect()
        await asyncio.gather(*(link.stop() for link in self.links.values()), *self._leaving)
        if self._http is not None:
            await self._http.close()
            self._http = None

    # --- operations ---

    def kick(self) -> None:
        """Something was queued: flush at the end of this turn of the loop."""
        if not self._flushing:
            self._flushing = True
            self.loop.call_soon(self._flush)

    def admit(self) -> bool:
        """Take a place for an operation; False where all are taken, and `admitted` must be awaited first."""
        if self._operations < OPERATIONS_MAX:
            self._operations += 1
            return True
        return False

    def admit_all(self, count: int) -> bool:
        """Take places for so many operations; False, and none is taken, where there are fewer."""
        if self._operations + count > OPERATIONS_MAX:
            return False
        self._operations += count
        return True

    async def admitted(self) -> None:
        """Wait for a place, and take it."""
        while self._operations >= OPERATIONS_MAX:
            future: asyncio.Future[None] = self.loop.create_future()
            self._waiting.append(future)
            await future
        self._operations += 1

    async def place(self) -> asyncio.Future[Outcome]:
        """Take a place for one operation, waiting for it where all are taken: the future that its outcome goes to. Then
        hand it to `core`, and `kick`."""
        if not self.admit():
            await self.admitted()
        return self.loop.create_future()

    def leave(self, count: int) -> None:
        """Give back places whose operations went together with another."""
        self._operations -= count

    def _flush(self) -> None:
        self._flushing = False
        core = self.core
        reads, writes, exact = core.ready_counts()
        if reads and not self._reads.holds(reads):
            core.flush_reads(now_us())
            self._reads.sent(core.latest_reads)
        if writes and not self._writes.holds(writes):
            core.flush_writes(now_us())
            self._writes.sent(core.latest_writes)
        if exact and not self._exact.holds(exact):
            core.flush_exact(now_us())
            self._exact.sent(core.latest_exact)
        core.flush_scans(now_us())
        self._after()

    def _after(self) -> None:
        """Hand out what ended, send what is to be sent, set the timer: after each step of the core."""
        while self.core.onward.chain:
            self._go_over()
        core = self.core
        if core.outbox:
            outbox, core.outbox = core.outbox, []
            send_all(self.links, outbox)
        if core.done:
            self._collect()
        if core.has_ready(writes=not self._writes.is_holding, exact=not self._exact.is_holding):
            self.kick()
        deadline_us = core.deadline_us
        if deadline_us is not None and (self._timer is None or deadline_us < self._timer_us):
            if self._timer is not None:
                self._timer.cancel()
            self._timer_us = deadline_us
            self._timer = self.loop.call_later(max(0, deadline_us - now_us()) / 1e6, self._wake)

    def _collect(self) -> None:
        done, self.core.done = self.core.done, []
        self._operations -= len(done)
        for token, outcome in done:
            if not token.done():
                token.set_result(outcome)
        # Behind those that wake now and may ask for more.
        for pace in self._paces:
            pace.release()
        if self._waiting:
            # Wake as many as there are places; who comes later waits again.
            free = OPERATIONS_MAX - self._operations
            while self._waiting and free > 0:
                future = self._waiting.popleft()
                if not future.done():
                    future.set_result(None)
                    free -= 1

    def _wake(self) -> None:
        self._timer = None
        self.core.wake(now_us())
        self._after()

    def _clean(self) -> None:
        self.core.forgive()
        is_wanted = self.core.is_wanted
        self._leaving = [task for task in self._leaving if not task.done()]
        for link in self.links.values():
            link.forget(is_wanted)
        self._cleaner = self.loop.call_later(CLEAN_S, self._clean)

    # --- news from the links ---

    def _on_replies(self, node: int, replies: list[AnyReply]) -> None:
        core, at_us = self.core, now_us()
        for reply in replies:
            core.receive(node, reply, at_us)
        self._after()

    def _on_change(self, node: int, up: bool, clock_us: int) -> None:
        if up:
            self.core.clock.report(node, clock_us, now_us())
        self.core.reachable(node, up)
        self._changed.set()
