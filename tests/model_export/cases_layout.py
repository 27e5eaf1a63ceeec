"""Examples of operators that move values, and of questions about shapes. TensorFlow worker only."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

import numpy as np
import tensorflow as tf
from hypothesis import strategies as st

from tests.model_export.cases_values import SEEDS, SIDES, Cases, booleans, normal, unary
from tests.model_export.operators import Example, Function, raw

Draw = Any


@st.composite
def shaped(draw: Draw, least: int = 1, most: int = 4) -> np.ndarray[Any, Any]:
    shape = tuple(draw(st.lists(SIDES, min_size=least, max_size=most)))
    return normal(np.random.default_rng(draw(SEEDS)), shape)


@st.composite
def reshape(draw: Draw) -> Example:
    x = draw(shaped(2, 4))
    sides = list(x.shape[1:])
    target = draw(st.sampled_from([[-1, int(np.prod(sides))], [-1, *sides[::-1]], [-1, *sides, 1], [-1, 1, *sides]]))
    return Example(f"{x.shape} to {target}", lambda x: tf.reshape(x, target), (x,), dynamic=draw(st.booleans()))


@st.composite
def expand(draw: Draw) -> Example:
    x = draw(shaped(1, 3))
    axis = draw(st.integers(-x.ndim - 1, x.ndim))
    return Example(f"{x.shape} at {axis}", lambda x: tf.expand_dims(x, axis), (x,), dynamic=draw(st.booleans()))


@st.composite
def squeeze(draw: Draw) -> Example:
    x = draw(shaped(1, 3))
    axis = draw(st.integers(1, x.ndim))
    wide = np.expand_dims(x, axis)
    return Example(f"{wide.shape} at {axis}", lambda x: tf.squeeze(x, [axis]), (wide,), dynamic=draw(st.booleans()))


@st.composite
def transpose(draw: Draw) -> Example:
    x = draw(shaped(1, 4))
    order = draw(st.permutations(range(x.ndim)))
    return Example(f"{x.shape} by {order}", lambda x: tf.transpose(x, order), (x,), dynamic=draw(st.booleans()))


@st.composite
def concat(draw: Draw) -> Example:
    x = draw(shaped())
    axis = draw(st.integers(-x.ndim, x.ndim - 1))
    rng = np.random.default_rng(draw(SEEDS))
    parts = [x]
    for _ in range(draw(st.integers(1, 3))):
        shape = list(x.shape)
        shape[axis] = draw(SIDES)
        parts.append(normal(rng, tuple(shape)))
    dynamic = draw(st.booleans()) and axis % x.ndim != 0
    what = f"{[part.shape for part in parts]} along {axis}"
    return Example(what, lambda *xs: tf.concat(xs, axis), tuple(parts), dynamic=dynamic)


@st.composite
def pack(draw: Draw) -> Example:
    x = draw(shaped(1, 3))
    axis = draw(st.integers(-x.ndim - 1, x.ndim))
    rng = np.random.default_rng(draw(SEEDS))
    parts = (x, *(normal(rng, x.shape) for _ in range(draw(st.integers(0, 2)))))
    what = f"{len(parts)} of {x.shape} at {axis}"
    return Example(what, lambda *xs: tf.stack(xs, axis), parts, dynamic=draw(st.booleans()))


@st.composite
def unpack(draw: Draw) -> Example:
    """Not all of the parts are read."""
    x = draw(shaped(2, 4))
    axis = draw(st.integers(1, x.ndim - 1)) - (x.ndim if draw(st.booleans()) else 0)
    read = draw(st.integers(1, x.shape[axis]))
    what = f"{x.shape} along {axis}, {read} read"
    return Example(what, lambda x: tf.unstack(x, axis=axis)[:read], (x,), dynamic=draw(st.booleans()))


@st.composite
def split(draw: Draw) -> Example:
    x = draw(shaped(2, 4))
    axis = draw(st.integers(1, x.ndim - 1))
    parts = draw(st.sampled_from([count for count in range(1, 5) if x.shape[axis] % count == 0]))
    read = draw(st.integers(1, parts))
    what = f"{x.shape} along {axis} in {parts}, {read} read"
    along = axis - (x.ndim if draw(st.booleans()) else 0)
    return Example(what, lambda x: tf.split(x, parts, along)[:read], (x,), dynamic=draw(st.booleans()))


@st.composite
def split_by_sizes(draw: Draw) -> Example:
    x = draw(shaped(2, 4))
    axis = draw(st.integers(1, x.ndim - 1))
    first = draw(st.integers(0, x.shape[axis]))
    sizes = draw(st.sampled_from([[first, x.shape[axis] - first], [first, -1]]))
    read = draw(st.integers(1, 2))
    if 0 in (first, x.shape[axis] - first):  # an empty output is not compared, and not every runtime gives it
        sizes, read = [x.shape[axis]], 1
    what = f"{x.shape} along {axis} in {sizes}, {read} read"
    return Example(what, lambda x: tf.split(x, sizes, axis)[:read], (x,), dynamic=draw(st.booleans()))


@st.composite
def part(draw: Draw) -> Example:
    """Slice."""
    x = draw(shaped())
    dynamic = draw(st.booleans())
    begin, size = [], []
    for axis, side in enumerate(x.shape):
        first = 0 if dynamic and not axis else draw(st.integers(0, side - 1))
        begin.append(first)
        size.append(-1 if dynamic and not axis else draw(st.sampled_from([-1, *range(1, side - first + 1)])))
    return Example(f"{x.shape} from {begin} of {size}", lambda x: tf.slice(x, begin, size), (x,), dynamic=dynamic)


@st.composite
def strided(draw: Draw) -> Example:
    """Python's own slicing: positive and negative bounds, steps, an ellipsis, new axes and single places."""
    x = draw(shaped())
    dynamic = draw(st.booleans())
    index: list[Any] = []
    axis, stop = 0, draw(st.integers(0, x.ndim))
    while axis < stop:
        kind = draw(st.sampled_from(["range", "range", "place", "new"]))
        if dynamic and axis == 0 and kind == "place":
            kind = "range"
        if kind == "new":
            index.append(tf.newaxis)
            if len(index) > 5:
                break
            continue
        side = x.shape[axis]
        if dynamic and axis == 0:
            index.append(slice(None))
        elif kind == "place":
            index.append(draw(st.integers(-side, side - 1)))
        else:
            index.append(draw(_ranges(side)))
        axis += 1
    if draw(st.booleans()):
        index.append(...)
        if axis < x.ndim and draw(st.booleans()) and (x.ndim - axis > 1 or not (dynamic and axis == 0)):
            index.append(draw(_ranges(x.shape[-1])))
    if x.ndim + index.count(None) > 5:  # more than tflite-runtime 2.14 takes
        index = [one for one in index if one is not tf.newaxis]
    what = f"{x.shape}[{', '.join(map(_said, index))}]"
    return Example(what, lambda x: x[tuple(index)] if index else x[...], (x,), dynamic=dynamic)


