"""From sums of reports to the next weights."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from edge_runtime.protocol.checkpoint import Weights
from edge_runtime.protocol.errors import InvalidWeights

Values = npt.NDArray[np.float64]


def staleness_weight(staleness: int, exponent: float) -> float:
    """What a sum counts that began so many model versions ago: (1 + s)^-exponent, in (0, 1]; 1 for a fresh one.

    Source: https://arxiv.org/abs/2106.06639, section 5.

    Raises:
        ValueError: The sum began from a version that is not there yet: a bug of the caller.
    """
    if staleness < 0:
        raise ValueError("a sum is not older than nothing")
    return float((1 + staleness) ** -exponent)


def buffered_sum(delta_sums: Iterable[tuple[Values, int]], exponent: float) -> Values:
    """Add up what waits in the buffer of a task, each sum weighted by its staleness, in the order given.

    Guarantee: no weight is above 1, so one participant moves the result by at most its delta's norm. One sum of
    staleness 0 comes back as it is, bit for bit.

    Args:
        delta_sums: Sums of deltas, float64, shape ``(shared parameters,)``, each with its staleness in model versions;
            one is in memory at a time.

    Raises:
        ValueError: There is none: an empty buffer is never an update.
    """
    total: Values | None = None
    for delta_sum, staleness in delta_sums:
        weighted = delta_sum * staleness_weight(staleness, exponent) if staleness else delta_sum
        total = weighted if total is None else total + weighted
    if total is None:
        raise ValueError("there is nothing in the buffer")
    return total


def apply_update(weights: Weights, update: Values, shared: Sequence[slice]) -> Weights:
    """Add an update to the shared weights, in float64; the others are not touched, nor is what is given.

    Args:
        weights: Shape ``(parameters,)``.
        update: Shape ``(shared parameters,)``.
        shared: Where the update's parts lie in the weights, in order.

    Raises:
        ValueError: The update does not fill the slices exactly.
        InvalidWeights: The result is not finite.
    """
    if sum(part.stop - part.start for part in shared) != update.size:
        raise ValueError("the delta does not fit the shared parameters")
    updated = weights.astype(np.float64)
    taken = 0
    for part in shared:
        size = part.stop - part.start
        updated[part] += update[taken : taken + size]
        taken += size
    with np.errstate(over="ignore"):
        result = updated.astype(np.float32)
    if not np.isfinite(result).all():
        raise InvalidWeights("the update is not finite")
    return result
