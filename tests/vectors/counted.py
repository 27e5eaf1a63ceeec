"""Frozen reports under a clipping norm that adapts: deltas within it and beyond, and what their sum says."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from edge_runtime.privacy import private_report
from edge_runtime.protocol import wire
from edge_runtime.protocol.counted import open_sum
from edge_runtime.protocol.keys import digest
from edge_runtime.protocol.noise import NoiseSource
from edge_runtime.protocol.plan import Plan
from edge_runtime.protocol.report import lanes_of_report
from edge_runtime.protocol.secure_sum.lanes import LaneVector, sum_lanes

NORM: Final = 0.75
"""Of the round, learned: another than the plan's."""
DELTAS: Final = {"within": (0.5, -0.25, 0.0, 0.25, 0.125, -0.125), "beyond": (3.0, -1.0, 0.5, 0.0, 0.0, 2.0)}


def vectors(plan: Plan, participation: str) -> dict[str, Any]:
    """Both reports with the noise of a key that is known, the grid of both parts, and what their sum opens to."""
    codec, counts = plan.lanes(NORM), plan.count_lanes()
    assert counts is not None
    reports, lanes = {}, list[LaneVector]()
    for seed, (name, delta) in enumerate(DELTAS.items()):
        key, generator = digest(b"noise of the vectors", name.encode()), np.random.default_rng(seed)
        raw = private_report(
            participation,
            np.array(delta, np.float32),
            plan,
            generator,
            (len(delta),),
            clipping_norm=NORM,
            simulated_noise=NoiseSource(key),
        )
        reports[name] = {"delta": delta, "seed": seed, "noise_key": key.hex(), "raw": raw.hex()}
        lanes.append(codec.unpack(lanes_of_report(raw, participation, codec, len(delta) + 1), len(delta) + 1))
    opened = open_sum(plan, sum_lanes(lanes), len(DELTAS["within"]), NORM)
    return {
        "plan": wire.encode(plan).hex(),
        "participation": participation,
        "clipping_norm": NORM,
        "delta": {"scale": codec.scale, "noise": codec.noise},
        "count": {"scale": counts.scale, "noise": counts.noise, "noise_steps": counts.noise * counts.scale},
        "reports": reports,
        "opened": {"delta": opened.delta.tolist(), "above": opened.above},
    }
