"""A model that trains on phones, and what it is exported with. Change it line by line, and check it as you go:

edgewise-export check my_model.py:build
"""

import keras
from keras import layers

from edge_runtime.protocol.bundle import DefaultPlan, Schema
from model_export.spec import ExportSpec, Loss, Metric, Sgd, class_labels


def build(input_shape: tuple[int, ...] = (28, 28, 1), classes: int = 10) -> tuple[keras.Model, ExportSpec]:
    """A small convolutional network for images, such as the 28×28 digits of the demo."""
    model = keras.Sequential(
        [
            layers.Input(input_shape),
            layers.Conv2D(8, 3, strides=2, padding="same", activation="tanh"),
            layers.Conv2D(16, 3, strides=2, padding="same", activation="tanh"),
            layers.Flatten(),
            layers.Dense(classes),  # an output for each class; a softmax may follow, and is undone for the loss
        ]
    )
    names = tuple(str(number) for number in range(classes))
    spec = ExportSpec(
        name="my_model",
        # One example as the app will give it. Phones refuse values outside of the range.
        features=Schema(shape=input_shape, dtype="float32", low=0.0, high=1.0),
        labels=class_labels(names),
        class_names=names,
        # What training makes small, and what is measured beside it. A function of outputs and labels does, too.
        loss=Loss.SPARSE_CROSS_ENTROPY,
        metrics=(Metric.CORRECT,),
        # Of the phone. Sgd(momentum=0.9) and Adam() keep more memory than plain Sgd().
        optimizer=Sgd(),
        # Layers that train; all others stay as they are. ("dense*",) would train the last layer alone.
        trainable=("*",),
        # Layers that train and whose weights never leave the phone.
        personal=(),
        # Examples in one call. Fewer need less memory.
        batch_size=20,
        # Suggested to whoever writes the plan of a task.
        default_plan=DefaultPlan(epochs=5, batch_size=20, learning_rate=0.1),
    )
    return model, spec
