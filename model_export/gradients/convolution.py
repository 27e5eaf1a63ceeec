"""The gradient of a 2-D convolution, as two matrix products over patches.

Let P(x) be the matrix with one row for each window of x, the window's values written out. Then y = P(x) W, with W the
filter as a (kh·kw·ci, co) matrix, and so

    dW = P(x)ᵀ dy
    dx = P(dy spread by the stride and padded) Wᶠ

where Wᶠ is the filter turned by half a turn with its channels exchanged: the input gradient of a convolution is a
convolution with stride 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
import tensorflow as tf

from model_export.errors import unsupported
from model_export.gradients.matmul import product, product_left_transposed
from model_export.gradients.registry import Gradient
from model_export.gradients.windows import Windows, windows_of, with_zeros_between

_ONE_HOT_TAPS: Final = 80
"""Up to this many values in a patch, a CONV_2D with a constant one-hot filter gathers faster than slices."""


def conv2d(op: tf.Operation, upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Gradients of input and filter."""
    x, kernel = op.inputs
    height, width, channels, filters = kernel.shape
    if list(op.get_attr("dilations")) != [1, 1, 1, 1]:
        raise unsupported(f"the operator {op.name} (Conv2D) is dilated")
    if x.shape[3] != channels:
        raise unsupported(f"the operator {op.name} (Conv2D) convolves in groups")
    windows = windows_of(op, x, (height, width))
    dkernel = product_left_transposed(patches(x, windows), tf.reshape(upstream, [-1, filters]))
    return _input_gradient(upstream, kernel, windows), tf.reshape(dkernel, kernel.shape)


def patches(x: tf.Tensor, windows: Windows) -> tf.Tensor:
    """P(x): shape (n·count, kh·kw·c), offsets row by row, channels last."""
    channels, taps = x.shape[3], len(windows.offsets()) * x.shape[3]
    if windows.window == (1, 1) and windows.stride == (1, 1) and windows.padding == ((0, 0), (0, 0)):
        return tf.reshape(x, [-1, channels])
    padded = windows.pad(x)
    if taps <= _ONE_HOT_TAPS:
        picks = np.eye(taps, dtype=np.float32).reshape(*windows.window, channels, taps)
        gathered = tf.nn.conv2d(padded, tf.constant(picks), windows.stride, "VALID")
    else:
        gathered = tf.concat([windows.at(padded, offset) for offset in windows.offsets()], -1)
    return tf.reshape(gathered, [-1, taps])


def _input_gradient(upstream: tf.Tensor, kernel: tf.Tensor, windows: Windows) -> tf.Tensor:
    height, width, channels, filters = kernel.shape
    spread = with_zeros_between(upstream, windows.stride)
    above, left = (windows.window[axis] - 1 - windows.padding[axis][0] for axis in (0, 1))
    # What the windows did not reach at the far edge gets a gradient of zero.
    below = windows.size[0] + height - 1 - above - spread.shape[1]
    right = windows.size[1] + width - 1 - left - spread.shape[2]
    around = Windows((spread.shape[1], spread.shape[2]), windows.window, (1, 1), ((above, below), (left, right)))
    # One axis at a time: REVERSE_V2 of tflite-runtime 2.14 reverses only the first of several.
    turned = tf.transpose(tf.reverse(tf.reverse(kernel, [0]), [1]), [0, 1, 3, 2])
    dx = product(patches(spread, around), tf.reshape(turned, [height * width * filters, channels]))
    return tf.reshape(dx, [-1, *windows.size, channels])


GRADIENTS: Final[Mapping[str, Gradient]] = {"Conv2D": conv2d}
