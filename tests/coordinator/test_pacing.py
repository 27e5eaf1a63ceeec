"""Pacing: the guarantees of `pace` one by one, and four populations in virtual time beside fixed windows.

Fixed windows are the mutant: every promise of a simulated population is checked on them too, and must be broken.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
import timeit
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.core.arrivals import (
    Arrivals,
    InvalidArrivals,
    from_bytes,
    most_present,
    none_yet,
    observe,
    share_present,
)
from coordinator.core.pacing import (
    SLOTS,
    Goals,
    InvalidPacing,
    Limits,
    Load,
    Manner,
    Plan,
    Window,
    pace,
    sure_count,
    unit_of,
)
from tests.coordinator import pacing_scenes
from tests.coordinator.pacing_fleet import DAY_S, HOUR_S, MONDAY_S, Floats

LIMITS = Limits()
PAGE = Path(__file__).parents[2] / "docs" / "pacing.md"
FEW = Goals(devices=26, least=20, rounds_per_hour=1, patience_s=300)
MANY = Goals(devices=400, least=300, rounds_per_hour=20, patience_s=120)

shares = st.lists(st.floats(0, 1), min_size=24, max_size=24)


def seen(profile: list[float] | None = None, rate_per_s: float = 0.0) -> Arrivals:
    """A state in which each hour's share is known from very many visits."""
    came = tuple(1e6 * share for share in profile or [1.0] * 24)
    return Arrivals(seen_at_s=MONDAY_S, rate_per_s=rate_per_s, came=came, expected=(1e6,) * 24)


limits = st.builds(
    lambda shortest, often, idle, longest, busy: Limits(
        shortest_s=shortest, often_s=shortest * often, idle_s=shortest * often * idle,
        longest_s=shortest * often * idle * longest, busy_share=busy,
    ),
    st.floats(1, 600), st.floats(1, 60), st.floats(1, 10), st.floats(2, 10), st.floats(0.1, 1),
)  # fmt: skip
goals = st.none() | st.builds(
    lambda least, more, rounds, patience, opening: Goals(
        devices=least + more, least=least, rounds_per_hour=rounds, patience_s=patience,
        opening_s=None if opening is None else MONDAY_S + opening,
    ),
    st.integers(1, 5000), st.integers(0, 5000), st.floats(0.01, 1000), st.floats(1, 7200),
    st.none() | st.floats(-DAY_S, 3 * DAY_S),
)  # fmt: skip
loads = st.builds(Load, capacity_per_s=st.floats(0.1, 1e5), queue=st.integers(0, 10**6))
moments = st.floats(0, 2 * DAY_S).map(lambda later_s: MONDAY_S + later_s)
populations = st.integers(0, 10**7)
units = st.floats(0, 1, exclude_max=True)


# --- one plan -------------------------------------------------------------------------------------------------------


@settings(max_examples=300, deadline=None)
@given(goals, loads, populations, moments, limits, shares, st.floats(0, 1e5), units)
def test_every_window_lies_within_the_limits(
    wanted: Goals | None, load: Load, devices: int, now_s: float, limits: Limits, profile: list[float],
    rate_per_s: float, unit: float,
) -> None:  # fmt: skip
    plan = pace(seen(profile, rate_per_s), wanted, load, devices, now_s, limits)
    window = plan.window(unit)
    assert window.after_s >= limits.shortest_s - 1e-6
    assert window.spread_s >= 0
    assert window.after_s + window.spread_s <= limits.longest_s + 1e-6
    assert plan.hazard_per_s >= 0


