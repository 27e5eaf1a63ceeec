"""Rendezvous: when devices that trained come together, and when a group forms of them.

Times of a round lie on a grid. A device that has trained is told the next time on it, so all who wait come together,
within the time in which a group forms. In a short round a group may form at any time: the next time is near anyway. In
a long one phones would spend their batteries on asking: groups form at the times of the grid alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from coordinator.core.rounds import GroupPhase
from coordinator.core.secure_groups import LONGEST_S
from edge_runtime.protocol.plan import Close

SHORTEST_PERIOD_S: Final = 2.0
LONGEST_PERIOD_S: Final = 1800.0
TIMES_OF_A_ROUND: Final = 40
ALWAYS_BELOW_S: Final = 60.0
"""With times no farther apart, groups form at any time: whoever waits comes while the group still forms."""
WINDOW_S: Final = LONGEST_S[GroupPhase.FORMING]
"""So long after its time a device still finds a group that forms."""
LAST_CALL_S: Final = 150.0
"""So long before the round's deadline, or a fifth of the round if that is less, nobody else is waited for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Where a round is in its time, in seconds.

    Attributes:
        span_s: From choosing to the deadline.
        elapsed_s: Of it.
    """

    span_s: float
    elapsed_s: float

    @property
    def period_s(self) -> float:
        return min(LONGEST_PERIOD_S, max(SHORTEST_PERIOD_S, self.span_s / TIMES_OF_A_ROUND))

    @property
    def last_call(self) -> bool:
        return self.elapsed_s >= self.span_s - min(LAST_CALL_S, self.span_s / 5)

    @property
    def meeting(self) -> bool:
        """Whether those who wait are coming now."""
        since_s = self.elapsed_s % self.period_s
        return self.period_s <= ALWAYS_BELOW_S or self.last_call or (self.elapsed_s >= 0 and since_s < WINDOW_S)

    def next_in_s(self) -> float:
        """Seconds until the next time, at least one; the last is the last call."""
        times = math.floor(self.elapsed_s / self.period_s) + 1
        last = self.span_s - min(LAST_CALL_S, self.span_s / 5)
        at_s = times * self.period_s
        if self.elapsed_s < last < at_s:
            at_s = last
        return max(1.0, at_s - self.elapsed_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Crowd:
    """Of a round.

    Attributes:
        waiting: Participants who trained and are in no group.
        coming: Participants who may still have trained soon.
    """

    waiting: int
    coming: int


def forms(crowd: Crowd, timing: Timing, *, fewest: int, goal: int, close: Close) -> bool:
    """Whether those who wait make up a group, or several, now.

    Guarantee: never of fewer than `fewest`. Unless the plan closes at its goal, all who may come are waited for: then
    nobody chooses a group by being fast, and a larger group hides more.

    Args:
        fewest: Members without whom no sum can be opened.
        goal: Reports wanted of one group.
    """
    if crowd.waiting < fewest or not timing.meeting:
        return False
    met = close is Close.GOAL and crowd.waiting >= goal
    return not crowd.coming or met or timing.last_call


def sizes(waiting: int, fewest: int, most: int, wanted: int | None) -> list[int]:
    """How those who wait are split: into as many groups as have `wanted` members, as equal as can be.

    Guarantee: each has `fewest` to `most`; whoever is too many for that waits on.

    Args:
        wanted: Members of one group at least; None for as large as can be.
    """
    least = min(most, max(fewest, wanted or most))
    count = max(1, waiting // least)
    while count * most < waiting and waiting // (count + 1) >= fewest:
        count += 1
    placed = min(waiting, count * most)
    size, larger = divmod(placed, count)
    return [size + 1] * larger + [size] * (count - larger)
