"""Integer noise has the law that claims are made for: held against a slow exact computation and by statistics.

Statistical tests use fixed keys, so their outcome never changes. A fresh key would fail a right sampler with
probability `FALSE_ALARM` in each.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Final

import mpmath
import numpy as np
import numpy.typing as npt
import pytest
from scipy import stats

from edge_runtime.protocol import noise
from edge_runtime.protocol.errors import InvalidPlan
from edge_runtime.protocol.keys import digest
from edge_runtime.protocol.noise import AliasTable, DiscreteGaussian, Integers, NoiseSource
from edge_runtime.protocol.secure_sum.lanes import ZERO_LANES, Lanes

FALSE_ALARM: Final = 1e-6
DRAWS: Final = 1_000_000
SIGMAS: Final = (0.5, 3.0, 100.0, 300.0, 1e4, 2e5)
DIGITS: Final = 60

Sampler = Callable[[int, NoiseSource], Integers]


def source(name: object) -> NoiseSource:
    return NoiseSource(digest(repr(name).encode()))


def exact_law(sigma: float, beyond: int = 14) -> dict[int, mpmath.mpf]:
    """The probabilities, by their definition, with 60 digits."""
    with mpmath.workdps(DIGITS):
        reach = int(beyond * sigma) + 2
        weights = [mpmath.exp(-(mpmath.mpf(x) ** 2) / (2 * mpmath.mpf(sigma) ** 2)) for x in range(reach)]
        total = 2 * mpmath.fsum(weights) - weights[0]
        return {x: weights[abs(x)] / total for x in range(-reach + 1, reach)}


def variation(found: dict[int, mpmath.mpf], sigma: float) -> float:
    """Total variation between a law and the exact one."""
    exact = exact_law(sigma)
    with mpmath.workdps(DIGITS):
        return float(mpmath.fsum(abs(found.get(x, 0) - exact.get(x, 0)) for x in {*found, *exact}) / 2)


def table_law(table: AliasTable) -> dict[int, mpmath.mpf]:
    with mpmath.workdps(DIGITS):
        return {value: mpmath.mpf(weight) / 2**128 for value, weight in table.law().items()}


def composed_law(sigma: float, *, both_zeros: bool = False) -> dict[int, mpmath.mpf]:
    """The law of ±(k x + y) with its coin, summed over everything that can be drawn."""
    step = 1 << noise.coarse_steps_log2(sigma)
    found: dict[int, mpmath.mpf] = {}
    with mpmath.workdps(DIGITS):
        for (x, weight), y in itertools.product(noise._half_table(sigma / step).law().items(), range(step)):
            kept = weight * mpmath.exp(-mpmath.mpf(y * (y + 2 * step * x)) / (2 * mpmath.mpf(sigma) ** 2))
            value = step * x + y
            for signed in (value, -value) if value or both_zeros else (value,):
                found[signed] = found.get(signed, mpmath.mpf(0)) + kept
        total = mpmath.fsum(found.values())
        return {value: weight / total for value, weight in found.items()}


def cells(sigma: float) -> npt.NDArray[np.int64]:
    """Last values of cells: each integer for small σ, with zero a cell of its own, and wide ones for large σ."""
    if sigma <= 100:
        reach = int(4 * sigma)
        return np.arange(-reach, reach + 1)
    wide = np.rint(stats.norm.ppf(np.linspace(0, 1, 202)[1:-1]) * sigma).astype(np.int64)
    edges: Integers = np.unique(np.concatenate((wide, [-1, 0])))
    return edges


def law_p_value(draws: Integers, sigma: float) -> float:
    """χ² of draws against the exact law."""
    edges = cells(sigma)
    with np.errstate(under="ignore"):
        reach = int(14 * sigma) + 2
        weights = np.exp(-(np.arange(-reach, reach + 1, dtype=np.float64) ** 2) / (2 * sigma**2))
    below = np.cumsum(weights)[edges + reach] / weights.sum()
    expected = np.diff(below, prepend=0.0, append=1.0) * draws.size
    seen = np.bincount(np.searchsorted(edges, draws), minlength=expected.size)
    enough = expected >= 5
    statistic = float(((seen - expected) ** 2 / expected)[enough].sum())
    return float(stats.chi2.sf(statistic, int(enough.sum()) - 1))


def variance_ratio(draws: Integers, sigma: float) -> float:
    exact = sum(float(p) * x * x for x, p in exact_law(sigma).items()) if sigma < 5 else sigma**2
    return float(np.mean(draws.astype(np.float64) ** 2)) / exact


def accepted(draws: Integers, sigma: float) -> bool:
    return law_p_value(draws, sigma) > FALSE_ALARM and abs(variance_ratio(draws, sigma) - 1) < 0.005


@pytest.mark.parametrize("sigma", [0.0625, 0.3, 1.0, 17.3, 256.0])
def test_a_table_differs_from_the_exact_law_by_less_than_is_claimed(sigma: float) -> None:
    assert variation(table_law(noise._table(sigma)), sigma) < noise.DRAW_SLACK


@pytest.mark.parametrize("sigma", [256.5, 300.0])
def test_what_is_put_together_differs_from_the_exact_law_by_less_than_is_claimed(sigma: float) -> None:
    assert variation(composed_law(sigma), sigma) < noise.DRAW_SLACK


@pytest.mark.parametrize("sigma", SIGMAS)
def test_a_million_draws_have_the_law_and_the_variance(sigma: float) -> None:
    assert accepted(DiscreteGaussian(sigma).draw(DRAWS, source(sigma)), sigma)


@pytest.mark.parametrize("sigma", [1e4, 2e5])
def test_a_million_large_draws_pass_kolmogorov_and_smirnov(sigma: float) -> None:
    draws = DiscreteGaussian(sigma).draw(DRAWS, source(("ks", sigma)))
    spread = draws + source("spread").words(DRAWS) / 2.0**64 - 0.5  # ties would count against the law
    assert stats.kstest(spread, "norm", args=(0, sigma)).pvalue > FALSE_ALARM


def _rounded_normal(sigma: float) -> Integers:
    rounded: Integers = np.rint(np.random.default_rng(1).normal(0, sigma, DRAWS)).astype(np.int64)
    return rounded


@pytest.mark.parametrize(
    ("mutant", "sigma"),
    [
        pytest.param(_rounded_normal(3.0), 3.0, id="a rounded normal"),
        pytest.param(np.abs(DiscreteGaussian(3.0).draw(DRAWS, source("sign"))), 3.0, id="no sign"),
        pytest.param(DiscreteGaussian(3.0 * 0.99).draw(DRAWS, source("scale")), 3.0, id="one per cent less noise"),
        pytest.param(
            np.where(np.arange(DRAWS) % 20 == 0, 0, DiscreteGaussian(100.0).draw(DRAWS, source("zero"))),
            100.0,
            id="zero too often",
        ),
    ],
)
def test_a_wrong_sampler_is_found_by_its_draws(mutant: Integers, sigma: float) -> None:
    assert not accepted(mutant, sigma)


def test_a_table_of_32_bits_is_found() -> None:
    exact = noise._table(3.0).law()
    coarse = {value: weight >> 96 << 96 for value, weight in exact.items()}
    coarse[0] += (1 << 128) - sum(coarse.values())
    assert variation(table_law(AliasTable.of(coarse)), 3.0) > noise.DRAW_SLACK


def test_a_zero_of_both_signs_is_found() -> None:
    assert variation(composed_law(300.0, both_zeros=True), 300.0) > 1e-4


@pytest.mark.parametrize("coarse", [0.5, 2.0])
def test_coarse_draws_with_many_coins_have_the_law(coarse: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """With so few coarse steps the coins do most of the work: one that is 2 % off would show."""
    monkeypatch.setattr(noise, "_LARGEST_TABLE", 1.0)
    monkeypatch.setattr(noise, "_COARSE", coarse)
    assert accepted(DiscreteGaussian(3.0).draw(DRAWS, source("k x + y")), 3.0)


def test_a_zero_of_both_signs_is_found_in_draws() -> None:
    half = noise._half_table(3.0)
    doubled = half.draw(source("x").words(DRAWS), source("y").words).astype(np.int64)
    signs = 1 - 2 * (source("signs").words(DRAWS) & np.uint64(1)).astype(np.int64)
    assert not accepted(doubled * signs, 3.0)


def test_a_word_that_meets_a_border_is_decided_by_the_next_one() -> None:
    table = noise._table(3.0)
    column = next(
        c for c, border in enumerate(table.borders) if border % (1 << 64) > 0 and table.below[c] != table.above[c]
    )
    border = table.borders[column]
    word = np.array([(column << (64 - table.columns_log2)) | (border >> 64)], np.uint64)
    low = border % (1 << 64)
    for next_word, value in ((low - 1, table.below[column]), (low, table.above[column])):
        assert table.draw(word, functools.partial(np.full, fill_value=next_word, dtype=np.uint64))[0] == value


@pytest.mark.parametrize(("excess", "sigma"), [(1, 300.0), (12_345, 300.0), (10**9, 2e5), (7, 2.0**26)])
def test_a_close_coin_is_decided_by_all_its_bits(excess: int, sigma: float) -> None:
    with mpmath.workdps(100):
        border = int(mpmath.exp(-mpmath.mpf(excess) / (2 * mpmath.mpf(sigma) ** 2)) * 2**168)
    for drawn, falls in ((border - 1, True), (border + 1, False)):
        words = np.array([drawn >> 64 & (2**64 - 1), drawn & (2**64 - 1)], np.uint64)
        assert noise._coin_falls(excess, sigma, drawn >> 128, words) is falls


def test_the_words_are_the_key_stream_of_aes_256() -> None:
    # NIST SP 800-38A has no zero counter; this is AES-256 of a zero block under a zero key (FIPS 197 known answers).
    expected = np.frombuffer(bytes.fromhex("dc95c078a2408989ad48a21492842087"), "<u8")
    assert NoiseSource(bytes(32)).words(2).tolist() == expected.tolist()


def test_the_same_key_draws_the_same_and_fresh_sources_do_not() -> None:
    law = DiscreteGaussian(1e4)
    assert law.draw(1000, source(1)).tolist() == law.draw(1000, source(1)).tolist()
    assert law.draw(1000, NoiseSource.fresh()).tolist() != law.draw(1000, NoiseSource.fresh()).tolist()


@pytest.mark.parametrize("sigma", [3.0, 1e4])
def test_noise_is_added_to_lanes_modulo_their_range(sigma: float) -> None:
    count = (1 << 14) + 5
    lanes = np.full(count, (1 << 32) - 2, np.uint32)
    DiscreteGaussian(sigma).add_to(lanes, source(2))
    drawn = DiscreteGaussian(sigma).draw(count, source(2))
    assert (lanes.astype(np.int64) == (drawn - 2) % (1 << 32)).all()


def test_the_noise_of_the_survivors_of_a_sum_has_the_claimed_law() -> None:
    devices, survivors, parameters = 20, 16, 20_000
    lanes = Lanes(bits=24, clipping_norm=1.0, max_participants=devices, noise_multiplier=1.0, honest_survivors=12)
    law, rounding = DiscreteGaussian(lanes.noise * lanes.scale), np.random.default_rng(0)
    delta = np.full(parameters, 0.001, np.float32)
    total = np.zeros(lanes.count(parameters), np.uint32)
    for device in range(survivors):
        report = lanes.encode(delta, rounding)
        law.add_to(report[:-ZERO_LANES], source(("device", device)))
        total += lanes.unpack(lanes.packed(report), parameters)
    found = (lanes.open_sum(total) - survivors * delta.astype(np.float64)) / (lanes.noise * survivors**0.5)
    assert stats.kstest(found, "norm").pvalue > FALSE_ALARM
    assert found.std() * survivors**0.5 >= lanes.honest_survivors**0.5  # never less than what is claimed


@pytest.mark.parametrize("sigma", [0.0, 0.06, float("nan"), float("inf"), 2.0**26 + 1, -3.0])
def test_a_standard_deviation_out_of_range_is_refused(sigma: float) -> None:
    with pytest.raises(InvalidPlan, match="standard deviation"):
        DiscreteGaussian(sigma)


def test_a_short_key_and_wrong_weights_are_bugs() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        NoiseSource(bytes(16))
    with pytest.raises(ValueError, match="2\\^128"):
        AliasTable.of({0: 1})


def test_what_is_added_to_delta_is_negligible() -> None:
    assert noise.claim_slack(10**9, 8.0) < 1e-20
