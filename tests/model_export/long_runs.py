"""Many steps in one interpreter: memory, and the same bits again. Interpreter workers only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from edge_runtime.model import Model
from edge_runtime.protocol.keys import digest
from model_export.spec import Exported
from tests.edge_runtime.tasks import _here, opened

_WARM_UP = 200


def memory_growth_bytes(exported: Exported, steps: int) -> int:
    """How much larger this process is after so many steps than after the first ones."""
    model = opened(exported, _here())
    model.begin_round()
    batch = _batch(exported)
    for _ in range(_WARM_UP):
        model.train_step(*batch, learning_rate=1e-4)
    before = _resident_bytes()
    for _ in range(steps):
        model.train_step(*batch, learning_rate=1e-4)
    return _resident_bytes() - before


def digests_of_two_runs(exported: Exported, steps: int) -> tuple[str, str]:
    """Of the trained weights, from two interpreters."""
    first, again = (_trained(opened(exported, _here()), exported, steps) for _ in range(2))
    return first, again


def _trained(model: Model, exported: Exported, steps: int) -> str:
    model.begin_round()
    x, y = _batch(exported)
    for seed in range(steps):
        model.train_step(x, y, learning_rate=0.01, seed=seed)
    return digest(model.get_weights().tobytes()).hex()


def _batch(exported: Exported) -> tuple[Any, Any]:
    """Within the schemas; labels are classes."""
    manifest, rng = exported.manifest, np.random.default_rng(0)
    features, labels = manifest.features, manifest.labels
    x = rng.uniform(features.low, features.high, (manifest.batch_size, *features.shape)).astype(features.dtype)
    y = rng.integers(int(labels.low), int(labels.high) + 1, (manifest.batch_size, *labels.shape)).astype(labels.dtype)
    return x, y


def _resident_bytes() -> int:
    line = next(one for one in Path("/proc/self/status").read_text().splitlines() if one.startswith("VmRSS"))
    return int(line.split()[1]) * 1024
