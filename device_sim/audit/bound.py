"""A lower bound on ε from one run with many canaries.

Each of m canaries takes part by a fair coin. Whoever sees the releases guesses the coins of r of them and is right v
times. If the releases are (ε, δ)-private for each canary, then for every v

    P[right at least v times] <= P[B >= v] + 2 m δ · max over i of P[v - i <= B < v] / i

for a binomial B of r coins that are right with probability e^ε/(1 + e^ε).

Every ε for which that is at most 5 % is disproved at 95 %. Source: https://arxiv.org/abs/2305.08846, theorem 5.2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

CONFIDENCE: Final = 0.95
_LARGEST_EPSILON: Final = 30.0
_HALVINGS: Final = 40


@dataclass(frozen=True, slots=True)
class Guesses:
    """How an attacker did.

    Attributes:
        canaries: m.
        made: Coins guessed, r; chosen before the coins are known to the attacker, in number.
        right: v.
    """

    canaries: int
    made: int
    right: int

    def __post_init__(self) -> None:
        if not 0 <= self.right <= self.made <= self.canaries or self.canaries < 1:
            raise ValueError("there are at most as many guesses as canaries, and right ones as guesses")


def p_value(guesses: Guesses, epsilon: float, delta: float) -> float:
    """Largest probability of doing as well against anything that is (ε, δ)-private."""
    weights = _binomial(guesses.made, 1 / (1 + math.exp(-epsilon)))
    enough = float(weights[guesses.right :].sum())
    below = weights[: guesses.right][::-1]
    steps = np.arange(1, guesses.right + 1)
    most = float((np.cumsum(below) / steps).max(initial=0.0))
    return min(1.0, enough + 2 * guesses.canaries * delta * most)


def epsilon_bound(guesses: Guesses, delta: float, confidence: float = CONFIDENCE) -> float:
    """The largest ε that is disproved; 0 where none is."""
    doubt = 1 - confidence
    if p_value(guesses, 0.0, delta) > doubt:
        return 0.0
    low, high = 0.0, _LARGEST_EPSILON
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if p_value(guesses, middle, delta) <= doubt else (low, middle)
    return low


def _binomial(count: int, chance: float) -> npt.NDArray[np.float64]:
    """P[B = k] for k = 0 to count."""
    logs = np.concatenate(([0.0], np.cumsum(np.log(np.arange(1, count + 1)))))
    at = np.arange(count + 1)
    exponents = logs[-1] - logs - logs[::-1] + at * math.log(chance) + (count - at) * math.log1p(-chance)
    found: npt.NDArray[np.float64] = np.exp(exponents)
    return found
