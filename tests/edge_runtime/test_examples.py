"""Local examples are checked against the bundle's schema, and never shown."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from edge_runtime.examples import Examples, check_examples
from edge_runtime.protocol.bundle import DefaultPlan, Input, Manifest, Output, Role, Schema, Tensor
from edge_runtime.protocol.errors import InvalidExamples

MANIFEST = Manifest(
    version=Manifest.VERSION,
    name="pairs",
    graph_sha256="0" * 64,
    tensors=(Tensor(name="w", shape=(2, 3), trainable=True, role=Role.BASE),),
    slots=(),
    features=Schema(shape=(2,), dtype="float32", low=-1.0, high=1.0),
    inputs=(Input(name="x", shape=(2,)),),
    labels=Schema(shape=(), dtype="int32", low=0.0, high=2.0),
    class_names=("a", "b", "c"),
    outputs=(Output(name="logits", shape=(3,)),),
    loss="sparse_categorical_crossentropy",
    metrics=("correct",),
    optimizer="sgd",
    proximal=False,
    seeded=False,
    batch_size=4,
    dynamic_batch=False,
    default_plan=DefaultPlan(epochs=1, batch_size=4, learning_rate=0.1),
    signatures=(),
    operators=(),
    minimum_runtime="2.11.0",
    measured=None,
    exporter="test",
)
TARGETS = replace(
    MANIFEST, labels=Schema(shape=(2, 1), dtype="float32", low=-0.5, high=0.5), class_names=(), metrics=()
)
"""The same, whose labels are two numbers one above the other."""
WORDS = replace(
    MANIFEST,
    features=Schema(shape=(2,), dtype="int32", low=0.0, high=99.0),
    labels=Schema(shape=(2,), dtype="int32", low=0.0, high=2.0),
)
"""The same, with words for features and a class for each of them."""


def examples(x: Any, y: Any, x_dtype: type = np.float32, y_dtype: type = np.int32) -> Examples:
    return Examples(np.array(x, x_dtype), np.array(y, y_dtype))


@pytest.mark.parametrize(
    "fitting",
    [
        examples([[-1, 1], [0, 0.5]], [0, 2]),
        Examples(np.zeros((0, 2), np.float32), np.zeros(0, np.int32)),
    ],
)
def test_examples_that_fit_pass(fitting: Examples) -> None:
    check_examples(fitting, MANIFEST)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (examples([[0, 0, 0]], [0]), "shape"),
        (examples(0, [0]), "shape"),
        (examples([[0, 0]], 0), "shape"),
        (examples([[0, 0]], [[0]]), "shape"),
        (examples([[0, 0]], [0, 1]), "1 rows of features for 2 labels"),
        (examples([[0, 0]], [0], x_dtype=np.float64), "float64"),
        (examples([[0, 0]], [0], y_dtype=np.int64), "int64"),
        (examples([[0, np.nan]], [0]), "not finite"),
        (examples([[0, -np.inf]], [0]), "not finite"),
        (examples([[0, 1.001]], [0]), "outside -1.0 to 1.0"),
        (examples([[0, -1.001]], [0]), "outside -1.0 to 1.0"),
        (examples([[0, 0]], [3]), "outside 0 to 2"),
        (examples([[0, 0]], [-1]), "a label is outside 0 to 2"),
    ],
)
def test_examples_that_do_not_fit_are_refused(wrong: Examples, sentence: str) -> None:
    with pytest.raises(InvalidExamples, match=sentence):
        check_examples(wrong, MANIFEST)


@pytest.mark.parametrize(
    ("manifest", "fitting"),
    [
        (TARGETS, examples([[0, 0], [1, 1]], [[[-0.5], [0.5]], [[0], [0.25]]], y_dtype=np.float32)),
        (TARGETS, examples(np.zeros((0, 2)), np.zeros((0, 2, 1)), y_dtype=np.float32)),
        (WORDS, examples([[0, 99], [7, 7]], [[0, 2], [1, 1]], x_dtype=np.int32)),
    ],
)
def test_labels_are_of_the_shape_dtype_and_range_that_the_bundle_names(manifest: Manifest, fitting: Examples) -> None:
    check_examples(fitting, manifest)


@pytest.mark.parametrize(
    ("manifest", "wrong", "sentence"),
    [
        (
            TARGETS,
            examples([[0, 0]], [[0, 0]], y_dtype=np.float32),
            r"labels are float32 of shape \(count, 2, 1\), not float32 of shape \(1, 2\)",
        ),
        (TARGETS, examples([[0, 0]], [[[0], [0]]]), "labels are float32 of shape .* not int32"),
        (TARGETS, examples([[0, 0]], [[[0], [0.51]]], y_dtype=np.float32), "a label is outside -0.5 to 0.5"),
        (TARGETS, examples([[0, 0]], [[[0], [np.nan]]], y_dtype=np.float32), "a label is not finite"),
        (TARGETS, examples([[0, 0]], [[[0], [-np.inf]]], y_dtype=np.float32), "a label is not finite"),
        (WORDS, examples([[0, 100]], [[0, 0]], x_dtype=np.int32), "a feature is outside 0 to 99"),
        (WORDS, examples([[0, 0]], [[0, 3]], x_dtype=np.int32), "a label is outside 0 to 2"),
        (
            WORDS,
            examples([[0, 0]], [0], x_dtype=np.int32),
            r"labels are int32 of shape \(count, 2\), not int32 of shape \(1,\)",
        ),
    ],
)
def test_labels_of_another_shape_dtype_or_range_are_refused(manifest: Manifest, wrong: Examples, sentence: str) -> None:
    with pytest.raises(InvalidExamples, match=sentence):
        check_examples(wrong, manifest)


def test_examples_are_taken_in_the_given_order() -> None:
    taken = examples([[0, 0], [0.1, 0.1], [0.2, 0.2]], [0, 1, 2]).take(np.array([2, 0]))
    assert taken.y.tolist() == [2, 0]
    assert taken.x[:, 0] == pytest.approx([0.2, 0])


def test_a_printed_example_shows_no_data() -> None:
    assert repr(examples([[0.123, 0.456]], [1])) == "Examples(1 of (2,))"
