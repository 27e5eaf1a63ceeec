"""The reference values and traps of the design, each within 1 %."""

from __future__ import annotations

import math
from typing import Final

import dp_accounting
import pytest
from dp_accounting.rdp import RdpAccountant as GooglesRdp

from coordinator.accounting import PldAccountant
from coordinator.core.privacy.conversions import rho_to_epsilon
from coordinator.core.privacy.correlated import (
    independent_column,
    inverse_column,
    noise_for,
    prefix_error,
    root_column,
)
from coordinator.core.privacy.distributed import excess, sum_rho
from coordinator.core.privacy.events import Event, GaussianEvent
from coordinator.core.privacy.gaussian import exact_epsilon
from coordinator.core.privacy.rdp import RdpAccountant

DELTA: Final = 1e-6
POPULATION, PARTICIPANTS, ROUNDS = 100_000, 200, 1000
TRAP_DELTA: Final = POPULATION**-1.1
RELATION = dp_accounting.NeighboringRelation


def within(expected: float, relative: float = 0.01) -> object:
    return pytest.approx(expected, rel=relative)


def sampled(rounds: int) -> list[Event]:
    return [GaussianEvent(1.0, 0.01, rounds)]


@pytest.mark.parametrize(("rounds", "epsilon"), [(1000, 2.437), (10_000, 7.414)])
def test_renyi_figures_of_a_sampled_gaussian(rounds: int, epsilon: float) -> None:
    assert RdpAccountant().epsilon(sampled(rounds), DELTA) == within(epsilon, 0.001)


@pytest.mark.parametrize(("rounds", "epsilon"), [(1000, 2.125), (10_000, 6.907)])
def test_pld_figures_of_a_sampled_gaussian(rounds: int, epsilon: float) -> None:
    assert PldAccountant().epsilon(sampled(rounds), DELTA) == within(epsilon, 0.001)


@pytest.mark.parametrize(("rho", "epsilon"), [(1.0, 7.77), (0.5, 5.22), (0.2, 3.13)])
def test_an_unsampled_gaussian_by_its_rho(rho: float, epsilon: float) -> None:
    assert rho_to_epsilon(rho, DELTA) == within(epsilon, 0.001)


def _heuristic_scale(bits: int, devices: int, size: int, deviations: int) -> float:
    """Section 4.4 of arXiv 2102.06387, rotated as a whole: what the design's figures of one release were made with."""
    room = math.sqrt(2 ** (2 * bits) - devices * deviations**2)
    return room / (2 * deviations * math.sqrt(devices**2 / size + 1))


@pytest.mark.parametrize(("size", "bits", "epsilon"), [(2**20, 20, 5.222), (2**23, 16, 5.317), (2**23, 20, 5.223)])
def test_rounding_costs_what_the_width_of_a_lane_leaves(size: int, bits: int, epsilon: float) -> None:
    devices, scale = 100, _heuristic_scale(bits, 100, size, deviations=4)
    rounded = math.sqrt(scale**2 + size / 4 + scale + math.sqrt(size) / 2)
    rho = sum_rho(scale / math.sqrt(devices), devices, rounded, size)
    assert rho_to_epsilon(rho, DELTA) == within(epsilon, 0.001)


def test_dropouts_and_corrupt_devices_are_paid_for_with_a_fifth_more_noise() -> None:
    assert excess(100, 80, 10) == within(1.20)


def test_correlated_noise_is_six_times_smaller_than_independent_noise() -> None:
    rounds, separation = 1000, 100
    for column, error in ((root_column(rounds), 11.7), (independent_column(rounds), 70.7)):
        noise = noise_for(1.0, column, separation)
        assert prefix_error(inverse_column(column), noise) == within(error, 0.001)


def test_poisson_sampling_is_a_strong_assumption() -> None:
    events: list[Event] = [GaussianEvent(1.0, PARTICIPANTS / POPULATION, ROUNDS)]
    assert PldAccountant().epsilon(events, TRAP_DELTA) == within(0.354)


@pytest.mark.parametrize(("booked", "epsilon"), [(1.0, 1.01), (0.5, 7.33)])
def test_replacing_one_of_a_fixed_number_moves_the_sum_by_two_clipping_norms(booked: float, epsilon: float) -> None:
    accountant = GooglesRdp(neighboring_relation=RELATION.REPLACE_ONE)
    gaussian = dp_accounting.GaussianDpEvent(booked)
    accountant.compose(dp_accounting.SampledWithoutReplacementDpEvent(POPULATION, PARTICIPANTS, gaussian), ROUNDS)
    assert accountant.get_epsilon(TRAP_DELTA) == within(epsilon)


def test_dp_accountings_rdp_ignores_the_relation_for_plain_gaussians() -> None:
    figures = []
    for relation in (RELATION.ADD_OR_REMOVE_ONE, RELATION.REPLACE_ONE):
        accountant = GooglesRdp(neighboring_relation=relation)
        accountant.compose(dp_accounting.GaussianDpEvent(1.0))
        figures.append(accountant.get_epsilon(DELTA))
    assert figures[0] == figures[1]
    assert RdpAccountant().epsilon([GaussianEvent(0.5)], DELTA) > 2 * figures[1]  # what replacing one really costs


@pytest.mark.parametrize("rho", [0.05, 0.5, 1.0])
def test_a_claim_is_never_below_the_exact_curve_and_never_far_above(rho: float) -> None:
    exact = exact_epsilon(math.sqrt(2 * rho), DELTA)
    assert exact <= PldAccountant().epsilon([GaussianEvent(1 / math.sqrt(2 * rho))], DELTA) <= exact * 1.001
    assert exact <= rho_to_epsilon(rho, DELTA) <= exact * 1.1
