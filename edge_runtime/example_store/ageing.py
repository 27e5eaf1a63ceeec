"""The store's clock: how old examples are, though the clock on the wall jumps.

Examples are stamped and aged by a time of the store's own that never goes back. It follows the wall clock in small
steps. A wall clock that is set back holds it still, and it goes on from where it was: nothing comes to life again, and
nothing grows old at once. A leap forward is either a device that was off or a wrong clock, and nobody can tell: what it
makes too old is not read from that moment, but its bytes are deleted only once the clock has stood by it for an hour.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

LEAP_S: Final = 3600.0
"""A longer time between two looks at the clock is a leap."""
CONFIRMATION_S: Final = 3600.0
"""A leap is believed when the clock is so much later still."""


@dataclass(frozen=True, slots=True)
class StoreClock:
    """What is remembered between two looks at the wall clock; all in seconds since the epoch.

    Attributes:
        time_s: The store's time at the last look. It never goes back.
        wall_s: What the wall clock showed then.
        leapt_to_s: What the wall clock showed when a leap was first seen that is not believed yet.
    """

    time_s: float
    wall_s: float
    leapt_to_s: float | None = None


def presumed_s(clock: StoreClock, wall_s: float) -> float:
    """The store's time if the wall clock is right: at least `clock.time_s`. What is too old by it is not read."""
    return _presumed_s(_confirmed(clock, wall_s), wall_s)


def looked(clock: StoreClock, wall_s: float) -> StoreClock:
    """Look at the wall clock. What is too old by the new `time_s` may be deleted; none of it could be read before."""
    clock = _confirmed(clock, wall_s)
    if wall_s - clock.wall_s <= LEAP_S:
        return StoreClock(_presumed_s(clock, wall_s), wall_s)
    first_s = wall_s if clock.leapt_to_s is None else min(wall_s, clock.leapt_to_s)
    return StoreClock(clock.time_s, clock.wall_s, first_s)


def _confirmed(clock: StoreClock, wall_s: float) -> StoreClock:
    """The clock, past a leap that the wall clock has stood by for long enough."""
    leapt_to_s = clock.leapt_to_s
    if leapt_to_s is None or wall_s - leapt_to_s < CONFIRMATION_S:
        return clock
    return StoreClock(_presumed_s(clock, leapt_to_s), leapt_to_s)


def _presumed_s(clock: StoreClock, wall_s: float) -> float:
    """After a leap that comes back to where the clock was set back from, or beyond, it is the wall's time."""
    passed_s = wall_s - clock.wall_s
    if passed_s <= LEAP_S:
        return clock.time_s + max(0.0, passed_s)
    if wall_s >= clock.time_s - LEAP_S:
        return max(clock.time_s, wall_s)
    return clock.time_s + passed_s
