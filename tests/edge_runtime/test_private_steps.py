"""Steps that hide each example: gradients clipped one by one, noise of the claimed law, on a grid that hides nothing.

Draws are held against their law with a false-alarm rate of 1e-6 a test.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from edge_runtime import private_steps
from edge_runtime.examples import Examples
from edge_runtime.journal.participation import Progress
from edge_runtime.model import Model
from edge_runtime.private_steps import ADDED_UP, FINEST_GRID, HiddenSteps, room
from edge_runtime.protocol.bundle import Role, Schema, Tensor
from edge_runtime.protocol.errors import InvalidExamples, InvalidPlan, NonFiniteTraining
from edge_runtime.protocol.keys import digest
from edge_runtime.protocol.noise import DiscreteGaussian, NoiseSource
from edge_runtime.protocol.plan import Plan
from edge_runtime.training import Batches, beginning, resume, train
from tests.edge_runtime.linear import BATCH, MANIFEST, PRIVATE_STEPS, Linear, linear, targets
from tests.edge_runtime.test_model import Run, run
from tests.edge_runtime.test_training import LINEAR_PLAN, LINEAR_WEIGHTS, first_weights
from tests.workers import Workers

__all__ = ["run"]

FALSE_ALARM: Final = 1e-6
PRIVATE: Final = {"signatures": (*MANIFEST.signatures, *PRIVATE_STEPS)}
NORM, MULTIPLIER, RATE = 0.5, 1.5, 0.1
HIDDEN: Final = HiddenSteps(NORM, MULTIPLIER, BATCH)
PLAN: Final = replace(LINEAR_PLAN, example_clipping_norm=NORM, example_noise_multiplier=MULTIPLIER)
KEY: Final = digest(b"noise of a step")


def shaped(*sides: int) -> list[Tensor]:
    """One tensor of this shape."""
    return [Tensor(name="w", shape=sides, trainable=True, role=Role.BASE)]


def noise_of(hidden: HiddenSteps, learned: Sequence[Tensor] = MANIFEST.tensors, key: bytes = KEY) -> Any:
    """What a step with this key adds to its sum."""
    step, sigma = hidden.grid(learned)
    return DiscreteGaussian(sigma).draw(sum(one.size for one in learned), NoiseSource(key)) * step


def prepared(**changes: Any) -> tuple[Model, Linear]:
    model, beneath = linear(**PRIVATE, **changes)
    model.set_weights(LINEAR_WEIGHTS)
    model.begin_round()
    return model, beneath


def clipped_sum(gradients: Any, norm: float) -> Any:
    return sum(one * min(1.0, norm / np.linalg.norm(one)) for one in gradients)


def gradients_of(local: Examples) -> list[Any]:
    """By definition, in the order of a weights vector: kernel, then bias."""
    kernel, bias = LINEAR_WEIGHTS[:6].reshape(3, 2).astype(float), LINEAR_WEIGHTS[6:].astype(float)
    rows = np.concatenate([local.x, np.ones((len(local), 1))], axis=1)
    return [
        np.outer(row, error).reshape(-1) for row, error in zip(rows, local.x @ kernel + bias - local.y, strict=True)
    ]


@pytest.mark.parametrize("count", [0, 1, 3, BATCH])
def test_a_step_is_the_clipped_sum_and_noise_over_what_a_batch_is_expected_to_have(count: int) -> None:
    model, _beneath = prepared()
    local = targets(count)
    loss = HIDDEN.take(model, local, RATE, [0] * count, NoiseSource(KEY))
    expected = LINEAR_WEIGHTS - RATE / BATCH * (clipped_sum(gradients_of(local), NORM) + noise_of(HIDDEN))
    assert model.get_weights() == pytest.approx(expected, rel=1e-5, abs=1e-6)
    assert (loss is None) == (count == 0)
    model.apply(1.0, 1.0)
    assert model.get_weights() == pytest.approx(expected, rel=1e-5, abs=1e-6), "what was added up is forgotten"


def test_a_step_on_an_interpreter_is_the_one_of_tensorflows_gradients(run: Run, workers: Workers) -> None:
    exported, local, gradients = workers["tensorflow"].run("tests.edge_runtime.hidden:build")
    norm = float(np.median(np.linalg.norm(gradients, axis=1)))  # some are clipped, and some are not
    hidden, weights = HiddenSteps(norm, 0.01, len(local)), first_weights(exported)
    after, loss = run("hidden_step", exported, weights, hidden, local, 1.0, KEY)
    noise = noise_of(hidden, exported.manifest.tensors)
    expected = weights - (clipped_sum(gradients, norm) + noise) / len(local)
    assert np.abs(after - expected).max() < 2e-6
    assert np.abs(noise).max() > 1e-3 * norm, "the noise is there"
    assert loss == pytest.approx(np.log(4), rel=0.3)


def test_the_noise_of_a_step_has_the_claimed_law() -> None:
    count = 200_000
    drawn = HIDDEN._noised(np.zeros(count), shaped(400, 500), NoiseSource(KEY)) / NORM
    claimed = MULTIPLIER * (room(shaped(400, 500)) + count**0.5 / FINEST_GRID)
    assert stats.kstest(drawn, stats.norm(scale=claimed).cdf).pvalue > FALSE_ALARM
    statistic = float((drawn**2).sum()) / claimed**2
    assert stats.chi2(count).ppf(FALSE_ALARM) < statistic < stats.chi2(count).isf(FALSE_ALARM)


def test_noise_of_99_hundredths_is_found() -> None:
    """The mutant that the test of the law must fail."""
    count = 200_000
    less = (
        HiddenSteps(NORM, 0.99 * MULTIPLIER, BATCH)._noised(np.zeros(count), shaped(400, 500), NoiseSource(KEY)) / NORM
    )
    assert float((less**2).sum()) / MULTIPLIER**2 < stats.chi2(count).ppf(FALSE_ALARM)


def test_what_is_released_of_a_sum_is_on_the_grid_whatever_its_digits() -> None:
    step, _sigma = HIDDEN.grid(MANIFEST.tensors)
    released = HIDDEN._noised(np.linspace(-NORM, NORM, 8) / 3, MANIFEST.tensors, NoiseSource(KEY)) / step
    assert (released == np.rint(released)).all()


values = st.lists(st.floats(-1, 1, width=32), min_size=8, max_size=8)


@given(others=values, one=values, norm=st.sampled_from([1e-3, 0.5, 100.0]))
@settings(max_examples=200, deadline=None)
def test_one_example_moves_the_rounded_sum_by_no_more_than_the_noise_is_made_for(
    others: list[float], one: list[float], norm: float
) -> None:
    hidden = HiddenSteps(norm, MULTIPLIER, BATCH)
    step, sigma = hidden.grid(MANIFEST.tensors)
    example = np.array(one)
    example *= min(1.0, norm / max(float(np.linalg.norm(example)), 1e-12))
    without, there = np.array(others), np.array(others) + example
    moved = float(np.linalg.norm(np.rint(there / step) - np.rint(without / step)))
    assert moved * MULTIPLIER <= sigma * (1 + 1e-9)


@given(
    sides=st.lists(st.sampled_from([1, 3, 100, 2000]), min_size=1, max_size=2),
    of=st.floats(0.01, 1),
    seed=st.integers(0, 9),
)
@settings(max_examples=60, deadline=None)
def test_squares_that_float32_adds_up_one_by_one_lose_no_more_than_is_booked(
    sides: list[int], of: float, seed: int
) -> None:
    gradient = np.full(sides, of, np.float32)
    if seed:
        gradient *= np.random.default_rng(seed).random(sides, np.float32)
    total = gradient * gradient
    while total.ndim:
        total = np.cumsum(total, -1, dtype=np.float32)[..., -1]
    clipped = (gradient * (np.float32(1) / np.sqrt(total))).astype(np.float64)
    assert np.linalg.norm(clipped) <= room(shaped(*sides))


@pytest.mark.parametrize("runtime", ["litert", "tflite"])
@pytest.mark.parametrize(("inputs", "outputs"), [(10_000, 64), (1, 1_000_000)])
def test_no_gradient_that_an_interpreter_clips_is_longer_than_the_noise_is_made_for(
    workers: Workers, runtime: str, inputs: int, outputs: int
) -> None:
    exported = workers["tensorflow"].run("tests.edge_runtime.hidden:wide", inputs, outputs)
    longest = workers[runtime].run("tests.edge_runtime.lengths:longest", exported, runtime)
    assert 1 + 1e-6 < longest <= room(exported.manifest.tensors) < 1.05


@given(sides=st.lists(st.integers(1, 5000), min_size=1, max_size=4))
def test_the_room_is_that_of_the_longest_chain_of_additions(sides: list[int]) -> None:
    learned = [*shaped(1), *shaped(*sides)]
    chain = sum(side - 1 for side in sides) + 1
    assert room(learned) == pytest.approx(1 + (chain / 2 + 16 + 64 * 65) / 2**24, rel=1e-6)


@pytest.fixture
def rounded_up() -> tuple[Model, Examples]:
    """Gradients of one weight: 4,096 of 1, and 1,000 that a float32 sum of 4,096 doubles, and one of 4,095 does not.

    They are little over half of what float32 tells apart from 4,096 on, which is half as much below.
    """
    model, _beneath = prepared(labels=Schema(shape=(2,), dtype="float32", low=0.0, high=1.0))
    model.set_weights(np.zeros(8, np.float32))
    y = np.zeros((5096, 2), np.float32)
    y[:4096, 0], y[4096:, 0] = 1, 1.01 * 2**-12
    return model, Examples(np.zeros((5096, 3), np.float32), y)


def moved_by_the_first(model: Model, local: Examples) -> float:
    hidden, zeros = HiddenSteps(1.0, MULTIPLIER, len(local)), np.zeros(8, np.float32)
    with_it = hidden._sum(model, local, [0] * len(local), zeros)
    without = hidden._sum(model, local.take(np.arange(1, len(local))), [0] * (len(local) - 1), zeros)
    return float(np.linalg.norm(with_it - without))


def test_in_a_large_batch_too_one_example_moves_the_sum_by_no_more(rounded_up: tuple[Model, Examples]) -> None:
    assert moved_by_the_first(*rounded_up) <= room(MANIFEST.tensors)


def test_a_sum_that_float32_alone_adds_up_is_found(
    rounded_up: tuple[Model, Examples], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mutant that reads it at the end only."""
    monkeypatch.setattr(private_steps, "ADDED_UP", 1 << 20)
    moved = moved_by_the_first(*rounded_up)
    monkeypatch.undo()
    assert moved > 1.2 > room(MANIFEST.tensors)


