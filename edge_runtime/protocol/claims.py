"""What a plan may promise of privacy: its modes, and what of a plan would break or empty a promise. Pure.

A claim is made by the tenant, who signs the plan; the device holds the plan against these rules before it does anything
under it, whatever the coordinator says.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from edge_runtime.protocol.errors import InvalidPlan
from edge_runtime.protocol.policy import LONGEST_SPAN_S, MOST_PARTICIPATIONS
from edge_runtime.protocol.secure_sum.lanes import CLIPPING_NORMS, LARGEST_NOISE, ROTATED_BELOW, Lanes

if TYPE_CHECKING:
    from edge_runtime.protocol.plan import Plan


class Privacy(StrEnum):
    """What noise hides a participant. All but none came with version 5."""

    NONE = "none"
    DISTRIBUTED = "distributed"
    """Each device adds its share before masking, so that every opened sum has enough: against the coordinator too."""
    CENTRAL = "central"
    """The coordinator adds it to each sum: against those who get the model."""
    LOCAL = "local"
    """Each device adds all of it to its own report: against everybody, even where the coordinator sees each report."""
    CORRELATED = "correlated"
    """As central, with noise that later rounds take away in part; devices keep apart the rounds they are in."""


ON_DEVICES: Final = frozenset({Privacy.DISTRIBUTED, Privacy.LOCAL})
"""Modes whose noise devices add."""

LEAST_NOISE: Final = 1e-9
"""No plan has a smaller noise multiplier than this, but for none: arithmetic with less overflows."""
LEAST_NOISE_STEPS: Final = 4.0
"""Least standard deviation of what one device adds, in steps of the lanes' grid: coarser noise is no Gaussian."""
MOST_NOISE_STEPS: Final = float(1 << 26)
"""Most of them: the sampler's integers stay below 2^30."""
LONGEST_SEPARATION: Final = 1 << 31
MOST_LAYERS: Final = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaptiveNorm:
    """The clipping norm follows a quantile of the deltas' norms, learned from noised counts alone.

    The plan's `clipping_norm` is that of the first round; a later one comes with its round, and a device refuses one
    that is out of these bounds. Source: https://arxiv.org/abs/1905.03871.

    Attributes:
        quantile: Share of devices whose delta is to be within the norm, between 0 and 1, γ.
        smallest: The norm never goes below it.
        largest: Nor above it.
        rate: How fast the logarithm of the norm moves, above 0 and at most 1, η.
        count_noise: Standard deviation of the noise of the count of those within, in devices, σ_b.
    """

    quantile: float
    smallest: float
    largest: float
    rate: float
    count_noise: float

    def __post_init__(self) -> None:
        low, high = CLIPPING_NORMS
        if not (0 < self.quantile < 1 and 0 < self.rate <= 1):
            raise InvalidPlan("an adaptive norm has a quantile between 0 and 1 and a rate above 0, at most 1")
        if not low <= self.smallest < self.largest <= high:
            raise InvalidPlan(f"the bounds of an adaptive norm are rising, within {low} to {high}")
        if not LEAST_NOISE <= self.count_multiplier <= LARGEST_NOISE:
            most = LARGEST_NOISE * self.sensitivity
            raise InvalidPlan(f"the count_noise of an adaptive norm is above 0, at most {most:g} devices")

    @property
    def sensitivity(self) -> float:
        """The most that one device moves the count, max(γ, 1 - γ)."""
        return max(self.quantile, 1 - self.quantile)

    @property
    def count_multiplier(self) -> float:
        """The noise multiplier of the count, σ_b over its sensitivity."""
        return self.count_noise / self.sensitivity

    def given(self, *, within: bool) -> float:
        """What a device adds to the count: 1 - γ, or -γ. At the quantile they sum to zero, however many came."""
        return float(within) - self.quantile

    def delta_multiplier(self, noise_multiplier: float) -> float:
        """What deltas need so that deltas and counts together cost what z alone would, (z^-2 - z_b^-2)^-1/2.

        z_b is the `count_multiplier`, 2σ_b for the median.

        Raises:
            InvalidPlan: The counts alone would cost more than z, or there is no noise to share.
        """
        if not noise_multiplier >= LEAST_NOISE:
            raise InvalidPlan("an adaptive norm is learned under noise: it needs a noise_multiplier above 0")
        left = noise_multiplier**-2 - self.count_multiplier**-2
        if left <= 0:
            least = noise_multiplier * self.sensitivity
            raise InvalidPlan(f"counts cost more than the noise_multiplier allows: raise count_noise above {least:g}")
        return 1 / math.sqrt(left)


