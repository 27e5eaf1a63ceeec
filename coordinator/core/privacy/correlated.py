"""Noise by matrix factorisation: A = B C, with A the prefix sums of what rounds give.

The model after t rounds is a prefix sum. Instead of x + z each round releases x + C⁻¹z: then the prefix sums are
B (C x + z), their noise partly cancels, and the privacy is that of C x + z. C is lower-triangular and Toeplitz, given
by its first column c.

Sensitivity: a device takes part at most k times, at least b rounds apart. For c not negative and not increasing

    sens² = ‖Σ C[:, j b]‖², j from 0 to k - 1         (theorem 2 of https://arxiv.org/abs/2405.13763)

and ρ = sens² / 2z² for noise z and clipping norm 1. No sampling is assumed. The opponent is a recipient: the noise is
drawn by the coordinator. Add and remove, and the next participation may depend on what was released before.

The square root of A, c_i = (2i - 1)!!/(2i)!!, is the best Toeplitz factor for one participation up to a constant.
Source: https://arxiv.org/abs/2202.11205. `blt` has factors that need few vectors of memory.

Assumed: the noise z is a continuous Gaussian. It is drawn on a grid, in steps of which a standard deviation has many
thousands; C x is not on that grid, so a discrete Gaussian's theorem does not cover it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np

from coordinator.core.privacy.conversions import Values
from coordinator.core.privacy.participation import most_participations

_ROUNDING: Final = 1e-12


def root_column(rounds: int) -> Values:
    """The first column of the square root of the prefix sums, shape ``(rounds,)``."""
    steps = np.arange(1, rounds)
    return np.concatenate(([1.0], np.cumprod((2 * steps - 1) / (2 * steps))))


def independent_column(rounds: int) -> Values:
    """The first column of the identity: independent noise in each round."""
    return np.concatenate(([1.0], np.zeros(rounds - 1)))


def sensitivity(column: Values, separation: int, limit: int | None = None) -> float:
    """L2 norm of what a device of norm 1 adds to C x over all rounds, at most.

    Args:
        column: c, shape ``(rounds,)``.
        separation: A device that was in round i is in round i + b again at the earliest, b.
        limit: Most participations of a device; None for as many as fit.

    Raises:
        ValueError: The theorem does not hold for c: a value is negative, or larger than the one before.
    """
    if column.min() < 0 or (np.diff(column) > _ROUNDING).any():
        raise ValueError("the column is not negative and does not increase")
    times = most_participations(column.size, separation, limit)
    total = np.zeros(column.size)
    for begin in range(0, times * separation, separation):
        total[begin:] += column[: column.size - begin]
    return float(np.linalg.norm(total))


def correlated_rho(column: Values, separation: int, noise_multiplier: float, limit: int | None = None) -> float:
    """ρ of all rounds, sens²/2z²."""
    return sensitivity(column, separation, limit) ** 2 / (2 * noise_multiplier**2)


def noise_for(rho: float, column: Values, separation: int, limit: int | None = None) -> float:
    """z for a ρ over all rounds."""
    return sensitivity(column, separation, limit) / math.sqrt(2 * rho)


def restarted_rho(columns: Sequence[Values], separation: int, noise_multiplier: float) -> float:
    """ρ where the noise begins anew with each column: stretches add up, as if a device were in the first round of each.

    Safe for any separation across a restart; what a device gives in one stretch is bounded by that stretch alone.
    """
    return sum(correlated_rho(column, separation, noise_multiplier) for column in columns)


def inverse_column(column: Values) -> Values:
    """The first column of C⁻¹: what noise is multiplied with. c begins with a value above 0."""
    inverse = np.zeros(column.size)
    inverse[0] = 1 / column[0]
    for row in range(1, column.size):
        inverse[row] = -np.dot(column[1 : row + 1], inverse[row - 1 :: -1]) / column[0]
    return inverse


def prefix_error(noise_column: Values, noise_multiplier: float) -> float:
    """Standard deviation of the noise in the last and worst prefix sum, z ‖Σ rows of C⁻¹‖, for clipping norm 1.

    Args:
        noise_column: The first column of C⁻¹.
    """
    return noise_multiplier * float(np.linalg.norm(np.cumsum(noise_column)))
