"""What an app declares of its examples, and what the store answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from edge_runtime.examples import Examples, Features, Labels
from edge_runtime.protocol import wire
from edge_runtime.protocol.keys import digest
from edge_runtime.protocol.names import is_name
from edge_runtime.protocol.schema import Schema

AROUND_BYTES: Final = 200
"""About what a seal, a stamp, a fingerprint and three indices add to an example on disk."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Collection:
    """Examples of one kind.

    Attributes:
        name: 1 to 64 of a-z 0-9 . _ -, a letter or digit first.
        features: Of `x`, as in the manifest of the bundle that will train on them.
        labels: Of `y`, likewise.
        max_rows: Beyond it the oldest examples go.
        max_bytes: Likewise, on disk, all told; within some percent.
        time_to_live_s: Older examples go; None keeps them.
        dedupe: An example that is held already is not added again.
    """

    name: str
    features: Schema
    labels: Schema
    max_rows: int
    max_bytes: int
    time_to_live_s: float | None
    dedupe: bool

    def __post_init__(self) -> None:
        if not is_name(self.name):
            raise ValueError("a collection's name is 1 to 64 of a-z 0-9 . _ -, a letter or digit first")
        if self.capacity < 1:
            raise ValueError(f"one example of {self.row_bytes} bytes does not fit the quota")
        if self.time_to_live_s is not None and not self.time_to_live_s > 0:
            raise ValueError("time_to_live_s is above 0, or None")

    @property
    def row_bytes(self) -> int:
        """What one example takes on disk: all of a collection take the same."""
        return 4 * (self.features.size + self.labels.size) + AROUND_BYTES

    @property
    def capacity(self) -> int:
        """Most examples it holds, by both quotas."""
        return min(self.max_rows, self.max_bytes // self.row_bytes)

    @property
    def schema_sha256(self) -> bytes:
        """Of both schemas: examples of another one are not mixed in."""
        return digest(wire.encode(self.features), b"\n", wire.encode(self.labels))


@dataclass(frozen=True, slots=True)
class Added:
    """What became of the examples of one `add`."""

    ids: tuple[int, ...]
    """Of the ones that were added and are there; an id is never used for another example."""
    duplicates: int
    """Held already, or twice in this call; not added."""
    evicted: int
    """Older ones, or the oldest of these, that gave way to the quota."""


@dataclass(frozen=True, slots=True)
class Statistics:
    """What a collection holds. It stays on the device.

    Attributes:
        classes: How many examples have each label, if labels are one int32 each; else empty.
        oldest_age_s, newest_age_s: None without examples.
    """

    count: int
    bytes: int
    classes: Mapping[int, int]
    oldest_age_s: float | None
    newest_age_s: float | None


@dataclass(frozen=True, slots=True)
class Eligibility:
    """Whether there is enough to train on."""

    count: int
    minimum: int

    @property
    def enough(self) -> bool:
        return self.count >= self.minimum


def pack(x: Features, y: Labels, row: int) -> bytes:
    """One example as it is stored: features, then labels, little-endian."""
    return bytes(_little(x[row]).tobytes() + _little(y[row]).tobytes())


def unpack(rows: list[bytes], collection: Collection) -> Examples:
    """Examples from their stored bytes; none at all are an empty batch."""
    features, labels = collection.features, collection.labels
    border, width = 4 * features.size, 4 * (features.size + labels.size)
    table = np.frombuffer(b"".join(rows), np.uint8).reshape(len(rows), width)
    return Examples(_values(table[:, :border], features), _values(table[:, border:], labels))


def _values(raw: npt.NDArray[np.uint8], schema: Schema) -> Features:
    """The values in the columns of a table of bytes, an example in a row."""
    values = raw.view(np.dtype(schema.dtype).newbyteorder("<"))
    return values.astype(schema.dtype).reshape(len(raw), *schema.shape)


def _little(values: Features) -> Features:
    return values.astype(values.dtype.newbyteorder("<"), copy=False)
