"""Commands about the connection itself: who is there, in which protocol and database."""

from __future__ import annotations

import hmac
from typing import Any, Final

from quorumcache.gateway.redis.encoding import OK
from quorumcache.gateway.redis.faults import SYNTAX, Fault, shown, unknown_subcommand, wrong_arguments
from quorumcache.gateway.redis.session import Session
from quorumcache.gateway.redis.table import Call, command
from quorumcache.gateway.redis.times import integer

#: The version of Redis whose commands and replies these are.
REDIS_VERSION: Final = "7.4.0"
FAILURES_MAX: Final = 10
_FLAGS: Final = "fast loading stale"


@command("ping", -1, f"{_FLAGS} pubsub_context", group="connection", summary="Answers PONG, or what it is given.")
def ping(call: Call) -> object:
    words = call.arguments[1:]
    if len(words) > 1:
        raise wrong_arguments("ping")
    if call.session.subscriptions and not call.session.resp3:
        return [b"pong", words[0] if words else b""]
    return words[0] if words else "PONG"


@command("echo", 2, _FLAGS, group="connection", summary="Answers what it is given.")
def echo(call: Call) -> object:
    return call.arguments[1]


@command("select", 2, _FLAGS, group="connection", summary="Goes to another database.")
def select(call: Call) -> object:
    try:
        number = integer(call.arguments[1])
    except Fault:
        raise Fault("ERR invalid DB index") from None
    if number not in call.session.gateway.databases:
        raise Fault("ERR DB index is out of range")
    call.session.database = number
    return OK


@command("quit", -1, f"{_FLAGS} no_auth no_multi pubsub_context", group="connection", summary="Closes the connection.")
def quit_(call: Call) -> object:
    call.session.is_ending = True
    return OK


@command(
    "reset", 1, f"{_FLAGS} no_auth no_multi pubsub_context", group="connection", summary="Begins as a new connection."
)
def reset(call: Call) -> object:
    session = call.session
    session.gateway.channels.forget(session)
    session.reset()
    session.is_authenticated = session.gateway.settings.password is None
    return "RESET"


def _authenticate(session: Session, user: bytes, password: bytes) -> None:
    expected = session.gateway.settings.password
    assert expected is not None
    # Both are compared always: how long it takes must tell nothing.
    matches = hmac.compare_digest(password, expected.encode())
    if not (user == b"default" and matches):
        session.failures += 1
        session.is_ending = session.failures >= FAILURES_MAX
        raise Fault("WRONGPASS invalid username-password pair or user is disabled.")
    session.is_authenticated = True


@command("auth", -2, f"{_FLAGS} no_auth", group="connection", summary="Says who is there: AUTH [default] PASSWORD.")
def auth(call: Call) -> object:
    words = call.arguments[1:]
    if len(words) > 2:
        raise wrong_arguments("auth")
    if call.session.gateway.settings.password is None:
        if len(words) == 2 and words[0] == b"default":
            return OK  # As Redis does for a user who needs none.
        raise Fault(
            "ERR AUTH <password> called without any password configured for the default user. "
            "Are you sure your configuration is correct?"
        )
    _authenticate(call.session, words[0] if len(words) == 2 else b"default", words[-1])
    return OK