def test_a_large_batch_is_read_again_and_again_and_none_is_lost() -> None:
    model, beneath = prepared()
    count = 2 * ADDED_UP + 3
    local = targets(count)
    HiddenSteps(NORM, MULTIPLIER, count).take(model, local, RATE, [0] * count, NoiseSource(KEY))
    expected = LINEAR_WEIGHTS - RATE / count * (clipped_sum(gradients_of(local), NORM) + noise_of(HIDDEN))
    assert model.get_weights() == pytest.approx(expected, rel=1e-5, abs=1e-6)
    assert len(beneath.inputs_of("apply")) == 3


@pytest.mark.parametrize("multiplier", [1e-3, 1.0, 31.0, 33.0, 1000.0])
def test_any_noise_that_a_plan_may_ask_for_fits_the_sampler(multiplier: float) -> None:
    step, sigma = HiddenSteps(2.0, multiplier, 1).grid(shaped(10_000, 1000))
    DiscreteGaussian(sigma)
    assert step * sigma / 2.0 == pytest.approx(multiplier, rel=0.2)


def test_frozen_weights_get_no_noise_and_personal_ones_do() -> None:
    tensors = (replace(MANIFEST.tensors[0], trainable=False), MANIFEST.tensors[1])
    model, beneath = prepared(tensors=tensors)
    beneath.sums = {"bias": np.zeros(2, np.float32)}
    HIDDEN.take(model, targets(0), RATE, [], NoiseSource(KEY))
    assert (model.get_weights()[:6] == LINEAR_WEIGHTS[:6]).all()
    assert (model.get_weights()[6:] != LINEAR_WEIGHTS[6:]).all()


