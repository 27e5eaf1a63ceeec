"""Under a norm that adapts: a delta clipped to the round's norm, and behind it whether it was within, with noise."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from edge_runtime.privacy import private_report
from edge_runtime.protocol.claims import AdaptiveNorm, Privacy
from edge_runtime.protocol.counted import open_sum
from edge_runtime.protocol.errors import InvalidGroup, InvalidPlan
from edge_runtime.protocol.noise import NoiseSource
from edge_runtime.protocol.plan import Kind, MetricRange, Plan, Summing
from edge_runtime.protocol.report import lanes_of_report
from edge_runtime.protocol.secure_sum.lanes import LaneVector, sum_lanes
from edge_runtime.protocol.secure_sum.transcript import Floors
from edge_runtime.session.terms import authority_for
from tests.edge_runtime.protocol.secure_sum.groups import AUTHORITY, party, terms_of
from tests.vectors.make import PLAN

PARTICIPATION = "ab" * 16
ADAPTIVE = AdaptiveNorm(quantile=0.5, smallest=0.01, largest=100.0, rate=0.2, count_noise=5.0)
VALUES = 6
FALSE_ALARM = 1e-9
DRAWS = 4000


def central(**more: Any) -> Plan:
    claim = {"version": 5, "privacy": Privacy.CENTRAL, "noise_multiplier": 1.0, "adaptive": ADAPTIVE}
    return dataclasses.replace(PLAN, **{**claim, **more})


def distributed(**more: Any) -> Plan:
    secure = {
        "summing": Summing.SECURE,
        "privacy": Privacy.DISTRIBUTED,
        "lane_bits": 24,
        "max_participants": 100,
        "expected_participants": 100,
        "goal": 100,
        "fewest_members": 64,
        "survivors": 80,
    }
    return central(**{**secure, **more})


def lanes_of(
    plan: Plan, delta: Any, norm: float | None, seed: int = 1, layers: tuple[int, ...] = (), *, zeroed: bool = False
) -> LaneVector:
    codec, values = plan.lanes(), delta.size + plan.counts
    noise = NoiseSource(seed.to_bytes(32, "big"))
    report = private_report(
        PARTICIPATION,
        delta,
        plan,
        np.random.default_rng(seed),
        layers,
        clipping_norm=norm,
        zeroed=zeroed,
        simulated_noise=noise,
    )
    return codec.unpack(lanes_of_report(report, PARTICIPATION, codec, values), values)


def of_norm(length: float) -> Any:
    return np.full(VALUES, length / math.sqrt(VALUES), np.float32)


@given(norm=st.floats(0.02, 90), length=st.floats(0.001, 1000), quantile=st.floats(0.05, 0.95), seed=st.integers(0, 99))
@settings(max_examples=150, deadline=None)
def test_a_report_has_the_delta_at_the_rounds_norm_and_whether_it_was_within(
    norm: float, length: float, quantile: float, seed: int
) -> None:
    plan = central(adaptive=dataclasses.replace(ADAPTIVE, quantile=quantile))
    delta = of_norm(length)
    exact = float(np.linalg.norm(delta.astype(float)))
    assume(abs(exact / norm - 1) > 1e-6)  # nearer, float32 cannot tell
    found = open_sum(plan, lanes_of(plan, delta, norm, seed), VALUES, norm)
    expected = delta.astype(float) * min(1.0, norm / exact)
    assert found.delta == pytest.approx(expected, abs=2e-6 * norm)
    assert found.above == pytest.approx((exact <= norm) - quantile, abs=1e-6)


@pytest.mark.parametrize("came", [1, 3, 4])
def test_at_the_quantile_counts_sum_to_zero_however_many_came(came: int) -> None:
    plan = central(adaptive=dataclasses.replace(ADAPTIVE, quantile=0.75))
    lengths = [0.5, 0.5, 0.5, 2.0] * came
    total = sum_lanes(lanes_of(plan, of_norm(one), 1.0, number) for number, one in enumerate(lengths))
    assert open_sum(plan, total, VALUES, 1.0).above == pytest.approx(0, abs=1e-4)


def test_with_layers_a_delta_is_within_when_each_of_them_is() -> None:
    plan = central(layer_shares=(3.0, 1.0))
    for second, within in ((0.4, True), (0.6, False)):
        delta = np.array([0.5, 0, 0, second, 0, 0], np.float32)
        found = open_sum(plan, lanes_of(plan, delta, 1.0, layers=(3, 3)), VALUES, 1.0)
        assert found.above == pytest.approx(0.5 if within else -0.5, abs=1e-6)


def test_integers_are_the_same_under_every_norm_so_that_every_norm_costs_the_same() -> None:
    for plan in (central(), distributed()):
        base = plan.lanes()
        for norm in (0.01, 0.3, 7.7, 100.0):
            lanes = plan.lanes(norm)
            assert lanes.scale * norm == pytest.approx(base.scale * base.clipping_norm, rel=1e-12)
            assert lanes.noise * lanes.scale == pytest.approx(base.noise * base.scale, rel=1e-12)
            assert lanes.rounded_norm(VALUES) == pytest.approx(base.rounded_norm(VALUES), rel=1e-12)
            assert abs(lanes.bound - base.bound) <= 1


def test_the_count_has_its_own_noise_and_the_zero_lanes_have_none() -> None:
    """σ_b/√(m - A) devices, far above four steps; the delta's is that of z_Δ."""
    plan, norm = distributed(), 0.3
    counts = plan.count_lanes()
    assert counts is not None
    assert counts.noise == pytest.approx(5.0 / math.sqrt(70))
    assert counts.noise * counts.scale >= 4
    zeros = np.zeros(VALUES, np.float32)
    drawn, of_delta = list[float](), list[float]()
    for seed in range(DRAWS):
        lanes = lanes_of(plan, zeros, norm, seed)
        assert not lanes[-4:].any()
        found = open_sum(plan, lanes, VALUES, norm)
        drawn.append((found.above - 0.5) / counts.noise)
        of_delta.extend(found.delta / (norm * ADAPTIVE.delta_multiplier(1.0) / math.sqrt(70)))
    for of_law in (np.array(drawn), np.array(of_delta)):
        assert stats.kstest(of_law, stats.norm.cdf).pvalue > FALSE_ALARM
        law, squares = stats.chi2(of_law.size), float((of_law**2).sum())
        assert law.ppf(FALSE_ALARM) < squares < law.isf(FALSE_ALARM)
    assert abs(np.corrcoef(drawn, np.reshape(of_delta, (DRAWS, VALUES))[:, 0])[0, 1]) < 6 / math.sqrt(DRAWS)