@settings(max_examples=200, deadline=None)
@given(goals, loads, st.integers(0, 10**6), st.floats(0, 1e4), populations, moments)
def test_under_more_load_no_wait_is_shorter(
    wanted: Goals | None, load: Load, longer: int, rate_per_s: float, devices: int, now_s: float
) -> None:
    arrivals = seen(rate_per_s=rate_per_s)
    before = pace(arrivals, wanted, load, devices, now_s, LIMITS)
    after = pace(arrivals, wanted, replace(load, queue=load.queue + longer), devices, now_s, LIMITS)
    assert after.manner is before.manner
    assert after.hazard_per_s <= before.hazard_per_s
    assert all(late >= early - 1e-6 for late, early in zip(ends(after), ends(before), strict=True))


def ends(plan: Plan) -> list[float]:
    return [window.after_s for window in plan.windows]


def test_the_same_unit_gets_the_same_window_and_every_window_is_given() -> None:
    plan = pace(seen(), MANY, Load(capacity_per_s=500), 10**6, MONDAY_S, LIMITS)
    given_out = [plan.window(slot / SLOTS) for slot in range(SLOTS)]
    assert given_out == list(plan.windows)
    assert plan.window(0.7) == plan.window(0.7)
    assert all(first.after_s + first.spread_s == pytest.approx(second.after_s)
               for first, second in itertools.pairwise(given_out))  # fmt: skip


def test_a_digest_becomes_a_unit_below_1() -> None:
    assert unit_of(bytes(32)) == 0
    assert unit_of(b"\xff" * 32) == 1 - 2**-53
    assert unit_of(b"\x80" + bytes(31)) == 0.5


@pytest.mark.parametrize("unit", [1.0, -0.001, float("nan")])
def test_a_number_that_is_no_unit_is_refused(unit: float) -> None:
    plan = pace(seen(), None, Load(capacity_per_s=500), 10, MONDAY_S, LIMITS)
    with pytest.raises(InvalidPacing, match=r"a unit is in \[0, 1\)"):
        plan.window(unit)


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda: Limits(shortest_s=0), "shortest_s"),
        (lambda: Limits(often_s=30), "shortest_s"),
        (lambda: Limits(idle_s=1800), "often_s"),
        (lambda: Limits(longest_s=21_600), "longest_s"),
        (lambda: Limits(longest_s=float("inf")), "longest_s"),
        (lambda: Limits(busy_share=1.1), "busy_share"),
        (lambda: Limits(drain_s=float("nan")), "drain_s"),
        (lambda: replace(FEW, least=27), "least"),
        (lambda: replace(FEW, least=0), "least"),
        (lambda: replace(FEW, rounds_per_hour=0), "rounds_per_hour"),
        (lambda: replace(FEW, patience_s=float("inf")), "patience_s"),
        (lambda: replace(FEW, opening_s=float("nan")), "opening_s"),
        (lambda: Load(capacity_per_s=0), "capacity_per_s"),
        (lambda: Load(capacity_per_s=1, queue=-1), "queue"),
        (lambda: pace(seen(), FEW, Load(capacity_per_s=1), -1, MONDAY_S, LIMITS), "devices is"),
    ],
)
def test_what_is_out_of_range_is_refused_by_name(make: object, what: str) -> None:
    assert callable(make)
    with pytest.raises(InvalidPacing, match=f"^{what}"):
        make()


def test_the_documented_settings_are_the_code() -> None:
    rows = re.findall(r"^\| `(\w+)` \| ([\d.]+) \|", PAGE.read_text(), re.MULTILINE)
    assert {name: float(value) for name, value in rows} == dataclasses.asdict(LIMITS)


# --- a large population ---------------------------------------------------------------------------------------------


def renewals(windows: tuple[Window, ...], step_s: float, steps: int) -> Floats:
    """How often a device that came at 0 comes again in each later second, on average: the renewal equation, solved.

    An oracle apart from the formulas: it knows the windows only.
    """
    law = np.zeros(steps)
    for window in windows:
        low, high = window.after_s / step_s, (window.after_s + window.spread_s) / step_s
        cells = np.arange(int(low), min(steps, int(high) + 1))
        law[cells] += (np.minimum(cells + 1, high) - np.maximum(cells, low)) / (high - low) / len(windows)
    found = np.zeros(steps)
    for cell in range(steps):
        found[cell] = law[cell] + law[1 : cell + 1][::-1] @ found[:cell]
    rates: Floats = found / step_s
    return rates


