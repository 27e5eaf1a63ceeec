"""Looking rows up in a table.

y = table[i], so the gradient of a row is the sum of dy over the places that looked it up. It is a SCATTER_ND, which
adds what falls on one row, and whose size is known: the size of TensorFlow's UNSORTED_SEGMENT_SUM is not, which keeps
XNNPACK away from the whole graph on tflite-runtime 2.14.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
import tensorflow as tf

from model_export.errors import unsupported
from model_export.gradients.rule import Lowered, Rule, Share, attribute, copied, lowered
from model_export.gradients.shapes import static_value


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
        places = tf.reshape(indices, [-1, 1])
        sums = tf.scatter_nd(places, tf.reshape(dy, [-1, width]), [table.shape[0], width])
        return tf.reshape(sums, table.shape), None, *(None for _ in axis)

    return lowered(y, backward)


RULES: Final[Mapping[str, Rule]] = {"Gather": lookup, "GatherV2": lookup, "ResourceGather": lookup}
