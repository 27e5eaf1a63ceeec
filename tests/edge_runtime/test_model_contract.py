"""What a model asks of its graph for each switch of the manifest, held against a linear model in numpy."""

from __future__ import annotations

import numpy as np
import pytest

from edge_runtime.examples import Examples
from edge_runtime.model import Evaluation, Model
from edge_runtime.protocol.bundle import SEED_LIMIT, Bundle, Manifest
from edge_runtime.protocol.errors import InvalidExamples, InvalidPlan, InvalidWeights, MalformedBundle
from tests.edge_runtime.linear import BATCH, MANIFEST, PRIVATE_STEPS, SLOTS, Linear, linear, targets

WEIGHTS = np.linspace(-1, 1, MANIFEST.parameters, dtype=np.float32)
PRIVATE = (*MANIFEST.signatures, *PRIVATE_STEPS)


def errors_of(local: Examples) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """Output minus label at `WEIGHTS`, in float64."""
    kernel, bias = WEIGHTS[:6].reshape(3, 2).astype(np.float64), WEIGHTS[6:]
    errors: np.ndarray[tuple[int, int], np.dtype[np.float64]] = local.x @ kernel + bias - local.y
    return errors


@pytest.mark.parametrize("count", range(1, BATCH + 1))
def test_a_fixed_batch_is_filled_with_the_first_example_and_masked(count: int) -> None:
    model, asked = linear()
    local = targets(count)
    model.train_step(local.x, local.y, 0.1)
    (inputs,) = asked.inputs_of("train")
    filled = [*range(count), *[0] * (BATCH - count)]
    assert (inputs["x"] == local.x[filled]).all()
    assert (inputs["y"] == local.y[filled]).all()
    assert inputs["mask"].tolist() == [1] * count + [0] * (BATCH - count)


@pytest.mark.parametrize("count", range(1, BATCH + 1))
def test_a_dynamic_batch_is_taken_as_it_is(count: int) -> None:
    model, asked = linear(dynamic_batch=True)
    local = targets(count)
    model.train_step(local.x, local.y, 0.1)
    (inputs,) = asked.inputs_of("train")
    assert (inputs["x"] == local.x).all()
    assert (inputs["y"] == local.y).all()
    assert inputs["mask"].tolist() == [1] * count


@pytest.mark.parametrize("count", range(1, BATCH + 1))
def test_a_step_is_the_same_with_and_without_padding(count: int) -> None:
    local, found = targets(count), []
    for dynamic in (False, True):
        model, _asked = linear(dynamic_batch=dynamic)
        model.set_weights(WEIGHTS)
        loss = model.train_step(local.x, local.y, 0.1)
        found.append(np.array([loss, *model.get_weights()]))
    assert found[0][0] == pytest.approx((errors_of(local) ** 2).mean())
    assert found[0] == pytest.approx(found[1], rel=1e-5)


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("count", [0, BATCH + 1])
def test_no_examples_and_more_than_a_batch_are_refused(count: int, dynamic: bool) -> None:
    model, asked = linear(dynamic_batch=dynamic)
    local = targets(count)
    with pytest.raises(InvalidExamples, match=f"{count} examples in a batch of 1 to {BATCH}"):
        model.train_step(local.x, local.y, 0.1)
    assert not asked.asked


def test_a_label_of_another_shape_dtype_or_range_never_reaches_the_graph() -> None:
    model, asked = linear()
    local = targets(2)
    for wrong in (local.y[:, :1], local.y.astype(np.float64), local.y[:1], local.y * 0, local.y * np.float32(np.nan)):
        with pytest.raises(InvalidExamples):
            model.train_step(local.x, wrong, 0.1)
    assert not asked.asked


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("count", [1, BATCH, 2 * BATCH + 1])
def test_an_evaluation_is_the_mean_of_loss_and_of_every_metric(count: int, dynamic: bool) -> None:
    model, _asked = linear(dynamic_batch=dynamic)
    model.set_weights(WEIGHTS)
    local = targets(count)
    found = model.evaluate(local)
    errors = errors_of(local)
    assert found.count == count
    assert found.loss == pytest.approx((errors**2).mean())
    assert found.metrics == pytest.approx({"absolute_error": np.abs(errors).mean(), "squared_error": found.loss})


def test_accuracy_is_the_share_of_correct_examples() -> None:
    assert Evaluation(0.5, {"correct": 0.75}, 4).accuracy == 0.75


