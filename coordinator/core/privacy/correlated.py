"""Noise by matrix factorisation: A = B C, with A the prefix sums of what rounds give.

The model after t rounds is a prefix sum. Instead of x + z each round releases x + C⁻¹z: then the prefix sums are
B (C x + z), their noise partly cancels, and the privacy is that of C x + z. C is lower-triangular and Toeplitz, given
by its first column c.

Sensitivity: a device takes part at most k times, at least b rounds apart. For c not negative and not increasing

    sens² = ‖Σ C[:, j b]‖², j from 0 to k - 1         (theorem 2 of https://arxiv.org/abs/2405.13763)

and ρ = sens² / 2z² for noise z and clipping norm 1. No sampling is assumed. The opponent is a recipient: the noise is
drawn by the coordinator. One gives zeros instead, and the next participation may depend on what was released before.

The square root of A, c_i = (2i - 1)!!/(2i)!!, is the best Toeplitz factor for one participation up to a constant.
Source: https://arxiv.org/abs/2202.11205. `blt` has factors that need few vectors of memory.

*On a grid.* Sums x are integers, in steps of the lanes. If c are multiples of 2^-f and z is a discrete Gaussian on the
grid of 2^-f steps, C x + z is one too, and its ρ is exact. Each round releases r_t = x_t + n_t with

    n_t = round(z_t - Σ c_i n_(t - i)), i >= 1

which is round((C x + z)_t - Σ c_i r_(t - i)): a function of C x + z alone, for x_t is an integer. Without the rounding,
or with other c than the sensitivity's, the released digits would name the grid on which C x lies, and nothing would be
hidden. `next_on_grid` computes it in integers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from coordinator.core.privacy.conversions import Values
from coordinator.core.privacy.participation import most_participations

Integers = npt.NDArray[np.int64]

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


def on_grid(column: Values, bits: int) -> Integers:
    """c in units of 2^-bits, rounded down: still not negative and not increasing; its first value stays 1."""
    found: Integers = np.floor(column * (1 << bits) + _ROUNDING).astype(np.int64)
    return found


def next_on_grid(column: Integers, past: Sequence[Integers], fresh: Integers, bits: int) -> Integers:
    """The noise of the next round in steps of the lanes, n_t.

    Args:
        column: c from `on_grid`.
        past: n of the rounds before, the latest last; those beyond the column may be left out.
        fresh: z_t, drawn in units of 2^-bits steps, shape ``(parameters,)``: below 2^40 in size.
    """
    left = fresh.copy()
    for lag, noise in enumerate(reversed(past[-(column.size - 1) :] if column.size > 1 else ()), start=1):
        left -= column[lag] * noise
    half = 1 << (bits - 1)
    found: Integers = (left + half) >> bits
    return found


def prefix_error(noise_column: Values, noise_multiplier: float) -> float:
    """Standard deviation of the noise in the last and worst prefix sum, z ‖Σ rows of C⁻¹‖, for clipping norm 1.

    Args:
        noise_column: The first column of C⁻¹.
    """
    return noise_multiplier * float(np.linalg.norm(np.cumsum(noise_column)))
