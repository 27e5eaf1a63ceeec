"""Losses and metrics: from outputs and labels to one number an example."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import tensorflow as tf

from edge_runtime.protocol.bundle import Schema
from model_export.errors import UnsupportedModel
from model_export.spec import ExportSpec, Loss, Metric

Objective = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
"""From outputs and labels to values of shape (n, ...)."""

_HUBER_LIMIT: Final = 1.0


def _sparse_cross_entropy(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)


def _cross_entropy(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    return tf.nn.softmax_cross_entropy_with_logits(labels, logits)


def _binary_cross_entropy(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """relu(z) - z y + log(1 + e^-|z|): -y log σ(z) - (1 - y) log(1 - σ(z)) without overflow."""
    return tf.nn.softplus(logits) - logits * labels


def _squared_error(outputs: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    return tf.math.squared_difference(outputs, labels)


def _absolute_error(outputs: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    return tf.abs(outputs - labels)


def _huber(outputs: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """With e the error and q = min(e, 1): q (e - q / 2). Source: https://doi.org/10.1214/aoms/1177703732."""
    error = tf.abs(outputs - labels)
    quadratic = tf.minimum(error, _HUBER_LIMIT)
    return quadratic * (error - 0.5 * quadratic)


def _correct(outputs: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    chosen = tf.argmax(outputs, -1, output_type=tf.int32)
    wanted = labels if labels.dtype == tf.int32 else tf.argmax(labels, -1, output_type=tf.int32)
    return tf.cast(tf.equal(chosen, wanted), tf.float32)


def _binary_correct(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    return tf.cast(tf.equal(logits > 0.0, labels > 0.5), tf.float32)


LOSSES: Final[Mapping[Loss, Objective]] = {
    Loss.SPARSE_CROSS_ENTROPY: _sparse_cross_entropy,
    Loss.CROSS_ENTROPY: _cross_entropy,
    Loss.BINARY_CROSS_ENTROPY: _binary_cross_entropy,
    Loss.MEAN_SQUARED_ERROR: _squared_error,
    Loss.HUBER: _huber,
}

METRICS: Final[Mapping[Metric, Objective]] = {
    Metric.CORRECT: _correct,
    Metric.BINARY_CORRECT: _binary_correct,
    Metric.ABSOLUTE_ERROR: _absolute_error,
    Metric.SQUARED_ERROR: _squared_error,
}

_OF_LOGITS: Final[Mapping[Loss, str]] = {
    Loss.SPARSE_CROSS_ENTROPY: "Softmax",
    Loss.CROSS_ENTROPY: "Softmax",
    Loss.BINARY_CROSS_ENTROPY: "Sigmoid",
}
"""Losses of logits, and the operator that would have made probabilities of them."""


def loss_name(spec: ExportSpec) -> str:
    return spec.loss.value if isinstance(spec.loss, Loss) else getattr(spec.loss, "__name__", "own")


def trained_output(outputs: tf.Tensor, spec: ExportSpec) -> tf.Tensor:
    """What the loss is of: before the final softmax or sigmoid, if the model ends in one that the loss undoes."""
    final = _OF_LOGITS.get(spec.loss) if isinstance(spec.loss, Loss) else None
    return outputs.op.inputs[0] if outputs.op.type == final else outputs


def named_outputs(outputs: tf.Tensor, spec: ExportSpec) -> dict[str, tf.Tensor]:
    """What `infer` gives."""
    final = _OF_LOGITS.get(spec.loss) if isinstance(spec.loss, Loss) else None
    if final is None:
        return {"output": outputs}
    logits = trained_output(outputs, spec)
    return {"logits": logits, "probabilities": tf.nn.softmax(logits) if final == "Softmax" else tf.sigmoid(logits)}


def per_example(objective: Objective, outputs: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """An objective averaged over all but the batch: shape (n,)."""
    values = objective(outputs, labels)
    return values if values.shape.rank == 1 else tf.reduce_mean(values, list(range(1, values.shape.rank)))


def check_labels(outputs: tuple[int | None, ...], spec: ExportSpec) -> None:
    """Refuse outputs and labels that the loss cannot compare.

    Args:
        outputs: The shape of the model's output, the batch first.

    Raises:
        UnsupportedModel: They do not fit.
    """
    labels, names, of_one = spec.labels, spec.class_names, outputs[1:]
    outputs = (None, *of_one)
    if spec.loss is Loss.SPARSE_CROSS_ENTROPY:
        classes = len(names) or int(labels.high) + 1
        if labels.dtype != "int32" or (labels.low, labels.high) != (0, classes - 1):
            raise UnsupportedModel(
                f"labels of {classes} classes are int32 from 0 to {classes - 1}, not {_said(labels)}"
            )
        if of_one != (*labels.shape, classes):
            expected = (None, *labels.shape, classes)
            raise UnsupportedModel(f"the model gives outputs of shape {outputs}, not {expected} for {classes} classes")
    elif isinstance(spec.loss, Loss):
        if labels.dtype != "float32":
            raise UnsupportedModel(f"labels for {spec.loss} are float32, not {_said(labels)}")
        if of_one != labels.shape:
            raise UnsupportedModel(f"the model gives outputs of shape {outputs}, and labels have {labels.shape}")
        if names and spec.loss is Loss.CROSS_ENTROPY and len(names) != of_one[-1]:
            raise UnsupportedModel(f"there are {len(names)} class names for {of_one[-1]} outputs")


def _said(labels: Schema) -> str:
    return f"{labels.dtype} from {labels.low:g} to {labels.high:g}"
