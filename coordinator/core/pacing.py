"""When devices come back: retry windows from what was seen, what is wanted and what the coordinator can take.

Once a second `pace` makes a `Plan`; the plan then answers each check-in in constant time. docs/pacing.md derives the
formulas. The behaviour is that of Bonawitz et al. 2019, section 2.3 (https://arxiv.org/abs/1902.01046): small
populations meet, large ones spread evenly. No formula is published there; these are ours.

Times are seconds since 1970-01-01 UTC; hours of the day are UTC. A *hazard* is how likely a waiting device comes back
in the next second, per second: its inverse is the mean wait.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import accumulate, count, pairwise
from typing import Final

import numpy as np

from coordinator.core.arrivals import HOUR_S, Arrivals, hour_of, most_present, share_present

SLOTS: Final = 64
"""A plan offers so many windows, each to the same share of devices."""
LAST_SLOT: Final = math.log(SLOTS) + 2
"""The exponential law ends here, in mean waits: the last slot then has the mean of the tail that it stands for."""
_SLOT_SHARES: Final = np.arange(SLOTS) / SLOTS
SURENESS: Final = 3.0
"""Standard deviations of a Poisson count between what is expected and what is needed: met 998 times in 1,000."""


class InvalidPacing(ValueError):
    """A setting or an observation of pacing is out of range; the text says which."""


def _require(fact: bool, what: str) -> None:
    if not fact:
        raise InvalidPacing(what)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Settings of an operator.

    Raises:
        InvalidPacing: 0 < shortest_s <= often_s <= idle_s <= longest_s / 2 does not hold, or a share is not in (0, 1].
    """

    shortest_s: float = 60.0
    """No window begins earlier."""
    longest_s: float = 86_400.0
    """No window ends later: so long may a device not know that it was paused, switched off or wanted."""
    idle_s: float = 21_600.0
    """The mean wait when nothing needs the device."""
    often_s: float = 3_600.0
    """A population that would have to come more often than this, on average, to fill rounds evenly, meets instead."""
    busy_share: float = 0.8
    """Windows are made for this share of the capacity."""
    drain_s: float = 60.0
    """A queue is to be worked off within so long."""

    def __post_init__(self) -> None:
        _require(0 < self.shortest_s <= self.often_s, "shortest_s is above 0 and at most often_s")
        _require(self.often_s <= self.idle_s, "often_s is at most idle_s")
        _require(2 * self.idle_s <= self.longest_s < math.inf, "longest_s is finite and at least twice idle_s")
        _require(0 < self.busy_share <= 1, "busy_share is above 0 and at most 1")
        _require(0 < self.drain_s < math.inf, "drain_s is finite and above 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class Goals:
    """What the tasks of a population want from now on.

    Raises:
        InvalidPacing: A number is not above 0, or not finite.
    """

    devices: int
    """To choose for one round, over-selection included; of tasks with rounds at the same time, the sum."""
    least: int
    """With fewer candidates a round is not worth opening."""
    rounds_per_hour: float
    patience_s: float
    """So long may a round wait for its candidates."""
    opening_s: float | None = None
    """When the next round opens, where a schedule says so; else rounds open at multiples of their period."""

    def __post_init__(self) -> None:
        _require(1 <= self.least <= self.devices, "least is at least 1 and at most devices")
        _require(0 < self.rounds_per_hour < math.inf, "rounds_per_hour is finite and above 0")
        _require(0 < self.patience_s < math.inf, "patience_s is finite and above 0")
        _require(self.opening_s is None or math.isfinite(self.opening_s), "opening_s is finite")

    @property
    def period_s(self) -> float:
        return HOUR_S / self.rounds_per_hour


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What the coordinator can take from this population, and what waits.

    Raises:
        InvalidPacing: The capacity is not above 0, or the queue is negative.
    """

    capacity_per_s: float
    """Check-ins that all replicas together can work through in a second."""
    queue: int = 0
    """Check-ins that arrived and are not answered; held ones are answered."""

    def __post_init__(self) -> None:
        _require(0 < self.capacity_per_s < math.inf, "capacity_per_s is finite and above 0")
        _require(self.queue >= 0, "queue is not negative")


class Manner(StrEnum):
    """How a population comes back."""

    EVENLY = "evenly"
    MEETING = "meeting"


@dataclass(frozen=True, slots=True)
class Window:
    """Come back after `after_s` seconds, at an instant drawn evenly from the next `spread_s` seconds."""

    after_s: float
    spread_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The windows of the next second or so."""

    manner: Manner
    hazard_per_s: float
    """In force now; 0 between meetings. `arrivals.observe` wants it back."""
    windows: tuple[Window, ...]
    """`SLOTS` of them, in order of time, each for the same share of the devices that go without an assignment."""

    def window(self, unit: float) -> Window:
        """Choose the window of one device.

        Guarantee: `shortest_s` <= after_s, and after_s + spread_s <= `longest_s`. The same unit gets the same window.

        Args:
            unit: Even over [0, 1): `unit_of` a keyed hash of the visit, so that a visit sent again is answered alike.

        Raises:
            InvalidPacing: The unit is not in [0, 1).
        """
        if not 0.0 <= unit < 1.0:
            raise InvalidPacing(f"a unit is in [0, 1), and not {unit}")
        return self.windows[int(unit * SLOTS)]


def unit_of(digest: bytes) -> float:
    """Turn a digest of 7 bytes or more into a number that is even over [0, 1): 53 bits, never rounded up to 1."""
    return (int.from_bytes(digest[:7], "big") >> 3) / 2.0**53


def sure_count(devices: int) -> float:
    """The mean of a Poisson count that is at least `devices` in 998 cases of 1,000: m - 3 sqrt(m) = devices."""
    return ((SURENESS + math.sqrt(SURENESS**2 + 4 * devices)) / 2) ** 2


def pressure(rate_per_s: float, load: Load, limits: Limits) -> float:
    """What arrives and waits, over what windows are made for; above 1 the coordinator is overloaded."""
    return (rate_per_s + load.queue / limits.drain_s) / (limits.busy_share * load.capacity_per_s)


def pace(arrivals: Arrivals, goals: Goals | None, load: Load, devices: int, now_s: float, limits: Limits) -> Plan:
    """Make the windows of the next second.

    Guarantees, each a test:
        Bounds: every window lies within [`shortest_s`, `longest_s`].
        Enough: a large population in a steady state brings the devices of a round within its patience, or within its
            period if that is shorter.
        Capacity: however many of `devices` came at one instant, no later second expects more than `busy_share` of the
            capacity, as long as `devices / (busy_share * capacity)` is well below `longest_s`.
        Load: with more pressure no quantile of the waits is shorter.
        Meetings: a small population is sent to common instants, chosen by the clock alone, in hours when enough of it
            is present.

    Args:
        arrivals: What was seen (`coordinator.core.arrivals`).
        goals: None while no task is active.
        load: What the coordinator can take.
        devices: Distinct devices of the population that were seen within `longest_s`.

    Raises:
        InvalidPacing: The number of devices is negative.
    """
    room = _room(arrivals, load, devices, limits)
    if goals is not None and _is_small(goals, room, limits):
        meetings = _Meetings(goals, room, limits)
        return Plan(
            manner=Manner.MEETING,
            hazard_per_s=meetings.hazard_per_s(now_s),
            windows=_at_meetings(meetings, now_s, limits),
        )
    hazards = [_hazard_per_s(goals, room, share, limits) for share in room.present]
    return Plan(manner=Manner.EVENLY, hazard_per_s=hazards[hour_of(now_s)], windows=_evenly(hazards, now_s, limits))


def hazard_at(arrivals: Arrivals, goals: Goals | None, load: Load, devices: int, at_s: float, limits: Limits) -> float:
    """What `Plan.hazard_per_s` of the same arguments is, without its windows: for minutes in which nobody came.

    Raises: As `pace`.
    """
    room = _room(arrivals, load, devices, limits)
    if goals is not None and _is_small(goals, room, limits):
        return _Meetings(goals, room, limits).hazard_per_s(at_s)
    return _hazard_per_s(goals, room, room.present[hour_of(at_s)], limits)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Room:
    """How many devices there may be, and what the coordinator can take of them."""

    devices: float
    """Nobody comes twice within `shortest_s`, so a rate proves as many devices, seen or not."""
    per_s: float
    present: tuple[float, ...]
    """By hour, the share of the devices that is there."""
    at_most: tuple[float, ...]
    """By hour, the share that is hardly exceeded: an hour is not given up on a guess."""


def _room(arrivals: Arrivals, load: Load, devices: int, limits: Limits) -> _Room:
    _require(devices >= 0, "devices is not negative")
    burden = max(1.0, pressure(arrivals.rate_per_s, load, limits))
    return _Room(
        devices=max(1.0, devices, arrivals.rate_per_s * limits.shortest_s),
        per_s=limits.busy_share * load.capacity_per_s / burden,
        present=share_present(arrivals),
        at_most=most_present(arrivals),
    )


def _needed_per_s(goals: Goals) -> float:
    """Arrivals that bring a round's devices within its patience, or within its period if that is shorter."""
    return sure_count(goals.devices) / min(goals.patience_s, goals.period_s)


def _is_small(goals: Goals, room: _Room, limits: Limits) -> bool:
    """Whether devices would have to come more often than `often_s`, on average over the day, to fill rounds evenly."""
    present = room.devices * sum(room.present) / len(room.present)
    return present < _needed_per_s(goals) * limits.often_s


def _hazard_per_s(goals: Goals | None, room: _Room, share: float, limits: Limits) -> float:
    """As often as needed, or as `idle_s` says; never beyond the room, as if all devices were there."""
    needed_per_s = 0.0 if goals is None else _needed_per_s(goals)
    wished = max(needed_per_s / (room.devices * share), 1 / limits.idle_s)
    return min(wished, room.per_s / room.devices, 1 / limits.shortest_s)


def _evenly(hazards: Sequence[float], now_s: float, limits: Limits) -> tuple[Window, ...]:
    """Cut the law of waiting with these hazards, by hour of the day, into windows of equal probability."""
    midnight_s = now_s - now_s % HOUR_S
    hours = int((now_s + limits.longest_s - midnight_s) // HOUR_S) + 1
    changes = (midnight_s + hour * HOUR_S - now_s for hour in range(1, hours + 1))
    between = (at_s for at_s in changes if limits.shortest_s < at_s < limits.longest_s)
    times = [limits.shortest_s, *between, limits.longest_s]
    steps = (hazards[hour_of(now_s + (a + b) / 2)] * (b - a) for a, b in pairwise(times))
    sums = list(accumulate(steps, initial=0.0))
    levels = [*(-np.log1p(np.expm1(-sums[-1]) * _SLOT_SHARES)), min(sums[-1], LAST_SLOT)]
    edges: list[float] = np.interp(levels, sums, times).tolist()  # where the straight pieces reach each level
    return tuple(Window(a, b - a) for a, b in pairwise(edges))


class _Meetings:
    """Instants at which a small population comes together; the clock alone says which, so all are sent to the same."""

    def __init__(self, goals: Goals, room: _Room, limits: Limits) -> None:
        self.period_s = goals.period_s * math.ceil(limits.shortest_s / goals.period_s)
        self.width_s = min(goals.patience_s, self.period_s) / 2
        self._opening_s = goals.opening_s
        self._shortest_s = limits.shortest_s
        fitting = min(1.0, room.per_s * self.width_s / room.devices)
        sure = sure_count(goals.devices)
        wished = [min(fitting, sure / (room.devices * share)) for share in room.present]
        enough = [room.devices * share >= goals.least for share in room.at_most]
        chosen = [share if worth_it else 0.0 for share, worth_it in zip(wished, enough, strict=True)]
        free = goals.opening_s is None and self.period_s <= HOUR_S
        self._shares = chosen if free and any(chosen) else wished

    def share(self, at_s: float) -> float:
        """Which share of the devices comes to a meeting at this instant.

        None in hours that surely have fewer than `least`, if every hour has a meeting and no schedule sets openings.
        """
        return self._shares[hour_of(at_s)]

    def hazard_per_s(self, at_s: float) -> float:
        """The share that comes to the meeting which is on, over its width; 0 between meetings."""
        began_s = at_s - (at_s - (self._opening_s or 0.0)) % self.period_s
        early = self._opening_s is not None and at_s < self._opening_s
        return 0.0 if early or at_s - began_s >= self.width_s else self.share(began_s) / self.width_s

    def kept_from(self, at_s: float) -> Iterator[float]:
        """The instants of the meetings from here on to which anybody comes; there is always one more."""
        anchor_s = self._opening_s or 0.0
        number = math.ceil((at_s - anchor_s) / self.period_s)
        if self._opening_s is not None:
            number = max(0, number)
        for later in count(number):
            meeting_s = anchor_s + later * self.period_s
            if self.share(meeting_s) > 0:
                yield meeting_s


def _at_meetings(meetings: _Meetings, now_s: float, limits: Limits) -> tuple[Window, ...]:
    """Send each device to the first meeting of which a coin says so; half-way on if there is none within reach."""
    last_s = now_s + limits.longest_s - meetings.width_s
    windows, reached, left = [], [], 1.0
    for meeting_s in meetings.kept_from(now_s + limits.shortest_s):
        if meeting_s > last_s or left < 1 / (2 * SLOTS):
            break
        windows.append(Window(meeting_s - now_s, meetings.width_s))
        left *= 1 - meetings.share(meeting_s)
        reached.append(1 - left)
    if not windows:
        return (Window(limits.longest_s / 2, limits.longest_s / 4),) * SLOTS
    levels = ((slot + 0.5) / SLOTS * reached[-1] for slot in range(SLOTS))
    return tuple(windows[bisect_left(reached, level)] for level in levels)
