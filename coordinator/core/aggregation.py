"""From a sum of reports to the next weights."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from edge_runtime.protocol.checkpoint import Weights
from edge_runtime.protocol.errors import InvalidWeights


def federated_average(
    weights: Weights,
    delta_sum: npt.NDArray[np.float64],
    shared: Sequence[slice],
    *,
    expected_participants: int,
    server_learning_rate: float,
) -> Weights:
    """Apply one round of federated averaging with a fixed denominator.

    Guarantee: one participant whose delta has norm at most C moves the shared weights by at most
    ``server_learning_rate * C / expected_participants`` in L2 norm, float32 rounding aside.
    Source: https://arxiv.org/abs/1602.05629; the fixed denominator: https://arxiv.org/abs/1710.06963.

    Args:
        weights: The round's weights, shape ``(parameters,)``; not changed.
        delta_sum: Sum of clipped deltas over the shared parameters, shape ``(shared parameters,)``.
        shared: Where the delta's parts lie in the weights, in order.

    Raises:
        ValueError: The delta does not fill the slices exactly.
        InvalidWeights: The result is not finite.
    """
    if sum(part.stop - part.start for part in shared) != delta_sum.size:
        raise ValueError("the delta does not fit the shared parameters")
    updated = weights.astype(np.float64)
    update = delta_sum * (server_learning_rate / expected_participants)
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
