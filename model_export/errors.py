"""What the exporter refuses. No TensorFlow here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

SUPPORTED: Final = (
    "Dense, EinsumDense, Embedding, convolutions in one and two dimensions (strided, dilated, in groups, depthwise, "
    "separable, transposed), maximum, average and global pooling, batch, layer and group normalisation, GRU, LSTM and "
    "SimpleRNN, MultiHeadAttention, Dropout, merging, reshaping, cropping, padding and rescaling layers, and the "
    "activations relu, relu6, leaky_relu, elu, selu, gelu, silu, tanh, sigmoid, softplus and softmax"
)

_INSTEAD: Final[Mapping[str, str]] = {
    "While": "a fixed number of steps instead of a loop",
    "StatelessWhile": "a fixed number of steps instead of a loop",
    "If": "a mask (where) instead of a branch",
    "StatelessIf": "a mask (where) instead of a branch",
    "Conv3D": "Conv2D over slices",
    "ResizeBilinear": "UpSampling2D with interpolation='nearest', or Conv2DTranspose",
    "TopKV2": "a softmax",
    "Cumprod": "a sum of logarithms (Cumsum)",
    "Prod": "multiplications, or a sum of logarithms",
    "CudnnRNNV3": "the layer with unroll=True",
    "Erfinv": "another activation",
}


class UnsupportedModel(Exception):
    """The model cannot be made to train on a stock TFLite interpreter; the message is one sentence for its author."""


def unsupported(what: str) -> UnsupportedModel:
    """Name what stands in the way, and what does not."""
    return UnsupportedModel(f"{what}; supported are {SUPPORTED}")


def no_rule(op: Any) -> UnsupportedModel:
    """Name an operator that cannot be trained through, where in the model it is, and what to use instead."""
    layer = op.name.rpartition("/")[0] or "the model"
    instead = _INSTEAD.get(op.type)
    hint = f"use {instead}" if instead else "use one of the supported layers"
    return UnsupportedModel(
        f"the operator {op.type} of {layer} has no gradient here; {hint}; supported are {SUPPORTED}"
    )
