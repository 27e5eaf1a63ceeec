"""Matrix products, as 2-D BATCH_MATMUL wherever a weight takes part.

C = A B: dA = dC Bᵀ and dB = Aᵀ dC.

A product with a transposed right side becomes FULLY_CONNECTED, which XNNPACK does not take when its weights are
variables. So the transpose is written through a third axis, where the converter does not fold it, and every product is
a plain one. An einsum of two tensors is transposes and reshapes around one product, and its gradients are einsums too.
"""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import tensorflow as tf

from model_export.errors import unsupported
from model_export.gradients.rule import Lowered, OuterProduct, Rule, Share, attribute, lowered
from model_export.gradients.shapes import as_rows, folded, sides

_BIG: Final = 200_000
"""Weights from which on, beside few rows, a product is faster with the weights on its left."""
_FEW_ROWS: Final = 64


def product(left: tf.Tensor, right: tf.Tensor) -> tf.Tensor:
    """left · right, of shapes (..., k) and (k, m).

    More axes than two become (1, n, k): the converter would fold a plain reshape into the product, as a product for
    each of the first axes, and tflite-runtime 2.14 packs the right side anew for every one of them.
    """
    if left.shape.rank == 2:
        return tf.raw_ops.BatchMatMulV2(x=left, y=right)
    rows = tf.reshape(left, [1, -1, left.shape[-1]])
    return tf.reshape(tf.raw_ops.BatchMatMulV2(x=rows, y=right), [*sides(left)[:-1], right.shape[1]])


def product_left_transposed(left: tf.Tensor, right: tf.Tensor) -> tf.Tensor:
    """leftᵀ · right, of shapes (k, n) and (k, m)."""
    return tf.raw_ops.BatchMatMulV2(x=left, y=right, adj_x=True)


def product_right_transposed(left: tf.Tensor, right: tf.Tensor) -> tf.Tensor:
    """left · rightᵀ, of shapes (..., k) and (m, k)."""
    rows = left.shape[0] if left.shape.rank == 2 else None
    if rows is not None and rows <= _FEW_ROWS and right.shape.num_elements() >= _BIG:
        return transposed(product(right, transposed(left)))
    return product(left, transposed(right))


def transposed(matrix: tf.Tensor) -> tf.Tensor:
    """The transpose of a matrix, in a form that is not folded into a product."""
    rows, columns = sides(matrix)
    return tf.reshape(tf.transpose(tf.reshape(matrix, [rows, columns, 1]), [1, 0, 2]), [columns, rows])


def matmul(op: tf.Operation, a: tf.Tensor, b: tf.Tensor) -> Lowered:
    """MatMul, with either side transposed or not."""
    flip_a, flip_b = attribute(op, "transpose_a"), attribute(op, "transpose_b")
    left = transposed(a) if flip_a else a
    right = transposed(b) if flip_b else b

    def backward(dc: tf.Tensor) -> tuple[Share, Share]:
        da = product(right, transposed(dc)) if flip_a else product_right_transposed(dc, right)
        db: Share = OuterProduct(dc, left) if flip_b else OuterProduct(left, dc)
        return da, db

    return lowered(product(left, right), backward)


