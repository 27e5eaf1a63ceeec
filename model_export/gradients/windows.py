"""Where the windows of a convolution or a pooling lie, and how values are gathered from them and put back.

Along one axis of length n, with window k, stride s and padding (before, after), output position t sees the padded input
positions t·s ... t·s + k - 1. All tensors are NHWC with static shapes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import tensorflow as tf

from model_export.errors import unsupported

Pair = tuple[int, int]
"""A value for height and one for width."""

Padding = tuple[Pair, Pair]
"""Rows above and below; columns left and right."""

_UNPADDED: Final[Padding] = ((0, 0), (0, 0))


@dataclass(frozen=True, slots=True)
class Windows:
    """The windows of one operation.

    Attributes:
        size: Of the input.
        window: Rows and columns of one window.
        stride: Between windows.
        padding: Around the input.
    """

    size: Pair
    window: Pair
    stride: Pair
    padding: Padding

    @property
    def count(self) -> Pair:
        """Windows along height and width: the size of the output."""
        return self._along(0), self._along(1)

    @property
    def tiling(self) -> bool:
        """Whether the windows lie side by side, without gaps, overlaps or padding."""
        return self.window == self.stride and self.padding == _UNPADDED

    def _along(self, axis: int) -> int:
        return (self.size[axis] + sum(self.padding[axis]) - self.window[axis]) // self.stride[axis] + 1

    def offsets(self) -> list[Pair]:
        """The positions inside a window, row by row."""
        return [(row, column) for row in range(self.window[0]) for column in range(self.window[1])]

    def pad(self, x: tf.Tensor, value: float = 0.0) -> tf.Tensor:
        """Put the padding around the input."""
        return _padded(x, self.padding, value)

    def at(self, padded: tf.Tensor, offset: Pair) -> tf.Tensor:
        """The value at one position of every window: shape (n, *count, channels)."""
        (rows, columns), (top, left), channels = self.count, offset, padded.shape[3]
        if self.stride == (1, 1):
            return tf.slice(padded, [0, top, left, 0], [-1, rows, columns, channels])
        if self.tiling:
            # An axis for the rows of a window, and columns beside channels: SLICE is faster than STRIDED_SLICE.
            (height, width) = self.window
            reached = tf.slice(padded, [0, 0, 0, 0], [-1, rows * height, columns * width, channels])
            tiles = tf.reshape(reached, [-1, rows, height, columns, width * channels])
            value = tf.slice(tiles, [0, 0, top, 0, left * channels], [-1, rows, 1, columns, channels])
            return tf.reshape(value, [-1, rows, columns, channels])
        down, across = self.stride
        return padded[:, top : top + (rows - 1) * down + 1 : down, left : left + (columns - 1) * across + 1 : across, :]

    def put_back(self, part: Callable[[Pair], tf.Tensor]) -> tf.Tensor:
        """The adjoint of `pad` and `at`, summed over the offsets: shape (n, *size, channels).

        Args:
            part: The gradient at one position of every window, shape (n, *count, channels).
        """
        if self.tiling:
            return self._side_by_side(part)
        height, width = (self.size[axis] + sum(self.padding[axis]) for axis in (0, 1))
        total = None
        for top, left in self.offsets():
            spread = with_zeros_between(part((top, left)), self.stride)
            below, right = height - top - spread.shape[1], width - left - spread.shape[2]
            placed = _padded(spread, ((top, below), (left, right)))
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
        return _padded(tiled, ((0, below), (0, right)))


def windows_of(op: tf.Operation, x: tf.Tensor, window: Pair) -> Windows:
    """Read stride and padding of a Conv2D, MaxPool or AvgPool operation.

    Raises:
        UnsupportedModel: The layout is not NHWC, or the padding is explicit.
    """
    layout, kind = op.get_attr("data_format").decode(), op.get_attr("padding").decode()
    if layout != "NHWC" or kind not in ("SAME", "VALID"):
        raise unsupported(f"the operator {op.name} has the layout {layout} and {kind} padding")
    strides = op.get_attr("strides")
    size, stride = (x.shape[1], x.shape[2]), (strides[1], strides[2])
    if kind == "VALID":
        return Windows(size, window, stride, _UNPADDED)
    vertical, horizontal = (_same(size[axis], window[axis], stride[axis]) for axis in (0, 1))
    return Windows(size, window, stride, (vertical, horizontal))


def with_zeros_between(x: tf.Tensor, stride: Pair) -> tf.Tensor:
    """Put stride - 1 zeros between neighbours: shape (n, (h - 1)·s + 1, (w - 1)·s + 1, c)."""
    batch, height, width, channels = x.shape
    down, across = stride
    if across > 1:
        x = tf.pad(tf.reshape(x, [-1, 1, channels]), [[0, 0], [0, across - 1], [0, 0]])
        x = tf.reshape(x, [batch, height, width * across, channels])[:, :, : (width - 1) * across + 1]
        width = x.shape[2]
    if down > 1:
        x = tf.pad(tf.reshape(x, [-1, 1, width * channels]), [[0, 0], [0, down - 1], [0, 0]])
        x = tf.reshape(x, [batch, height * down, width, channels])[:, : (height - 1) * down + 1]
    return x


def _same(size: int, window: int, stride: int) -> Pair:
    """Padding that gives ⌈size / stride⌉ windows; an odd one goes after."""
    total = max((-(-size // stride) - 1) * stride + window - size, 0)
    return total // 2, total - total // 2


def _padded(x: tf.Tensor, padding: Padding, value: float = 0.0) -> tf.Tensor:
    if padding == _UNPADDED:
        return x
    return tf.pad(x, [(0, 0), *padding, (0, 0)], constant_values=value)
