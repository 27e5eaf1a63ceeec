"""What the zoo's models are once built, and whether they learn. TensorFlow worker only."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from fnmatch import fnmatch
from typing import Any, Final, TypedDict

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from edge_runtime.protocol.bundle import Schema
from model_export import zoo
from model_export.spec import Adam, ExportSpec, Loss
from model_export.zoo import ZOO, recommender

Values = npt.NDArray[np.float32] | npt.NDArray[np.int32]

_BATCH: Final = 20
_CLASSES: Final = 4
"""So many of a model's classes, or of its words, occur in made-up examples."""

_LOSSES: Final[Mapping[object, Callable[[], Any]]] = {
    Loss.SPARSE_CROSS_ENTROPY: lambda: keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    Loss.BINARY_CROSS_ENTROPY: lambda: keras.losses.BinaryCrossentropy(from_logits=True),
    Loss.MEAN_SQUARED_ERROR: keras.losses.MeanSquaredError,
}


class Facts(TypedDict):
    """Of a built model. A plain dictionary, since whoever reads it must not import this module.

    Attributes:
        inputs: Shape of an example and dtype of each input.
        outputs: Shape of what comes out for two examples at the ends of the features' range.
        finite: Whether all of that is.
        parameters: All weights.
        reported: Those that train and leave the device.
        unmatched: Patterns of the spec that name no layer with weights.
        paths: Of the weights, first and when it was built once more.
        weights: A digest of the weights, first and when it was built once more.
    """

    inputs: tuple[tuple[tuple[int, ...], str], ...]
    outputs: tuple[int, ...]
    finite: bool
    parameters: int
    reported: int
    unmatched: tuple[str, ...]
    paths: tuple[list[str], list[str]]
    weights: tuple[str, str]


def facts(name: str) -> Facts:
    """Build the zoo's `name` at its own sizes and look."""
    spec = ZOO[name].spec
    first, again = (_build(name, spec, 1) for _time in range(2))
    layers = [layer for layer in first._flatten_layers() if layer.weights]
    low, high = (np.full((1, *spec.features.shape), end) for end in (spec.features.low, spec.features.high))
    ends = np.concatenate([low, high]).astype(spec.features.dtype)
    if name == "two_tower":
        ends[:, 0] = np.minimum(ends[:, 0], recommender.USERS - 1)
    outputs = np.asarray(first(_parts(first, ends)))
    return Facts(
        inputs=tuple((tuple(one.shape[1:]), str(one.dtype)) for one in first.inputs),
        outputs=outputs.shape,
        finite=bool(np.isfinite(outputs).all()),
        parameters=first.count_params(),
        reported=sum(int(np.prod(variable.shape)) for variable in _reported(first, spec)),
        unmatched=tuple(
            pattern
            for pattern in (*spec.trainable, *spec.personal)
            if not any(_matches(layer, pattern) for layer in layers)
        ),
        paths=([variable.path for variable in first.weights], [variable.path for variable in again.weights]),
        weights=(_digest(first), _digest(again)),
    )


def digest_of_function(name: str, input_shape: tuple[int, ...], classes: int) -> tuple[str, str]:
    """Weights by the function `zoo.<name>`, and by the reference of that name."""
    spec = ZOO[name].spec_for(input_shape, classes)
    keras.utils.set_random_seed(1)
    return _digest(getattr(zoo, name)(input_shape, classes)), _digest(_build(name, spec, 1))


