"""One training step of a model: its loss, metrics and gradients over a batch, as a traced and lowered function."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import tensorflow as tf

from edge_runtime.protocol.bundle import Tensor
from model_export import objectives
from model_export.errors import UnsupportedModel, unsupported
from model_export.gradients import Emission, Trace, added_up
from model_export.gradients.rule import Share
from model_export.gradients.shapes import spread
from model_export.gradients.trace import Key
from model_export.spec import ExportSpec
from model_export.subject import Subject

_CACHED_BYTES: Final = 420_000
"""Of the largest layer's output for one part of a batch: with what is computed from it, it stays in a cache of 2 MB."""
_WORTH_PARTS_BYTES: Final = 1_000_000
"""From here on, a layer's output for the whole batch leaves the cache."""


class Values:
    """Reads every variable once."""

    def __init__(self) -> None:
        self._read: dict[Any, tf.Tensor] = {}

    def of(self, variable: tf.Variable) -> tf.Tensor:
        key = variable.ref()
        if key not in self._read:
            self._read[key] = variable.read_value()
        return self._read[key]


@dataclass(frozen=True, slots=True, eq=False)
class Differentiated:
    """A batch's sums, its gradients in the order of the learned weights, and new statistics by variable."""

    sums: dict[str, tf.Tensor]
    gradients: list[tf.Tensor]
    updates: list[tuple[tf.Variable, tf.Tensor]]


class Step:
    """The training step over batches of one size.

    A batch of large images goes through the layers that see images in parts, so that what they compute stays in the
    cache; the layers behind them take it whole. Layers that need the statistics of a batch forbid that.

    Attributes:
        seeded: Whether it draws random numbers.
    """

    def __init__(self, subject: Subject, spec: ExportSpec, batch: int | None) -> None:
        self._learned = [weight for weight in subject.weights if weight.learned]
        self._changing = {weight.variable.ref() for weight in subject.weights if weight.tensor.trainable}
        self._whole = traced_losses(subject, spec, batch, training=True)
        _refuse_lost_updates(subject, self._whole)
        self._cut = _end_of_images(self._whole, batch)
        self._parts = _parts(self._whole, self._cut, batch)
        self._size = batch // self._parts if batch else 0
        self._part = self._whole
        if self._parts > 1:
            self._part = traced_losses(subject, spec, self._size, training=True)
        self.seeded = self._whole.draws
        keys = {variable.ref(): key for key, variable in self._whole.variables.items()}
        for weight in self._learned:
            if weight.variable.ref() not in keys:
                raise _no_influence(weight.tensor)
        self._wanted = [keys[weight.variable.ref()] for weight in self._learned]

    def differentiated(
        self, batch: Sequence[tf.Tensor], values: Values, seed: tf.Tensor | None, upstream: tf.Tensor
    ) -> Differentiated:
        """Emit the step.

        Args:
            batch: x, y and mask.
            seed: Int32, if the step draws random numbers.
            upstream: The gradient of the loss's sum.
        """
        trunks = self._trunks(batch, values, seed) if self._parts > 1 else []
        seen = {key: tf.concat([trunk.values[key] for trunk in trunks], 0) for key in self._cut} if trunks else {}
        statistics = [key for key in self._whole.updates if self._whole.variables[key].ref() in self._changing]
        head = self._emission(self._whole, batch, values, seed, given=seen, updated=statistics)
        loss = self._whole.outputs["loss_sum"]
        found = head.shares({loss: upstream}, [*self._wanted, *seen])
        shares = found[: len(self._wanted)]
        of_images = [added_up(one) for one in found[len(self._wanted) :]]
        for part, trunk in enumerate(trunks):
            back = {
                key: _rows(spread(gradient, seen[key]), part * self._size, self._size)
                for key, gradient in zip(seen, of_images, strict=True)
                if gradient is not None
            }
            shares = [[*old, *new] for old, new in zip(shares, trunk.shares(back, self._wanted), strict=True)]
        updates = [(self._whole.variables[key], head.updates[key]) for key in statistics]
        return Differentiated(dict(head.outputs), self._gradients(shares, values), updates)

    def _trunks(self, batch: Sequence[tf.Tensor], values: Values, seed: tf.Tensor | None) -> list[Emission]:
        """The layers that see images, for each part of a batch."""
        trunks = []
        for part in range(self._parts):
            inputs = [_rows(one, part * self._size, self._size) for one in batch]
            of_part = None if seed is None else seed * self._parts + part
            trunks.append(self._emission(self._part, inputs, values, of_part, targets=self._cut))
        return trunks

    def _emission(
        self,
        trace: Trace,
        inputs: Sequence[tf.Tensor],
        values: Values,
        seed: tf.Tensor | None,
        *,
        given: Mapping[Key, tf.Tensor] | None = None,
        targets: Sequence[Key] | None = None,
        updated: Sequence[Key] = (),
    ) -> Emission:
        return Emission(
            trace, inputs, values.of, trained=self._wanted, updated=updated, seed=seed, given=given, targets=targets
        )

    def _gradients(self, shares: Sequence[Sequence[Share]], values: Values) -> list[tf.Tensor]:
        found = []
        for weight, of_weight in zip(self._learned, shares, strict=True):
            gradient = added_up(of_weight)
            if gradient is None:
                raise _no_influence(weight.tensor)
            found.append(spread(gradient, values.of(weight.variable)))
        return found


