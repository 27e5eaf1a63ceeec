"""The noise that a budget needs, and in words what to do where it cannot be reached; the numbers are of `wishes`."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Final

from coordinator.core.privacy.clipping import COUNT_NOISE
from coordinator.core.privacy.figures import rounded_up
from coordinator.core.privacy.refusals import InvalidBudget, InvalidLimits, InvalidNoise, ModeNotGiven, PrivacyRefusal
from coordinator.core.privacy.settings import PrivacySettings, Sums, check_settings
from coordinator.core.privacy.statement import PROTECTS, Mode, Opponent, Statement, stated
from coordinator.core.privacy.wishes import (
    ON_DEVICES,
    Point,
    Wish,
    error,
    goal_for,
    has_room,
    most_goal,
    noise_for_budgets,
    noise_steps,
    noise_within_error,
    point,
)
from edge_runtime.protocol.claims import MOST_NOISE_STEPS
from edge_runtime.protocol.secure_sum.lanes import LARGEST_NOISE, ROTATED_BELOW
from edge_runtime.protocol.secure_sum.thresholds import LARGEST_GROUP

__all__ = [
    "Advice",
    "Point",
    "Wish",
    "compared",
    "error",
    "noise_for_budgets",
    "noise_within_error",
    "planned",
    "point",
]

CHART_POINTS: Final = 40
_EXAMPLE_GROUPS: Final = 24
"""Groups that are shown where a budget is missed with fewer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """What the planner says.

    Attributes:
        reachable: Budget and error are both kept.
        noise_multiplier: z: what the budget needs where it is reachable, what the error allows where it is not.
        error: Expected norm of the noise in a round's mean over the clipping norm.
        goal_needed: Reports a round for which budget and error are both kept; None above what there is.
        by_round: For a chart of both opponents.
        sentences: The outcome in words, the nearest reachable choice included.
    """

    reachable: bool
    noise_multiplier: float
    error: float
    goal_needed: int | None
    by_round: tuple[Point, ...]
    statements: tuple[Statement, ...]
    sentences: tuple[str, ...]
    clipping: str


def planned(wish: Wish) -> Advice:
    """The least noise that keeps the budgets, or the nearest choice.

    Raises:
        InvalidBudget: No budget is given, or a number is not above 0.
        InvalidLimits: The population cannot meet the goal in every round.
        ModeNotGiven: The mode does not protect from an opponent for whom there is a budget.
        CohortTooSmall, InvalidTargetDelta, InvalidClippingNorm, InvalidNoise: As `check_settings`.
    """
    _check(wish)
    needed = noise_for_budgets(wish)
    allowed = noise_within_error(wish)
    reachable = needed is not None and needed <= allowed * (1 + 1e-9)
    noise = needed if needed is not None and reachable else allowed
    if reachable and wish.mode in ON_DEVICES and noise_steps(wish, noise) > MOST_NOISE_STEPS:
        raise InvalidNoise("The noise of one device is beyond what integers hold.", "Take narrower lanes.")
    goal = None if needed is None else goal_for(wish)
    at_end = point(wish, noise, wish.rounds)
    return Advice(
        reachable=reachable,
        noise_multiplier=noise,
        error=error(wish, noise),
        goal_needed=goal,
        by_round=tuple(point(wish, noise, number) for number in _charted(wish.rounds)),
        statements=(
            stated(wish.mode, Opponent.COORDINATOR, at_end.coordinator, wish.target_delta),
            stated(wish.mode, Opponent.RECIPIENTS, at_end.recipients, wish.target_delta),
        ),
        sentences=_reached(wish, noise, goal) if reachable else _missed(wish, needed, allowed, goal),
        clipping=_clipping_advice(wish, noise),
    )


