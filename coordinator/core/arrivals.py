"""What was seen of a population's check-ins: their rate of the last minutes, and who is there at which hour.

A small value that the caller stores: two numbers and 24 pairs. Times are seconds since 1970-01-01 UTC; hours are UTC.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass, replace
from typing import Final

HOURS: Final = 24
HOUR_S: Final = 3600.0
RATE_MEMORY_S: Final = 120.0
"""The rate forgets with this time constant: it knows of a crowd within seconds, and of its end within minutes."""
PROFILE_MEMORY_S: Final = 3 * HOUR_S
"""Each hour of the day forgets with this time constant, in seconds of that hour: three days."""
FADING: Final = 8.0
"""While nobody is asked to come, what is known fades so many times slower."""
LONGEST_STEP_S: Final = 60.0
"""From a longer silence of the coordinator nothing is learnt about the hour: it was not there to be visited."""
PRIOR_VISITS: Final = 5.0
"""So many visits are imagined in which every device was there, so that the first ones decide nothing."""
LEAST_SHARE: Final = 0.02
"""However few devices an hour seems to have."""

_LAYOUT: Final = struct.Struct(f"<{2 + 2 * HOURS}d")


class InvalidArrivals(ValueError):
    """An observation or a stored state is out of range; the text says what."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrivals:
    """What was seen until `seen_at_s`; begin with `none_yet`.

    Raises:
        InvalidArrivals: A number is negative or not finite, or there are not 24 hours.
    """

    seen_at_s: float
    rate_per_s: float
    """Check-ins a second, each knock counted, also those that were turned away."""
    came: tuple[float, ...]
    """By hour: visits, older ones weighing less; at most `expected` and a few."""
    expected: tuple[float, ...]
    """By hour: visits that would have come had every device been there, weighing the same."""

    def __post_init__(self) -> None:
        numbers = (self.rate_per_s, *self.came, *self.expected)
        if len(self.came) != HOURS or len(self.expected) != HOURS:
            raise InvalidArrivals(f"came and expected have {HOURS} hours each")
        if not (math.isfinite(self.seen_at_s) and all(0 <= number < math.inf for number in numbers)):
            raise InvalidArrivals("every number is finite, and rates and visits are not negative")

    def to_bytes(self) -> bytes:
        """400 bytes, little-endian float64: when, rate, came, expected."""
        return _LAYOUT.pack(self.seen_at_s, self.rate_per_s, *self.came, *self.expected)


def from_bytes(stored: bytes) -> Arrivals:
    """Read what `to_bytes` wrote.

    Raises:
        InvalidArrivals: It has another length, or a number is out of range.
    """
    if len(stored) != _LAYOUT.size:
        raise InvalidArrivals(f"stored arrivals have {_LAYOUT.size} bytes, and not {len(stored)}: begin with none_yet")
    seen_at_s, rate_per_s, *hours = _LAYOUT.unpack(stored)
    return Arrivals(
        seen_at_s=seen_at_s, rate_per_s=rate_per_s, came=tuple(hours[:HOURS]), expected=tuple(hours[HOURS:])
    )


def none_yet(now_s: float) -> Arrivals:
    """The state of a population that nobody has seen."""
    return Arrivals(seen_at_s=now_s, rate_per_s=0.0, came=(0.0,) * HOURS, expected=(0.0,) * HOURS)


def hour_of(at_s: float) -> int:
    """The hour of the day, 0 to 23, UTC."""
    return int(at_s // HOUR_S) % HOURS


def observe(before: Arrivals, now_s: float, count: int, devices: int, hazard_per_s: float) -> Arrivals:
    """Add the check-ins since the last observation; call it every 1 to 60 s.

    The share of the devices that is there at an hour is the ratio of two sums: visits that came, and visits that the
    hazard in force would have brought had all been there. Pacing changes both alike, so that a day which pacing made
    flat is not taken for a flat day. Where the hazard is 0 nobody was asked to come, and who came all the same tells
    nothing; what was known fades slowly, so that every hour is tried again some day. After a silence of more than
    `LONGEST_STEP_S` only the rate is told anything; a clock that went back is believed, and what came meanwhile is not
    counted.

    Args:
        count: Check-ins since `before.seen_at_s`, those turned away at the door included.
        devices: Distinct devices that were seen lately, as `pace` was told.
        hazard_per_s: `Plan.hazard_per_s` of the plan that was in force.

    Raises:
        InvalidArrivals: A number is negative or not finite.
    """
    if not (math.isfinite(now_s) and count >= 0 and devices >= 0 and 0 <= hazard_per_s < math.inf):
        raise InvalidArrivals("count, devices and hazard_per_s are finite and not negative")
    step_s = now_s - before.seen_at_s
    if step_s <= 0:
        return replace(before, seen_at_s=now_s)
    keep = math.exp(-step_s / RATE_MEMORY_S)
    rate_per_s = keep * before.rate_per_s + (1 - keep) * count / step_s
    if step_s > LONGEST_STEP_S:
        return replace(before, seen_at_s=now_s, rate_per_s=rate_per_s)
    hour = hour_of(now_s)
    asked = hazard_per_s > 0
    keep = math.exp(-step_s / (PROFILE_MEMORY_S if asked else FADING * PROFILE_MEMORY_S))
    expected = keep * before.expected[hour] + hazard_per_s * devices * step_s
    came = min(keep * before.came[hour] + (count if asked else 0), expected + PRIOR_VISITS)
    return Arrivals(
        seen_at_s=now_s,
        rate_per_s=rate_per_s,
        came=_with(before.came, hour, came),
        expected=_with(before.expected, hour, expected),
    )


def rate_at(arrivals: Arrivals, now_s: float) -> float:
    """Check-ins a second as far as is known now: nobody came since the last observation."""
    return arrivals.rate_per_s * math.exp(-max(0.0, now_s - arrivals.seen_at_s) / RATE_MEMORY_S)


def share_present(arrivals: Arrivals) -> tuple[float, ...]:
    """Estimate by hour which share of the devices is there, in [`LEAST_SHARE`, 1]; 1 while nothing is known."""
    return tuple(
        min(1.0, max(LEAST_SHARE, (came + PRIOR_VISITS) / (expected + PRIOR_VISITS)))
        for came, expected in zip(arrivals.came, arrivals.expected, strict=True)
    )


def most_present(arrivals: Arrivals) -> tuple[float, ...]:
    """By hour, the share of the devices that is hardly exceeded: two standard deviations above the estimate."""
    return tuple(
        min(1.0, (came + PRIOR_VISITS + 2 * math.sqrt(came + PRIOR_VISITS)) / (expected + PRIOR_VISITS))
        for came, expected in zip(arrivals.came, arrivals.expected, strict=True)
    )


def _with(hours: tuple[float, ...], hour: int, value: float) -> tuple[float, ...]:
    return (*hours[:hour], value, *hours[hour + 1 :])
