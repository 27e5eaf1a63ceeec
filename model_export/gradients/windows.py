"""Where the windows of a convolution or a pooling lie, and how values are gathered from them and put back.

Along one axis of length n, with window k, dilation d, stride s and padding (before, after), output position t sees the
padded input positions t·s, t·s + d, ... t·s + (k - 1)·d. All tensors are NHWC; height and width are known.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import tensorflow as tf

from model_export.errors import unsupported
from model_export.gradients.layout import padded, with_gaps
from model_export.gradients.rule import attribute

Pair = tuple[int, int]
"""A value for height and one for width."""

Padding = tuple[Pair, Pair]
"""Rows above and below; columns left and right."""

UNPADDED: Final[Padding] = ((0, 0), (0, 0))


@dataclass(frozen=True, slots=True)
class Windows:
    """The windows of one operation.

    Attributes:
        size: Of the input.
        window: Rows and columns of one window.
        stride: Between windows.
        padding: Around the input.
        dilation: Between the rows and columns that one window sees.
    """

    size: Pair
    window: Pair
    stride: Pair
    padding: Padding
    dilation: Pair = (1, 1)

    @property
    def count(self) -> Pair:
        """Windows along height and width: the size of the output."""
        return self._along(0), self._along(1)

    @property
    def tiling(self) -> bool:
        """Whether the windows lie side by side, without gaps, overlaps or padding."""
        return self.window == self.stride and self.padding == UNPADDED and self.dilation == (1, 1)

    @property
    def pointwise(self) -> bool:
        """Whether output and input are the same positions."""
        return self.window == (1, 1) and self.stride == (1, 1) and self.padding == UNPADDED

    def _along(self, axis: int) -> int:
        reach = (self.window[axis] - 1) * self.dilation[axis] + 1
        return (self.size[axis] + sum(self.padding[axis]) - reach) // self.stride[axis] + 1

    def offsets(self) -> list[Pair]:
        """The positions inside a window, row by row."""
        return [(row, column) for row in range(self.window[0]) for column in range(self.window[1])]

    def pad(self, x: tf.Tensor, value: float = 0.0) -> tf.Tensor:
        """Put the padding around the input."""
        if self.padding == UNPADDED:
            return x
        return tf.pad(x, [(0, 0), *self.padding, (0, 0)], constant_values=value)

    def at(self, padded_x: tf.Tensor, offset: Pair) -> tf.Tensor:
        """The value at one position of every window: shape (n, *count, channels)."""
        (rows, columns), channels = self.count, padded_x.shape[3]
        top, left = (offset[axis] * self.dilation[axis] for axis in (0, 1))
        batch = -1 if padded_x.shape[0] is None else padded_x.shape[0]
        if self.stride == (1, 1):
            return tf.slice(padded_x, [0, top, left, 0], [batch, rows, columns, channels])
        if self.tiling:
            # An axis for the rows of a window, and columns beside channels: SLICE is faster than STRIDED_SLICE.
            (height, width) = self.window
            reached = tf.slice(padded_x, [0, 0, 0, 0], [batch, rows * height, columns * width, channels])
            tiles = tf.reshape(reached, [-1, rows, height, columns, width * channels])
            value = tf.slice(tiles, [0, 0, top, 0, left * channels], [batch, rows, 1, columns, channels])
            return tf.reshape(value, [-1, rows, columns, channels])
        down, across = self.stride
        last = (top + (rows - 1) * down + 1, left + (columns - 1) * across + 1)
        return padded_x[:, top : last[0] : down, left : last[1] : across, :]

    def put_back(self, part: Callable[[Pair], tf.Tensor]) -> tf.Tensor:
        """The adjoint of `pad` and `at`, summed over the offsets: shape (n, *size, channels).

        Args:
            part: The gradient at one position of every window, shape (n, *count, channels).
        """
        if self.tiling:
            return self._side_by_side(part)
        height, width = (self.size[axis] + sum(self.padding[axis]) for axis in (0, 1))
        total = None
        for offset in self.offsets():
            top, left = (offset[axis] * self.dilation[axis] for axis in (0, 1))
            apart = spaced(part(offset), self.stride)
            below, right = height - top - apart.shape[1], width - left - apart.shape[2]
            placed = padded(apart, [(0, 0), (top, below), (left, right), (0, 0)])
            total = placed if total is None else total + placed
        (top, _), (left, _) = self.padding
        return tf.slice(total, [0, top, left, 0], [-1, *self.size, -1])

    def _side_by_side(self, part: Callable[[Pair], tf.Tensor]) -> tf.Tensor:
        """`put_back` where windows tile the input: concatenations alone; what no window reaches gets zero."""
        (rows, columns), (height, width) = self.count, self.window
        channels = part((0, 0)).shape[3]
        lines = []
        for top in range(height):
            line = tf.concat([part((top, left)) for left in range(width)], -1)
            lines.append(tf.reshape(line, [-1, rows, columns * width * channels]))
        tiled = tf.reshape(tf.concat(lines, -1), [-1, rows * height, columns * width, channels])
        below, right = self.size[0] - rows * height, self.size[1] - columns * width
        return padded(tiled, [(0, 0), (0, below), (0, right), (0, 0)])


def windows_of(op: tf.Operation, size: Pair, window: Pair) -> Windows:
    """Read stride, dilation and padding of a convolution or pooling over an input of this size.

    Raises:
        UnsupportedModel: The layout is not NHWC, or a side is not known.
    """
    if attribute(op, "data_format") != "NHWC":
        raise unsupported(f"the operator {op.name} ({op.type}) has its channels first")
    if None in size:
        raise unsupported(f"the operator {op.name} ({op.type}) takes images of unknown size")
    _, down, across, _ = op.get_attr("strides")
    stride, dilation = (down, across), (1, 1)
    if "dilations" in op.node_def.attr:
        _, *apart, _ = op.get_attr("dilations")
        dilation = (apart[0], apart[1])
    kind = attribute(op, "padding")
    if kind == "EXPLICIT":
        _, _, above, below, left, right, _, _ = op.get_attr("explicit_paddings")
        return Windows(size, window, stride, ((above, below), (left, right)), dilation)
    if kind == "VALID":
        return Windows(size, window, stride, UNPADDED, dilation)
    vertical, horizontal = (_same(size[axis], (window[axis] - 1) * dilation[axis] + 1, stride[axis]) for axis in (0, 1))
    return Windows(size, window, stride, (vertical, horizontal), dilation)


def spaced(x: tf.Tensor, stride: Pair) -> tf.Tensor:
    """Put stride - 1 zeros between neighbours: shape (n, (h - 1)·s + 1, (w - 1)·s + 1, c)."""
    for axis in (2, 1):
        if stride[axis - 1] > 1:
            x = with_gaps(x, axis, stride[axis - 1])
    return x


def _same(size: int, reach: int, stride: int) -> Pair:
    """Padding that gives ⌈size / stride⌉ windows; an odd one goes after."""
    total = max((-(-size // stride) - 1) * stride + reach - size, 0)
    return total // 2, total - total // 2
