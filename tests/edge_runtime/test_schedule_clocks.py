"""Quiet hours, budgets and intervals, by clocks that change twice a year, cross midnight and step."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Final

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from edge_runtime.conditions.fixed import IDEAL
from edge_runtime.protocol.policy import DAY_S, Policy
from edge_runtime.protocol.reasons import Blocker
from edge_runtime.schedule import (
    DEFAULT_POLICY,
    KEPT_DAYS,
    LOOK_AGAIN_S,
    Activity,
    Day,
    Usage,
    blocker,
    left,
    look_again_s,
    participated,
    spend,
    spent,
    visited,
)
from tests.edge_runtime.schedules import (
    BERLIN,
    NOON,
    OLD,
    SANTIAGO,
    policies,
    usages,
    zones,
)

QUIET: Final = Policy(quiet_hours=(0, 1, 2, 3, 4, 5, 22, 23))


@pytest.mark.parametrize(
    ("what", "moment", "quiet"),
    [
        ("before ten in the evening", datetime(2026, 1, 5, 20, 59, 59, tzinfo=UTC), False),
        ("ten in the evening", datetime(2026, 1, 5, 21, tzinfo=UTC), True),
        ("midnight", datetime(2026, 1, 5, 23, tzinfo=UTC), True),
        ("before six in the morning", datetime(2026, 1, 6, 4, 59, 59, tzinfo=UTC), True),
        ("six in the morning", datetime(2026, 1, 6, 5, tzinfo=UTC), False),
        ("six in the morning of summer", datetime(2026, 7, 6, 4, tzinfo=UTC), False),
        ("before six in the morning of summer", datetime(2026, 7, 6, 3, 59, tzinfo=UTC), True),
    ],
)
def test_quiet_hours_are_local_and_cross_midnight(what: str, moment: datetime, quiet: bool) -> None:
    expected = Blocker.QUIET_HOURS if quiet else None
    assert blocker(IDEAL, QUIET, OLD, moment, BERLIN) is expected, what


@pytest.mark.parametrize(
    ("what", "moment", "hours"),
    [
        ("an ordinary night", datetime(2026, 1, 5, 21, tzinfo=UTC), 8),
        ("the night that lacks an hour", datetime(2026, 3, 28, 21, tzinfo=UTC), 7),
        ("the night with one hour twice", datetime(2026, 10, 24, 20, tzinfo=UTC), 9),
    ],
)
def test_quiet_hours_end_by_the_clock_on_the_wall(what: str, moment: datetime, hours: int) -> None:
    wait_s = look_again_s(Blocker.QUIET_HOURS, QUIET, OLD, moment, BERLIN)
    assert wait_s == 3600 * hours, what
    assert blocker(IDEAL, QUIET, OLD, moment + timedelta(seconds=wait_s), BERLIN) is None


def test_an_hour_that_comes_twice_is_quiet_twice() -> None:
    second_hour_of_the_night = Policy(quiet_hours=(2,))
    first_time = datetime(2026, 10, 25, 0, 30, tzinfo=UTC)
    for moment in (first_time, first_time + timedelta(hours=1)):
        assert blocker(IDEAL, second_hour_of_the_night, OLD, moment, BERLIN) is Blocker.QUIET_HOURS


def test_a_day_that_begins_at_one_o_clock_brings_its_budget_then() -> None:
    evening = datetime(2026, 9, 6, 3, 30, tzinfo=UTC)  # half past eleven in Santiago; clocks go forward at midnight
    usage = spend(OLD, evening, SANTIAGO, seconds=1800)
    assert blocker(IDEAL, DEFAULT_POLICY, usage, evening, SANTIAGO) is Blocker.DAILY_SECONDS_SPENT
    wait_s = look_again_s(Blocker.DAILY_SECONDS_SPENT, DEFAULT_POLICY, usage, evening, SANTIAGO)
    assert wait_s == 1800
    assert blocker(IDEAL, DEFAULT_POLICY, usage, evening + timedelta(seconds=wait_s), SANTIAGO) is None


def test_budgets_are_of_the_local_date() -> None:
    late = datetime(2026, 1, 5, 22, 59, tzinfo=UTC)
    usage = spend(OLD, late, BERLIN, seconds=1800)
    assert blocker(IDEAL, DEFAULT_POLICY, usage, late, BERLIN) is Blocker.DAILY_SECONDS_SPENT
    assert blocker(IDEAL, DEFAULT_POLICY, usage, late + timedelta(minutes=1), BERLIN) is None
    assert blocker(IDEAL, DEFAULT_POLICY, usage, late + timedelta(minutes=1), UTC) is Blocker.DAILY_SECONDS_SPENT


def test_a_clock_set_forward_a_day_and_back_gives_no_date_a_second_budget() -> None:
    today, tomorrow = NOON, NOON + timedelta(days=1)
    usage = spend(OLD, today, UTC, seconds=1800)
    usage = spend(usage, tomorrow, UTC, seconds=1800)  # the clock is a day ahead: it says tomorrow
    for moment in (today, tomorrow, today + timedelta(hours=3), tomorrow + timedelta(hours=3)):
        assert blocker(IDEAL, DEFAULT_POLICY, usage, moment, UTC) is Blocker.DAILY_SECONDS_SPENT
    assert blocker(IDEAL, DEFAULT_POLICY, usage, NOON + timedelta(days=2), UTC) is None


def test_a_clock_that_was_years_ahead_blocks_nothing_once_it_is_right() -> None:
    wrong = NOON.replace(year=2038)
    usage = spend(Usage(installed_at=wrong.timestamp()), wrong, UTC, seconds=1800)
    usage = visited(participated(usage, wrong), wrong, 60)
    assert blocker(IDEAL, Policy(min_separation_s=7 * DAY_S), usage, NOON, UTC) is None


@settings(deadline=None)
@given(steps=st.lists(st.tuples(st.integers(-80, 80), st.integers(1, 2000)), max_size=40), zone=zones)
def test_no_date_gets_more_than_its_budget_however_the_clock_steps(steps: list[tuple[int, int]], zone: tzinfo) -> None:
    clock, usage = NOON, OLD
    given_by_date: dict[str, float] = {}
    for step_hours, wanted_s in steps:
        clock = max(NOON, min(clock + timedelta(hours=step_hours), NOON + timedelta(days=KEPT_DAYS - 2)))
        if blocker(IDEAL, DEFAULT_POLICY, usage, clock, zone, Activity.TRAIN) is None:
            slice_s = min(wanted_s, left(DEFAULT_POLICY, usage, clock, zone).seconds)
            usage = spend(usage, clock, zone, seconds=slice_s)
            date = f"{clock.astimezone(zone):%F}"
            given_by_date[date] = given_by_date.get(date, 0.0) + slice_s
    assert all(seconds <= DEFAULT_POLICY.daily_seconds for seconds in given_by_date.values())
    assert {day.date: day.seconds for day in usage.days} == given_by_date


@settings(max_examples=100, deadline=None)
@given(policy=policies, usage=usages, now=st.sampled_from([NOON]), zone=zones)
def test_nothing_blocks_for_ever_and_looking_again_finds_it_gone(
    policy: Policy, usage: Usage, now: datetime, zone: tzinfo
) -> None:
    assume(len(policy.quiet_hours) < 24)
    assume(min(policy.daily_seconds, policy.daily_bytes, policy.daily_battery_share) > 0)
    policy = replace(policy, max_participations=None)
    longest_s = 2 * (policy.first_run_delay_s + policy.max_interval_s + policy.min_separation_s)  # one after another
    moment, seen = now, 0
    while reason := blocker(IDEAL, policy, usage, moment, zone):
        later = moment + timedelta(seconds=look_again_s(reason, policy, usage, moment, zone))
        assert later > moment
        again = blocker(IDEAL, policy, usage, later, zone)
        assert again is not reason or reason.startswith("daily")  # the next date may be spent too
        moment, seen = later, seen + 1
        assert seen < 40
    assert (moment - now).total_seconds() <= longest_s + 6 * DAY_S


@pytest.mark.parametrize("reason", [Blocker.IN_USE, Blocker.NETWORK_LOST, Blocker.SLICE_ENDED, Blocker.SYSTEM_STOPPED])
def test_conditions_are_looked_at_again_after_a_while(reason: Blocker) -> None:
    assert look_again_s(reason, DEFAULT_POLICY, OLD, NOON, UTC) == LOOK_AGAIN_S


def test_a_device_that_may_never_take_part_again_looks_rarely() -> None:
    assert look_again_s(Blocker.PARTICIPATIONS_SPENT, DEFAULT_POLICY, OLD, NOON, UTC) == 6 * DAY_S


@pytest.mark.parametrize(
    ("asked_s", "waits_s"), [(0, 60), (59, 60), (900, 900), (6 * DAY_S, 6 * DAY_S), (400 * DAY_S, 6 * DAY_S)]
)
def test_a_coordinator_asks_for_an_interval_within_limits(asked_s: float, waits_s: float) -> None:
    usage = visited(OLD, NOON, asked_s)
    almost, then = NOON + timedelta(seconds=waits_s - 1), NOON + timedelta(seconds=waits_s)
    assert blocker(IDEAL, DEFAULT_POLICY, usage, almost, UTC) is Blocker.TOO_SOON
    assert blocker(IDEAL, DEFAULT_POLICY, usage, then, UTC) is None
    assert look_again_s(Blocker.TOO_SOON, DEFAULT_POLICY, usage, almost, UTC) == 1


def test_only_the_dates_spent_on_last_are_kept() -> None:
    usage = OLD
    for day in range(KEPT_DAYS + 3):
        usage = spend(usage, NOON + timedelta(days=day), UTC, seconds=1)
    usage = spend(usage, NOON + timedelta(days=5), UTC, battery_share=0.01)
    assert len(usage.days) == KEPT_DAYS
    assert usage.days[-1] == Day(date="2026-01-10", seconds=1, battery_share=0.01)
    assert spent(usage, NOON, UTC) == Day(date="2026-01-05")
