"""Models that are easy to get wrong, by what makes them so. TensorFlow worker only."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from edge_runtime.protocol.bundle import Schema
from model_export.spec import ExportSpec, Loss, Sgd

CLASSES: Final = 4
BATCH: Final = 6

Model = Any
"""A Keras model or a TensorFlow module."""
Shape = tuple[int, ...]
Between = Callable[[], list[Any]]

IMAGE: Final[Shape] = (8, 8, 3)
FILM: Final[Shape] = (3, 5, 5, 2)
SEQUENCE: Final[Shape] = (7, 5)
ROW: Final[Shape] = (12,)
WORDS: Final[Shape] = (6,)
VOCABULARY: Final = 11


def spec(shape: Shape, *, words: bool = False, dynamic: bool = False, batch: int = BATCH, **others: Any) -> ExportSpec:
    """Four classes of whatever has this shape."""
    features = Schema(
        shape=shape,
        dtype="int32" if words else "float32",
        low=0.0 if words else -3.0,
        high=VOCABULARY - 1 if words else 3.0,
    )
    labels = Schema(shape=(), dtype="int32", low=0, high=CLASSES - 1)
    names = tuple(str(one) for one in range(CLASSES))
    return ExportSpec(
        name="kind",
        features=features,
        labels=labels,
        class_names=names,
        batch_size=batch,
        dynamic_batch=dynamic,
        **others,
    )


def _ending(source: Any, x: Any) -> keras.Model:
    if len(x.shape) > 2:
        x = layers.Flatten()(x)
    return keras.Model(source, layers.Dense(CLASSES, name="ending")(x))


def _through(shape: Shape, between: Between, first: Callable[[], Any] | None = None) -> Callable[[], keras.Model]:
    """Layers between one that learns, so that a gradient passes through them, and the ending."""

    def build() -> keras.Model:
        source = layers.Input(shape)
        x = first()(source) if first else layers.Dense(6, name="beginning")(source)
        for layer in between():
            x = layer(x)
        return _ending(source, x)

    return build


def _image(between: Between) -> Callable[[], keras.Model]:
    return _through(IMAGE, between)


def _film(between: Between) -> Callable[[], keras.Model]:
    return _through(FILM, between)


def _sequence(between: Between) -> Callable[[], keras.Model]:
    return _through(SEQUENCE, between)


def _row(between: Between) -> Callable[[], keras.Model]:
    return _through(ROW, between)


def shared() -> keras.Model:
    """One layer, called twice."""
    source = layers.Input(ROW)
    layer = layers.Dense(12, activation="tanh")
    return _ending(source, layer(layer(source)))


def normalized_twice() -> keras.Model:
    source = layers.Input(ROW)
    norm = layers.BatchNormalization()
    x = norm(layers.Dense(6)(source))
    return _ending(source, norm(layers.Dense(6, activation="tanh")(x)))


def residual() -> keras.Model:
    source = layers.Input(IMAGE)
    x = layers.Conv2D(4, 3, padding="same")(source)
    y = layers.Conv2D(4, 3, padding="same", activation="relu")(x)
    z = layers.Conv2D(4, 3, padding="same", activation="relu")(y + x)
    return _ending(source, layers.GlobalAveragePooling2D()(layers.add([x, y, z])))


def nested() -> keras.Model:
    inner_source = layers.Input((6,), name="inner_source")
    inner = keras.Model(inner_source, layers.Dense(6, activation="relu")(inner_source), name="inner")
    source = layers.Input(ROW)
    return _ending(source, inner(inner(layers.Dense(6)(source))))


class Doubling(layers.Layer):  # type: ignore[misc]  # Keras and TensorFlow have no types
    """The identity, whose own gradient is twice what it is given."""

    def call(self, x: Any) -> Any:
        @tf.custom_gradient  # type: ignore[untyped-decorator]  # TensorFlow has no types
        def doubled(x: tf.Tensor) -> Any:
            return tf.identity(x), lambda dy: 2.0 * dy

        return doubled(x)


class Remembering(layers.Layer):  # type: ignore[misc]  # Keras and TensorFlow have no types
    """Its own gradient reads what the forward pass computed."""

    def call(self, x: Any) -> Any:
        @tf.custom_gradient  # type: ignore[untyped-decorator]  # TensorFlow has no types
        def clipped(x: tf.Tensor) -> Any:
            y = tf.nn.relu(x)
            return y, lambda dy: dy * tf.minimum(y, 0.5)

        return clipped(x)


class Compiled(layers.Layer):  # type: ignore[misc]  # Keras and TensorFlow have no types
    """A function inside a layer, called twice, that captures a constant and a variable."""

    def build(self, shape: Any) -> None:
        self.scale = self.add_weight(shape=(shape[-1],), initializer="ones", name="scale")
        self.table = tf.constant(np.linspace(-1, 1, shape[-1]), tf.float32)

        @tf.function(autograph=False)  # type: ignore[untyped-decorator]  # TensorFlow has no types
        def scaled(x: tf.Tensor) -> tf.Tensor:
            return tf.tanh(x * self.scale + self.table)

        self.scaled = scaled

    def call(self, x: Any) -> Any:
        return self.scaled(self.scaled(x))


class Looping(layers.Layer):  # type: ignore[misc]  # Keras and TensorFlow have no types
    """A loop whose length is not known."""

    def call(self, x: Any) -> Any:
        rounds = tf.cast(tf.reduce_sum(tf.abs(x)), tf.int32)
        return tf.while_loop(lambda i, _: i < rounds, lambda i, y: (i + 1, y * 1.1), (0, x))[1]


class Stopping(layers.Layer):  # type: ignore[misc]  # Keras and TensorFlow have no types
    def call(self, x: Any) -> Any:
        return x + keras.ops.stop_gradient(keras.ops.square(x))


def words(between: Between) -> Callable[[], keras.Model]:
    def build() -> keras.Model:
        source = layers.Input(WORDS, dtype="int32")
        x = layers.Embedding(VOCABULARY, 5)(source)
        for layer in between():
            x = layer(x)
        return _ending(source, x)

    return build


def masked_words() -> keras.Model:
    """Zeros are padding, and what they say is left out."""
    source = layers.Input(WORDS, dtype="int32")
    x = layers.Embedding(VOCABULARY, 5, mask_zero=True)(source)
    return _ending(source, layers.GRU(4)(x))


def tied() -> keras.Model:
    """The table that looks words up is, transposed, what the scores are made with."""
    source = layers.Input(WORDS, dtype="int32")
    table = layers.ReversibleEmbedding(VOCABULARY, 5)
    x = layers.Dense(5, activation="tanh")(table(source))
    return _ending(source, table(x, reverse=True))


def frozen() -> keras.Model:
    source = layers.Input(IMAGE)
    x = layers.Conv2D(4, 3, activation="relu", trainable=False)(source)
    x = layers.BatchNormalization(trainable=False)(x)
    x = layers.Dense(4, activation="relu")(x)
    return _ending(source, layers.Dense(4, trainable=False)(x))


def merged(merge: Any, **how: Any) -> Callable[[], keras.Model]:
    def build() -> keras.Model:
        source = layers.Input(ROW)
        parts = [layers.Dense(6)(source), layers.Dense(6, activation="tanh")(source), layers.Dense(6)(source)]
        return _ending(source, merge(**how)(parts if merge not in (layers.Dot, layers.Subtract) else parts[:2]))

    return build


def attention(layer: Callable[[], Any], *, causal: bool = False) -> Callable[[], keras.Model]:
    def build() -> keras.Model:
        source = layers.Input(SEQUENCE)
        x = layers.Dense(6)(source)
        parts = (
            [x, x]
            if isinstance(layer(), layers.MultiHeadAttention | layers.GroupQueryAttention)
            else [[x, layers.Dense(6)(source)]]
        )
        return _ending(source, layer()(*parts, **({"use_causal_mask": True} if causal else {})))

    return build


def dotted() -> keras.Model:
    source = layers.Input(SEQUENCE)
    return _ending(source, layers.Dot(axes=(1, 1))([layers.Dense(3)(source), layers.Dense(4)(source)]))


class Lookup(tf.Module):  # type: ignore[misc]  # Keras and TensorFlow have no types
    """A plain module: rows of a variable, a matrix, and a bias."""

    def __init__(self) -> None:
        super().__init__()
        rng = np.random.default_rng(0)
        self.table = tf.Variable(rng.normal(size=(VOCABULARY, 5)).astype(np.float32))
        self.kernel = tf.Variable(rng.normal(size=(5, CLASSES)).astype(np.float32))

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        return tf.reduce_mean(tf.nn.embedding_lookup(self.table, x), 1) @ self.kernel


ROWS: Final[Mapping[str, Callable[[], Model]]] = {
    "shared": shared,
    "normalized_twice": normalized_twice,
    "nested": nested,
    "custom_gradient": _row(lambda: [Doubling(), layers.Dense(5), Remembering()]),
    "stopped": _row(lambda: [Stopping()]),
    "compiled": _row(lambda: [Compiled()]),
    "unit_norm": _row(lambda: [layers.UnitNormalization()]),
    "rms_norm": _row(lambda: [layers.RMSNormalization()]),
    "layer_norm": _row(lambda: [layers.LayerNormalization()]),
    "prelu": _row(lambda: [layers.PReLU()]),
    "leaky": _row(lambda: [layers.LeakyReLU(0.3)]),
    "softmax": _row(lambda: [layers.Softmax()]),
    "relu_max": _row(lambda: [layers.ReLU(max_value=1.0, negative_slope=0.1, threshold=0.2)]),
    "gelu": _row(lambda: [layers.Dense(6, activation=one) for one in ("gelu", "silu", "mish")]),
    "lambda": _row(lambda: [layers.Lambda(lambda x: x * 2.0 + 1.0)]),
    "repeated": _row(lambda: [layers.RepeatVector(3)]),
    **{
        merge.__name__.lower(): merged(merge, **how)
        for merge, how in (
            (layers.Add, {}), (layers.Subtract, {}), (layers.Multiply, {}), (layers.Average, {}), (layers.Maximum, {}),
            (layers.Minimum, {}), (layers.Concatenate, {}), (layers.Dot, {"axes": 1}),
        )
    },
}  # fmt: skip

IMAGES: Final[Mapping[str, Callable[[], Model]]] = {
    "residual": residual,
    "frozen": frozen,
    "up": _image(lambda: [layers.UpSampling2D(2)]),
    "padded": _image(lambda: [layers.ZeroPadding2D(((1, 2), (0, 3)))]),
    "cropped": _image(lambda: [layers.Cropping2D(((1, 2), (0, 3)))]),
    "permuted": _image(lambda: [layers.Permute((2, 3, 1))]),
    "batch_norm": _image(lambda: [layers.BatchNormalization(), layers.ReLU(), layers.MaxPooling2D()]),
    "group_norm": _image(lambda: [layers.GroupNormalization(2)]),
    "separable": _image(lambda: [layers.SeparableConv2D(5, 3, strides=2, padding="same", depth_multiplier=2)]),
    "depthwise_dilated": _image(lambda: [layers.DepthwiseConv2D(3, dilation_rate=2, depth_multiplier=2)]),
    "grouped": _image(lambda: [layers.Conv2D(6, 3, groups=3, activation="relu")]),
    "transposed": _image(lambda: [layers.Conv2DTranspose(3, 3, strides=2, padding="same", output_padding=1)]),
    "pooled": _image(
        lambda: [
            layers.Conv2D(4, 3, activation="relu"),
            layers.MaxPooling2D(3, 2, "same"),
            layers.AveragePooling2D(2, 1),
        ]
    ),
    "largest": _image(lambda: [layers.GlobalMaxPooling2D()]),
}

SEQUENCES: Final[Mapping[str, Callable[[], Model]]] = {
    "conv1d": _sequence(
        lambda: [layers.Conv1D(4, 3, dilation_rate=2, padding="causal", activation="relu"), layers.MaxPooling1D(2)]
    ),
    "conv1d_transposed": _sequence(lambda: [layers.Conv1DTranspose(4, 3, strides=2)]),
    "up1d": _sequence(lambda: [layers.UpSampling1D(2), layers.ZeroPadding1D(1), layers.Cropping1D((1, 2))]),
    "gru": _sequence(lambda: [layers.GRU(4, return_sequences=True), layers.GRU(3, reset_after=False)]),
    "lstm": _sequence(lambda: [layers.LSTM(4, return_sequences=True, go_backwards=True), layers.SimpleRNN(3)]),
    "bidirectional": _sequence(lambda: [layers.Bidirectional(layers.LSTM(3))]),
    "each_step": _sequence(lambda: [layers.TimeDistributed(layers.Dense(4, activation="tanh"))]),
    "einsum_dense": _sequence(lambda: [layers.EinsumDense("...x,xy->...y", output_shape=4, bias_axes="y")]),
    "heads": attention(lambda: layers.MultiHeadAttention(2, 3)),
    "heads_causal": attention(lambda: layers.MultiHeadAttention(2, 3), causal=True),
    "grouped_heads": attention(lambda: layers.GroupQueryAttention(4, 4, 2)),
    "attention": attention(lambda: layers.Attention(use_scale=True)),
    "additive": attention(layers.AdditiveAttention),
    "dotted": dotted,
    "conv_lstm": _film(
        lambda: [layers.ConvLSTM2D(2, 3, padding="same", return_sequences=True), layers.ConvLSTM2D(2, 2)]
    ),
    "masking": _through(SEQUENCE, lambda: [layers.LSTM(3)], lambda: layers.Masking(0.0)),
}

WORD_MODELS: Final[Mapping[str, Callable[[], Model]]] = {
    "words": words(lambda: [layers.GRU(4)]),
    "masked_words": masked_words,
    "tied": tied,
    "averaged_words": words(lambda: [layers.GlobalAveragePooling1D()]),
    "module": Lookup,
}

NOISY: Final[Mapping[str, Callable[[], Model]]] = {
    "dropout": _row(lambda: [layers.Dropout(0.4)]),
    "spatial_dropout": _image(lambda: [layers.SpatialDropout2D(0.4)]),
    "noise": _row(lambda: [layers.GaussianNoise(0.2)]),
    "noise_dropout": _row(lambda: [layers.GaussianDropout(0.3)]),
    "alpha_dropout": _row(lambda: [layers.AlphaDropout(0.3)]),
    "recurrent_dropout": _sequence(lambda: [layers.GRU(4, dropout=0.3, recurrent_dropout=0.2)]),
}

SHAPES: Final[Mapping[str, Shape]] = {
    **dict.fromkeys((*ROWS, "dropout", "noise", "noise_dropout", "alpha_dropout"), ROW),
    **dict.fromkeys((*IMAGES, "spatial_dropout"), IMAGE),
    **dict.fromkeys((*SEQUENCES, "recurrent_dropout"), SEQUENCE),
    **dict.fromkeys(WORD_MODELS, WORDS),
    "conv_lstm": FILM,
}
KINDS: Final[Mapping[str, Callable[[], Model]]] = {**ROWS, **IMAGES, **SEQUENCES, **WORD_MODELS, **NOISY}


def model(name: str) -> Model:
    """With weights away from zero and from one another, so that nothing cancels."""
    keras.utils.set_random_seed(0)
    made = KINDS[name]()
    rng = np.random.default_rng(0)
    for variable in getattr(made, "weights", []):
        if "seed_generator" not in variable.path:
            variable.assign(variable + 0.1 * np.abs(rng.normal(size=variable.shape)))
    return made


def spec_of(name: str, *, dynamic: bool = False) -> ExportSpec:
    return spec(
        SHAPES[name], words=name in WORD_MODELS, dynamic=dynamic, loss=Loss.SPARSE_CROSS_ENTROPY, optimizer=Sgd()
    )
