"""What the demo says of privacy beside the ledger's figures: its budget, and the same training in large groups."""

from __future__ import annotations

import math

import pytest

from device_sim.claims import budget_for, claim_of, elsewhere
from device_sim.programme import plan_for
from device_sim.recipes import RECIPES
from edge_runtime.protocol.plan import Plan, Privacy, Summing

VALUES = 9_098


def plan_of(privacy: Privacy = Privacy.DISTRIBUTED) -> Plan:
    return plan_for(RECIPES["digits"], "digits", "0" * 64, 80, Summing.SECURE, privacy)


def least_epsilon(rho: float, delta: float) -> float:
    """By its definition, over a grid of orders."""
    orders = [1 + 1.003**power / 100 for power in range(4000)]
    return min(
        a * rho + math.log1p(-1 / a) - (math.log(delta) + math.log(a)) / (a - 1) for a in orders if a < 1e6
    )  # fmt: skip


def test_the_budget_covers_the_rounds_and_two_more_and_hardly_anything_beyond() -> None:
    rho = 12 / (2 * plan_of().noise_multiplier ** 2)  # k/2z²; rounding adds less than a thousandth
    needed = least_epsilon(rho, 100**-1.1)
    assert needed <= budget_for(plan_of(), VALUES, 10, 100) <= 1.01 * needed + 1


def test_a_large_group_with_noise_as_large_as_what_one_phone_gives_costs_what_one_release_does() -> None:
    usual, _same = elsewhere(plan_of(), VALUES, 10, 3)
    assert (usual.members, usual.noise_multiplier) == (1000, 1.0)
    assert usual.epsilon == pytest.approx(least_epsilon(0.5, usual.target_delta), rel=0.01)
    assert usual.target_delta == pytest.approx(1e6**-1.1)


def test_a_large_group_with_as_much_noise_in_the_model_hides_far_better() -> None:
    plan, (usual, same) = plan_of(), elsewhere(plan_of(), VALUES, 10, 3)
    here = plan.noise_multiplier * math.sqrt(21 / (15 - 2)) / (math.sqrt(3) * 21)
    there = same.noise_multiplier * math.sqrt(1000 / (715 - 100)) / 1000
    assert there == pytest.approx(here, rel=0.01)
    assert same.epsilon == pytest.approx(least_epsilon(1 / (2 * same.noise_multiplier**2), same.target_delta), rel=0.01)
    assert same.epsilon < usual.epsilon / 5


def test_without_noise_there_is_no_figure() -> None:
    claim = claim_of(plan_of(Privacy.NONE), VALUES, 10, 3, None)
    assert claim.mode == "none"
    assert claim.epsilon_coordinator is claim.epsilon_recipients is claim.target_delta is None
    assert not claim.elsewhere
    assert not claim.sentences
