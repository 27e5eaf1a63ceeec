"""What a product team wishes for, and in numbers what noise it takes and what that costs.

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
from coordinator.core.privacy.conversions import LARGEST_RHO, epsilon_bound, rho_to_delta
from coordinator.core.privacy.correlated import correlated_rho, prefix_error
from coordinator.core.privacy.distributed import LEAST_STEPS, GroupNoise, excess
from coordinator.core.privacy.participation import ParticipationLimits, composed_rho
from coordinator.core.privacy.statement import PROTECTS, Mode, Opponent
from edge_runtime.protocol.errors import InvalidPlan
from edge_runtime.protocol.secure_sum.lanes import ROTATED_BELOW, Lanes

ON_DEVICES: Final = frozenset({Mode.DISTRIBUTED, Mode.LOCAL})
"""Modes whose noise the lanes hold, beside the delta."""
_NOISES: Final = (1e-3, 1e3)
"""Noise multipliers that are looked at: beyond them there is no plan."""
_HALVINGS: Final = 60


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
        if wish.mode in ON_DEVICES and noise_steps(wish, noise) < LEAST_STEPS:
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
    most = _least(lambda goal: not has_room(at(goal)), most_goal(wish) // step + 1) - 1
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


def has_room(wish: Wish) -> bool:
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
    if wish.mode in ON_DEVICES:
        return GroupNoise.of(lanes, wish.parameters).rho
    return SumNoise.of(lanes, wish.parameters, noise).rho


def noise_steps(wish: Wish, noise: float) -> float:
    """Standard deviation of what one device adds, in steps of the grid."""
    lanes = _lanes(wish, noise)
    return lanes.noise * lanes.scale


def _lanes(wish: Wish, noise: float) -> Lanes:
    """Those of the plan that is advised."""
    return Lanes(
        bits=wish.lane_bits,
        clipping_norm=wish.clipping_norm,
        max_participants=wish.summed,
        noise_multiplier=noise if wish.mode in ON_DEVICES else 0.0,
        honest_survivors=wish.fewest_survivors - wish.corrupt if wish.mode is Mode.DISTRIBUTED else 1,
        rotation_seed=bytes(32) if wish.lane_bits < ROTATED_BELOW else b"",
        bounded=True,
    )


def _epsilon(wish: Wish, noise: float, rounds: int, opponent: Opponent) -> float:
    rho = _rho(wish, noise, rounds, opponent)
    return epsilon_bound(rho, wish.target_delta)