# --- in a plan ------------------------------------------------------------------------------------------------------


def test_a_plan_that_hides_examples_trains_with_fresh_noise_each_time() -> None:
    deltas = []
    for _time in range(2):
        model, beneath = prepared()
        found = train(model, LINEAR_WEIGHTS, PLAN, targets(7), np.random.default_rng(1))
        deltas.append(found.delta)
        assert found.steps == 6
        assert len(beneath.inputs_of("accumulate")) == 3 * 7
        assert not beneath.inputs_of("train")
        assert all(float(one["clip"]) == NORM for one in beneath.inputs_of("accumulate"))
    assert (deltas[0] != deltas[1]).all()


def test_hardly_any_noise_leaves_the_steps_of_clipped_gradients() -> None:
    model, _beneath = prepared()
    plan = replace(PLAN, epochs=1, example_noise_multiplier=1e-6)
    local = targets(BATCH)
    train(model, LINEAR_WEIGHTS, plan, local, np.random.default_rng(1))
    expected = LINEAR_WEIGHTS - RATE / BATCH * clipped_sum(gradients_of(local), NORM)
    assert model.get_weights() == pytest.approx(expected, rel=1e-4, abs=1e-5)


class Gone(Examples):
    """Examples of which one batch was deleted meanwhile."""

    def take(self, indices: Any) -> Examples:
        return super().take(indices[indices < BATCH])


