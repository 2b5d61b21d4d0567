"""What one seed lets happen: which faults when, which operations by whom, who lies and how. Drawn before the run.

A plan is plain data, so that a failing one can be made smaller and run again. It must not know how any of it is done.
"""

from __future__ import annotations

import random
from typing import Final

import msgspec

from sim.exact import steps_of
from sim.settings import FEATURES, SimConfig

#: One operation: kind ("read", "write", "delete"), the key's number, time to live in microseconds (0: none), full read.
#: From KEYED on, key numbers are those of keys with fields, and kinds are those of sim/keyed.py.
OpPlan = tuple[str, int, int, bool]
#: A client's next move: its number, its lane, what to wait for before (microseconds), operations to start together.
Step = tuple[int, int, int, tuple[OpPlan, ...]]
#: Offset from the start, kind, target, duration (both in microseconds), and a number whose meaning the kind tells.
FaultPlan = tuple[int, str, int, int, int]

_CHANCE: Final = {
    "loss": 0.3,
    "lateness": 0.3,
    "duplication": 0.2,
    "partition": 0.35,
    "one_way": 0.35,
    "crash": 0.35,
    "wipe": 0.45,
    "slow": 0.3,
    "clock_step": 0.3,
    "client_crash": 0.4,
    "evict": 0.35,
    "expire": 0.2,
    "delete": 0.25,
    "few_promises": 0.15,
    "burst": 0.25,
    "shared_writer": 0.25,
    "contention": 0.35,
    "lull": 0.3,
    "far": 0.2,
    "ambush": 0.25,
    "revoke": 0.2,
}
#: How many operations a plan has at most; a longer run's further ones are drawn when these have been played.
STRETCH: Final = 20_000
#: The number of the first key with fields, and that of the first one that is written by compare-and-set.
KEYED: Final = 1000
EXACT: Final = 2000
#: The number of the first key in mode primary.
DIRECT: Final = 3000
_TYPES_CHANCE: Final = 0.5
_UPKEEP_CHANCE: Final = {"large": 0.25, "repair": 0.3, "cold": 0.3, "rolling": 0.1, "exact": 0.3, "primary": 0.2}
_EPOCHS_CHANCE: Final = 0.25
#: What epochs do not go with: no values from a disk, and two kinds of epochs are one too many. With compare-and-set
#: only where both are asked for: then nodes keep their places (protocol 17).
_NO_EPOCHS: Final = ("cold", "exact", "revoke")
#: How many nodes there are that epochs may have join.
SPARES: Final = 3
_ORDER_US: Final = 500_000
_TYPES: Final = ("set", "map", "counter", "siblings")
_FAULTS: Final = ("partition", "one_way", "crash", "wipe", "slow", "clock_step", "client_crash", "ambush")
_HINDERING: Final = (
    *("loss", "lateness", "partition", "one_way", "crash", "wipe", "slow", "revoke", "ambush", "rolling", "epochs"),
)
_LOSING: Final = ("partition", "one_way", "crash", "wipe", "slow", "revoke", "ambush", "evict", "few_promises")
_DISTURBING: Final = (*_HINDERING, "evict", "expire")


class Pace(msgspec.Struct, frozen=True):
    """How a run's clients move: the share of reads, the key that all want under contention, and so on."""

    reads: float
    favourite: int
    lanes: int
    think_us: int


class Plan(msgspec.Struct, frozen=True):
    """All decisions of a run that are not the network's. Times are in microseconds."""

    features: tuple[str, ...]
    topology: str
    keys: int
    shards: int
    max_skew_us: int
    op_time_us: int
    grace_us: int
    byzantine: tuple[int, ...]
    lies: tuple[tuple[str, ...], ...]
    lie_percent: tuple[int, ...]
    byzantine_writers: int
    schemes: tuple[tuple[str, ...], ...]
    scheme_gap_us: int
    entries_max: int
    promises_max: int
    span_us: int
    steps: tuple[Step, ...]
    faults: tuple[FaultPlan, ...]
    pace: Pace
    #: Operations beyond those of `steps` (see `further`).
    later: int = 0
    #: The scripted situation that is played beside the rest (sim/dramas/), or "".
    drama: str = ""
    #: The types of the keys with fields, in the order of their numbers.
    types: tuple[str, ...] = ()
    #: How many keys are written by compare-and-set.
    exact: int = 0
    #: How many keys are in mode primary, and how many nodes a write of theirs has to reach.
    direct_keys: int = 0
    direct_ack: int = 1
    #: How many nodes there are beyond those that the run begins with.
    spares: int = 0


