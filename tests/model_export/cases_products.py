"""Examples of convolutions, pools, matrix products and batch normalisation. TensorFlow worker only."""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
import tensorflow as tf
from hypothesis import strategies as st

from tests.model_export.cases_values import SEEDS, SIDES, Cases, normal, positive, tied
from tests.model_export.operators import Example, raw

Draw = Any

PAIRS: Final = st.tuples(st.integers(1, 3), st.integers(1, 3))


@st.composite
def windows(draw: Draw, *, dilated: bool, explicit: bool) -> tuple[tuple[int, int], tuple[int, int], dict[str, Any]]:
    """The size of an image, of a window on it, and how it moves."""
    window = draw(st.one_of(st.just((1, 1)), st.just((3, 3)), PAIRS, st.tuples(st.integers(1, 5), st.integers(1, 5))))
    stride = draw(st.one_of(st.just((1, 1)), st.just(window), st.just((2, 2)), PAIRS))
    dilation = draw(st.one_of(st.just((1, 1)), PAIRS)) if dilated and stride == (1, 1) else (1, 1)
    size = tuple((side - 1) * apart + 1 + draw(st.integers(0, 6)) for side, apart in zip(window, dilation, strict=True))
    kinds = ["SAME", "VALID", *(["EXPLICIT"] if explicit else [])]
    kind: Any = draw(st.sampled_from(kinds))
    if kind == "EXPLICIT":
        amounts = st.integers(0, 3)
        kind = [[0, 0], [draw(amounts), draw(amounts)], [draw(amounts), draw(amounts)], [0, 0]]
    return (size[0], size[1]), window, {"strides": stride, "padding": kind, "dilations": dilation}


def _said(size: Any, window: Any, how: dict[str, Any]) -> str:
    return f"{window} on {size}, {', '.join(f'{key} {value}' for key, value in how.items())}"


def _apart(kernel: tf.Tensor, dilation: tuple[int, int]) -> tf.Tensor:
    """A filter with zeros between its places: TensorFlow has no gradient of dilated convolutions on a CPU."""
    rows, columns = (
        np.eye((side - 1) * step + 1, dtype=np.float32)[:, ::step]
        for side, step in zip(kernel.shape[:2], dilation, strict=True)
    )
    return tf.einsum("ak,bl,klio->abio", rows, columns, kernel)


