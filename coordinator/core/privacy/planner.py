"""Which noise a budget needs, what it costs in error, and what to do where it cannot be reached.

The error is the expected L2 norm of the noise in a round's mean delta over the clipping norm; at 1 the noise is as long
as what one device may give. Where n devices of a group give d values with noise multiplier z, K groups to a round:

| mode | error of a round | ρ of a round, coordinator | ρ of a round, recipients |
|---|---|---|---|
| distributed | √d z √(n/(m - A)) / (√K n) | 1/2z² | 1/K of it |
| central | √d z / goal | none holds | 1/2z² |
| correlated | prefix error √d z / (√R goal) | none holds | of all rounds: sens²/2z² |
| local | √d z / √goal | 1/2z² | 1/2z² |

To each ρ comes what rounding to the lanes' grid costs, as the ledger charges it: lanes of a plain sum hold the goal.
For recipients of local noise only each device's own counts: that is what the claim says. Correlated error is that of
the sum after all R rounds, over √R, so that it can be held beside the others.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from coordinator.core.privacy.blt import Blt, fitted
from coordinator.core.privacy.central import SumNoise
from coordinator.core.privacy.conversions import LARGEST_RHO, rho_to_delta, rho_to_epsilon
from coordinator.core.privacy.correlated import correlated_rho, prefix_error
from coordinator.core.privacy.distributed import LEAST_STEPS, GroupNoise, excess
from coordinator.core.privacy.participation import ParticipationLimits, composed_rho
from coordinator.core.privacy.refusals import InvalidBudget, InvalidLimits, InvalidNoise, ModeNotGiven, PrivacyRefusal
from coordinator.core.privacy.settings import PrivacySettings, Sums, check_settings
from coordinator.core.privacy.statement import PROTECTS, Mode, Opponent, Statement, stated
from edge_runtime.protocol.claims import MOST_NOISE_STEPS
from edge_runtime.protocol.errors import InvalidPlan
from edge_runtime.protocol.secure_sum.lanes import ROTATED_BELOW, Lanes
from edge_runtime.protocol.secure_sum.thresholds import LARGEST_GROUP

CHART_POINTS: Final = 40
_ON_DEVICES: Final = frozenset({Mode.DISTRIBUTED, Mode.LOCAL})
"""Modes whose noise the lanes hold, beside the delta."""
_NOISES: Final = (1e-3, 1e3)
"""Noise multipliers that are looked at: beyond them there is no plan."""
_HALVINGS: Final = 60
_EXAMPLE_GROUPS: Final = 24
"""Groups that are shown where a budget is missed with fewer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What a product team knows.

    Attributes:
        population: Devices, N.
        goal: Reports wanted in a round.
        parameters: Values of a report, d.
        epsilon: Budget against each opponent for whom there is one.
        largest_error: Expected norm of the noise in a round's mean over the clipping norm, at most.
        group_size: n of one group; a goal above it is several groups.
        survivor_share: m/n.
        corrupt_share: A/n.
    """

    mode: Mode
    population: int
    rounds: int
    goal: int
    parameters: int
    target_delta: float
    epsilon: dict[Opponent, float]
    largest_error: float
    limits: ParticipationLimits = field(default_factory=ParticipationLimits)
    clipping_norm: float = 1.0
    group_size: int = 100
    survivor_share: float = 0.8
    corrupt_share: float = 0.1
    lane_bits: int = 24

    @property
    def size(self) -> int:
        """Members of one group."""
        return min(self.group_size, self.goal)

    @property
    def groups(self) -> int:
        """Groups of a round, K."""
        return max(1, self.goal // self.size)

    @property
    def summed(self) -> int:
        """Reports that lanes have room for: of one group, or all of a plain sum."""
        return self.size if self.mode is Mode.DISTRIBUTED else self.goal

    @property
    def fewest_survivors(self) -> int:
        return math.ceil(round(self.survivor_share * self.size, 6))

    @property
    def corrupt(self) -> int:
        return math.floor(round(self.corrupt_share * self.size, 6))


@dataclass(frozen=True, slots=True)
class Point:
    """ε against each opponent after some rounds; infinite where the mode does not protect."""

    round: int
    coordinator: float
    recipients: float


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
    if reachable and wish.mode in _ON_DEVICES and _steps(wish, noise) > MOST_NOISE_STEPS:
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


def point(wish: Wish, noise: float, rounds: int) -> Point:
    """ε against both opponents after so many rounds of the wish."""
    found = (_epsilon(wish, noise, rounds, opponent) for opponent in (Opponent.COORDINATOR, Opponent.RECIPIENTS))
    return Point(rounds, *found)


def error(wish: Wish, noise: float) -> float:
    """Expected norm of the noise in a round's mean over the clipping norm."""
    return noise * _error_of_one(wish)


