"""From a delta to the report that leaves, or that a group masks: clipped, rounded, hidden in the plan's noise."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from edge_runtime.privacy import private_report
from edge_runtime.protocol.errors import InvalidGroup
from edge_runtime.protocol.plan import Plan, Summing
from edge_runtime.protocol.report import lanes_of_report
from edge_runtime.protocol.secure_sum.transcript import Floors
from edge_runtime.session.terms import authority_for
from tests.edge_runtime.protocol.secure_sum.groups import AUTHORITY
from tests.vectors.make import PLAN

PARTICIPATION = "ab" * 16
COUNT = 20_000


def noisy(multiplier: float, bits: int = 24, **more: object) -> Plan:
    return dataclasses.replace(
        PLAN,
        version=4,
        summing=Summing.SECURE,
        lane_bits=bits,
        max_participants=100,
        expected_participants=100,
        goal=100,
        fewest_members=64,
        survivors=80,
        noise_multiplier=multiplier,
        rotation_seed=bytes(range(32)) if bits < 24 else b"",
        **more,  # type: ignore[arg-type]
    )


def lanes_under(
    plan: Plan, delta: np.ndarray[tuple[int], np.dtype[np.float32]]
) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    codec = plan.lanes()
    report = private_report(PARTICIPATION, delta, plan, np.random.default_rng(1))
    lanes = codec.unpack(lanes_of_report(report, PARTICIPATION, codec, delta.size), delta.size).astype(np.int64)
    half = 1 << (plan.lane_bits - 1)
    return (lanes + half) % (2 * half) - half


@pytest.mark.parametrize("bits", [24, 20])
def test_a_report_has_the_plans_noise_and_its_zero_lanes_have_none(bits: int) -> None:
    plan = noisy(1.0, bits)
    lanes = lanes_under(plan, np.zeros(COUNT, np.float32))
    sigma = plan.lanes().noise * plan.lanes().scale
    assert lanes[-4:].tolist() == [0, 0, 0, 0]
    assert lanes[:-4].std() == pytest.approx(sigma, rel=0.05)
    assert abs(lanes[:-4].mean()) < 6 * sigma / COUNT**0.5


def test_noise_is_another_one_each_time_whatever_the_generator_of_the_rounding() -> None:
    plan, delta = noisy(1.0), np.zeros(COUNT, np.float32)
    assert lanes_under(plan, delta).tolist() != lanes_under(plan, delta).tolist()


def test_a_plan_without_noise_has_none() -> None:
    assert not lanes_under(noisy(0.0), np.zeros(COUNT, np.float32)).any()


def test_honest_sums_of_noise_are_what_the_plan_says_of_the_fewest_survivors() -> None:
    """m - A devices together have the noise of the plan: z C in units of the delta."""
    plan = noisy(1.0)
    codec = plan.lanes()
    honest = plan.honest_survivors()
    total = sum(lanes_under(plan, np.zeros(1000, np.float32))[:-4] for _ in range(honest))
    assert np.std(total / codec.scale) == pytest.approx(plan.noise_multiplier * plan.clipping_norm, rel=0.15)


def test_noise_too_fine_for_integers_is_refused_before_training() -> None:
    with pytest.raises(InvalidGroup, match="standard deviation"):
        authority_for(noisy(1e-9), AUTHORITY.public, Floors())


def test_a_plan_that_no_group_sums_under_is_refused() -> None:
    with pytest.raises(InvalidGroup, match="no group"):
        authority_for(PLAN, AUTHORITY.public, Floors())


def test_a_plan_with_too_few_survivors_to_hide_a_report_is_refused() -> None:
    with pytest.raises(InvalidGroup, match="survivors"):
        authority_for(dataclasses.replace(noisy(0.0), survivors=12), AUTHORITY.public, Floors())
