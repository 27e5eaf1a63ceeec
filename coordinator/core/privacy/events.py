"""What was released, in the words that accountants need; and what an accountant is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class GaussianEvent:
    """Sums of clipped vectors with Gaussian noise, added by one trusted party.

    Args:
        noise_multiplier: Standard deviation over the sensitivity of add or remove, z.
        sampling_rate: Probability with which each device of a fixed, known population is in, by coins of the
            coordinator that the opponent does not see. 1 where nothing of that kind is claimed.
        count: Releases of this kind.

    Raises:
        ValueError: A number is out of range: settings are checked before they become events.
    """

    noise_multiplier: float
    sampling_rate: float = 1.0
    count: int = 1

    def __post_init__(self) -> None:
        if not (0 < self.noise_multiplier < math.inf and 0 < self.sampling_rate <= 1 and self.count >= 1):
            raise ValueError("an event has noise above 0, a sampling rate above 0 and at most 1, and happens once")


@dataclass(frozen=True, slots=True)
class ConcentratedEvent:
    """Anything that is ρ-zCDP in total: discrete Gaussians of many devices, correlated noise.

    Args:
        rho: ρ of all of it; 0 for nothing.
    """

    rho: float

    def __post_init__(self) -> None:
        if not 0 <= self.rho < math.inf:
            raise ValueError("ρ is 0 or more, and finite")


@dataclass(frozen=True, slots=True)
class SkellamEvent:
    """Sums with Skellam noise; for comparison, no mode uses it.

    Args:
        variance: Of the noise on each value of the sum, in steps squared.
        sensitivity: L2 norm of what one device gives, in steps, Δ₂.
        sensitivity_l1: Its L1 norm, Δ₁.
        count: Releases of this kind.
    """

    variance: float
    sensitivity: float
    sensitivity_l1: float
    count: int = 1


Event = GaussianEvent | ConcentratedEvent | SkellamEvent


class Accountant(Protocol):
    """Adds up events: all of them, each chosen with knowledge of what was released before."""

    @property
    def name(self) -> str:
        """Who says so, for the ledger."""
        ...

    def epsilon(self, events: Sequence[Event], delta: float) -> float:
        """An upper bound on ε at δ.

        Raises:
            NotCovered: It does not know one of the mechanisms.
        """
        ...

    def delta(self, events: Sequence[Event], epsilon: float) -> float:
        """An upper bound on δ at ε.

        Raises:
            NotCovered: It does not know one of the mechanisms.
        """
        ...