@st.composite
def _ranges(draw: Draw, side: int) -> slice:
    """Not empty."""
    bounds = st.one_of(st.none(), st.integers(-side - 1, side + 1))
    step = draw(st.sampled_from([None, 1, 2, 3]))
    found = slice(draw(bounds), draw(bounds), step)
    return found if len(range(*found.indices(side))) else slice(None, None, step)


def _said(one: Any) -> str:
    if isinstance(one, slice):
        return ":".join("" if bound is None else str(bound) for bound in (one.start, one.stop, one.step))
    return "..." if one is ... else str(one)


@st.composite
def pad(draw: Draw, name: str) -> Example:
    x = draw(shaped())
    dynamic = draw(st.booleans())
    amounts = st.integers(0, 3)
    around = [[0, 0] if dynamic and not axis else [draw(amounts), draw(amounts)] for axis in range(x.ndim)]
    function: Function = lambda x: tf.pad(x, around)  # noqa: E731
    if name == "PadV2":
        function = lambda x: raw("PadV2")(x, around, 1.5)  # noqa: E731
    return Example(f"{x.shape} by {around}", function, (x,), dynamic=dynamic)


@st.composite
def mirrored(draw: Draw) -> Example:
    x = draw(shaped(2, 4))
    dynamic, mode = draw(st.booleans()), draw(st.sampled_from(["SYMMETRIC", "REFLECT"]))
    around = []
    for axis, side in enumerate(x.shape):
        most = 0 if not axis else side - (mode == "REFLECT")
        around.append([draw(st.integers(0, most)), draw(st.integers(0, most))])
    return Example(f"{mode} {x.shape} by {around}", lambda x: tf.pad(x, around, mode), (x,), dynamic=dynamic)


@st.composite
def tile(draw: Draw) -> Example:
    x = draw(shaped())
    dynamic = draw(st.booleans())
    times = [1 if dynamic and not axis else draw(st.integers(1, 3)) for axis in range(x.ndim)]
    return Example(f"{x.shape} by {times}", lambda x: tf.tile(x, times), (x,), dynamic=dynamic, terms=27)


