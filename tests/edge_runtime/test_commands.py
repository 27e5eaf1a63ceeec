"""Rows of numbers become examples as the bundle wants them, or are refused with what is wrong."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edge_runtime.commands import examples_of
from edge_runtime.examples import check_examples
from edge_runtime.protocol.bundle import Manifest, Schema
from edge_runtime.protocol.errors import InvalidExamples
from tests.edge_runtime.linear import MANIFEST

CLASSES = Schema(shape=(), dtype="int32", low=0.0, high=2.0)
WORDS = Schema(shape=(3,), dtype="int32", low=0.0, high=99.0)


@pytest.mark.parametrize(
    ("manifest", "rows", "x", "y"),
    [
        (replace(MANIFEST, labels=CLASSES), [[0.1, 0.2, 0.3, 2]], [[0.1, 0.2, 0.3]], [2]),
        (MANIFEST, [[0, 0, 1, 1.5, 2.5], [1, 1, 0, 3, 4]], [[0, 0, 1], [1, 1, 0]], [[1.5, 2.5], [3, 4]]),
        (replace(MANIFEST, features=WORDS, labels=CLASSES), [[7, 8, 9, 0]], [[7, 8, 9]], [0]),
        (
            replace(MANIFEST, labels=Schema(shape=(2, 1), dtype="float32", low=0.0, high=1.0)),
            [[0, 0, 0, 0.25, 0.75]],
            [[0, 0, 0]],
            [[[0.25], [0.75]]],
        ),
    ],
)
def test_a_row_is_features_and_then_the_label(
    manifest: Manifest, rows: list[list[float]], x: list[object], y: list[object]
) -> None:
    found = examples_of(rows, manifest)
    check_examples(found, manifest)
    assert found.x.tolist() == np.array(x, manifest.features.dtype).tolist()
    assert found.y.tolist() == np.array(y, manifest.labels.dtype).tolist()


@pytest.mark.parametrize(
    ("labels", "row", "sentence"),
    [
        (CLASSES, [0, 0, 0], "a row has 3 features and a label"),
        (CLASSES, [0, 0, 0, 1, 1], "a row has 3 features and a label"),
        (MANIFEST.labels, [0, 0, 0, 1], "a row has 3 features and 2 labels"),
        (CLASSES, [0, 0, 0, 0.5], "a label is not a whole number"),
        (CLASSES, [0, 0, 0, 1e300], "a label is not a whole number"),
        (CLASSES, [0, 0, 0, float("nan")], "a label is not a whole number"),
    ],
)
def test_a_row_of_another_kind_is_refused(labels: Schema, row: list[float], sentence: str) -> None:
    with pytest.raises(InvalidExamples, match=sentence):
        examples_of([row], replace(MANIFEST, labels=labels))


def test_a_number_too_large_for_float32_is_not_finite() -> None:
    with pytest.raises(InvalidExamples, match="a feature is not finite"):
        check_examples(examples_of([[1e300, 0, 0, 1, 1]], MANIFEST), MANIFEST)
