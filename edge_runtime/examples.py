"""Local examples: features and labels in memory, checked against the bundle's schema before any of them is used."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edge_runtime.protocol.errors import InvalidExamples

if TYPE_CHECKING:
    from edge_runtime.protocol.bundle import Manifest
    from edge_runtime.protocol.schema import Schema

Features = npt.NDArray[Any]
Labels = npt.NDArray[Any]


@dataclass(frozen=True, slots=True, eq=False)
class Examples:
    """Examples of one device.

    Attributes:
        x: Features, shape ``(count, *features.shape)``, of the manifest's dtype, values in its range.
        y: Labels, shape ``(count, *labels.shape)``, of the manifest's dtype, values in its range. Labels that are
            classes are int32 indices into the manifest's class names.
    """

    x: Features
    y: Labels

    def __len__(self) -> int:
        return len(self.y)

    def __repr__(self) -> str:
        return f"Examples({len(self)} of {self.x.shape[1:]})"

    def take(self, indices: npt.NDArray[np.int64]) -> Examples:
        """The examples at these positions, in this order."""
        return Examples(self.x[indices], self.y[indices])


def check_examples(examples: Examples, manifest: Manifest) -> None:
    """Return if every example fits the manifest's schemas; no examples at all do.

    Raises:
        InvalidExamples: A shape or dtype is another one, or a feature or label is not finite or out of range.
    """
    check_features(examples.x, manifest)
    check_labels(examples.y, manifest)
    if len(examples.x) != len(examples.y):
        raise InvalidExamples(f"{len(examples.x)} rows of features for {len(examples.y)} labels")


def check_features(x: Features, manifest: Manifest) -> None:
    """Return if `x` is rows of features that fit the manifest.

    Raises:
        InvalidExamples: Shape, dtype or a value does not fit.
    """
    check_values(x, manifest.features, "feature")


def check_labels(y: Labels, manifest: Manifest) -> None:
    """Return if `y` is labels that fit the manifest.

    Raises:
        InvalidExamples: Shape, dtype or a value does not fit.
    """
    check_values(y, manifest.labels, "label")


def check_rows(rows: npt.NDArray[Any], schema: Schema, word: str) -> None:
    """Return if shape and dtype are those of rows of this schema, whatever their values.

    Args:
        word: What one of the values is called: "feature".

    Raises:
        InvalidExamples: They are not.
    """
    if rows.ndim == 0 or rows.shape[1:] != schema.shape or rows.dtype != np.dtype(schema.dtype):
        expected = ", ".join(map(str, schema.shape))
        raise InvalidExamples(
            f"{word}s are {schema.dtype} of shape (count,{' ' if expected else ''}{expected}), "
            f"not {rows.dtype} of shape {rows.shape}"
        )


def check_values(rows: npt.NDArray[Any], schema: Schema, word: str) -> None:
    check_rows(rows, schema, word)
    if not rows.size:
        return
    low, high = float(rows.min()), float(rows.max())  # NaN if there is one anywhere
    if not (math.isfinite(low) and math.isfinite(high)):
        raise InvalidExamples(f"a {word} is not finite")
    if low < schema.low or high > schema.high:
        kind = int if schema.dtype == "int32" else float
        raise InvalidExamples(f"a {word} is outside {kind(schema.low)} to {kind(schema.high)}")