@pytest.mark.parametrize("mean_wait_s", [1200, 3600, 7200, 14_400])
def test_however_many_came_at_once_no_later_second_expects_more_than_the_capacity(mean_wait_s: int) -> None:
    eager = Limits(shortest_s=30, idle_s=600, often_s=600)
    plan = pace(seen(), None, Load(capacity_per_s=10 / eager.busy_share), 10 * mean_wait_s, MONDAY_S, eager)
    peak_per_s = 10 * mean_wait_s * renewals(plan.windows, mean_wait_s / 60, 600).max()
    assert 9.5 < peak_per_s < 10.2


@pytest.mark.parametrize("mean_wait_s", [1200, 3600, 7200])
def test_windows_keep_the_mean_of_the_law_that_they_stand_for(mean_wait_s: int) -> None:
    eager = Limits(shortest_s=30, idle_s=600, often_s=600)
    plan = pace(seen(), None, Load(capacity_per_s=10 / eager.busy_share), 10 * mean_wait_s, MONDAY_S, eager)
    mean = sum(window.after_s + window.spread_s / 2 for window in plan.windows) / SLOTS
    assert mean == pytest.approx(30 + mean_wait_s, rel=0.03)


def test_fixed_windows_bring_a_crowd_back_as_a_crowd() -> None:
    peak_per_s = 10 * 3600 * renewals((Window(2880, 1440),), 60, 600).max()
    assert peak_per_s > 20


@pytest.mark.parametrize("hour", [0, 6, 12, 18])
def test_a_large_population_brings_a_rounds_devices_within_its_patience(hour: int) -> None:
    profile = [1.0] * 8 + [0.25] * 12 + [1.0] * 4
    plan = pace(seen(profile), MANY, Load(capacity_per_s=500), 200_000, MONDAY_S + hour * HOUR_S, LIMITS)
    present = 200_000 * profile[hour]
    assert plan.manner is Manner.EVENLY
    assert present * plan.hazard_per_s * MANY.patience_s >= sure_count(MANY.devices) * (1 - 1e-4)


@given(st.integers(1, 100_000))
def test_a_sure_count_is_three_deviations_above(devices: int) -> None:
    mean = sure_count(devices)
    assert mean - 3 * mean**0.5 == pytest.approx(devices)


def test_without_a_task_devices_come_when_idle() -> None:
    plan = pace(seen(), None, Load(capacity_per_s=500), 1000, MONDAY_S, LIMITS)
    mean = sum(window.after_s + window.spread_s / 2 for window in plan.windows) / SLOTS
    assert mean == pytest.approx(LIMITS.idle_s, rel=0.1)


def test_nobody_comes_sooner_because_the_population_is_not_counted_yet() -> None:
    """A crowd that nobody has counted proves itself by its rate."""
    crowd = pace(seen(rate_per_s=1000), MANY, Load(capacity_per_s=500), 0, MONDAY_S, LIMITS)
    assert crowd.hazard_per_s <= 0.8 * 500 / (1000 * LIMITS.shortest_s)


# --- a small population ---------------------------------------------------------------------------------------------


@given(moments, moments)
def test_a_small_population_is_sent_to_the_same_instants_whenever_it_asks(one_s: float, other_s: float) -> None:
    plans = [pace(seen(), FEW, Load(capacity_per_s=500), 50, now_s, LIMITS) for now_s in (one_s, other_s)]
    for now_s, plan in zip((one_s, other_s), plans, strict=True):
        assert plan.manner is Manner.MEETING
        for window in plan.windows:
            assert (now_s + window.after_s) % FEW.period_s == pytest.approx(0, abs=1e-3) or (
                (now_s + window.after_s) % FEW.period_s == pytest.approx(FEW.period_s, abs=1e-3)
            )
            assert window.spread_s == FEW.patience_s / 2


