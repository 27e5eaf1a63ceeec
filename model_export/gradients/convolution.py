"""Convolutions of images, and of sequences, which are images of height 1.

Let P(x) be the matrix with one row for each window of x, the window's values written out, and W the filter as a
(kh·kw·ci, co) matrix. Then

    y = P(x) W        dW = P(x)ᵀ dy        dx = Pᵀ(dy Wᵀ)

where Pᵀ, the adjoint of P, adds every value of a patch to where it was taken from. The convolution operators of the
interpreters are slow when their filter is a variable, so both directions are products over patches. What differs is
how patches are gathered:

- one position (1×1, stride 1): the values are the patches;
- at most 80 values in a patch: a convolution with a *constant* one-hot filter, and its transpose for the adjoint;
- stride 1: only shifts along the width are laid side by side; the product with the filter's rows side by side gives
  a row of outputs for each filter row, and those are shifted along the height and added;
- otherwise: a slice for each position of the window.

A transposed convolution is Pᵀ(x Wᵀ): the input gradient of a convolution, and the convolution is its gradient. In
groups, each group of channels is a convolution of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

import numpy as np
import tensorflow as tf

from model_export.gradients.layout import cut
from model_export.gradients.matmul import product, product_left_transposed, product_right_transposed
from model_export.gradients.rule import Lowered, Rule, Share, lowered
from model_export.gradients.shapes import as_rows
from model_export.gradients.windows import Pair, Windows, windows_of

_ONE_HOT_TAPS: Final = 80
"""Up to this many values in a patch, a CONV_2D with a constant one-hot filter gathers faster than slices."""


class Convolution(NamedTuple):
    """One convolution, emitted: its output, and its two gradients as functions of the output's."""

    output: tf.Tensor
    input_gradient: Callable[[tf.Tensor], tf.Tensor]
    filter_gradient: Callable[[tf.Tensor], tf.Tensor]


