"""Privacy: how fast integer noise is drawn on one core, and what a query of ε costs after each round.

The limit of a sampler is the rate that is named for it; rates are process CPU time of one thread.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np

from coordinator.core.privacy.events import GaussianEvent
from coordinator.core.privacy.ledger import Account, Budget, Cost, Fact, FactKind, Purpose, TaskAccount, applied, spent
from coordinator.core.privacy.participation import ParticipationLimits
from coordinator.core.privacy.planner import Wish, planned
from coordinator.core.privacy.rdp import Running, sampled_gaussian
from coordinator.core.privacy.statement import Mode, Opponent
from edge_runtime.protocol.noise import DiscreteGaussian, NoiseSource
from tests.bench.measure import Row, cpu_s

DRAWS: Final = 4_000_000
REPEATS: Final = 7
RATES: Final = {
    "privacy.sampler_s100": (100.0, 10e6),
    "privacy.sampler_s1e4": (1e4, 5e6),
    "privacy.sampler_s2e5": (2e5, 3e6),
}
"""σ, and the rate that is named for it."""
ROUNDS: Final = 1000
DELTA: Final = 1e-6
_BUDGET: Final = Budget(opponent=Opponent.RECIPIENTS, target_delta=DELTA, epsilon=1e3)


def rows(_folder: Path) -> list[Row]:
    found = [_sampler(id_, sigma, rate) for id_, (sigma, rate) in RATES.items()]
    return [*found, _lanes(), _query(), _ledger_query(), _cached(), _plan()]


def _median_s(work: Callable[[], object]) -> float:
    return statistics.median([cpu_s(work) for _repeat in range(REPEATS + 1)][1:])


def _sampler(id_: str, sigma: float, rate: float) -> Row:
    law, source = DiscreteGaussian(sigma), NoiseSource.fresh()
    ours = DRAWS / _median_s(lambda: law.draw(DRAWS, source))
    return Row(
        id=id_, ours=round(ours, -4), limit=rate, ratio=round(rate / ours, 3), bound=1.0, unit="per CPU s",
        how=f"draws of N_Z(0, σ²), σ = {sigma:g}, one core, int64; limit: the rate that is named for it",
    )  # fmt: skip


def _lanes() -> Row:
    lanes, source = np.zeros(1_000_000, np.uint32), NoiseSource.fresh()
    ours_s = _median_s(lambda: DiscreteGaussian(12_000.0).add_to(lanes, source))
    return _cost("privacy.noise_1m", ours_s, 0.1, "noise of σ = 12,000 steps for a report of 1M lanes; limit: 100 ms")


def _cost(id_: str, ours_s: float, limit_s: float, how: str) -> Row:
    return Row(
        id=id_, ours=round(ours_s * 1e3, 4), limit=limit_s * 1e3, ratio=round(ours_s / limit_s, 3), bound=1.0,
        unit="ms CPU", how=how,
    )  # fmt: skip


def _after(rounds: int) -> Running:
    running = Running()
    for number in range(rounds):
        running = running.plus(GaussianEvent(1.0, 0.01 + number * 1e-6))
    return running


def _query() -> Row:
    running, fresh = _after(ROUNDS), itertools.count(1)

    def ours() -> None:
        running.plus(GaussianEvent(1.0, 0.02 + next(fresh) * 1e-7)).epsilon(DELTA)

    return _cost(
        "privacy.epsilon_query", _median_s(ours), 0.025,
        f"one round more at a sampling rate never seen before, then ε, after {ROUNDS} of them; limit: 25 ms",
    )  # fmt: skip


def _account(rounds: int, rate: float = 0.01) -> Account:
    """A population's ledger after so many rounds, each at a sampling rate of its own."""
    charged = {at: Cost(None, 0.5, sampling_rate=rate + at * 1e-6) for at in range(1, rounds + 1)}
    task = TaskAccount(ParticipationLimits(), Purpose.TRAINING, charged, mode=Mode.CENTRAL)
    return Account((_BUDGET,), {"words": task})


def _ledger_query() -> Row:
    """What a reservation asks: a round more, at a rate never seen, and how much of the budget is gone then."""
    account, fresh = _account(ROUNDS), itertools.count(1)
    spent(account, _BUDGET)

    def ours() -> None:
        cost = Cost(None, 0.5, sampling_rate=0.02 + next(fresh) * 1e-7)
        fact = Fact(kind=FactKind.RESERVED, task="words", round=ROUNDS + 1, cost=cost)
        spent(applied(account, fact), _BUDGET)

    return _cost(
        "privacy.ledger_query", _median_s(ours), 0.025,
        f"the ledger of {ROUNDS} rounds, one more at a rate never seen before, and its ε; limit: 25 ms",
    )  # fmt: skip


def _cached() -> Row:
    running, count = _after(10), 1000
    sampled_gaussian(1.0, 0.01)

    def ours() -> None:
        for _query in range(count):
            running.epsilon(DELTA)

    return _cost("privacy.epsilon_cached", _median_s(ours) / count, 0.0001, "ε again, nothing new; limit: .1 ms")


def _plan() -> Row:
    wish = Wish(
        mode=Mode.DISTRIBUTED, population=2_000_000, rounds=1000, goal=2400, parameters=102_000, target_delta=1e-7,
        epsilon={Opponent.COORDINATOR: 8.0}, largest_error=1.0, limits=ParticipationLimits(separation=100, most=2),
    )  # fmt: skip
    return _cost("privacy.plan", _median_s(lambda: planned(wish)), 1.0, "one plan, with its chart; limit: 1 s, our own")
