"""The contract of every trainable model: its signatures, as TensorFlow functions over the model's variables.

| signature | inputs | outputs |
|---|---|---|
| train | x, y, mask (1: real, 0: padding), lr; mu and seed if the manifest says so | loss, metric sums |
| evaluate | x, y, mask | loss_sum, metric sums, count |
| infer | x | outputs by name |
| begin_round | – | ok; copies the weights to the anchor, resets the optimiser's slots |
| delta | clip | trained minus anchor for each shared tensor, scaled to a norm of at most clip; norm before that |
| get_weights, set_weights | – / tensors by name | tensors by name / ok |
| get_slots, set_slots | – / slots by name | slots by name / ok; only where the optimiser has slots |
| accumulate | one example as x and y, clip; seed if the manifest says so | norm; adds its clipped gradient up |
| apply | lr, count | ok; takes lr / count times what was added up, and begins anew |

`accumulate` and `apply` are example-level DP-SGD, on request. Noise is the host's part.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import tensorflow as tf

from edge_runtime.protocol.bundle import Tensor
from model_export import objectives, optimizers
from model_export.errors import UnsupportedModel
from model_export.gradients import Emission, Trace
from model_export.spec import ExportSpec
from model_export.steps import Step, Values, batch_specs, called, traced_losses
from model_export.subject import Subject, Weight, unrolled

Outputs = dict[str, tf.Tensor]

_NO_NORM: Final = 1e-12
"""Below this, a norm is not divided by."""


class Signatures:
    """The signatures of one model.

    Attributes:
        weights: The model's, in the manifest's order.
        trained: Those that training changes, statistics of batches among them.
        learned: Those of them that have a gradient.
        slots: Of the optimiser, in the manifest's order.
        seeded: Whether training draws random numbers.
        outputs: Of `infer`, by name: their shapes, the batch first.
    """

    def __init__(self, subject: Subject, spec: ExportSpec) -> None:
        self.subject = subject
        self.spec = spec
        self.weights = subject.weights
        self.trained = [weight for weight in self.weights if weight.tensor.trainable]
        self.learned = [weight for weight in self.weights if weight.learned]
        self.slots = optimizers.slots_of(spec.optimizer, [weight.tensor for weight in self.learned])
        self.anchors = {weight.variable.ref(): _zeros(weight.tensor) for weight in self.trained}
        self.slot_variables = [_zeros(slot) for slot in self.slots]
        if spec.private_steps:
            _refuse_statistics(self.trained)
        self.sums = [_zeros(weight.tensor) for weight in self.learned] if spec.private_steps else []
        self._batch = None if spec.dynamic_batch else spec.batch_size
        with unrolled(subject.module):
            self._step = Step(subject, spec, self._batch)
            self._single = Step(subject, spec, 1) if self.sums else self._step
            self._evaluation = traced_losses(subject, spec, self._batch, training=False)
            self._inference = Trace(self._infer, batch_specs(spec, self._batch)[:1])
        self.seeded = self._step.seeded
        self.outputs = self._inference.shapes

    def functions(self) -> dict[str, Any]:
        """Every signature as an untraced `tf.function`, by name."""
        x, y, mask = batch_specs(self.spec, self._batch)
        scalars = {name: tf.TensorSpec((), tf.float32, name=name) for name in ("lr", "mu", "clip", "count")}
        seed = [tf.TensorSpec((), tf.int32, name="seed")] if self.seeded else []
        mu = [scalars["mu"]] if self.spec.proximal else []
        signatures: dict[str, tuple[Callable[..., Outputs], list[tf.TensorSpec]]] = {
            "train": (self.train, [x, y, mask, scalars["lr"], *mu, *seed]),
            "evaluate": (self.evaluate, [x, y, mask]),
            "infer": (self.infer, [x]),
            "begin_round": (self.begin_round, []),
            "delta": (self.delta, [scalars["clip"]]),
            "get_weights": (self.get_weights, []),
            "set_weights": (self.set_weights, [_spec_of(weight.tensor) for weight in self.weights]),
        }
        if self.slots:
            signatures["get_slots"] = (self.get_slots, [])
            signatures["set_slots"] = (self.set_slots, [_spec_of(slot) for slot in self.slots])
        if self.sums:
            one_x, one_y, _ = batch_specs(self.spec, 1)
            signatures["accumulate"] = (self.accumulate, [one_x, one_y, scalars["clip"], *seed])
            signatures["apply"] = (self.apply, [scalars["lr"], scalars["count"]])
        return {
            name: tf.function(function, input_signature=inputs, autograph=False)
            for name, (function, inputs) in signatures.items()
        }

    def train(self, x: tf.Tensor, y: tf.Tensor, mask: tf.Tensor, lr: tf.Tensor, *others: tf.Tensor) -> Outputs:
        """One step on the mean loss of the real examples, plus mu/2 · ‖w - anchor‖² (FedProx).

        Source: https://arxiv.org/abs/1812.06127.
        """
        given = list(others)
        mu = given.pop(0) if self.spec.proximal else None
        seed = given.pop(0) if self.seeded else None
        values = Values()
        count = tf.maximum(tf.reduce_sum(mask), 1.0)
        rate = lr if optimizers.folds_rate(self.spec.optimizer) else tf.constant(1.0)
        taken = self._step.differentiated([x, y, mask], values, seed, rate / count)
        gradients = taken.gradients
        weights = [values.of(weight.variable) for weight in self.learned]
        if mu is not None:
            anchors = [self.anchors[weight.variable.ref()] for weight in self.learned]
            gradients = [g + rate * mu * (w - a) for g, w, a in zip(gradients, weights, anchors, strict=True)]
        slots = [values.of(slot) for slot in self.slot_variables]
        stepped = optimizers.step(self.spec.optimizer, weights, gradients, slots, lr)
        _assign([weight.variable for weight in self.learned], stepped.weights)
        _assign(self.slot_variables, stepped.slots)
        for variable, value in taken.updates:
            variable.assign(value)
        return {"loss": taken.sums.pop("loss_sum") / count, **taken.sums}

    def evaluate(self, x: tf.Tensor, y: tf.Tensor, mask: tf.Tensor) -> Outputs:
        """Sums over the real examples."""
        outputs = Emission(self._evaluation, [x, y, mask], Values().of).outputs
        return {**outputs, "count": tf.reduce_sum(mask)}

    def infer(self, x: tf.Tensor) -> Outputs:
        return Emission(self._inference, [x], Values().of).outputs

    def begin_round(self) -> Outputs:
        for weight in self.trained:
            self.anchors[weight.variable.ref()].assign(weight.variable)
        for variable in (*self.slot_variables, *self.sums):
            variable.assign(tf.fill(variable.shape, 0.0))
        return _ok()

    def delta(self, clip: tf.Tensor) -> Outputs:
        """Changes of the shared tensors since `begin_round`, clipped together."""
        changes = {
            weight.tensor.name: weight.variable - self.anchors[weight.variable.ref()]
            for weight in self.trained
            if weight.tensor.shared
        }
        norm, scale = _clipping(list(changes.values()), clip)
        return {**{name: change * scale for name, change in changes.items()}, "norm": norm}

    def get_weights(self) -> Outputs:
        return {weight.tensor.name: tf.identity(weight.variable.read_value()) for weight in self.weights}

    def set_weights(self, *values: tf.Tensor) -> Outputs:
        _assign([weight.variable for weight in self.weights], values)
        return _ok()

    def get_slots(self) -> Outputs:
        pairs = zip(self.slots, self.slot_variables, strict=True)
        return {slot.name: tf.identity(variable.read_value()) for slot, variable in pairs}

    def set_slots(self, *values: tf.Tensor) -> Outputs:
        _assign(self.slot_variables, values)
        return _ok()

    def accumulate(self, x: tf.Tensor, y: tf.Tensor, clip: tf.Tensor, *seed: tf.Tensor) -> Outputs:
        """Add up one example's gradient, clipped to a norm of at most `clip`.

        Source: https://arxiv.org/abs/1607.00133, algorithm 1.
        """
        mask, given = tf.constant([1.0]), seed[0] if seed else None
        gradients = self._single.differentiated([x, y, mask], Values(), given, tf.constant(1.0)).gradients
        norm, scale = _clipping(gradients, clip)
        for total, gradient in zip(self.sums, gradients, strict=True):
            total.assign_add(gradient * scale)
        return {"norm": norm}

    def apply(self, lr: tf.Tensor, count: tf.Tensor) -> Outputs:
        """Step along what was added up, over a fixed count."""
        for weight, total in zip(self.learned, self.sums, strict=True):
            weight.variable.assign_sub(total.read_value() * (lr / count))
            total.assign(tf.fill(total.shape, 0.0))
        return _ok()

    def _infer(self, x: tf.Tensor) -> Outputs:
        return objectives.named_outputs(called(self.subject, self.spec, x, False), self.spec)


def _refuse_statistics(trained: Sequence[Weight]) -> None:
    """Statistics of a batch mix its examples: there is no gradient of one example that hides it."""
    for weight in trained:
        if weight.statistic:
            raise UnsupportedModel(
                f"{weight.path} follows the statistics of whole batches, and private steps hide single examples; "
                "use GroupNormalization or LayerNormalization, or freeze that layer"
            )


def _clipping(values: Sequence[tf.Tensor], clip: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The L2 norm of all values together, and the factor that makes it at most `clip`."""
    norm = tf.sqrt(tf.add_n([_squares(value) for value in values]))
    return norm, tf.minimum(1.0, clip / tf.maximum(norm, _NO_NORM))


def _squares(value: tf.Tensor) -> tf.Tensor:
    """The sum of the squares, side after side: added up one by one, as tflite-runtime does, millions lose digits."""
    total = value * value
    while total.shape.rank:
        total = tf.reduce_sum(total, -1)
    return total


def _assign(variables: Sequence[tf.Variable], values: Sequence[tf.Tensor]) -> None:
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


def _zeros(tensor: Tensor) -> tf.Variable:
    return tf.Variable(tf.zeros(tensor.shape), trainable=False)


def _spec_of(tensor: Tensor) -> tf.TensorSpec:
    return tf.TensorSpec(tensor.shape, tf.float32, name=tensor.name)


def _ok() -> Outputs:
    return {"ok": tf.constant(1)}
