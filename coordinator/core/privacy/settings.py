"""Privacy settings that are refused, each with the reason and the nearest valid choice.

Checked where a task is made and where it is changed; a plan that a device gets is checked again by the device.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from coordinator.core.privacy.distributed import LEAST_STEPS
from coordinator.core.privacy.participation import ParticipationLimits
from coordinator.core.privacy.refusals import (
    CohortTooSmall,
    InvalidClippingNorm,
    InvalidNoise,
    InvalidTargetDelta,
    ModeNotGiven,
    NoiseLowered,
)
from coordinator.core.privacy.statement import Mode
from edge_runtime.protocol.secure_sum.lanes import CLIPPING_NORMS, LARGEST_NOISE, ROTATED_BELOW, Lanes
from edge_runtime.protocol.secure_sum.thresholds import LARGEST_GROUP, SMALLEST_GROUP, complete_threshold

DELTA_EXPONENT: Final = 1.1
"""The default target delta is 1/N^1.1."""
SMALLEST_COHORT: Final = 64
"""No cohort below it is trained on with a claim, unless an operator set another minimum."""


class Sums(StrEnum):
    """How the task's reports are added up."""

    PLAIN = "plain"
    SECURE = "secure"


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivacySettings:
    """What a task says of privacy.

    Attributes:
        population: Devices of the population, N.
        cohort: Devices that the task addresses.
        smallest_cohort: The operators' minimum.
        fewest_survivors: m; of distributed noise.
        corrupt: A; of distributed noise.
        sampling_rate: Where Poisson sampling is claimed: its rate.
    """

    mode: Mode
    sums: Sums
    clipping_norm: float
    noise_multiplier: float
    target_delta: float
    population: int
    cohort: int
    group_size: int = 100
    fewest_survivors: int = 80
    corrupt: int = 10
    lane_bits: int = 24
    parameters: int = 1
    sampling_rate: float | None = None
    smallest_cohort: int = SMALLEST_COHORT
    limits: ParticipationLimits = field(default_factory=ParticipationLimits)


def default_target_delta(population: int) -> float:
    """1/N^1.1."""
    return math.pow(max(population, 2), -DELTA_EXPONENT)


def check_settings(settings: PrivacySettings) -> None:
    """Return if a claim can be made for the settings; a task without noise makes none and passes.

    Raises:
        InvalidTargetDelta, InvalidClippingNorm, InvalidNoise, CohortTooSmall, ModeNotGiven: As named.
    """
    low, high = CLIPPING_NORMS
    if not low <= settings.clipping_norm <= high:
        raise InvalidClippingNorm(
            f"A clipping norm of {settings.clipping_norm} bounds nothing.",
            f"Take one between {low:g} and {high:g}: the median norm of a delta is a good beginning.",
        )
    if settings.mode is Mode.NONE:
        if settings.noise_multiplier != 0:
            raise InvalidNoise("Mode none adds no noise.", "Set the noise multiplier to 0, or choose a mode.")
        return
    if not 0 < settings.noise_multiplier <= LARGEST_NOISE:
        raise InvalidNoise(
            f"A noise multiplier of {settings.noise_multiplier} carries no claim.",
            f"Take one above 0, at most {LARGEST_NOISE:g}, or mode none; the planner finds it for a budget.",
        )
    check_target_delta(settings.target_delta, settings.population)
    if settings.cohort < settings.smallest_cohort:
        raise CohortTooSmall(
            f"A cohort of {settings.cohort} devices is below the minimum of {settings.smallest_cohort}.",
            f"Widen the cohort to at least {settings.smallest_cohort} devices.",
        )
    _check_mode(settings)


def check_target_delta(target_delta: float, devices: int) -> None:
    """Return if a figure may be claimed at a target delta among so many devices; one device counts as two.

    Raises:
        InvalidTargetDelta: It is 1/N or more: one of them could be exposed, and the figure be true.
    """
    if not 0 < target_delta < 1 / max(devices, 2):
        raise InvalidTargetDelta(
            f"A target delta of {target_delta:g} lets one of {max(devices, 2)} devices be exposed.",
            f"Take at most {default_target_delta(devices):.3g}.",
        )


