"""What can be asked of a run: sizes, faults, the adversary, the network. One frozen object.

Bad values get a clear error. What is left None is drawn by the seed. Must not know how a run works.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Final

from quorumcache.errors import Misuse
from sim.crypto import SUITES
from sim.network import TOPOLOGIES

#: What a seed switches on and off. Most bugs need some of these together and others absent, so each seed draws a set
#: ("swarm testing": Groce et al., ISSTA 2012), and its fault schedule uses only what is on.
FEATURES: Final = (
    "loss",  # messages get lost
    "lateness",  # some messages are late by up to op_time
    "duplication",  # some messages arrive twice
    "partition",  # groups of processes cannot reach each other for a while
    "one_way",  # some edges lose everything for a while, in one direction
    "crash",  # nodes crash and come back with what they stored
    "wipe",  # nodes crash and come back with nothing
    "slow",  # nodes take long to answer for a while
    "clock_step",  # clocks jump within their bounds
    "client_crash",  # clients forget everything in the middle of operations
    "evict",  # nodes have room for a few entries only
    "expire",  # some values expire soon
    "delete",  # some writes are deletes
    "few_promises",  # nodes have room for a few open promises only
    "burst",  # clients start several operations at once
    "shared_writer",  # two clients write with one key
    "contention",  # all clients are busy with one key
    "lull",  # quiet stretches, in which promises age out
    "far",  # a client that is far from all nodes
    "ambush",  # nodes lose everything just when an operation that they answered has ended
    "revoke",  # a new epoch in which a writer is revoked
    "types",  # beside registers, keys with fields: sets, maps, counters, siblings
    "large",  # keys of more than one field count as large: they are read by buckets
    "repair",  # nodes compare shards with their peers, and take what they lack
    "cold",  # nodes have values on disk, and few of them in memory
    "exact",  # beside registers, keys that are written by compare-and-set alone
    "rolling",  # all nodes lose their memory, one after another, each once those before have recovered
    "epochs",  # administrators order new epochs, and nodes and clients go over to them by themselves
    "primary",  # beside registers of quorums, keys of a namespace in mode primary
)


class BadSetting(Misuse):
    """A configuration, scenario or argument of the simulator that makes no sense: the text says which and why."""


@dataclass(frozen=True, kw_only=True)
class SimConfig:
    """A run's parameters. Counts of 0 are allowed where they make sense; None leaves the choice to the seed."""

    nodes: int = 4
    f: int = 1
    clients: int = 5
    operations: int = 200
    faults: int = 10
    #: None: 0 to f. More than f only with `over`.
    byzantine_nodes: int | None = None
    byzantine_writers: int | None = None
    over: bool = False
    #: Nodes work on requests in pieces, with others in between (sim/pieces.py).
    pieces: bool = False
    keys: int | None = None
    shards: int | None = None
    topology: str | None = None
    crypto: str = "fake"
    wire: bool = False
    #: Exactly these features, lies (of nodes) and schemes (of writers); None: drawn by the seed.
    features: tuple[str, ...] | None = None
    #: Features that every seed has besides those that it draws; it does without what they exclude.
    also: tuple[str, ...] = ()
    lies: tuple[str, ...] | None = None
    schemes: tuple[str, ...] | None = None
    #: A scripted situation to play beside all that (sim/dramas/); "any": one of them, drawn by the seed.
    drama: str | None = None
    max_skew_ms: int = 50
    op_time_ms: int | None = None
    grace_ms: int | None = None
    #: How much a run keeps in memory of what is over: operations (half of them leave when there are more, judged) and
    #: messages (of which no checker needs any).
    operations_kept: int = 100_000
    messages_max: int = 500_000

    def __post_init__(self) -> None:
        from sim.adversary.epochlies import EPOCH_LIES
        from sim.adversary.exact import EXACT_LIES, EXACT_SCHEMES
        from sim.adversary.keylies import KEY_LIES
        from sim.adversary.keyschemes import KEY_SCHEMES
        from sim.adversary.lies import LIES
        from sim.adversary.proofs import PROOF_LIES, PROOF_SCHEMES
        from sim.adversary.writers import SCHEMES

        _within("f", self.f, 0, 33)
        if self.nodes < 3 * self.f + 1:
            raise BadSetting(
                f"nodes = {self.nodes} is too few for f = {self.f}: a group has 3f+1 = {3 * self.f + 1} nodes. "
                f"Give --nodes {3 * self.f + 1} or more, or a smaller --f"
            )
        _within("nodes", self.nodes, 1, 100)
        _within("clients", self.clients, 1, 1000)
        _within("operations", self.operations, 1, 10_000_000)
        _within("faults", self.faults, 0, 100_000)
        for name, most in (("keys", 10_000), ("shards", 1024), ("byzantine_writers", 20)):
            value = getattr(self, name)
            if value is not None:
                _within(name, value, 0 if name == "byzantine_writers" else 1, most)
        if self.byzantine_nodes is not None:
            _within("byzantine_nodes", self.byzantine_nodes, 0, self.nodes)
            if self.byzantine_nodes > self.f and not self.over:
                raise BadSetting(
                    f"byzantine_nodes = {self.byzantine_nodes} is more than f = {self.f}, and nothing is promised "
                    "then. Give --over to see what breaks"
                )
        _within("max_skew_ms", self.max_skew_ms, 1, 60_000)
        if self.op_time_ms is not None:
            _within("op_time_ms", self.op_time_ms, 10, 600_000)
        if self.grace_ms is not None:
            _within("grace_ms", self.grace_ms, 0, self.op_time_ms or 500)
        _within("operations_kept", self.operations_kept, 100, 10_000_000)
        _within("messages_max", self.messages_max, 0, 100_000_000)
        if self.also and self.features is not None:
            raise BadSetting(
                "features are exactly those given, so none come on top: name all in `features`, or in `also`"
            )
        self._check_drama()
        _choice("topology", self.topology, TOPOLOGIES)
        _choice("crypto", self.crypto, SUITES)
        for name, known in (
            ("features", FEATURES),
            ("also", FEATURES),
            ("lies", (*LIES, *KEY_LIES, *EXACT_LIES, *PROOF_LIES, *EPOCH_LIES)),
            ("schemes", (*SCHEMES, *KEY_SCHEMES, *EXACT_SCHEMES, *PROOF_SCHEMES)),
        ):
            for item in getattr(self, name) or ():
                _choice(name, item, known)

    def _check_drama(self) -> None:
        from sim.dramas import DRAMAS

        if self.drama is None:
            return
        _choice("drama", self.drama, ("any", *DRAMAS))
        needs = (
            (self.f >= 1 and self.nodes == 3 * self.f + 1, "f of 1 or more, and 3f+1 nodes: one group"),
            (self.byzantine_nodes in (None, self.f), "f Byzantine nodes"),
            (self.byzantine_writers != 0, "a Byzantine writer"),
            (self.clients >= 2, "two clients or more"),
        )
        for met, need in needs:
            if not met:
                raise BadSetting(f"drama = {self.drama!r} needs {need}; change that setting, or play without it")

    def but(self, **changes: Any) -> SimConfig:
        """A copy with other values; raises BadSetting, also for names that do not exist and values of a wrong type."""
        kinds = {field.name: str(field.type) for field in fields(self)}
        clean: dict[str, Any] = {}
        for name, value in changes.items():
            kind = kinds.get(name)
            if kind is None:
                raise BadSetting(f"there is no setting {name[:80]!r}; there are {', '.join(kinds)}")
            clean[name] = _typed(name, kind, value)
        return replace(self, **clean)


def _typed(name: str, kind: str, value: Any) -> Any:
    if value is None and "None" in kind:
        return None
    if kind.startswith("tuple"):
        if isinstance(value, (list, tuple)) and all(isinstance(item, str) for item in value):
            return tuple(value)
        raise BadSetting(f"{name}: {value!r} is not a list of strings")
    wanted = {"int": int, "str": str, "bool": bool}[kind.split(" ")[0]]
    if type(value) is not wanted:
        raise BadSetting(f"{name}: {value!r} is not of the type {wanted.__name__}")
    return value


def _within(name: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise BadSetting(f"{name} = {value} is not allowed; {low} to {high}")


def _choice(name: str, value: str | None, known: tuple[str, ...]) -> None:
    if value is not None and value not in known:
        raise BadSetting(f"{name}: {value[:80]!r} is not known; there are {', '.join(known)}")
