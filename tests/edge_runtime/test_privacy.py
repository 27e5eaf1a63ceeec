"""From a delta to the report that leaves, or that a group masks: clipped, rounded, hidden in the plan's noise."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from edge_runtime.privacy import clip_layers, layer_sizes, private_report
from edge_runtime.protocol.errors import InvalidGroup, InvalidPlan
from edge_runtime.protocol.plan import Plan, Privacy, Summing
from edge_runtime.protocol.report import lanes_of_report
from edge_runtime.protocol.secure_sum.lanes import Lanes
from edge_runtime.protocol.secure_sum.transcript import Floors
from edge_runtime.session.terms import authority_for
from tests.edge_runtime.protocol.secure_sum.groups import AUTHORITY, party, run, terms_of
from tests.vectors.make import MANIFEST, PLAN

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


@pytest.mark.parametrize("mode", [Privacy.CENTRAL, Privacy.LOCAL, Privacy.CORRELATED, Privacy.DISTRIBUTED])
def test_every_mode_can_be_summed_securely(mode: Privacy) -> None:
    plan = dataclasses.replace(noisy(1.0), version=5, privacy=mode, separation=2)
    assert authority_for(plan, AUTHORITY.public, Floors()) == AUTHORITY.public


def test_an_app_that_asks_for_noise_on_devices_takes_no_part_where_the_coordinator_adds_it() -> None:
    plan = dataclasses.replace(noisy(1.0), version=5, privacy=Privacy.CENTRAL)
    with pytest.raises(InvalidGroup, match="noise is below"):
        authority_for(plan, AUTHORITY.public, Floors(least_noise=0.5))


def test_a_plan_that_no_group_sums_under_is_refused() -> None:
    with pytest.raises(InvalidGroup, match="no group"):
        authority_for(PLAN, AUTHORITY.public, Floors())


def test_a_plan_with_too_few_survivors_to_hide_a_report_is_refused() -> None:
    with pytest.raises(InvalidGroup, match="survivors"):
        authority_for(dataclasses.replace(noisy(0.0), survivors=12), AUTHORITY.public, Floors())


# --- modes ----------------------------------------------------------------------------------------------------------

FALSE_ALARM = 1e-6
"""Of each test of a law."""


def of_mode(mode: Privacy, noise: float = 2.0, **more: object) -> Plan:
    return dataclasses.replace(PLAN, version=5, privacy=mode, noise_multiplier=noise, **more)  # type: ignore[arg-type]


def has_deviation(draws: Any, sigma: float) -> bool:
    """Whether the draws have that standard deviation, as far as their number tells."""
    law, statistic = stats.chi2(draws.size), float((draws.astype(float) ** 2).sum()) / sigma**2
    return bool(law.ppf(FALSE_ALARM) < statistic < law.isf(FALSE_ALARM))


def plain_lanes(plan: Plan, delta: np.ndarray[tuple[int], np.dtype[np.float32]], seed: int = 1) -> Any:
    codec = plan.lanes()
    report = private_report(PARTICIPATION, delta, plan, np.random.default_rng(seed))
    lanes = codec.unpack(lanes_of_report(report, PARTICIPATION, codec, delta.size), delta.size)
    codec.check_plain(lanes)
    return codec._centred(lanes).astype(np.int64)


def test_a_local_report_has_all_of_the_noise_by_itself_in_plain_sums() -> None:
    plan = of_mode(Privacy.LOCAL)
    lanes, codec = plain_lanes(plan, np.zeros(COUNT, np.float32)), plan.lanes()
    sigma = plan.noise_multiplier * plan.clipping_norm * codec.scale
    assert has_deviation(lanes[:-4], sigma)
    assert not has_deviation(lanes[:-4], 0.95 * sigma), "5 % less would be found"
    assert stats.kstest(lanes[:-4] / sigma, stats.norm.cdf).pvalue > FALSE_ALARM
    assert not lanes[-4:].any()


def test_a_local_report_has_all_of_the_noise_under_secure_sums_too() -> None:
    plan = dataclasses.replace(noisy(1.0), version=5, privacy=Privacy.LOCAL)
    sigma = plan.clipping_norm * plan.lanes().scale
    assert plan.honest_survivors() == 1
    assert has_deviation(lanes_under(plan, np.zeros(COUNT, np.float32))[:-4], sigma)


@pytest.mark.parametrize(
    ("mode", "more"), [(Privacy.CENTRAL, {}), (Privacy.CORRELATED, {"separation": 2}), (Privacy.NONE, {"noise": 0.0})]
)
def test_where_the_coordinator_adds_the_noise_a_device_adds_none(mode: Privacy, more: dict[str, Any]) -> None:
    assert not plain_lanes(of_mode(mode, **more), np.zeros(COUNT, np.float32)).any()


@pytest.mark.parametrize("mode", [Privacy.CENTRAL, Privacy.LOCAL])
@pytest.mark.parametrize("size", [1, 7, 500])
def test_what_a_claim_rests_on_never_exceeds_the_norm_that_is_booked(mode: Privacy, size: int) -> None:
    """Stochastic rounding lengthens many small values; with a claim it is repeated until the length is the booked one.

    Without a claim, as the mutant here, the booked length is exceeded.
    """
    codec = dataclasses.replace(of_mode(mode).lanes(), clipping_norm=1.0, max_participants=1 << 22, bits=32)
    delta = np.full(size, codec.clipping_norm / size**0.5, np.float32)
    largest = codec.rounded_norm(size)

    def longest(of: Lanes) -> float:
        rng = np.random.default_rng(2)
        return max(float(np.linalg.norm(of._centred(of.encode(delta, rng))[:-4])) for _ in range(300))

    assert longest(codec) <= largest * (1 + 1e-6)
    if size == 500 and mode is Privacy.CENTRAL:
        assert longest(dataclasses.replace(codec, bounded=False)) > largest


@pytest.mark.parametrize("mode", [Privacy.DISTRIBUTED, Privacy.LOCAL])
def test_the_sum_of_a_secure_group_has_the_claimed_law_after_unmasking(mode: Privacy) -> None:
    """Real members share, mask and unmask; two of ten are gone. What is left is noise of the survivors, and no mask."""
    size, survivors, parameters = 10, 8, 4000
    plan = dataclasses.replace(
        noisy(2.0), version=5, privacy=mode, max_participants=size, expected_participants=size, goal=size,
        min_reports=1, fewest_members=3, survivors=survivors, corrupt_permille=100,
    )  # fmt: skip
    codec = plan.lanes()
    terms = dataclasses.replace(
        terms_of(size, corrupt_permille=100), lanes=codec, parameters=parameters, survivors=survivors
    )
    group = party(terms, size)
    reports = {
        member: private_report(PARTICIPATION, np.zeros(parameters, np.float32), plan, np.random.default_rng(member))
        for member in group.everybody
    }
    vectors = {
        member: codec.unpack(lanes_of_report(report, PARTICIPATION, codec, parameters), parameters)
        for member, report in reports.items()
    }
    left = group.everybody - {3, 7}
    total = run(group, vectors, sharers=group.everybody, masked=left, confirming=left, revealing=left)
    opened = codec.open_sum(total, parameters) / plan.clipping_norm
    honest = plan.honest_survivors()
    assert honest == (7 if mode is Privacy.DISTRIBUTED else 1)
    claimed = plan.noise_multiplier * (survivors / honest) ** 0.5
    assert claimed >= plan.noise_multiplier, "whoever is gone, and one more left its noise out: the claim holds"
    assert stats.kstest(opened / claimed, stats.norm.cdf).pvalue > FALSE_ALARM
    assert has_deviation(opened, claimed)


# --- layers ---------------------------------------------------------------------------------------------------------

SIZES = (6, 2, 92)
deltas = st.lists(st.floats(-1e3, 1e3, width=32), min_size=100, max_size=100)


@given(values=deltas, shares=st.lists(st.floats(0.01, 100), min_size=3, max_size=3), norm=st.floats(1e-3, 1e3))
@settings(max_examples=100, deadline=None)
def test_clipping_by_layers_holds_each_layer_and_so_the_whole(
    values: list[float], shares: list[float], norm: float
) -> None:
    delta = np.array(values, np.float32)
    clipped = clip_layers(delta, norm, shares, SIZES)
    norms = norm * np.sqrt(np.array(shares) / sum(shares))
    begin = 0
    for size, of_layer in zip(SIZES, norms, strict=True):
        part = clipped[begin : begin + size].astype(float)
        assert np.linalg.norm(part) <= of_layer * (1 + 1e-6)
        if np.linalg.norm(delta[begin : begin + size].astype(float)) <= of_layer:
            assert (part == delta[begin : begin + size]).all()
        begin += size
    assert np.linalg.norm(clipped.astype(float)) <= norm * (1 + 1e-6)


def test_a_report_of_a_plan_with_layers_is_clipped_by_layers() -> None:
    plan = dataclasses.replace(PLAN, version=5, layer_shares=(3.0, 1.0), clipping_norm=2.0)
    codec, delta = plan.lanes(), np.array([30, 40, 0.5, 0], np.float32)
    report = private_report(PARTICIPATION, delta, plan, np.random.default_rng(0), (2, 2))
    found = codec.open_sum(codec.unpack(lanes_of_report(report, PARTICIPATION, codec, 4), 4))
    assert found == pytest.approx([0.6 * 3**0.5, 0.8 * 3**0.5, 0.5, 0], abs=1e-5)


@pytest.mark.parametrize("sizes", [(), (4,), (1, 1, 2)])
def test_layers_that_are_not_the_bundles_are_refused(sizes: tuple[int, ...]) -> None:
    plan = dataclasses.replace(PLAN, version=5, layer_shares=(3.0, 1.0))
    with pytest.raises(InvalidPlan, match="layer_shares for 2 tensors"):
        private_report(PARTICIPATION, np.zeros(4, np.float32), plan, np.random.default_rng(0), sizes)


def test_the_layers_of_a_delta_are_the_shared_tensors() -> None:
    assert layer_sizes(MANIFEST) == (6,)
    assert sum(layer_sizes(MANIFEST)) == MANIFEST.shared_parameters
