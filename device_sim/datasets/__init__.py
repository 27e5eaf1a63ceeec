"""Real, packaged data spread over devices; nothing is downloaded.

A dataset is a function `(devices, seed) -> Dataset` in a file of its own, and one line in `LOADERS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from device_sim.datasets import digits, watch
from device_sim.datasets.dataset import Dataset, InvalidDeviceCount, UnknownDataset

__all__ = ["LOADERS", "Dataset", "InvalidDeviceCount", "UnknownDataset", "load"]

LOADERS: Final[Mapping[str, Callable[[int | None, int], Dataset]]] = {"digits": digits.load, "watch": watch.load}
"""Every dataset by its name."""


def load(name: str, *, devices: int | None, seed: int) -> Dataset:
    """Read a dataset and spread it over devices; the same arguments give the same bytes.

    Args:
        devices: How many devices there are, those that never train included; None for the dataset's own number.
        seed: Decides who holds what and who is held out.

    Raises:
        UnknownDataset: No dataset has this name.
        InvalidDeviceCount: The dataset cannot be spread over that many devices.
    """
    loader = LOADERS.get(name)
    if loader is None:
        raise UnknownDataset(f"there is no dataset {name!r}; choose one of: {', '.join(sorted(LOADERS))}")
    return loader(devices, seed)
