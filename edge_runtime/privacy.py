"""Clip a delta and hand it to the lanes: the last step before anything leaves the device."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from edge_runtime.protocol.bundle import Manifest
from edge_runtime.protocol.counted import count_of, joined
from edge_runtime.protocol.errors import InvalidPlan, NonFiniteTraining
from edge_runtime.protocol.plan import Plan
from edge_runtime.protocol.report import encode_report
from edge_runtime.protocol.secure_sum.lanes import ZERO_LANES, Delta, Lanes, LaneVector

if TYPE_CHECKING:
    from edge_runtime.protocol.noise import NoiseSource


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


def clip_layers(delta: Delta, clipping_norm: float, shares: Sequence[float], sizes: Sequence[int]) -> Delta:
    """Clip each layer by itself, to a norm whose square is its share of the whole one's.

    Guarantee: the norm of the result exceeds `clipping_norm` by float32 rounding at most, since √Σ C_l² = C.
    Source: https://arxiv.org/abs/1710.06963, section 3.2.

    Args:
        delta: Float32, shape ``(sum(sizes),)``: layer after layer.
        shares: Of the squared norm, above 0, in any unit; one for each layer.
        sizes: Values of each layer.

    Raises:
        InvalidPlan: There are more shares than layers, or fewer.
        NonFiniteTraining: A value is not finite.
    """
    if len(shares) != len(sizes):
        raise InvalidPlan(f"the plan has layer_shares for {len(shares)} tensors; the bundle shares {len(sizes)}")
    whole, ends = math.fsum(shares), np.cumsum(sizes)[:-1]
    norms = [clipping_norm * math.sqrt(share / whole) for share in shares]
    return np.concatenate([clip(part, norm) for part, norm in zip(np.split(delta, ends), norms, strict=True)])


def layer_sizes(manifest: Manifest) -> tuple[int, ...]:
    """Values of each shared tensor, in the manifest's order: the layers of a delta."""
    return tuple(tensor.size for tensor in manifest.tensors if tensor.shared)


def private_report(
    participation: str,
    delta: Delta,
    plan: Plan,
    rng: np.random.Generator,
    layers: Sequence[int] = (),
    *,
    clipping_norm: float | None = None,
    zeroed: bool = False,
    simulated_noise: NoiseSource | None = None,
) -> bytes:
    """Clip, round to lanes, add the plan's noise and put the header before them: the report's exact bytes.

    Under secure summing it is masked before it leaves. Noise is added where the plan's mode has devices add it: their
    share of a group's (distributed), or all of it (local). It is drawn from the system's random source, never from
    `rng`; the four zero lanes have none. Where the plan's norm adapts, whether clipping left the delta as it was stands
    behind it, with noise of its own.

    Args:
        layers: `layer_sizes`, for a plan that clips by layers; others do without.
        clipping_norm: Of the round's header, for a plan whose norm adapts; others do without.
        zeroed: The delta is zeros in place of what was trained: it counts neither as within the norm nor as beyond.
        simulated_noise: Of a simulator, whose runs are to be repeated. Whoever knows its key can take the noise away.

    Raises:
        NonFiniteTraining: A value of the delta is not finite.
        InvalidPlan: The plan's noise is below or beyond what integers can have, its layers are not the delta's, or its
            norm adapts and that of the round is not given.
    """
    if plan.adaptive is not None and clipping_norm is None:
        raise InvalidPlan("the plan's clipping norm adapts, and that of the round is not known")
    codec, counts = plan.lanes(clipping_norm), plan.count_lanes()
    norm = codec.clipping_norm
    clipped = clip_layers(delta, norm, plan.layer_shares, layers) if plan.layer_shares else clip(delta, norm)
    noise = _noise(codec, simulated_noise)
    lanes = _noised(codec, clipped, rng, noise)
    if plan.adaptive is not None and counts is not None:
        within = None if zeroed else bool(np.array_equal(clipped, delta))
        lanes = joined(lanes, _noised(counts, count_of(plan.adaptive, within=within), rng, noise))
    return encode_report(participation, codec, codec.packed(lanes))


def _noise(codec: Lanes, simulated: NoiseSource | None) -> NoiseSource | None:
    """Where noise comes from; None where devices add none."""
    if codec.noise_multiplier == 0:
        return None
    from edge_runtime.protocol.noise import NoiseSource  # most plans have none

    return simulated or NoiseSource.fresh()


def _noised(codec: Lanes, values: Delta, rng: np.random.Generator, noise: NoiseSource | None) -> LaneVector:
    """Values as lanes with this device's noise, and the four zero lanes without."""
    lanes = codec.encode(values, rng)
    if noise is not None:
        from edge_runtime.protocol.noise import DiscreteGaussian  # as above

        DiscreteGaussian(codec.noise * codec.scale).add_to(lanes[:-ZERO_LANES], noise)
    return lanes
