"""What an export leaves behind, and two of them at once. TensorFlow worker only."""

from __future__ import annotations

import threading
from typing import Any, Final

import keras
import tensorflow as tf
from keras import layers
from tensorflow.python.framework import ops

from edge_runtime.protocol.keys import SigningKey
from model_export.convert import export
from model_export.errors import UnsupportedModel
from tests.model_export import kinds

_KEY: Final = SigningKey(bytes(range(32)))


def two_at_once(names: tuple[str, str]) -> list[tuple[str, str]]:
    """Digests of each model's bundle, exported alone and beside the other."""
    models = {name: kinds.model(name) for name in names}  # layers are counted, and named, by thread

    def exported(name: str) -> str:
        return export(models[name], kinds.spec_of(name), _KEY).bundle_sha256

    alone = [exported(name) for name in names]
    beside: dict[str, str] = {}
    threads = [threading.Thread(target=lambda name=name: beside.update({name: exported(name)})) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return list(zip(alone, [beside.get(name, "no export") for name in names], strict=True))


def after_a_refusal() -> tuple[str, bool, list[bool], list[bool]]:
    """The refusal; whether TensorFlow's gradients are the ones from before; `unroll` of layers before and after."""
    model = _refused()
    recurrent = [layer for layer in model.layers if isinstance(layer, layers.RNN)]
    rolled, gradients = [layer.unroll for layer in recurrent], _gradients()
    said = ""
    try:
        export(model, kinds.spec(kinds.SEQUENCE), _KEY)
    except UnsupportedModel as refused:
        said = str(refused)
    same = gradients == _gradients()
    x = tf.constant([[-1.0, 2.0, 3.0]])
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = tf.sort(tf.nn.relu(x))
    same = same and tape.gradient(y, x).numpy().tolist() == [[0.0, 1.0, 1.0]]
    return said, same, rolled, [layer.unroll for layer in recurrent]


def _refused() -> keras.Model:
    source = layers.Input(kinds.SEQUENCE)
    x = layers.GRU(4, return_sequences=True)(source)
    x = layers.LSTM(4, return_sequences=True, unroll=True)(x)
    x = layers.Lambda(tf.sort, output_shape=(7, 4), name="in_order")(x)
    return keras.Model(source, layers.Dense(kinds.CLASSES)(layers.Flatten()(x)))


def _gradients() -> dict[str, Any]:
    registry = ops.gradient_registry
    return {name: registry.lookup(name) for name in registry.list()}