def batch_matmul(op: tf.Operation, a: tf.Tensor, b: tf.Tensor) -> Lowered:
    """BatchMatMulV2: (..., n, k) · (..., k, m), either side transposed or not."""
    flip_a, flip_b = attribute(op, "adj_x"), attribute(op, "adj_y")
    if b.shape.rank == 2 and not flip_a:
        return _rows_times_matrix(a, transposed(b) if flip_b else b, flip_b)
    c = batched(a, b, flip_a, flip_b)

    def backward(dc: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        da = batched(b, dc, flip_b, True) if flip_a else batched(dc, b, False, not flip_b)
        db = batched(dc, a, True, flip_a) if flip_b else batched(a, dc, not flip_a, False)
        return _of_batch(da, a), _of_batch(db, b)

    return lowered(c, backward)


def _rows_times_matrix(a: tf.Tensor, matrix: tf.Tensor, flipped: bool) -> Lowered:
    def backward(dc: tf.Tensor) -> tuple[Share, Share]:
        rows, upstream = as_rows(a), as_rows(dc)
        shares = OuterProduct(upstream, rows) if flipped else OuterProduct(rows, upstream)
        return product_right_transposed(dc, matrix), shares

    return lowered(product(a, matrix), backward)


def batched(a: tf.Tensor, b: tf.Tensor, flip_a: bool, flip_b: bool) -> tf.Tensor:
    """A product of stacks of matrices, with at most one axis of stacks: more are slow on tflite-runtime 2.14.

    That runtime computes nonsense for a left side to be transposed beside a right side whose stacks are of one matrix.
    """
    if flip_a and a.shape.rank >= b.shape.rank > 2 and set(b.shape.as_list()[:-2]) == {1}:
        b = tf.reshape(b, b.shape.as_list()[-2:])
    if a.shape.rank > 3 and a.shape.rank == b.shape.rank and a.shape[:-2].as_list() == b.shape[:-2].as_list():
        stacks = [-1 if side is None else side for side in a.shape.as_list()[:-2]]
        flat = -1 if -1 in stacks else int(np.prod(stacks))
        a3, b3 = (tf.reshape(one, [flat, *one.shape.as_list()[-2:]]) for one in (a, b))
        c = tf.raw_ops.BatchMatMulV2(x=a3, y=b3, adj_x=flip_a, adj_y=flip_b)
        return tf.reshape(c, [*stacks, *c.shape.as_list()[-2:]])
    return tf.raw_ops.BatchMatMulV2(x=a, y=b, adj_x=flip_a, adj_y=flip_b)


def _of_batch(gradient: tf.Tensor, like: tf.Tensor) -> tf.Tensor:
    return folded(gradient, gradient, like)


def einsum(op: tf.Operation, *inputs: tf.Tensor) -> Lowered:
    """Einsum of two tensors, without repeated or lone letters."""
    equation = attribute(op, "equation")
    if len(inputs) != 2:
        raise unsupported(f"the operator {op.name} (Einsum {equation}) is not of two tensors")
    equation = _spelled_out(equation, inputs)
    (left, right), out = equation.split("->")[0].split(","), equation.split("->")[1]
    letters = (left, right, out)
    alone = any(sum(letter in one for one in letters) < 2 for letter in set(left + right + out))
    if alone or any(len(set(one)) != len(one) for one in letters):
        raise unsupported(f"the operator {op.name} (Einsum {equation}) sums or repeats an axis of one tensor")
    a, b = inputs

    def backward(dc: tf.Tensor) -> tuple[tf.Tensor, Share]:
        return contract(out, right, left, dc, b), contract(left, out, right, a, dc)

    return lowered(contract(left, right, out, a, b), backward)


def _spelled_out(equation: str, inputs: Sequence[tf.Tensor]) -> str:
    """The equation with a letter for each axis that an ellipsis stands for; the last such axes are the same ones."""
    sides_of, out = equation.split("->")
    unused = [letter for letter in string.ascii_letters if letter not in equation]
    parts, longest = [], 0
    for side, tensor in zip(sides_of.split(","), inputs, strict=True):
        count = tensor.shape.rank - len(side.replace("...", ""))
        parts.append(side.replace("...", "".join(unused[:count][::-1])))
        longest = max(longest, count)
    return ",".join(parts) + "->" + out.replace("...", "".join(unused[:longest][::-1]))


def contract(left: str, right: str, out: str, a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    """Sum a · b over the axes that `out` lacks; every letter is in two of the three."""
    size: dict[str, Any] = {**dict(zip(left, sides(a), strict=True)), **dict(zip(right, sides(b), strict=True))}
    both = [letter for letter in left if letter in right]
    batch = [letter for letter in both if letter in out]
    summed = [letter for letter in both if letter not in out]
    rows = [letter for letter in left if letter not in right]
    columns = [letter for letter in right if letter not in left]

    def flat(letters: list[str]) -> int:
        return -1 if any(size[letter] == -1 for letter in letters) else int(np.prod([size[one] for one in letters]))

    x = _arranged(a, left, batch + rows + summed)
    y = _arranged(b, right, batch + summed + columns)
    if batch:
        x = tf.reshape(x, [flat(batch), flat(rows), flat(summed)])
        y = tf.reshape(y, [flat(batch), flat(summed), flat(columns)])
        found = tf.raw_ops.BatchMatMulV2(x=x, y=y)
    else:
        found = product(tf.reshape(x, [flat(rows), flat(summed)]), tf.reshape(y, [flat(summed), flat(columns)]))
    order = batch + rows + columns
    return _arranged(tf.reshape(found, [size[letter] for letter in order]), "".join(order), list(out))


def _arranged(x: tf.Tensor, letters: str, order: list[str]) -> tf.Tensor:
    if list(letters) == order:
        return x
    return tf.transpose(x, [letters.index(letter) for letter in order])


RULES: Final[Mapping[str, Rule]] = {
    "MatMul": matmul,
    "BatchMatMul": batch_matmul,
    "BatchMatMulV2": batch_matmul,
    "Einsum": einsum,
}
