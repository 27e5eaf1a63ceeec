"""May a device work now: every set of conditions has one answer, and the first reason is named."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any, Final

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from edge_runtime.conditions import Assuming, Conditions
from edge_runtime.conditions.fixed import IDEAL, FixedSource
from edge_runtime.protocol.policy import DAY_S, Policy, Thermal
from edge_runtime.protocol.reasons import Blocker, Outcome
from edge_runtime.schedule import (
    DEFAULT_POLICY,
    Activity,
    Floors,
    Usage,
    blocker,
    participated,
    spend,
    visited,
)
from tests.edge_runtime.schedules import NOON, OLD, activities, conditions, moments, policies, usages, zones

OF_A_SLICE: Final = {Blocker.SLICE_ENDED, Blocker.SYSTEM_STOPPED}
OF_APPOINTMENTS: Final = {Blocker.APPOINTMENT_AHEAD}
OF_SUMMING: Final = {
    Blocker.BATTERY_LOW,
    Blocker.NETWORK_METERED,
    Blocker.NETWORK_LOST,
    Blocker.DAILY_BYTES_SPENT,
    Blocker.DAILY_BATTERY_SPENT,
}


def holding(
    device: Conditions, policy: Policy, usage: Usage, now: datetime, zone: tzinfo, activity: Activity
) -> Mapping[Blocker, bool]:
    """An oracle: of every blocker, whether it holds, each for itself."""
    local = now.astimezone(zone)
    today = [day for day in usage.days if day.date == f"{local:%Y-%m-%d}"]
    begins, networked = activity == Activity.VISIT, activity is not Activity.TRAIN
    level = 0.0 if device.battery_level is None else device.battery_level
    too_hot = list(Thermal)[list(Thermal).index(policy.stop_at) :]

    def is_near(since: float | None, span_s: float) -> bool:
        return since is not None and since - span_s < now.timestamp() < since + span_s

    wait_s = sorted([policy.min_interval_s, usage.wait_s, policy.max_interval_s])[1]
    every = {
        Blocker.IN_USE: policy.needs_idle and device.in_use in (True, None),
        Blocker.OVERHEATED: device.thermal is None or device.thermal in too_hot,
        Blocker.POWER_SAVER: policy.stops_in_power_saver and device.power_saver in (True, None),
        Blocker.BATTERY_LOW: device.charging in (False, None) and level < policy.battery_floor,
        Blocker.NOT_CHARGING: policy.needs_charging and device.charging in (False, None),
        Blocker.NETWORK_METERED: networked and policy.needs_unmetered and device.metered in (True, None),
        Blocker.STORAGE_LOW: policy.min_free_storage_bytes > (device.free_storage_bytes or 0),
        Blocker.NETWORK_LOST: networked and device.online is False,
        Blocker.QUIET_HOURS: f"{local:%H}" in [f"{hour:02}" for hour in policy.quiet_hours],
        Blocker.DAILY_SECONDS_SPENT: sum(day.seconds for day in today) >= policy.daily_seconds,
        Blocker.DAILY_BYTES_SPENT: sum(day.transferred_bytes for day in today) >= policy.daily_bytes,
        Blocker.DAILY_BATTERY_SPENT: sum(day.battery_share for day in today) >= policy.daily_battery_share,
        Blocker.JUST_INSTALLED: begins and is_near(usage.installed_at, policy.first_run_delay_s),
        Blocker.TOO_SOON: begins and is_near(usage.last_visit_at, wait_s),
        Blocker.PARTICIPATED_RECENTLY: begins and is_near(usage.last_participation_at, policy.min_separation_s),
        Blocker.PARTICIPATIONS_SPENT: begins
        and policy.max_participations is not None
        and usage.participations >= policy.max_participations,
    }
    counts = OF_SUMMING if activity is Activity.SUM else every.keys()
    return {reason: holds and reason in counts for reason, holds in every.items()}


def first(holds: Mapping[Blocker, bool]) -> Blocker | None:
    return next((reason for reason in Blocker if holds.get(reason)), None)


@settings(max_examples=200, deadline=None)
@given(device=conditions, policy=policies, usage=usages, now=moments, zone=zones, activity=activities)
def test_any_set_of_conditions_yields_train_or_exactly_the_first_reason(
    device: Conditions, policy: Policy, usage: Usage, now: datetime, zone: tzinfo, activity: Activity
) -> None:
    assert blocker(device, policy, usage, now, zone, activity) is first(
        holding(device, policy, usage, now, zone, activity)
    )


REASONS: Final[dict[Blocker, tuple[Conditions, Policy, Usage]]] = {
    Blocker.IN_USE: (replace(IDEAL, in_use=True), DEFAULT_POLICY, OLD),
    Blocker.OVERHEATED: (replace(IDEAL, thermal=Thermal.MODERATE), DEFAULT_POLICY, OLD),
    Blocker.POWER_SAVER: (replace(IDEAL, power_saver=True), DEFAULT_POLICY, OLD),
    Blocker.BATTERY_LOW: (replace(IDEAL, charging=False, battery_level=0.29), DEFAULT_POLICY, OLD),
    Blocker.NOT_CHARGING: (replace(IDEAL, charging=False), Policy(needs_charging=True), OLD),
    Blocker.NETWORK_METERED: (replace(IDEAL, metered=True), DEFAULT_POLICY, OLD),
    Blocker.STORAGE_LOW: (replace(IDEAL, free_storage_bytes=49_999_999), DEFAULT_POLICY, OLD),
    Blocker.NETWORK_LOST: (replace(IDEAL, online=False), DEFAULT_POLICY, OLD),
    Blocker.QUIET_HOURS: (IDEAL, Policy(quiet_hours=(12,)), OLD),
    Blocker.DAILY_SECONDS_SPENT: (IDEAL, DEFAULT_POLICY, spend(OLD, NOON, UTC, seconds=1800)),
    Blocker.DAILY_BYTES_SPENT: (IDEAL, DEFAULT_POLICY, spend(OLD, NOON, UTC, transferred_bytes=200_000_000)),
    Blocker.DAILY_BATTERY_SPENT: (IDEAL, DEFAULT_POLICY, spend(OLD, NOON, UTC, battery_share=0.05)),
    Blocker.JUST_INSTALLED: (IDEAL, DEFAULT_POLICY, Usage(installed_at=NOON.timestamp() - 299)),
    Blocker.TOO_SOON: (IDEAL, DEFAULT_POLICY, visited(OLD, NOON - timedelta(seconds=59), wait_s=0)),
    Blocker.PARTICIPATED_RECENTLY: (
        IDEAL,
        Policy(min_separation_s=DAY_S),
        participated(OLD, NOON - timedelta(hours=23)),
    ),
    Blocker.PARTICIPATIONS_SPENT: (IDEAL, Policy(max_participations=1), participated(OLD, NOON - timedelta(hours=23))),
}


@pytest.mark.parametrize("reason", [reason for reason in Blocker if reason not in OF_A_SLICE | OF_APPOINTMENTS])
def test_every_reason_is_reached(reason: Blocker) -> None:
    device, policy, usage = REASONS[reason]
    assert blocker(device, policy, usage, NOON, UTC) is reason


def test_an_ideal_device_trains() -> None:
    assert blocker(IDEAL, DEFAULT_POLICY, OLD, NOON, UTC) is None


UNPLUGGED: Final = replace(IDEAL, charging=False, battery_level=0.2)


@pytest.mark.parametrize(
    ("device", "taken_as"),
    [
        (replace(IDEAL, in_use=None), Blocker.IN_USE),
        (replace(IDEAL, thermal=None), Blocker.OVERHEATED),
        (replace(IDEAL, power_saver=None), Blocker.POWER_SAVER),
        (replace(UNPLUGGED, charging=None), Blocker.BATTERY_LOW),
        (replace(UNPLUGGED, battery_level=None), Blocker.BATTERY_LOW),
        (replace(IDEAL, metered=None), Blocker.NETWORK_METERED),
        (replace(IDEAL, free_storage_bytes=None), Blocker.STORAGE_LOW),
    ],
)
def test_what_nobody_can_tell_spares_the_owner_unless_the_app_knows_better(
    device: Conditions, taken_as: Blocker
) -> None:
    assert blocker(device, DEFAULT_POLICY, OLD, NOON, UTC) is taken_as
    floors = Floors(assumed=IDEAL)
    assert blocker(Assuming(FixedSource(device), floors.assumed).read(), DEFAULT_POLICY, OLD, NOON, UTC) is None


def test_a_network_that_nobody_can_tell_is_tried() -> None:
    assert blocker(replace(IDEAL, online=None), DEFAULT_POLICY, OLD, NOON, UTC) is None


def test_a_board_without_battery_trains() -> None:
    assert blocker(replace(IDEAL, battery_level=None), Policy(needs_charging=True), OLD, NOON, UTC) is None


WORSE: Final[dict[str, Callable[[Any], list[Any]]]] = {
    "in_use": lambda _now: [True, None],
    "charging": lambda _now: [False, None],
    "battery_level": lambda now: [None, 0.0] if now is None else [None, now / 2],
    "online": lambda _now: [False],
    "metered": lambda _now: [True, None],
    "thermal": lambda now: [None, *([] if now is None else list(Thermal)[now.rank :])],
    "free_storage_bytes": lambda now: [None, 0 if now is None else now // 2],
    "power_saver": lambda _now: [True, None],
}


@settings(max_examples=100, deadline=None)
@given(device=conditions, policy=policies, usage=usages, now=moments, activity=activities, data=st.data())
def test_a_worse_condition_never_lets_a_blocked_device_train(
    device: Conditions, policy: Policy, usage: Usage, now: datetime, activity: Activity, data: st.DataObject
) -> None:
    assume(blocker(device, policy, usage, now, UTC, activity) is not None)
    name = data.draw(st.sampled_from(sorted(WORSE)))
    worse = replace(device, **{name: data.draw(st.sampled_from(WORSE[name](getattr(device, name))))})
    assert blocker(worse, policy, usage, now, UTC, activity) is not None


def test_training_that_resumes_needs_neither_network_nor_interval() -> None:
    usage = participated(visited(OLD, NOON, 900), NOON)
    policy = Policy(min_separation_s=DAY_S, max_participations=1)
    offline = replace(IDEAL, online=False, metered=True)
    assert blocker(offline, policy, usage, NOON, UTC, Activity.TRAIN) is None
    assert blocker(offline, policy, usage, NOON, UTC, Activity.TRANSFER) is Blocker.NETWORK_METERED
    assert blocker(IDEAL, policy, usage, NOON, UTC, Activity.TRANSFER) is None


def test_every_blocker_of_a_begun_visit_is_an_outcome_of_the_same_name() -> None:
    only_before = {Blocker.JUST_INSTALLED, Blocker.TOO_SOON, Blocker.APPOINTMENT_AHEAD}
    assert {reason for reason in Blocker if reason.name not in Outcome.__members__} == only_before
    for reason in set(Blocker) - only_before:
        assert Outcome(reason.value).name == reason.name
