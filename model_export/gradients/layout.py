"""Operators that move values and compute nothing: the gradient moves them back.

What a slice leaves out gets a gradient of zero: it is padded. What a padding adds is cut off. What lies in several
places (TILE, BROADCAST_TO) is summed over them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import tensorflow as tf

from model_export.errors import no_rule, unsupported
from model_export.gradients.rule import Lowered, Rule, Share, attribute, copied, lowered
from model_export.gradients.shapes import folded, sides, static_value


def reshape(op: tf.Operation, x: tf.Tensor, *how: tf.Tensor) -> Lowered:
    """Reshape, ExpandDims, Squeeze: the same values in another shape."""
    y = op.outputs[0].shape
    target = y.as_list() if y.rank is not None else [None, None]
    if target.count(None) > 1:
        return lowered(copied(op, x, *how).outputs[0], lambda dy: (tf.reshape(dy, sides(x)),) + (None,) * len(how))
    out = tf.reshape(x, [-1 if side is None else side for side in target])
    return lowered(out, lambda dy: (tf.reshape(dy, sides(x)),) + (None,) * len(how))


def transpose(op: tf.Operation, x: tf.Tensor, order: tf.Tensor) -> Lowered:
    axes = static_value(op, order, "order of axes")
    return lowered(tf.transpose(x, axes), lambda dy: (tf.transpose(dy, np.argsort(axes)), None))


def concat(op: tf.Operation, *inputs: tf.Tensor) -> Lowered:
    """ConcatV2: the parts, then the axis."""
    *parts, axis = inputs
    along = int(static_value(op, axis, "axis")) % parts[0].shape.rank
    y = tf.concat(parts, along)

    def backward(dy: tf.Tensor) -> list[Share]:
        if None in [part.shape[along] for part in parts]:
            raise unsupported(f"the operator {op.name} (ConcatV2) joins batches of unknown size")
        begin, found = 0, []
        for part in parts:
            found.append(cut(dy, along, begin, part.shape[along]))
            begin += part.shape[along]
        return [*found, None]

    return lowered(y, backward)


def pack(op: tf.Operation, *parts: tf.Tensor) -> Lowered:
    axis = attribute(op, "axis")
    y = tf.stack(parts, axis)
    return lowered(y, lambda dy: tf.unstack(dy, num=len(parts), axis=axis))


def unpack(op: tf.Operation, x: tf.Tensor) -> Lowered:
    axis = attribute(op, "axis")
    parts = tuple(tf.unstack(x, num=attribute(op, "num"), axis=axis))
    return Lowered(parts, lambda *upstream: (tf.stack(_present(upstream, parts), axis),))


def split(op: tf.Operation, axis: tf.Tensor, x: tf.Tensor) -> Lowered:
    along = int(static_value(op, axis, "axis")) % x.shape.rank
    parts = tuple(tf.split(x, attribute(op, "num_split"), along))
    return Lowered(parts, lambda *upstream: (None, tf.concat(_present(upstream, parts), along)))


def split_by_sizes(op: tf.Operation, x: tf.Tensor, sizes: tf.Tensor, axis: tf.Tensor) -> Lowered:
    along = int(static_value(op, axis, "axis")) % x.shape.rank
    parts = tuple(tf.split(x, static_value(op, sizes, "sizes").tolist(), along))
    return Lowered(parts, lambda *upstream: (tf.concat(_present(upstream, parts), along), None, None))


def part_of(op: tf.Operation, x: tf.Tensor, begin: tf.Tensor, size: tf.Tensor) -> Lowered:
    """Slice."""
    y = copied(op, x, begin, size).outputs[0]
    if x.dtype != tf.float32:
        return lowered(y)
    first = static_value(op, begin, "beginning").tolist()
    lengths = static_value(op, size, "size").tolist()

    def backward(dy: tf.Tensor) -> tuple[tf.Tensor, None, None]:
        around = []
        for side, start, length in zip(x.shape.as_list(), first, lengths, strict=True):
            if side is None and (start or length != -1):
                raise unsupported(f"the operator {op.name} (Slice) cuts a batch of unknown size")
            around.append((start, 0 if length == -1 else side - start - length))
        return padded(dy, around), None, None

    return lowered(y, backward)


def strided_slice(op: tf.Operation, x: tf.Tensor, begin: tf.Tensor, end: tf.Tensor, step: tf.Tensor) -> Lowered:
    """x[a:b:c, ...] along any axes; a gradient needs steps above 0 and bounds that are constants."""
    y = copied(op, x, begin, end, step).outputs[0]
    if x.dtype != tf.float32:
        return lowered(y)
    return lowered(y, lambda dy: (_unsliced(op, x, dy, (begin, end, step)), None, None, None))


def _unsliced(op: tf.Operation, x: tf.Tensor, dy: tf.Tensor, bounds: Sequence[tf.Tensor]) -> tf.Tensor:
    """Put a gradient back where its slice was taken, with zeros around it and between."""
    ranges = _ranges(op, x, bounds)
    kept = [-1 if found is None else len(found) for found in ranges]
    dx = tf.reshape(dy, kept)
    for axis, found in enumerate(ranges):
        if found is not None and found.step > 1:
            dx = with_gaps(dx, axis, found.step)
    around = [
        (0, 0) if found is None else (found.start, side - found.start - (len(found) - 1) * found.step - 1)
        for side, found in zip(x.shape.as_list(), ranges, strict=True)
    ]
    return padded(dx, around)


def _ranges(op: tf.Operation, x: tf.Tensor, bounds: Sequence[tf.Tensor]) -> list[range | None]:
    """What a strided slice takes along each axis of x; None for all of a side of unknown length."""
    begin, end, step = (static_value(op, bound, "bounds").tolist() for bound in bounds)
    masks = {name: attribute(op, f"{name}_mask") for name in ("begin", "end", "ellipsis", "new_axis", "shrink_axis")}
    found: list[range | None] = []
    axis = 0
    for place in range(len(begin)):
        bit = 1 << place
        if masks["new_axis"] & bit:
            continue
        if masks["ellipsis"] & bit:
            later = sum(not masks["new_axis"] & (1 << other) for other in range(place + 1, len(begin)))
            while axis < x.shape.rank - later:
                found.append(_whole(x.shape[axis]))
                axis += 1
            continue
        side = x.shape[axis]
        first = None if masks["begin"] & bit else begin[place]
        last = None if masks["end"] & bit else end[place]
        if side is None:
            if first not in (None, 0) or last is not None or step[place] != 1:
                raise unsupported(f"the operator {op.name} (StridedSlice) cuts a batch of unknown size")
            found.append(None)
        elif masks["shrink_axis"] & bit:
            found.append(range(begin[place] % side, begin[place] % side + 1))
        elif step[place] < 1:
            raise unsupported(f"the operator {op.name} (StridedSlice) goes backwards")
        else:
            found.append(range(*slice(first, last, step[place]).indices(side)))
        axis += 1
    return found + [_whole(side) for side in x.shape.as_list()[axis:]]


def _whole(side: int | None) -> range | None:
    return None if side is None else range(side)


def with_gaps(x: tf.Tensor, axis: int, step: int) -> tf.Tensor:
    """Put step - 1 zeros between neighbours along an axis: its side becomes (side - 1) · step + 1."""
    shape = sides(x)
    side, inner = shape[axis], int(np.prod(shape[axis + 1 :], dtype=int))
    if inner < 0:
        raise unsupported(f"the tensor {x.name} has its batch behind axis {axis}")
    apart = tf.pad(tf.reshape(x, [-1, 1, inner]), [[0, 0], [0, step - 1], [0, 0]])
    apart = tf.reshape(apart, [*shape[:axis], side * step, *shape[axis + 1 :]])
    return cut(apart, axis, 0, (side - 1) * step + 1)


def cut(x: tf.Tensor, axis: int, begin: int, length: int) -> tf.Tensor:
    """`length` places along an axis."""
    if begin == 0 and length == x.shape[axis]:
        return x
    first, size = [0] * x.shape.rank, [-1] * x.shape.rank
    first[axis], size[axis] = begin, length
    return tf.slice(x, first, [-1 if side is None else side for side in _sized(x, size)])


def _sized(x: tf.Tensor, size: Sequence[int]) -> list[int | None]:
    """Known sides instead of -1, so that the shape stays known."""
    return [side if wanted == -1 else wanted for side, wanted in zip(x.shape.as_list(), size, strict=True)]


def padded(x: tf.Tensor, around: Sequence[tuple[int, int]]) -> tf.Tensor:
    """Zeros around; nothing is emitted where there are none."""
    return tf.pad(x, around) if any(pair != (0, 0) for pair in around) else x


def pad(op: tf.Operation, x: tf.Tensor, paddings: tf.Tensor, *value: tf.Tensor) -> Lowered:
    """Pad and PadV2."""
    around = static_value(op, paddings, "padding").tolist()
    y = copied(op, x, paddings, *value).outputs[0]

    def backward(dy: tf.Tensor) -> list[Share]:
        begin = [before for before, _after in around]
        return [tf.slice(dy, begin, sides(x)), None, *(None for _ in value)]

    return lowered(y, backward)


def mirrored(op: tf.Operation, x: tf.Tensor, paddings: tf.Tensor) -> Lowered:
    """MirrorPad: what lies beyond an edge is added to what it mirrors."""
    around = static_value(op, paddings, "padding").tolist()
    own = 0 if attribute(op, "mode") == "SYMMETRIC" else 1
    y = copied(op, x, paddings).outputs[0]

    def backward(dy: tf.Tensor) -> tuple[tf.Tensor, None]:
        for axis, (before, after) in enumerate(around):
            if not before and not after:
                continue
            side = x.shape[axis]
            inside = cut(dy, axis, before, side)
            for count, begin, place in ((before, 0, own), (after, before + side, side - own - after)):
                if count:
                    turned = tf.reverse(cut(dy, axis, begin, count), [axis])
                    zeros = [(0, 0)] * x.shape.rank
                    zeros[axis] = (place, side - place - count)
                    inside = inside + tf.pad(turned, zeros)
            dy = inside
        return dy, None

    return lowered(y, backward)


def tile(op: tf.Operation, x: tf.Tensor, multiples: tf.Tensor) -> Lowered:
    times = static_value(op, multiples, "multiples").tolist()
    y = copied(op, x, multiples).outputs[0]

    def backward(dy: tf.Tensor) -> tuple[tf.Tensor, None]:
        for axis, count in enumerate(times):
            if count > 1:
                shape = sides(dy)
                side = x.shape[axis]
                if side is None:
                    raise unsupported(f"the operator {op.name} (Tile) repeats a batch of unknown size")
                apart = tf.reshape(dy, [*shape[:axis], count, side, *shape[axis + 1 :]])
                dy = tf.reduce_sum(apart, axis)
        return dy, None

    return lowered(y, backward)


def repeat(op: tf.Operation, x: tf.Tensor, shape: tf.Tensor) -> Lowered:
    """BroadcastTo."""
    y = copied(op, x, shape).outputs[0]
    return lowered(y, lambda dy: (folded(dy, y, x), None))


def reverse(op: tf.Operation, x: tf.Tensor, axes: tf.Tensor) -> Lowered:
    """One axis at a time: REVERSE_V2 of tflite-runtime 2.14 reverses only the first of several."""
    along = [int(axis) for axis in static_value(op, axes, "axes").reshape(-1)]
    return lowered(turned(x, along), lambda dy: (turned(dy, along), None))


def turned(x: tf.Tensor, axes: Sequence[int]) -> tf.Tensor:
    for axis in axes:
        x = tf.reverse(x, [axis])
    return x


def space_to_batch(op: tf.Operation, x: tf.Tensor, block: tf.Tensor, paddings: tf.Tensor) -> Lowered:
    """SpaceToBatchND, which TensorFlow writes dilated convolutions with; BatchToSpaceND undoes it."""
    steps, around = static_value(op, block, "block").tolist(), static_value(op, paddings, "padding").tolist()
    return lowered(scattered_in_space(x, steps, around), lambda dy: (gathered_in_space(dy, steps, around), None, None))


def batch_to_space(op: tf.Operation, x: tf.Tensor, block: tf.Tensor, crops: tf.Tensor) -> Lowered:
    steps, around = static_value(op, block, "block").tolist(), static_value(op, crops, "crops").tolist()
    return lowered(gathered_in_space(x, steps, around), lambda dy: (scattered_in_space(dy, steps, around), None, None))


def scattered_in_space(x: tf.Tensor, steps: Sequence[int], around: Sequence[Sequence[int]]) -> tf.Tensor:
    """Pad, and make a batch of every phase of a step: shape (n · Π steps, side / step, ..., channels).

    TFLite's operator for it refuses a batch of unknown size on tflite-runtime 2.14; then it is axes that change places.
    """
    if x.shape[0] is not None:
        return tf.space_to_batch(x, steps, around)
    x = padded(x, [(0, 0), *((before, after) for before, after in around), (0, 0)])
    shape, axes = [-1], len(steps)
    for side, step in zip(x.shape[1:-1], steps, strict=True):
        shape += [side // step, step]
    phases, places = [2 + 2 * axis for axis in range(axes)], [1 + 2 * axis for axis in range(axes)]
    apart = tf.transpose(tf.reshape(x, [*shape, x.shape[-1]]), [*phases, 0, *places, 1 + 2 * axes])
    inner = [side // step for side, step in zip(x.shape[1:-1], steps, strict=True)]
    return tf.reshape(apart, [-1, *inner, x.shape[-1]])


def gathered_in_space(x: tf.Tensor, steps: Sequence[int], around: Sequence[Sequence[int]]) -> tf.Tensor:
    """The reverse: phases go back between each other, and the edges are cut off."""
    if x.shape[0] is not None:
        return tf.batch_to_space(x, steps, around)
    axes, inner = len(steps), list(x.shape[1:-1])
    apart = tf.reshape(x, [*steps, -1, *inner, x.shape[-1]])
    order = [axes] + [place for axis in range(axes) for place in (axes + 1 + axis, axis)] + [2 * axes + 1]
    whole = tf.reshape(
        tf.transpose(apart, order), [-1, *(side * step for side, step in zip(inner, steps, strict=True)), x.shape[-1]]
    )
    begin = [before for before, _after in around]
    size = [side - before - after for side, (before, after) in zip(whole.shape[1:-1], around, strict=True)]
    return tf.slice(whole, [0, *begin, 0], [-1, *size, x.shape[-1]])


def lower_band(op: tf.Operation, x: tf.Tensor, below: tf.Tensor, over: tf.Tensor) -> Lowered:
    """MatrixBandPart of a known size: a mask. Causal attention makes its mask so."""
    rows, columns = x.shape[-2:]
    under, beyond = (int(static_value(op, one, "band")) for one in (below, over))
    row, column = np.arange(rows)[:, None], np.arange(columns)[None]
    kept = ((under < 0) | (row - column <= under)) & ((beyond < 0) | (column - row <= beyond))
    if x.dtype == tf.bool:
        return lowered(tf.logical_and(x, tf.constant(kept)))
    mask = tf.constant(kept.astype(x.dtype.as_numpy_dtype))
    return lowered(x * mask, lambda dy: (dy * mask, None, None))


def _present(upstream: Sequence[tf.Tensor | None], parts: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """Zeros for the parts that nothing reads."""
    return [part * 0.0 if dy is None else dy for dy, part in zip(upstream, parts, strict=True)]


def filled(op: tf.Operation, shape: tf.Tensor, value: tf.Tensor) -> Lowered:
    """Fill: one value in many places, so its gradient is the sum over them."""
    y = copied(op, shape, value).outputs[0]
    return lowered(y, lambda dy: (None, tf.reduce_sum(dy)))


def multiplied_up(op: tf.Operation, x: tf.Tensor, axes: tf.Tensor) -> Lowered:
    """Prod, which models compute sizes with; the gradient of a product of values has no rule."""

    def backward(dy: tf.Tensor) -> tuple[Share, Share]:
        raise no_rule(op)

    return lowered(copied(op, x, axes).outputs[0], backward)


_QUESTIONS: Final[tuple[str, ...]] = (
    "Const", "Shape", "Size", "Rank", "Range", "ZerosLike", "OnesLike", "OneHot", "LinSpace", "Where",
)  # fmt: skip
"""Without a gradient: sizes, indices and constants."""

RULES: Final[Mapping[str, Rule]] = {
    **dict.fromkeys(_QUESTIONS, copied),
    "Fill": filled,
    "Prod": multiplied_up,
    "Reshape": reshape,
    "ExpandDims": reshape,
    "Squeeze": reshape,
    "Transpose": transpose,
    "ConcatV2": concat,
    "Pack": pack,
    "Unpack": unpack,
    "Split": split,
    "SplitV": split_by_sizes,
    "Slice": part_of,
    "StridedSlice": strided_slice,
    "Pad": pad,
    "PadV2": pad,
    "MirrorPad": mirrored,
    "Tile": tile,
    "BroadcastTo": repeat,
    "ReverseV2": reverse,
    "MatrixBandPart": lower_band,
    "SpaceToBatchND": space_to_batch,
    "BatchToSpaceND": batch_to_space,
}
