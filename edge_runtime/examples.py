"""Local examples: features and labels in memory, checked against the bundle's schema before any of them is used."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime.protocol.bundle import Manifest
from edge_runtime.protocol.errors import InvalidExamples

Features = npt.NDArray[Any]
Labels = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True, eq=False)
class Examples:
    """Examples of one device.

    Attributes:
        x: Features, shape ``(count, *features.shape)``, of the manifest's dtype, values in its range.
        y: Labels, shape ``(count,)``, int32 indices into the manifest's class names.
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
    """Return if every example fits the manifest's schema; no examples at all do.

    Raises:
        InvalidExamples: A shape or dtype is another one, a label names no class, or a feature is not finite or out of
            range.
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
    expected = manifest.features
    if x.ndim == 0 or x.shape[1:] != expected.shape or x.dtype != np.dtype(expected.dtype):
        raise InvalidExamples(
            f"features are {expected.dtype} of shape (count, {', '.join(map(str, expected.shape))}), "
            f"not {x.dtype} of shape {x.shape}"
        )
    if not x.size:
        return
    low, high = float(x.min()), float(x.max())  # NaN if there is one anywhere
    if not (math.isfinite(low) and math.isfinite(high)):
        raise InvalidExamples("a feature is not finite")
    if low < expected.low or high > expected.high:
        raise InvalidExamples(f"a feature is outside {expected.low} to {expected.high}")


def check_labels(y: Labels, manifest: Manifest) -> None:
    """Return if `y` is labels that fit the manifest.

    Raises:
        InvalidExamples: Shape, dtype or a value does not fit.
    """
    if y.ndim != 1 or y.dtype != np.int32:
        raise InvalidExamples(f"labels are int32 of shape (count,), not {y.dtype} of shape {y.shape}")
    classes = len(manifest.class_names)
    if y.size and not (int(y.min()) >= 0 and int(y.max()) < classes):
        raise InvalidExamples(f"a label is outside 0 to {classes - 1}")
