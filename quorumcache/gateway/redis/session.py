"""One connection's state, and what becomes of its requests: checks, transactions, replies in order.

It must not know sockets, nor what commands do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from quorumcache.errors import QuorumCacheError
from quorumcache.gateway.redis.encoding import encode
from quorumcache.gateway.redis.faults import NO_AUTH, Fault, fault_of, unknown_command
from quorumcache.gateway.redis.ordering import Numbered
from quorumcache.gateway.redis.routing import routed
from quorumcache.gateway.redis.running import Running, run_calls
from quorumcache.gateway.redis.table import Call, Command, find

if TYPE_CHECKING:
    from quorumcache.gateway.redis.server import RedisGateway

#: Commands of one connection that may run together; more are run in turns.
CALLS_MAX: Final = 128
#: What MULTI may queue.
QUEUE_MAX: Final = 16_384
QUEUE_BYTES_MAX: Final = 16 << 20
#: Channels and patterns of one connection.
SUBSCRIPTIONS_MAX: Final = 4096


class Session:
    """`push`: what sends this connection something that it did not ask for."""

    def __init__(self, gateway: RedisGateway, number: int, address: str, push: Callable[[list[Any]], None]) -> None:
        self.gateway = gateway
        self.id = number
        self.address = address
        self.push = push
        self.began_s = gateway.loop.time()
        self.active_s = self.began_s
        self.library = ("", "")
        self.last_command = ""
        self.is_ending = False
        self.channels: set[bytes] = set()
        self.patterns: set[bytes] = set()
        self.is_authenticated = gateway.settings.password is None
        self.failures = 0
        self.reset()

    def reset(self) -> None:
        """As it was when the connection began, but for its authentication."""
        self.name = b""
        self.resp3 = False
        self.database = 0
        self.leave_transaction()

    def leave_transaction(self) -> None:
        """Forget what MULTI queued."""
        self.queue: list[list[bytes]] | None = None
        self.queue_bytes = 0
        self.is_spoilt = False
        #: (database, key) -> the header of what stood there when it was watched, empty for nothing.
        self.watched: dict[tuple[int, bytes], bytes] = {}

    @property
    def subscriptions(self) -> int:
        """How many channels and patterns it listens to."""
        return len(self.channels) + len(self.patterns)

    async def answer(self, requests: list[list[bytes]]) -> bytes:
        """Run requests in order; the replies' bytes."""
        return _encoded(*await self.run(requests, queues=True))

    def begin(self, requests: list[list[bytes]], ended: Callable[[bytes | Exception], None]) -> Running | None:
        """As `answer`, but without a task, where that can be: for commands that are steps, outside of transactions.
        Their replies' bytes go to `ended`, perhaps at once; or what was raised that must not be. None where it cannot
        be, and nothing was begun."""
        if self.queue is not None or not self.is_authenticated or self.channels or self.patterns:
            return None
        commands: list[Command] = []
        for arguments in requests:
            command = find(arguments[0])
            if command is None or command.kind != "steps" or command.check(arguments) is not None:
                return None
            commands.append(command)
        gateway, protocols = self.gateway, [self.resp3] * len(requests)
        gateway.commands_count += len(requests)
        self.last_command = commands[-1].name
        replies: list[Any] = [None] * len(requests)
        together: list[Numbered] = []
        for number, arguments in enumerate(requests):
            call = self._call(commands[number], arguments)
            if isinstance(call, Fault):
                replies[number] = call
            else:
                together.append((number, call))

        def finish(bug: Exception | None) -> None:
            ended(_encoded(replies, protocols) if bug is None else bug)

        running = Running(gateway.client, gateway.deadlines, together, replies, finish)
        running.start()
        return running

    async def run(self, requests: list[list[bytes]], *, queues: bool) -> tuple[list[Any], list[bool]]:
        """Run requests in order: each one's reply, and whether it goes out in RESP3. `queues`: those after MULTI wait
        for EXEC."""
        gateway = self.gateway
        replies: list[Any] = [None] * len(requests)
        protocols: list[bool] = []
        together: list[Numbered] = []
        for number, arguments in enumerate(requests):
            protocols.append(self.resp3)
            if self.is_ending:
                del replies[number:], protocols[number:]
                break
            command = self._checked(arguments, queues)
            if isinstance(command, Fault | str):
                replies[number] = command
                continue
            gateway.commands_count += 1
            call = self._call(command, arguments)
            if isinstance(call, Fault):
                replies[number] = call
                continue
            if command.kind == "steps":
                together.append((number, call))
                if len(together) == CALLS_MAX:
                    await run_calls(gateway.client, gateway.deadlines, together, replies)
                    together = []
                continue
            if command.kind == "alone" and together:
                await run_calls(gateway.client, gateway.deadlines, together, replies)
                together = []
            try:
                reply = command.run(call)
                replies[number] = await reply if command.kind == "alone" else reply
            except Fault as fault:
                replies[number] = fault
            except QuorumCacheError as error:
                replies[number] = fault_of(error)
            protocols[number] = self.resp3
        if together:
            await run_calls(gateway.client, gateway.deadlines, together, replies)
        return replies, protocols

    def _call(self, command: Command, arguments: list[bytes]) -> Call | Fault:
        """The command as it is to run, in the database that its keys' prefixes name; or why it cannot."""
        call = Call(command, arguments, self, self.gateway.databases[self.database])
        if not call.database.routes:
            return call
        try:
            return routed(call)
        except Fault as fault:
            return fault

    def _checked(self, arguments: list[bytes], queues: bool) -> Command | Fault | str:
        """The command to run now; or what to answer at once."""
        command = find(arguments[0])
        fault = unknown_command(arguments) if command is None else command.check(arguments)
        if fault is not None or command is None:
            self.is_spoilt = True
            return fault or unknown_command(arguments)
        self.last_command = command.name
        flags = command.flags
        if not self.is_authenticated and "no_auth" not in flags:
            return Fault(NO_AUTH)
        if not self.resp3 and "pubsub_context" not in flags and (self.channels or self.patterns):
            return Fault(
                f"ERR Can't execute '{command.name}': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are "
                "allowed in this context"
            )
        if queues and self.queue is not None and "no_multi" not in flags:
            return self._queued(self.queue, arguments)
        return command

    def _queued(self, queue: list[list[bytes]], arguments: list[bytes]) -> Fault | str:
        self.queue_bytes += sum(map(len, arguments)) + 64 * len(arguments)
        if len(queue) >= QUEUE_MAX or self.queue_bytes > QUEUE_BYTES_MAX:
            self.is_spoilt = True
            return Fault(f"ERR a transaction has at most {QUEUE_MAX} commands and {QUEUE_BYTES_MAX} bytes here")
        queue.append(arguments)
        return "QUEUED"


def _encoded(replies: list[Any], protocols: list[bool]) -> bytes:
    """Replies' bytes; each in RESP3 where `protocols` says so."""
    out: list[bytes] = []
    for reply, resp3 in zip(replies, protocols, strict=True):
        encode(out, reply, resp3)
    return b"".join(out)
