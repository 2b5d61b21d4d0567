"""Virtual time: clocks that can be waited for, and a world that notices when time stands still."""

from hypothesis import given
from hypothesis import strategies as st

from sim import scenarios
from sim.results import run
from sim.world import Stopwatch, World


@given(
    drift_ppm=st.integers(-200_000, 200_000),
    origin_us=st.integers(0, 1 << 50),
    wait_us=st.integers(1, 10**12),
)
def test_a_stopwatch_shows_what_is_waited_for_at_the_time_that_it_names_and_not_before(
    drift_ppm: int, origin_us: int, wait_us: int
) -> None:
    world = World(1)
    watch = Stopwatch(world, origin_us, drift_ppm)
    wanted_us = watch.read_us() + wait_us
    due_us = watch.when_us(wanted_us)
    world.now_us = due_us
    assert watch.read_us() >= wanted_us
    world.now_us = due_us - 1
    assert watch.read_us() < wanted_us


def test_a_world_in_which_something_wakes_at_one_instant_for_ever_stops() -> None:
    world = World(1)

    def again(first: object, second: object) -> None:
        world.at(world.now_us, again)

    world.at(world.now_us, again)
    world.run_until(world.now_us + 1)
    assert world.stuck
    assert world.stopped


def test_a_wide_area_seed_that_once_stood_still_ends() -> None:
    """Seeds 1, 3, 6, 8 and 10 of "regions" woke a client a microsecond early, for ever."""
    found = run(scenarios.load("regions"), 1)
    assert not found.violations
    assert found.end_us - found.start_us > 10_000_000