def _check_mode(settings: PrivacySettings) -> None:
    if settings.mode is Mode.DISTRIBUTED:
        if settings.sums is not Sums.SECURE:
            raise ModeNotGiven(
                "Distributed noise hides nobody where the coordinator sees each report.",
                "Sum securely, or choose the local mode.",
            )
        _check_group(settings)
    if settings.mode in (Mode.CENTRAL, Mode.CORRELATED) and settings.lane_bits < ROTATED_BELOW:
        raise ModeNotGiven(
            f"Lanes of {settings.lane_bits} bits are rotated: a few phones can make a sum of them wrap around, and "
            "noise that is added to it then hides nobody.",
            f"Take lanes of {ROTATED_BELOW} bits or more, or distributed noise.",
        )
    sampled = settings.sampling_rate is not None
    if sampled and settings.mode is not Mode.CENTRAL:
        raise ModeNotGiven(
            f"No sampling is claimed in mode {settings.mode}.", "Leave the sampling rate, or choose central noise."
        )
    if sampled and not 0 < (settings.sampling_rate or 0) <= 1:
        raise InvalidNoise("A sampling rate is above 0 and at most 1.", "Leave it: then none is claimed.")
    if settings.mode is Mode.CORRELATED and settings.limits.separation < 2 and settings.limits.most is None:
        raise ModeNotGiven(
            "Correlated noise gains nothing over devices that may be in every round.",
            "Set a minimum separation of at least 2 rounds, or choose central noise.",
        )


def _check_group(settings: PrivacySettings) -> None:
    if not SMALLEST_GROUP <= settings.group_size <= LARGEST_GROUP:
        raise ModeNotGiven(
            f"Groups of {settings.group_size} cannot sum securely.", f"Take {SMALLEST_GROUP} to {LARGEST_GROUP:,}."
        )
    least = max(complete_threshold(settings.group_size, settings.corrupt), settings.group_size // 2 + 1)
    if not least <= settings.fewest_survivors <= settings.group_size:
        raise ModeNotGiven(
            f"Groups of {settings.group_size} cannot open with {settings.fewest_survivors} survivors.",
            f"Take {least} to {settings.group_size}.",
        )
    lanes = Lanes(
        bits=settings.lane_bits,
        clipping_norm=settings.clipping_norm,
        max_participants=settings.group_size,
        noise_multiplier=settings.noise_multiplier,
        honest_survivors=settings.fewest_survivors - settings.corrupt,
        rotation_seed=bytes(32) if settings.lane_bits < 24 else b"",
    )
    steps = lanes.noise * lanes.scale
    if steps < LEAST_STEPS:
        needed = settings.noise_multiplier * LEAST_STEPS / steps
        raise InvalidNoise(
            f"The noise of one device has {steps:.2g} steps on the grid of {settings.lane_bits} bits, and needs 4.",
            f"Take a noise multiplier of at least {math.ceil(needed * 100) / 100:g}, or wider lanes.",
        )


def check_change(before: PrivacySettings, after: PrivacySettings, *, active: bool, charged: bool) -> None:
    """Return if a task may change its settings so.

    Args:
        active: The task is running or paused, not only drafted.
        charged: The ledger has an entry of it.

    Raises:
        NoiseLowered: It would weaken a claim that is being made.
        InvalidTargetDelta, InvalidClippingNorm, InvalidNoise, CohortTooSmall, ModeNotGiven: As `check_settings`.
    """
    check_settings(after)
    if not (active or charged):
        return
    if after.mode is not before.mode:
        raise NoiseLowered(f"An active task keeps its mode, {before.mode}.", "End it and begin another task.")
    if after.noise_multiplier < before.noise_multiplier:
        raise NoiseLowered(
            f"The noise multiplier would fall from {before.noise_multiplier:g} to {after.noise_multiplier:g}.",
            f"Keep at least {before.noise_multiplier:g}, or end the task and begin another.",
        )
    if after.target_delta > before.target_delta:
        raise NoiseLowered("The target delta would rise.", f"Keep at most {before.target_delta:g}.")
    if after.limits.separation < before.limits.separation or _more(before.limits.most, after.limits.most):
        raise NoiseLowered("Devices could be in more rounds than was claimed.", "Keep the limits or narrow them.")


def _more(before: int | None, after: int | None) -> bool:
    return before is not None and (after is None or after > before)
