"""Shapes of graphs with a fixed or a dynamic batch: at most one side of a tensor is unknown."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from model_export.errors import unsupported


def sides(tensor: tf.Tensor) -> list[int]:
    """The shape for a reshape: -1 for the side that is unknown."""
    shape = tensor.shape.as_list()
    if shape.count(None) > 1:
        raise unsupported(f"the tensor {tensor.name} has more than one side of unknown length")
    return [-1 if side is None else side for side in shape]


def as_rows(tensor: tf.Tensor) -> tf.Tensor:
    """All sides but the last flattened: shape (n, columns)."""
    return tensor if tensor.shape.rank == 2 else tf.reshape(tensor, [-1, tensor.shape[-1]])


def same_shape(one: tf.Tensor, other: tf.Tensor) -> bool:
    """Whether two shapes are equal; an unknown side is always the batch."""
    return bool(one.shape.as_list() == other.shape.as_list())


def spread(gradient: tf.Tensor, like: tf.Tensor) -> tf.Tensor:
    """A gradient that has sides of 1 in the full shape of its tensor.

    As a sum with zeros: BROADCAST_TO takes ten times as long, and ones or zeros of full size would lie in the file.
    """
    return gradient if same_shape(gradient, like) else gradient + like * 0.0


def folded(gradient: tf.Tensor, output: tf.Tensor, like: tf.Tensor) -> tf.Tensor:
    """The gradient of an input that the operator repeated to the shape of its output: summed along the repeats.

    Two unknown sides are the same batch, so that what is summed is decided now and not when the graph runs.
    """
    if same_shape(like, output):
        return gradient
    of, to = output.shape.as_list(), like.shape.as_list()
    missing = len(of) - len(to)
    axes = [axis for axis in range(len(of)) if axis < missing or (to[axis - missing] == 1 and of[axis] != 1)]
    total = tf.reduce_sum(spread(gradient, output), axes) if axes else spread(gradient, output)
    return total if same_shape(total, like) else tf.reshape(total, sides(like))


def static_value(op: tf.Operation, tensor: tf.Tensor, what: str) -> np.ndarray[Any, Any]:
    """The value of an input that must be known when the model is exported.

    Raises:
        UnsupportedModel: It is computed when the graph runs.
    """
    value = tf.get_static_value(tensor)
    if value is None:
        raise unsupported(f"the operator {op.name} ({op.type}) computes its {what} when it runs")
    return np.asarray(value)
