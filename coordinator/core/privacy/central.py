"""Noise that the coordinator adds to the sum of a round, in integers.

Sums are integers in steps of the lanes; N_Z(0, σ²) is added to each value. With Δ the L2 norm of the integers of one
device, ρ = Δ²/2σ², exactly (https://arxiv.org/abs/2004.00010, theorem 14). Where σ would have more steps than the
sampler draws, the sum is rounded to a grid k times as coarse first, and so is a sum of rotated lanes, which is not on
the grid of its values: rounding moves a value by half a step in each of two neighbouring sums, so that Δ grows by √d.

Source of the noise: a seed of 32 bytes, so that a step that is repeated adds the same noise.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Final

import numpy as np

from coordinator.core.privacy.conversions import Values
from coordinator.core.privacy.distributed import longest_report
from edge_runtime.protocol.noise import DiscreteGaussian, Integers, NoiseSource
from edge_runtime.protocol.secure_sum.lanes import Lanes

SEED_BYTES: Final = 32
_DOMAIN: Final = b"edgewise/central-noise/1"
_MOST_STEPS: Final = float(1 << 25)
"""Of a standard deviation: the sampler draws up to 2^26."""


@dataclass(frozen=True, slots=True)
class SumNoise:
    """Noise of the sum of one round.

    Attributes:
        step: Of the grid, in units of the delta.
        sigma: Standard deviation σ, in steps.
        sensitivity: L2 norm of what one device adds, in steps, Δ, rounding included.
    """

    step: float
    sigma: float
    sensitivity: float

    @classmethod
    def of(cls, lanes: Lanes, parameters: int, multiplier: float) -> SumNoise:
        """The noise of z = `multiplier` for reports of so many parameters.

        Args:
            lanes: Without noise of the devices' own; they hold the integers' norm to `longest_report`.
        """
        sigma = multiplier * lanes.clipping_norm * lanes.scale
        coarser = 2.0 ** max(0, math.ceil(math.log2(sigma / _MOST_STEPS)))
        sensitivity = longest_report(lanes, parameters) / coarser
        if coarser > 1 or lanes.rotated:
            sensitivity += math.sqrt(parameters)
        return cls(coarser / lanes.scale, sigma / coarser, sensitivity)

    @property
    def rho(self) -> float:
        """ρ of the sum of one round against those who get it."""
        return self.sensitivity**2 / (2 * self.sigma**2)

    @property
    def multiplier(self) -> float:
        """The noise multiplier that rounding leaves, σ/Δ."""
        return self.sigma / self.sensitivity

    def drawn(self, size: int, seed: bytes, *purpose: bytes) -> Integers:
        """Independent draws, in steps; the same for the same seed and purpose."""
        key = hashlib.sha256(b"\0".join((_DOMAIN, seed, *purpose))).digest()
        return DiscreteGaussian(self.sigma).draw(size, NoiseSource(key))

    def hidden(self, total: Values, noise: Values | Integers) -> Values:
        """A sum with noise in steps added, on the grid: what may be used and shown.

        Noise that is not whole is rounded first: digits behind the grid would name what is hidden.
        """
        found: Values = (np.rint(total / self.step) + np.rint(noise)) * self.step
        return found
