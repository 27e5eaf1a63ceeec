"""Conditions that are set, not measured: for tests, simulators and servers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from edge_runtime.conditions import Conditions
from edge_runtime.protocol.policy import Thermal

IDEAL: Final = Conditions(
    in_use=False,
    charging=True,
    battery_level=1.0,
    online=True,
    metered=False,
    thermal=Thermal.NONE,
    free_storage_bytes=1 << 40,
    power_saver=False,
)
"""Nothing stands in the way: a server, or a phone at night on its charger."""


@dataclass(slots=True)
class FixedSource:
    """Says what it was told last."""

    conditions: Conditions = IDEAL

    def read(self) -> Conditions:
        """Return `conditions`."""
        return self.conditions
