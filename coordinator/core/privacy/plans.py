"""What a plan costs, and whether its promises can be kept: from plans to costs and settings. Pure."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Final

from coordinator.core.privacy.blt import Blt, fitted
from coordinator.core.privacy.central import SumNoise
from coordinator.core.privacy.correlated import sensitivity
from coordinator.core.privacy.distributed import GroupNoise
from coordinator.core.privacy.ledger import Cost, Purpose
from coordinator.core.privacy.participation import ParticipationLimits
from coordinator.core.privacy.refusals import ModeNotGiven, NoiseLowered
from coordinator.core.privacy.settings import PrivacySettings, Sums
from coordinator.core.privacy.statement import PROTECTS, Mode, Opponent
from edge_runtime.protocol.plan import Kind, Plan, Summing
from edge_runtime.protocol.secure_sum.thresholds import corrupt_members

OF_THE_COORDINATOR: Final = frozenset({Mode.CENTRAL, Mode.CORRELATED})
"""Modes whose noise the coordinator draws."""


def mode_of(plan: Plan) -> Mode:
    """What hides a participant; example-level noise hides none and is stated apart."""
    return Mode(plan.privacy.value)


def purpose_of(plan: Plan) -> Purpose:
    return Purpose.EVALUATION if plan.kind is Kind.EVALUATE else Purpose.TRAINING


def limits_of(plan: Plan) -> ParticipationLimits:
    """How often a device may be in."""
    return ParticipationLimits(separation=plan.separation, least_gap_s=plan.separation_s, most=plan.most_participations)


def composed_limits(plan: Plan) -> ParticipationLimits:
    """How the ledger adds up a task's rounds: correlated noise has them in each round's cost already."""
    return ParticipationLimits() if mode_of(plan) is Mode.CORRELATED else limits_of(plan)


def sum_noise(plan: Plan, values: int, clipping_norm: float | None = None) -> SumNoise:
    """The noise that the coordinator adds to the sum of a round's deltas.

    Args:
        values: Of the delta.
        clipping_norm: Of the round, where it adapts; what the noise costs is the same under every norm.
    """
    lanes, multiplier = plan.lanes(clipping_norm), plan.noise_multiplier
    return SumNoise.of(lanes, values, plan.adaptive.delta_multiplier(multiplier) if plan.adaptive else multiplier)


def count_noise(plan: Plan) -> SumNoise | None:
    """The noise that the coordinator adds to the count of devices within an adaptive norm; None for a fixed one."""
    counts = plan.count_lanes()
    if plan.adaptive is None or counts is None:
        return None
    return SumNoise.of(counts, plan.counts, plan.adaptive.count_multiplier)


@dataclass(frozen=True, slots=True)
class Stretch:
    """Where a round stands in a stretch of correlated noise: it begins anew after as many rounds as are planned.

    Attributes:
        factor: Of the noise.
        planned: Rounds of the whole stretch.
        rounds: Rounds of it up to this one, by their numbers.
        charged: ρ that those before were charged.
    """

    factor: Blt
    planned: int
    rounds: int
    charged: float


def cost_of(plan: Plan, values: int, stretch: Stretch | None = None) -> Cost:
    """What opening the sums of one round costs a device that is in it.

    Args:
        values: Of a report.
        stretch: Of correlated noise: the round's cost is that of all up to it, less what was charged.
    """
    mode = mode_of(plan)
    if mode is Mode.NONE:
        return Cost(None, None)
    if stretch is not None:
        rho = _rho_until(plan, values, stretch.factor, stretch.planned, stretch.rounds)
        return Cost(None, max(0.0, rho - stretch.charged))
    protects, rho = PROTECTS[mode], _rho_of(plan, values - plan.counts)
    return Cost(rho if Opponent.COORDINATOR in protects else None, rho if Opponent.RECIPIENTS in protects else None)


def _rho_of(plan: Plan, values: int) -> float:
    """ρ of the sum of one round's deltas, of so many values, and of its count."""
    if mode_of(plan) in OF_THE_COORDINATOR:
        counted = count_noise(plan)
        return sum_noise(plan, values).rho + (counted.rho if counted else 0.0)
    counts = plan.count_lanes()
    delta = GroupNoise.of(plan.lanes(), values).rho
    return delta if counts is None else delta + GroupNoise.of(counts, plan.counts).rho


def factor_of(rounds: int, separation: int) -> Blt:
    """The factor of a training planned for so many rounds.

    Other machines may find one that differs in its last digits: the ledger keeps that with which a task began.
    """
    return fitted(rounds, separation)


def correlated_rho_until(plan: Plan, values: int, planned: int, rounds: int) -> float:
    """ρ of the first rounds of a stretch of correlated noise that is planned for so many."""
    return _rho_until(plan, values, factor_of(planned, plan.separation), planned, rounds)


