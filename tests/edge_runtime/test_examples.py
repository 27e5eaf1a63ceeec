"""Local examples are checked against the bundle's schema, and never shown."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edge_runtime.examples import Examples, check_examples
from edge_runtime.protocol.bundle import Features, Manifest, Role, Tensor
from edge_runtime.protocol.errors import InvalidExamples

MANIFEST = Manifest(
    version=Manifest.VERSION,
    name="pairs",
    graph_sha256="0" * 64,
    tensors=(Tensor(name="w", shape=(2, 3), trainable=True, role=Role.BASE),),
    features=Features(shape=(2,), dtype="float32", low=-1.0, high=1.0),
    class_names=("a", "b", "c"),
    batch_size=4,
    signatures=(),
    operators=(),
    minimum_runtime="2.11.0",
    exporter="test",
)


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
        (examples([[0, 0]], [-1]), "outside 0 to 2"),
    ],
)
def test_examples_that_do_not_fit_are_refused(wrong: Examples, sentence: str) -> None:
    with pytest.raises(InvalidExamples, match=sentence):
        check_examples(wrong, MANIFEST)


def test_examples_are_taken_in_the_given_order() -> None:
    taken = examples([[0, 0], [0.1, 0.1], [0.2, 0.2]], [0, 1, 2]).take(np.array([2, 0]))
    assert taken.y.tolist() == [2, 0]
    assert taken.x[:, 0] == pytest.approx([0.2, 0])


def test_a_printed_example_shows_no_data() -> None:
    assert repr(examples([[0.123, 0.456]], [1])) == "Examples(1 of (2,))"
