"""Records training as TensorFlow does it with its own gradients: what `verify` compares a bundle with.

Nothing here comes from our rules or optimizers: `tf.GradientTape` differentiates the model as it is, recurrent layers
in their loops, and `keras.optimizers` takes the step. Only random numbers cannot be repeated by TensorFlow: for a model
that draws some, the forward pass is the one we emit, and TensorFlow differentiates it with gradients of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import keras
import numpy as np
import tensorflow as tf

from edge_runtime.protocol.bundle import SEED_LIMIT, Manifest
from model_export import objectives
from model_export.examples import random_batch, table_rows
from model_export.spec import Adam, ExportSpec, Sgd
from model_export.steps import Step as TrainingStep
from model_export.steps import Values
from model_export.subject import Subject, subject, unrolled
from model_export.verify import Answer, Array, PrivateStep, Recording, Step

Sums = dict[str, tf.Tensor]
Differentiate = Callable[..., tuple[Sums, list[tf.Tensor], list[tf.Tensor]]]
"""From x, y, mask and a seed to sums over the real examples, gradients of the loss's sum, and new statistics."""

_PRIVATE_EXAMPLES: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """How to train while recording.

    Attributes:
        steps: How many; the last one's batch is half padding.
        learning_rate: Of every step.
        mu: Weight of the FedProx term, where the bundle has one.
        sizes: Examples of each step's batch in turn, for a bundle that takes any number; None for full batches.
    """

    steps: int = 3
    learning_rate: float = 0.1
    mu: float = 0.5
    sizes: tuple[int, ...] | None = None