def traced_losses(subject: Subject, spec: ExportSpec, batch: int | None, *, training: bool) -> Trace:
    """Sums of the loss and the metrics over the real examples of a batch: x, y and mask."""
    objective = objectives.LOSSES[spec.loss] if isinstance(spec.loss, str) else spec.loss

    def losses(x: tf.Tensor, y: tf.Tensor, mask: tf.Tensor) -> dict[str, tf.Tensor]:
        outputs = objectives.trained_output(called(subject, spec, x, training), spec)
        values = {"loss_sum": objectives.per_example(objective, outputs, y)}
        for metric in spec.metrics:
            values[metric.value] = objectives.per_example(objectives.METRICS[metric], outputs, y)
        return {name: tf.reduce_sum(value * mask) for name, value in values.items()}

    return Trace(losses, batch_specs(spec, batch))


def called(subject: Subject, spec: ExportSpec, x: tf.Tensor, training: bool) -> tf.Tensor:
    """The model's output, which the loss can compare with the labels.

    Raises:
        UnsupportedModel: It cannot.
    """
    outputs = subject.call(x, training)
    if not isinstance(outputs, tf.Tensor):
        raise UnsupportedModel("the model gives several outputs; export one that gives the output to be trained")
    objectives.check_labels(tuple(outputs.shape.as_list()), spec)
    return outputs


def batch_specs(spec: ExportSpec, batch: int | None) -> list[tf.TensorSpec]:
    """Of x, y and mask."""
    features, labels = spec.features, spec.labels
    return [
        tf.TensorSpec((batch, *features.shape), features.dtype, name="x"),
        tf.TensorSpec((batch, *labels.shape), labels.dtype, name="y"),
        tf.TensorSpec((batch,), tf.float32, name="mask"),
    ]


def _end_of_images(trace: Trace, batch: int | None) -> tuple[Key, ...]:
    """The values through which everything goes that depends on convolutions: what ends the layers that see images."""
    images: set[Key] = set()
    for node in reversed(trace.nodes):
        seen = any(_is_batch_of_images(one, batch) for one in node.op.outputs)
        if seen or images.intersection(node.outputs):
            images.update((*node.outputs, *node.inputs))
    shape = {key: one.shape for node in trace.nodes for key, one in zip(node.outputs, node.op.outputs, strict=True)}
    crossing: dict[Key, None] = {}
    for node in trace.nodes:
        if images.isdisjoint(node.outputs):
            crossing.update((key, None) for key in node.inputs if key in images and key in shape)
    return tuple(key for key in crossing if shape[key].rank and shape[key][0] == batch)


def _is_batch_of_images(tensor: tf.Tensor, batch: int | None) -> bool:
    return bool(tensor.dtype == tf.float32 and tensor.shape.rank == 4 and tensor.shape[0] == batch)


def _parts(trace: Trace, cut: Sequence[Key], batch: int | None) -> int:
    """In how many equal parts images are taken."""
    images = [one for node in trace.nodes for one in node.op.outputs if _is_batch_of_images(one, batch)]
    if not batch or not cut or trace.updates or not images:
        return 1
    largest = max(4 * (one.shape.num_elements() or 0) for one in images)
    if largest < _WORTH_PARTS_BYTES:
        return 1
    fitting = (count for count in range(1, batch + 1) if batch % count == 0 and largest <= count * _CACHED_BYTES)
    return next(fitting, batch)


def _refuse_lost_updates(subject: Subject, trace: Trace) -> None:
    """Statistics may be frozen; whatever else a model changes by itself would be lost."""
    kept = {weight.variable.ref() for weight in subject.weights if weight.tensor.trainable or weight.statistic}
    ours = {weight.variable.ref(): weight for weight in subject.weights}
    for key in trace.updates:
        variable = trace.variables[key].ref()
        if variable in ours and variable not in kept:
            raise unsupported(f"training changes the weights {ours[variable].path} without a gradient")


def _rows(x: tf.Tensor, begin: int, size: int) -> tf.Tensor:
    return tf.slice(x, [begin] + [0] * (x.shape.rank - 1), [size, *x.shape[1:]])


def _no_influence(tensor: Tensor) -> UnsupportedModel:
    return unsupported(f"the weights {tensor.name} have no influence on the model's output")
