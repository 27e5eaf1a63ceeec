"""Gradients of activations, from the activation's output y alone.

relu: y = max(x, 0), so dy/dx is 1 where y > 0 and 0 elsewhere: sign(y), since y is never negative. tanh and sigmoid
have TensorFlow's own mathematics, written out, because its TanhGrad and SigmoidGrad are single operators that TFLite
lacks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import tensorflow as tf

from model_export.gradients.registry import Gradient


def relu(op: tf.Operation, upstream: tf.Tensor) -> tf.Tensor:
    """dx = dy · sign(y)."""
    return upstream * tf.sign(op.outputs[0])


def tanh(op: tf.Operation, upstream: tf.Tensor) -> tf.Tensor:
    """dx = dy · (1 - y²)."""
    y = op.outputs[0]
    return upstream * (1.0 - y * y)


def sigmoid(op: tf.Operation, upstream: tf.Tensor) -> tf.Tensor:
    """dx = dy · y · (1 - y)."""
    y = op.outputs[0]
    return upstream * y * (1.0 - y)


GRADIENTS: Final[Mapping[str, Gradient]] = {"Relu": relu, "Tanh": tanh, "Sigmoid": sigmoid}
