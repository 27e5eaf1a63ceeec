"""Models that are easy to get wrong, each with what it is exported with. TensorFlow worker only."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from edge_runtime.protocol.bundle import Schema
from model_export import lora, reference
from model_export.convert import export
from model_export.reference import Course
from model_export.spec import Adam, Exported, ExportSpec, Loss, Metric, Sgd
from model_export.verify import Recording
from model_export.zoo import ZOO
from tests.exports import CLASSES, INPUT_SHAPE, TENANT_KEY, spec_for

NAMES: Final = tuple(str(label) for label in range(CLASSES))
AS_USUAL: Final = Course()


@dataclass(frozen=True, slots=True)
class Made:
    """A model, what it is exported with, and how it is trained while TensorFlow is recorded."""

    model: keras.Model | tf.Module
    spec: ExportSpec
    course: Course = AS_USUAL


def convolutions() -> Made:
    """Strides, dilation, even windows, strides larger than the window."""
    model = keras.Sequential(
        [
            layers.Input((11, 9, 2)),
            layers.Conv2D(8, (3, 2), strides=(2, 1), padding="same", activation="relu"),
            layers.Conv2D(12, (2, 3), padding="valid", activation="tanh"),
            layers.Conv2D(6, 3, dilation_rate=2, padding="same"),
            layers.Conv2D(6, 1, strides=2, use_bias=False),
            layers.Conv2D(4, 3, strides=2, padding="same", activation="sigmoid"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(CLASSES),
        ]
    )
    return Made(model, spec_for("convolutions", (11, 9, 2)))


def poolings() -> Made:
    """Windows that overlap, that leave a rest, and that reach into padding."""
    image = layers.Input((11, 9, 2))
    x = layers.Conv2D(4, 3, padding="same", activation="relu")(image)
    pooled = [
        layers.MaxPooling2D(3, strides=2, padding="same")(x),
        layers.AveragePooling2D(3, strides=2, padding="same")(x),
        layers.MaxPooling2D(2)(x),
        layers.AveragePooling2D((3, 2))(x),
        layers.MaxPooling2D(2, strides=3, padding="valid")(x),
    ]
    parts = [layers.Dense(CLASSES)(layers.Flatten()(part)) for part in pooled]
    return Made(keras.Model(image, layers.add(parts)), spec_for("poolings", (11, 9, 2)))


def dense() -> Made:
    """Rescaled bytes, a reshape, a frozen layer, one frozen by the spec, and a softmax at the end."""
    model = keras.Sequential(
        [
            layers.Input(INPUT_SHAPE),
            layers.Rescaling(1 / 127.5, offset=-1),
            layers.Reshape((16, 4)),
            layers.Flatten(),
            layers.Dense(12, activation="tanh", trainable=False, name="frozen"),
            layers.Dense(12, activation="tanh", name="kept"),
            layers.Dense(12, activation="sigmoid", name="trained_1"),
            layers.ReLU(),
            layers.Dense(CLASSES, activation="softmax", name="trained_2"),
        ]
    )
    return Made(model, replace(spec_for("dense", high=255.0), trainable=("frozen", "trained_*")))


def small(name: str, **changes: Any) -> Made:
    """Two dense layers."""
    model = keras.Sequential(
        [
            layers.Input((6,)),
            layers.Dense(8, activation="tanh", name="hidden"),
            layers.Dense(CLASSES, name="logits"),
        ],
        name="small",
    )
    spec = replace(spec_for(name, (6,)), **{"proximal": False, **changes})
    return Made(model, spec)


def numbers(name: str, loss: Any, outputs: int = 2, activation: str | None = None, **changes: Any) -> Made:
    """Labels that are numbers: two dense layers, and an output for each."""
    model = keras.Sequential(
        [layers.Input((6,)), layers.Dense(8, activation="relu"), layers.Dense(outputs, activation=activation)]
    )
    unit = loss in (Loss.BINARY_CROSS_ENTROPY, Loss.CROSS_ENTROPY)
    labels = Schema(shape=(outputs,), dtype="float32", low=0.0 if unit else -3.0, high=1.0 if unit else 3.0)
    fixed = {"loss": loss, "labels": labels, "class_names": (), "metrics": ()}
    return Made(model, replace(spec_for(name, (6,)), **{**fixed, **changes}))


def own_loss(outputs: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """The logarithm of the hyperbolic cosine of the error, which no exporter knows."""
    error = outputs - labels
    return error + tf.math.softplus(-2.0 * error) - 0.6931472


def normalized() -> Made:
    """Statistics of batches, of layers and of groups, and dropout."""
    model = keras.Sequential(
        [
            layers.Input((6, 6, 2)),
            layers.Conv2D(4, 3, padding="same", use_bias=False),
            layers.BatchNormalization(momentum=0.9),
            layers.ReLU(6.0),
            layers.DepthwiseConv2D(3),
            layers.GroupNormalization(2),
            layers.SpatialDropout2D(0.25),
            layers.Flatten(),
            layers.LayerNormalization(),
            layers.Dropout(0.3),
            layers.Dense(CLASSES),
        ]
    )
    return Made(model, spec_for("normalized", (6, 6, 2)), Course(learning_rate=0.05))


def frozen_statistics() -> Made:
    """Batch normalization in a part that does not train."""
    model = keras.Sequential(
        [
            layers.Input((6,)),
            layers.Dense(5, name="base"),
            layers.BatchNormalization(name="base_norm"),
            layers.Dense(CLASSES, name="head"),
        ]
    )
    return Made(model, replace(spec_for("frozen_statistics", (6,)), trainable=("head",)))


def recurrent() -> Made:
    """Every recurrent layer, as Keras builds it, forwards and backwards in time."""
    words = layers.Input((3,), dtype="int32")
    x = layers.Embedding(11, 6)(words)
    x = layers.Bidirectional(layers.GRU(4, return_sequences=True))(x)
    x = layers.LSTM(5, return_sequences=True)(x)
    x = layers.SimpleRNN(5, return_sequences=True)(x)
    model = keras.Model(words, layers.Dense(11)(x))
    schema = Schema(shape=(3,), dtype="int32", low=0, high=10)
    spec = ExportSpec(name="recurrent", features=schema, labels=schema, batch_size=3)
    return Made(model, spec)


def attention() -> Made:
    """Causal attention with dropout inside, GELU both ways."""
    words = layers.Input((5,), dtype="int32")
    x = layers.Embedding(11, 8)(words)
    x = layers.add([x, layers.MultiHeadAttention(2, 4, dropout=0.2)(x, x, use_causal_mask=True)])
    x = layers.LayerNormalization()(x)
    x = layers.Activation(lambda one: keras.activations.gelu(one, approximate=True))(layers.Dense(12)(x))
    x = layers.Dense(8, activation="gelu")(x)
    model = keras.Model(words, layers.Dense(11)(x))
    schema = Schema(shape=(5,), dtype="int32", low=0, high=10)
    return Made(model, ExportSpec(name="attention", features=schema, labels=schema, batch_size=3))


def adapters() -> Made:
    """LoRA on a dense layer and an embedding, dropout beside them; all else frozen."""
    words = layers.Input((4,), dtype="int32")
    x = layers.Flatten()(layers.Embedding(9, 6, name="table")(words))
    x = layers.Dropout(0.2)(layers.Dense(8, activation="relu", name="wide")(x))
    model = keras.Model(words, layers.Dense(CLASSES, name="head")(x))
    lora.add_adapters(model, 2, ("wide", "table"))
    for layer in (model.get_layer("wide"), model.get_layer("table")):  # an adapter of zero would hide half of it
        for weight in layer.trainable_variables:
            if "lora" in weight.name:
                weight.assign(np.random.default_rng(3).normal(size=weight.shape).astype(np.float32) / 3)
    schema = Schema(shape=(4,), dtype="int32", low=0, high=8)
    spec = replace(spec_for("adapters"), features=schema, adapters_only=True)
    return Made(model, spec)


def inputs() -> Made:
    """An index and numbers side by side; the table of users stays on the device."""
    user = layers.Input((1,), dtype="int32", name="user")
    facts = layers.Input((2, 2), name="facts")
    table = layers.Flatten()(layers.Embedding(7, 3, name="users")(user))
    x = layers.concatenate([table, layers.Flatten()(layers.Dense(3)(facts))])
    model = keras.Model([user, facts], layers.Dense(CLASSES)(x))
    return Made(model, replace(spec_for("inputs", (5,), high=6.0), personal=("users",)))


def dynamic() -> Made:
    """Batches of any number of examples."""
    model = keras.Sequential(
        [
            layers.Input((6, 6, 2)),
            layers.Conv2D(4, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dropout(0.2),
            layers.Dense(CLASSES),
        ]
    )
    spec = replace(spec_for("dynamic", (6, 6, 2)), batch_size=20, dynamic_batch=True)
    return Made(model, spec, Course(steps=4, sizes=(20, 1, 7, 20)))


class Line(tf.Module):  # type: ignore[misc]  # TensorFlow has no types
    """A model without Keras, that does something else while it trains."""

    def __init__(self) -> None:
        super().__init__()
        rng = np.random.default_rng(0)
        self.slope = tf.Variable(rng.normal(size=(6, CLASSES)).astype(np.float32))
        self.offset = tf.Variable(np.zeros(CLASSES, np.float32))
        self.scale = tf.Variable(np.float32(2.0), trainable=False)
        self.steps = tf.Variable(0)

    def __call__(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        found = tf.matmul(x, self.slope) + self.offset
        return found * self.scale if training else found


def private() -> Made:
    """Gradients of single examples, clipped and added up; a convolution and dropout on the way."""
    model = keras.Sequential(
        [
            layers.Input((5, 5, 1)),
            layers.Conv2D(3, 3, activation="relu"),
            layers.Flatten(),
            layers.Dropout(0.2),
            layers.Dense(CLASSES),
        ]
    )
    return Made(model, replace(spec_for("private", (5, 5, 1)), private_steps=True, optimizer=Sgd(momentum=0.9)))


MADE: Final[Mapping[str, Callable[[], Made]]] = {
    "convolutions": convolutions,
    "poolings": poolings,
    "dense": dense,
    "momentum": lambda: small("momentum", optimizer=Sgd(momentum=0.9), proximal=True),
    "adam": lambda: replace_course(small("adam", optimizer=Adam()), learning_rate=0.001),
    "soft": lambda: numbers(
        "soft", Loss.CROSS_ENTROPY, CLASSES, "softmax", class_names=NAMES, metrics=(Metric.CORRECT,)
    ),
    "binary": lambda: numbers(
        "binary", Loss.BINARY_CROSS_ENTROPY, activation="sigmoid", metrics=(Metric.BINARY_CORRECT,)
    ),
    "squared": lambda: numbers(
        "squared", Loss.MEAN_SQUARED_ERROR, metrics=(Metric.ABSOLUTE_ERROR, Metric.SQUARED_ERROR)
    ),
    "huber": lambda: numbers("huber", Loss.HUBER, metrics=(Metric.ABSOLUTE_ERROR,)),
    "own_loss": lambda: numbers("own_loss", own_loss),
    "normalized": normalized,
    "frozen_statistics": frozen_statistics,
    "recurrent": recurrent,
    "attention": attention,
    "adapters": adapters,
    "inputs": inputs,
    "dynamic": dynamic,
    "module": lambda: Made(Line(), replace(spec_for("module", (6,)), class_names=NAMES)),
    "private": private,
}


def replace_course(made: Made, **changes: Any) -> Made:
    return replace(made, course=replace(made.course, **changes))


def of_zoo(name: str) -> Made:
    """A reference model in small batches, at its own learning rate."""
    spec = replace(ZOO[name].spec, batch_size=4)
    rate = 0.001 if isinstance(spec.optimizer, Adam) else spec.default_plan.learning_rate
    return Made(ZOO[name].build(), spec, Course(steps=2, learning_rate=rate))


def mobilenet_v2() -> Made:
    """A model of Keras' own, unmodified."""
    model = keras.applications.MobileNetV2(
        input_shape=(32, 32, 3), alpha=0.35, weights=None, classes=CLASSES, classifier_activation=None
    )
    return Made(model, spec_for("mobilenet_v2", (32, 32, 3)), Course(steps=2, learning_rate=0.01))