@command("hello", -1, f"{_FLAGS} no_auth", group="connection", summary="Chooses the protocol: 2 or 3.")
def hello(call: Call) -> object:
    session, words = call.session, call.arguments[1:]
    resp3 = session.resp3
    if words:
        try:
            version = integer(words[0])
        except Fault:
            raise Fault("ERR Protocol version is not an integer or out of range") from None
        if version not in (2, 3):
            raise Fault("NOPROTO unsupported protocol version")
        resp3 = version == 3
    name: bytes | None = None
    rest = iter(words[1:])
    for word in rest:
        option = word.upper()
        if option == b"AUTH":
            user, password = next(rest, None), next(rest, None)
            if user is None or password is None:
                raise Fault(f"ERR Syntax error in HELLO option '{shown(word)}'")
            if session.gateway.settings.password is not None:
                _authenticate(session, user, password)
            elif user != b"default":
                raise Fault("WRONGPASS invalid username-password pair or user is disabled.")
        elif option == b"SETNAME":
            name = next(rest, None)
            if name is None:
                raise Fault(f"ERR Syntax error in HELLO option '{shown(word)}'")
        else:
            raise Fault(f"ERR Syntax error in HELLO option '{shown(word)}'")
    if not session.is_authenticated:
        raise Fault(
            "NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO <proto> AUTH "
            "<user> <pass> option can be used to authenticate the client and select the RESP protocol version at the "
            "same time"
        )
    if name is not None:
        _set_name(session, name)
    session.resp3 = resp3
    return {
        b"server": b"redis",
        b"version": REDIS_VERSION.encode(),
        b"proto": 3 if resp3 else 2,
        b"id": session.id,
        b"mode": b"standalone",
        b"role": b"master",
        b"modules": [],
    }


def _set_name(session: Session, name: bytes) -> None:
    if not all(33 <= byte <= 126 for byte in name):
        raise Fault("ERR Client names cannot contain spaces, newlines or special characters.")
    session.name = name[:256]


def _line(session: Session) -> str:
    now_s = session.gateway.loop.time()
    fields: dict[str, Any] = {
        "id": session.id,
        "addr": session.address,
        "laddr": f"{session.gateway.settings.host}:{session.gateway.port}",
        "name": session.name.decode(),
        "age": int(now_s - session.began_s),
        "idle": int(now_s - session.active_s),
        "flags": "P" if session.subscriptions else "x" if session.queue is not None else "N",
        "db": session.database,
        "sub": len(session.channels),
        "psub": len(session.patterns),
        "multi": len(session.queue) if session.queue is not None else -1,
        "cmd": session.last_command or "NULL",
        "user": "default",
        "resp": 3 if session.resp3 else 2,
        "lib-name": session.library[0],
        "lib-ver": session.library[1],
    }
    return " ".join(f"{name}={value}" for name, value in fields.items())


@command("client", -2, "loading stale", group="connection", summary="Tells of connections; names this one.")
def client(call: Call) -> object:
    session = call.session
    subcommand, words = call.arguments[1].upper().decode("ascii", "replace"), call.arguments[2:]
    wanted = {"ID": 0, "GETNAME": 0, "SETNAME": 1, "SETINFO": 2, "INFO": 0, "NO-EVICT": 1, "NO-TOUCH": 1, "HELP": 0}
    if subcommand in wanted and len(words) != wanted[subcommand]:
        raise wrong_arguments(f"client|{subcommand}")
    match subcommand:
        case "ID":
            return session.id
        case "GETNAME":
            return session.name or None
        case "SETNAME":
            _set_name(session, words[0])
            return OK
        case "SETINFO":
            return _set_info(session, words[0], words[1])
        case "INFO":
            return f"{_line(session)}\n".encode()
        case "LIST":
            lines = [_line(connection.session) for connection in session.gateway.connections]
            return "".join(f"{line}\n" for line in lines).encode()
        case "NO-EVICT" | "NO-TOUCH":
            if words[0].upper() not in (b"ON", b"OFF"):
                raise Fault(SYNTAX)
            return OK
        case "HELP":
            return [b"CLIENT ID, GETNAME, SETNAME, SETINFO, INFO, LIST, NO-EVICT, NO-TOUCH"]
    raise unknown_subcommand("client", call.arguments[1])


def _set_info(session: Session, name: bytes, value: bytes) -> object:
    attribute = name.lower()
    if attribute not in (b"lib-name", b"lib-ver"):
        raise Fault(f"ERR Unrecognized option '{shown(name)}'")
    if len(value) > 256 or not all(33 <= byte <= 126 for byte in value):
        raise Fault(f"ERR {shown(attribute)} cannot contain spaces, newlines or special characters.")
    library, version = session.library
    session.library = (value.decode(), version) if attribute == b"lib-name" else (library, value.decode())
    return OK
