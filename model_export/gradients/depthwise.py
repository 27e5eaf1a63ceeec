"""The depthwise convolution: every channel has a filter of its own.

y[t, c] = Σ_o x[t·s + o, c] w[o, c], so with x_o the input at position o of every window

    y = Σ_o x_o · w_o        dw_o = Σ x_o · dy        dx = Σ_o dy · w_o, put back where x_o was taken from.

As multiplications and additions over whole images it is faster than DEPTHWISE_CONV_2D with a variable filter. A
multiplier m repeats every channel m times.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import tensorflow as tf

from model_export.gradients.rule import Lowered, Rule, Share, lowered
from model_export.gradients.windows import windows_of


def depthwise_conv2d(op: tf.Operation, x: tf.Tensor, kernel: tf.Tensor) -> Lowered:
    height, width, channels, multiplier = kernel.shape
    windows = windows_of(op, (x.shape[1], x.shape[2]), (height, width))
    image = windows.pad(_repeated(x, multiplier))
    filters = tf.unstack(tf.reshape(kernel, [height * width, channels * multiplier]))
    seen = [windows.at(image, offset) for offset in windows.offsets()]
    y = seen[0] * filters[0]
    for values, weights in zip(seen[1:], filters[1:], strict=True):
        y = y + values * weights

    def backward(dy: tf.Tensor) -> tuple[Share, Share]:
        dw = tf.stack([tf.reduce_sum(values * dy, [0, 1, 2]) for values in seen])
        return _added_up(windows.put_back_products(dy, filters), multiplier), tf.reshape(dw, kernel.shape)

    return lowered(y, backward)


def _repeated(x: tf.Tensor, multiplier: int) -> tf.Tensor:
    if multiplier == 1:
        return x
    columns = tf.reshape(x, [-1, 1])
    return tf.reshape(tf.concat([columns] * multiplier, 1), [-1, *x.shape[1:3], x.shape[3] * multiplier])


def _added_up(dx: tf.Tensor, multiplier: int) -> tf.Tensor:
    if multiplier == 1:
        return dx
    channels = dx.shape[3] // multiplier
    total = tf.reduce_sum(tf.reshape(dx, [-1, multiplier]), 1)
    return tf.reshape(total, [-1, *dx.shape[1:3], channels])


RULES: Final[Mapping[str, Rule]] = {"DepthwiseConv2dNative": depthwise_conv2d}