@given(
    quantile=st.floats(0.02, 0.98),
    noise=st.floats(0.3, 5),
    count=st.floats(10, 400),
)
@settings(deadline=None)
def test_deltas_and_counts_together_cost_what_the_noise_multiplier_says(
    quantile: float, noise: float, count: float
) -> None:
    adaptive = dataclasses.replace(ADAPTIVE, quantile=quantile, count_noise=count)
    most = max(abs(adaptive.given(within=True)), abs(adaptive.given(within=False)))
    together = adaptive.delta_multiplier(noise) ** -2 + (most / count) ** 2
    assert together == pytest.approx(noise**-2)
    assert adaptive.delta_multiplier(noise) > noise


def test_counts_at_the_median_cost_what_the_paper_says() -> None:
    """z_Δ = (z^-2 - (2σ_b)^-2)^-1/2."""
    assert ADAPTIVE.delta_multiplier(1.0) == pytest.approx((1 - 10.0**-2) ** -0.5)


def test_without_the_rounds_norm_no_report_is_made() -> None:
    with pytest.raises(InvalidPlan, match="that of the round is not known"):
        lanes_of(central(), of_norm(1.0), None)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"count_noise": 501.0}, "at most 500"),
        ({"count_noise": 0.0}, "at most 500"),
        ({"quantile": 0.9, "count_noise": 901.0}, "at most 900"),
    ],
)
def test_a_count_whose_noise_no_lane_can_have_is_refused(more: dict[str, float], says: str) -> None:
    with pytest.raises(InvalidPlan, match=says):
        dataclasses.replace(ADAPTIVE, **more)