def calm(plan: Plan) -> bool:
    """Whether correct nodes answer within the grace time throughout, and nothing is lost but by the adversary."""
    wide = plan.topology == "regions"
    quiet = not plan.drama and not any(name in plan.features for name in (*_DISTURBING, "far"))
    return plan.grace_us >= (400_000 if wide else 20_000) and quiet


def reachable(plan: Plan) -> bool:
    """Whether all correct nodes can be reached and answer at once, throughout, and have room."""
    # With room for a few entries only, a write may meet FULL for as long as those are young, time and again.
    hindered = plan.drama or any(name in plan.features for name in (*_HINDERING, "few_promises", "evict"))
    return plan.topology != "regions" and not hindered


def compares(plan: Plan) -> bool:
    """Whether nodes compare themselves with peers, and end with the same: where they have room, and drop nothing."""
    return "repair" in plan.features and not any(name in plan.features for name in ("evict", "revoke", "epochs"))


def keeps_state(plan: Plan) -> bool:
    """Whether no node ever starts without what it stored."""
    return not plan.drama and not any(name in plan.features for name in ("wipe", "ambush", "rolling"))


def lossless(plan: Plan) -> bool:
    """Whether no more happens to nodes than a rolling restart, and nobody lies."""
    quiet = not plan.byzantine and not plan.byzantine_writers and not plan.drama
    quiet = quiet and not ("epochs" in plan.features and "rolling" in plan.features)
    return quiet and not any(name in plan.features for name in (*_LOSING, "delete", "expire", "lull"))


def _with(features: tuple[str, ...], also: tuple[str, ...]) -> tuple[str, ...]:
    """These features and those, without what the latter exclude (below)."""
    gone: dict[str, tuple[str, ...]] = {
        "primary": ("evict",),
        "exact": ("revoke", "types"),
        "revoke": ("exact",),
        "types": ("exact",),
    }
    gone |= {"evict": ("primary",), "epochs": _NO_EPOCHS, "cold": ("epochs",)}
    gone["exact"] += ("epochs",)
    gone["revoke"] += ("epochs",)
    excluded = {name for one in also for name in gone.get(one, ())}.difference(also)
    return tuple(name for name in FEATURES if (name in features and name not in excluded) or name in also)


