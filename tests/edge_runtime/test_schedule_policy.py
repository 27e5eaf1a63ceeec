"""A policy comes from the coordinator, is refused when it is impossible, and is held within the floors."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from datetime import datetime
from pathlib import Path
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.conditions import Conditions
from edge_runtime.conditions.fixed import IDEAL
from edge_runtime.protocol import wire
from edge_runtime.protocol.errors import Malformed, UnsupportedVersion
from edge_runtime.protocol.policy import Policy, Thermal
from edge_runtime.protocol.reasons import Blocker
from edge_runtime.schedule import (
    DEFAULT_POLICY,
    Activity,
    Floors,
    Usage,
    blocker,
    left,
    within,
)
from tests.edge_runtime.schedules import (
    BERLIN,
    activities,
    conditions,
    moments,
    policies,
    usages,
)

GUIDE: Final = Path(__file__).parents[2] / "docs" / "scheduling.md"

AT_LEAST: Final = (
    "battery_floor",
    "min_free_storage_bytes",
    "first_run_delay_s",
    "min_interval_s",
    "max_interval_s",
    "min_separation_s",
)
"""The larger of two is the stricter."""


@settings(max_examples=100, deadline=None)
@given(
    sent=policies, limits=policies, device=conditions | st.just(IDEAL), usage=usages, now=moments, activity=activities
)
def test_within_the_floors_nothing_is_looser_than_either(
    sent: Policy, limits: Policy, device: Conditions, usage: Usage, now: datetime, activity: Activity
) -> None:
    held = within(sent, Floors(limits=limits))
    blocked = [blocker(device, policy, usage, now, BERLIN, activity) for policy in (sent, limits)]
    if any(blocked):
        assert blocker(device, held, usage, now, BERLIN, activity) is not None
    assert held == within(limits, Floors(limits=sent))
    for name in AT_LEAST:
        assert getattr(held, name) == max(getattr(sent, name), getattr(limits, name))
    assert held.slice_s == min(sent.slice_s, limits.slice_s)
    assert set(held.quiet_hours) == {*sent.quiet_hours, *limits.quiet_hours}
    counts = {sent.max_participations, limits.max_participations} - {None}
    assert held.max_participations == min((count for count in counts if count is not None), default=None)
    remaining = left(held, usage, now, BERLIN)
    for policy in (sent, limits):
        allowed = left(policy, usage, now, BERLIN)
        assert remaining.seconds <= allowed.seconds
        assert remaining.transferred_bytes <= allowed.transferred_bytes
        assert remaining.battery_share <= allowed.battery_share


@settings(max_examples=50, deadline=None)
@given(sent=policies)
def test_floors_are_the_protocols_unless_the_app_says_otherwise(sent: Policy) -> None:
    held = within(sent, Floors())
    assert held.needs_idle
    assert held.needs_unmetered
    assert held.stop_at in (Thermal.LIGHT, Thermal.MODERATE)
    assert held.daily_seconds <= 1800
    assert within(held, Floors()) == held


def test_holding_a_policy_within_itself_changes_nothing() -> None:
    assert within(DEFAULT_POLICY, Floors()) == DEFAULT_POLICY


def test_the_codes_of_blockers_and_the_bytes_of_the_policy_are_frozen() -> None:
    assert [reason.value for reason in Blocker] == [
        "in-use",
        "overheated",
        "power-saver",
        "battery-low",
        "not-charging",
        "network-metered",
        "storage-low",
        "network-lost",
        "quiet-hours",
        "daily-seconds-spent",
        "daily-bytes-spent",
        "daily-battery-spent",
        "just-installed",
        "too-soon",
        "participated-recently",
        "participations-spent",
        "slice-ended",
        "system-stopped",
        "appointment-ahead",
    ]
    assert wire.encode(Policy(quiet_hours=(7, 8), max_participations=3)) == (
        b'{"battery_floor":0.3,"daily_battery_share":0.05,"daily_bytes":200000000,"daily_seconds":1800.0,'
        b'"first_run_delay_s":300.0,"max_interval_s":518400.0,"max_participations":3,"min_free_storage_bytes":50000000,'
        b'"min_interval_s":60.0,"min_separation_s":0.0,"needs_charging":false,"needs_idle":true,"needs_unmetered":true,'
        b'"quiet_hours":[7,8],"slice_s":585.0,"stop_at":"moderate","stops_in_power_saver":true,"version":1}'
    )


@settings(max_examples=50, deadline=None)
@given(policy=policies)
def test_a_policy_comes_back_as_it_was_sent(policy: Policy) -> None:
    assert wire.decode(Policy, wire.encode(policy)) == policy


@pytest.mark.parametrize(
    "wrong",
    [
        {"battery_floor": 1.1},
        {"stop_at": "none"},
        {"stop_at": "boiling"},
        {"min_free_storage_bytes": -1},
        {"quiet_hours": [24]},
        {"quiet_hours": [-1]},
        {"quiet_hours": [3, 2]},
        {"quiet_hours": [3, 3]},
        {"daily_seconds": 90000.0},
        {"daily_bytes": -1},
        {"daily_battery_share": -0.1},
        {"slice_s": 0.0},
        {"slice_s": 1e9},
        {"first_run_delay_s": -1.0},
        {"min_interval_s": 600000.0},
        {"max_interval_s": 1e9},
        {"min_separation_s": 1e9},
        {"max_participations": -1},
    ],
)
def test_an_impossible_policy_is_refused(wrong: dict[str, object]) -> None:
    tree = {**json.loads(wire.encode(DEFAULT_POLICY)), **wrong}
    with pytest.raises(Malformed):
        wire.decode(Policy, json.dumps(tree).encode())


def test_a_policy_of_another_version_is_refused() -> None:
    tree = {**json.loads(wire.encode(DEFAULT_POLICY)), "version": 2}
    with pytest.raises(UnsupportedVersion):
        wire.decode(Policy, json.dumps(tree).encode())
    with pytest.raises(Malformed):
        Policy(version=2)


def test_the_guide_lists_every_reason_in_its_order_with_the_fields_of_the_policy() -> None:
    rows = re.findall(r"^\| `([a-z-]+)` \|[^|]+\|([^|]+)\|", GUIDE.read_text(), re.MULTILINE)
    assert [code for code, _fields in rows] == [reason.value for reason in Blocker]
    named = {name for _code, cell in rows for name in re.findall(r"`(\w+)`", cell)}
    assert named == {field.name for field in fields(Policy)} - {"version"}
