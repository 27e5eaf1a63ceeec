"""Discrete Gaussians of many devices, added up under secure summing.

Each device adds N_Z(0, σ²) on the grid of the lanes, σ = z C s / √(m - A): even of the fewest survivors m, A of whom
reveal theirs to the coordinator or never added any, m - A honest ones together have z C s. So dropouts and corrupt
devices cannot break the claim; they only make the noise of larger sums larger than needed.

The sum of n discrete Gaussians is nearly one of variance nσ². With Δ₂ the L2 norm of the integers of one device, τ how
far apart they are, and d values:

    ρ = min( Δ₂²/2nσ² + τ d,  ½ (Δ₂/(√n σ) + τ √d)² ),   τ = 10 Σ exp(-2π²σ² k/(k + 1)), k from 1 to n - 1

Source: https://arxiv.org/abs/2102.06387, proposition 14 (its first bound is written here with the larger constant that
it has for every Rényi order). Adjacency: zero-out, since the coordinator sees who takes part. A device is in one group
of a round: groups compose in parallel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from edge_runtime.protocol.secure_sum.lanes import FLOAT32_SLACK, Lanes

LEAST_STEPS: Final = 4.0
"""Least σ on the grid: τ d is below 1e-50 for every model."""
_FLOAT_ROOM: Final = math.sqrt(1 + FLOAT32_SLACK)
"""What float32 may leave of a clipped delta above its norm: `Lanes.encode` lets so much of a squared norm pass."""


@dataclass(frozen=True, slots=True)
class GroupNoise:
    """The noise of one group on the grid, as the plan fixes it.

    Attributes:
        sigma: Standard deviation of one device's noise, σ, in steps.
        honest_survivors: Devices whose noise every opened sum has and the opponent does not know, m - A.
        sensitivity: L2 norm of what one device adds to the sum, in steps, Δ₂, rounding included.
        parameters: d, padded as the lanes are.
    """

    sigma: float
    honest_survivors: int
    sensitivity: float
    parameters: int

    @classmethod
    def of(cls, lanes: Lanes, parameters: int) -> GroupNoise:
        """The noise that a plan's lanes give a report of so many parameters."""
        size = lanes.count(parameters)
        norm = longest_report(lanes, parameters)
        return cls(lanes.noise * lanes.scale, lanes.honest_survivors, norm, size)

    @property
    def rho(self) -> float:
        """ρ of one opened sum against the coordinator; infinite without noise."""
        return sum_rho(self.sigma, self.honest_survivors, self.sensitivity, self.parameters)

    @property
    def multiplier(self) -> float:
        """The noise multiplier of a continuous Gaussian of the same ρ: what rounding leaves of z."""
        return 1 / math.sqrt(2 * self.rho)


def longest_report(lanes: Lanes, parameters: int) -> float:
    """Largest L2 norm of the integers that a device sends before noise, in steps: the sensitivity of every sum."""
    return _FLOAT_ROOM * lanes.rounded_norm(parameters)


def sum_rho(sigma: float, devices: int, sensitivity: float, parameters: int) -> float:
    """ρ of a sum with the noise of so many devices.

    Args:
        sigma: Of each, in steps; ½ at least, else nothing is known.
        devices: n.
        sensitivity: Δ₂, in steps.
        parameters: d.
    """
    if sigma < 0.5:
        return math.inf
    apart = closeness(sigma, devices)
    one = sensitivity / (math.sqrt(devices) * sigma)
    return min(one**2 / 2 + apart * parameters, (one + apart * math.sqrt(parameters)) ** 2 / 2)


def closeness(sigma: float, devices: int) -> float:
    """τ: how far a sum of discrete Gaussians is from one discrete Gaussian; 0 for one device."""
    return 10 * math.fsum(math.exp(-2 * math.pi**2 * sigma**2 * k / (k + 1)) for k in range(1, devices))


def local_noise(multiplier: float, clipping_norm: float, fewest_survivors: int, corrupt: int) -> float:
    """σ of one device in units of the delta, z C / √(m - A).

    Raises:
        ValueError: No survivor is honest.
    """
    if not 0 <= corrupt < fewest_survivors:
        raise ValueError("at least one of the fewest survivors is honest")
    return multiplier * clipping_norm / math.sqrt(fewest_survivors - corrupt)


def excess(devices: int, fewest_survivors: int, corrupt: int) -> float:
    """How many times the needed noise a sum of all devices has: √(n/(m - A)); 1.20 for n = 100, m = 80, A = 10."""
    return math.sqrt(devices / (fewest_survivors - corrupt))


def recipients_rho(rho: float, groups: int) -> float:
    """ρ against those who see only the sum of K groups: the noise of each of them hides a device, z is √K z."""
    return rho / groups
