"""Small models, exported inside the TensorFlow worker."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from edge_runtime.protocol.bundle import Schema
from edge_runtime.protocol.keys import SigningKey
from model_export.asked import Asked
from model_export.spec import Adam, Exported, ExportSpec, class_labels

if TYPE_CHECKING:
    import keras

TENANT_KEY: Final = SigningKey(bytes(range(32)))
INPUT_SHAPE: Final = (8, 8, 1)
CLASSES: Final = 4
BATCH_SIZE: Final = 5


def spec_for(name: str, shape: tuple[int, ...] = INPUT_SHAPE, high: float = 1.0) -> ExportSpec:
    """Features from 0 to `high`, four classes, and a FedProx term."""
    features = Schema(shape=shape, dtype="float32", low=0.0, high=high)
    class_names = tuple(str(label) for label in range(CLASSES))
    return ExportSpec(
        name=name,
        features=features,
        labels=class_labels(class_names),
        class_names=class_names,
        proximal=True,
        batch_size=BATCH_SIZE,
    )


def model(name: str) -> keras.Model:
    """The zoo's `name` for images of 8×8 and four classes, always with the same initial weights."""
    from model_export.load import load

    found: keras.Model = load(f"zoo:{name}", Asked(input_shape=INPUT_SHAPE, classes=CLASSES, seed=0))[0]
    return found


@functools.cache
def build(name: str) -> Exported:
    """Export `model(name)`."""
    from model_export.convert import export

    return export(model(name), spec_for(name), TENANT_KEY)


@functools.cache
def build_heavy() -> Exported:
    """Export a small model with dropout for Adam: what training remembers and draws beside its weights."""
    import keras

    from model_export.convert import export

    keras.utils.set_random_seed(0)
    layers = [keras.layers.Flatten(), keras.layers.Dense(12, activation="relu"), keras.layers.Dropout(0.3)]
    heavy = keras.Sequential([keras.Input(INPUT_SHAPE), *layers, keras.layers.Dense(CLASSES, activation="softmax")])
    return export(heavy, replace(spec_for("heavy"), optimizer=Adam()), TENANT_KEY)