def make(name: str) -> Made:
    """From a fresh state of Keras, always with the same weights."""
    keras.utils.clear_session()
    keras.utils.set_random_seed(0)
    if name.startswith("zoo:"):
        return of_zoo(name.removeprefix("zoo:"))
    return mobilenet_v2() if name == "mobilenet_v2" else MADE[name]()


@functools.cache
def exported(name: str) -> Exported:
    made = make(name)
    return export(made.model, made.spec, TENANT_KEY)


def case(name: str) -> tuple[Exported, Recording]:
    """Export a model, then record TensorFlow training it."""
    made = make(name)
    found = export(made.model, made.spec, TENANT_KEY)
    rng = np.random.default_rng(1)
    return found, reference.record(made.model, made.spec, found.manifest, made.course, rng)


def refused(name: str) -> None:
    """Export a model that must be refused."""
    image = layers.Input(INPUT_SHAPE)
    flat = layers.Flatten()(image)
    outputs: dict[str, Callable[[], Any]] = {
        "bicubic": lambda: layers.Dense(CLASSES)(
            layers.Flatten()(layers.UpSampling2D(interpolation="bicubic", name="blurred")(layers.Conv2D(2, 1)(image)))
        ),
        "outputs": lambda: layers.Dense(CLASSES + 1)(flat),
        "untrainable": lambda: layers.Dense(CLASSES, trainable=False)(flat),
        "several": lambda: [layers.Dense(CLASSES)(flat), layers.Dense(CLASSES)(flat)],
        "half": lambda: layers.Dense(CLASSES, dtype="float16")(flat),
    }
    export(keras.Model(image, outputs[name]()), spec_for(name), TENANT_KEY)


