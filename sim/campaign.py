"""Many seeds, on one or several processes: which fail, and how to replay them. Results come in the order of seeds."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import NamedTuple

from sim.results import run
from sim.settings import SimConfig

_CHUNK = 8


class Result(NamedTuple):
    """What is left of one seed's run. `checker` and `text` are empty where nothing was violated."""

    seed: int
    digest: str
    checker: str
    text: str
    ops: int
    messages: int
    undecided: int
    virtual_s: float
    wall_s: float


def run_chunk(config: SimConfig, seeds: Sequence[int]) -> list[Result]:
    """Some seeds, one after another, in this process."""
    results = []
    for seed in seeds:
        found = run(config, seed)
        violation = found.violations[0] if found.violations else None
        results.append(
            Result(
                seed,
                found.digest,
                violation.checker if violation else "",
                violation.text if violation else "",
                found.op_count,
                found.message_count,
                found.undecided,
                (found.end_us - found.start_us) / 1e6,
                found.wall_s,
            )
        )
    return results


def results_of(config: SimConfig, seeds: range, *, jobs: int = 1) -> Iterator[Result]:
    """Run seeds and give each result as soon as it and all before it are there."""
    if jobs <= 1:
        for seed in seeds:
            yield from run_chunk(config, [seed])
        return
    chunks = [seeds[at : at + _CHUNK] for at in range(0, len(seeds), _CHUNK)]
    with ProcessPoolExecutor(max_workers=min(jobs, 4 * (os.cpu_count() or 1))) as pool:
        # A bounded number of chunks at a time: a million seeds must not be a million futures.
        ahead = 4 * jobs
        waiting = [pool.submit(run_chunk, config, chunk) for chunk in chunks[:ahead]]
        following = ahead
        while waiting:
            yield from waiting.pop(0).result()
            if following < len(chunks):
                waiting.append(pool.submit(run_chunk, config, chunks[following]))
                following += 1
