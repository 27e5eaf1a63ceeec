"""What an interpreter's worker does with a file that nobody checked. No TensorFlow here."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edge_runtime.interpreters import open_interpreter
from edge_runtime.model import open_model
from edge_runtime.protocol.bundle import verify_bundle
from model_export.spec import Exported
from tests.exports import TENANT_KEY
from tests.model_export.comparison import Array


def each(graph: bytes, runtime: str, signature: str, inputs: Sequence[Mapping[str, Any]]) -> list[dict[str, Array]]:
    """Call one signature again and again."""
    interpreter = open_interpreter(graph, runtime)
    return [{name: np.array(value) for name, value in interpreter.call(signature, one).items()} for one in inputs]


def trained(exported: Exported, runtime: str, steps: int, seed: int) -> bytes:
    """Weights after some steps on random examples."""
    bundle = verify_bundle(exported.bundle, exported.bundle_sha256, TENANT_KEY.public)
    model = open_model(bundle, runtime)
    rng = np.random.default_rng(seed)
    size, schema = bundle.manifest.batch_size, bundle.manifest.features
    model.begin_round()
    for _ in range(steps):
        x = rng.uniform(0, 1, (size, *schema.shape)).astype(np.float32)
        y = rng.integers(0, len(bundle.manifest.class_names), size).astype(np.int32)
        model.train_step(x, y, 0.1)
    return model.get_weights().tobytes()


def trained_by_threads(exported: Exported, runtime: str, steps: int, seeds: Sequence[int]) -> list[bytes]:
    """The same with an interpreter and a thread for each seed, all at once."""
    found: dict[int, bytes] = {}
    threads = [
        threading.Thread(target=lambda seed=seed: found.update({seed: trained(exported, runtime, steps, seed)}))
        for seed in seeds
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [found[seed] for seed in seeds]
