"""Values of the schedule: places, moments, and strategies for policies, conditions and histories."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo

from hypothesis import strategies as st

from edge_runtime.conditions import Conditions
from edge_runtime.conditions.fixed import IDEAL
from edge_runtime.protocol.policy import DAY_S, Policy, Thermal
from edge_runtime.schedule import Activity, Day, Usage

BERLIN: Final = ZoneInfo("Europe/Berlin")
SANTIAGO: Final = ZoneInfo("America/Santiago")
NOON: Final = datetime(2026, 1, 5, 12, tzinfo=UTC)
OLD: Final = Usage(installed_at=NOON.timestamp() - 40 * DAY_S)

maybe = st.none() | st.booleans()
shares = st.floats(0, 1)
anything = st.builds(
    Conditions,
    in_use=maybe,
    charging=maybe,
    battery_level=st.none() | shares,
    online=maybe,
    metered=maybe,
    thermal=st.none() | st.sampled_from(Thermal),
    free_storage_bytes=st.none() | st.integers(0, 100_000_000),
    power_saver=maybe,
)
conditions = st.just(IDEAL) | anything
spans = st.integers(0, 20 * DAY_S).map(float)


def _policies() -> st.SearchStrategy[Policy]:
    return st.tuples(spans, spans).flatmap(
        lambda pair: st.builds(
            Policy,
            needs_idle=st.booleans(),
            needs_charging=st.booleans(),
            battery_floor=shares,
            needs_unmetered=st.booleans(),
            stop_at=st.sampled_from(list(Thermal)[1:]),
            stops_in_power_saver=st.booleans(),
            min_free_storage_bytes=st.integers(0, 100_000_000),
            quiet_hours=st.sets(st.integers(0, 23)).map(lambda hours: tuple(sorted(hours))),
            daily_seconds=st.floats(0, DAY_S),
            daily_bytes=st.integers(0, 1 << 40),
            daily_battery_share=shares,
            slice_s=st.floats(1, DAY_S),
            first_run_delay_s=spans,
            min_interval_s=st.just(min(pair)),
            max_interval_s=st.just(max(pair)),
            min_separation_s=spans,
            max_participations=st.none() | st.integers(0, 5),
        )
    )


policies = _policies()
zones = st.sampled_from([UTC, BERLIN, SANTIAGO, ZoneInfo("Asia/Kathmandu"), ZoneInfo("Pacific/Kiritimati")])
moments = st.integers(-40 * DAY_S, 340 * DAY_S).map(lambda offset: NOON + timedelta(seconds=offset))
around = st.integers(-30 * DAY_S, 30 * DAY_S).map(lambda offset: NOON.timestamp() + offset)
days = st.builds(
    Day,
    date=st.dates(NOON.date() - timedelta(2), NOON.date() + timedelta(2)).map(str),
    seconds=st.floats(0, 4000),
    transferred_bytes=st.integers(0, 100_000_000),
    battery_share=shares,
)
usages = st.builds(
    Usage,
    installed_at=around,
    days=st.lists(days, max_size=4, unique_by=lambda day: day.date).map(tuple),
    last_visit_at=st.none() | around,
    wait_s=spans,
    last_participation_at=st.none() | around,
    participations=st.integers(0, 6),
)
activities = st.sampled_from(Activity)
