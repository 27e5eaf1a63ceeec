"""From releases to a verdict: each attack scores every canary, and guesses the coins of the most telling ones.

Several attacks look at the same releases. Each of three may be wrong with a third of the doubt that all together may:
the best of them is a bound at the whole confidence.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from device_sim.audit.bound import CONFIDENCE, Guesses, epsilon_bound
from device_sim.audit.estimate import Estimate, gaussian_estimate

Scores = npt.NDArray[np.float64]

GUESSED: Final = 0.04
"""Share of canaries whose coin is guessed, half as in and half as out. Fixed: looking for the best would cheat."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What an audit found.

    Attributes:
        claimed: ε of the claim.
        bound: ε that is disproved at 95 %, by the best attack.
        most: The bound if every guess were right: a claim above it cannot be disproved by so many canaries.
        attack: Which one.
        estimate: Of the attack that it is largest for; no bound.
    """

    claimed: float
    delta: float
    bound: float
    most: float
    attack: str
    estimate: Estimate
    canaries: int

    @property
    def disproved(self) -> bool:
        """Whether the claim does not hold: the bound is above it."""
        return self.bound > self.claimed

    @property
    def out_of_reach(self) -> bool:
        """Whether the claim is so large that no attacker could disprove it here."""
        return self.claimed >= self.most

    def sentence(self) -> str:
        """The bound beside the claim."""
        found = "disproves" if self.disproved else "does not disprove"
        no_more = (
            f" No claim above ε = {self.most:.2f} could be disproved here, whatever the fault: take more canaries, or "
            "more noise."
        )
        return (
            f"With {self.canaries:,} canaries an attacker shows ε ≥ {self.bound:.2f} at 95 % ({self.attack}); "
            f"this {found} the claim of ε = {figure(self.claimed)} at δ = {self.delta:.1g}."
            f"{no_more if self.out_of_reach else ''} "
            f"If scores are Gaussian, ε is {figure(self.estimate.epsilon)}: an estimate, not a bound."
        )


def figure(epsilon: float) -> str:
    """ε as it is read: two decimals, none from 100 on; beyond 10,000 its digits say nothing."""
    if epsilon >= 1e4:
        return "10,000+"
    return f"{epsilon:.2f}" if epsilon < 100 else f"{epsilon:,.0f}"


def guessed(scores: Scores, included: npt.NDArray[np.bool_]) -> Guesses:
    """Guess that the highest scores took part and the lowest did not, and count what was right."""
    half = max(1, int(scores.size * GUESSED / 2))
    order = np.argsort(scores, kind="stable")
    right = int((~included[order[:half]]).sum() + included[order[-half:]].sum())
    return Guesses(scores.size, 2 * half, right)


def audited(attacks: Mapping[str, Scores], included: npt.NDArray[np.bool_], claimed: float, delta: float) -> Verdict:
    """Hold a claim against all attacks.

    Args:
        attacks: The scores of each, shape ``(canaries,)``: higher where a canary looks as if it took part.
        included: What the coins said.
    """
    confidence = 1 - (1 - CONFIDENCE) / len(attacks)
    bounds = {name: epsilon_bound(guessed(scores, included), delta, confidence) for name, scores in attacks.items()}
    estimates = [gaussian_estimate(scores, included, delta) for scores in attacks.values()]
    best = max(bounds, key=lambda name: bounds[name])
    made = guessed(attacks[best], included).made
    return Verdict(
        claimed=claimed,
        delta=delta,
        bound=bounds[best],
        most=epsilon_bound(Guesses(included.size, made, made), delta, confidence),
        attack=best,
        estimate=max(estimates, key=lambda one: one.epsilon),
        canaries=included.size,
    )