def check_claims(plan: Plan) -> None:
    """Return if the plan's promises of privacy hold together.

    Raises:
        InvalidPlan: One is empty, or cannot be kept; the sentence says what to change.
    """
    _check_limits(plan)
    if plan.version < 5:
        _require(plan.privacy is Privacy.NONE, "privacy modes came with version 5")
        return
    _check_mode(plan)
    _check_examples(plan)
    _check_layers(plan)
    if plan.adaptive is not None:
        _check_adaptive(plan, plan.adaptive)


def _check_limits(plan: Plan) -> None:
    _require(1 <= plan.separation <= LONGEST_SEPARATION, "separation is 1 or more rounds; 1 is none")
    _require(0 <= plan.separation_s <= LONGEST_SPAN_S, "separation_s is 0 to a year")
    most = plan.most_participations
    _require(most is None or 1 <= most <= MOST_PARTICIPATIONS, "most_participations is 1 or more, or nothing")


def _check_mode(plan: Plan) -> None:
    mode, noise = plan.privacy, plan.noise_multiplier
    if mode is Privacy.NONE:
        _require(noise == 0, "privacy none has a noise_multiplier of 0: name the mode of the noise")
        return
    enough = LEAST_NOISE <= noise <= LARGEST_NOISE
    _require(enough, f"privacy {mode} needs a noise_multiplier above 0, at most {LARGEST_NOISE:g}")
    _require(
        not plan.folds or plan.lane_bits >= ROTATED_BELOW,
        f"noise of the coordinator in secure sums needs lanes of {ROTATED_BELOW} bits or more",
    )
    if mode is Privacy.DISTRIBUTED:
        _require(plan.survivors is not None, "distributed noise needs secure summing: sum securely, or choose local")
    if mode is Privacy.CORRELATED:
        _require(
            plan.separation > 1 or plan.most_participations is not None,
            "correlated noise needs a separation of 2 rounds or more, or most_participations",
        )
    if mode in ON_DEVICES:
        _check_grid(plan.lanes())


def _check_grid(lanes: Lanes) -> None:
    steps = lanes.noise * lanes.scale
    _require(
        steps >= LEAST_NOISE_STEPS,
        f"the noise of one device has {steps:.2g} steps on the grid and needs {LEAST_NOISE_STEPS:g}: "
        "take wider lanes or more noise",
    )
    _require(steps <= MOST_NOISE_STEPS, "the noise of one device is beyond what integers hold: take narrower lanes")


def _check_examples(plan: Plan) -> None:
    norm, noise = plan.example_clipping_norm, plan.example_noise_multiplier
    if norm is None:
        _require(noise == 0, "example_noise_multiplier needs an example_clipping_norm")
        return
    low, high = CLIPPING_NORMS
    _require(low <= norm <= high, f"example_clipping_norm is {low} to {high}, or nothing")
    _require(0 < noise <= LARGEST_NOISE, "example_clipping_norm needs an example_noise_multiplier above 0")
    _require(plan.trains, "only a plan that trains hides examples")
    _require(plan.proximal_mu == 0, "steps that hide examples have no proximal_mu")


def _check_layers(plan: Plan) -> None:
    shares = plan.layer_shares
    if shares:
        _require(plan.trains, "only a plan that trains clips by layers")
        _require(len(shares) <= MOST_LAYERS, f"layer_shares are at most {MOST_LAYERS}")
        _require(all(0 < share <= 1e6 for share in shares), "layer_shares are above 0, at most a million")


def _check_adaptive(plan: Plan, adaptive: AdaptiveNorm) -> None:
    _require(plan.trains, "only a plan that trains has an adaptive norm")
    _require(
        plan.privacy in (Privacy.DISTRIBUTED, Privacy.CENTRAL),
        "an adaptive norm is learned from noised sums: privacy is distributed or central",
    )
    _require(plan.lane_bits >= ROTATED_BELOW, f"an adaptive norm needs lanes of {ROTATED_BELOW} bits or more")
    _require(
        adaptive.smallest <= plan.clipping_norm <= adaptive.largest,
        "clipping_norm is within the adaptive norm's bounds",
    )
    adaptive.delta_multiplier(plan.noise_multiplier)
    counts = plan.count_lanes()
    if counts is not None and plan.privacy in ON_DEVICES:
        _check_grid(counts)


def _require(holds: bool, sentence: str) -> None:
    if not holds:
        raise InvalidPlan(sentence)
