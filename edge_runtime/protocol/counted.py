"""Reports under a clipping norm that adapts: the delta, and behind it whether it was within the norm. Pure.

The count is one more value, with a codec and noise of its own (`Plan.count_lanes`): a device adds 1 - γ if its delta
was within the round's clipping norm and -γ if not, for quantile γ; one that gives zeros in place of what it trained
adds 0. The four zero lanes stand behind both.
Source: https://arxiv.org/abs/1905.03871, with b - γ for b - ½.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edge_runtime.protocol.claims import AdaptiveNorm
from edge_runtime.protocol.plan import Plan
from edge_runtime.protocol.secure_sum.lanes import ZERO_LANES, Delta, LaneVector


class Opened(NamedTuple):
    """The sum of reports.

    Attributes:
        delta: Of the deltas, float64, shape ``(values,)``.
        above: By how many devices more than the quantile says were within; 0 where the norm is fixed.
    """

    delta: npt.NDArray[np.float64]
    above: float = 0.0


def count_of(adaptive: AdaptiveNorm, *, within: bool | None) -> Delta:
    """What one device adds to the count, as a delta of one value; None: nothing, as it gives zeros."""
    return np.array([0.0 if within is None else adaptive.given(within=within)], np.float32)


def joined(delta: LaneVector, count: LaneVector) -> LaneVector:
    """The lanes of a report from those of its two parts, each with zero lanes of its own."""
    return np.concatenate([delta[:-ZERO_LANES], count])


def open_sum(plan: Plan, total: LaneVector, values: int, clipping_norm: float | None = None) -> Opened:
    """Turn a sum of reports into the sums of their deltas and counts.

    Args:
        values: Of the delta.
        clipping_norm: Of the round, where it adapts; None for the plan's.

    Raises:
        LanesOutOfRange: The four zero lanes did not sum to zero.
        ValueError: The sum is not that of so many values: a bug of the caller.
    """
    lanes, counts = plan.lanes(clipping_norm), plan.count_lanes()
    if counts is None:
        return Opened(lanes.open_sum(total, values))
    count = total[-counts.count(1) :]
    delta = np.concatenate([total[: -count.size], total[-ZERO_LANES:]])
    return Opened(lanes.open_sum(delta, values), float(counts.open_sum(count, 1)[0]))
