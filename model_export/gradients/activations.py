"""Activations, most of them from the activation's output y alone.

relu: y = max(x, 0), so dy/dx is 1 where y > 0 and 0 elsewhere. tanh and sigmoid
have TensorFlow's own mathematics, written out. elu is y = x above 0 and eˣ - 1 below, so dy/dx = 1 + min(y, 0); selu is
that, scaled, with another slope at the origin. softmax: dx = y (dy - Σ dy y).

erf is a quotient of two polynomials in x², as in XLA and Eigen (largest error about 4e-7 of a unit in float32);
gelu comes from it, and silu from the sigmoid.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final

import tensorflow as tf

from model_export.gradients.elementwise import above, positive, unary
from model_export.gradients.rule import Lowered, Rule, attribute, lowered

_SELU_SCALE: Final = 1.0507009873554805
_SELU_BELOW: Final = 1.7580993408473768
"""Scale times alpha: the slope just below 0."""

_ERF_LIMIT: Final = 3.832506856900711
"""From here on, erf is 1 in float32."""
_ERF_NUMERATOR: Final = (
    -2.72614225801306e-10, 2.77068142495902e-08, -2.10102402082508e-06, -5.69250639462346e-05,
    -7.34990630326855e-04, -2.95459980854025e-03, -1.60960333262415e-02,
)  # fmt: skip
_ERF_DENOMINATOR: Final = (
    -1.45660718464996e-05, -2.13374055278905e-04, -1.68282697438203e-03, -7.37332916720468e-03,
    -1.42647390514189e-02,
)  # fmt: skip
_SLOPE_OF_ERF: Final = 2.0 / math.sqrt(math.pi)


def leaky_relu(op: tf.Operation, x: tf.Tensor) -> Lowered:
    alpha = attribute(op, "alpha")
    return lowered(
        tf.nn.leaky_relu(x, alpha), lambda dy: (dy * (alpha + (1.0 - alpha) * above(x, 0.0)),), broadcasts=True
    )


def selu(op: tf.Operation, x: tf.Tensor) -> Lowered:
    y = _SELU_SCALE * tf.nn.relu(x) + _SELU_BELOW * tf.minimum(tf.nn.elu(x), 0.0)

    def backward(dy: tf.Tensor) -> tuple[tf.Tensor]:
        below = above(-y, 0.0)
        return (dy * (_SELU_SCALE + below * (tf.minimum(y, 0.0) + (_SELU_BELOW - _SELU_SCALE))),)

    return lowered(y, backward, broadcasts=True)


def softplus(op: tf.Operation, x: tf.Tensor) -> Lowered:
    """log(1 + eˣ) = relu(x) + log(1 + e^-|x|), which cannot overflow; its slope is the sigmoid."""
    y = tf.nn.relu(x) + tf.math.log(1.0 + tf.exp(-tf.abs(x)))
    return lowered(y, lambda dy: (dy * tf.sigmoid(x),), broadcasts=True)


def softsign(op: tf.Operation, x: tf.Tensor) -> Lowered:
    scale = 1.0 / (1.0 + tf.abs(x))
    return lowered(x * scale, lambda dy: (dy * scale * scale,), broadcasts=True)


def softmax(op: tf.Operation, x: tf.Tensor) -> Lowered:
    y = tf.nn.softmax(x)
    return lowered(y, lambda dy: (y * (dy - tf.reduce_sum(dy * y, -1, keepdims=True)),), broadcasts=True)


def log_softmax(op: tf.Operation, x: tf.Tensor) -> Lowered:
    """dx = dy - softmax(x) Σ dy."""
    y = tf.nn.log_softmax(x)
    return lowered(y, lambda dy: (dy - tf.nn.softmax(x) * tf.reduce_sum(dy, -1, keepdims=True),))


def erf(op: tf.Operation, x: tf.Tensor) -> Lowered:
    return lowered(erf_of(x), lambda dy: (dy * (_SLOPE_OF_ERF * tf.exp(-x * x)),), broadcasts=True)


def erfc(op: tf.Operation, x: tf.Tensor) -> Lowered:
    return lowered(1.0 - erf_of(x), lambda dy: (dy * (-_SLOPE_OF_ERF * tf.exp(-x * x)),), broadcasts=True)


def erf_of(x: tf.Tensor) -> tf.Tensor:
    """The error function. Source: the coefficients of XLA and Eigen, found by a minimax fit on [-4, 4]."""
    bounded = tf.clip_by_value(x, -_ERF_LIMIT, _ERF_LIMIT)
    square = bounded * bounded
    return bounded * _polynomial(square, _ERF_NUMERATOR) / _polynomial(square, _ERF_DENOMINATOR)


def _polynomial(x: tf.Tensor, coefficients: Sequence[float]) -> tf.Tensor:
    """Horner's rule, highest power first."""
    value = tf.constant(coefficients[0], tf.float32)
    for coefficient in coefficients[1:]:
        value = value * x + coefficient
    return value


RULES: Final[Mapping[str, Rule]] = {
    "Relu": unary(lambda x, y, dy: dy * positive(y)),
    "Relu6": unary(lambda x, y, dy: dy * (positive(y) * positive(6.0 - y))),
    "LeakyRelu": leaky_relu,
    "Elu": unary(lambda x, y, dy: dy * (1.0 + tf.minimum(y, 0.0))),
    "Selu": selu,
    "Tanh": unary(lambda x, y, dy: dy * (1.0 - y * y)),
    "Sigmoid": unary(lambda x, y, dy: dy * (y * (1.0 - y))),
    "Softplus": softplus,
    "Softsign": softsign,
    "Softmax": softmax,
    "LogSoftmax": log_softmax,
    "Erf": erf,
    "Erfc": erfc,
}
