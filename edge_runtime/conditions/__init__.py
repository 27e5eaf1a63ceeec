"""What a device knows of itself, and the seam to where it comes from: linux, android, ios, fixed.

Importing this loads no bridge to a phone; `android` and `ios` load theirs when a source is made.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Final, Protocol

from edge_runtime.protocol.policy import Thermal


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """A device at one moment. None: the source cannot tell.

    What nobody can tell is taken as the answer that spares the owner (`edge_runtime.schedule`). A host app that knows
    better, because its devices have no battery or no metered network, says so in its floors.

    Attributes:
        in_use: Somebody uses the device.
        charging: It has power from outside and does not draw on a battery. True where there is no battery.
        battery_level: 0 to 1 of a full battery; None also where there is none.
        online: It has a network that leads to the internet, as far as the system knows.
        metered: That network costs money, or its owner asked to use little of it. False while there is none.
        thermal: How hot it is.
        free_storage_bytes: What the app may still write.
        power_saver: Its owner saves power. False where there is no such switch.
    """

    in_use: bool | None = None
    charging: bool | None = None
    battery_level: float | None = None
    online: bool | None = None
    metered: bool | None = None
    thermal: Thermal | None = None
    free_storage_bytes: int | None = None
    power_saver: bool | None = None

    def __post_init__(self) -> None:
        if self.battery_level is not None and not 0 <= self.battery_level <= 1:
            raise ValueError(f"a battery level is 0 to 1, not {self.battery_level}")
        if self.free_storage_bytes is not None and self.free_storage_bytes < 0:
            raise ValueError(f"free storage is 0 bytes or more, not {self.free_storage_bytes}")


UNKNOWN: Final = Conditions()
"""Nothing can be told."""


class Source(Protocol):
    """Where conditions come from."""

    def read(self) -> Conditions:
        """Look now. Never raises: what cannot be read is None. Takes well under a second."""


def assume(conditions: Conditions, assumed: Conditions) -> Conditions:
    """Put what a host app knows of its devices in place of what the source cannot tell."""
    known = {name: value for name, value in _values(conditions).items() if value is not None}
    return dataclasses.replace(assumed, **known)


@dataclass(frozen=True, slots=True)
class Assuming:
    """A source with assumptions: it can tell what the host app knows."""

    source: Source
    assumed: Conditions

    def read(self) -> Conditions:
        """Look now, and fill the gaps."""
        return assume(self.source.read(), self.assumed)


def unknown(conditions: Conditions) -> tuple[str, ...]:
    """The names of what the source cannot tell: what to look at when a device never trains."""
    return tuple(name for name, value in _values(conditions).items() if value is None)


def _values(conditions: Conditions) -> dict[str, Any]:
    return {field.name: getattr(conditions, field.name) for field in dataclasses.fields(conditions)}
