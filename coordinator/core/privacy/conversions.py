"""ρ-zCDP and Rényi curves as (ε, δ), and back. Every result errs on the side of more ε and more δ.

For a mechanism of Rényi divergence at most r(α) for each α > 1:

    δ(ε) = min over α of exp((α - 1)(r(α) - ε)) / (α - 1) · (1 - 1/α)^α
    ε(δ) = min over α of r(α) + ln(1 - 1/α) - (ln δ + ln α)/(α - 1)

and ρ-zCDP is r(α) = α ρ for all α > 1. Source: https://arxiv.org/abs/2004.00010, proposition 12 and corollary 13. The
well-known ε = ρ + 2 √(ρ ln(1/δ)) is 10 % larger at ρ = .5, δ = 1e-6, and is not used.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.float64]

LARGEST_RHO: Final = 1e6
_GOLDEN: Final = (math.sqrt(5) - 1) / 2
_NARROW: Final = 1e-7
"""Width at which a search for a minimum ends: the value is then off by the square of it."""
_STEPS: Final = 200
"""Halvings: more than a double can tell apart."""


def check_delta(delta: float) -> None:
    """Return if δ is a probability below 1 and above 0.

    Raises:
        ValueError: It is not: a bug of the caller; settings are checked where they come in.
    """
    if not 0 < delta < 1:
        raise ValueError(f"δ is above 0 and below 1, not {delta}")


def rho_to_delta(rho: float, epsilon: float) -> float:
    """Smallest δ known for ρ-zCDP at ε ≥ 0."""
    _check_rho(rho)
    if rho == 0:
        return 0.0

    def log_delta(log_order: float) -> float:
        less = math.exp(log_order)  # α - 1
        return less * ((1 + less) * rho - epsilon) - (1 + less) * math.log1p(1 / less) - log_order

    # α ρ - ε grows without bound; the best α is below (ε + 2)/ρ + 2, and far above 1 + e^-40 where it matters.
    best = _smallest(log_delta, -40.0, math.log((epsilon + 2) / rho + 2))
    return math.exp(min(best, 0.0))


def rho_to_epsilon(rho: float, delta: float) -> float:
    """Smallest ε known for ρ-zCDP at δ; 0 for ρ = 0."""
    _check_rho(rho)
    check_delta(delta)
    return least(lambda epsilon: rho_to_delta(rho, epsilon) <= delta, rho + 2 * math.sqrt(rho * -math.log(delta)))


def epsilon_bound(rho: float, delta: float) -> float:
    """`rho_to_epsilon`, for whatever is to be shown: infinite, that is no bound, beyond `LARGEST_RHO`."""
    return rho_to_epsilon(rho, delta) if rho <= LARGEST_RHO else math.inf


def epsilon_to_rho(epsilon: float, delta: float) -> float:
    """Largest ρ whose ε at δ is at most `epsilon`."""
    check_delta(delta)
    low, high = 0.0, min(epsilon + 1, LARGEST_RHO)
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if rho_to_delta(middle, epsilon) <= delta else (low, middle)
    return low


def curve_to_epsilon(orders: Values, divergences: Values, delta: float) -> float:
    """ε at δ of a Rényi curve given at some orders; infinite where nothing is known.

    Args:
        orders: Each above 1, shape ``(n,)``.
        divergences: An upper bound for each, ``inf`` where there is none.
    """
    check_delta(delta)
    if not divergences.any():
        return 0.0
    found = divergences + np.log1p(-1 / orders) - (math.log(delta) + np.log(orders)) / (orders - 1)
    return max(0.0, float(found.min()))


def curve_to_delta(orders: Values, divergences: Values, epsilon: float) -> float:
    """δ at ε of a Rényi curve, at most 1."""
    less = orders - 1
    found = less * (divergences - epsilon) + orders * np.log1p(-1 / orders) - np.log(less)
    return math.exp(min(0.0, float(found.min())))


def least(enough: Callable[[float], bool], high: float) -> float:
    """The least value at which something becomes and stays true, from above; `high` is enough."""
    if enough(0.0):
        return 0.0
    low = 0.0
    for _ in range(_STEPS):
        middle = (low + high) / 2
        if not low < middle < high:
            break
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _smallest(function: Callable[[float], float], low: float, high: float) -> float:
    """The minimum of a function with one valley, by golden sections."""
    left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    at_left, at_right = function(left), function(right)
    for _ in range(_STEPS):
        if at_left < at_right:
            high, right, at_right = right, left, at_left
            left = high - _GOLDEN * (high - low)
            at_left = function(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + _GOLDEN * (high - low)
            at_right = function(right)
        if high - low < _NARROW:
            break
    return min(at_left, at_right)


def _check_rho(rho: float) -> None:
    if not 0 <= rho <= LARGEST_RHO:
        raise ValueError(f"ρ is 0 to {LARGEST_RHO:g}, not {rho}")