@st.composite
def repeated(draw: Draw) -> Example:
    x = draw(shaped(1, 3))
    narrow = x[tuple(slice(0, 1) if draw(st.booleans()) else slice(None) for _ in x.shape)]
    target = [*draw(st.lists(SIDES, max_size=1)), *x.shape]
    return Example(f"{narrow.shape} to {target}", lambda x: tf.broadcast_to(x, target), (narrow,), terms=x.size)


@st.composite
def turned(draw: Draw) -> Example:
    x = draw(shaped())
    axes = draw(st.lists(st.integers(0, x.ndim - 1), min_size=1, unique=True))
    return Example(f"{x.shape} along {axes}", lambda x: tf.reverse(x, axes), (x,), dynamic=draw(st.booleans()))


@st.composite
def band(draw: Draw) -> Example:
    x = draw(shaped(2, 3))
    below, over = draw(st.integers(-1, x.shape[-2])), draw(st.integers(-1, x.shape[-1]))
    if draw(st.booleans()):
        mask = booleans(np.random.default_rng(draw(SEEDS)), x.shape)
        return Example(f"{x.shape} {below} {over}", lambda x: tf.linalg.band_part(x, below, over), (mask,))
    return Example(f"{x.shape} {below} {over}", lambda x: tf.linalg.band_part(x, below, over), (x,))


@st.composite
def blocks(draw: Draw, *, back: bool) -> Example:
    """Space to batch, and back from there."""
    block = [draw(st.integers(1, 3)), draw(st.integers(1, 3))]
    cells = [draw(st.integers(1, 3)), draw(st.integers(1, 3))]
    around = [[draw(st.integers(0, side - 1)), 0] for side in block]
    x = normal(
        np.random.default_rng(draw(SEEDS)),
        (2, *(b * c - a[0] for b, c, a in zip(block, cells, around, strict=True)), draw(st.integers(1, 3))),
    )
    there: Function = lambda x: tf.space_to_batch(x, block, around)  # noqa: E731
    function = (lambda x: tf.batch_to_space(there(x) * 2.0, block, around)) if back else there
    return Example(f"{x.shape} by {block} with {around}", function, (x,), dynamic=draw(st.booleans()))


def _asked(answer: Function) -> st.SearchStrategy[Example]:
    """A question about x beside a value that learns; asked of a known shape, it is answered while exporting."""
    asked = unary(lambda x: tf.reduce_sum(tf.cast(answer(x), tf.float32)) * x)
    return asked.map(lambda example: replace(example, dynamic=True))


def _counting(x: tf.Tensor) -> tf.Tensor:
    return tf.shape(x)[0]


CASES: Final[Cases] = {
    "Const": unary(lambda x: x + tf.constant(2.5)),
    "Shape": _asked(tf.shape),
    "Size": _asked(tf.size),
    "Rank": _asked(raw("Rank")),
    "Range": _asked(lambda x: tf.range(0.0, tf.cast(_counting(x), tf.float32), 1.0)),
    "Fill": unary(lambda x: tf.fill([_counting(x)], tf.reduce_sum(x))),
    "ZerosLike": unary(lambda x: raw("ZerosLike")(x) + x),
    "OnesLike": unary(lambda x: raw("OnesLike")(x) + x),
    "OneHot": unary(lambda x: tf.one_hot(tf.cast(x * 2.0, tf.int32), 3)),
    "Prod": _asked(lambda x: tf.reduce_prod(tf.shape(x))),
    "LinSpace": _asked(lambda x: raw("LinSpace")(0.0, 1.0, 5)),
    "Where": _asked(lambda x: tf.where(x > 0.0)),
    "Reshape": reshape(),
    "ExpandDims": expand(),
    "Squeeze": squeeze(),
    "Transpose": transpose(),
    "ConcatV2": concat(),
    "Pack": pack(),
    "Unpack": unpack(),
    "Split": split(),
    "SplitV": split_by_sizes(),
    "Slice": part(),
    "StridedSlice": strided(),
    "Pad": pad("Pad"),
    "PadV2": pad("PadV2"),
    "MirrorPad": mirrored(),
    "Tile": tile(),
    "BroadcastTo": repeated(),
    "ReverseV2": turned(),
    "MatrixBandPart": band(),
    "SpaceToBatchND": blocks(back=False),
    "BatchToSpaceND": blocks(back=True),
}
