"""A plan over local examples: the same bits again, and a named reason whenever there is no delta."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from edge_runtime.examples import Examples
from edge_runtime.protocol.bundle import SEED_LIMIT
from edge_runtime.protocol.checkpoint import Weights
from edge_runtime.protocol.errors import InvalidExamples, InvalidPlan, InvalidWeights, NonFiniteTraining
from edge_runtime.protocol.plan import Close, Kind, MetricRange, Plan, Privacy, Summing
from edge_runtime.protocol.reasons import Outcome
from edge_runtime.training import Interrupted, beginning, resume, train
from model_export.spec import Exported
from tests.edge_runtime.linear import BATCH, BUNDLE_SHA256, SLOTS, linear, targets
from tests.edge_runtime.test_model import Run, examples, run
from tests.exports import BATCH_SIZE, CLASSES, INPUT_SHAPE

__all__ = ["run"]


@pytest.fixture(params=["mlp", "cnn"])
def model(request: pytest.FixtureRequest, exported: Callable[[str], Exported]) -> Exported:
    return exported(request.param)


def first_weights(exported: Exported) -> Weights:
    return np.frombuffer(exported.checkpoint, "<f4", exported.manifest.parameters, len(exported.checkpoint) % 4 + 56)


def plan_for(exported: Exported, **changes: Any) -> Plan:
    return replace(plan_of(exported.bundle_sha256, BATCH_SIZE), **changes)


def plan_of(bundle_sha256: str, batch_size: int) -> Plan:
    return Plan(
        version=Plan.VERSION,
        tenant="acme",
        population="digits",
        bundle_sha256=bundle_sha256,
        epochs=3,
        batch_size=batch_size,
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


LINEAR_PLAN = plan_of(BUNDLE_SHA256, BATCH)
LINEAR_WEIGHTS = np.linspace(-1, 1, 8, dtype=np.float32)


def test_a_model_without_seeds_takes_nothing_from_the_generator_but_the_order() -> None:
    rng, orders = np.random.default_rng(3), np.random.default_rng(3)
    model, asked = linear()
    local = targets(7)
    train(model, LINEAR_WEIGHTS, LINEAR_PLAN, local, rng)
    expected = [order[begin : begin + BATCH] for order in _orders(orders) for begin in (0, BATCH)]
    steps = asked.inputs_of("train")
    assert len(steps) == len(expected) == 6
    for inputs, positions in zip(steps, expected, strict=True):
        assert (inputs["x"][: len(positions)] == local.x[positions]).all()
    assert rng.bit_generator.state == orders.bit_generator.state


def _orders(rng: np.random.Generator) -> list[Any]:
    return [rng.permutation(7) for _epoch in range(LINEAR_PLAN.epochs)]


def test_a_seeded_model_gets_a_seed_of_its_own_for_every_step() -> None:
    rng, mirrored = np.random.default_rng(3), np.random.default_rng(3)
    model, asked = linear(seeded=True)
    train(model, LINEAR_WEIGHTS, LINEAR_PLAN, targets(7), rng)
    expected = []
    for _epoch in range(LINEAR_PLAN.epochs):
        mirrored.permutation(7)
        expected += [int(mirrored.integers(SEED_LIMIT)) for _step in range(2)]
    assert [int(inputs["seed"]) for inputs in asked.inputs_of("train")] == expected
    assert len(set(expected)) == 6


def measuring(*metrics: MetricRange, most: int = 8) -> Plan:
    return replace(LINEAR_PLAN, kind=Kind.EVALUATE, metrics=metrics, max_examples=most, clipping_norm=2.0)


def test_a_plan_that_measures_takes_no_step_and_reports_where_its_means_lie_in_their_ranges() -> None:
    model, asked = linear()
    local = targets(6)
    found = train(model, LINEAR_WEIGHTS, measuring(MetricRange(name="loss", low=0.0, high=100.0)), local, rng := _rng())
    assert asked.inputs_of("train") == []
    assert rng.bit_generator.state == _rng().bit_generator.state
    model.set_weights(LINEAR_WEIGHTS)
    loss = model.evaluate(local).loss
    assert loss > 0
    assert found.delta == pytest.approx([6 / 8, 6 / 8 * loss / 100], rel=1e-6)
    assert (found.steps, found.loss_first) == (0, loss)


@pytest.mark.parametrize(("low", "high", "expected"), [(1e5, 2e5, 0.0), (-2.0, -1.0, 1.0)])
def test_a_measure_out_of_its_range_is_held_within(low: float, high: float, expected: float) -> None:
    model, _asked = linear()
    plan = measuring(MetricRange(name="loss", low=low, high=high), most=3)
    found = train(model, LINEAR_WEIGHTS, plan, targets(6), _rng())
    assert found.delta.tolist() == [1.0, expected], "six examples weigh no more than the plan's three"


def test_a_measuring_run_in_slices_leaves_the_weights_as_they_came() -> None:
    model, asked = linear()
    plan = measuring(MetricRange(name="loss", low=0.0, high=100.0))
    saved: list[Any] = []
    first = beginning(model, LINEAR_WEIGHTS, "0" * 32, 5, _rng())
    with pytest.raises(Interrupted):
        resume(model, LINEAR_WEIGHTS, plan, targets(6), first, save=saved.append, stop=lambda: Outcome.IN_USE)
    found = resume(model, LINEAR_WEIGHTS, plan, targets(6), first, save=saved.append)
    assert (saved, asked.inputs_of("train")) == ([], [])
    assert found.weights.tobytes() == LINEAR_WEIGHTS.tobytes()
    assert found.delta.tolist() == train(model, LINEAR_WEIGHTS, plan, targets(6), _rng()).delta.tolist()


def test_a_metric_that_the_model_does_not_have_is_refused() -> None:
    model, _asked = linear()
    with pytest.raises(InvalidPlan, match="does not measure 'beauty'"):
        train(model, LINEAR_WEIGHTS, measuring(MetricRange(name="beauty", low=0.0, high=1.0)), targets(6), _rng())


def _rng() -> np.random.Generator:
    return np.random.default_rng(3)


@pytest.mark.parametrize("changes", [{"slots": SLOTS}, {"seeded": True}, {"dynamic_batch": True}, {"proximal": True}])
def test_a_second_run_in_the_same_interpreter_gives_the_same_bits(changes: dict[str, Any]) -> None:
    model, _asked = linear(**changes)
    plan = replace(LINEAR_PLAN, proximal_mu=0.5 if "proximal" in changes else 0.0)
    first, second = (
        train(model, LINEAR_WEIGHTS, plan, targets(7), np.random.default_rng(3)).delta.tobytes() for _run in range(2)
    )
    assert first == second


def test_momentum_takes_part_in_training() -> None:
    plain, heavy = (
        train(linear(slots=slots)[0], LINEAR_WEIGHTS, LINEAR_PLAN, targets(7), np.random.default_rng(3)).delta
        for slots in ((), SLOTS)
    )
    assert np.linalg.norm(heavy - plain) > 0.1


def test_a_plan_with_a_proximal_term_that_the_graph_lacks_is_refused() -> None:
    model, asked = linear()
    with pytest.raises(InvalidPlan, match="without the FedProx term"):
        train(model, LINEAR_WEIGHTS, replace(LINEAR_PLAN, proximal_mu=0.5), targets(7), np.random.default_rng(3))
    assert not asked.inputs_of("train")
