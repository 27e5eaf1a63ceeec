"""Clip a delta and hand it to the lanes: the last step before anything leaves the device."""

from __future__ import annotations

import math

import numpy as np

from edge_runtime.protocol.errors import NonFiniteTraining
from edge_runtime.protocol.plan import Plan
from edge_runtime.protocol.report import encode_report
from edge_runtime.protocol.secure_sum.lanes import ZERO_LANES, Delta


def clip(delta: Delta, clipping_norm: float) -> Delta:
    """Scale a delta down to an L2 norm of at most `clipping_norm`; a smaller one comes back unchanged.

    Guarantee: in exact arithmetic the norm of the result exceeds `clipping_norm` by float32 rounding at most.
    Source: https://arxiv.org/abs/1607.00133.

    Args:
        delta: Float32, shape ``(parameters,)``.

    Raises:
        NonFiniteTraining: A value is not finite.
    """
    if not np.isfinite(delta).all():
        raise NonFiniteTraining("a value of the delta is not finite")
    exact = delta.astype(np.float64)
    norm = math.sqrt(float(np.dot(exact, exact)))
    if norm <= clipping_norm:
        return delta
    exact *= clipping_norm / norm
    return exact.astype(np.float32)


def private_report(participation: str, delta: Delta, plan: Plan, rng: np.random.Generator) -> bytes:
    """Clip, round to lanes, add the plan's noise and put the header before them: the report's exact bytes.

    Under secure summing it is masked before it leaves. The noise is drawn from the system's random source, never from
    `rng`; the four zero lanes have none.

    Raises:
        NonFiniteTraining: A value of the delta is not finite.
        InvalidPlan: The plan's noise is below or beyond what integers can have.
    """
    codec = plan.lanes()
    lanes = codec.encode(clip(delta, plan.clipping_norm), rng)
    if codec.noise_multiplier > 0:
        from edge_runtime.protocol.noise import DiscreteGaussian, NoiseSource  # most plans have none

        DiscreteGaussian(codec.noise * codec.scale).add_to(lanes[:-ZERO_LANES], NoiseSource.fresh())
    return encode_report(participation, codec, codec.packed(lanes))
