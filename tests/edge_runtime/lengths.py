"""How long an interpreter leaves a gradient that it clipped. Runs inside an interpreter's worker."""

from __future__ import annotations

import numpy as np

from edge_runtime.model import Model
from model_export.spec import Exported
from tests.edge_runtime.tasks import opened

EVEN, DRAWN = 12, 3


def longest(exported: Exported, runtime: str) -> float:
    """The largest L2 norm, in clipping norms, of some clipped gradients of `hidden.wide`.

    Most are of equal values, whose squares are rounded the same way again and again; some are drawn.
    """
    model, rng = opened(exported, runtime), np.random.default_rng(0)
    inputs, outputs = (schema.shape[0] for schema in (model.manifest.features, model.manifest.labels))
    found = []
    for number in range(EVEN + DRAWN):
        x, y = np.full(inputs, rng.uniform(1, 100)), np.full(outputs, rng.uniform(1e5, 1e7))
        if number >= EVEN:
            x, y = x * rng.normal(size=inputs), y * rng.normal(size=outputs)
        found.append(_length(model, x, y))
    return max(found)


def _length(model: Model, x: np.ndarray, y: np.ndarray) -> float:  # type: ignore[type-arg]
    model.set_weights(np.zeros(model.manifest.parameters, np.float32))
    before = model.accumulate(x.astype(np.float32)[None], y.astype(np.float32)[None], 1.0)
    assert before > 1, "nothing was clipped"
    model.apply(1.0, 1.0)
    return float(np.linalg.norm(model.get_weights().astype(np.float64)))
