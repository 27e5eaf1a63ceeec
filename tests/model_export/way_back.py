"""Trained weights on their way back into Keras. TensorFlow worker only."""

from __future__ import annotations

import keras
import numpy as np
import numpy.typing as npt
from keras import layers

from edge_runtime.protocol.bundle import verify_bundle
from model_export.spec import Exported
from model_export.weights import put_weights
from tests.exports import CLASSES, TENANT_KEY
from tests.model_export import models

Outputs = npt.NDArray[np.float32]

X = np.random.default_rng(5).random((3, 6)).astype(np.float32)


def saved(path: str, wide: int = 8, extra: bool = False) -> None:
    """Save two dense layers, fresh weights in them, named as in `models.small`."""
    keras.utils.clear_session()
    keras.utils.set_random_seed(9)
    more = [layers.Dense(8, name="more")] if extra else []
    keras.Sequential(
        [
            layers.Input((6,)),
            layers.Dense(wide, activation="tanh", name="hidden"),
            *more,
            layers.Dense(CLASSES, name="logits"),
        ],
        name="small",
    ).save(path)


def outputs_of_saved(path: str) -> Outputs:
    model = keras.models.load_model(path)
    return np.asarray(model(X))


def outputs_of_weights(name: str, weights: Outputs) -> Outputs:
    """What Keras makes of a case's model with these weights in it."""
    exported = models.exported(name)
    manifest = verify_bundle(exported.bundle, exported.bundle_sha256, TENANT_KEY.public).manifest
    model = models.make(name).model
    put_weights(model, manifest, weights)
    return np.asarray(model(X))


def exported_with_adapters(path: str) -> Exported:
    """The saved model with adapters of rank 2, as `build --lora 2` exports it."""
    from model_export.asked import Asked
    from model_export.convert import export
    from model_export.load import load

    model, spec = load(path, Asked(lora_rank=2))
    return export(model, spec, TENANT_KEY)


def merged(exported: Exported, weights: Outputs) -> Outputs:
    """What the model gives with these adapters, computed by hand."""
    parts, begin = {}, 0
    for tensor in exported.manifest.tensors:
        parts[tensor.name] = weights[begin : begin + tensor.size].reshape(tensor.shape)
        begin += tensor.size
    hidden, logits = (
        parts[f"{name}_kernel"] + parts[f"{name}_lora_kernel_a"] @ parts[f"{name}_lora_kernel_b"]
        for name in ("hidden", "logits")
    )
    found: Outputs = np.tanh(X @ hidden + parts["hidden_bias"]) @ logits + parts["logits_bias"]
    return found