@pytest.mark.parametrize(("metrics", "named"), [({"absolute_error": 1.0}, "absolute_error"), ({}, "none")])
def test_a_model_that_does_not_count_correct_examples_says_so(metrics: dict[str, float], named: str) -> None:
    with pytest.raises(LookupError, match=f"no metric 'correct'; it has {named}"):
        _ = Evaluation(0.5, metrics, 4).accuracy


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("count", [0, 1, BATCH, 2 * BATCH + 1])
def test_every_output_is_inferred_by_its_name(count: int, dynamic: bool) -> None:
    model, _asked = linear(dynamic_batch=dynamic)
    model.set_weights(WEIGHTS)
    local = targets(count)
    found = model.infer(local.x)
    expected = errors_of(local) + local.y
    assert {name: (value.shape, value.dtype) for name, value in found.items()} == {
        "targets": ((count, 2), np.dtype(np.float32)),
        "total": ((count,), np.dtype(np.float32)),
    }
    assert found["targets"] == pytest.approx(expected, rel=1e-5)
    assert found["total"] == pytest.approx(expected.sum(1), rel=1e-5)


def test_the_proximal_term_pulls_towards_the_anchor() -> None:
    model, asked = linear(proximal=True)
    local = targets(BATCH)
    model.set_weights(WEIGHTS)
    model.begin_round()
    moved = WEIGHTS + np.float32(0.5)
    found = []
    for mu in (0.0, 2.0):
        model.set_weights(moved)
        model.train_step(local.x, local.y, 0.1, mu)
        found.append(model.get_weights())
    assert found[0] - found[1] == pytest.approx(0.1 * 2.0 * (moved - WEIGHTS), rel=1e-4)
    assert [float(inputs["mu"]) for inputs in asked.inputs_of("train")] == [0, 2]


@pytest.mark.parametrize("mu", [0.1, -0.1, np.nan])
def test_a_proximal_term_that_the_graph_lacks_is_refused(mu: float) -> None:
    model, asked = linear()
    local = targets(BATCH)
    with pytest.raises(InvalidPlan, match="exported without the FedProx term"):
        model.train_step(local.x, local.y, 0.1, mu)
    assert not asked.asked


def test_the_seed_decides_what_is_dropped() -> None:
    def loss(seed: int) -> float:
        model, _asked = linear(seeded=True)
        model.set_weights(WEIGHTS)
        local = targets(BATCH)
        return model.train_step(local.x, local.y, 0.1, seed=seed)

    assert loss(1) == loss(1)
    assert loss(1) != loss(2)


@pytest.mark.parametrize("seed", [0, SEED_LIMIT - 1])
def test_a_seed_reaches_only_a_graph_that_takes_one(seed: int) -> None:
    local = targets(BATCH)
    for seeded in (False, True):
        model, asked = linear(seeded=seeded, signatures=PRIVATE)
        model.train_step(local.x, local.y, 0.1, seed=seed)
        model.accumulate(local.x[:1], local.y[:1], 1.0, seed=seed)
        taken = [int(inputs["seed"]) for _name, inputs in asked.asked if "seed" in inputs]
        assert taken == ([seed, seed] if seeded else [])


@pytest.mark.parametrize("seed", [-1, SEED_LIMIT])
def test_a_seed_out_of_its_range_is_a_mistake(seed: int) -> None:
    model, asked = linear(seeded=True, signatures=PRIVATE)
    local = targets(1)
    with pytest.raises(ValueError, match="a seed is 0 to 4194303"):
        model.train_step(local.x, local.y, 0.1, seed=seed)
    with pytest.raises(ValueError, match="a seed is 0 to 4194303"):
        model.accumulate(local.x, local.y, 1.0, seed=seed)
    assert not asked.asked


def test_slots_come_back_as_they_were_set() -> None:
    model, _asked = linear(slots=SLOTS)
    slots = np.random.default_rng(0).normal(size=8).astype(np.float32)
    assert model.manifest.slot_values == 8
    model.set_slots(slots)
    assert (model.get_slots() == slots).all()