def refused_spec(changes: dict[str, Any]) -> None:
    """Export two dense layers with a spec that does not fit."""
    made = small("refused")
    export(made.model, replace(made.spec, **changes), TENANT_KEY)


def exported_again(name: str) -> tuple[str, str]:
    """Digests of a second export, in a process that has exported other models since the first."""
    made = make(name)
    found = export(made.model, made.spec, TENANT_KEY)
    return found.bundle_sha256, found.checkpoint_sha256


def with_seed(seed: int) -> tuple[bytes, bytes]:
    """The checkpoint of a model exported with fresh weights, and the weights that the model itself has afterwards."""
    keras.utils.clear_session()
    keras.utils.set_random_seed(0)
    made = small("seeded", seed=seed)
    checkpoint = export(made.model, made.spec, TENANT_KEY).checkpoint
    return checkpoint, b"".join(np.asarray(one).tobytes() for one in made.model.weights)


def losses_of_keras() -> dict[str, tuple[float, float]]:
    """Each loss over random examples: ours, and Keras'."""
    from model_export import objectives

    rng = np.random.default_rng(0)
    outputs, numbers_ = (rng.normal(size=(9, 4)).astype(np.float32) * 2 for _ in range(2))
    classes = rng.integers(0, 4, 9).astype(np.int32)
    shares = rng.dirichlet(np.ones(4), 9).astype(np.float32)
    unit = rng.random((9, 4)).astype(np.float32)
    theirs = {
        Loss.SPARSE_CROSS_ENTROPY: (classes, keras.losses.SparseCategoricalCrossentropy(from_logits=True)),
        Loss.CROSS_ENTROPY: (shares, keras.losses.CategoricalCrossentropy(from_logits=True)),
        Loss.BINARY_CROSS_ENTROPY: (unit, keras.losses.BinaryCrossentropy(from_logits=True)),
        Loss.MEAN_SQUARED_ERROR: (numbers_, keras.losses.MeanSquaredError()),
        Loss.HUBER: (numbers_, keras.losses.Huber()),
    }
    return {
        loss.value: (
            float(tf.reduce_mean(objectives.per_example(objectives.LOSSES[loss], tf.constant(outputs), labels))),
            float(by_keras(labels, outputs)),
        )
        for loss, (labels, by_keras) in theirs.items()
    }
