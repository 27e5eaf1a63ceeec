"""A model on both runtimes: what it computes, and what it refuses before the interpreter is called."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from edge_runtime.examples import Examples
from edge_runtime.protocol.errors import InvalidExamples, InvalidWeights, NonFiniteTraining
from model_export.spec import Exported
from tests.exports import BATCH_SIZE, CLASSES, INPUT_SHAPE
from tests.workers import Workers

Run = Callable[..., Any]


@pytest.fixture(params=["litert", "tflite"])
def run(request: pytest.FixtureRequest, workers: Workers) -> Run:
    """Run a task in the worker of one runtime."""
    worker = workers[request.param]
    return lambda task, *args: worker.run(f"tests.edge_runtime.tasks:{task}", *args)


@pytest.fixture
def mlp(exported: Callable[[str], Exported]) -> Exported:
    return exported("mlp")


def examples(count: int, seed: int = 0) -> Examples:
    rng = np.random.default_rng(seed)
    return Examples(rng.random((count, *INPUT_SHAPE), dtype=np.float32), rng.integers(0, CLASSES, count, np.int32))


def test_weights_come_back_as_they_were_set(run: Run, mlp: Exported) -> None:
    weights = np.random.default_rng(0).normal(size=mlp.manifest.parameters).astype(np.float32)
    assert (run("round_trip", mlp, weights) == weights).all()


@pytest.mark.parametrize("count", [1, BATCH_SIZE - 1, BATCH_SIZE])
def test_the_delta_is_what_a_step_changed(run: Run, mlp: Exported, count: int) -> None:
    before, after, delta = run("one_step", mlp, examples(count), 0.5)
    assert (delta == after - before).all()
    assert delta.any()


@pytest.mark.parametrize("count", [1, BATCH_SIZE, 2 * BATCH_SIZE + 1])
def test_evaluation_is_exact_for_any_number_of_examples(run: Run, mlp: Exported, count: int) -> None:
    local = examples(count)
    found, probabilities = run("measured", mlp, local)
    chosen = probabilities[np.arange(count), local.y].astype(np.float64)
    assert probabilities.shape == (count, CLASSES)
    assert found.count == count
    assert found.loss == pytest.approx(-np.log(chosen).mean(), abs=1e-6)
    assert found.accuracy == pytest.approx((probabilities.argmax(1) == local.y).mean())


@pytest.mark.parametrize("wrong", [np.zeros(3, np.float32), np.zeros((1, 8740), np.float32), "float64"])
def test_weights_of_another_shape_or_dtype_are_refused(run: Run, mlp: Exported, wrong: Any) -> None:
    weights = np.zeros(mlp.manifest.parameters) if isinstance(wrong, str) else wrong
    with pytest.raises(InvalidWeights):
        run("call", mlp, "set_weights", weights)


@pytest.mark.parametrize("label", [-1, CLASSES, 99])
def test_a_label_out_of_range_is_refused(run: Run, mlp: Exported, label: int) -> None:
    local = examples(2)
    local.y[1] = label
    with pytest.raises(InvalidExamples, match="label"):
        run("call", mlp, "train_step", local.x, local.y, 0.1)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1.5, -0.1])
def test_a_feature_that_is_not_finite_or_out_of_range_is_refused(run: Run, mlp: Exported, value: float) -> None:
    local = examples(2)
    local.x[1, 3, 3, 0] = value
    with pytest.raises(InvalidExamples, match="feature"):
        run("call", mlp, "evaluate", local)
    with pytest.raises(InvalidExamples, match="feature"):
        run("call", mlp, "infer", local.x)


@pytest.mark.parametrize(
    "shape", [(2, 8, 8), (2, 8, 7, 1), (0, *INPUT_SHAPE), (3, *INPUT_SHAPE), (BATCH_SIZE + 1, *INPUT_SHAPE)]
)
def test_a_batch_of_another_shape_is_refused(run: Run, mlp: Exported, shape: tuple[int, ...]) -> None:
    labels = np.zeros(shape[0] if shape[0] != 3 else 2, np.int32)
    with pytest.raises(InvalidExamples):
        run("call", mlp, "train_step", np.zeros(shape, np.float32), labels, 0.1)


def test_features_and_labels_of_another_dtype_are_refused(run: Run, mlp: Exported) -> None:
    local = examples(2)
    with pytest.raises(InvalidExamples):
        run("call", mlp, "train_step", local.x.astype(np.float64), local.y, 0.1)
    with pytest.raises(InvalidExamples):
        run("call", mlp, "train_step", local.x, local.y.astype(np.int64), 0.1)


def test_no_examples_cannot_be_evaluated(run: Run, mlp: Exported) -> None:
    with pytest.raises(InvalidExamples):
        run("call", mlp, "evaluate", examples(0))


def test_a_step_that_overflows_is_noticed_in_the_delta(run: Run, mlp: Exported) -> None:
    with pytest.raises(NonFiniteTraining):
        run("one_step", mlp, examples(4), np.inf)