def record(
    model: keras.Model | tf.Module, spec: ExportSpec, manifest: Manifest, course: Course, rng: np.random.Generator
) -> Recording:
    """Train a model on random examples and labels, evaluate it and run it. Its weights change.

    Args:
        model: With the weights that were exported.
        manifest: Of its bundle.
        rng: Draws the examples.
    """
    made = subject(model, spec)
    oracle = _Oracle(made, spec, manifest, course.learning_rate)
    rows = table_rows(model)
    sizes = course.sizes or (spec.batch_size,)

    def batch(index: int) -> dict[str, Array]:
        count = sizes[index % len(sizes)]
        mask = np.ones(count, np.float32)
        if index == course.steps - 1:
            mask[(count + 1) // 2 :] = 0
        return {**random_batch(spec, made.inputs, rows, count, rng), "mask": mask}

    answers = oracle.answers(batch(course.steps - 1))
    private = oracle.private_step([batch(0) for _ in range(_PRIVATE_EXAMPLES)], rng) if spec.private_steps else None
    anchor = oracle.weights()
    steps = tuple(oracle.step(batch(index), anchor, course, rng) for index in range(course.steps))
    return Recording(steps=steps, answers=answers, private=private)


class _Oracle:
    """A model, TensorFlow's gradients and Keras' optimizer."""

    def __init__(self, made: Subject, spec: ExportSpec, manifest: Manifest, learning_rate: float) -> None:
        self._made, self._spec, self._manifest = made, spec, manifest
        self._learned = [weight for weight in made.weights if weight.learned]
        self._statistics = [weight for weight in made.weights if weight.tensor.trainable and not weight.learned]
        self._shadows = [keras.Variable(weight.variable.numpy()) for weight in self._learned]
        self._optimizer = _optimizer(spec.optimizer, learning_rate)
        self._optimizer.build(self._shadows)
        differentiate = self._with_our_numbers() if manifest.seeded else self._as_it_is
        self._differentiate = tf.function(differentiate, autograph=False, reduce_retracing=True)

    def weights(self) -> dict[str, Array]:
        return {weight.tensor.name: np.array(weight.variable.numpy()) for weight in self._made.weights}

    def answers(self, batch: dict[str, Array]) -> tuple[Answer, ...]:
        """Of `evaluate` and `infer`."""

        def answer(x: tf.Tensor, y: tf.Tensor, mask: tf.Tensor) -> tuple[Sums, Sums]:
            outputs = self._made.call(x, False)
            sums = _sums(objectives.trained_output(outputs, self._spec), y, mask, self._spec)
            return {**sums, "count": tf.reduce_sum(mask)}, objectives.named_outputs(outputs, self._spec)

        sums, outputs = tf.function(answer, autograph=False)(*(tf.constant(batch[name]) for name in ("x", "y", "mask")))
        return (
            Answer("evaluate", batch, _arrays(sums)),
            Answer("infer", {"x": batch["x"]}, _arrays(outputs)),
        )

    def step(self, batch: dict[str, Array], anchor: dict[str, Array], course: Course, rng: np.random.Generator) -> Step:
        """Take one step, and write it down."""
        before, slots_before = self.weights(), self._slots(course.learning_rate)
        given = {**batch, "lr": np.array(course.learning_rate, np.float32), **self._seed(rng)}
        sums, gradients = self._gradients(batch, given)
        count = max(float(batch["mask"].sum()), 1.0)
        noise = self._noise(batch, given, before, sums, gradients, count, rng)
        gradients = [gradient / count for gradient in gradients]
        if self._spec.proximal:
            given["mu"] = np.array(course.mu, np.float32)
            pairs = zip(gradients, self._learned, strict=True)
            gradients = [
                gradient + course.mu * (weight.variable - anchor[weight.tensor.name]) for gradient, weight in pairs
            ]
        for shadow, weight in zip(self._shadows, self._learned, strict=True):
            shadow.assign(weight.variable)
        self._optimizer.apply(gradients, self._shadows)
        for shadow, weight in zip(self._shadows, self._learned, strict=True):
            weight.variable.assign(shadow.value)
        outputs = _arrays(sums)
        outputs["loss"] = outputs.pop("loss_sum") / np.float32(count)
        return Step(given, outputs, before, self.weights(), slots_before, self._slots(course.learning_rate), noise)

    def _noise(
        self,
        batch: dict[str, Array],
        given: dict[str, Array],
        before: dict[str, Array],
        sums: Sums,
        gradients: Sequence[tf.Tensor],
        count: float,
        rng: np.random.Generator,
    ) -> dict[str, Array]:
        """How far everything moves when weights and features are moved by one rounding; the weights are put back.

        Adam divides a gradient by its own size, so nothing is said of the weights then.
        """
        kept = self.weights()
        self._put({name: _moved(value, rng) for name, value in before.items()})
        sums_moved, gradients_moved = self._gradients({**batch, "x": _moved(batch["x"], rng)}, given)
        moved = self.weights()
        self._put(kept)
        found = {name: abs(float(sums_moved[name]) - float(value)) for name, value in sums.items()}
        found["loss"] = found.pop("loss_sum") / count
        found |= {name: float(np.abs(moved[name] - kept[name]).max()) for name in self._moving}
        rate = float(given["lr"])
        for weight, one, other in zip(self._learned, gradients, gradients_moved, strict=True):
            apart = float(tf.reduce_max(tf.abs(other - one))) / count
            name = weight.tensor.name
            if isinstance(self._spec.optimizer, Adam):
                largest = float(tf.reduce_max(tf.abs(one))) / count
                found |= {f"adam_m_{name}": apart, f"adam_v_{name}": 2 * largest * apart}
            else:
                found |= {name: rate * apart, f"momentum_{name}": apart}
        return {name: np.array(value) for name, value in found.items()}

    def private_step(self, batches: Sequence[dict[str, Array]], rng: np.random.Generator) -> PrivateStep:
        """Clip and add up the gradients of single examples, and take a step; the model keeps its weights."""
        before = self.weights()
        examples: list[dict[str, Array]] = []
        norms: list[float] = []
        total = [np.zeros(weight.tensor.shape, np.float64) for weight in self._learned]
        for batch in batches:
            one = {"x": batch["x"][:1], "y": batch["y"][:1], **self._seed(rng)}
            _sums_of_one, gradients = self._gradients({**one, "mask": np.ones(1, np.float32)}, one)
            norm = float(np.sqrt(sum(float(np.square(g.numpy().astype(np.float64)).sum()) for g in gradients)))
            clip = np.array(norm * (0.5 if len(norms) % 2 else 2.0), np.float32)  # every other one is clipped
            total = [t + g.numpy() * min(1.0, float(clip) / norm) for t, g in zip(total, gradients, strict=True)]
            examples.append({**one, "clip": clip})
            norms.append(norm)
        lr, count = 0.5, 2.0
        after = dict(before)
        for weight, one_total in zip(self._learned, total, strict=True):
            name = weight.tensor.name
            after[name] = (before[name] - lr / count * one_total).astype(np.float32)
        self._put(before)
        applied = {"lr": np.array(lr, np.float32), "count": np.array(count, np.float32)}
        return PrivateStep(tuple(examples), tuple(norms), applied, before, after)

    def _gradients(self, batch: dict[str, Array], given: dict[str, Array]) -> tuple[Sums, list[tf.Tensor]]:
        """Of the loss's sum; what the batch did to statistics that do not train is undone."""
        before = self.weights()
        seed = tf.constant(given.get("seed", np.array(0, np.int32)))
        tensors = (tf.constant(batch[name]) for name in ("x", "y", "mask"))
        sums, gradients, statistics = self._differentiate(*tensors, seed)
        for weight, value in zip(self._statistics, statistics, strict=False):
            weight.variable.assign(value)
        self._put({name: value for name, value in before.items() if name not in self._moving})
        return sums, gradients

    @property
    def _moving(self) -> frozenset[str]:
        return frozenset(weight.tensor.name for weight in self._statistics)

    def _put(self, values: dict[str, Array]) -> None:
        for weight in self._made.weights:
            if weight.tensor.name in values:
                weight.variable.assign(values[weight.tensor.name])

    def _seed(self, rng: np.random.Generator) -> dict[str, Array]:
        return {"seed": np.array(rng.integers(SEED_LIMIT), np.int32)} if self._manifest.seeded else {}

    def _as_it_is(
        self, x: tf.Tensor, y: tf.Tensor, mask: tf.Tensor, seed: tf.Tensor
    ) -> tuple[Sums, list[tf.Tensor], list[tf.Tensor]]:
        """The model itself, which moves its statistics as Keras does."""
        with tf.GradientTape() as tape:
            outputs = objectives.trained_output(self._made.call(x, True), self._spec)
            sums = _sums(outputs, y, mask, self._spec)
        gradients = tape.gradient(sums["loss_sum"], [weight.variable for weight in self._learned])
        return sums, [tf.convert_to_tensor(gradient) for gradient in gradients], []

    def _with_our_numbers(self) -> Differentiate:
        """The forward pass of our own step, which the random numbers are a part of; the gradients are TensorFlow's."""
        with unrolled(self._made.module):
            whole = TrainingStep(self._made, self._spec, None if self._spec.dynamic_batch else self._spec.batch_size)
            single = TrainingStep(self._made, self._spec, 1) if self._spec.private_steps else whole

        def differentiate(
            x: tf.Tensor, y: tf.Tensor, mask: tf.Tensor, seed: tf.Tensor
        ) -> tuple[Sums, list[tf.Tensor], list[tf.Tensor]]:
            step, values = single if x.shape[0] == 1 else whole, Values()
            emitted = step.differentiated([x, y, mask], values, seed, tf.constant(1.0))
            learned = [values.of(weight.variable) for weight in self._learned]
            gradients = tf.gradients(emitted.sums["loss_sum"], learned)
            updates = {variable.ref(): value for variable, value in emitted.updates}
            return (
                emitted.sums,
                [tf.convert_to_tensor(gradient) for gradient in gradients],
                [updates[weight.variable.ref()] for weight in self._statistics],
            )

        return differentiate

    def _slots(self, learning_rate: float) -> dict[str, Array]:
        """What our bundle would hold: Keras' momentum is ours times the negative learning rate."""
        optimizer, names = self._optimizer, [slot.name for slot in self._manifest.slots]
        if isinstance(self._spec.optimizer, Adam):
            values = [*optimizer._momentums, *optimizer._velocities]
            steps = np.array(optimizer.iterations.numpy(), np.float32)
            return dict(zip(names, [*(one.numpy() for one in values), steps], strict=True))
        if not self._spec.optimizer.momentum:
            return {}
        values = [(-one.numpy() / np.float32(learning_rate)).astype(np.float32) for one in optimizer.momentums]
        return dict(zip(names, values, strict=True))


def _optimizer(kind: Sgd | Adam, learning_rate: float) -> Any:
    if isinstance(kind, Adam):
        return keras.optimizers.Adam(learning_rate, kind.beta_1, kind.beta_2, kind.epsilon)
    return keras.optimizers.SGD(learning_rate, momentum=kind.momentum)


def _sums(outputs: tf.Tensor, y: tf.Tensor, mask: tf.Tensor, spec: ExportSpec) -> Sums:
    """The loss and the metrics, over the real examples."""
    objective = objectives.LOSSES[spec.loss] if isinstance(spec.loss, str) else spec.loss
    values = {"loss_sum": objectives.per_example(objective, outputs, y)}
    for metric in spec.metrics:
        values[metric.value] = objectives.per_example(objectives.METRICS[metric], outputs, y)
    return {name: tf.reduce_sum(value * mask) for name, value in values.items()}


def _moved(values: Array, rng: np.random.Generator) -> Array:
    """Each value up or down by one rounding; whole numbers stay."""
    if values.dtype != np.float32:
        return values
    found: Array = (values * (1 + 2.0**-23 * rng.choice([-1.0, 1.0], values.shape))).astype(np.float32)
    return found


def _arrays(tensors: Sums) -> dict[str, Array]:
    return {name: np.array(tensor.numpy()) for name, tensor in tensors.items()}
