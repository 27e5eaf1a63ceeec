"""Distributed and correlated: each mechanism's cost against its own definition."""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Final

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.core.privacy import blt
from coordinator.core.privacy.blt import Blt, fitted
from coordinator.core.privacy.central import SumNoise
from coordinator.core.privacy.conversions import Values
from coordinator.core.privacy.correlated import (
    Integers,
    correlated_rho,
    independent_column,
    inverse_column,
    next_on_grid,
    noise_for,
    on_grid,
    prefix_error,
    restarted_rho,
    root_column,
    sensitivity,
)
from coordinator.core.privacy.distributed import GroupNoise, closeness, excess, local_noise, recipients_rho, sum_rho
from coordinator.core.privacy.participation import (
    Barred,
    Participation,
    ParticipationLimits,
    barred,
    composed_rho,
    dearest,
)
from coordinator.core.privacy.refusals import InvalidLimits
from coordinator.core.privacy.zcdp import example_rho
from edge_runtime.privacy import clip
from edge_runtime.protocol.secure_sum import rotation
from edge_runtime.protocol.secure_sum.lanes import Lanes, LaneVector, sum_lanes
from tests.coordinator.privacy import oracle

ROUNDS, SEPARATION = 60, 20
EVERY_BLT: Final = tuple(fitted(ROUNDS, SEPARATION, buffers) for buffers in (1, 2, 3))


@pytest.mark.parametrize(("sigma", "devices"), [(0.5, 3), (0.7, 4), (1.0, 3), (2.0, 3)])
def test_the_sum_of_discrete_gaussians_costs_no_more_than_is_claimed(sigma: float, devices: int) -> None:
    reach = int(14 * sigma) + 12
    one = law = oracle.discrete_gaussian(sigma, reach)
    for _device in range(devices - 1):
        law = oracle.added(law, one)
    for shift, order in itertools.product((1, 2), (1.5, 2.0, 5.0)):
        claimed = sum_rho(sigma, devices, shift, 1)
        assert oracle.renyi(law, shift, order, reach) <= claimed * order


def test_few_steps_on_the_grid_cost_privacy_and_four_cost_none() -> None:
    assert closeness(1.0, 100) > 1e-4
    assert closeness(4.0, 1000) * 1e9 < 1e-50
    assert sum_rho(1.0, 100, 10.0, 1_000_000) > 1.5 * sum_rho(1.0, 100, 10.0, 1)
    assert sum_rho(0.4, 100, 10.0, 1) == math.inf


def lanes(**changes: object) -> Lanes:
    plain = Lanes(bits=24, clipping_norm=1.0, max_participants=100, noise_multiplier=1.0, honest_survivors=70)
    return dataclasses.replace(plain, **changes)  # type: ignore[arg-type]


def test_a_groups_claim_is_that_of_its_noise_multiplier_and_a_little_rounding() -> None:
    noise = GroupNoise.of(lanes(), 1_000_000)
    assert 0.5 < noise.rho < 0.5001
    assert noise.multiplier == pytest.approx(1.0, rel=1e-4)
    assert GroupNoise.of(lanes(bits=20, rotation_seed=bytes(32)), 1_000_000).rho > noise.rho


@pytest.mark.parametrize("devices", [True, False], ids=["noise of devices", "noise of the coordinator"])
def test_no_report_is_longer_than_what_is_charged_for_it(devices: bool) -> None:
    """On a fine grid float32 leaves a clipped delta some steps above its norm."""
    rng, noise = np.random.default_rng(1), 0.5 if devices else 0.0
    fine = lanes(bits=32, max_participants=3, honest_survivors=2, noise_multiplier=noise, bounded=True)
    charged = GroupNoise.of(fine, 16) if devices else SumNoise.of(fine, 16, 0.01)
    drawn = (clip(rng.normal(size=16).astype(np.float32), 0.1) * np.float32(10) for _ in range(500))
    longest = max(float(np.linalg.norm(fine.encode(delta, rng).view(np.int32).astype(float))) for delta in drawn)
    assert fine.rounded_norm(16) < longest <= charged.sensitivity


