"""A plan over local examples: the same bits again, and a named reason whenever there is no delta."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from edge_runtime.examples import Examples
from edge_runtime.protocol.checkpoint import Weights
from edge_runtime.protocol.errors import InvalidExamples, InvalidPlan, InvalidWeights, NonFiniteTraining
from edge_runtime.protocol.plan import Close, Plan, Privacy, Summing
from edge_runtime.protocol.reasons import Outcome
from edge_runtime.training import Interrupted
from model_export.spec import Exported
from tests.edge_runtime.test_model import Run, examples, run
from tests.exports import BATCH_SIZE, CLASSES, INPUT_SHAPE

__all__ = ["run"]


@pytest.fixture(params=["mlp", "cnn"])
def model(request: pytest.FixtureRequest, exported: Callable[[str], Exported]) -> Exported:
    return exported(request.param)


def first_weights(exported: Exported) -> Weights:
    return np.frombuffer(exported.checkpoint, "<f4", exported.manifest.parameters, len(exported.checkpoint) % 4 + 56)


def plan_for(exported: Exported, **changes: Any) -> Plan:
    plan = Plan(
        version=Plan.VERSION,
        tenant="acme",
        population="digits",
        bundle_sha256=exported.bundle_sha256,
        epochs=3,
        batch_size=BATCH_SIZE,
        learning_rate=0.1,
        proximal_mu=0.0,
        clipping_norm=1.0,
        lane_bits=32,
        expected_participants=2,
        max_participants=4,
        goal=2,
        min_reports=1,
        close=Close.GOAL,
        summing=Summing.PLAIN,
        privacy=Privacy.NONE,
        min_examples=1,
        time_limit_s=60.0,
    )
    return replace(plan, **changes)


def stripes(count: int) -> Examples:
    """Examples that are easy to tell apart: class c is bright in columns 2c and 2c + 1."""
    y = np.arange(count, dtype=np.int32) % CLASSES
    x = np.random.default_rng(5).random((count, *INPUT_SHAPE), dtype=np.float32) * 0.3
    for row, label in enumerate(y):
        x[row, :, 2 * label : 2 * label + 2] += 0.6
    return Examples(x, y)


def test_training_learns(run: Run, model: Exported) -> None:
    found = run("trained", model, first_weights(model), plan_for(model, epochs=15), stripes(40), 0)
    assert found.steps == 15 * 8
    assert found.loss_last < 0.3 * found.loss_first
    assert found.delta.shape == (model.manifest.shared_parameters,)
    assert found.delta.dtype == np.float32


def test_the_same_seed_gives_the_same_bits_and_another_does_not(run: Run, model: Exported) -> None:
    arguments = (model, first_weights(model), plan_for(model, proximal_mu=0.1), examples(13))
    first, second = run("trained_twice", *arguments, 7)
    other = run("trained", *arguments, 8)
    assert first.delta.tobytes() == second.delta.tobytes()
    assert (first.steps, first.loss_first, first.loss_last) == (second.steps, second.loss_first, second.loss_last)
    assert first.delta.tobytes() != other.delta.tobytes()
    assert first.steps == 9  # three epochs of two whole batches and a shorter one


def test_the_proximal_term_keeps_the_weights_near(run: Run, model: Exported) -> None:
    free, held = (
        run("trained", model, first_weights(model), plan_for(model, proximal_mu=mu), examples(13), 7)
        for mu in (0.0, 5.0)
    )
    assert np.linalg.norm(held.delta) < 0.9 * np.linalg.norm(free.delta)


def test_training_stops_between_steps_for_the_named_outcome(run: Run, model: Exported) -> None:
    with pytest.raises(Interrupted) as stopped:
        run("trained_until", model, first_weights(model), plan_for(model), examples(13), 4)
    assert stopped.value.outcome is Outcome.BATTERY_LOW


@pytest.mark.parametrize("size", [1e30, 3e38])
def test_a_loss_or_delta_that_is_not_finite_is_refused(run: Run, model: Exported, size: float) -> None:
    weights = np.full(model.manifest.parameters, size, np.float32)
    with pytest.raises(NonFiniteTraining):
        run("trained", model, weights, plan_for(model, learning_rate=1000.0), examples(13), 0)


def test_a_plan_that_does_not_fit_the_bundle_is_refused(run: Run, model: Exported) -> None:
    with pytest.raises(InvalidPlan, match="batches"):
        run("trained", model, first_weights(model), plan_for(model, batch_size=BATCH_SIZE + 1), examples(13), 0)
    with pytest.raises(InvalidPlan, match="another bundle"):
        run("trained", model, first_weights(model), plan_for(model, bundle_sha256="0" * 64), examples(13), 0)


def test_examples_that_do_not_fit_are_refused(run: Run, model: Exported) -> None:
    with pytest.raises(InvalidExamples, match="wants 14"):
        run("trained", model, first_weights(model), plan_for(model, min_examples=14), examples(13), 0)
    poisoned = examples(13)
    poisoned.x[12, 0, 0, 0] = np.nan
    with pytest.raises(InvalidExamples, match="finite"):
        run("trained", model, first_weights(model), plan_for(model), poisoned, 0)


def test_weights_that_do_not_fit_are_refused(run: Run, model: Exported) -> None:
    with pytest.raises(InvalidWeights):
        run("trained", model, first_weights(model)[1:], plan_for(model), examples(13), 0)
