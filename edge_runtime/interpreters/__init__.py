"""The seam to a TFLite interpreter: ai-edge-litert where it is installed, tflite-runtime otherwise.

Nothing is imported before an interpreter is opened, so that a host app can ask for the runtime's name for free.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
from collections.abc import Iterator, Mapping
from typing import Any, Final, Protocol

import numpy.typing as npt

from edge_runtime.protocol.errors import InterpreterFailed, InterpreterMissing

Array = npt.NDArray[Any]

PACKAGES: Final[Mapping[str, str]] = {"litert": "ai-edge-litert", "tflite": "tflite-runtime"}
"""Runtimes by our name, in order of preference, and the packages that hold them."""


class Interpreter(Protocol):
    """A graph loaded into a TFLite runtime. Not for several threads at once; one for each thread is fine."""

    @property
    def runtime(self) -> str:
        """Package and version, such as "ai-edge-litert 2.3.0"."""

    def signatures(self) -> tuple[str, ...]:
        """The names that `call` takes."""

    def call(self, signature: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run one signature; arrays by name in, arrays by name out.

        The caller has checked every shape and dtype: the runtimes resize silently instead of refusing.

        Raises:
            InterpreterFailed: The runtime gave up.
        """


def open_interpreter(graph: bytes, runtime: str | None = None, threads: int = 1) -> Interpreter:
    """Load a graph whose digest and signature were verified: a tampered one can crash the process.

    Args:
        graph: The bytes of a .tflite file.
        runtime: "litert" or "tflite"; None for the first that is installed.
        threads: For one call, at least 1.

    Raises:
        InterpreterMissing: The runtime is not installed, or cannot be used in this process.
        InterpreterFailed: The runtime cannot load the graph.
        ValueError: There is no runtime of that name.
    """
    chosen = _choose(runtime)
    if chosen == "litert":
        from edge_runtime.interpreters.litert import LiteRT

        return LiteRT(graph, threads)
    from edge_runtime.interpreters.tflite import TFLite

    return TFLite(graph, threads)


@contextlib.contextmanager
def failures_translated(runtime: str, doing: str) -> Iterator[None]:
    """Turn what a runtime raises into a refusal with the cause chained; the cause's text is of the runtime's making.

    Args:
        runtime: Package and version.
        doing: "load the graph".

    Raises:
        InterpreterFailed: The runtime raised.
    """
    try:
        yield
    except (RuntimeError, ValueError) as problem:
        raise InterpreterFailed(f"{runtime} could not {doing}") from problem


def runtime_name(runtime: str | None = None) -> str:
    """Package and version of the runtime that `open_interpreter` would use, without loading it.

    Raises:
        InterpreterMissing: It is not installed.
        ValueError: There is no runtime of that name.
    """
    package = PACKAGES[_choose(runtime)]
    return f"{package} {importlib.metadata.version(package)}"


def _choose(runtime: str | None) -> str:
    if runtime is not None and runtime not in PACKAGES:
        raise ValueError(f"no runtime is called {runtime!r}; there are {', '.join(PACKAGES)}")
    for name in PACKAGES if runtime is None else (runtime,):
        try:
            importlib.metadata.version(PACKAGES[name])
        except importlib.metadata.PackageNotFoundError:
            continue
        return name
    wanted = runtime or "litert"
    raise InterpreterMissing(f"no TFLite interpreter is installed; run: pip install 'edgewise[{wanted}]'")
