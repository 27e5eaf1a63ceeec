"""What a demo says of privacy: its budget, the ledger's figures, and what the same noise would be worth elsewhere."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Final

from coordinator.core.privacy.conversions import rho_to_epsilon
from coordinator.core.privacy.distributed import excess
from coordinator.core.privacy.participation import composed_rho
from coordinator.core.privacy.planner import Wish, noise_within_error, point
from coordinator.core.privacy.plans import cost_of, limits_of
from coordinator.core.privacy.settings import default_target_delta
from coordinator.core.privacy.statement import Mode, Opponent
from device_sim.history import Claim, Elsewhere
from edge_runtime.protocol.plan import Plan, Privacy
from edge_runtime.protocol.secure_sum.thresholds import corrupt_members

SPARE_ROUNDS: Final = 2
"""The budget covers so many rounds more: one that is abandoned after a sum was opened has spent its share."""
MANY_PHONES: Final = 1_000_000
LARGE_GROUP: Final = 1000


def budget_for(plan: Plan, values: int, rounds: int, devices: int) -> float:
    """ε that a demo sets as its budget against either opponent, at the default target delta."""
    cost = cost_of(plan, values).coordinator or 0.0
    rho = composed_rho(cost, rounds + SPARE_ROUNDS, limits_of(plan))
    return float(math.ceil(rho_to_epsilon(rho, default_target_delta(devices))))


def claim_of(plan: Plan, values: int, rounds: int, groups: int, statement: Mapping[str, Any] | None) -> Claim:
    """What the report shows.

    Args:
        values: Of a report.
        groups: Of a usual round.
        statement: The ledger's, of the operator API; None for a task without noise.
    """
    if statement is None:
        return Claim(mode=Privacy.NONE.value)
    figures = {one["opponent"]: one for one in statement["figures"]}
    coordinator, recipients = figures[Opponent.COORDINATOR], figures[Opponent.RECIPIENTS]
    return Claim(
        mode=plan.privacy.value,
        noise_multiplier=plan.noise_multiplier,
        clipping_norm=plan.clipping_norm,
        survivors=plan.survivors or 0,
        corrupt=corrupt_members(plan.corrupt_permille, plan.max_participants),
        epsilon_coordinator=coordinator["epsilon"],
        epsilon_recipients=recipients["epsilon"],
        target_delta=coordinator["target_delta"],
        sentences=(coordinator["sentence"], recipients["sentence"]),
        elsewhere=elsewhere(plan, values, rounds, groups),
    )


def elsewhere(plan: Plan, values: int, rounds: int, groups: int) -> tuple[Elsewhere, ...]:
    """ε of the same training in one group of 1,000 phones a round, drawn from a million: first with a noise
    multiplier of 1, then with as much noise in a round's mean as the demo has.

    In a million phones nobody has to take part twice: each is in one round.
    """
    members = plan.max_participants
    more = excess(members, plan.survivors or members, corrupt_members(plan.corrupt_permille, members))
    error = math.sqrt(values) * plan.noise_multiplier * more / (math.sqrt(groups) * members)
    wish = Wish(
        mode=Mode.DISTRIBUTED,
        population=MANY_PHONES,
        rounds=rounds,
        goal=LARGE_GROUP,
        parameters=values,
        target_delta=default_target_delta(MANY_PHONES),
        epsilon={},
        largest_error=error,
        limits=dataclasses.replace(limits_of(plan), most=1),
        clipping_norm=plan.clipping_norm,
        group_size=LARGE_GROUP,
        survivor_share=(plan.survivors or members) / members,
        corrupt_share=plan.corrupt_permille / 1000,
        lane_bits=plan.lane_bits,
    )
    noises = (1.0, noise_within_error(wish))
    return tuple(
        Elsewhere(
            members=LARGE_GROUP,
            noise_multiplier=noise,
            epsilon=point(wish, noise, rounds).coordinator,
            target_delta=wish.target_delta,
        )
        for noise in noises
    )