def plan_of(config: SimConfig, seed: int) -> Plan:
    """The plan that this seed gives under this configuration."""
    from sim.adversary.epochlies import EPOCH_LIES
    from sim.adversary.exact import EXACT_LIES, EXACT_SCHEMES
    from sim.adversary.keylies import KEY_LIES
    from sim.adversary.keyschemes import KEY_SCHEMES
    from sim.adversary.lies import LIES
    from sim.adversary.proofs import PROOF_LIES, PROOF_SCHEMES
    from sim.adversary.writers import SCHEMES
    from sim.dramas import DRAMAS, EPOCHS, TYPES

    draw = random.Random(f"{seed} plan")
    drama = config.drama or ""
    if drama == "any":
        # From a stream of its own, so that nothing else that a seed draws changes.
        drama = random.Random(f"{seed} which drama").choice(tuple(DRAMAS))
    features: tuple[str, ...]
    if config.features is not None:
        features = tuple(name for name in FEATURES if name in config.features)
        if "revoke" in features:
            features = tuple(name for name in features if name != "exact")  # Epochs leave it out (protocol 17).
        if "epochs" in features:
            features = tuple(name for name in features if name == "exact" or name not in _NO_EPOCHS)
        calm = not any(name in features for name in _DISTURBING)
    else:
        calm = draw.random() < 0.2
        features = tuple(
            name
            for name in FEATURES
            if name in _CHANCE
            and draw.random() < _CHANCE[name]
            and not (calm and (name in _DISTURBING or name == "far"))
        )
        if random.Random(f"{seed} types or not").random() < _TYPES_CHANCE:
            features = (*features, "types")
        # From streams of their own: what else a seed draws does not change.
        features += tuple(
            name
            for name in FEATURES
            if random.Random(f"{seed} {name} or not").random() < _UPKEEP_CHANCE.get(name, 0.0)
            and not (calm and name in _DISTURBING)
        )
        if not calm and random.Random(f"{seed} epochs or not").random() < _EPOCHS_CHANCE:
            features += ("epochs",) if not any(name in features for name in _NO_EPOCHS) else ()
        if config.also:
            features, calm = _with(features, config.also), calm and not any(n in _DISTURBING for n in config.also)
        if "evict" in features:
            # Nodes with room for a few entries have none for another namespace's.
            features = tuple(name for name in features if name != "primary")
        if "revoke" in features or "types" in features:
            # Groups stay as they are (protocol 17); and a plan is about the ones or the others.
            features = tuple(name for name in features if name != "exact")
    if drama in EPOCHS:
        features = tuple(name for name in FEATURES if name == "epochs" or (name in features and name not in _NO_EPOCHS))
    elif drama:
        features = tuple(name for name in features if name != "epochs")  # Its nodes keep their places.
    topology = config.topology or draw.choices(("rack", "zones"), (3, 1))[0]
    wide = topology == "regions"
    op_time_us = 1000 * (config.op_time_ms or (3000 if wide else 500))
    grace_us = 1000 * config.grace_ms if config.grace_ms is not None else (400_000 if wide else 60_000)
    grace_us = min(grace_us, op_time_us)
    keys = config.keys or draw.choice((1, 1, 2, 3, 4))
    shards = config.shards or draw.choice((1, 1, 2, 4))

    most = config.nodes if config.over else config.f
    wanted = config.byzantine_nodes
    if wanted is None:
        wanted = config.f + 1 if config.over else (config.f if draw.random() < 0.85 else draw.randint(0, config.f))
    if drama:
        wanted = config.f
    byzantine = tuple(sorted(draw.sample(range(config.nodes), min(wanted, most))))
    lies = tuple(_some(draw, tuple(LIES)) if config.lies is None else config.lies for _ in byzantine)
    lie_percent = tuple(draw.choice((100, 100, 60, 30)) for _ in byzantine)
    writers = config.byzantine_writers
    if writers is None:
        writers = draw.choice((0, 0, 1, 1, 2))
    if drama:
        writers = max(1, writers)
    schemes = tuple(_some(draw, tuple(SCHEMES)) if config.schemes is None else config.schemes for _ in range(writers))

    lanes = draw.choice((1, 1, 2)) if "burst" not in features else draw.choice((2, 3))
    pace = Pace(draw.choice((0.3, 0.5, 0.7)), draw.randrange(keys), lanes, 0)
    first = min(config.operations, STRETCH)
    steps = _steps(draw, config, features, keys, pace, first)
    per_lane = max(1, config.operations // (config.clients * lanes))
    think_us = draw.choice((5_000, 20_000, 60_000)) * (5 if wide else 1)
    span_us = per_lane * (think_us + (300_000 if wide else 8_000)) + 200_000
    if "lull" in features:
        span_us += 4 * (op_time_us + 2_000 * config.max_skew_ms)
    if "rolling" in features:
        span_us += config.nodes * (3 * op_time_us + 200_000)  # Each waits 2 op_time until it asks for what it had.
    orders, spares = 0, 0
    if "epochs" in features:
        # From a stream of its own, as below.
        changing = random.Random(f"{seed} epochs")
        orders, spares = 0 if drama else changing.choice((1, 1, 2, 3)), 0 if "exact" in features else SPARES
        span_us += _ORDER_US * orders
        evil = tuple(number for number in range(config.nodes, config.nodes + spares) if changing.random() < 0.3)
        evil = evil if config.byzantine_nodes is None and config.f and not drama else ()
        byzantine += evil
        lies += tuple(_some(changing, tuple(LIES)) if config.lies is None else config.lies for _ in evil)
        lie_percent += tuple(changing.choice((100, 100, 60, 30)) for _ in evil)
        if config.lies is None:
            lies = tuple((*some, *_some(changing, tuple(EPOCH_LIES))) for some in lies)
    pace = msgspec.structs.replace(pace, think_us=think_us)
    types: tuple[str, ...] = ()
    if "types" in features:
        # From a stream of its own: plans without types are what they were before there were any.
        typed = random.Random(f"{seed} types")
        types = tuple(typed.choice(_TYPES) for _ in range(typed.choice((1, 1, 2, 3))))
        steps = _typed(typed, steps, types, features)
        if config.lies is None:
            lies = tuple((*some, *_some(typed, tuple(KEY_LIES))) for some in lies)
        if config.schemes is None:
            schemes = tuple((*some, *_some(typed, tuple(KEY_SCHEMES))) for some in schemes)
    exact = 0
    if "exact" in features:
        chosen = random.Random(f"{seed} exact")
        exact = chosen.choice((1, 1, 2))
        steps = steps_of(chosen, steps, exact, EXACT, expires="expire" in features or chosen.random() < 0.5)
        if config.lies is None:
            lies = tuple((*some, *_some(chosen, tuple(EXACT_LIES))) for some in lies)
        if config.schemes is None:
            schemes = tuple((*some, *_some(chosen, tuple(EXACT_SCHEMES))) for some in schemes)
        proving = random.Random(f"{seed} proofs")
        if config.lies is None and proving.random() < 0.4:
            lies = tuple((*some, *PROOF_LIES) for some in lies)
        if config.schemes is None and proving.random() < 0.4:
            schemes = tuple((*some, *PROOF_SCHEMES) for some in schemes)
    if TYPES.get(drama) == "exact":
        exact += 1  # The last one, which no step of the plan is about.
    elif drama in TYPES:
        types = (*types, TYPES[drama])
    direct_keys, direct_ack = 0, 1
    if "primary" in features:
        # From a stream of its own, as above.
        direct = random.Random(f"{seed} primary")
        direct_keys, direct_ack = direct.choice((1, 3, 6)), direct.randint(1, config.f + 1)
        steps = _direct(direct, steps, direct_keys, features)
    return Plan(
        features=features,
        topology=topology,
        keys=keys,
        shards=shards,
        max_skew_us=1000 * config.max_skew_ms,
        op_time_us=op_time_us,
        grace_us=grace_us,
        byzantine=byzantine,
        lies=lies,
        lie_percent=lie_percent,
        byzantine_writers=writers,
        schemes=schemes,
        scheme_gap_us=max(20_000, span_us // draw.choice((10, 25, 60))),
        entries_max=draw.choice((1, 2, 3)) if "evict" in features else 0,
        promises_max=draw.choice((3, 6, 12)) if "few_promises" in features else 0,
        span_us=span_us,
        steps=_timed(steps, pace),
        faults=tuple(sorted(_faults(draw, config, features, span_us, op_time_us) + _orders(seed, orders, span_us))),
        pace=pace,
        later=config.operations - first,
        drama=drama,
        types=types,
        exact=exact,
        direct_keys=direct_keys,
        direct_ack=direct_ack,
        spares=spares,
    )


def further(plan: Plan, config: SimConfig, seed: int, played: int) -> tuple[Step, ...]:
    """The next steps of a long run, of whose `later` operations so many were played; all of them on registers."""
    draw = random.Random(f"{seed} steps after {played}")
    count = min(plan.later - played, STRETCH)
    return _timed(_steps(draw, config, plan.features, plan.keys, plan.pace, count), plan.pace)


def _timed(steps: tuple[Step, ...], pace: Pace) -> tuple[Step, ...]:
    return tuple((c, lane, int(pace.think_us * wait / 1000), ops) for c, lane, wait, ops in steps)


def _some(draw: random.Random, names: tuple[str, ...]) -> tuple[str, ...]:
    count = min(len(names), draw.choice((1, 2, 3, 5, len(names))))
    chosen = set(draw.sample(range(len(names)), count))
    return tuple(name for number, name in enumerate(names) if number in chosen)


def _steps(
    draw: random.Random, config: SimConfig, features: tuple[str, ...], keys: int, pace: Pace, count: int
) -> tuple[Step, ...]:
    """The clients' moves, `count` operations in all; waits come out in thousandths of the think time."""
    burst = "burst" in features
    steps: list[Step] = []
    started = 0
    while started < count:
        client, lane = draw.randrange(config.clients), draw.randrange(pace.lanes)
        size = draw.choice((1, 1, 2, 4)) if burst else 1
        ops: list[OpPlan] = []
        for _ in range(min(size, count - started)):
            key = pace.favourite if "contention" in features and draw.random() < 0.8 else draw.randrange(keys)
            if draw.random() < pace.reads:
                ops.append(("read", key, 0, draw.random() < 0.2))
            elif "delete" in features and draw.random() < 0.2:
                ops.append(("delete", key, 0, False))
            else:
                ttl_us = 0
                if "expire" in features and draw.random() < 0.4:
                    ttl_us = draw.choice((10_000, 100_000, 400_000))
                ops.append(("write", key, ttl_us, False))
        wait = int(1000 * draw.expovariate(1.0))
        if "lull" in features and draw.random() < 0.02:
            wait += 20_000
        steps.append((client, lane, wait, tuple(ops)))
        started += len(ops)
    return tuple(steps)


def _typed(
    draw: random.Random, steps: tuple[Step, ...], types: tuple[str, ...], features: tuple[str, ...]
) -> tuple[Step, ...]:
    """The same moves, most of them about keys with fields instead of registers."""
    ends = draw.choice((0.0, 0.02, 0.08)) if "delete" not in features else 0.1
    members = draw.choice((1, 2, 4))
    turned: list[Step] = []
    for client, lane, wait, ops in steps:
        typed_ops: list[OpPlan] = []
        for op in ops:
            if draw.random() < 0.25:
                typed_ops.append(op)
                continue
            number = draw.randrange(len(types))
            member = draw.randrange(members)
            chance = draw.random()
            if op[0] == "read":
                keeps = types[number] in ("set", "map") and chance < 0.4
                kind = f"get {member}" if keeps else "read"
            elif chance < ends:
                kind = "drop"
            elif chance < ends + 0.05:
                kind = "touch"
            elif types[number] == "counter":
                kind = f"add {draw.choice((1, 1, 2, 5, -1, -3))}"
            elif types[number] == "siblings":
                kind = draw.choice(("resolve", "resolve", "blind"))
            else:
                kind = f"{draw.choice(('put', 'put', 'remove'))} {member}"
            ttl_us = op[2] or (
                draw.choice((20_000, 100_000, 400_000)) if kind == "touch" and "expire" in features else 0
            )
            typed_ops.append((kind, KEYED + number, ttl_us, False))
        turned.append((client, lane, wait, tuple(typed_ops)))
    return tuple(turned)


def _direct(draw: random.Random, steps: tuple[Step, ...], keys: int, features: tuple[str, ...]) -> tuple[Step, ...]:
    """The same moves, part of them about keys in mode primary."""
    share = draw.choice((0.3, 0.6))
    turned: list[Step] = []
    for client, lane, wait, ops in steps:
        mixed: list[OpPlan] = []
        for op in ops:
            if draw.random() >= share:
                mixed.append(op)
                continue
            kind = "read" if op[0] == "read" or op[0].startswith("get") else "write"
            if kind == "write" and "delete" in features and draw.random() < 0.2:
                kind = "delete"
            ttl_us = op[2] if kind == "write" and "expire" in features else 0
            mixed.append((kind, DIRECT + draw.randrange(keys), ttl_us, draw.random() < 0.2))
        turned.append((client, lane, wait, tuple(mixed)))
    return tuple(turned)


def _orders(seed: int, count: int, span_us: int) -> tuple[FaultPlan, ...]:
    """When administrators order an epoch."""
    draw = random.Random(f"{seed} orders")
    return tuple((draw.randrange(span_us // 10, span_us), "epoch", 0, 0, draw.getrandbits(30)) for _ in range(count))


def _faults(
    draw: random.Random, config: SimConfig, features: tuple[str, ...], span_us: int, op_time_us: int
) -> tuple[FaultPlan, ...]:
    kinds = [kind for kind in _FAULTS if kind in features]
    faults: list[FaultPlan] = []
    for _ in range(config.faults if kinds else 0):
        kind = draw.choice(kinds)
        target = draw.randrange(config.clients if kind == "client_crash" else config.nodes)
        longest = draw.choice((op_time_us // 10, op_time_us, 2 * op_time_us))
        faults.append((draw.randrange(span_us), kind, target, draw.randint(1000, longest), draw.getrandbits(30)))
    if "rolling" in features:
        rolled = random.Random(f"{draw.random()} rolling")
        faults.append((rolled.randrange(span_us // 2), "rolling", 0, 0, rolled.getrandbits(30)))
    if "revoke" in features:
        faults.append((draw.randrange(span_us // 4, span_us), "revoke", 0, 0, draw.getrandbits(30)))
    return tuple(sorted(faults))
