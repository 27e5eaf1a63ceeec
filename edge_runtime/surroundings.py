"""What a runtime takes from the machine it runs on: clocks, chance, and a log."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from typing import TypeAlias

from edge_runtime.protocol.group import LEAST_SLICE_S

Log: TypeAlias = Callable[[str], None]
"""Takes one plain sentence; never an example, a key or a token."""


def utc_now() -> datetime:
    """The wall clock."""
    return datetime.now(UTC)


def quiet(_sentence: str) -> None:
    """Log nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What a runtime takes from the machine it runs on; tests bring their own.

    Attributes:
        now: The wall clock; aware.
        monotonic: Seconds that never go back.
        sleep: Waits between two tries of a request, half a second at a time.
        entropy: So many random bytes, from a cryptographic source.
        zone: Where the device is, for quiet hours and daily budgets; None for what the system says.
        least_slice_s: A group is joined only with so much of the slice left.
    """

    now: Callable[[], datetime] = utc_now
    monotonic: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    entropy: Callable[[int], bytes] = os.urandom
    zone: tzinfo | None = None
    least_slice_s: float = LEAST_SLICE_S
