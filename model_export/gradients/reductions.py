"""Sums, means and extremes along axes.

A sum passes its gradient to every value it added up: the same one, in the shape with sides of 1. A mean divides it by
their number. A maximum passes it to the values that equal it, in equal shares, as TensorFlow does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

import tensorflow as tf

from model_export.errors import unsupported
from model_export.gradients.rule import Lowered, Rule, attribute, copied, lowered
from model_export.gradients.shapes import static_value


def total(op: tf.Operation, x: tf.Tensor, axes: tf.Tensor) -> Lowered:
    y = copied(op, x, axes).outputs[0]
    return lowered(y, lambda dy: (tf.reshape(dy, _with_ones(op, x, axes)), None))


def mean(op: tf.Operation, x: tf.Tensor, axes: tf.Tensor) -> Lowered:
    y = copied(op, x, axes).outputs[0]

    def backward(dy: tf.Tensor) -> tuple[tf.Tensor, None]:
        reduced = [x.shape[axis] for axis in _axes(op, x, axes)]
        if None in reduced:
            raise unsupported(f"the operator {op.name} (Mean) averages over a batch of unknown size")
        return tf.reshape(dy * (1.0 / math.prod(reduced)), _with_ones(op, x, axes)), None

    return lowered(y, backward)


def extreme(op: tf.Operation, x: tf.Tensor, axes: tf.Tensor) -> Lowered:
    """Max and Min."""
    y = copied(op, x, axes).outputs[0]

    def backward(dy: tf.Tensor) -> tuple[tf.Tensor, None]:
        shape = _with_ones(op, x, axes)
        reached = 1.0 - tf.abs(tf.sign(x - tf.reshape(y, shape)))
        count = tf.reduce_sum(reached, _axes(op, x, axes), keepdims=True)
        return reached * (tf.reshape(dy, shape) / count), None

    return lowered(y, backward)


def half_square_sum(op: tf.Operation, x: tf.Tensor) -> Lowered:
    """L2Loss: Σ x² / 2."""
    return lowered(0.5 * tf.reduce_sum(x * x), lambda dy: (dy * x,))


def cumulative_sum(op: tf.Operation, x: tf.Tensor, axis: tf.Tensor) -> Lowered:
    """The gradient is the cumulative sum from the other end."""
    exclusive, reverse = attribute(op, "exclusive"), attribute(op, "reverse")
    along = int(static_value(op, axis, "axis"))
    y = tf.cumsum(x, along, exclusive=exclusive, reverse=reverse)
    return lowered(y, lambda dy: (tf.cumsum(dy, along, exclusive=exclusive, reverse=not reverse), None))


def _axes(op: tf.Operation, x: tf.Tensor, axes: tf.Tensor) -> list[int]:
    return sorted({int(axis) % x.shape.rank for axis in static_value(op, axes, "axes").reshape(-1)})


def _with_ones(op: tf.Operation, x: tf.Tensor, axes: tf.Tensor) -> list[Any]:
    """The shape of x with a side of 1 where it was reduced."""
    reduced = _axes(op, x, axes)
    shape = [1 if axis in reduced else side for axis, side in enumerate(x.shape.as_list())]
    return [-1 if side is None else side for side in shape]


RULES: Final[Mapping[str, Rule]] = {
    "Sum": total,
    "Mean": mean,
    "Max": extreme,
    "Min": extreme,
    "L2Loss": half_square_sum,
    "Cumsum": cumulative_sum,
    **dict.fromkeys(("ArgMax", "ArgMin", "All", "Any"), copied),
}