def test_whoever_adds_noise_the_longest_report_that_passes_is_charged() -> None:
    """Squared norms of a millionth more pass the codec."""
    for bits in (24, 32):
        own = lanes(bits=bits, noise_multiplier=0.0, bounded=True)
        longest = own.rounded_norm(1000) * (1 + 1e-6) ** 0.5
        noise = SumNoise.of(own, 1000, 1.0)
        coarser = noise.step * own.scale
        rounded = 1000**0.5 if coarser > 1.5 else 0.0
        assert (noise.sensitivity - rounded) * coarser == pytest.approx(longest, rel=1e-12)
        assert GroupNoise.of(lanes(bits=bits), 1000).sensitivity >= lanes(bits=bits).rounded_norm(1000) * (1 + 4.9e-7)


def test_a_few_phones_of_full_norm_make_a_rotated_sum_wrap_around() -> None:
    """Why noise is never added to one afterwards: one report more then moves the sum by as much as all hundred could.

    Each report is made by the codec, of a delta within the norm, and passes as one of an honest device.
    """
    narrow = lanes(bits=20, noise_multiplier=0.0, rotation_seed=bytes(32), bounded=True)
    rng, place = np.random.default_rng(1), np.zeros(4096)
    place[7] = 1.0
    aligned = rotation.hadamard(place) * rotation.signs(narrow.rotation_seed)(4096)

    def report(length: float) -> LaneVector:
        made = narrow.encode((length * aligned).astype(np.float32), rng)
        narrow.check_plain(made)
        return made

    reports = [report(0.999) for _phone in range(14)]
    room = (1 << 19) - 1 - int(sum_lanes(reports)[7])
    reports.append(report((room - 60) / narrow.scale))
    without, there = (float(narrow.open_sum(sum_lanes([*reports, report(one)]), 4096) @ aligned) for one in (0.0, 0.5))
    assert abs(there - without) > 25, "half a clipping norm moved the sum by that many"


@settings(deadline=None)
@given(survivors=st.integers(56, 100), corrupt=st.integers(0, 10))
def test_dropped_corrupt_and_silent_devices_never_weaken_the_claim(survivors: int, corrupt: int) -> None:
    """Whoever is left of 100 with m = 56 and A = 10, the honest noise of an opened sum is at least z C."""
    each = local_noise(1.0, 1.0, fewest_survivors=56, corrupt=10)
    assert each * math.sqrt(survivors - corrupt) >= 1.0 - 1e-12
    assert excess(survivors, 56, 10) >= each * math.sqrt(survivors - corrupt) - 1e-12


def test_noise_for_all_that_were_asked_would_be_too_little_once_some_are_gone() -> None:
    each = local_noise(1.0, 1.0, fewest_survivors=100, corrupt=0)  # the mistake: calibrated to who was asked
    assert each * math.sqrt(80 - 10) < 0.84
    with pytest.raises(ValueError, match="honest"):
        local_noise(1.0, 1.0, fewest_survivors=10, corrupt=10)


def test_more_groups_help_against_recipients_only() -> None:
    assert recipients_rho(0.5, 25) == pytest.approx(0.5 / 25)


@pytest.mark.parametrize("column", [root_column(ROUNDS), independent_column(ROUNDS), EVERY_BLT[1].column(ROUNDS)])
def test_no_pattern_of_participation_is_more_sensitive_than_is_claimed(column: Values) -> None:
    dense = oracle.toeplitz(column)
    claimed = sensitivity(column, SEPARATION)
    rng = np.random.default_rng(0)
    for _pattern in range(300):
        times = [int(rng.integers(0, SEPARATION))]
        while times[-1] + SEPARATION < ROUNDS:
            times.append(times[-1] + SEPARATION + int(rng.integers(0, 5)))
        gave = rng.normal(size=(ROUNDS, 3)) * 0
        for time in (time for time in times if time < ROUNDS):
            one = rng.normal(size=3) + 2
            gave[time] = one / np.linalg.norm(one)
        assert np.linalg.norm(dense @ gave) <= claimed + 1e-9


