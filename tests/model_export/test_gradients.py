"""Each gradient of built-in operators is TensorFlow's own, to rounding."""

from __future__ import annotations

import pytest

from tests.workers import Workers

TOLERANCE = 5e-6

CONVOLUTIONS = [
    # size, window and filters, stride
    ((7, 6, 2), (3, 3, 4), (1, 1)),
    ((7, 6, 2), (2, 3, 4), (1, 1)),
    ((8, 7, 3), (3, 3, 4), (2, 2)),
    ((9, 7, 3), (5, 4, 2), (2, 3)),
    ((7, 6, 2), (1, 1, 4), (1, 1)),
    ((7, 6, 2), (1, 1, 4), (2, 2)),
    ((7, 6, 10), (3, 3, 12), (1, 1)),
    ((9, 9, 10), (3, 3, 12), (3, 2)),
]
POOLINGS = [
    # size, window, stride
    ((8, 6), (2, 2), (2, 2)),
    ((9, 7), (2, 2), (2, 2)),
    ((9, 7), (3, 2), (3, 2)),
    ((9, 7), (3, 3), (2, 2)),
    ((8, 7), (3, 3), (1, 1)),
    ((9, 8), (2, 2), (3, 3)),
]


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
@pytest.mark.parametrize(("size", "kernel", "stride"), CONVOLUTIONS)
def test_convolution(workers: Workers, size: object, kernel: object, stride: object, padding: str) -> None:
    error = workers["tensorflow"].run("tests.model_export.operators:convolution", size, kernel, stride, padding)
    assert error <= TOLERANCE * 4  # sums of up to 120 products


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
@pytest.mark.parametrize(("size", "window", "stride"), POOLINGS)
@pytest.mark.parametrize("kind", ["max", "average"])
def test_pooling(workers: Workers, kind: str, size: object, window: object, stride: object, padding: str) -> None:
    error = workers["tensorflow"].run("tests.model_export.operators:pooling", kind, size, window, stride, padding)
    assert error <= TOLERANCE


@pytest.mark.parametrize("kind", ["relu", "tanh", "sigmoid"])
def test_activation(workers: Workers, kind: str) -> None:
    assert workers["tensorflow"].run("tests.model_export.operators:activation", kind) <= TOLERANCE


def test_product(workers: Workers) -> None:
    assert workers["tensorflow"].run("tests.model_export.operators:product") <= TOLERANCE
