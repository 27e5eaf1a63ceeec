"""Where the windows of a convolution or a pooling lie, and how values are gathered from them and put back.

Along one axis of length n, with window k, dilation d, stride s and padding (before, after), output position t sees the
padded input positions t·s, t·s + d, ... t·s + (k - 1)·d. All tensors are NHWC; height and width are known.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import tensorflow as tf

from model_export.errors import unsupported
from model_export.gradients.layout import padded
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
    def pointwise(self) -> bool:
        """Whether output and input are the same positions."""
        return self.window == (1, 1) and self.stride == (1, 1) and self.padding == UNPADDED

    def _along(self, axis: int) -> int:
        reach = (self.window[axis] - 1) * self.dilation[axis] + 1
        return (self.size[axis] + sum(self.padding[axis]) - reach) // self.stride[axis] + 1

    def offsets(self) -> list[Pair]:
        """The positions inside a window, row by row."""
        return [(row, column) for row in range(self.window[0]) for column in range(self.window[1])]

    @property
    def cells(self) -> Pair:
        """The padded input in cells of one stride: rows and columns of cells that the windows reach."""
        rows, columns = (
            self.count[axis] + (self.window[axis] - 1) * self.dilation[axis] // self.stride[axis] for axis in (0, 1)
        )
        return rows, columns

    def pad(self, x: tf.Tensor, value: float = 0.0) -> tf.Tensor:
        """The padded input, cut or filled up to whole cells: what `at` looks into."""
        around = [(0, 0), *self._around(), (0, 0)]
        kept = [(max(-before, 0), max(-after, 0)) for before, after in around]
        if any(pair != (0, 0) for pair in kept):
            size = [-1 if side is None else side - sum(pair) for side, pair in zip(x.shape, kept, strict=True)]
            x = tf.slice(x, [before for before, _after in kept], size)
        more = [(max(before, 0), max(after, 0)) for before, after in around]
        return tf.pad(x, more, constant_values=value) if any(pair != (0, 0) for pair in more) else x

    def at(self, padded_x: tf.Tensor, offset: Pair) -> tf.Tensor:
        """The value at one position of every window: shape (n, *count, channels).

        With a stride, rows of a cell get an axis and its columns lie beside the channels: SLICE is faster than
        STRIDED_SLICE.
        """
        batch, channels = _batch(padded_x), padded_x.shape[3]
        (row, column), (top, left) = self._cell(offset)
        if self.stride == (1, 1):
            return tf.slice(padded_x, [0, row, column, 0], [batch, *self.count, channels])
        (down, across), (rows, columns) = self.stride, self.cells
        cells = tf.reshape(padded_x, [-1, rows, down, columns, across * channels])
        found = tf.slice(
            cells, [0, row, top, column, left * channels], [batch, self.count[0], 1, self.count[1], channels]
        )
        return tf.reshape(found, [-1, *self.count, channels])

    def put_back(self, part: Callable[[Pair], tf.Tensor]) -> tf.Tensor:
        """The adjoint of `pad` and `at`, summed over the offsets: shape (n, *size, channels).

        Args:
            part: The gradient at one position of every window, shape (n, *count, channels).
        """
        rows, columns = self.cells

        def placed(offset: Pair) -> tf.Tensor:
            (row, column), _ = self._cell(offset)
            after = (rows - row - self.count[0], columns - column - self.count[1])
            return padded(part(offset), [(0, 0), (row, after[0]), (column, after[1]), (0, 0)])

        return self._joined(placed)

    def put_back_products(self, dy: tf.Tensor, weights: Sequence[tf.Tensor]) -> tf.Tensor:
        """`put_back` of dy · w for a w of shape (channels,) at each offset: dy is padded once, and not the products."""
        (rows, columns), offsets = self.cells, self.offsets()
        reach = self._cell(offsets[-1])[0]
        around = [(0, 0), *((reach[axis], self.cells[axis] - self.count[axis]) for axis in (0, 1)), (0, 0)]
        image = padded(dy, around)

        def placed(offset: Pair) -> tf.Tensor:
            (row, column), _ = self._cell(offset)
            begin = [0, reach[0] - row, reach[1] - column, 0]
            seen = tf.slice(image, begin, [_batch(image), rows, columns, image.shape[3]])
            return seen * weights[offsets.index(offset)]

        return self._joined(placed)

    def _joined(self, placed: Callable[[Pair], tf.Tensor]) -> tf.Tensor:
        """Sum what belongs to one place of a cell, lay the places side by side, and take the padding off."""
        places: dict[Pair, tf.Tensor] = {}
        for offset in self.offsets():
            _, place = self._cell(offset)
            value = placed(offset)
            places[place] = value if place not in places else places[place] + value
        (rows, columns), (down, across) = self.cells, self.stride
        some = next(iter(places.values()))
        channels = some.shape[3]
        if self.stride == (1, 1):
            return self._unpadded(some)
        nothing = some * 0.0 if len(places) < down * across else some
        lines = []
        for top in range(down):
            line = tf.concat([places.get((top, left), nothing) for left in range(across)], -1)
            lines.append(tf.reshape(line, [-1, rows, columns * across * channels]))
        whole = tf.reshape(tf.concat(lines, -1), [-1, rows * down, columns * across, channels])
        return self._unpadded(whole)

    def _unpadded(self, image: tf.Tensor) -> tf.Tensor:
        """The adjoint of `pad`: what it filled up is cut off, and what it cut gets zero."""
        around = [(0, 0), *self._around(), (0, 0)]
        first = [max(before, 0) for before, _after in around]
        size = [
            -1 if side is None else side - max(before, 0) - max(after, 0)
            for side, (before, after) in zip(image.shape, around, strict=True)
        ]
        if [-1 if side is None else side for side in image.shape] != size:
            image = tf.slice(image, first, size)
        return padded(image, [(max(-before, 0), max(-after, 0)) for before, after in around])

    def _cell(self, offset: Pair) -> tuple[Pair, Pair]:
        """Which cell a position of the first window lies in, and where in that cell."""
        (row, top), (column, left) = (divmod(offset[axis] * self.dilation[axis], self.stride[axis]) for axis in (0, 1))
        return (row, column), (top, left)

    def _around(self) -> Padding:
        """Padding before, and after up to the end of the last cell; cut off where below 0."""
        above, below = (
            (self.padding[axis][0], self.cells[axis] * self.stride[axis] - self.size[axis] - self.padding[axis][0])
            for axis in (0, 1)
        )
        return above, below


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


def _batch(x: tf.Tensor) -> int:
    return -1 if x.shape[0] is None else int(x.shape[0])


def _same(size: int, reach: int, stride: int) -> Pair:
    """Padding that gives ⌈size / stride⌉ windows; an odd one goes after."""
    total = max((-(-size // stride) - 1) * stride + reach - size, 0)
    return total // 2, total - total // 2