def test_a_batch_of_which_nothing_is_left_is_a_step_of_noise_alone() -> None:
    model, _beneath = prepared()
    whole = targets(BATCH + 1)
    local: Batches = Gone(whole.x, whole.y)
    saved: list[Progress] = []
    start = beginning(model, LINEAR_WEIGHTS, "s", 7, np.random.default_rng(7))
    resume(model, LINEAR_WEIGHTS, replace(PLAN, epochs=2), local, start, save=saved.append, due=lambda: True)
    after = [one.weights for one in saved]
    assert len(after) == 3
    assert all((one != two).all() for one, two in zip([LINEAR_WEIGHTS, *after], after, strict=False))


def test_where_all_examples_are_gone_there_is_nothing_to_report() -> None:
    model, _beneath = prepared()
    start = beginning(model, LINEAR_WEIGHTS, "s", 7, np.random.default_rng(7))
    with pytest.raises(InvalidExamples, match="left"):
        resume(model, LINEAR_WEIGHTS, PLAN, _Deleted(2), start, save=lambda _progress: None)


class _Deleted:
    """So many examples, none of which is left."""

    def __init__(self, count: int) -> None:
        self._count = count

    def __len__(self) -> int:
        return self._count

    def take(self, _indices: Any) -> Examples:
        return targets(0)


def test_a_bundle_without_private_steps_is_refused_before_a_step() -> None:
    model, beneath = linear()
    with pytest.raises(InvalidPlan, match="exported without private steps"):
        train(model, LINEAR_WEIGHTS, PLAN, targets(3), np.random.default_rng(1))
    assert not beneath.asked


def _rng() -> np.random.Generator:
    return np.random.default_rng(1)


def test_a_gradient_that_is_not_finite_is_named() -> None:
    for size in (1e30, 3e38):
        model, _beneath = prepared()
        model.set_weights(np.full(8, size, np.float32))
        with pytest.raises(NonFiniteTraining), np.errstate(all="ignore"):
            HIDDEN.take(model, targets(2), RATE, [0, 0], NoiseSource(KEY))


def test_a_plan_that_hides_nothing_has_no_such_steps() -> None:
    with pytest.raises(InvalidPlan, match="hides no examples"):
        HiddenSteps.of(LINEAR_PLAN)


@pytest.fixture
def clipless(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutant that does not clip."""
    monkeypatch.setattr(Linear, "_accumulate", _unclipped)


def _unclipped(self: Linear, x: Any, y: Any, clip: Any) -> dict[str, Any]:
    return _accumulate(self, x, y, np.array(1e9, np.float32))


_accumulate = Linear._accumulate


@pytest.mark.usefixtures("clipless")
def test_a_step_that_does_not_clip_is_found() -> None:
    model, _beneath = prepared()
    local = targets(BATCH)
    HIDDEN.take(model, local, RATE, [0] * BATCH, NoiseSource(KEY))
    expected = LINEAR_WEIGHTS - RATE / BATCH * (clipped_sum(gradients_of(local), NORM) + noise_of(HIDDEN))
    assert model.get_weights() != pytest.approx(expected, rel=1e-2)


def test_the_plan_fixes_norm_noise_and_divisor() -> None:
    plan: Plan = replace(PLAN, batch_size=3)
    assert HiddenSteps.of(plan) == HiddenSteps(NORM, MULTIPLIER, 3)
    assert private_steps.FINEST_GRID == 1 << 20
