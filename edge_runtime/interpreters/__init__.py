"""The seam to a TFLite interpreter: ai-edge-litert where it is installed, tflite-runtime otherwise; Java or Swift.

Nothing is imported before an interpreter is opened, so that a host app can ask for the runtime's name for free.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any, Final, Protocol

import numpy.typing as npt

from edge_runtime.protocol.errors import InterpreterFailed, InterpreterMissing

Array = npt.NDArray[Any]

PACKAGES: Final[Mapping[str, str]] = {"litert": "ai-edge-litert", "tflite": "tflite-runtime"}
"""Runtimes by our name, in order of preference, and the packages that hold them."""

BRIDGES: Final = ("java", "swift")
"""Runtimes of phones. No package holds them; `edge_runtime.interpreters.java` and `swift` reach the app's own."""


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
            KeyError: There is no such signature.
        """


def open_interpreter(graph: bytes, runtime: str | None = None, threads: int = 1) -> Interpreter:
    """Load a graph whose digest and signature were verified: a tampered one can crash the process.

    Args:
        graph: The bytes of a .tflite file.
        runtime: "litert", "tflite", "java" or "swift"; None for the first of the first two that is installed.
        threads: For one call, at least 1.

    Raises:
        InterpreterMissing: The runtime is not installed, or cannot be used in this process.
        InterpreterFailed: The runtime cannot load the graph.
        ValueError: There is no runtime of that name.
    """
    if runtime in BRIDGES:
        return _bridged(runtime, graph, threads)
    chosen = _choose(runtime)
    if chosen == "litert":
        from edge_runtime.interpreters.litert import LiteRT

        return LiteRT(graph, threads)
    from edge_runtime.interpreters.tflite import TFLite

    return TFLite(graph, threads)


def _bridged(runtime: str | None, graph: bytes, threads: int) -> Interpreter:
    try:
        if runtime == "java":
            from edge_runtime.interpreters.java import JavaInterpreter

            return JavaInterpreter(graph, threads)
        from edge_runtime.interpreters.swift import SwiftInterpreter

        return SwiftInterpreter(graph, threads)
    except ImportError as problem:
        raise InterpreterMissing(f"this process has no bridge to {runtime}") from problem


@contextlib.contextmanager
def failures_translated(
    runtime: str, doing: str, raised: tuple[type[Exception], ...] = (RuntimeError, ValueError)
) -> Iterator[None]:
    """Turn what a runtime raises into a refusal with the cause chained; the cause's text is of the runtime's making.

    Args:
        runtime: Package and version.
        doing: "load the graph".
        raised: What it raises.

    Raises:
        InterpreterFailed: The runtime raised.
    """
    try:
        yield
    except raised as problem:
        raise InterpreterFailed(f"{runtime} could not {doing}") from problem


def runtime_name(runtime: str | None = None) -> str:
    """Package and version of the runtime that `open_interpreter` would use, without loading it.

    Java and Swift are asked, which loads them.

    Raises:
        InterpreterMissing: It is not installed.
        ValueError: There is no runtime of that name.
    """
    if runtime in BRIDGES:
        return _bridge_name(runtime)
    import importlib.metadata  # it is slow to load, and only asked for here and below

    package = PACKAGES[_choose(runtime)]
    return f"{package} {importlib.metadata.version(package)}"


def _bridge_name(runtime: str | None) -> str:
    from edge_runtime.interpreters.java import java_runtime
    from edge_runtime.interpreters.swift import swift_runtime

    try:
        return java_runtime() if runtime == "java" else swift_runtime()
    except ImportError as problem:
        raise InterpreterMissing(f"this process has no bridge to {runtime}") from problem


def _choose(runtime: str | None) -> str:
    import importlib.metadata

    if runtime is not None and runtime not in PACKAGES:
        raise ValueError(f"no runtime is called {runtime!r}; there are {', '.join((*PACKAGES, *BRIDGES))}")
    for name in PACKAGES if runtime is None else (runtime,):
        try:
            importlib.metadata.version(PACKAGES[name])
        except importlib.metadata.PackageNotFoundError:
            continue
        return name
    wanted = runtime or "litert"
    raise InterpreterMissing(f"no TFLite interpreter is installed; run: pip install 'edgewise[{wanted}]'")
