"""Buffered linear Toeplitz factors: correlated noise with a few vectors of memory, whatever the number of rounds.

c_0 = 1 and c_i = Σ ω_j θ_j^(i - 1) for i >= 1. Then C⁻¹z needs one buffer s_j for each θ_j:

    z̃_t = z_t - Σ ω_j s_j,    s_j ← θ_j s_j + z̃_t

θ and ω are chosen for a number of rounds and a separation by descending, from those of the square root, the product of
sensitivity and error (`fitted`). With all θ in [0, 1), ω >= 0 and Σ ω <= 1 the column is not negative and does not
increase, which theorem 2 needs. Buffers are doubles: the claim is that of continuous noise, rounded to the grid of the
lanes once it is correlated; `correlated.next_on_grid` is exact, with a vector of memory for each round.

Source: https://arxiv.org/abs/2408.08868; https://arxiv.org/abs/2404.16706.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from coordinator.core.privacy.conversions import Values
from coordinator.core.privacy.correlated import prefix_error, sensitivity

MOST_BUFFERS: Final = 8
_EVALUATIONS: Final = 1500
_PENALTY: Final = 1e3


@dataclass(frozen=True, slots=True)
class Blt:
    """A factor with a few buffers.

    Args:
        decays: θ, each at least 0 and below 1.
        weights: ω, not negative, at most 1 together.

    Raises:
        ValueError: They are out of range, so that the sensitivity would not be known.
    """

    decays: tuple[float, ...]
    weights: tuple[float, ...]

    def __post_init__(self) -> None:
        if not (0 < len(self.decays) == len(self.weights) <= MOST_BUFFERS):
            raise ValueError(f"a factor has 1 to {MOST_BUFFERS} buffers, each with a decay and a weight")
        if not all(0 <= decay < 1 for decay in self.decays):
            raise ValueError("decays are at least 0 and below 1")
        if min(self.weights) < 0 or sum(self.weights) > 1 + 1e-12:
            raise ValueError("weights are not negative, and at most 1 together")

    def column(self, rounds: int) -> Values:
        """The first column of C, shape ``(rounds,)``."""
        powers = np.array(self.decays)[:, None] ** np.arange(rounds - 1)
        return np.concatenate(([1.0], np.array(self.weights) @ powers))

    def noise_column(self, rounds: int) -> Values:
        """The first column of C⁻¹."""
        found, state = np.empty(rounds), np.zeros((len(self.decays), 1))
        for row in range(rounds):
            noise, state = self.step(state, np.array([1.0 if row == 0 else 0.0]))
            found[row] = noise[0]
        return found

    def begin(self, size: int) -> Values:
        """The buffers before the first round, or after a restart."""
        return np.zeros((len(self.decays), size))

    def step(self, buffers: Values, fresh: Values) -> tuple[Values, Values]:
        """The correlated noise of the next round and the buffers after it; nothing given is changed.

        Args:
            buffers: s, shape ``(buffers, parameters)``.
            fresh: Independent noise z of this round, shape ``(parameters,)``. It is erased once used.
        """
        noise: Values = fresh - np.tensordot(self.weights, buffers, axes=1)
        return noise, np.array(self.decays)[:, None] * buffers + noise


@functools.lru_cache(maxsize=16)
def fitted(rounds: int, separation: int, buffers: int = 4) -> Blt:
    """A factor for so many rounds and such a separation; the same for the same arguments.

    Guarantee: no worse, in sensitivity times error, than what the descent began with.
    """
    start = _like_the_root(buffers, rounds)

    def loss(point: Values) -> float:
        found, beyond = _at(point)
        return _loss(found, rounds, separation) + _PENALTY * beyond

    return _at(_descend(loss, start))[0]


def _loss(blt: Blt, rounds: int, separation: int) -> float:
    """ln(sensitivity · error)."""
    error = prefix_error(_quick_noise_column(blt, rounds), 1.0)
    return math.log(sensitivity(blt.column(rounds), separation)) + math.log(error)


def _quick_noise_column(blt: Blt, rounds: int) -> Values:
    """As `noise_column`, by the eigenvalues of Θ - 1ωᵀ: -ωᵀ(Θ - 1ωᵀ)^(i - 1) 1 for i >= 1."""
    weights = np.array(blt.weights)
    moved = np.diag(blt.decays) - np.outer(np.ones(weights.size), weights)
    values, vectors = np.linalg.eig(moved)
    factors = (weights @ vectors) * np.linalg.solve(vectors, np.ones(weights.size, vectors.dtype))
    powers = values[:, None] ** np.arange(rounds - 1)
    return np.concatenate(([1.0], -(factors @ powers).real))


def _like_the_root(buffers: int, rounds: int) -> Values:
    """Decays spread evenly in ln(1 - θ), between a fast one and one over all rounds; weights as √(1 - θ)."""
    gaps = np.geomspace(0.6, 0.5 / rounds, buffers)
    weights = np.sqrt(gaps)
    return np.concatenate((np.log(gaps / (1 - gaps)), np.log(0.5 * weights / weights.sum())))


def _at(point: Values) -> tuple[Blt, float]:
    """The factor at a point of the search, and how far its weights were beyond 1."""
    gaps, weights = np.split(point, 2)
    decays = 1 / (1 + np.exp(np.clip(gaps, -30, 30)))
    weights = np.exp(np.clip(weights, -40, 5))
    total = float(weights.sum())
    if total > 1:
        weights = weights / total
    return Blt(tuple(decays.tolist()), tuple(weights.tolist())), max(0.0, total - 1)


def _descend(loss: Callable[[Values], float], start: Values) -> Values:
    """The simplex method of Nelder and Mead: no gradients, the same path for the same start."""
    points = [start, *(start + step for step in np.eye(start.size))]
    found = sorted(((loss(point), index, point) for index, point in enumerate(points)), key=lambda one: one[:2])
    evaluations = count = len(found)
    while evaluations < _EVALUATIONS and found[-1][0] - found[0][0] > 1e-9:
        centre = np.mean([point for _value, _index, point in found[:-1]], axis=0)
        worst_value, _index, worst = found[-1]
        tried = [(loss(centre + way * (centre - worst)), centre + way * (centre - worst)) for way in (1.0,)]
        if tried[0][0] < found[0][0]:
            tried.append((loss(centre + 2 * (centre - worst)), centre + 2 * (centre - worst)))
        elif tried[0][0] >= found[-2][0]:
            way = 0.5 if tried[0][0] < worst_value else -0.5
            tried.append((loss(centre + way * (centre - worst)), centre + way * (centre - worst)))
        evaluations += len(tried)
        value, point = min(tried, key=lambda one: one[0])
        count += 1
        if value < worst_value:
            found[-1] = (value, count, point)
        else:
            best = found[0][2]
            moved = [best + (point - best) / 2 for _value, _index, point in found[1:]]
            found[1:] = [(loss(point), count + index, point) for index, point in enumerate(moved)]
            evaluations += len(moved)
            count += len(moved)
        found.sort(key=lambda one: one[:2])
    best_point: Values = found[0][2]
    return best_point
