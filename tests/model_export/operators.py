"""One operator's gradient beside TensorFlow's own. TensorFlow worker only."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from model_export.gradients import builtin_gradients

Shape = tuple[int, ...]


def convolution(size: Shape, kernel: Shape, stride: Shape, padding: str) -> float:
    """Error of the gradients of input and filter; `kernel` is height, width and filters."""
    height, width, filters = kernel
    inputs = [_normal(0, (2, *size)), _normal(1, (height, width, size[2], filters))]
    return _error(lambda x, w: tf.nn.conv2d(x, w, stride, padding), inputs)


def pooling(kind: str, size: Shape, window: Shape, stride: Shape, padding: str) -> float:
    """Error of the input gradient. Half of the values are repeated, so that windows have several maxima."""
    pool = {"max": tf.nn.max_pool2d, "average": tf.nn.avg_pool2d}[kind]
    x = np.round(_normal(0, (2, *size, 3)))
    return _error(lambda x: pool(x, window, stride, padding), [x])


def activation(kind: str) -> float:
    """Error of the input gradient, at zero too."""
    function = {"relu": tf.nn.relu, "tanh": tf.tanh, "sigmoid": tf.sigmoid}[kind]
    x = np.concatenate([_normal(0, (50,)), np.array([0.0, -30.0, 30.0], np.float32)])
    return _error(function, [x])


def product() -> float:
    """Error of the gradients of both factors."""
    return _error(tf.matmul, [_normal(0, (5, 7)), _normal(1, (7, 3))])


def _normal(seed: int, shape: Shape) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def _error(function: Any, inputs: list[Any]) -> float:
    """Largest difference of the two gradients of a weighted sum of the outputs."""

    def gradients(*values: tf.Tensor) -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            tape.watch(values)
            outputs = function(*values)
        weights = tf.constant(_normal(9, tuple(outputs.shape)))
        found: list[tf.Tensor] = tape.gradient(outputs, values, output_gradients=weights)
        return found

    constants = [tf.constant(value) for value in inputs]
    theirs = tf.function(gradients, autograph=False)(*constants)
    with builtin_gradients():
        ours = tf.function(gradients, autograph=False)(*constants)
    return max(float(np.abs(a - b).max()) for a, b in zip(ours, theirs, strict=True))
