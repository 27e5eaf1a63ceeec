"""Looking rows up in a table.

y = table[i], so the gradient of a row is the sum of dy over the places that looked it up: an UNSORTED_SEGMENT_SUM, or
for small tables Aᵀ dy with A the one-hot rows of i: one product, which stays in the fast path. The one-hot rows are
relu(1 - |i - iota|), since ONE_HOT leaves it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
import tensorflow as tf

from model_export.errors import unsupported
from model_export.gradients.rule import Lowered, OuterProduct, Rule, Share, attribute, copied, lowered
from model_export.gradients.shapes import static_value

_ONE_HOT_ROWS: Final = 0
"""Tables of at most so many rows get their gradient as a product."""


def lookup(op: tf.Operation, table: tf.Tensor, indices: tf.Tensor, *axis: tf.Tensor) -> Lowered:
    """Gather, GatherV2, ResourceGather of a table already read."""
    if table.dtype != tf.float32:
        return copied(op, table, indices, *axis)
    along = int(static_value(op, axis[0], "axis")) % table.shape.rank if axis else 0
    if along or (axis and attribute(op, "batch_dims")) or not table.shape.is_fully_defined():
        raise unsupported(f"the operator {op.name} ({op.type}) looks up along another axis than the first")
    y = tf.gather(table, indices)

    def backward(dy: tf.Tensor) -> tuple[Share, ...]:
        width = int(np.prod(table.shape[1:].as_list(), dtype=int))
        rows, places = tf.reshape(dy, [-1, width]), tf.reshape(indices, [-1])
        if table.shape.rank == 2 and table.shape[0] <= _ONE_HOT_ROWS:
            return OuterProduct(one_hot(places, table.shape[0]), rows), None, *(None for _ in axis)
        sums = tf.math.unsorted_segment_sum(rows, places, table.shape[0])
        return tf.reshape(sums, table.shape), None, *(None for _ in axis)

    return lowered(y, backward)


def one_hot(indices: tf.Tensor, depth: int) -> tf.Tensor:
    """Rows with a 1 at an index and 0 elsewhere: shape (*indices, depth), float32; exact below 2^24."""
    classes = tf.constant(np.arange(depth, dtype=np.float32))
    return tf.nn.relu(1.0 - tf.abs(classes - tf.expand_dims(tf.cast(indices, tf.float32), -1)))


RULES: Final[Mapping[str, Rule]] = {"Gather": lookup, "GatherV2": lookup}
