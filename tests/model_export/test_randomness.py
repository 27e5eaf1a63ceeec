"""Random numbers of a step: uniform, unrelated between places, layers and seeds, and the same bits everywhere.

Each test fails by chance once in far more than a thousand runs, if it were run with other seeds; it always runs with
the same ones.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tests.workers import Workers

SEEDS = [*range(40), 2038, 2039, 2040, 99_999, 2**21, 2**22 - 2, 2**22 - 1]
BINS = 2039
SURE = 5.0
"""Standard deviations that chance alone does not reach."""

Array = npt.NDArray[Any]


@pytest.fixture(scope="module")
def draws(workers: Workers) -> Any:
    return workers["tensorflow"].run("tests.model_export.draws:drawn", SEEDS)


def correlation_z(one: Array, other: Array) -> float:
    """The correlation of two samples, in standard deviations from none."""
    found = np.corrcoef(one.ravel(), other.ravel())[0, 1]
    return float(abs(found) * math.sqrt(one.size))


def test_mean_and_variance_are_those_of_uniform_numbers(draws: Any) -> None:
    values = np.concatenate([draws.first, draws.second]).astype(np.float64)
    assert values.min() > 0
    assert values.max() < 1
    assert abs(values.mean() - 0.5) < SURE * math.sqrt(1 / 12 / values.size)
    assert abs(values.var() - 1 / 12) < SURE * math.sqrt(1 / 180 / values.size) + 1 / BINS**2


def test_every_bin_is_as_likely(draws: Any) -> None:
    """Bins may be more even than chance makes them, but not twice as even: rows of one seed are related."""
    for values in (draws.first, draws.second):
        counts = np.bincount(np.floor(values.ravel() * BINS).astype(int), minlength=BINS)
        expected = values.size / BINS
        chi_square = float(((counts - expected) ** 2 / expected).sum())
        assert counts.size == BINS
        assert (BINS - 1) / 2 < chi_square < BINS - 1 + SURE * math.sqrt(2 * (BINS - 1))


@pytest.mark.parametrize("distance", [1, 2, 3, 7, 2038, 2039, 2040, 4078])
def test_places_do_not_know_one_another(draws: Any, distance: int) -> None:
    assert correlation_z(draws.first[:, :-distance], draws.first[:, distance:]) < SURE


@pytest.mark.parametrize("distance", [1, 2, 39])
def test_seeds_do_not_know_one_another(draws: Any, distance: int) -> None:
    consecutive = draws.first[:40]
    assert correlation_z(consecutive[:-distance], consecutive[distance:]) < SURE
    across = draws.first[[SEEDS.index(2038), SEEDS.index(2039)]]
    assert correlation_z(across[0], across[1]) < SURE


def test_layers_do_not_know_one_another(draws: Any) -> None:
    assert correlation_z(draws.first, draws.second) < SURE
    both_low = ((draws.first < 0.3) & (draws.second < 0.3)).mean()
    assert abs(both_low - 0.09) < SURE * math.sqrt(0.09 * 0.91 / draws.first.size) + 1 / BINS


def test_every_place_is_uniform_over_seeds(draws: Any) -> None:
    """Dropout must not spare a place for good."""
    kept = (draws.first < 0.5).sum(0)
    assert kept.min() > 0
    assert kept.max() < len(SEEDS)
    assert abs(float(kept.var()) / (len(SEEDS) / 4) - 1) < SURE * math.sqrt(2 / kept.size)


def test_normal_numbers_are_normal(draws: Any) -> None:
    values = draws.normal.astype(np.float64)
    assert abs(values.mean()) < SURE / math.sqrt(values.size)
    assert abs(values.var() - 1) < SURE * math.sqrt(2 / values.size) + 1e-3  # of 2039 radii
    assert abs((np.abs(values) < 1).mean() - 0.6827) < 3e-3
    assert abs((np.abs(values) < 2).mean() - 0.9545) < 3e-3


@pytest.mark.parametrize("runtime", ["litert", "tflite"])
def test_every_runtime_draws_the_same_bits(workers: Workers, draws: Any, runtime: str) -> None:
    some = [0, 1, 39, 41, len(SEEDS) - 1]
    found = workers[runtime].run(
        "tests.model_export.runs:each", draws.graph, runtime, "draw", [{"seed": np.int32(SEEDS[one])} for one in some]
    )
    for place, values in zip(some, found, strict=True):
        for name in ("first", "second"):
            assert (values[name] == getattr(draws, name)[place]).all()
        assert np.abs(values["normal"] - draws.normal[place]).max() < 1e-5  # log and cos are each runtime's own


@pytest.mark.parametrize(("kind", "kept"), [("dropout", 0.6), ("spatial", 0.6)])
def test_dropout_keeps_its_share_and_scales_it(workers: Workers, kind: str, kept: float) -> None:
    y, gradient = workers["tensorflow"].run("tests.model_export.draws:thrown_out", kind, 3)
    assert set(np.unique(y)) == {np.float32(0), np.float32(1 / kept)}
    places = y.size if kind == "dropout" else y[:, 0].size
    assert abs((y > 0).mean() - kept) < SURE * math.sqrt(kept * (1 - kept) / places)
    assert (gradient == y).all()
    if kind == "spatial":
        assert (y == y[:, :1]).all()
        assert 0 < (y[:, 0] > 0).mean() < 1


@pytest.mark.parametrize(("kind", "deviation"), [("noise", 0.5), ("noise_dropout", 0.5)])
def test_noise_has_its_size(workers: Workers, kind: str, deviation: float) -> None:
    y, gradient = workers["tensorflow"].run("tests.model_export.draws:thrown_out", kind, 3)
    assert abs(y.mean() - 1) < SURE * deviation / math.sqrt(y.size)
    assert abs(y.std() / deviation - 1) < SURE / math.sqrt(2 * y.size) + 1e-3
    assert np.allclose(gradient, 1 if kind == "noise" else y)


def test_one_seed_throws_out_the_same_and_another_does_not(workers: Workers) -> None:
    first, again, other = (
        workers["tensorflow"].run("tests.model_export.draws:thrown_out", "alpha", seed)[0] for seed in (5, 5, 6)
    )
    assert (first == again).all()
    assert 0.3 < (first == other).mean() < 0.8
