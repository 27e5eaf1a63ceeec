"""Matrix products, as 2-D BATCH_MATMUL.

A product with a transposed right side becomes FULLY_CONNECTED, which XNNPACK does not take when its weights are
variables. So the transpose is written through a third axis, where the converter does not fold it, and every product is
a plain one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import tensorflow as tf

from model_export.errors import unsupported
from model_export.gradients.registry import Gradient


def product(left: tf.Tensor, right: tf.Tensor) -> tf.Tensor:
    """left · right, of shapes (n, k) and (k, m)."""
    return tf.raw_ops.BatchMatMulV2(x=left, y=right)


def product_left_transposed(left: tf.Tensor, right: tf.Tensor) -> tf.Tensor:
    """leftᵀ · right, of shapes (k, n) and (k, m)."""
    return tf.raw_ops.BatchMatMulV2(x=left, y=right, adj_x=True)


def transposed(matrix: tf.Tensor) -> tf.Tensor:
    """The transpose of a matrix, in a form that is not folded into a product."""
    rows, columns = matrix.shape
    return tf.reshape(tf.transpose(tf.reshape(matrix, [rows, columns, 1]), [1, 0, 2]), [columns, rows])


def matmul(op: tf.Operation, upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """C = A B: dA = dC Bᵀ and dB = Aᵀ dC."""
    left, right = op.inputs
    if op.get_attr("transpose_a") or op.get_attr("transpose_b"):
        raise unsupported(f"the operator {op.name} (MatMul) multiplies a transposed matrix")
    return product(upstream, transposed(right)), product_left_transposed(left, upstream)


GRADIENTS: Final[Mapping[str, Gradient]] = {"MatMul": matmul}
