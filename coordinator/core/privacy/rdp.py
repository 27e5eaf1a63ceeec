"""The accountant of everything: Rényi curves at fixed orders, added up.

A Poisson-sampled Gaussian (each device is in with probability q, noise z) has

    (α - 1) r(α) = ln E[(1 - q + q exp((2x - 1)/2z²))^α], x from N(0, z²)

which is integrated by the trapezoid rule. For functions that are analytic within a strip of half-width a around the
real line its error falls as exp(-2πa/h): here a is π z standard deviations and h a tenth, so it is below 1e-15 for
z >= .2, and 1e-9 is added to be above it. Source: https://arxiv.org/abs/1908.10530 (the divergence this way round is
the larger one).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from coordinator.core.privacy import skellam
from coordinator.core.privacy.conversions import Values, curve_to_delta, curve_to_epsilon
from coordinator.core.privacy.events import ConcentratedEvent, Event, SkellamEvent

_BELOW_ELEVEN: Final = 1 + np.arange(1, 100) / 10
_WHOLE: Final = np.arange(11.0, 65.0)
_LARGE: Final = np.unique(np.rint(np.geomspace(66, 8192, 40)))
ORDERS: Final[Values] = np.concatenate((_BELOW_ELEVEN, _WHOLE, _LARGE))
"""α at which curves are kept. The large ones serve little ε, the small ones much."""

_PARTS: Final = (_BELOW_ELEVEN, _WHOLE, *np.array_split(_LARGE, 8))
"""The orders in parts that share a grid."""
_GRID: Final = 0.1
"""Step of the trapezoid rule, in standard deviations."""
_REACH: Final = 12.0
"""Standard deviations beyond the two bumps of the integrand: the rest is below e^-72 of it."""
_LARGEST_GRID: Final = 20_000
"""Orders that need more points are left out: nothing is claimed by them."""
_ABOVE: Final = 1e-9
_CURVES: Final = 4096


class RdpAccountant:
    """Rényi differential privacy. Source: https://arxiv.org/abs/1702.07476; conversion: `conversions`."""

    name = "rdp"

    def epsilon(self, events: Sequence[Event], delta: float) -> float:
        return curve_to_epsilon(ORDERS, curve_of(events), delta)

    def delta(self, events: Sequence[Event], epsilon: float) -> float:
        return curve_to_delta(ORDERS, curve_of(events), epsilon)


def curve_of(events: Sequence[Event]) -> Values:
    """Upper bounds of the Rényi divergences of all events at `ORDERS`."""
    total = np.zeros(ORDERS.size)
    for event in events:
        total += _curve(event)
    return total


def _curve(event: Event) -> Values:
    if isinstance(event, ConcentratedEvent):
        return event.rho * ORDERS
    if isinstance(event, SkellamEvent):
        return event.count * skellam.curve(ORDERS, event.variance, event.sensitivity, event.sensitivity_l1)
    return event.count * sampled_gaussian(event.noise_multiplier, event.sampling_rate)


@dataclass(frozen=True, slots=True, eq=False)
class Running:
    """Everything so far as one curve: what a query after each round asks, at the same price after any number of rounds.

    Attributes:
        curve: Upper bounds at `ORDERS`.
    """

    curve: Values = field(default_factory=lambda: np.zeros(ORDERS.size))

    def plus(self, event: Event) -> Running:
        """With one event more."""
        return Running(self.curve + _curve(event))

    def epsilon(self, delta: float) -> float:
        return curve_to_epsilon(ORDERS, self.curve, delta)


@functools.lru_cache(maxsize=_CURVES)
def sampled_gaussian(noise_multiplier: float, sampling_rate: float) -> Values:
    """r(α) at `ORDERS` of one Poisson-sampled release, read-only; infinite at orders that were left out."""
    if sampling_rate == 1:
        curve = ORDERS / (2 * noise_multiplier**2)
    else:
        parts = [_integrated(orders, noise_multiplier, sampling_rate) for orders in _PARTS]
        curve = np.concatenate(parts) / (ORDERS - 1) * (1 + _ABOVE) + 1e-15
    curve.setflags(write=False)
    return curve


def _integrated(orders: Values, noise: float, rate: float) -> Values:
    """ln E[...] for some orders."""
    points = int((orders[-1] / noise + 2 * _REACH) / _GRID) + 2
    if points > _LARGEST_GRID:
        return np.full(orders.size, math.inf)
    at = -_REACH + _GRID * np.arange(points)
    ratio = np.logaddexp(math.log1p(-rate), math.log(rate) + at / noise - 1 / (2 * noise**2))
    exponents = orders[:, None] * ratio - at * at / 2
    largest = exponents.max(axis=1)
    exponents -= largest[:, None]
    sums = np.exp(exponents, out=exponents).sum(axis=1)
    found: Values = np.maximum(largest + np.log(sums) + math.log(_GRID / math.sqrt(2 * math.pi)), 0.0)
    return found
