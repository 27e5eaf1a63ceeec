"""How often one device may be in, and what that multiplies.

After R rounds the cost is ρ₁ · min(R, ⌈R/min_sep⌉, k_max). Where rounds cost differently, it is that of the device that
is in the dearest rounds which are far enough apart.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from coordinator.core.privacy.refusals import InvalidLimits


class Barred(StrEnum):
    """Why a device may not be in this round."""

    TOO_SOON_BY_ROUND = "too-soon-by-round"
    TOO_SOON_BY_CLOCK = "too-soon-by-clock"
    TOO_OFTEN = "too-often"


@dataclass(frozen=True, slots=True, kw_only=True)
class ParticipationLimits:
    """What the device enforces and the coordinator checks.

    Args:
        separation: A device that was in round i of a task is in round i + separation again at the earliest, min_sep;
            rounds are those of the signed header.
        least_gap_s: And not before so many seconds, whatever the headers say.
        most: Most participations in a task, k_max; None for no limit.

    Raises:
        InvalidLimits: A number is out of range.
    """

    separation: int = 1
    least_gap_s: float = 0.0
    most: int | None = None

    def __post_init__(self) -> None:
        if self.separation < 1:
            raise InvalidLimits(f"A separation of {self.separation} rounds is none.", "The smallest is 1: every round.")
        if not 0 <= self.least_gap_s < float("inf"):
            raise InvalidLimits("The wall-clock floor is a number of seconds.", "0 for none.")
        if self.most is not None and self.most < 1:
            raise InvalidLimits(f"{self.most} participations are none.", "The fewest are 1.")


@dataclass(frozen=True, slots=True)
class Participation:
    """A round that a device was in, aborted ones after its masked report included."""

    round: int
    at_s: float


def barred(past: Sequence[Participation], round_: int, now_s: float, limits: ParticipationLimits) -> Barred | None:
    """The first reason why a device may not be in a round, or None.

    Args:
        past: Of the same task, in any order. A round or a clock that went back counts as too soon.
    """
    if limits.most is not None and len(past) >= limits.most:
        return Barred.TOO_OFTEN
    if any(round_ - one.round < limits.separation for one in past):
        return Barred.TOO_SOON_BY_ROUND
    if any(now_s - one.at_s < limits.least_gap_s for one in past):
        return Barred.TOO_SOON_BY_CLOCK
    return None


def most_participations(rounds: int, separation: int, limit: int | None = None) -> int:
    """min(R, ⌈R/min_sep⌉, k_max)."""
    fitting = -(-rounds // separation)
    return fitting if limit is None else min(fitting, limit)


def composed_rho(rho: float, rounds: int, limits: ParticipationLimits) -> float:
    """ρ of R rounds of ρ₁ each, for the device that is in most of them."""
    return rho * most_participations(rounds, limits.separation, limits.most)


def dearest(costs: Sequence[float], limits: ParticipationLimits) -> float:
    """ρ for the device that is in the dearest rounds it may be in; `composed_rho` where all cost the same.

    Args:
        costs: ρ of each round, in order, 0 for rounds that opened no sum: they count for the separation.
    """
    if not costs:
        return 0.0
    times = most_participations(len(costs), limits.separation, limits.most)
    if limits.separation == 1:
        return math.fsum(sorted(costs, reverse=True)[:times])
    if min(costs) == max(costs):
        return costs[0] * times
    # best[t] after a round: the dearest choice of at most t rounds so far.
    best = [np.zeros(times + 1)]
    for at, cost in enumerate(costs):
        before = best[max(0, at + 1 - limits.separation)]
        taken = np.concatenate(([0.0], before[:-1] + cost))
        best.append(np.maximum(best[-1], taken))
    return float(best[-1][-1])
