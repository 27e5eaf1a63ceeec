"""What a person is told of a reason: what it means on a board, and what changes it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from edge_runtime.protocol.reasons import Blocker, Outcome

BLOCKED: Final[Mapping[str, str]] = {
    Blocker.IN_USE: "somebody is logged in, or other programs are busy; on a board: needs_idle = false under [limits]",
    Blocker.OVERHEATED: 'too hot, or nothing tells how hot; without a sensor: thermal = "none" under [assumed]',
    Blocker.POWER_SAVER: "the firmware saves power: look at /sys/firmware/acpi/platform_profile",
    Blocker.BATTERY_LOW: "no power from outside, and the battery is low or unknown; charge it",
    Blocker.NOT_CHARGING: "it waits for power from outside",
    Blocker.NETWORK_METERED: "the network costs money, or nobody can tell; if it is free: metered = false in [assumed]",
    Blocker.STORAGE_LOW: "too little free storage beside the state folder; free some",
    Blocker.NETWORK_LOST: "there is no network, or the coordinator gives no answer; run: edgewise-device doctor",
    Blocker.QUIET_HOURS: "these hours of the day are quiet",
    Blocker.DAILY_SECONDS_SPENT: "it trained as long today as it may",
    Blocker.DAILY_BYTES_SPENT: "it moved as many bytes today as it may",
    Blocker.DAILY_BATTERY_SPENT: "it used as much of its battery today as it may",
    Blocker.JUST_INSTALLED: "it waits a while after the installation: first_run_delay_s under [limits]",
    Blocker.TOO_SOON: "the interval since the last visit is not over",
    Blocker.PARTICIPATED_RECENTLY: "the time between two participations is not over",
    Blocker.PARTICIPATIONS_SPENT: "it took part as often as it may",
    Blocker.SLICE_ENDED: "the time of the slice is over; the next one goes on",
    Blocker.SYSTEM_STOPPED: "it was asked to stop; the next slice goes on",
    Blocker.APPOINTMENT_AHEAD: "what was trained waits for its appointment with a group",
    Outcome.SWITCHED_OFF: "an operator switched the population off; it asks now and then whether it still is",
    Outcome.OPTED_OUT: "the owner took this device out",
}
"""By reason code: every one that `Runtime.why` can name."""


def span(seconds: float) -> str:
    """A duration as people say it: "45 s", "14 min", "6 h", "3 days"."""
    for unit_s, name in ((86_400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * unit_s:
            return f"{seconds / unit_s:.0f} {name}"
    return f"{max(0.0, seconds):.0f} s"