def shapes(name: str, input_shape: tuple[int, ...], classes: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Input and output shape of one example, for other sizes."""
    model = _build(name, ZOO[name].spec_for(input_shape, classes), 1)
    return tuple(model.input_shape[1:]), tuple(model.output_shape[1:])


def learned(name: str, steps: int) -> tuple[list[float], float]:
    """Train with the spec's optimizer at its learning rate, on examples with a pattern.

    Returns:
        The loss at each step, and that of the best guess which never looks at the features.
    """
    spec = ZOO[name].spec
    model = _build(name, spec, 1)
    trained = _trained(model, spec)
    optimizer = _optimizer(spec)
    optimizer.build(trained)
    loss_of = _LOSSES[spec.loss]()

    @tf.function(autograph=False)  # type: ignore[untyped-decorator]  # TensorFlow has no types
    def step(x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            loss = loss_of(y, model(_parts(model, x), training=True))
        optimizer.apply(tape.gradient(loss, [variable.value for variable in trained]), trained)
        return loss

    rng = np.random.default_rng(1)
    batches = [_patterned(spec, _BATCH, rng) for _step in range(steps)]
    losses = [float(step(tf.constant(x), tf.constant(y))) for x, y in batches]
    return losses, _loss_of_guessing(spec, np.concatenate([y for _x, y in batches]))


def _loss_of_guessing(spec: ExportSpec, labels: Values) -> float:
    """Variance for a squared error, entropy of the labels for a cross-entropy."""
    if spec.loss is Loss.MEAN_SQUARED_ERROR:
        return float(labels.var())
    _values, counts = np.unique(labels, return_counts=True)
    shares = counts / counts.sum()
    return float(-(shares * np.log(shares)).sum())


def _build(name: str, spec: ExportSpec, seed: int) -> keras.Model:
    keras.utils.set_random_seed(seed)
    return ZOO[name].build(spec)


def _parts(model: keras.Model, x: Any) -> Any:
    """One input as it is; several from side by side, each one index."""
    return x if len(model.inputs) == 1 else [x[:, column : column + 1] for column in range(len(model.inputs))]


def _matches(layer: keras.Layer, pattern: str) -> bool:
    return fnmatch(layer.path, pattern) or fnmatch(layer.name, pattern)


def _trained(model: keras.Model, spec: ExportSpec) -> list[Any]:
    adapters = [variable for variable in model.trainable_variables if variable.name.startswith("lora_")]
    return adapters if spec.adapters_only else model.trainable_variables


def _reported(model: keras.Model, spec: ExportSpec) -> list[Any]:
    personal = {
        id(variable)
        for layer in model._flatten_layers()
        for variable in layer.weights
        if any(_matches(layer, pattern) for pattern in spec.personal)
    }
    return [variable for variable in _trained(model, spec) if id(variable) not in personal]


def _digest(model: keras.Model) -> str:
    return hashlib.sha256(b"".join(np.asarray(variable).tobytes() for variable in model.weights)).hexdigest()


def _optimizer(spec: ExportSpec) -> keras.Optimizer:
    rate, kind = spec.default_plan.learning_rate, spec.optimizer
    if isinstance(kind, Adam):
        return keras.optimizers.Adam(rate, kind.beta_1, kind.beta_2, kind.epsilon)
    return keras.optimizers.SGD(rate, momentum=kind.momentum)


def _patterned(spec: ExportSpec, count: int, rng: np.random.Generator) -> tuple[Values, Values]:
    """Examples from whose features the labels follow."""
    features, labels = spec.features, spec.labels
    if labels == features:  # rows that three numbers make up
        mix = np.random.default_rng(0).normal(size=(3, *features.shape))
        rows = np.clip(rng.normal(size=(count, 3)) @ mix, features.low, features.high).astype(np.float32)
        return rows, rows
    if labels.dtype == "float32":  # a click where user and item are both even, or both odd
        pairs = rng.integers(0, 5 * _CLASSES, (count, *features.shape), dtype=np.int32)
        return pairs, (pairs.sum(axis=1, keepdims=True) % 2 == 0).astype(np.float32)
    if labels.shape:  # after each word comes the next, round and round
        begin = rng.integers(0, 5 * _CLASSES, (count, 1), dtype=np.int32)
        text = (begin + np.arange(features.size + 1, dtype=np.int32)) % (5 * _CLASSES)
        return text[:, :-1], text[:, 1:]
    classes = rng.integers(0, _CLASSES, count, dtype=np.int32)
    return _waves(features, classes, rng), classes


def _waves(features: Schema, classes: npt.NDArray[np.int32], rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Waves along the first axis, a frequency for each class, three tenths of them noise."""
    side = features.shape[0]
    turns = np.outer(2 * classes + 1, np.arange(side)) / side
    wave = (0.5 + 0.5 * np.sin(2 * np.pi * turns)).reshape(len(classes), side, *(1 for _ in features.shape[1:]))
    mixed = 0.7 * wave + 0.3 * rng.random((len(classes), *features.shape))
    values: npt.NDArray[np.float32] = (features.low + (features.high - features.low) * mixed).astype(np.float32)
    return values