def test_sensitivity_is_reached_by_the_first_rounds() -> None:
    dense, gave = oracle.toeplitz(root_column(ROUNDS)), np.zeros(ROUNDS)
    gave[::SEPARATION] = 1
    assert np.linalg.norm(dense @ gave) == pytest.approx(sensitivity(root_column(ROUNDS), SEPARATION))
    assert sensitivity(root_column(ROUNDS), SEPARATION, limit=1) == pytest.approx(np.linalg.norm(root_column(ROUNDS)))


def test_the_root_is_the_root_of_prefix_sums() -> None:
    dense = oracle.toeplitz(root_column(ROUNDS))
    assert np.allclose(dense @ dense, np.tril(np.ones((ROUNDS, ROUNDS))))
    assert np.allclose(oracle.toeplitz(inverse_column(root_column(ROUNDS))) @ dense, np.eye(ROUNDS))


@pytest.mark.parametrize("factor", EVERY_BLT)
def test_noise_from_buffers_cancels_as_the_matrix_says(factor: Blt) -> None:
    dense = np.linalg.inv(oracle.toeplitz(factor.column(ROUNDS)))
    fresh, buffers, made = np.eye(ROUNDS), factor.begin(ROUNDS), []
    for row in fresh:
        noise, buffers = factor.step(buffers, row)
        made.append(noise)
    assert np.allclose(np.array(made), dense)
    assert np.allclose(blt._quick_noise_column(factor, ROUNDS), factor.noise_column(ROUNDS))
    assert prefix_error(factor.noise_column(ROUNDS), 1.0) == pytest.approx(np.linalg.norm(np.array(made).sum(axis=0)))


def test_a_few_buffers_do_better_than_the_root_at_the_designs_setting() -> None:
    factor, column = fitted(1000, 100), root_column(1000)
    root = prefix_error(inverse_column(column), noise_for(1.0, column, 100))
    ours = prefix_error(factor.noise_column(1000), noise_for(1.0, factor.column(1000), 100))
    assert 10 < ours < root
    assert correlated_rho(factor.column(1000), 100, noise_for(1.0, factor.column(1000), 100)) == pytest.approx(1.0)


def test_fitting_is_the_same_each_time() -> None:
    blt.fitted.cache_clear()
    assert fitted(ROUNDS, SEPARATION, 2) == EVERY_BLT[1]


