"""Cross-entropy over logits, with the gradient softmax - label."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import tensorflow as tf

from model_export.gradients.rule import Lowered, Rule

_LEAST_SHARE: Final = 1e-37
"""Close to the smallest normal number."""


def sparse_cross_entropy(op: tf.Operation, logits: tf.Tensor, labels: tf.Tensor) -> Lowered:
    """SparseSoftmaxCrossEntropyWithLogits: -log softmax(logits)[label] for each row."""
    return _sparse(logits, labels, lambda place: -tf.gather_nd(tf.nn.log_softmax(logits), place))


def trained_sparse_cross_entropy(op: tf.Operation, logits: tf.Tensor, labels: tf.Tensor) -> Lowered:
    """The same where a gradient is wanted: from one softmax, without LOG_SOFTMAX, which takes as long as two products.

    The gradient is exact. The loss itself is -log of at least 10⁻³⁷: it stops at 85 nats.
    """
    shares = tf.nn.softmax(logits)
    return _sparse(logits, labels, lambda place: -tf.math.log(tf.maximum(tf.gather_nd(shares, place), _LEAST_SHARE)))


def _sparse(logits: tf.Tensor, labels: tf.Tensor, loss_at: Callable[[tf.Tensor], tf.Tensor]) -> Lowered:
    """The one-hot rows are scattered: a few writes instead of four passes over all classes.

    A label that is no class would write beyond a row, so labels are bounded; who calls the graph has refused it before.
    """
    classes = logits.shape[-1]
    bounded = tf.minimum(tf.maximum(tf.cast(labels, tf.int32), 0), classes - 1)
    rows = tf.range(tf.shape(logits)[0]) if logits.shape[0] is None else tf.range(logits.shape[0])
    place = tf.stack([rows, bounded], 1)
    ones = tf.ones_like(rows, tf.float32)
    label = tf.scatter_nd(place, ones, tf.shape(logits) if logits.shape[0] is None else logits.shape)
    slope = tf.nn.softmax(logits) - label

    def backward(dloss: tf.Tensor, _dslope: tf.Tensor | None) -> tuple[tf.Tensor, None]:
        return tf.expand_dims(dloss, -1) * slope, None

    return Lowered((loss_at(place), slope), backward)


def cross_entropy(op: tf.Operation, logits: tf.Tensor, shares: tf.Tensor) -> Lowered:
    """SoftmaxCrossEntropyWithLogits: -Σ shares · log softmax(logits) for each row; shares add up to 1.

    Shares that another part of the model computes learn too: theirs is -log softmax(logits).
    """
    return _cross_entropy(logits, shares)


def _cross_entropy(logits: tf.Tensor, shares: tf.Tensor) -> Lowered:
    logs = tf.nn.log_softmax(logits)
    loss = -tf.reduce_sum(logs * shares, -1)
    slope = tf.nn.softmax(logits) - shares

    def backward(dloss: tf.Tensor, _dslope: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor]:
        upstream = tf.expand_dims(dloss, -1)
        return upstream * slope, -upstream * logs

    return Lowered((loss, slope), backward)


RULES: Final[Mapping[str, Rule]] = {
    "SparseSoftmaxCrossEntropyWithLogits": sparse_cross_entropy,
    "SoftmaxCrossEntropyWithLogits": cross_entropy,
}

TRAINED_RULES: Final[Mapping[str, Rule]] = {"SparseSoftmaxCrossEntropyWithLogits": trained_sparse_cross_entropy}
"""Instead of those, in a step that asks for gradients."""
