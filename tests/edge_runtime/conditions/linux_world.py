"""Machines as folders: recorded trees, and a laptop that can be put into any situation."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from edge_runtime.conditions import Conditions
from edge_runtime.conditions.linux import LOGIN, NETWORK, LinuxSource
from edge_runtime.protocol.policy import Thermal

TREES: Final = Path(__file__).parent / "trees"

_CELSIUS: Final = {
    Thermal.NONE: 45,
    Thermal.LIGHT: 92,
    Thermal.MODERATE: 95,
    Thermal.SEVERE: 100,
    Thermal.CRITICAL: 105,
}


def plant(root: Path, tree: str) -> Path:
    """Make the files of `trees/<tree>.txt`: a line is a path and a line of that file's text; `#` begins a comment."""
    texts: dict[str, list[str]] = {}
    for line in (TREES / f"{tree}.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            path, _colon, text = line.partition(": ")
            texts.setdefault(path, []).append(text.strip())
    for path, lines in texts.items():
        write(root, path, "\n".join(lines))
    return root


def write(root: Path, path: str, text: object) -> None:
    """Write one file of a tree, as the kernel ends it."""
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(f"{text}\n")


class FakeBus:
    """The system bus: services by name, each with its properties. `asked` is what was called."""

    def __init__(self, services: dict[tuple[str, str, str], dict[str, object]]) -> None:
        self.services = services
        self.asked: list[str] = []

    def __call__(self, service: str, path: str, interface: str, names: Iterable[str]) -> tuple[object, ...] | None:
        self.asked.append(service)
        properties = self.services.get((service, path, interface))
        return None if properties is None else tuple(properties[name] for name in names)


class LinuxWorld:
    """A laptop of which every part can be set."""

    def __init__(self, folder: Path) -> None:
        self.root = plant(folder / "root", "laptop")
        self.network: dict[str, object] = {"Metered": 4, "Connectivity": 4}
        self.login: dict[str, object] = {"IdleHint": True}
        self.bus = FakeBus({NETWORK: self.network, LOGIN: self.login})
        self.free: int | None = 0
        self.now_s = 0.0
        self.source = LinuxSource(folder, root=self.root, bus=self.bus, free=self._free, clock=lambda: self.now_s)

    def become(self, situation: Conditions) -> None:
        self.now_s += 1.0
        charging, level = situation.charging, round(100 * (situation.battery_level or 0.0))
        status = ("Full" if level == 100 else "Charging") if charging else "Discharging"
        write(self.root, "sys/class/power_supply/BAT0/status", status)
        write(self.root, "sys/class/power_supply/BAT0/energy_now", 500_000 * level)
        write(self.root, "sys/class/power_supply/AC/online", int(bool(charging)))
        write(self.root, "sys/class/thermal/thermal_zone0/temp", 1000 * _CELSIUS[situation.thermal or Thermal.NONE])
        profile = "low-power" if situation.power_saver else "balanced"
        write(self.root, "sys/firmware/acpi/platform_profile", profile)
        self.network |= {"Metered": 1 if situation.metered else 4, "Connectivity": 4 if situation.online else 1}
        self.login["IdleHint"] = not situation.in_use
        self.free = situation.free_storage_bytes

    def breaks(self) -> None:
        self.now_s += 1.0
        shutil.rmtree(self.root)
        self.bus.services.clear()
        self.free = None

    def _free(self, _path: Path) -> int:
        if self.free is None:
            raise PermissionError("statvfs")
        return self.free
