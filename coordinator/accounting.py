"""Accountants of other people behind the seam of `coordinator.core.privacy.events.Accountant`.

dp-accounting's PLD makes the claims of central noise. Opacus' PRV and RDP are the second opinion. All load on first
use: a coordinator that asks for neither imports neither, and no torch. Opacus' GDP accountant is not here: it
under-reports (1.836 where PLD says 2.125 at q = .01, σ = 1, δ = 1e-6, 1,000 rounds).
"""

from __future__ import annotations

import importlib.util
import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Final

from coordinator.core.privacy.events import ConcentratedEvent, Event, GaussianEvent
from coordinator.core.privacy.opinions import Opinion, SecondOpinions, agreed, opinion
from coordinator.core.privacy.refusals import NotCovered
from coordinator.core.privacy.statement import claimed_epsilon

PLD_STEP: Final = 1e-4
"""Grid of privacy losses; estimates are pessimistic."""
_PRV_STEP: Final = 0.01
"""Error of ε that Opacus' PRV begins with; it answers with the upper bound."""
_PRV_SHARE: Final = 0.005
"""And at most this share of ε in the end."""
_OPACUS_ORDERS: Final = (
    *(1 + step / 20 for step in range(1, 200)),
    *range(11, 65),
    *(round(65 * 1.1**step) for step in range(52)),
)
"""Opacus' own end at 63, which is 5 % too much at ε = .2."""
_ALMOST_ONE: Final = 1 - 1e-12
"""Opacus' PRV takes the logarithm of 1 - q."""


class PldAccountant:
    """dp-accounting's privacy loss distributions: Gaussian noise, with or without Poisson sampling, add or remove."""

    name = "dp-accounting PLD"

    def epsilon(self, events: Sequence[Event], delta: float) -> float:
        return float(self._composed(events).get_epsilon(delta))

    def delta(self, events: Sequence[Event], epsilon: float) -> float:
        return float(self._composed(events).get_delta(epsilon))

    def _composed(self, events: Sequence[Event]) -> Any:
        import dp_accounting
        from dp_accounting import pld

        accountant = pld.PLDAccountant(
            neighboring_relation=dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE,
            value_discretization_interval=PLD_STEP,
        )
        for event in _gaussian(events, self.name):
            one = dp_accounting.GaussianDpEvent(event.noise_multiplier)
            if event.sampling_rate < 1:
                one = dp_accounting.PoissonSampledDpEvent(event.sampling_rate, one)
            accountant.compose(one, event.count)
        return accountant


class OpacusPrv:
    """Opacus' PRV accountant: the second opinion on `PldAccountant`."""

    name = "opacus PRV"

    def epsilon(self, events: Sequence[Event], delta: float) -> float:
        known = _gaussian(events, self.name)
        step = _PRV_STEP
        found = self._asked(known, delta, step)
        while step > _PRV_SHARE * found > 0:
            step = max(_PRV_SHARE * found / 2, step / 8)
            found = self._asked(known, delta, step)
        return found

    def delta(self, events: Sequence[Event], epsilon: float) -> float:
        raise NotCovered("Opacus answers with ε only.", "Ask for ε at a target delta.")

    def _asked(self, events: Sequence[GaussianEvent], delta: float, step: float) -> float:
        from opacus.accountants import PRVAccountant

        accountant = PRVAccountant()
        accountant.history = [
            (event.noise_multiplier, min(event.sampling_rate, _ALMOST_ONE), event.count) for event in events
        ]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of the RDP bound with which it only chooses its grid
            return float(accountant.get_epsilon(delta=delta, eps_error=step))


class OpacusRdp:
    """Opacus' RDP accountant: the second opinion on the RDP and zCDP of our own.

    ρ-zCDP has the Rényi curve of one Gaussian release with z = 1/√(2ρ): of a claim in ρ this checks the conversion, not
    where ρ came from.
    """

    name = "opacus RDP"

    def epsilon(self, events: Sequence[Event], delta: float) -> float:
        from opacus.accountants import RDPAccountant

        accountant = RDPAccountant()
        known = _gaussian([_as_gaussian(event) for event in events], self.name)
        accountant.history = [(event.noise_multiplier, event.sampling_rate, event.count) for event in known]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of the largest order: so small an ε is not compared
            return float(accountant.get_epsilon(delta=delta, alphas=list(_OPACUS_ORDERS)))

    def delta(self, events: Sequence[Event], epsilon: float) -> float:
        raise NotCovered("Opacus answers with ε only.", "Ask for ε at a target delta.")


def claimed(events: Sequence[Event], delta: float) -> tuple[Opinion, Opinion]:
    """The claim for some events and its second opinion, to be recorded side by side.

    Central noise alone is claimed by PLD, with PRV beside it; anything else by our own accountants, with Opacus' RDP.

    Raises:
        OpinionsDiffer: By more than 2 %: nothing may be released.
        NotCovered: There is no event, or one of which no second accountant knows.
    """
    if all(isinstance(event, GaussianEvent) for event in events):
        claim, second = opinion(PldAccountant(), events, delta), opinion(OpacusPrv(), events, delta)
    else:
        epsilon, name = claimed_epsilon(list(events), delta)
        claim, second = Opinion(name, epsilon, delta), opinion(OpacusRdp(), events, delta)
    return agreed(claim, second), second


def asked(wanted: SecondOpinions) -> Callable[[Sequence[Event], float], tuple[Opinion, Opinion]] | None:
    """Who is asked for a second opinion; None where nobody is. Opacus and torch load with the first question.

    Raises:
        NotCovered: One is required, and opacus is not installed.
    """
    if wanted is SecondOpinions.NEVER:
        return None
    if importlib.util.find_spec("opacus") is None:
        if wanted is SecondOpinions.REQUIRED:
            raise NotCovered("A second opinion is required, and opacus is not installed.", "Install opacus.")
        return None
    return claimed


def _as_gaussian(event: Event) -> Event:
    if isinstance(event, ConcentratedEvent) and event.rho > 0:
        return GaussianEvent(1 / math.sqrt(2 * event.rho))
    return event


def _gaussian(events: Sequence[Event], name: str) -> list[GaussianEvent]:
    found = [event for event in events if isinstance(event, GaussianEvent)]
    if len(found) != len(events) or not found:
        raise NotCovered(
            f"{name} knows Gaussian noise, Poisson-sampled or not, and nothing else.", "Ask the zCDP or RDP accountant."
        )
    return found
