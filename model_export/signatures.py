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
from model_export.errors import UnsupportedModel, unsupported
from model_export.gradients import Emission, Trace
from model_export.gradients.trace import Key
from model_export.spec import ExportSpec
from model_export.subject import Subject, unrolled

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
        self.sums = [_zeros(weight.tensor) for weight in self.learned] if spec.private_steps else []
        self._batch = None if spec.dynamic_batch else spec.batch_size
        with unrolled(subject.module):
            self._training = self._trace_losses(self._batch, training=True)
            self._evaluation = self._trace_losses(self._batch, training=False)
            self._single = self._trace_losses(1, training=True) if self.sums else self._training
            self._inference = Trace(self._infer, [self._batch_specs(self._batch)[0]])
        self.seeded = self._training.draws
        self.outputs = self._inference.shapes

    def functions(self) -> dict[str, Any]:
        """Every signature as an untraced `tf.function`, by name."""
        x, y, mask = self._batch_specs(self._batch)
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
            one_x, one_y, _ = self._batch_specs(1)
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
        values = _Values()
        count = tf.maximum(tf.reduce_sum(mask), 1.0)
        rate = lr if optimizers.folds_rate(self.spec.optimizer) else tf.constant(1.0)
        emission, gradients = self._differentiated(
            self._training, [x, y, mask], values, given.pop(0) if self.seeded else None, rate / count
        )
        weights = [values.of(weight.variable) for weight in self.learned]
        if mu is not None:
            anchors = [self.anchors[weight.variable.ref()] for weight in self.learned]
            gradients = [g + rate * mu * (w - a) for g, w, a in zip(gradients, weights, anchors, strict=True)]
        slots = [values.of(slot) for slot in self.slot_variables]
        stepped = optimizers.step(self.spec.optimizer, weights, gradients, slots, lr)
        _assign([weight.variable for weight in self.learned], stepped.weights)
        _assign(self.slot_variables, stepped.slots)
        _assign([self._training.variables[key] for key in emission.updates], list(emission.updates.values()))
        sums = dict(emission.outputs)
        return {"loss": sums.pop("loss_sum") / count, **sums}

    def evaluate(self, x: tf.Tensor, y: tf.Tensor, mask: tf.Tensor) -> Outputs:
        """Sums over the real examples."""
        outputs = Emission(self._evaluation, [x, y, mask], _Values().of).outputs
        return {**outputs, "count": tf.reduce_sum(mask)}

    def infer(self, x: tf.Tensor) -> Outputs:
        return Emission(self._inference, [x], _Values().of).outputs

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
        one = tf.constant([1.0])
        _, gradients = self._differentiated(
            self._single, [x, y, one], _Values(), seed[0] if seed else None, tf.constant(1.0)
        )
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

    def _differentiated(
        self, trace: Trace, inputs: Sequence[tf.Tensor], values: _Values, seed: tf.Tensor | None, upstream: tf.Tensor
    ) -> tuple[Emission, list[tf.Tensor]]:
        """Emit a training trace, and the gradients of the learned weights for this gradient of the loss's sum."""
        keys = {variable.ref(): key for key, variable in trace.variables.items()}
        wanted: list[Key] = []
        for weight in self.learned:
            if weight.variable.ref() not in keys:
                raise _no_influence(weight.tensor)
            wanted.append(keys[weight.variable.ref()])
        statistics = [key for key in trace.updates if trace.variables[key].ref() in self.anchors]
        emission = Emission(trace, inputs, values.of, trained=wanted, updated=statistics, seed=seed)
        found = []
        for weight, gradient in zip(self.learned, emission.gradients({"loss_sum": upstream}, wanted), strict=True):
            if gradient is None:
                raise _no_influence(weight.tensor)
            found.append(gradient)
        return emission, found

    def _trace_losses(self, batch: int | None, *, training: bool) -> Trace:
        objective = objectives.LOSSES[self.spec.loss] if isinstance(self.spec.loss, str) else self.spec.loss

        def losses(x: tf.Tensor, y: tf.Tensor, mask: tf.Tensor) -> Outputs:
            outputs = objectives.trained_output(self._called(x, training), self.spec)
            values = {"loss_sum": objectives.per_example(objective, outputs, y)}
            for metric in self.spec.metrics:
                values[metric.value] = objectives.per_example(objectives.METRICS[metric], outputs, y)
            return {name: tf.reduce_sum(value * mask) for name, value in values.items()}

        return Trace(losses, self._batch_specs(batch))

    def _infer(self, x: tf.Tensor) -> Outputs:
        return objectives.named_outputs(self._called(x, False), self.spec)

    def _called(self, x: tf.Tensor, training: bool) -> tf.Tensor:
        outputs = self.subject.call(x, training)
        if not isinstance(outputs, tf.Tensor):
            raise UnsupportedModel("the model gives several outputs; export one that gives the output to be trained")
        objectives.check_labels(tuple(outputs.shape.as_list()), self.spec)
        return outputs

    def _batch_specs(self, batch: int | None) -> list[tf.TensorSpec]:
        features, labels = self.spec.features, self.spec.labels
        return [
            tf.TensorSpec((batch, *features.shape), features.dtype, name="x"),
            tf.TensorSpec((batch, *labels.shape), labels.dtype, name="y"),
            tf.TensorSpec((batch,), tf.float32, name="mask"),
        ]


class _Values:
    """Reads every variable once."""

    def __init__(self) -> None:
        self._read: dict[Any, tf.Tensor] = {}

    def of(self, variable: tf.Variable) -> tf.Tensor:
        key = variable.ref()
        if key not in self._read:
            self._read[key] = variable.read_value()
        return self._read[key]


def _clipping(values: Sequence[tf.Tensor], clip: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The L2 norm of all values together, and the factor that makes it at most `clip`."""
    norm = tf.sqrt(tf.add_n([tf.reduce_sum(value * value) for value in values]))
    return norm, tf.minimum(1.0, clip / tf.maximum(norm, _NO_NORM))


def _assign(variables: Sequence[tf.Variable], values: Sequence[tf.Tensor]) -> None:
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


def _zeros(tensor: Tensor) -> tf.Variable:
    return tf.Variable(tf.zeros(tensor.shape), trainable=False)


def _spec_of(tensor: Tensor) -> tf.TensorSpec:
    return tf.TensorSpec(tensor.shape, tf.float32, name=tensor.name)


def _ok() -> Outputs:
    return {"ok": tf.constant(1)}


def _no_influence(tensor: Tensor) -> UnsupportedModel:
    return unsupported(f"the weights {tensor.name} have no influence on the model's output")
