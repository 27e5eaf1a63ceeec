"""Examples that stay on disk: what training reads instead of `Examples`, one batch in memory at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from edge_runtime.example_store.collection import Collection, unpack
from edge_runtime.examples import Examples

Ids = npt.NDArray[np.int64]
Read = Callable[[list[int]], Iterator[tuple[int, bytes]]]
"""Yields those ids that are still there with their stored bytes, each once, one at a time."""


class StoredExamples:
    """The examples of a snapshot, in the order in which they were added, the same for as long as it is kept.

    `len` and positions are the snapshot's and never change. An example that was deleted or expired since, or that was
    damaged on disk, is not in what `take` returns: the batch is shorter, and empty when none of it is left. Whoever
    trains skips an empty batch.
    """

    def __init__(self, collection: Collection, ids: Ids, read: Read) -> None:
        self.collection = collection
        self._ids = ids
        self._read = read

    def __len__(self) -> int:
        return len(self._ids)

    def __repr__(self) -> str:
        return f"StoredExamples({len(self)} of {self.collection.features.shape})"

    def take(self, indices: npt.NDArray[np.int64]) -> Examples:
        """Read the examples at these positions that are still there, in this order.

        Raises:
            StateDamaged: The file can no longer be read.
        """
        wanted: list[int] = self._ids[indices].tolist()
        found = dict(self._read(wanted))
        rows = [found[row] for row in wanted if row in found]
        del found
        return unpack(rows, self.collection)
