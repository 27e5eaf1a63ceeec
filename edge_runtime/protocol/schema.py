"""What examples look like: the manifest says it of a model, and an app of a collection."""

from __future__ import annotations

import math
from dataclasses import dataclass

from edge_runtime.protocol import wire


@dataclass(frozen=True, slots=True, kw_only=True)
class Schema:
    """What examples look like: shape of one, dtype, and the closed range its values lie in."""

    shape: tuple[int, ...]
    """Without the batch; () for a number."""
    dtype: str
    low: float
    high: float

    def __post_init__(self) -> None:
        wire.require(self.dtype in ("float32", "int32"), "values are float32 or int32")
        wire.require(all(side > 0 for side in self.shape) and self.low < self.high, "a schema needs sides and a range")
        whole = float(self.low).is_integer() and float(self.high).is_integer()
        wire.require(self.dtype == "float32" or whole, "the range of int32 is from and to a whole number")

    @property
    def size(self) -> int:
        """Values of one example."""
        return math.prod(self.shape)
