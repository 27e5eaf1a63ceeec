"""Our own accountants against privacy by definition."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.core.privacy import skellam
from coordinator.core.privacy.conversions import (
    curve_to_delta,
    curve_to_epsilon,
    epsilon_to_rho,
    rho_to_delta,
    rho_to_epsilon,
)
from coordinator.core.privacy.events import ConcentratedEvent, Event, GaussianEvent, SkellamEvent
from coordinator.core.privacy.gaussian import exact_delta, exact_epsilon, least_noise
from coordinator.core.privacy.rdp import ORDERS, RdpAccountant, Running, sampled_gaussian
from coordinator.core.privacy.zcdp import ZcdpAccountant, gaussian_rho
from tests.coordinator.privacy import oracle

RHOS = st.floats(1e-3, 20)
DELTAS = st.floats(1e-12, 1e-2)


@settings(deadline=None, max_examples=40)
@given(rho=RHOS, delta=DELTAS)
def test_epsilon_and_delta_are_inverse(rho: float, delta: float) -> None:
    epsilon = rho_to_epsilon(rho, delta)
    assert rho_to_delta(rho, epsilon) <= delta * (1 + 1e-9)
    if epsilon > 0:
        assert rho_to_delta(rho, epsilon * 0.999) > delta


@settings(deadline=None, max_examples=40)
@given(rho=RHOS, delta=DELTAS)
def test_a_budget_in_epsilon_becomes_a_rho_that_keeps_it(rho: float, delta: float) -> None:
    epsilon = rho_to_epsilon(rho, delta)
    if epsilon > 0:
        assert epsilon_to_rho(epsilon, delta) == pytest.approx(rho, rel=1e-6)
        assert rho_to_epsilon(epsilon_to_rho(epsilon, delta), delta) <= epsilon * (1 + 1e-12)


@settings(deadline=None, max_examples=40)
@given(rho=RHOS, delta=DELTAS)
def test_the_conversion_lies_between_the_exact_curve_and_the_textbook(rho: float, delta: float) -> None:
    epsilon = rho_to_epsilon(rho, delta)
    assert exact_epsilon(math.sqrt(2 * rho), delta) <= epsilon * (1 + 1e-9)
    assert epsilon <= rho + 2 * math.sqrt(rho * math.log(1 / delta)) + 1e-12


@pytest.mark.parametrize(("rho", "epsilon"), [(0.2, 3.0), (0.5, 5.0), (2.0, 1.0), (0.01, 0.7)])
def test_the_conversion_is_the_minimum_over_orders(rho: float, epsilon: float) -> None:
    exact = oracle.least_over_orders(
        lambda a: mpmath.exp((a - 1) * (a * rho - epsilon)) / (a - 1) * (1 - 1 / a) ** a,
    )
    assert rho_to_delta(rho, epsilon) == pytest.approx(min(exact, 1.0), rel=1e-4)


def curve_of_the_gaussian(mu: float, epsilon: float) -> tuple[mpmath.mpf, mpmath.mpf]:
    """δ by its definition, and the first of its two terms, with 50 digits."""
    with oracle.precisely():
        at, half = mpmath.mpf(epsilon) / mu, mpmath.mpf(mu) / 2
        first = mpmath.ncdf(half - at)
        return first - mpmath.exp(epsilon) * mpmath.ncdf(-half - at), first


def test_no_delta_of_a_gaussian_is_below_its_definition() -> None:
    rng = np.random.default_rng(0)
    for mu in 10 ** rng.uniform(-3, 3, 400):
        epsilon = max(0.0, mu * (mu / 2 + rng.uniform(-3, 37)))
        delta, first = curve_of_the_gaussian(mu, epsilon)
        if delta > 1e-300:
            assert delta <= exact_delta(mu, epsilon) <= delta + 1e-9 * first, (mu, epsilon)


@pytest.mark.parametrize(("mu", "delta"), [(37, 1e-6), (40, 1e-3), (60, 1e-2), (100, 3e-2), (1e-3, 1e-10), (1, 1e-5)])
def test_what_is_said_of_a_gaussian_holds(mu: float, delta: float) -> None:
    assert curve_of_the_gaussian(mu, exact_epsilon(mu, delta))[0] <= delta
    assert curve_of_the_gaussian(mu, exact_epsilon(mu, delta) * (1 - 1e-9))[0] > delta


def test_nothing_released_costs_nothing() -> None:
    assert rho_to_epsilon(0.0, 1e-6) == rho_to_delta(0.0, 0.0) == exact_epsilon(0.0, 1e-6) == 0.0
    assert ZcdpAccountant().epsilon([], 1e-6) == RdpAccountant().epsilon([], 1e-6) == 0.0


@pytest.mark.parametrize("sigma", [1.0, 2.0, 5.0])
@pytest.mark.parametrize("shift", [1, 3])
def test_a_discrete_gaussian_is_as_concentrated_as_a_continuous_one(sigma: float, shift: int) -> None:
    law = oracle.discrete_gaussian(sigma, int(40 * sigma) + 80)
    rho = gaussian_rho(sigma / shift)
    for order in (1.5, 2.0, 8.0):
        assert oracle.renyi(law, shift, order, int(30 * sigma) + 40) <= rho * order * (1 + 1e-9)


@pytest.mark.parametrize("sigma", [1.0, 3.0, 10.0])
def test_claims_are_above_the_exact_curve_of_the_discrete_gaussian(sigma: float) -> None:
    shift = int(2 * sigma)
    law = oracle.discrete_gaussian(sigma, int(20 * sigma) + 10)
    for epsilon in (0.5, 2.0, 6.0):
        exact = oracle.hockey_stick(law, shift, epsilon)
        assert exact <= ZcdpAccountant().delta([GaussianEvent(sigma / shift)], epsilon)


def test_on_a_fine_grid_the_continuous_curve_is_the_discrete_one() -> None:
    sigma, shift = 400.0, 400
    law = oracle.discrete_gaussian(sigma, 4000)
    for epsilon in (0.5, 1.5, 3.0):
        assert oracle.hockey_stick(law, shift, epsilon) == pytest.approx(exact_delta(1.0, epsilon), rel=0.01)


@pytest.mark.parametrize(("noise", "rate"), [(1.0, 0.01), (0.6, 0.3), (4.0, 0.5), (0.3, 0.001)])
def test_the_curve_of_a_sampled_gaussian_is_the_exact_one_at_whole_orders(noise: float, rate: float) -> None:
    curve = dict(zip(ORDERS.tolist(), sampled_gaussian(noise, rate).tolist(), strict=True))
    for order in (2, 3, 10, 32, 64):
        exact = oracle.sampled_gaussian_renyi(noise, rate, order)
        assert exact <= curve[order] <= exact * (1 + 1e-6) + 1e-12


@pytest.mark.parametrize("order", [1.1, 1.5, 4.3])
def test_the_curve_of_a_sampled_gaussian_is_the_exact_one_between_them(order: float) -> None:
    at = int(np.argmin(np.abs(ORDERS - order)))
    exact = oracle.sampled_gaussian_renyi_by_integral(0.8, 0.05, float(ORDERS[at]))
    assert sampled_gaussian(0.8, 0.05)[at] == pytest.approx(exact, rel=1e-6)


def test_orders_that_cannot_be_integrated_claim_nothing() -> None:
    curve = sampled_gaussian(0.01, 0.5)
    assert np.isinf(curve).any()
    assert math.isfinite(RdpAccountant().epsilon([GaussianEvent(0.01, 0.5)], 1e-6))


def test_two_accountants_agree_where_both_know() -> None:
    events: list[Event] = [GaussianEvent(2.0, count=3), ConcentratedEvent(0.1)]
    assert RdpAccountant().epsilon(events, 1e-6) == pytest.approx(ZcdpAccountant().epsilon(events, 1e-6), rel=0.001)
    assert RdpAccountant().delta(events, 5.0) == pytest.approx(ZcdpAccountant().delta(events, 5.0), rel=0.01)


@settings(deadline=None, max_examples=40)
@given(rates=st.lists(st.floats(0.001, 0.2), min_size=1, max_size=5))
def test_a_running_total_says_what_all_events_say(rates: list[float]) -> None:
    running = Running()
    for rate in rates:
        running = running.plus(GaussianEvent(1.0, rate))
    everything: list[Event] = [GaussianEvent(1.0, rate) for rate in rates]
    assert running.epsilon(1e-6) == pytest.approx(RdpAccountant().epsilon(everything, 1e-6), rel=1e-12)


def test_more_sampling_more_rounds_and_less_noise_cost_more() -> None:
    def epsilon(noise: float, rate: float, count: int) -> float:
        return RdpAccountant().epsilon([GaussianEvent(noise, rate, count)], 1e-6)

    base = epsilon(1.0, 0.01, 1000)
    assert min(epsilon(0.9, 0.01, 1000), epsilon(1.0, 0.02, 1000), epsilon(1.0, 0.01, 2000)) > base


def test_skellam_noise_costs_hardly_more_than_a_discrete_gaussian_where_it_is_wide() -> None:
    wide = SkellamEvent(variance=1e6, sensitivity=1e3, sensitivity_l1=3e4)
    ours = ConcentratedEvent(0.5)
    ratio = RdpAccountant().epsilon([wide], 1e-6) / RdpAccountant().epsilon([ours], 1e-6)
    assert 1 < ratio < 1.02


@pytest.mark.parametrize("variance", [4.0, 16.0])
def test_the_skellam_bound_is_above_the_exact_divergence(variance: float) -> None:
    reach = int(12 * math.sqrt(variance)) + 20
    with oracle.precisely():
        law = {x: mpmath.exp(-variance) * mpmath.besseli(abs(x), variance) for x in range(-reach, reach + 1)}
    bound = skellam.curve(np.array([2.0, 2.5, 4.0]), variance, 1.0, 1.0)
    for order, above in zip((2.0, 2.5, 4.0), bound, strict=True):
        assert oracle.renyi(law, 1, order, reach - 5) <= above


def test_the_skellam_bound_is_the_theorems_and_a_chord_between_whole_orders() -> None:
    two, between, three, far = skellam.curve(np.array([2.0, 2.5, 3.0, 20.0]), 50.0, 3.0, 5.0)
    assert two == pytest.approx(2 * 9 / 100 + (3 * 9 + 6 * 5) / (4 * 2500))
    assert far == pytest.approx(20 * 9 / 100 + (39 * 9 + 30) / (4 * 2500))
    assert 1.5 * between == pytest.approx((1 * two + 2 * three) / 2)
    assert skellam.curve(np.array([400.0]), 50.0, 3.0, 5.0)[0] == pytest.approx(400 * 9 / 100 + 3 * 5 / 100)


def test_curves_convert_both_ways() -> None:
    curve = 0.5 * ORDERS
    epsilon = curve_to_epsilon(ORDERS, curve, 1e-6)
    assert curve_to_delta(ORDERS, curve, epsilon) == pytest.approx(1e-6, rel=1e-6)


def test_the_least_noise_of_one_release_keeps_its_claim() -> None:
    noise = least_noise(2.4, 1e-5)
    assert exact_epsilon(1 / noise, 1e-5) == pytest.approx(2.4, rel=1e-6)
    with pytest.raises(ValueError, match="above 0"):
        least_noise(0.0, 1e-5)


@pytest.mark.parametrize("delta", [0.0, 1.0, -1.0, math.nan])
def test_delta_is_a_probability(delta: float) -> None:
    with pytest.raises(ValueError, match="above 0 and below 1"):
        rho_to_epsilon(1.0, delta)


@pytest.mark.parametrize(("noise", "rate", "count"), [(0.0, 1.0, 1), (math.nan, 1.0, 1), (1.0, 0.0, 1), (1.0, 1.0, 0)])
def test_impossible_events_are_bugs(noise: float, rate: float, count: int) -> None:
    with pytest.raises(ValueError, match="an event has"):
        GaussianEvent(noise, rate, count)
    with pytest.raises(ValueError, match="finite"):
        ConcentratedEvent(-1.0)