def test_a_count_that_costs_more_than_all_names_what_would_do() -> None:
    with pytest.raises(InvalidPlan, match=r"raise count_noise above 0\.5"):
        central(adaptive=dataclasses.replace(ADAPTIVE, count_noise=0.4))


def test_devices_that_were_told_other_norms_agree_on_nothing() -> None:
    """A group's context has the scale of its lanes: masks of two norms do not cancel, and no sum of both opens."""
    plan = distributed(
        max_participants=6, expected_participants=6, goal=6, min_reports=1, fewest_members=3, survivors=5
    )
    terms = terms_of(6, survivors=5)
    first, again, other = (
        party(dataclasses.replace(terms, lanes=plan.lanes(norm)), 6).agreement.context for norm in (1.0, 1.0, 1.5)
    )
    assert first == again
    assert first != other


@pytest.mark.parametrize("quantile", [0.1, 0.5, 0.9])
def test_who_gives_zeros_in_place_of_a_delta_counts_neither_way(quantile: float) -> None:
    """So one that gives zeros instead moves the count by no more than its sensitivity, whatever it would have given."""
    plan = central(adaptive=dataclasses.replace(ADAPTIVE, quantile=quantile))
    found = open_sum(plan, lanes_of(plan, of_norm(0.0), 1.0, zeroed=True), VALUES, 1.0)
    assert (found.delta.tolist(), found.above) == ([0.0] * VALUES, 0.0)
    assert open_sum(plan, lanes_of(plan, of_norm(0.0), 1.0), VALUES, 1.0).above == pytest.approx(1 - quantile, abs=1e-6)


def test_the_counts_integers_are_held_to_what_is_charged_for_them() -> None:
    for plan in (central(), distributed()):
        counts = plan.count_lanes()
        assert counts is not None
        assert counts.bounded


def test_a_count_with_less_noise_than_four_steps_is_refused() -> None:
    with pytest.raises(InvalidPlan, match="steps on the grid"):
        distributed(noise_multiplier=1.5e-4, adaptive=dataclasses.replace(ADAPTIVE, count_noise=0.5 * 1.5001e-4))


def test_a_plan_that_measures_has_no_norm_that_adapts() -> None:
    measures = {"kind": Kind.EVALUATE, "metrics": (MetricRange(name="loss", low=0.0, high=1.0),), "max_examples": 8}
    with pytest.raises(InvalidPlan, match="only a plan that trains"):
        central(**measures, clipping_norm=2.0)


@pytest.mark.parametrize("make", [central, distributed])
@pytest.mark.parametrize("more", [{"noise_multiplier": 0.0}, {"noise_multiplier": 1e-200}])
def test_too_little_noise_to_reckon_with_is_refused_by_name(make: Any, more: dict[str, float]) -> None:
    with pytest.raises(InvalidPlan, match="noise_multiplier above 0"):
        make(**more)
    with pytest.raises(InvalidPlan, match="noise_multiplier above 0"):
        make(**more, adaptive=None)
    with pytest.raises(InvalidPlan, match="count_noise of an adaptive norm is above 0"):
        dataclasses.replace(ADAPTIVE, count_noise=1e-200)


def test_an_apps_floor_is_of_the_noise_of_delta_and_count_together() -> None:
    """Counts that take most of z leave deltas much noise: the floor is not met by that."""
    plan = distributed(noise_multiplier=0.3, adaptive=dataclasses.replace(ADAPTIVE, count_noise=0.1501))
    assert plan.lanes().noise_multiplier > 1
    with pytest.raises(InvalidGroup, match="noise is below"):
        authority_for(plan, AUTHORITY.public, Floors(least_noise=1.0))
    assert authority_for(distributed(), AUTHORITY.public, Floors(least_noise=1.0)) == AUTHORITY.public


def test_masked_sums_under_noise_of_the_coordinator_are_not_rotated() -> None:
    with pytest.raises(InvalidPlan, match="24 bits or more"):
        distributed(privacy=Privacy.CENTRAL, adaptive=None, lane_bits=20, rotation_seed=bytes(32))
