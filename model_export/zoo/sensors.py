"""A model for windows of sensor readings."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from edge_runtime.protocol.bundle import DefaultPlan, Schema
from model_export.spec import ExportSpec, Sgd, class_labels
from model_export.zoo.reference import Reference, sizes

if TYPE_CHECKING:
    import keras

_ACTIVITIES: Final = ("standing", "sitting", "walking", "running", "cycling", "upstairs", "downstairs")


def sensor_cnn(input_shape: tuple[int, ...], classes: int) -> keras.Model:
    """Convolutions along time, normalized in groups of channels, and a mean over time.

    Args:
        input_shape: Readings, then channels, in one axis or several.
        classes: Number of outputs.
    """
    from keras import Sequential, layers

    readings, *channels = input_shape
    return Sequential(
        [
            layers.Input(input_shape, name="window"),
            layers.Reshape((readings, math.prod(channels)), name="channels"),
            layers.Conv1D(32, 5, strides=2, padding="same", activation="relu", name="conv"),
            layers.SeparableConv1D(64, 5, strides=2, padding="same", use_bias=False, name="separable_1"),
            layers.GroupNormalization(8, name="norm_1"),
            layers.ReLU(name="relu_1"),
            layers.SeparableConv1D(64, 3, padding="same", use_bias=False, name="separable_2"),
            layers.GroupNormalization(8, name="norm_2"),
            layers.ReLU(name="relu_2"),
            layers.GlobalAveragePooling1D(name="pool"),
            layers.Dense(classes, name="logits"),
        ],
        name="sensor_cnn",
    )


SENSOR_CNN: Final = Reference(
    summary="what somebody does, from accelerometer and gyroscope",
    spec=ExportSpec(
        name="sensor_cnn",
        features=Schema(shape=(50, 6), dtype="float32", low=-1.0, high=1.0),
        labels=class_labels(_ACTIVITIES),
        class_names=_ACTIVITIES,
        optimizer=Sgd(momentum=0.9),
        default_plan=DefaultPlan(epochs=3, batch_size=20, learning_rate=0.02),
    ),
    builder=lambda spec: sensor_cnn(*sizes(spec)),
    any_size=True,
)