@st.composite
def convolution(draw: Draw) -> Example:
    size, window, how = draw(windows(dilated=True, explicit=True))
    groups = draw(st.sampled_from([1, 1, 1, 2, 3]))
    channels = groups * draw(st.sampled_from([1, 2, 3, 10]))
    filters = groups * draw(SIDES)
    rng = np.random.default_rng(draw(SEEDS))
    batch = draw(st.integers(1, 3))
    inputs = (normal(rng, (batch, *size, channels)), normal(rng, (*window, channels // groups, filters)))
    what = f"{_said(size, window, how)}, {channels} to {filters} channels in {groups} groups"
    terms = max(batch * math.prod(size), math.prod(window) * channels, math.prod(window) * filters)

    def function(x: tf.Tensor, w: tf.Tensor) -> tf.Tensor:
        return tf.nn.conv2d(x, w, **how)

    def by_group(x: tf.Tensor, w: tf.Tensor) -> tf.Tensor:
        parts = zip(tf.split(x, groups, 3), tf.split(_apart(w, how["dilations"]), groups, 3), strict=True)
        return tf.concat([tf.nn.conv2d(*part, how["strides"], how["padding"]) for part in parts], 3)

    return Example(what, function, inputs, (True, False), draw(st.booleans()), terms, by_group)


@st.composite
def transposed_convolution(draw: Draw) -> Example:
    size, window, how = draw(windows(dilated=True, explicit=False))
    channels, filters, batch = draw(SIDES), draw(SIDES), draw(st.integers(1, 3))
    rng = np.random.default_rng(draw(SEEDS))
    kernel = normal(rng, (*window, channels, filters))
    small = tf.nn.conv2d(tf.zeros((1, *size, channels)), kernel, **how).shape[1:3]
    inputs = (normal(rng, (batch, *small, filters)), kernel)

    def function(x: tf.Tensor, w: tf.Tensor) -> tf.Tensor:
        rows = batch if x.shape[0] is not None else tf.shape(x)[0]
        return tf.nn.conv2d_transpose(x, w, [rows, *size, channels], **how)

    def undilated(x: tf.Tensor, w: tf.Tensor) -> tf.Tensor:
        kernel = _apart(w, how["dilations"])
        return tf.nn.conv2d_transpose(x, kernel, [batch, *size, channels], how["strides"], how["padding"])

    what = f"{_said(size, window, how)}, {filters} to {channels} channels"
    terms = max(batch * math.prod(size), math.prod(window) * channels, math.prod(window) * filters)
    return Example(what, function, inputs, (True, False), draw(st.booleans()), terms, undilated)


@st.composite
def depthwise(draw: Draw) -> Example:
    size, window, how = draw(windows(dilated=True, explicit=True))
    side = draw(st.integers(1, 3))
    how["strides"] = [1, *(how["strides"] if how["dilations"] != (1, 1) else (side, side)), 1]
    channels, multiplier, batch = draw(SIDES), draw(st.integers(1, 3)), draw(st.integers(1, 3))
    rng = np.random.default_rng(draw(SEEDS))
    inputs = (normal(rng, (batch, *size, channels)), normal(rng, (*window, channels, multiplier)))
    what = f"{_said(size, window, how)}, {channels} channels by {multiplier}"
    terms = max(batch * math.prod(size), math.prod(window) * multiplier)
    function = lambda x, w: tf.nn.depthwise_conv2d(x, w, **how)  # noqa: E731
    return Example(what, function, inputs, (True, False), draw(st.booleans()), terms)


@st.composite
def pooling(draw: Draw, name: str) -> Example:
    """Windows that overlap, leave gaps, and reach into padding; values that are often equal."""
    size, window, how = draw(windows(dilated=False, explicit=False))
    values = draw(st.sampled_from([tied, normal]))
    x = values(np.random.default_rng(draw(SEEDS)), (draw(st.integers(1, 3)), *size, draw(st.integers(1, 3))))
    pool = tf.nn.max_pool2d if name == "MaxPool" else tf.nn.avg_pool2d
    what = f"{_said(size, window, how)}, {values.__name__}"
    function = lambda x: pool(x, window, how["strides"], how["padding"])  # noqa: E731
    return Example(what, function, (x,), dynamic=draw(st.booleans()), terms=math.prod(window))


@st.composite
def matmul(draw: Draw) -> Example:
    rows, inner, columns = draw(SIDES), draw(st.sampled_from([1, 3, 40])), draw(SIDES)
    flip_a, flip_b = draw(st.booleans()), draw(st.booleans())
    rng = np.random.default_rng(draw(SEEDS))
    a = normal(rng, (inner, rows) if flip_a else (rows, inner))
    b = normal(rng, (columns, inner) if flip_b else (inner, columns))
    what = f"{a.shape}{'ᵀ' * flip_a} · {b.shape}{'ᵀ' * flip_b}"
    dynamic = draw(st.booleans()) and not flip_a
    terms = max(rows, inner, columns)
    function = raw("MatMul", transpose_a=flip_a, transpose_b=flip_b)
    return Example(what, function, (a, b), (True, False), dynamic, terms)


@st.composite
def batch_matmul(draw: Draw, name: str) -> Example:
    rows, inner, columns = draw(SIDES), draw(SIDES), draw(SIDES)
    flip_a, flip_b = draw(st.booleans()), draw(st.booleans())
    of_a = draw(st.lists(SIDES, min_size=1, max_size=2))
    of_b = list(of_a)
    if name == "BatchMatMulV2":
        of_b = [side if draw(st.booleans()) else 1 for side in of_a[draw(st.integers(0, len(of_a))) :]]
    rng = np.random.default_rng(draw(SEEDS))
    a = normal(rng, (*of_a, *((inner, rows) if flip_a else (rows, inner))))
    b = normal(rng, (*of_b, *((columns, inner) if flip_b else (inner, columns))))
    same = len(of_b) == len(of_a) and of_b[0] == of_a[0]
    what = f"{a.shape}{'ᵀ' * flip_a} · {b.shape}{'ᵀ' * flip_b}"
    terms = max(rows, inner, columns) * math.prod(of_a)
    return Example(what, raw(name, adj_x=flip_a, adj_y=flip_b), (a, b), (True, same), draw(st.booleans()), terms)


EQUATIONS: Final = (
    "ab,bc->ac", "ab,cb->ac", "ab,bc->ca", "abc,cd->abd", "abc,cde->abde", "abcd,cde->abe", "aecd,abcd->acbe",
    "acbe,aecd->abcd", "abc,abd->acd", "abc,adc->abd", "abc,bcd->abd", "abcd,acde->abce",
    "...b,bc->...c", "...ab,bc->...ac", "abc,c->ab", "ab,ab->a", "ab,a->ab", "abc,b->ac", "abc,abc->abc",
)  # fmt: skip
"""What dense layers over the last axes, attention, and people write."""


@st.composite
def einsum(draw: Draw) -> Example:
    equation = draw(st.sampled_from(EQUATIONS))
    size = {letter: draw(SIDES) for letter in "abcde"}
    rng = np.random.default_rng(draw(SEEDS))
    sides = [one.replace("...", "de") for one in equation.split("->")[0].split(",")]
    inputs = tuple(normal(rng, tuple(size[letter] for letter in one)) for one in sides)
    dynamic = draw(st.booleans())
    batched = tuple(one[0] in "ad" for one in sides)
    what = f"{equation} of {' and '.join(str(one.shape) for one in inputs)}"
    return Example(what, lambda *xs: tf.einsum(equation, *xs), inputs, batched, dynamic, math.prod(size.values()))


@st.composite
def batch_norm(draw: Draw, name: str) -> Example:
    rng = np.random.default_rng(draw(SEEDS))
    channels, training = draw(SIDES), draw(st.booleans())
    shape = (draw(st.integers(2, 3)), draw(st.integers(2, 4)), draw(st.integers(2, 4)), channels)
    scale, offset = normal(rng, (channels,)), normal(rng, (channels,))
    mean, variance = normal(rng, (channels,)), positive(rng, (channels,))
    norm = raw(name, is_training=training, epsilon=0.01)

    def function(x: tf.Tensor, scale: tf.Tensor, offset: tf.Tensor) -> list[tf.Tensor]:
        kept = (tf.zeros(0), tf.zeros(0)) if training else (tf.constant(mean), tf.constant(variance))
        y, *statistics = norm(x, scale, offset, *kept)
        return [y, *map(tf.stop_gradient, statistics[:2])] if training else [y]

    dynamic = draw(st.booleans()) and not training
    what = f"{shape} {'training' if training else 'with given statistics'}"
    return Example(what, function, (normal(rng, shape), scale, offset), (True, False, False), dynamic, math.prod(shape))


CASES: Final[Cases] = {
    "Conv2D": convolution(),
    "Conv2DBackpropInput": transposed_convolution(),
    "DepthwiseConv2dNative": depthwise(),
    "AvgPool": pooling("AvgPool"),
    "MaxPool": pooling("MaxPool"),
    "MatMul": matmul(),
    "BatchMatMul": batch_matmul("BatchMatMul"),
    "BatchMatMulV2": batch_matmul("BatchMatMulV2"),
    "Einsum": einsum(),
    "FusedBatchNorm": batch_norm("FusedBatchNorm"),
    "FusedBatchNormV2": batch_norm("FusedBatchNormV2"),
    "FusedBatchNormV3": batch_norm("FusedBatchNormV3"),
}
