"""What Skellam noise would cost; no mode uses it, and auditors ask.

For whole α > 1 and variance μ on each value:

    r(α) <= α Δ₂²/2μ + min(((2α - 1) Δ₂² + 6 Δ₁)/4μ², 3 Δ₁/2μ)

Source: https://arxiv.org/abs/2110.04995, theorem 3.5 and corollary 4.1. Between whole orders (α - 1) r(α) is bounded by
the line between its neighbours, because it is convex, and it is 0 at α = 1.
"""

from __future__ import annotations

import numpy as np

from coordinator.core.privacy.conversions import Values


def curve(orders: Values, variance: float, sensitivity: float, sensitivity_l1: float) -> Values:
    """Upper bounds of the Rényi divergence at any orders above 1.

    Args:
        variance: Of the noise on each value of the sum, in steps squared, above 0.
        sensitivity: Δ₂, in steps.
        sensitivity_l1: Δ₁, in steps; for integers at most Δ₂ · min(√d, Δ₂).
    """
    low, high = np.floor(orders), np.ceil(orders)
    weights = orders - low
    below = (low - 1) * _at_whole(np.maximum(low, 2.0), variance, sensitivity, sensitivity_l1)
    above = (high - 1) * _at_whole(np.maximum(high, 2.0), variance, sensitivity, sensitivity_l1)
    found: Values = ((1 - weights) * below + weights * above) / (orders - 1)
    return found


def _at_whole(orders: Values, variance: float, l2: float, l1: float) -> Values:
    squared = l2 * l2
    rest = np.minimum(
        ((2 * orders - 1) * squared + 6 * l1) / (4 * variance**2), np.full(orders.shape, 3 * l1 / (2 * variance))
    )
    found: Values = orders * squared / (2 * variance) + rest
    return found