def conv2d(op: tf.Operation, x: tf.Tensor, kernel: tf.Tensor) -> Lowered:
    windows = windows_of(op, (x.shape[1], x.shape[2]), (kernel.shape[0], kernel.shape[1]))
    groups = x.shape[3] // kernel.shape[2]
    parts = [
        convolution(part, cut(kernel, 3, index * (kernel.shape[3] // groups), kernel.shape[3] // groups), windows)
        for index, part in enumerate(_channels(x, groups))
    ]

    def backward(dy: tf.Tensor) -> tuple[Share, Share]:
        shares = _channels(dy, groups)
        dx = [part.input_gradient(share) for part, share in zip(parts, shares, strict=True)]
        dw = [part.filter_gradient(share) for part, share in zip(parts, shares, strict=True)]
        return _joined(dx), _joined(dw)

    return lowered(_joined([part.output for part in parts]), backward)


def transposed_conv2d(op: tf.Operation, size: tf.Tensor, kernel: tf.Tensor, x: tf.Tensor) -> Lowered:
    """Conv2DBackpropInput: the input gradient of a convolution, used as a layer."""
    shape = op.outputs[0].shape
    windows = windows_of(op, (shape[1], shape[2]), (kernel.shape[0], kernel.shape[1]))

    def backward(dy: tf.Tensor) -> tuple[None, Share, Share]:
        forward = convolution(dy, kernel, windows)
        return None, forward.filter_gradient(x), forward.output

    return lowered(scattered(x, kernel, windows), backward)


def convolution(x: tf.Tensor, kernel: tf.Tensor, windows: Windows) -> Convolution:
    """A convolution in one group, however its patches are gathered best."""
    taps = len(windows.offsets()) * x.shape[3]
    if taps > _ONE_HOT_TAPS and windows.stride == windows.dilation == (1, 1) and 1 not in windows.window:
        return _by_rows(x, kernel, windows)
    patches = gathered(x, windows)
    matrix = tf.reshape(kernel, [taps, kernel.shape[3]])
    return Convolution(
        product(patches, matrix),
        lambda dy: scattered(dy, kernel, windows),
        lambda dy: tf.reshape(product_left_transposed(as_rows(patches), as_rows(dy)), kernel.shape),
    )


def gathered(x: tf.Tensor, windows: Windows) -> tf.Tensor:
    """P(x): shape (n, *count, kh·kw·c), offsets row by row, channels last."""
    if windows.pointwise:
        return x
    channels, taps = x.shape[3], len(windows.offsets()) * x.shape[3]
    image = windows.pad(x)
    if taps <= _ONE_HOT_TAPS:
        picks = _picks(windows, channels)
        return tf.nn.conv2d(image, picks, windows.stride, "VALID", dilations=windows.dilation)
    return tf.concat([windows.at(image, offset) for offset in windows.offsets()], -1)


def scattered(dy: tf.Tensor, kernel: tf.Tensor, windows: Windows) -> tf.Tensor:
    """Pᵀ(dy Wᵀ): shape (n, *size, ci)."""
    height, width, channels, filters = kernel.shape
    matrix = tf.reshape(kernel, [height * width * channels, filters])
    of_windows = product_right_transposed(dy, matrix)
    if windows.pointwise:
        return of_windows

    def part(offset: Pair) -> tf.Tensor:
        return cut(of_windows, 3, (offset[0] * width + offset[1]) * channels, channels)

    return windows.put_back(part)


def _picks(windows: Windows, channels: int) -> tf.Tensor:
    taps = len(windows.offsets()) * channels
    return tf.constant(np.eye(taps, dtype=np.float32).reshape(*windows.window, channels, taps))


def _by_rows(x: tf.Tensor, kernel: tf.Tensor, windows: Windows) -> Convolution:
    """Stride 1: shifts along the width, one product, and sums of shifts along the height.

    With R(x) the (n·h·ow, kw·ci) matrix of shifts and V the filter as (kw·ci, kh·co), R(x) V holds for each filter row
    what that row adds. The gradient of that is dy, shifted the other way for each filter row: it is shared by both
    gradients.
    """
    height, width, channels, filters = kernel.shape
    rows, columns = windows.count
    (above, below), (left, right) = windows.padding
    tall = windows.size[0]
    batch = -1 if x.shape[0] is None else x.shape[0]
    wide = tf.pad(x, [[0, 0], [0, 0], [left, right], [0, 0]]) if left or right else x
    shifts = tf.concat([tf.reshape(cut(wide, 2, one, columns), [-1, channels]) for one in range(width)], -1)
    matrix = tf.reshape(tf.transpose(kernel, [1, 2, 0, 3]), [width * channels, height * filters])
    of_rows = tf.reshape(product(shifts, matrix), [-1, tall * columns, height * filters])
    padded_rows = tf.pad(of_rows, [[0, 0], [above * columns, below * columns], [0, 0]])
    output = None
    for row in range(height):
        line = tf.slice(padded_rows, [0, row * columns, row * filters], [batch, rows * columns, filters])
        output = line if output is None else output + line

    def shifted_back(dy: tf.Tensor) -> tf.Tensor:
        """The gradient of `R(x) V`: shape (n·h·ow, kh·co)."""
        flat = tf.reshape(dy, [-1, rows * columns, filters])
        around = tf.pad(flat, [[0, 0], [(height - 1 - above) * columns, (height - 1 - below) * columns], [0, 0]])
        lines = [cut(around, 1, (height - 1 - row) * columns, tall * columns) for row in range(height)]
        return tf.reshape(tf.concat(lines, -1), [-1, height * filters])

    def input_gradient(dy: tf.Tensor) -> tf.Tensor:
        back = tf.reshape(tf.transpose(kernel, [0, 3, 1, 2]), [height * filters, width * channels])
        shares = tf.reshape(product(shifted_back(dy), back), [-1, tall, columns, width * channels])
        outer = [[0, 0], [0, 0], [width - 1 - left, width - 1 - right], [0, 0]]
        around = tf.pad(shares, outer) if width - 1 > min(left, right) else shares
        total = None
        for one in range(width):
            size = [batch, tall, windows.size[1], channels]
            part = tf.slice(around, [0, 0, width - 1 - one, one * channels], size)
            total = part if total is None else total + part
        return total

    def filter_gradient(dy: tf.Tensor) -> tf.Tensor:
        found = product_left_transposed(shifts, shifted_back(dy))
        return tf.transpose(tf.reshape(found, [width, channels, height, filters]), [2, 0, 1, 3])

    return Convolution(tf.reshape(output, [-1, rows, columns, filters]), input_gradient, filter_gradient)


def _channels(x: tf.Tensor, groups: int) -> list[tf.Tensor]:
    share = x.shape[3] // groups
    return [cut(x, 3, index * share, share) for index in range(groups)]


def _joined(parts: list[tf.Tensor]) -> tf.Tensor:
    return parts[0] if len(parts) == 1 else tf.concat(parts, 3)


RULES: Final[Mapping[str, Rule]] = {"Conv2D": conv2d, "Conv2DBackpropInput": transposed_conv2d}
