"""When a device may work: data from the coordinator, held within the floors that the host app compiled in."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar, Final

from edge_runtime.protocol import wire

DAY_S: Final = 86_400
LONGEST_SPAN_S: Final = 366 * DAY_S
MOST_PARTICIPATIONS: Final = 1 << 31


class Thermal(StrEnum):
    """How hot a device is, from cool to about to switch itself off.

    Source: https://developer.android.com/reference/android/os/PowerManager#THERMAL_STATUS_NONE, whose "emergency" and
    "shutdown" are critical here.
    """

    NONE = "none"
    LIGHT = "light"
    MODERATE = "moderate"
    """Android's own limit: the device has begun to slow itself down."""
    SEVERE = "severe"
    CRITICAL = "critical"

    @property
    def rank(self) -> int:
        """0 for the coolest."""
        return list(Thermal).index(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What must hold before and while a device works. The defaults are those of the protocol.

    Source of the starred ones: Android's own federated scheduler. The others are ours.

    Attributes:
        needs_idle: Nobody uses the device. *
        needs_charging: It has power from outside.
        battery_floor: Least battery level without power from outside, 0 to 1. *
        needs_unmetered: The network costs nothing, whenever it is used. *
        stop_at: This hot or hotter, it stops. *
        stops_in_power_saver: It stops while its owner saves power.
        min_free_storage_bytes: Least free storage. *
        quiet_hours: Hours of the local day, 0 to 23, in which it does nothing.
        daily_seconds: Most training in a local day.
        daily_bytes: Most network traffic in a local day, both ways. A first participation moves 3.2 times the weights:
            bundle 1.15, checkpoint 1, report at most 1; the default carries weights of 62 MB.
        daily_battery_share: Most battery in a local day, as a share of a full one.
        slice_s: Longest stretch of work; Android and iOS end background work at about 10 min. *
        first_run_delay_s: Nothing happens for so long after the installation. *
        min_interval_s: Least time between two visits. *
        max_interval_s: Longest wait that a coordinator can ask for. *
        min_separation_s: Least time between the beginnings of two participations.
        max_participations: Most participations of one installation; None for any number.
    """

    VERSION: ClassVar[int] = 1

    version: int = VERSION
    needs_idle: bool = True
    needs_charging: bool = False
    battery_floor: float = 0.3
    needs_unmetered: bool = True
    stop_at: Thermal = Thermal.MODERATE
    stops_in_power_saver: bool = True
    min_free_storage_bytes: int = 50_000_000
    quiet_hours: tuple[int, ...] = ()
    daily_seconds: float = 1800.0
    daily_bytes: int = 200_000_000
    daily_battery_share: float = 0.05
    slice_s: float = 585.0
    first_run_delay_s: float = 300.0
    min_interval_s: float = 60.0
    max_interval_s: float = 6.0 * DAY_S
    min_separation_s: float = 0.0
    max_participations: int | None = None

    def __post_init__(self) -> None:
        wire.require(self.version == self.VERSION, f"version is {self.VERSION}")
        wire.require(0 <= self.battery_floor <= 1, "battery_floor is 0 to 1")
        wire.require(self.stop_at is not Thermal.NONE, "stop_at is hotter than none")
        wire.require(0 <= self.min_free_storage_bytes < wire.INTEGER_LIMIT, "min_free_storage_bytes is 0 or more")
        hours = self.quiet_hours
        wire.require(hours == tuple(sorted({*hours} & {*range(24)})), "quiet_hours are some of 0 to 23, in order")
        wire.require(0 <= self.daily_seconds <= DAY_S, "daily_seconds is 0 to a day")
        wire.require(0 <= self.daily_bytes < wire.INTEGER_LIMIT, "daily_bytes is 0 or more")
        wire.require(0 <= self.daily_battery_share <= 1, "daily_battery_share is 0 to 1")
        wire.require(0 < self.slice_s <= DAY_S, "slice_s is above 0 and at most a day")
        spans_s = (self.first_run_delay_s, self.min_interval_s, self.max_interval_s, self.min_separation_s)
        wire.require(all(0 <= span_s <= LONGEST_SPAN_S for span_s in spans_s), "every span is 0 to a year")
        wire.require(self.min_interval_s <= self.max_interval_s, "min_interval_s is at most max_interval_s")
        wire.require(
            self.max_participations is None or 0 <= self.max_participations <= MOST_PARTICIPATIONS,
            "max_participations is 0 or more",
        )