def test_a_meeting_is_kept_to_what_the_coordinator_can_take() -> None:
    slow = Load(capacity_per_s=0.1)
    plan = pace(seen(), FEW, slow, 50, MONDAY_S + 1, LIMITS)
    first = sum(window.after_s == plan.windows[0].after_s for window in plan.windows) / SLOTS
    assert 50 * first <= 0.8 * 0.1 * FEW.patience_s / 2 + 50 / SLOTS


def test_an_opening_of_a_schedule_is_the_meeting() -> None:
    opening_s = MONDAY_S + 5000.0
    plan = pace(seen(), replace(FEW, opening_s=opening_s), Load(capacity_per_s=500), 30, MONDAY_S, LIMITS)
    assert MONDAY_S + plan.window(0.0).after_s == opening_s


def test_a_meeting_out_of_reach_is_met_by_a_visit_half_way() -> None:
    far = replace(FEW, opening_s=MONDAY_S + 3 * DAY_S)
    plan = pace(seen(), far, Load(capacity_per_s=500), 30, MONDAY_S, LIMITS)
    assert set(plan.windows) == {Window(LIMITS.longest_s / 2, LIMITS.longest_s / 4)}


def test_hours_that_surely_have_too_few_devices_have_no_meeting() -> None:
    asleep = pace(seen([1.0] * 8 + [0.2] * 16), FEW, Load(capacity_per_s=500), 50, MONDAY_S + 8 * HOUR_S, LIMITS)
    assert ends(asleep)[0] == 16 * HOUR_S
    nobody = pace(seen([0.2] * 24), FEW, Load(capacity_per_s=500), 50, MONDAY_S + 8 * HOUR_S, LIMITS)
    assert ends(nobody)[0] == HOUR_S


def test_the_hazard_of_a_meeting_brings_its_share_and_is_0_between_meetings() -> None:
    def hazard_per_s(at_s: float) -> float:
        return pace(seen(), FEW, Load(capacity_per_s=500), 500, at_s, LIMITS).hazard_per_s

    width_s = FEW.patience_s / 2
    assert hazard_per_s(MONDAY_S) * width_s * 500 == pytest.approx(sure_count(FEW.devices))
    assert hazard_per_s(MONDAY_S + width_s - 1) > 0
    assert hazard_per_s(MONDAY_S + width_s) == 0


# --- what was seen --------------------------------------------------------------------------------------------------


def test_arrivals_are_stored_in_400_bytes_and_come_back() -> None:
    arrivals = observe(none_yet(MONDAY_S), MONDAY_S + 5, 12, 100, 0.01)
    assert len(arrivals.to_bytes()) == 400
    assert from_bytes(arrivals.to_bytes()) == arrivals


@pytest.mark.parametrize("stored", [b"", bytes(399), bytes(401), b"\xff" * 400, none_yet(0).to_bytes()[:-1] + b"\xc0"])
def test_bytes_that_are_no_arrivals_are_refused(stored: bytes) -> None:
    with pytest.raises(InvalidArrivals):
        from_bytes(stored)


@pytest.mark.parametrize(
    ("now_s", "count", "devices", "hazard_per_s"),
    [(float("nan"), 0, 0, 0.0), (1.0, -1, 0, 0.0), (1.0, 0, -1, 0.0), (1.0, 0, 0, -0.1), (1.0, 0, 0, float("inf"))],
)
def test_an_observation_out_of_range_is_refused(now_s: float, count: int, devices: int, hazard_per_s: float) -> None:
    with pytest.raises(InvalidArrivals):
        observe(none_yet(0.0), now_s, count, devices, hazard_per_s)


def test_a_clock_that_went_back_is_believed_and_its_count_dropped() -> None:
    before = observe(none_yet(MONDAY_S), MONDAY_S + 5, 12, 100, 0.01)
    assert observe(before, MONDAY_S, 99, 100, 0.01) == replace(before, seen_at_s=MONDAY_S)


