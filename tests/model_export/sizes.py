"""How large files are beside their weights. TensorFlow worker only."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

import keras
from keras import layers

from edge_runtime.protocol.bundle import verify_bundle
from model_export.convert import export
from model_export.spec import Adam, Sgd
from tests.exports import TENANT_KEY
from tests.model_export import kinds

_CHANGES: Final[dict[str, dict[str, Any]]] = {
    "sgd": {},
    "momentum": {"optimizer": Sgd(momentum=0.9)},
    "adam": {"optimizer": Adam()},
    "private": {"private_steps": True, "proximal": True},
}


def of_mlp(kind: str) -> tuple[int, int]:
    """Bytes of the weights, and of the graph that holds them."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [layers.Input(kinds.ROW), layers.Dense(512, activation="relu"), layers.Dense(512), layers.Dense(kinds.CLASSES)]
    )
    exported = export(model, replace(kinds.spec(kinds.ROW), **_CHANGES[kind]), TENANT_KEY)
    graph = verify_bundle(exported.bundle, exported.bundle_sha256, TENANT_KEY.public).graph
    return 4 * exported.manifest.parameters, len(graph)
