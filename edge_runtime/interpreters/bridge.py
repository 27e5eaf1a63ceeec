"""What the bridges to Java and Swift share: checks that those interpreters leave out.

Neither looks at a dtype, and Java runs with what an input held before when one is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import numpy as np

from edge_runtime.interpreters import Array, failures_translated

DTYPES: Final[Mapping[str, np.dtype[np.generic]]] = {
    "FLOAT32": np.dtype(np.float32),
    "INT32": np.dtype(np.int32),
}
"""By the name that Java's and Swift's interpreters have for them; bundles have no others."""


@dataclass(frozen=True, slots=True)
class Slot:
    """One input of a signature, as the interpreter has it now."""

    dtype: np.dtype[np.generic]
    shape: tuple[int, ...]

    def check(self, name: str, values: Array) -> None:
        """Return if the values fit, whatever the number of rows.

        Raises:
            ValueError: They have another dtype or shape, or no rows.
        """
        rows_fit = values.ndim == len(self.shape) and values.shape[1:] == self.shape[1:] and 0 not in values.shape
        if values.dtype != self.dtype or not rows_fit:
            raise ValueError(f"{name} is {self.dtype} of {self.shape}, not {values.dtype} of {values.shape}")


def check_inputs(inputs: Mapping[str, Array], slots: Mapping[str, Slot]) -> None:
    """Return if the inputs are those of a signature.

    Raises:
        ValueError: One is missing, has another name, or does not fit.
    """
    if set(inputs) != set(slots):
        raise ValueError(f"the inputs are {', '.join(slots) or 'none'}, not {', '.join(inputs) or 'none'}")
    for name, values in inputs.items():
        slots[name].check(name, values)


@contextmanager
def bridged(runtime: str, doing: str, failed: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Turn what comes through a bridge into a refusal: an exception of any class, with the cause chained.

    Args:
        runtime: Package and version.
        doing: "load the graph".
        failed: Called before the refusal is raised.

    Raises:
        InterpreterFailed: Something was raised.
    """
    try:
        with failures_translated(runtime, doing, (Exception,)):
            yield
    except Exception:
        failed()
        raise
