"""Batch normalisation as one operator, written out.

Layer and group normalisation, and Keras's batch normalisation, arrive as means, differences and products and need no
rule of their own. FusedBatchNorm does: y = (x - μ) / √(σ² + ε) · γ + β, over all axes but the channels. While training,
μ and σ² are those of the batch, and with x̂ = (y - β) / γ and n values a channel

    dβ = Σ dy        dγ = Σ dy x̂        dx = γ / √(σ² + ε) · (dy - (dβ + x̂ dγ) / n).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import tensorflow as tf

from model_export.errors import unsupported
from model_export.gradients.rule import Lowered, Rule, attribute

_AXES: Final = [0, 1, 2]


def fused_batch_norm(
    op: tf.Operation, x: tf.Tensor, scale: tf.Tensor, offset: tf.Tensor, mean: tf.Tensor, variance: tf.Tensor
) -> Lowered:
    if attribute(op, "data_format") != "NHWC":
        raise unsupported(f"the operator {op.name} ({op.type}) has its channels first")
    training, epsilon = attribute(op, "is_training"), attribute(op, "epsilon")
    values = None if None in x.shape[:3].as_list() else x.shape[0] * x.shape[1] * x.shape[2]
    if training and values is None:
        raise unsupported(f"the operator {op.name} ({op.type}) averages over a batch of unknown size")
    center = tf.reduce_mean(x, _AXES) if training else mean
    centered = x - center
    spread = tf.reduce_mean(centered * centered, _AXES) if training else variance
    inverse = tf.math.rsqrt(spread + epsilon)
    normal = centered * inverse
    y = normal * scale + offset

    def backward(dy: tf.Tensor, *_others: tf.Tensor | None) -> tuple[tf.Tensor | None, ...]:
        doffset, dscale = tf.reduce_sum(dy, _AXES), tf.reduce_sum(dy * normal, _AXES)
        dx = dy * (scale * inverse)
        if training and values:
            dx = scale * inverse * (dy - (doffset + normal * dscale) * (1.0 / values))
        return dx, dscale, doffset, None, None

    unbiased = spread * (values / max(values - 1, 1)) if training and values else spread
    return Lowered((y, center, unbiased, center, spread, spread)[: len(op.outputs)], backward)


RULES: Final[Mapping[str, Rule]] = dict.fromkeys(
    ("FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3"), fused_batch_norm
)
