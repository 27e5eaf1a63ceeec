"""Conditions of a Linux laptop, board or phone: sysfs, procfs and, where they run, NetworkManager and logind.

Everything is read below a root folder, so that recorded trees can be read too. D-Bus is asked through `busctl`, which
comes with systemd; where it, or the service, is missing, those answers are unknown.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess  # nosec B404
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

from edge_runtime.conditions import Conditions
from edge_runtime.conditions.sysfs import heat, power, text

Bus: TypeAlias = Callable[[str, str, str, tuple[str, ...]], "tuple[object, ...] | None"]
"""(service, object path, interface, properties) to their values; None if they cannot be had. Never raises."""

NETWORK: Final = ("org.freedesktop.NetworkManager", "/org/freedesktop/NetworkManager", "org.freedesktop.NetworkManager")
LOGIN: Final = ("org.freedesktop.login1", "/org/freedesktop/login1", "org.freedesktop.login1.Manager")

_METERED: Final[dict[object, bool]] = {1: True, 2: False, 3: True, 4: False}
"""NMMetered: yes, no, guessed yes, guessed no; 0 is unknown.

Source: https://networkmanager.dev/docs/api/latest/nm-dbus-types.html
"""
_ONLINE: Final[dict[object, bool]] = {1: False, 2: False, 3: False, 4: True}
"""NMConnectivityState: none, a portal that wants a login, limited, full; 0 is unknown."""

_BUS_WAIT_S: Final = 0.2
_BUS_KEPT_S: Final = 0.75
"""A look each half second starts `busctl` for every other look: a lost condition is seen 1.6 s later at the most."""
_ROUTE_UP: Final = 0x1
_ROUTE_REJECT: Final = 0x200
"""Of the route through "lo" that the kernel keeps when there is no other."""
_NOWHERE: Final = "0" * 32


def no_bus(_service: str, _path: str, _interface: str, _properties: tuple[str, ...]) -> tuple[object, ...] | None:
    """There is no D-Bus."""
    return None


def system_bus(service: str, path: str, interface: str, properties: tuple[str, ...]) -> tuple[object, ...] | None:
    """Ask the system bus, without starting the service; at most 0.3 s."""
    busctl = shutil.which("busctl")
    if busctl is None:
        return None
    words = [busctl, "--system", "--json=short", "--auto-start=no", f"--timeout={round(_BUS_WAIT_S * 1000)}ms"]
    try:
        answer = subprocess.run(  # nosec B603
            [*words, "get-property", service, path, interface, *properties],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_BUS_WAIT_S + 0.1,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return values_told(answer.stdout, len(properties))


def values_told(printed: bytes, expected: int) -> tuple[object, ...] | None:
    """Read what `busctl --json=short get-property` printed: a line for each property."""
    try:
        values = tuple(json.loads(line)["data"] for line in printed.splitlines())
    except (ValueError, LookupError, TypeError):
        return None
    return values if len(values) == expected else None


def free_bytes(path: Path) -> int:
    """What this user may still write there.

    Raises:
        OSError: The path cannot be asked.
    """
    told = os.statvfs(path)
    return told.f_bavail * told.f_frsize


@dataclass(frozen=True, slots=True)
class _Work:
    """CPU time so far, in ticks over all processors."""

    total: int
    idle: int
    own: int


class LinuxSource:
    """Reads the machine on which it runs, or a recorded tree. Not for several threads at once."""

    def __init__(
        self,
        storage: Path,
        *,
        root: Path = Path("/"),
        bus: Bus = system_bus,
        free: Callable[[Path], int] = free_bytes,
        busy_share: float = 0.5,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Read nothing yet.

        Args:
            storage: The folder in which the app keeps its state.
            root: Where `sys` and `proc` are.
            free: Bytes that may be written to a folder.
            busy_share: The machine is in use when other programs take this share of all its processors, 0 to 1.
            clock: Seconds that never run back; answers of the bus are kept for 0.75 of them.
        """
        self._storage, self._free = storage, free
        self._sys, self._proc = root / "sys", root / "proc"
        self._bus, self._busy_share = bus, busy_share
        self._before: _Work | None = None
        self._clock = clock
        self._told: dict[str, tuple[float, tuple[object, ...] | None]] = {}

    def read(self) -> Conditions:
        """Look now. What needs time to tell, the use of processors, is told of the time since the last look."""
        supplies = power(self._sys)
        online, metered = self._network()
        return Conditions(
            in_use=self._in_use(),
            charging=supplies.charging,
            battery_level=supplies.battery_level,
            online=online,
            metered=metered,
            thermal=heat(self._sys),
            free_storage_bytes=self._free_bytes(),
            power_saver=text(self._sys / "firmware/acpi/platform_profile") == "low-power",
        )

    def _network(self) -> tuple[bool | None, bool | None]:
        """Online and metered, as NetworkManager says; without it, only whether there is a route."""
        metered, connected = self._asked(NETWORK, ("Metered", "Connectivity")) or (None, None)
        online = _ONLINE.get(connected) if isinstance(connected, int) else None
        if online is None:
            online = self._has_route()
        known = _METERED.get(metered) if isinstance(metered, int) else None
        return online, False if online is False else known

    def _asked(self, whom: tuple[str, str, str], properties: tuple[str, ...]) -> tuple[object, ...] | None:
        """What a service says, or said a moment ago."""
        at_s, values = self._told.get(whom[0], (-math.inf, None))
        now_s = self._clock()
        if not 0 <= now_s - at_s < _BUS_KEPT_S:
            values = self._bus(*whom, properties)
            self._told[whom[0]] = (now_s, values)
        return values

    def _in_use(self) -> bool | None:
        """Somebody is at a session, or other programs need the processors."""
        (hint,) = self._asked(LOGIN, ("IdleHint",)) or (None,)
        busy = self._busy()
        if hint is False or (busy is not None and busy >= self._busy_share):
            return True
        return None if hint is not True and busy is None else False

    def _busy(self) -> float | None:
        """The share of all processors that other programs take: since the last look, or else in the last minute.

        Our own training must not look like somebody else's work, so our time is left out; the average load of the
        first look includes none of it yet.
        """
        before, self._before = self._before, self._work()
        if before and self._before and (passed := self._before.total - before.total) > 0:
            others = passed - (self._before.idle - before.idle) - (self._before.own - before.own)
            return max(0.0, others / passed)
        try:
            load = float((text(self._proc / "loadavg") or "").split()[0])
        except (ValueError, IndexError):
            return None
        processors = self._processors()
        return load / processors if processors else None

    def _work(self) -> _Work | None:
        """Source: proc(5), /proc/stat and /proc/pid/stat."""
        try:
            ticks = [int(word) for word in (text(self._proc / "stat") or "").split("\n")[0].split()[1:9]]
            ours = (text(self._proc / "self/stat") or "").rpartition(")")[2].split()
            return _Work(total=sum(ticks), idle=ticks[3] + ticks[4], own=int(ours[11]) + int(ours[12]))
        except (ValueError, IndexError):
            return None

    def _processors(self) -> int:
        lines = (text(self._proc / "stat") or "").splitlines()
        return sum(line.startswith("cpu") and line[3:4].isdigit() for line in lines)

    def _has_route(self) -> bool | None:
        """A default route of either internet protocol is up."""
        four, six = text(self._proc / "net/route"), text(self._proc / "net/ipv6_route")
        if four is None and six is None:
            return None
        return any(map(_leads_out_4, (four or "").splitlines())) or any(map(_leads_out_6, (six or "").splitlines()))

    def _free_bytes(self) -> int | None:
        try:
            return max(0, self._free(self._storage))
        except OSError:
            return None


def _leads_out_4(line: str) -> bool:
    words = line.split()
    return len(words) > 3 and words[1] == "00000000" and _is_up(words[3])


def _leads_out_6(line: str) -> bool:
    words = line.split()
    return len(words) > 9 and words[:2] == [_NOWHERE, "00"] and _is_up(words[8])


def _is_up(flags: str) -> bool:
    try:
        bits = int(flags, 16)
    except ValueError:
        return False
    return bool(bits & _ROUTE_UP) and not bits & _ROUTE_REJECT
