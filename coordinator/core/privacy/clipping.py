"""Adaptive clipping: the clipping norm follows a quantile of the deltas' norms, learned only from noised counts.

Each device adds a bit, whether its delta was within the clipping norm, as one more lane. The counts have noise σ_b; for
both together to cost what z would alone, the deltas get z_Δ = (z^-2 - (2σ_b)^-2)^-1/2, a little more. The bit is sent
as ±½, so its sensitivity is ½. C moves by C ← C exp(-η (b̃ - γ)). Source: https://arxiv.org/abs/1905.03871.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from coordinator.core.privacy.refusals import InvalidClippingNorm, InvalidNoise

COUNT_NOISE: Final = 0.05
"""σ_b over the expected participants."""
LEAST_COUNT_STEPS: Final = 4.0
"""Least σ of one device on the grid of the bit's lane: the discrete Gaussians of many are then one."""
STEP_LOG_LIMIT: Final = 2.0
"""No round moves the clipping norm by more than a factor of e²."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaptiveClipping:
    """How the clipping norm is learned.

    Args:
        quantile: Share γ of devices whose delta is to be within the clipping norm.
        rate: η.
        smallest: The clipping norm never goes below it.
        largest: Nor above it.

    Raises:
        InvalidClippingNorm: A number is out of range.
    """

    quantile: float = 0.5
    rate: float = 0.2
    smallest: float = 1e-6
    largest: float = 1e3

    def __post_init__(self) -> None:
        if not (0 < self.quantile < 1 and 0 < self.rate <= 1 and 0 < self.smallest < self.largest):
            raise InvalidClippingNorm(
                "The quantile is between 0 and 1, the rate at most 1, and the norm above 0.",
                "A quantile of 0.5 and a rate of 0.2 are good beginnings.",
            )

    def next_norm(self, clipping_norm: float, share_within: float) -> float:
        """The next clipping norm.

        Args:
            share_within: The noised share of devices that were within, b̃; noise may take it below 0 or above 1.
        """
        move = max(-STEP_LOG_LIMIT, min(STEP_LOG_LIMIT, -self.rate * (share_within - self.quantile)))
        return max(self.smallest, min(self.largest, clipping_norm * math.exp(move)))


def layer_norms(clipping_norm: float, shares: Sequence[float]) -> tuple[float, ...]:
    """A clipping norm for each layer, of which the whole delta's norm keeps the given one: √Σ C_l² = C.

    Args:
        shares: Of the squared norm, one for each layer, above 0.

    Raises:
        InvalidClippingNorm: A share is not above 0, or the norm is not.
    """
    if not clipping_norm > 0 or not shares or min(shares) <= 0:
        raise InvalidClippingNorm("Each layer has a share above 0 of a norm above 0.", "Give all the same share.")
    whole = math.fsum(shares)
    return tuple(clipping_norm * math.sqrt(share / whole) for share in shares)


def count_noise(expected_participants: int) -> float:
    """σ_b = n / 20, in devices."""
    return COUNT_NOISE * expected_participants


def delta_multiplier(noise_multiplier: float, expected_participants: int) -> float:
    """z_Δ: what the deltas need so that deltas and counts together cost what z alone would.

    Raises:
        InvalidNoise: The counts alone would cost more than z.
    """
    left = noise_multiplier**-2 - (2 * count_noise(expected_participants)) ** -2
    if left <= 0:
        fewest = math.ceil(noise_multiplier / (2 * COUNT_NOISE)) + 1
        raise InvalidNoise(
            f"{expected_participants} participants are too few to learn a clipping norm at this noise.",
            f"Expect at least {fewest}, or fix the clipping norm.",
        )
    return 1 / math.sqrt(left)


def count_steps(expected_participants: int, honest_survivors: int, scale: float) -> float:
    """σ of one device's bit lane, in steps of 1/scale of a device.

    Raises:
        InvalidNoise: It is below 4: the claim for sums of discrete Gaussians would not hold.
    """
    steps = count_noise(expected_participants) * scale / math.sqrt(honest_survivors)
    if steps < LEAST_COUNT_STEPS:
        needed = math.ceil(scale * LEAST_COUNT_STEPS / steps)
        raise InvalidNoise(f"The counts' noise has {steps:.2g} steps on the grid.", f"Scale the bit by {needed}.")
    return steps