def _rho_until(plan: Plan, values: int, factor: Blt, planned: int, rounds: int) -> float:
    one = _unit_rho(factor, planned, rounds, plan.separation, plan.most_participations)
    return one / sum_noise(plan, values).multiplier ** 2


@functools.lru_cache(maxsize=4096)
def _unit_rho(factor: Blt, planned: int, rounds: int, separation: int, most: int | None) -> float:
    """ρ at z = 1 of the first rounds of a stretch."""
    return sensitivity(factor.column(planned)[:rounds], separation, most) ** 2 / 2


def settings_of(
    plan: Plan, *, target_delta: float, population: int, cohort: int, smallest_cohort: int, values: int
) -> PrivacySettings:
    """The settings that `check_settings` looks at."""
    most = plan.max_participants
    return PrivacySettings(
        mode=mode_of(plan),
        sums=Sums.SECURE if plan.summing is Summing.SECURE else Sums.PLAIN,
        clipping_norm=plan.clipping_norm,
        noise_multiplier=plan.noise_multiplier if mode_of(plan) is not Mode.NONE else 0.0,
        target_delta=target_delta,
        population=population,
        cohort=cohort,
        group_size=most,
        fewest_survivors=plan.survivors or most,
        corrupt=corrupt_members(plan.corrupt_permille, most),
        lane_bits=plan.lane_bits,
        parameters=values,
        smallest_cohort=smallest_cohort,
        limits=limits_of(plan),
    )


def check_schedule(plan: Plan, *, buffered: bool, rounds: int | None) -> None:
    """Return if a task with such rounds can carry the plan's mode.

    Raises:
        ModeNotGiven: Correlated noise is of one round after another, and of so many planned ones.
    """
    if mode_of(plan) is not Mode.CORRELATED:
        return
    if buffered:
        raise ModeNotGiven("Correlated noise is of one round after another.", "Make the task synchronous, or central.")
    if rounds is None:
        raise ModeNotGiven("Correlated noise is planned for a number of rounds.", "Set stop.rounds.")
    if plan.kind is not Kind.TRAIN:
        raise ModeNotGiven("What is measured is no prefix sum.", "Choose central noise for evaluation.")


def check_rounds_fixed(plan: Plan) -> None:
    """Return if a running task may change its number of rounds.

    Raises:
        ModeNotGiven: The matrix of its correlated noise is for the rounds that it was started with.
    """
    if mode_of(plan) is Mode.CORRELATED:
        raise ModeNotGiven(
            "Correlated noise is planned for the rounds that the task was started with.",
            "Let it end, and begin another from its newest model.",
        )


def check_not_weaker(before: Plan, after: Plan) -> None:
    """Return if a plan promises no less than that of the running task whose name it bears.

    Raises:
        NoiseLowered: It does.
    """
    mode, limits = mode_of(before), limits_of(before)
    if mode is Mode.NONE:
        return
    if mode_of(after) is not mode:
        raise NoiseLowered(f"An active task keeps its mode, {mode}.", "End it and begin another task.")
    if after.noise_multiplier < before.noise_multiplier:
        raise NoiseLowered(
            f"The noise multiplier would fall from {before.noise_multiplier:g} to {after.noise_multiplier:g}.",
            f"Keep at least {before.noise_multiplier:g}, or end the task and begin another.",
        )
    most = after.most_participations
    if after.separation < before.separation or (limits.most is not None and (most is None or most > limits.most)):
        raise NoiseLowered("Devices could be in more rounds than was claimed.", "Keep the limits or narrow them.")


def check_opponents(plan: Plan, opponents: frozenset[Opponent] | set[Opponent]) -> None:
    """Return if the plan's mode protects from every opponent for whom its population has a budget.

    Raises:
        ModeNotGiven: It does not, or it makes a claim for which there is no budget.
    """
    mode = mode_of(plan)
    if not opponents:
        if mode is Mode.NONE:
            return
        raise ModeNotGiven(
            f"The plan claims {mode} privacy, and its population {plan.population!r} has no budget.",
            "Set one first: `edgewise-coordinator privacy budget set`.",
        )
    for opponent in sorted(opponents - PROTECTS[mode]):
        choice = (
            "distributed or local" if opponent is Opponent.COORDINATOR else "central, correlated, distributed or local"
        )
        raise ModeNotGiven(
            f"Mode {mode} does not protect from the {opponent}, for whom the population has a budget.",
            f"Choose {choice} noise.",
        )
    if not opponents & PROTECTS[mode]:
        raise ModeNotGiven(f"Mode {mode} protects from nobody for whom there is a budget.", "Set such a budget.")