def noise_within_error(wish: Wish) -> float:
    """The largest z whose error is allowed."""
    return min(wish.largest_error / _error_of_one(wish), _NOISES[1])


def noise_for_budgets(wish: Wish) -> float | None:
    """The least z that keeps every budget; None where none up to 1,000 does."""

    def kept(noise: float) -> bool:
        if wish.mode in _ON_DEVICES and _steps(wish, noise) < LEAST_STEPS:
            return False
        costs = ((_rho(wish, noise, wish.rounds, opponent), epsilon) for opponent, epsilon in wish.epsilon.items())
        return all(rho <= LARGEST_RHO and rho_to_delta(rho, epsilon) <= wish.target_delta for rho, epsilon in costs)

    low, high = _NOISES
    if not kept(high):
        return None
    for _ in range(_HALVINGS):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if kept(middle) else (middle, high)
    return high


def goal_for(wish: Wish) -> int | None:
    """The least goal, in whole groups, for which budgets and error are kept; None above the population."""

    def at(goal: int) -> Wish:
        return dataclasses.replace(wish, goal=goal * step)

    def kept(goal: int) -> bool:
        found = noise_for_budgets(at(goal))
        return found is not None and error(at(goal), found) <= wish.largest_error * (1 + 1e-9)

    step = wish.size if wish.mode is Mode.DISTRIBUTED else 1
    most = _least(lambda goal: not _has_room(at(goal)), most_goal(wish) // step + 1) - 1
    if most < 1 or not kept(most):
        return None
    return _least(kept, most) * step


def _least(holds: Callable[[int], bool], high: int) -> int:
    """The least number above 0 from which on something holds; `high` where it holds for none before."""
    low = 0
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def _has_room(wish: Wish) -> bool:
    """Whether lanes hold a sum of so many reports."""
    try:
        _lanes(wish, 1.0)
    except InvalidPlan:
        return False
    return True


def most_goal(wish: Wish) -> int:
    """The largest goal that the population can meet in every round within the participation limits."""
    apart = min(wish.limits.separation, wish.rounds)
    most = wish.population // apart
    return most if wish.limits.most is None else min(most, wish.population * wish.limits.most // wish.rounds)


def _error_of_one(wish: Wish) -> float:
    """The error at z = 1; it grows with z."""
    root = math.sqrt(wish.parameters)
    if wish.mode is Mode.DISTRIBUTED:
        more = excess(wish.size, wish.fewest_survivors, wish.corrupt)
        return root * more / (math.sqrt(wish.groups) * wish.size)
    if wish.mode is Mode.CORRELATED:
        return root * _prefix_error(wish.rounds, wish.limits.separation) / (math.sqrt(wish.rounds) * wish.goal)
    return root / math.sqrt(wish.goal) if wish.mode is Mode.LOCAL else root / wish.goal


@functools.lru_cache(maxsize=16)
def _prefix_error(rounds: int, separation: int) -> float:
    return prefix_error(_factor(rounds, separation).noise_column(rounds), 1.0)


def _factor(rounds: int, separation: int) -> Blt:
    return fitted(rounds, separation)


@functools.lru_cache(maxsize=64)
def _correlated_rho(planned_rounds: int, rounds: int, limits: ParticipationLimits) -> float:
    """ρ at z = 1 of the first rounds of a training planned for so many."""
    column = _factor(planned_rounds, limits.separation).column(rounds)
    return correlated_rho(column, limits.separation, 1.0, limits.most)


def _rho(wish: Wish, noise: float, rounds: int, opponent: Opponent) -> float:
    if opponent not in PROTECTS[wish.mode]:
        return math.inf
    if wish.mode is Mode.CORRELATED:
        return _correlated_rho(wish.rounds, rounds, wish.limits) * 2 * sum_rho(wish, noise)
    one = sum_rho(wish, noise)
    if wish.mode is Mode.DISTRIBUTED and opponent is Opponent.RECIPIENTS:
        one /= wish.groups
    return composed_rho(one, rounds, wish.limits)


def sum_rho(wish: Wish, noise: float) -> float:
    """ρ of one opened sum, or of one report with all of its noise, rounding included."""
    lanes = _lanes(wish, noise)
    if wish.mode in _ON_DEVICES:
        return GroupNoise.of(lanes, wish.parameters).rho
    return SumNoise.of(lanes, wish.parameters, noise).rho


def _steps(wish: Wish, noise: float) -> float:
    """Standard deviation of what one device adds, in steps of the grid."""
    lanes = _lanes(wish, noise)
    return lanes.noise * lanes.scale


def _lanes(wish: Wish, noise: float) -> Lanes:
    """Those of the plan that is advised."""
    return Lanes(
        bits=wish.lane_bits,
        clipping_norm=wish.clipping_norm,
        max_participants=wish.summed,
        noise_multiplier=noise if wish.mode in _ON_DEVICES else 0.0,
        honest_survivors=wish.fewest_survivors - wish.corrupt if wish.mode is Mode.DISTRIBUTED else 1,
        rotation_seed=bytes(32) if wish.lane_bits < ROTATED_BELOW else b"",
        bounded=True,
    )


def _epsilon(wish: Wish, noise: float, rounds: int, opponent: Opponent) -> float:
    rho = _rho(wish, noise, rounds, opponent)
    return rho_to_epsilon(rho, wish.target_delta) if rho <= LARGEST_RHO else math.inf


def _charted(rounds: int) -> list[int]:
    return sorted({max(1, rounds * step // CHART_POINTS) for step in range(1, CHART_POINTS + 1)})


def _check(wish: Wish) -> None:
    numbers = (wish.population, wish.rounds, wish.goal, wish.parameters, wish.largest_error, wish.group_size)
    if not wish.epsilon or min(wish.epsilon.values()) <= 0 or min(numbers) <= 0:
        raise InvalidBudget("A plan needs a budget, and numbers above 0.", "Give ε against one opponent at least.")
    if wish.mode in (Mode.NONE, Mode.EXAMPLE_LEVEL):
        raise ModeNotGiven(f"Mode {wish.mode} is not planned here.", "Choose distributed, central or local.")
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
    if not _has_room(wish):
        raise InvalidLimits(
            f"Lanes of {wish.lane_bits} bits hold no sum of {wish.summed:,} reports.",
            "Take wider lanes, up to 32 bits, or smaller sums.",
        )


def _shown(epsilon: float) -> str:
    return f"ε = {epsilon:.3g}" if math.isfinite(epsilon) else "no bound on ε"


def _reached(wish: Wish, noise: float, goal: int | None) -> tuple[str, ...]:
    end = point(wish, noise, wish.rounds)
    first = (
        f"Reachable with a noise multiplier of {noise:.3g}: after {wish.rounds:,} rounds {_shown(end.coordinator)} "
        f"against the coordinator and {_shown(end.recipients)} against recipients."
    )
    enough = "" if goal is None else f"; a goal of {goal:,} would do for the error that is allowed"
    return first, f"The noise in a round's mean is {error(wish, noise):.2g} times the clipping norm{enough}."


def _missed(wish: Wish, needed: float | None, allowed: float, goal: int | None) -> tuple[str, ...]:
    wanted = " and ".join(f"ε = {epsilon:g} against the {opponent}" for opponent, epsilon in wish.epsilon.items())
    first = f"Not reachable: {wanted} at this goal and this error. {_costs(wish)}"
    if needed is not None and goal is not None:
        nearest = f"Nearest: a goal of {goal:,} with a noise multiplier of {needed:.3g} keeps budget and error"
        end = point(wish, allowed, wish.rounds)
        nearest += f"; at a goal of {wish.goal:,} it is {_shown(max(_of(end, o) for o in wish.epsilon))}."
    elif needed is not None and (larger := _larger_groups(wish)) is not None:
        nearest = f"Nearest: groups of {LARGEST_GROUP:,} and a goal of {larger:,} keep budget and error."
    elif needed is not None:
        nearest = (
            f"Nearest: no goal among {wish.population:,} devices keeps both; with a noise multiplier of {needed:.3g} "
            f"the budget holds, and the noise is {error(wish, needed):.3g} times the clipping norm."
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
        end = costs(wish)
        against = f"{_shown(end.recipients)} against recipients, and {_shown(end.coordinator)} against the coordinator"
        return f"It costs {against}."

    def shaped(size: int, groups: int) -> Point:
        return costs(dataclasses.replace(wish, group_size=size, goal=size * groups))

    parts = [f"one group of {wish.size:,} costs {_shown(shaped(wish.size, 1).coordinator)} against the coordinator"]
    if wish.size < LARGEST_GROUP <= most_goal(wish):
        parts.append(f"a group of {LARGEST_GROUP:,} costs {_shown(shaped(LARGEST_GROUP, 1).coordinator)}")
    groups = max(wish.groups, min(_EXAMPLE_GROUPS, most_goal(wish) // wish.size))
    parts.append(
        f"against recipients, {groups:,} groups of {wish.size:,} cost {_shown(shaped(wish.size, groups).recipients)}"
    )
    return "With this error " + "; ".join(parts) + "."


def _clipping_advice(wish: Wish, noise: float) -> str:
    size = error(wish, noise) * wish.clipping_norm
    return (
        f"At a clipping norm of {wish.clipping_norm:g} the noise in a round's mean has norm {size:.3g}; both grow "
        "together. Begin at the median norm of deltas from a simulation."
    )
