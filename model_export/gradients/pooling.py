"""Gradients of pooling.

Average: every input of a window gets the window's gradient divided by the inputs that the window holds; padding is not
counted. Maximum: the first maximum of a window, row by row, gets all of its gradient, as in TensorFlow.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
import tensorflow as tf

from model_export.gradients.registry import Gradient
from model_export.gradients.windows import Pair, Windows, windows_of

_BELOW_ALL: Final = float(np.finfo(np.float32).min)


def average_pool(op: tf.Operation, upstream: tf.Tensor) -> tf.Tensor:
    """dx: the sum, over the windows that hold an input, of dy / inputs in the window."""
    windows = _windows(op)
    share = upstream / tf.constant(_inputs_in_windows(windows)[None, :, :, None])
    return windows.put_back(lambda _offset: share)


def max_pool(op: tf.Operation, upstream: tf.Tensor) -> tf.Tensor:
    """dx: dy where an input is its window's first maximum, summed over windows.

    No window value x exceeds its maximum y, so 1 - sign(y - x) is 1 where x is a maximum and 0 elsewhere.
    """
    x, largest = op.inputs[0], op.outputs[0]
    windows = _windows(op)
    padded = windows.pad(x, _BELOW_ALL)
    parts: dict[Pair, tf.Tensor] = {}
    unclaimed = tf.constant(1.0)
    for offset in windows.offsets():
        first = unclaimed * (1.0 - tf.sign(largest - windows.at(padded, offset)))
        unclaimed = unclaimed - first
        parts[offset] = upstream * first
    return windows.put_back(parts.__getitem__)


def _windows(op: tf.Operation) -> Windows:
    ksize = op.get_attr("ksize")
    return windows_of(op, op.inputs[0], (ksize[1], ksize[2]))


def _inputs_in_windows(windows: Windows) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    """How many inputs, padding aside, each window holds."""
    inside = np.pad(np.ones(windows.size, np.float32), windows.padding)
    (rows, columns), (down, across) = windows.count, windows.stride
    counts = np.zeros(windows.count, np.float32)
    for top, left in windows.offsets():
        counts += inside[top::down, left::across][:rows, :columns]
    return counts


GRADIENTS: Final[Mapping[str, Gradient]] = {"AvgPool": average_pool, "MaxPool": max_pool}
