"""What every source of conditions must do: each expresses the same situations in its own world."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Protocol

import pytest

from edge_runtime.conditions import Conditions, Source, unknown
from edge_runtime.conditions.fixed import IDEAL
from edge_runtime.protocol.policy import Policy, Thermal
from edge_runtime.schedule import Activity, Usage, blocker

AT_NIGHT: Final = replace(IDEAL, battery_level=0.8, free_storage_bytes=12_000_000_000)

SITUATIONS: Final[dict[str, Conditions]] = {
    "charging, idle, on wifi": AT_NIGHT,
    "full on its charger": replace(AT_NIGHT, battery_level=1.0),
    "on battery at 20 %": replace(AT_NIGHT, charging=False, battery_level=0.2),
    "on battery at 3 %": replace(AT_NIGHT, charging=False, battery_level=0.03),
    "charging at 3 %": replace(AT_NIGHT, battery_level=0.03),
    "metered": replace(AT_NIGHT, metered=True),
    "offline": replace(AT_NIGHT, online=False),
    "warm": replace(AT_NIGHT, thermal=Thermal.LIGHT),
    "hot": replace(AT_NIGHT, thermal=Thermal.SEVERE),
    "about to switch off": replace(AT_NIGHT, thermal=Thermal.CRITICAL),
    "storage low": replace(AT_NIGHT, free_storage_bytes=10_000_000),
    "storage full": replace(AT_NIGHT, free_storage_bytes=0),
    "power saver": replace(AT_NIGHT, power_saver=True),
    "in use": replace(AT_NIGHT, in_use=True),
    "in use, on the road": replace(AT_NIGHT, in_use=True, charging=False, battery_level=0.55, metered=True),
}


class World(Protocol):
    """A device that a test can put into a situation, and the source that reads it."""

    @property
    def source(self) -> Source:
        """Always the same one."""

    def become(self, situation: Conditions) -> None:
        """Put the device into a situation."""

    def breaks(self) -> None:
        """From now on, everything that the source asks fails."""


class SourceContract:
    """Subclass it for each source, with its world."""

    def world(self, folder: Path) -> World:
        """A device in a new folder."""
        raise NotImplementedError

    @pytest.mark.parametrize("name", SITUATIONS)
    def test_a_situation_is_read_as_it_is(self, name: str, tmp_path: Path) -> None:
        world = self.world(tmp_path)
        world.become(SITUATIONS[name])
        assert world.source.read() == SITUATIONS[name]
        assert world.source.read() == SITUATIONS[name]

    def test_a_change_is_seen_at_the_next_reading(self, tmp_path: Path) -> None:
        world = self.world(tmp_path)
        for situation in [*SITUATIONS.values(), *reversed(SITUATIONS.values())]:
            world.become(situation)
            assert world.source.read() == situation

    def test_when_everything_fails_nothing_is_known_and_the_device_rests(self, tmp_path: Path) -> None:
        world = self.world(tmp_path)
        world.become(AT_NIGHT)
        assert unknown(world.source.read()) == ()
        world.breaks()
        conditions = world.source.read()
        assert set(unknown(conditions)) >= set(unknown(Conditions())) - {"power_saver"}
        now = datetime(2026, 1, 5, 3, tzinfo=UTC)
        for activity in Activity:
            assert blocker(conditions, Policy(), Usage(installed_at=0.0), now, UTC, activity) is not None