def test_another_model_goes_on_where_weights_and_slots_were_taken() -> None:
    first, _asked = linear(slots=SLOTS)
    second, _asked = linear(slots=SLOTS)
    first.set_weights(WEIGHTS)
    for step in range(3):
        local = targets(BATCH, seed=step)
        first.train_step(local.x, local.y, 0.1)
    second.set_weights(first.get_weights())
    second.set_slots(first.get_slots())
    for model in (first, second):
        local = targets(BATCH, seed=3)
        model.train_step(local.x, local.y, 0.1)
    assert first.get_slots().any()
    assert (first.get_slots() == second.get_slots()).all()
    assert (first.get_weights() == second.get_weights()).all()


def test_plain_sgd_has_no_slots_and_is_not_asked_for_any() -> None:
    model, asked = linear()
    slots = model.get_slots()
    model.set_slots(slots)
    assert (slots.shape, slots.dtype) == ((0,), np.dtype(np.float32))
    assert not asked.asked


@pytest.mark.parametrize("wrong", [np.zeros(7, np.float32), np.zeros((1, 8), np.float32), np.zeros(8)])
def test_slots_of_another_shape_or_dtype_are_refused(wrong: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> None:
    model, asked = linear(slots=SLOTS)
    with pytest.raises(InvalidWeights, match=r"slots are float32 of shape \(8,\)"):
        model.set_slots(wrong)
    with pytest.raises(InvalidWeights, match=r"slots are float32 of shape \(0,\)"):
        linear()[0].set_slots(wrong)
    assert not asked.asked


def test_a_graph_without_a_signature_that_its_manifest_needs_is_malformed() -> None:
    def opened(manifest: Manifest) -> Model:
        return Model(Bundle(sha256="0" * 64, manifest=manifest, graph=b""), Linear(MANIFEST))

    assert opened(MANIFEST).manifest is MANIFEST
    with pytest.raises(MalformedBundle, match="lacks the signatures get_slots, set_slots"):
        opened(linear(slots=SLOTS)[0].manifest)
    with pytest.raises(MalformedBundle, match="lacks the signatures accumulate, apply"):
        opened(linear(signatures=PRIVATE)[0].manifest)


def test_a_private_step_is_the_mean_of_clipped_gradients() -> None:
    model, _asked = linear(signatures=PRIVATE)
    model.set_weights(WEIGHTS)
    local = targets(3)
    rows = np.concatenate([local.x, np.ones((3, 1))], axis=1)
    gradients = [np.outer(row, error).reshape(-1) for row, error in zip(rows, errors_of(local), strict=True)]
    norms = [float(np.linalg.norm(gradient)) for gradient in gradients]
    clip = sorted(norms)[1]
    found = [model.accumulate(local.x[one : one + 1], local.y[one : one + 1], clip) for one in range(3)]
    assert (model.get_weights() == WEIGHTS).all()
    model.apply(0.1, 2.5)
    clipped = [gradient * min(1, clip / norm) for gradient, norm in zip(gradients, norms, strict=True)]
    assert found == pytest.approx(norms, rel=1e-5)
    assert model.get_weights() == pytest.approx(WEIGHTS - 0.1 * sum(clipped) / 2.5, rel=1e-4)
    trained = model.get_weights()
    model.apply(0.1, 2.5)
    assert (model.get_weights() == trained).all()


@pytest.mark.parametrize("count", [0, 2, BATCH])
def test_only_one_example_at_a_time_is_accumulated(count: int) -> None:
    model, asked = linear(signatures=PRIVATE)
    local = targets(count)
    with pytest.raises(InvalidExamples, match=f"{count} examples where one at a time"):
        model.accumulate(local.x, local.y, 1.0)
    assert not asked.asked


@pytest.mark.parametrize("bad", [0.0, -1.0, np.nan, np.inf, 1e-300, 1e300])
def test_a_clip_or_count_that_is_not_a_positive_float32_is_refused(bad: float) -> None:
    model, asked = linear(signatures=PRIVATE)
    local = targets(1)
    with pytest.raises(InvalidPlan, match="clip"):
        model.accumulate(local.x, local.y, bad)
    with pytest.raises(InvalidPlan, match="count"):
        model.apply(0.1, bad)
    assert not asked.asked


def test_private_steps_that_the_graph_lacks_are_refused() -> None:
    model, asked = linear()
    local = targets(1)
    with pytest.raises(InvalidPlan, match="exported without private steps"):
        model.accumulate(local.x, local.y, 1.0)
    with pytest.raises(InvalidPlan, match="exported without private steps"):
        model.apply(0.1, 1.0)
    assert not asked.asked
