"""One slice of work, watched: the conditions by which `edge_runtime.schedule` decides are read as it goes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, tzinfo

from edge_runtime.conditions import Source
from edge_runtime.protocol.policy import Policy
from edge_runtime.protocol.reasons import Blocker, Outcome
from edge_runtime.schedule import Activity, Usage, blocker, left


def never_stops() -> bool:
    """The operating system never asks to stop."""
    return False


class Watch:
    """One slice of work: asked before every step of training, it says when to stop, and why.

    Guarantee: a condition that is lost is named by the first call that comes `every_s` later or more. With steps of
    less than a second, training stops within 2 s. Once it has stopped a slice, it never takes that back.

    Attributes:
        activity: Set it to `TRANSFER` while the network is used; call the watch between two requests.
        transferred_bytes: Add what travels, both ways.
        blocker: Why the slice was stopped, or None.
        battery_share: The most that the battery fell below its level at the beginning.
    """

    def __init__(
        self,
        source: Source,
        policy: Policy,
        usage: Usage,
        began: datetime,
        zone: tzinfo,
        *,
        limit_s: float = math.inf,
        system_stops: Callable[[], bool] = never_stops,
        every_s: float = 0.5,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin a slice.

        Args:
            source: Wrapped in `conditions.Assuming` if the floors assume something.
            policy: Already `within` the floors.
            usage: What was given before this slice.
            began: The wall clock now; aware.
            limit_s: What the system allows, if that is less than the policy's slice.
            system_stops: Whether the operating system wants the work to end.
            every_s: How often conditions are read: above 0, at most 1 s.
            clock: Monotonic, in seconds.
        """
        if not 0 < every_s <= 1:
            raise ValueError(f"conditions are read every second or more often, not every {every_s} s")
        self.activity = Activity.TRAIN
        self.blocker: Blocker | None = None
        self.transferred_bytes = 0
        self.battery_share = 0.0
        self._source, self._policy, self._usage = source, policy, usage
        self._began, self._zone = began.astimezone(UTC), zone
        self._left = left(policy, usage, began, zone)
        self._limit_s = min(policy.slice_s, limit_s)
        self._system_stops = system_stops
        self._every_s, self._clock = every_s, clock
        self._start = clock()
        self._next_read = self._start
        self._first_level: float | None = None

    def __call__(self) -> Outcome | None:
        """Why to stop now, as `training.train` asks it; None to go on."""
        if self.blocker is None:
            self.blocker = self._look()
        return None if self.blocker is None else Outcome(self.blocker.value)

    @property
    def seconds(self) -> float:
        """How long the slice has lasted."""
        return self._clock() - self._start

    @property
    def left_s(self) -> float:
        """What is left of the slice."""
        return max(0.0, self._limit_s - self.seconds)

    def _look(self) -> Blocker | None:
        if self._system_stops():
            return Blocker.SYSTEM_STOPPED
        if self._clock() >= self._next_read:
            self._next_read = self._clock() + self._every_s
            if lost := self._lost():
                return lost
        if self.seconds >= self._left.seconds and self.activity is not Activity.SUM:
            return Blocker.DAILY_SECONDS_SPENT
        if self.transferred_bytes > 0 and self.transferred_bytes >= self._left.transferred_bytes:
            return Blocker.DAILY_BYTES_SPENT
        return Blocker.SLICE_ENDED if self.seconds >= self._limit_s else None

    def _lost(self) -> Blocker | None:
        """Read conditions: the blocker that holds now, if any."""
        conditions = self._source.read()
        level = conditions.battery_level
        if self._first_level is None:
            self._first_level = level
        elif level is not None:
            self.battery_share = max(self.battery_share, self._first_level - level)
        now = self._began + timedelta(seconds=self.seconds)
        found = blocker(conditions, self._policy, self._usage, now, self._zone, self.activity)
        if found is None and self.battery_share > 0 and self.battery_share >= self._left.battery_share:
            return Blocker.DAILY_BATTERY_SPENT
        return found
