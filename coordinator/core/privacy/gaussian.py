"""The exact privacy curve of the continuous Gaussian mechanism; an oracle for every other accountant.

k releases of sensitivity 1 with noise z, without sampling, are as private as one with μ = √k / z:

    δ(ε) = Φ(μ/2 - ε/μ) - e^ε Φ(-μ/2 - ε/μ)

Source: https://arxiv.org/abs/1805.06530, theorem 8; composition: https://arxiv.org/abs/1905.02383, corollary 3.3.
"""

from __future__ import annotations

import math
from typing import Final

from coordinator.core.privacy.conversions import check_delta, least

_FAR: Final = 37.0
"""Beyond it a double does not hold the tail of the normal distribution."""
_ROUNDED: Final = 2.0**-50
"""What doubles may leave of both terms of δ, relative to the first, for arguments of 1."""


def exact_delta(mu: float, epsilon: float) -> float:
    """δ at ε ≥ 0 for noise of 1/μ sensitivities, μ > 0.

    Guarantee: never less than the curve, from 1e-300 on; above it by less than 1e-9 of Φ(μ/2 - ε/μ) for μ ≤ 1000.
    """
    first, second = epsilon / mu - mu / 2, epsilon / mu + mu / 2
    one = _upper_tail(first)
    if second < _FAR:
        other = math.exp(epsilon + math.log(_upper_tail(second)))
    else:  # ε is (second² - first²)/2
        other = math.exp(-first * first / 2) / math.sqrt(2 * math.pi) * _least_ratio(second)
    rounded = _ROUNDED * (1 + max(0.0, first)) * (1 + second)
    return min(1.0, max(0.0, one * (1 + rounded) - other))


def exact_epsilon(mu: float, delta: float) -> float:
    """ε at δ; 0 for μ = 0."""
    check_delta(delta)
    if mu == 0:
        return 0.0
    # Beyond it the first term of δ alone is below δ: Φ(-t) <= exp(-t²/2).
    high = mu * (mu / 2 + math.sqrt(-2 * math.log(delta)))
    return least(lambda epsilon: exact_delta(mu, epsilon) <= delta, high)


def least_noise(epsilon: float, delta: float) -> float:
    """1/μ: the least noise multiplier of one release that keeps (ε, δ).

    Raises:
        ValueError: ε is not above 0: no noise is enough.
    """
    if not epsilon > 0:
        raise ValueError(f"ε is above 0, not {epsilon}")
    return least(lambda noise: noise > 0 and exact_delta(1 / noise, epsilon) <= delta, _enough(epsilon, delta))


def _enough(epsilon: float, delta: float) -> float:
    noise = 1.0
    while exact_delta(1 / noise, epsilon) > delta:
        noise *= 2
    return noise


def _least_ratio(at: float) -> float:
    """Below P[N(0, 1) > t] over its density at t > 0, by less than 24/t⁸ of it.

    The fourth convergent of Laplace's continued fraction 1/(t + 1/(t + 2/(t + 3/(t + ...)))): even ones are too small.
    Source: https://dlmf.nist.gov/7.9.
    """
    return 1 / (at + 1 / (at + 2 / (at + 3 / at)))


def _upper_tail(at: float) -> float:
    """P[N(0, 1) > at]."""
    return math.erfc(at / math.sqrt(2)) / 2