def test_from_a_long_silence_only_the_rate_is_learnt() -> None:
    before = observe(none_yet(MONDAY_S), MONDAY_S + 5, 12, 100, 0.01)
    after = observe(before, MONDAY_S + HOUR_S, 0, 100, 0.01)
    assert (after.came, after.expected) == (before.came, before.expected)
    assert after.rate_per_s < 1e-6


@pytest.mark.parametrize("hazard_per_s", [1 / 600, 1 / 7200])
def test_who_is_there_is_learnt_whatever_the_pace(hazard_per_s: float) -> None:
    rng = np.random.default_rng(5)
    arrivals = none_yet(MONDAY_S)
    for step in range(3600):
        came = int(rng.poisson(300 * hazard_per_s * 10))
        arrivals = observe(
            arrivals, MONDAY_S + 10 * (step + 1) % HOUR_S + step // 360 * DAY_S, came, 1000, hazard_per_s
        )
    assert share_present(arrivals)[0] == pytest.approx(0.3, rel=0.1)
    assert 0.3 < most_present(arrivals)[0] < 0.4
    assert share_present(arrivals)[12] == 1


# --- populations in virtual time ------------------------------------------------------------------------------------

PACED = "paced"
FIXED = list(pacing_scenes.FIXED_S)


def test_over_a_four_fold_day_arrivals_stay_near_what_is_needed_and_rounds_fill() -> None:
    assert pacing_scenes.broken_by_the_swing(pacing_scenes.swing(PACED)) == []


@pytest.mark.parametrize("policy", FIXED)
def test_fixed_windows_follow_the_swing(policy: str) -> None:
    assert "arrivals leave the band" in pacing_scenes.broken_by_the_swing(pacing_scenes.swing(policy))


def test_a_flash_crowd_is_worked_off_without_an_echo_and_nobody_starves() -> None:
    assert pacing_scenes.broken_by_the_crowd(pacing_scenes.crowd(PACED)) == []


@pytest.mark.parametrize("policy", FIXED)
def test_fixed_windows_bring_the_crowd_back(policy: str) -> None:
    assert "load stays above the capacity" in pacing_scenes.broken_by_the_crowd(pacing_scenes.crowd(policy))


@pytest.mark.parametrize("there", ["always", "nightly"])
def test_fifty_devices_fill_rounds_by_meeting(there: str) -> None:
    assert pacing_scenes.broken_by_fifty(pacing_scenes.fifty(PACED, there), there) == []


@pytest.mark.parametrize("policy", FIXED)
def test_with_fixed_windows_fifty_devices_fill_no_rounds(policy: str) -> None:
    assert "rounds stay empty" in pacing_scenes.broken_by_fifty(pacing_scenes.fifty(policy, "always"), "always")


def test_a_million_devices_that_came_at_once_spread_evenly() -> None:
    assert pacing_scenes.broken_by_a_million(pacing_scenes.million(PACED, 1_000_000), 1_000_000) == []


@pytest.mark.parametrize("policy", FIXED)
def test_with_fixed_windows_they_stay_in_step_or_above_the_capacity(policy: str) -> None:
    broken = pacing_scenes.broken_by_a_million(pacing_scenes.million(policy, 50_000), 50_000)
    expected = "load stays above the capacity" if policy == "fixed 15 min" else "arrivals come in waves"
    assert expected in broken


def test_a_window_costs_at_most_5_microseconds() -> None:
    plan = pace(seen(), MANY, Load(capacity_per_s=500), 10**6, MONDAY_S, LIMITS)
    units = [number / 10_000 for number in range(10_000)]

    def choose_all() -> None:
        for unit in units:
            plan.window(unit)

    assert min(timeit.repeat(choose_all, number=1, repeat=5)) / len(units) <= 5e-6
