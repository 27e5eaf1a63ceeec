"""What ε would be if scores were Gaussian: it finds a bug with a tenth of the canaries, and bounds nothing.

Scores of canaries that took part and of those that did not are as far apart as μ times their common spread; a Gaussian
mechanism with that μ has ε(δ) exactly. Source: https://arxiv.org/abs/2302.03098 (one-shot estimates of the Gaussian
mechanism); https://arxiv.org/abs/1905.02383 (μ).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from coordinator.core.privacy.gaussian import exact_epsilon

_NORMAL_95: Final = 1.6448536269514722
"""One-sided."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A Gaussian estimate.

    Attributes:
        mu: Distance of both kinds of scores, in spreads.
        epsilon: ε at δ for it.
        epsilon_low: ε for the lower end of its 95 % interval.
    """

    mu: float
    epsilon: float
    epsilon_low: float


def gaussian_estimate(scores: npt.NDArray[np.float64], included: npt.NDArray[np.bool_], delta: float) -> Estimate:
    """Estimate ε from scores.

    Raises:
        ValueError: Fewer than two canaries took part, or fewer than two did not.
    """
    there, away = scores[included], scores[~included]
    if min(there.size, away.size) < 2:
        raise ValueError("an estimate needs two canaries of each kind at least")
    spread = math.sqrt((there.var(ddof=1) * (there.size - 1) + away.var(ddof=1) * (away.size - 1)) / (scores.size - 2))
    if spread == 0:
        return Estimate(math.inf, math.inf, math.inf)
    mu = abs(float(there.mean() - away.mean())) / spread
    error = math.sqrt(1 / there.size + 1 / away.size + mu * mu / (2 * scores.size))
    low = max(0.0, mu - _NORMAL_95 * error)
    return Estimate(mu, exact_epsilon(mu, delta), exact_epsilon(low, delta))
