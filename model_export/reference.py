"""Records training steps as TensorFlow takes them with its own gradients: what `verify` compares a bundle with."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf

from model_export.convert import tensors_of
from model_export.signatures import Signatures
from model_export.spec import ExportSpec
from model_export.verify import Array, Step


def record(
    model: keras.Model, spec: ExportSpec, rng: np.random.Generator, *, steps: int, learning_rate: float, mu: float
) -> list[Step]:
    """Train the model for some steps on random examples and labels; the last batch is half padding.

    The model's weights change.

    Args:
        rng: Draws features uniformly from the schema's range, and labels.
    """
    signatures = Signatures(model, tensors_of(model), spec)
    functions = signatures.functions()
    functions["begin_round"]()
    recorded = []
    for index in range(steps):
        inputs = _batch(spec, rng, padded=index == steps - 1)
        inputs |= {"lr": np.array(learning_rate, np.float32), "mu": np.array(mu, np.float32)}
        before = _weights(signatures)
        loss = float(functions["train"](**{name: tf.constant(value) for name, value in inputs.items()})["loss"])
        recorded.append(Step(inputs, before, _weights(signatures), loss))
    return recorded


def _batch(spec: ExportSpec, rng: np.random.Generator, *, padded: bool) -> dict[str, Array]:
    features, size = spec.features, spec.batch_size
    x = rng.uniform(features.low, features.high, (size, *features.shape)).astype(features.dtype)
    y = rng.integers(0, len(spec.class_names), size).astype(np.int32)
    mask = np.ones(size, np.float32)
    if padded:
        mask[size // 2 :] = 0
    return {"x": x, "y": y, "mask": mask}


def _weights(signatures: Signatures) -> dict[str, Array]:
    pairs = zip(signatures.tensors, signatures.variables, strict=True)
    return {tensor.name: variable.numpy() for tensor, variable in pairs}
