"""The accountant of claims without sampling: ρ is added up, and converted once."""

from __future__ import annotations

from collections.abc import Sequence

from coordinator.core.privacy.conversions import rho_to_delta, rho_to_epsilon
from coordinator.core.privacy.events import ConcentratedEvent, Event, GaussianEvent
from coordinator.core.privacy.refusals import NotCovered


def gaussian_rho(noise_multiplier: float, count: int = 1) -> float:
    """ρ of Gaussian noise, continuous or discrete: k / 2z². Source: https://arxiv.org/abs/2004.00010, theorem 14."""
    return count / (2 * noise_multiplier**2)


def example_rho(noise_multiplier: float, epochs: int, participations: int) -> float:
    """ρ of example-level training on one device: batches of an epoch are disjoint, so each example is in one of them.

    Batches are shuffled, not drawn by coins: no amplification is claimed. Reported apart, never added to what is
    claimed for whole devices.
    """
    return gaussian_rho(noise_multiplier, epochs * participations)


def rho_of(events: Sequence[Event]) -> float:
    """ρ of all events.

    Raises:
        NotCovered: One is sampled, or has no ρ.
    """
    return sum(map(_rho, events))


def _rho(event: Event) -> float:
    if isinstance(event, ConcentratedEvent):
        return event.rho
    if isinstance(event, GaussianEvent) and event.sampling_rate == 1:
        return gaussian_rho(event.noise_multiplier, event.count)
    raise NotCovered("zCDP knows no sampling and no Skellam noise.", "Ask the RDP accountant.")


class ZcdpAccountant:
    """ρ-zCDP. Source: https://arxiv.org/abs/2004.00010."""

    name = "zcdp"

    def epsilon(self, events: Sequence[Event], delta: float) -> float:
        return rho_to_epsilon(rho_of(events), delta)

    def delta(self, events: Sequence[Event], epsilon: float) -> float:
        return rho_to_delta(rho_of(events), epsilon)
