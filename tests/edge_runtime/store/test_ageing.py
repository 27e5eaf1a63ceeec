"""The store's clock follows the wall clock, and no jump of it revives an example or makes it old at once."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.example_store.ageing import CONFIRMATION_S, LEAP_S, StoreClock, looked, presumed_s

NOW_S = 1_800_000_000.0
DAY_S = 86_400.0
WALLS = st.lists(st.integers(0, 4 * 10**9).map(float), min_size=1, max_size=20)
STEPS = st.lists(st.floats(0, LEAP_S / 2), max_size=40)
START = StoreClock(NOW_S, NOW_S)


def after(clock: StoreClock, *walls: float) -> StoreClock:
    for wall in walls:
        clock = looked(clock, wall)
    return clock


@given(walls=WALLS)
def test_the_stores_time_never_goes_back(walls: list[float]) -> None:
    clock = START
    for wall in walls:
        assert presumed_s(clock, wall) >= clock.time_s
        later = looked(clock, wall)
        assert later.time_s >= clock.time_s
        assert later.time_s <= presumed_s(clock, wall) + 1e-3
        clock = later


@given(steps=STEPS)
def test_without_jumps_it_is_the_wall_clock(steps: list[float]) -> None:
    clock, wall = START, NOW_S
    for step in steps:
        wall += step
        clock = looked(clock, wall)
        assert abs(clock.time_s - wall) < 1e-3
        assert clock.leapt_to_s is None


@given(back_s=st.floats(1, 60 * 365 * DAY_S / 2), steps=STEPS)
def test_a_clock_that_is_set_back_goes_on_from_where_it_was(back_s: float, steps: list[float]) -> None:
    clock, wall = looked(START, NOW_S - back_s), NOW_S - back_s
    assert clock.time_s == NOW_S
    for step in steps:
        wall += step
        clock = looked(clock, wall)
    assert abs(clock.time_s - (NOW_S + sum(steps))) < 1e-2


@given(leap_s=st.floats(LEAP_S * 1.01, 1e9), looks=st.lists(st.floats(0, CONFIRMATION_S * 0.99), max_size=10))
def test_a_leap_that_is_taken_back_within_the_hour_never_was(leap_s: float, looks: list[float]) -> None:
    clock = after(START, NOW_S + leap_s, *(NOW_S + leap_s + look for look in sorted(looks)))
    assert clock.time_s == NOW_S
    assert presumed_s(clock, NOW_S + leap_s) == NOW_S + leap_s
    assert looked(clock, NOW_S + 60) == StoreClock(NOW_S + 60, NOW_S + 60)


@given(leap_s=st.floats(LEAP_S * 1.01, 1e9))
def test_a_leap_is_believed_after_an_hour(leap_s: float) -> None:
    later = NOW_S + leap_s
    clock = after(START, later, later + CONFIRMATION_S)
    assert clock == StoreClock(later + CONFIRMATION_S, later + CONFIRMATION_S)


def test_a_device_that_looks_once_a_day_is_one_look_behind() -> None:
    walls = [NOW_S + day * DAY_S for day in range(1, 6)]
    assert [after(START, *walls[:looks]).time_s for looks in range(1, 6)] == [NOW_S, *walls[:-1]]


def test_a_clock_that_was_wrong_for_a_while_and_comes_back_is_no_leap() -> None:
    assert after(START, 100.0, 700.0, NOW_S + 900.0).time_s == NOW_S + 600.0
    assert after(START, 100.0, 700.0, NOW_S + 900.0, NOW_S + 4500.0).time_s == NOW_S + 4500.0


def test_after_a_wrong_leap_was_believed_time_goes_on_from_there() -> None:
    ahead = NOW_S + 400 * DAY_S
    clock = after(START, ahead, ahead + CONFIRMATION_S, NOW_S)
    assert clock.time_s == ahead + CONFIRMATION_S
    week_later = after(clock, NOW_S + 7 * DAY_S, NOW_S + 7 * DAY_S + CONFIRMATION_S)
    assert week_later.time_s == ahead + CONFIRMATION_S + 7 * DAY_S + CONFIRMATION_S
