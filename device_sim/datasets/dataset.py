"""What a dataset is to a fleet: devices, each with its own examples, and some that never train."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edge_runtime.examples import Examples
from edge_runtime.protocol.bundle import Schema


class UnknownDataset(ValueError):
    """No dataset has that name; the text lists those there are."""


class InvalidDeviceCount(ValueError):
    """The dataset cannot be spread over that many devices; the text says what is possible."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """Examples as they lie on devices. Every source example is on exactly one device."""

    name: str
    title: str
    source: str
    """Where the examples come from, in one line for the report."""
    features: Schema
    """Shape, dtype and closed range of every example."""
    class_names: tuple[str, ...]
    """Labels are indices into it."""
    training: tuple[Examples, ...]
    """One entry for each device that takes part."""
    held_out: tuple[Examples, ...]
    """One entry for each device that never trains: together, the test set."""


def held_out_units(units: int, rng: np.random.Generator) -> frozenset[int]:
    """Choose which of `units` never train: a fifth of them, rounded up, uniformly and without replacement."""
    return frozenset(rng.choice(units, size=-(-units // 5), replace=False).tolist())
