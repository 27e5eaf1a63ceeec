"""Small models for anything of a fixed size: pixels, windows of a sensor, rows of a table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from edge_runtime.protocol.bundle import DefaultPlan, Schema
from model_export.spec import Adam, ExportSpec, Loss, Metric, class_labels
from model_export.zoo.reference import Reference, numbered, sizes

if TYPE_CHECKING:
    import keras

_DIGITS: Final = numbered(10)


def logistic(input_shape: tuple[int, ...], classes: int) -> keras.Model:
    """Logistic regression: one dense layer."""
    from keras import Sequential, layers

    return Sequential(
        [
            layers.Input(input_shape, name="pixels"),
            layers.Flatten(name="flatten"),
            layers.Dense(classes, name="logits"),
        ],
        name="logistic",
    )


def mlp(input_shape: tuple[int, ...], classes: int) -> keras.Model:
    """One hidden layer of 128: 101,770 parameters for digits of 28×28×1."""
    from keras import Sequential, layers

    return Sequential(
        [
            layers.Input(input_shape),
            layers.Flatten(name="flatten"),
            layers.Dense(128, activation="relu", name="hidden"),
            layers.Dense(classes, name="logits"),
        ],
        name="mlp",
    )


def anomaly_autoencoder(columns: int) -> keras.Model:
    """Squeeze a row through four numbers and write it out again.

    A row that comes out far from how it went in is unlike those the model was trained on.
    """
    from keras import Sequential, layers

    return Sequential(
        [
            layers.Input((columns,), name="columns"),
            layers.Dense(16, activation="relu", name="encode"),
            layers.Dense(4, name="code"),
            layers.Dense(16, activation="relu", name="decode"),
            layers.Dense(columns, name="row"),
        ],
        name="anomaly_autoencoder",
    )


LOGISTIC: Final = Reference(
    summary="logistic regression on pixels",
    spec=ExportSpec(
        name="logistic",
        features=Schema(shape=(784,), dtype="float32", low=0.0, high=1.0),
        labels=class_labels(_DIGITS),
        class_names=_DIGITS,
        default_plan=DefaultPlan(epochs=1, batch_size=20, learning_rate=0.1),
    ),
    builder=lambda spec: logistic(*sizes(spec)),
    any_size=True,
)

MLP: Final = Reference(
    summary="one hidden layer on pixels",
    spec=ExportSpec(
        name="mlp",
        features=Schema(shape=(28, 28, 1), dtype="float32", low=0.0, high=1.0),
        labels=class_labels(_DIGITS),
        class_names=_DIGITS,
        default_plan=DefaultPlan(epochs=5, batch_size=20, learning_rate=0.1),
    ),
    builder=lambda spec: mlp(*sizes(spec)),
    any_size=True,
)

_ROW: Final = Schema(shape=(32,), dtype="float32", low=-5.0, high=5.0)
"""Standardised columns; five standard deviations are the most that is kept."""

ANOMALY_AUTOENCODER: Final = Reference(
    summary="autoencoder that finds unusual rows of numbers",
    spec=ExportSpec(
        name="anomaly_autoencoder",
        features=_ROW,
        labels=_ROW,
        loss=Loss.MEAN_SQUARED_ERROR,
        metrics=(Metric.ABSOLUTE_ERROR,),
        optimizer=Adam(),
        default_plan=DefaultPlan(epochs=5, batch_size=20, learning_rate=0.01),
    ),
    builder=lambda spec: anomaly_autoencoder(spec.features.size),
)
"""The label of a row is the row itself."""