def test_noise_on_the_grid_is_a_function_of_what_is_private() -> None:
    """r_t, made from sums and noise, is what rounding C x + z makes of it: exactly, in integers."""
    bits, rng = 8, np.random.default_rng(5)
    column = on_grid(root_column(ROUNDS), bits)
    assert sensitivity(column / 2**bits, SEPARATION) <= sensitivity(root_column(ROUNDS), SEPARATION)
    sums = rng.integers(-(10**6), 10**6, (ROUNDS, 4))
    fresh = np.rint(rng.normal(0, 1e6 * 2**bits, (ROUNDS, 4))).astype(np.int64)
    noises, released = list[Integers](), list[Integers]()
    for row in range(ROUNDS):
        noises.append(next_on_grid(column, noises, fresh[row], bits))
        private = sum(column[lag] * sums[row - lag] for lag in range(row + 1)) + fresh[row]
        rest = private - sum(column[lag] * released[row - lag] for lag in range(1, row + 1))
        released.append((rest + 2 ** (bits - 1)) // 2**bits)
        assert (released[-1] == sums[row] + noises[-1]).all()
    made = np.linalg.inv(oracle.toeplitz(column / 2**bits)) @ (fresh / 2**bits)
    assert np.abs(np.array(noises) - made).max() < ROUNDS  # rounding adds steps, of which σ has a million


def test_a_restart_costs_both_stretches() -> None:
    column = root_column(30)
    assert restarted_rho([column, column], SEPARATION, 2.0) == pytest.approx(
        2 * correlated_rho(column, SEPARATION, 2.0)
    )


def test_a_column_that_grows_has_no_known_sensitivity() -> None:
    for column in (np.array([1.0, 1.1]), np.array([1.0, -0.1])):
        with pytest.raises(ValueError, match="does not increase"):
            sensitivity(column, 1)


@pytest.mark.parametrize(
    ("decays", "weights"), [((1.0,), (0.1,)), ((0.5,), (1.1,)), ((0.5,), (-0.1,)), ((), ()), ((0.5,), (0.1, 0.1))]
)
def test_a_factor_out_of_range_is_refused(decays: tuple[float, ...], weights: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match=r"decays|weights|buffers"):
        Blt(decays, weights)


@settings(deadline=None)
@given(
    costs=st.lists(st.sampled_from([0.0, 0.1, 0.5, 1.0]), max_size=9),
    separation=st.integers(1, 4),
    most=st.one_of(st.none(), st.integers(1, 4)),
)
def test_the_dearest_rounds_are_the_dearest_of_all_choices(
    costs: list[float], separation: int, most: int | None
) -> None:
    choices = (
        chosen
        for size in range(len(costs) + 1)
        for chosen in itertools.combinations(range(len(costs)), size)
        if all(b - a >= separation for a, b in itertools.pairwise(chosen)) and (most is None or size <= most)
    )
    exact = max((sum(costs[at] for at in chosen) for chosen in choices), default=0.0)
    assert dearest(costs, ParticipationLimits(separation=separation, most=most)) == pytest.approx(exact)


@settings(deadline=None)
@given(rounds=st.integers(1, 40), separation=st.integers(1, 12), most=st.one_of(st.none(), st.integers(1, 9)))
def test_equal_rounds_compose_by_the_rule(rounds: int, separation: int, most: int | None) -> None:
    limits = ParticipationLimits(separation=separation, most=most)
    times = min(rounds, math.ceil(rounds / separation), most or rounds)
    assert composed_rho(0.25, rounds, limits) == dearest([0.25] * rounds, limits) == 0.25 * times


def test_a_device_is_barred_for_the_first_reason_that_holds() -> None:
    limits, past = ParticipationLimits(separation=10, least_gap_s=3600, most=2), [Participation(20, 1000.0)]
    assert barred(past, 29, 1e6, limits) is Barred.TOO_SOON_BY_ROUND
    assert barred(past, 30, 1000.0 + 3599, limits) is Barred.TOO_SOON_BY_CLOCK
    assert barred(past, 30, 1000.0 + 3600, limits) is None
    assert barred(past, 19, 1e6, limits) is Barred.TOO_SOON_BY_ROUND  # a header from the past
    assert barred([*past, Participation(30, 5000.0)], 90, 1e6, limits) is Barred.TOO_OFTEN


@settings(deadline=None)
@given(st.lists(st.integers(0, 60), max_size=30), st.integers(1, 9), st.one_of(st.none(), st.integers(1, 5)))
def test_a_device_that_keeps_its_limits_costs_at_most_what_is_charged(
    rounds: list[int], separation: int, most: int | None
) -> None:
    limits, past = ParticipationLimits(separation=separation, most=most), list[Participation]()
    for number in sorted(rounds):
        if barred(past, number, float(number), limits) is None:
            past.append(Participation(number, float(number)))
    assert 0.5 * len(past) <= composed_rho(0.5, 61, limits)


@pytest.mark.parametrize("wrong", [{"separation": 0}, {"least_gap_s": -1.0}, {"least_gap_s": math.inf}, {"most": 0}])
def test_limits_out_of_range_name_the_nearest(wrong: dict[str, float]) -> None:
    with pytest.raises(InvalidLimits):
        ParticipationLimits(**wrong)  # type: ignore[arg-type]


def test_each_example_is_in_one_batch_of_an_epoch() -> None:
    assert example_rho(2.0, epochs=3, participations=4) == pytest.approx(12 / 8)
