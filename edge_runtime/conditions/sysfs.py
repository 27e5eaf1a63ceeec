"""Power and heat as the Linux kernel tells them. Nothing raises: what is missing, unreadable or garbage is None.

Source: https://www.kernel.org/doc/Documentation/ABI/testing/sysfs-class-power and
https://www.kernel.org/doc/html/latest/driver-api/thermal/sysfs-api.html
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edge_runtime.protocol.policy import Thermal

_TEXT_LIMIT: Final = 1 << 16
_SANE_CELSIUS: Final = (-40.0, 200.0)
_BELOW_CRITICAL: Final = ((0.0, Thermal.CRITICAL), (10.0, Thermal.SEVERE), (25.0, Thermal.MODERATE))
"""A zone that names only its critical temperature: at 110 °C, a Raspberry Pi slows down from 85 °C on."""
_LIGHT_BELOW_MODERATE: Final = 5.0
_WHERE_NO_LIMIT_IS_TOLD: Final = [
    (75.0, Thermal.LIGHT),
    (80.0, Thermal.MODERATE),
    (90.0, Thermal.SEVERE),
    (100.0, Thermal.CRITICAL),
]
"""For a device of which no zone names a limit. A Raspberry Pi 4 with a fan names the fan's temperature alone, and slows
down from 80 °C on: https://www.raspberrypi.com/documentation/computers/raspberry-pi.html, frequency management.
"""


@dataclass(frozen=True, slots=True)
class Power:
    """As in `Conditions`."""

    charging: bool | None
    battery_level: float | None


def text(path: Path) -> str | None:
    """The beginning of a file, without space around it; None if it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(_TEXT_LIMIT).decode("utf-8", "replace").strip()
    except OSError:
        return None


def number(path: Path) -> float | None:
    """An integer in a file."""
    try:
        return float(int(text(path) or ""))
    except (ValueError, OverflowError):
        return None


def entries(folder: Path) -> list[Path] | None:
    """What a folder holds, by name; None if it cannot be listed."""
    try:
        return sorted(folder.iterdir())
    except OSError:
        return None


def power(sys: Path) -> Power:
    """Read all supplies. A board without any battery runs on power from outside."""
    supplies = entries(sys / "class/power_supply")
    if supplies is None:
        return Power(None, None)
    kinds = {supply: text(supply / "type") for supply in supplies}
    if any(kind is None for kind in kinds.values()):
        return Power(None, None)  # it could be a battery
    batteries = [supply for supply, kind in kinds.items() if kind == "Battery" and _is_ours(supply)]
    sources = [number(supply / "online") for supply, kind in kinds.items() if kind not in ("Battery", "UPS")]
    if not batteries:
        return Power(True, None)
    return Power(_charging([text(battery / "status") for battery in batteries], sources), _level(batteries))


def _is_ours(battery: Path) -> bool:
    """Not the battery of a mouse, and not an empty bay."""
    return text(battery / "scope") != "Device" and text(battery / "present") != "0"


def _charging(statuses: list[str | None], sources: list[float | None]) -> bool | None:
    """A weak charger does not count: a battery that discharges is used."""
    if "Discharging" in statuses:
        return False
    if "Charging" in statuses or any(online in (1.0, 2.0) for online in sources):
        return True
    if sources and None not in sources:
        return False
    if "Full" in statuses:
        return True
    return False if "Not charging" in statuses else None


def _level(batteries: list[Path]) -> float | None:
    """Of all batteries together: by energy or charge where all tell it, else the mean of their levels."""
    for unit in ("energy", "charge"):
        now = [number(battery / f"{unit}_now") for battery in batteries]
        full = [number(battery / f"{unit}_full") for battery in batteries]
        share = _share(now, full)
        if share is not None:
            return share
    levels = [number(battery / "capacity") for battery in batteries]
    return _share(levels, [100.0] * len(levels))


def _share(parts: list[float | None], wholes: list[float | None]) -> float | None:
    """Σ parts / Σ wholes, in steps of 1 % and at most 1; None unless all are known and make sense."""
    if any(part is None or part < 0 for part in parts) or any(whole is None or whole <= 0 for whole in wholes):
        return None
    return min(1.0, round(sum(filter(None, parts)) / sum(filter(None, wholes)), 2))


def heat(sys: Path) -> Thermal | None:
    """The hottest of all zones, each against its own trip points; None if no zone tells a temperature.

    Where no zone has a trip point that tells heat, each is held against the limits of a Raspberry Pi.
    """
    zones = [zone for zone in entries(sys / "class/thermal") or [] if zone.name.startswith("thermal_zone")]
    felt = [(celsius, _limits(zone)) for zone in zones if (celsius := _celsius(zone / "temp")) is not None]
    if not any(limits for _now, limits in felt):
        felt = [(celsius, _WHERE_NO_LIMIT_IS_TOLD) for celsius, _none in felt]
    judged = [_judged(celsius, limits) for celsius, limits in felt if limits]
    return max(judged, key=lambda heat: heat.rank, default=None)


def _judged(celsius: float, limits: list[tuple[float, Thermal]]) -> Thermal:
    reached = [heat for limit, heat in limits if celsius >= limit]
    return max(reached, key=lambda heat: heat.rank, default=Thermal.NONE)


def _celsius(path: Path) -> float | None:
    """A temperature that a device can have; some drivers say -273 °C or 0 for "none"."""
    thousandths = number(path)
    if thousandths is None or not _SANE_CELSIUS[0] <= thousandths / 1000 <= _SANE_CELSIUS[1]:
        return None
    return thousandths / 1000


def _limits(zone: Path) -> list[tuple[float, Thermal]]:
    """From which temperature on a zone is how hot.

    Passive: the kernel slows the device down. Hot: it warns. Critical: it switches off. Active is a fan, and not heat.
    """
    trips: dict[str, float] = {}
    for path in entries(zone) or []:
        kind = text(path) if path.name.startswith("trip_point_") and path.name.endswith("_type") else None
        limit = _celsius(path.with_name(path.name.removesuffix("type") + "temp")) if kind else None
        if kind and limit is not None and limit > 0:
            trips[kind] = min(limit, trips.get(kind, limit))
    limits = []
    if "critical" in trips:
        limits = [(trips["critical"] - below, heat) for below, heat in _BELOW_CRITICAL]
    if "hot" in trips:
        limits.append((trips["hot"], Thermal.SEVERE))
    if "passive" in trips:
        limits = [limit for limit in limits if limit[1] is not Thermal.MODERATE]
        limits.append((trips["passive"], Thermal.MODERATE))
    if not limits:
        return []
    first = min(limit for limit, _heat in limits)
    return [*limits, (first - _LIGHT_BELOW_MODERATE, Thermal.LIGHT)]