def compared(wish: Wish, advice: Advice) -> dict[Mode, Advice]:
    """The same wish in every mode that is planned, for a chart; in modes that protect from fewer, fewer budgets count.

    A mode in which nothing of the wish can be planned is left out.
    """
    found = {wish.mode: advice}
    for mode in (Mode.DISTRIBUTED, Mode.CENTRAL, Mode.CORRELATED, Mode.LOCAL):
        epsilon = {opponent: bound for opponent, bound in wish.epsilon.items() if opponent in PROTECTS[mode]}
        if Opponent.RECIPIENTS in PROTECTS[mode] and not epsilon:
            epsilon = {Opponent.RECIPIENTS: min(wish.epsilon.values())}
        if mode not in found:
            try:
                found[mode] = planned(dataclasses.replace(wish, mode=mode, epsilon=epsilon))
            except PrivacyRefusal:
                continue
    return found


def _charted(rounds: int) -> list[int]:
    return sorted({max(1, rounds * step // CHART_POINTS) for step in range(1, CHART_POINTS + 1)})


def _check(wish: Wish) -> None:
    numbers = (wish.population, wish.rounds, wish.goal, wish.parameters, wish.largest_error, wish.group_size)
    if not wish.epsilon or min(wish.epsilon.values()) <= 0 or min(numbers) <= 0:
        raise InvalidBudget("A plan needs a budget, and numbers above 0.", "Give ε against one opponent at least.")
    if wish.mode in (Mode.NONE, Mode.EXAMPLE_LEVEL):
        raise ModeNotGiven(
            f"Mode {wish.mode} is not planned here.", "Choose distributed, central, correlated or local."
        )
    if wish.goal > most_goal(wish):
        raise InvalidLimits(
            f"{wish.population:,} devices cannot meet a goal of {wish.goal:,} in each of {wish.rounds:,} rounds within "
            "their participation limits.",
            f"Take a goal of at most {most_goal(wish):,}, fewer rounds, or wider limits.",
        )
    for opponent in wish.epsilon:
        if opponent not in PROTECTS[wish.mode]:
            raise ModeNotGiven(
                f"Mode {wish.mode} does not protect from the {opponent}.", "Choose the distributed or the local mode."
            )
    check_settings(
        PrivacySettings(
            mode=wish.mode, sums=Sums.SECURE, clipping_norm=wish.clipping_norm, noise_multiplier=1.0,
            target_delta=wish.target_delta, population=wish.population, cohort=wish.population,
            group_size=wish.size, fewest_survivors=wish.fewest_survivors, corrupt=wish.corrupt,
            lane_bits=wish.lane_bits, limits=wish.limits,
        )
    )  # fmt: skip
    if not has_room(wish):
        raise InvalidLimits(
            f"Lanes of {wish.lane_bits} bits hold no sum of {wish.summed:,} reports.",
            "Take wider lanes, up to 32 bits, or smaller sums.",
        )


def _shown(epsilon: float) -> str:
    return f"ε = {rounded_up(epsilon, 3)}" if math.isfinite(epsilon) else "no bound on ε"


def _against_both(wish: Wish, end: Point) -> str:
    """What both opponents learn, in words."""
    figures = {Opponent.RECIPIENTS: end.recipients, Opponent.COORDINATOR: end.coordinator}
    return " and ".join(
        f"{_shown(epsilon) if opponent in PROTECTS[wish.mode] else 'no protection'} against the {opponent}"
        for opponent, epsilon in figures.items()
    )


def _reached(wish: Wish, noise: float, goal: int | None) -> tuple[str, ...]:
    end = point(wish, noise, wish.rounds)
    first = (
        f"Reachable with a noise multiplier of {rounded_up(noise)}: after {wish.rounds:,} rounds "
        f"{_against_both(wish, end)}."
    )
    enough = "" if goal is None else f"; a goal of {goal:,} would do for the error that is allowed"
    return first, f"The noise in a round's mean is {error(wish, noise):.2g} times the clipping norm{enough}."


def _missed(wish: Wish, needed: float | None, allowed: float, goal: int | None) -> tuple[str, ...]:
    wanted = " and ".join(f"ε = {epsilon:g} against the {opponent}" for opponent, epsilon in wish.epsilon.items())
    first = f"Not reachable: {wanted} at this goal and this error. {_costs(wish)}"
    if needed is not None and goal is not None:
        nearest = f"Nearest: a goal of {goal:,} with a noise multiplier of {rounded_up(needed)} keeps budget and error"
        end = point(wish, allowed, wish.rounds)
        nearest += f"; at a goal of {wish.goal:,} it is {_shown(max(_of(end, o) for o in wish.epsilon))}."
    elif needed is not None and (larger := _larger_groups(wish)) is not None:
        nearest = f"Nearest: groups of {LARGEST_GROUP:,} and a goal of {larger:,} keep budget and error."
    elif needed is not None:
        nearest = (
            f"Nearest: no goal among {wish.population:,} devices keeps both; with a noise multiplier of "
            f"{rounded_up(needed)} the budget holds, and the noise is {error(wish, needed):.3g} times the norm."
        )
    else:
        nearest = "Nearest: fewer rounds, a wider separation, or a larger budget; no noise up to 1,000 keeps this one."
    return first, nearest


def _larger_groups(wish: Wish) -> int | None:
    """The goal that would do with the largest groups that can be summed; None where none does."""
    if wish.mode is not Mode.DISTRIBUTED or wish.size >= LARGEST_GROUP or most_goal(wish) < LARGEST_GROUP:
        return None
    other = dataclasses.replace(wish, group_size=LARGEST_GROUP, goal=LARGEST_GROUP)
    return goal_for(other)


def _of(at: Point, opponent: Opponent) -> float:
    return at.coordinator if opponent is Opponent.COORDINATOR else at.recipients


def _costs(wish: Wish) -> str:
    """What the error that is allowed costs against both opponents, in other shapes too."""

    def costs(other: Wish) -> Point:
        return point(other, noise_within_error(other), wish.rounds)

    if wish.mode is not Mode.DISTRIBUTED:
        return f"It comes to {_against_both(wish, costs(wish))}."

    def shaped(size: int, groups: int) -> Point:
        return costs(dataclasses.replace(wish, group_size=size, goal=size * groups))

    parts = [f"one group of {wish.size:,} costs {_shown(shaped(wish.size, 1).coordinator)} against the coordinator"]
    if wish.size < LARGEST_GROUP <= most_goal(wish):
        parts.append(f"a group of {LARGEST_GROUP:,} costs {_shown(shaped(LARGEST_GROUP, 1).coordinator)}")
    groups = max(wish.groups, min(_EXAMPLE_GROUPS, most_goal(wish) // wish.size))
    parts.append(
        f"against recipients, {groups:,} {'group' if groups == 1 else 'groups'} of {wish.size:,} "
        f"{'costs' if groups == 1 else 'cost'} {_shown(shaped(wish.size, groups).recipients)}"
    )
    return "With this error " + "; ".join(parts) + "."


def _clipping_advice(wish: Wish, noise: float) -> str:
    size = error(wish, noise) * wish.clipping_norm
    return (
        f"At a clipping norm of {wish.clipping_norm:g} the noise in a round's mean has norm {size:.3g}; both grow "
        f"together. Begin at the median norm of deltas from a simulation.{_adapting_advice(wish, noise)}"
    )


def _adapting_advice(wish: Wish, noise: float) -> str:
    """Where a norm may adapt to the median, and its counts cost less than all of z."""
    counts = min(COUNT_NOISE * wish.summed, LARGEST_NOISE / 2)
    may = wish.mode in (Mode.DISTRIBUTED, Mode.CENTRAL) and wish.lane_bits >= ROTATED_BELOW
    return f" Or let the norm adapt, with a count_noise of {counts:g}." if may and counts > noise / 2 else ""
