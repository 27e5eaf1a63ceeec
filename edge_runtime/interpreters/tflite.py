"""tflite-runtime 2.14: the small fallback, with two traps that are turned into refusals here."""

from __future__ import annotations

import sys
from collections.abc import Mapping

import numpy as np

from edge_runtime.interpreters import Array, failures_translated, runtime_name
from edge_runtime.protocol.errors import InterpreterMissing


class TFLite:
    """An `Interpreter` on tflite-runtime.

    Raises:
        InterpreterMissing: This process holds a numpy or a TensorFlow that tflite-runtime cannot live with.
        InterpreterFailed: It cannot load the graph.
    """

    def __init__(self, graph: bytes, threads: int) -> None:
        check_process()
        from tflite_runtime.interpreter import Interpreter

        self.runtime = runtime_name("tflite")
        with failures_translated(self.runtime, "load the graph"):
            interpreter = Interpreter(model_content=graph, num_threads=threads)
            # XNNPACK is only put in here. A signature that is asked for first runs without it, twice as long, and some
            # graphs end the process then.
            interpreter.allocate_tensors()
            self._runners = {name: interpreter.get_signature_runner(name) for name in interpreter.get_signature_list()}

    def signatures(self) -> tuple[str, ...]:
        return tuple(sorted(self._runners))

    def call(self, signature: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        runner = self._runners[signature]
        with failures_translated(self.runtime, f"run {signature}"):
            return dict(runner(**inputs))


def check_process() -> None:
    """Refuse where importing tflite-runtime would fail in an obscure way.

    It declares `numpy>=1.23` and is built against numpy 1; it dies with `vector::reserve` once TensorFlow is loaded.
    """
    if int(np.__version__.split(".")[0]) >= 2:
        raise InterpreterMissing(f"tflite-runtime 2.14 needs numpy 1, not {np.__version__}; run: pip install 'numpy<2'")
    if "tensorflow" in sys.modules and "tflite_runtime" not in sys.modules:
        raise InterpreterMissing(
            "tflite-runtime cannot be loaded after TensorFlow in one process; use ai-edge-litert, or another process"
        )
