"""A slice stops within 2 s of losing a condition, names it, and never takes that back."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.conditions import Conditions
from edge_runtime.conditions.fixed import IDEAL
from edge_runtime.protocol.policy import DAY_S, Policy, Thermal
from edge_runtime.protocol.reasons import Blocker, Outcome
from edge_runtime.schedule import DEFAULT_POLICY, Activity, Usage, participated, spend, spent, visited
from edge_runtime.watch import Watch

NIGHT: Final = datetime(2026, 1, 5, 2, tzinfo=UTC)
OLD: Final = Usage(installed_at=NIGHT.timestamp() - 40 * DAY_S)
STEP_S: Final = 0.4


@dataclass
class Bench:
    """A device, its monotonic clock, and how often its conditions were read."""

    conditions: Conditions = IDEAL
    clock_s: float = 1000.0
    reads: list[float] = field(default_factory=list)

    def read(self) -> Conditions:
        self.reads.append(self.clock_s)
        return self.conditions

    def watch(self, policy: Policy = DEFAULT_POLICY, usage: Usage = OLD, **more: Any) -> Watch:
        return Watch(self, policy, usage, NIGHT, UTC, clock=lambda: self.clock_s, **more)

    def train(self, watch: Watch, seconds: float, step_s: float = STEP_S) -> Outcome | None:
        """Take steps until the watch stops them, or so many seconds have passed."""
        end_s = self.clock_s + seconds
        while self.clock_s < end_s:
            if outcome := watch():
                return outcome
            self.clock_s += step_s
        return None


LOST: Final = {
    Blocker.IN_USE: replace(IDEAL, in_use=True),
    Blocker.OVERHEATED: replace(IDEAL, thermal=Thermal.MODERATE),
    Blocker.POWER_SAVER: replace(IDEAL, power_saver=True),
    Blocker.BATTERY_LOW: replace(IDEAL, charging=False, battery_level=0.29),
    Blocker.NOT_CHARGING: replace(IDEAL, charging=False),
    Blocker.STORAGE_LOW: replace(IDEAL, free_storage_bytes=1),
}
STRICT: Final = Policy(needs_charging=True, daily_battery_share=1.0)


@settings(max_examples=60, deadline=None)
@given(reason=st.sampled_from(sorted(LOST)), after_s=st.floats(0, 30), step_s=st.floats(0.01, 1.0))
def test_training_stops_within_two_seconds_of_a_lost_condition(reason: Blocker, after_s: float, step_s: float) -> None:
    bench = Bench()
    watch = bench.watch(STRICT)
    assert bench.train(watch, after_s, step_s) is None
    bench.conditions = LOST[reason]
    lost_at_s = bench.clock_s
    assert bench.train(watch, 10, step_s) == reason.value
    assert bench.clock_s - lost_at_s <= 2
    assert watch.blocker is reason


def test_a_lost_network_does_not_stop_training_but_does_stop_fetching() -> None:
    bench = Bench(replace(IDEAL, online=False, metered=True))
    watch = bench.watch()
    assert bench.train(watch, 5) is None
    watch.activity = Activity.TRANSFER
    assert bench.train(watch, 5) is Outcome.NETWORK_METERED


def test_a_condition_that_comes_back_does_not_resume_the_slice() -> None:
    bench = Bench(LOST[Blocker.IN_USE])
    watch = bench.watch()
    assert watch() is Outcome.IN_USE
    bench.conditions = IDEAL
    bench.clock_s += 60
    assert watch() is Outcome.IN_USE
    assert bench.watch()() is None


def test_conditions_are_read_before_the_first_step_and_then_twice_a_second() -> None:
    bench = Bench()
    watch = bench.watch()
    bench.train(watch, 10, step_s=0.001)
    assert bench.reads[0] == 1000.0
    assert len(bench.reads) == pytest.approx(20, abs=1)


@pytest.mark.parametrize("every_s", [0.0, -1.0, 1.1, float("nan")])
def test_conditions_cannot_be_read_more_rarely_than_promised(every_s: float) -> None:
    with pytest.raises(ValueError, match="every second or more often"):
        Bench().watch(every_s=every_s)


@pytest.mark.parametrize(
    ("policy", "limit_s", "ends_s", "reason"),
    [
        (DEFAULT_POLICY, math.inf, 585, Outcome.SLICE_ENDED),
        (DEFAULT_POLICY, 100, 100, Outcome.SLICE_ENDED),
        (DEFAULT_POLICY, 9000, 585, Outcome.SLICE_ENDED),
        (Policy(slice_s=20), math.inf, 20, Outcome.SLICE_ENDED),
        (Policy(daily_seconds=30), math.inf, 30, Outcome.DAILY_SECONDS_SPENT),
        (Policy(slice_s=7200, daily_seconds=7200, quiet_hours=(3,)), math.inf, 3600, Outcome.QUIET_HOURS),
    ],
)
def test_a_slice_ends(policy: Policy, limit_s: float, ends_s: float, reason: Outcome) -> None:
    bench = Bench()
    watch = bench.watch(policy, limit_s=limit_s)
    assert bench.train(watch, 10_000) is reason
    assert watch.seconds == pytest.approx(ends_s, abs=1)


def test_a_slice_takes_what_the_day_has_left() -> None:
    usage = spend(OLD, NIGHT - timedelta(hours=1), UTC, seconds=1700)
    bench = Bench()
    watch = bench.watch(usage=usage)
    assert bench.train(watch, 1000) is Outcome.DAILY_SECONDS_SPENT
    assert watch.seconds == pytest.approx(100, abs=1)


def test_a_slice_across_midnight_is_paid_by_the_day_on_which_it_began() -> None:
    began = datetime(2026, 1, 5, 23, 59, tzinfo=UTC)
    usage = spend(OLD, began, UTC, seconds=1700)
    bench = Bench()
    watch = Watch(bench, DEFAULT_POLICY, usage, began, UTC, clock=lambda: bench.clock_s)
    assert bench.train(watch, 1000) is Outcome.DAILY_SECONDS_SPENT
    after = spend(usage, began, UTC, seconds=watch.seconds)
    assert spent(after, began, UTC).seconds == pytest.approx(1800, abs=1)
    assert spent(after, began + timedelta(hours=1), UTC).seconds == 0


def test_a_battery_that_drains_ends_the_slice_at_its_daily_share() -> None:
    usage = spend(OLD, NIGHT, UTC, battery_share=0.02)
    bench = Bench(replace(IDEAL, charging=False, battery_level=0.8))
    watch = bench.watch(usage=usage)
    assert bench.train(watch, 5) is None
    bench.conditions = replace(bench.conditions, battery_level=0.78)
    assert bench.train(watch, 5) is None
    assert watch.battery_share == pytest.approx(0.02)
    bench.conditions = replace(bench.conditions, battery_level=0.76)
    assert bench.train(watch, 5) is Outcome.DAILY_BATTERY_SPENT


def test_a_battery_that_begins_to_tell_is_measured_from_then_on() -> None:
    bench = Bench(replace(IDEAL, battery_level=None))
    watch = bench.watch()
    bench.train(watch, 2)
    for level in (0.5, None, 0.49):
        bench.conditions = replace(IDEAL, battery_level=level)
        bench.train(watch, 2)
    assert watch.battery_share == pytest.approx(0.01)


def test_traffic_ends_the_slice_at_its_daily_bytes() -> None:
    usage = spend(OLD, NIGHT, UTC, transferred_bytes=199_000_000)
    watch = Bench().watch(usage=usage)
    watch.transferred_bytes += 999_999
    assert watch() is None
    watch.transferred_bytes += 1
    assert watch() is Outcome.DAILY_BYTES_SPENT


def test_the_operating_system_is_obeyed_at_once() -> None:
    bench, wishes = Bench(), [False]
    watch = bench.watch(system_stops=lambda: wishes[0])
    assert bench.train(watch, 5) is None
    wishes[0] = True
    reads = len(bench.reads)
    assert watch() is Outcome.SYSTEM_STOPPED
    assert len(bench.reads) == reads


def test_a_visit_that_has_begun_is_not_stopped_by_its_own_beginning() -> None:
    usage = participated(visited(OLD, NIGHT, 900), NIGHT)
    bench = Bench()
    assert bench.train(bench.watch(Policy(min_separation_s=DAY_S, max_participations=1), usage), 5) is None
