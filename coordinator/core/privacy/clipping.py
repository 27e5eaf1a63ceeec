"""Adaptive clipping: the clipping norm follows a quantile of the deltas' norms, learned only from noised counts.

Each device adds to a count whether its delta was within the clipping norm (`edge_runtime.protocol.counted`), as one
more value with noise of its own. C moves by C ← C exp(-η a), a the share of devices within above the quantile: what
the count says, divided by the participants expected. Source: https://arxiv.org/abs/1905.03871.
"""

from __future__ import annotations

import math
from typing import Final

from edge_runtime.protocol.claims import AdaptiveNorm

COUNT_NOISE: Final = 0.05
"""σ_b over the expected participants that is usual: 1 % more noise on deltas for the median, at z = 1 and n = 100."""
STEP_LOG_LIMIT: Final = 2.0
"""No update moves the clipping norm by more than a factor of e²."""


def next_norm(adaptive: AdaptiveNorm, clipping_norm: float, share_above: float) -> float:
    """The next clipping norm, within its bounds.

    Args:
        share_above: By how much the noised share of devices within is above the quantile; noise may take it anywhere.
    """
    move = max(-STEP_LOG_LIMIT, min(STEP_LOG_LIMIT, -adaptive.rate * share_above))
    return max(adaptive.smallest, min(adaptive.largest, clipping_norm * math.exp(move)))
