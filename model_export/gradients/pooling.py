"""Gradients of pooling.

Average: every input of a window gets the window's gradient divided by the inputs that the window holds; padding is not
counted. Maximum: the first maximum of a window, row by row, gets all of its gradient, as in TensorFlow.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
import tensorflow as tf

from model_export.gradients.elementwise import above
from model_export.gradients.rule import Lowered, Rule, copied, lowered
from model_export.gradients.windows import Pair, Windows, windows_of

_BELOW_ALL: Final = float(np.finfo(np.float32).min)


def average_pool(op: tf.Operation, x: tf.Tensor) -> Lowered:
    """dx: the sum, over the windows that hold an input, of dy / inputs in the window."""
    windows = _windows(op, x)

    def backward(dy: tf.Tensor) -> tuple[tf.Tensor]:
        share = dy / tf.constant(_inputs_in_windows(windows)[None, :, :, None])
        return (windows.put_back(lambda _offset: share),)

    return lowered(copied(op, x).outputs[0], backward)


def max_pool(op: tf.Operation, x: tf.Tensor) -> Lowered:
    """dx: dy where an input is its window's first maximum, summed over windows.

    No window value x exceeds its maximum y, so 1 - sign(y - x) is 1 where x is a maximum and 0 elsewhere.
    """
    largest = copied(op, x).outputs[0]
    windows = _windows(op, x)

    def backward(dy: tf.Tensor) -> tuple[tf.Tensor]:
        if windows.window == windows.stride == (2, 2):
            return (_tournament(x, dy, windows),)
        image = windows.pad(x, _BELOW_ALL)
        parts: dict[Pair, tf.Tensor] = {}
        unclaimed = tf.constant(1.0)
        for offset in windows.offsets():
            first = unclaimed * (1.0 - tf.sign(largest - windows.at(image, offset)))
            unclaimed = unclaimed - first
            parts[offset] = dy * first
        return (windows.put_back(parts.__getitem__),)

    return lowered(largest, backward)


def _tournament(x: tf.Tensor, dy: tf.Tensor, windows: Windows) -> tf.Tensor:
    """Windows of 2×2 that do not overlap: the rows' winners meet, then the values of each row; a tie goes to the first.

    Comparisons are of values a quarter of the input's size, and no maximum is looked for again.
    """
    image = windows.pad(x, _BELOW_ALL)
    a, b, c, d = (windows.at(image, offset) for offset in windows.offsets())
    lower = dy * above(tf.maximum(c, d), tf.maximum(a, b))
    upper = dy - lower
    right_above, right_below = upper * above(b, a), lower * above(d, c)
    shares = (upper - right_above, right_above, lower - right_below, right_below)
    return windows.put_back(dict(zip(windows.offsets(), shares, strict=True)).__getitem__)


def _windows(op: tf.Operation, x: tf.Tensor) -> Windows:
    _, height, width, _ = op.get_attr("ksize")
    return windows_of(op, (x.shape[1], x.shape[2]), (height, width))


def _inputs_in_windows(windows: Windows) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    """How many inputs, padding aside, each window holds."""
    inside = np.pad(np.ones(windows.size, np.float32), windows.padding)
    (rows, columns), (down, across) = windows.count, windows.stride
    counts = np.zeros(windows.count, np.float32)
    for top, left in windows.offsets():
        counts += inside[top::down, left::across][:rows, :columns]
    return counts


RULES: Final[Mapping[str, Rule]] = {"AvgPool": average_pool, "MaxPool": max_pool}
