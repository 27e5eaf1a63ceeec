"""tflite-runtime 2.14: the small fallback, with two traps that are turned into refusals here."""

from __future__ import annotations

import sys

import numpy as np

from edge_runtime.interpreters import failures_translated, runtime_name
from edge_runtime.interpreters.signatures import Signatures
from edge_runtime.protocol.errors import InterpreterMissing


class TFLite(Signatures):
    """An `Interpreter` on tflite-runtime.

    Raises:
        InterpreterMissing: This process holds a numpy or a TensorFlow that tflite-runtime cannot live with.
        InterpreterFailed: It cannot load the graph.
    """

    def __init__(self, graph: bytes, threads: int) -> None:
        check_process()
        from tflite_runtime.interpreter import Interpreter

        runtime = runtime_name("tflite")
        with failures_translated(runtime, "load the graph"):
            interpreter = Interpreter(model_content=graph, num_threads=threads)
            # XNNPACK is only put in here. A signature that is asked for first runs without it, twice as long, and some
            # graphs end the process then.
            interpreter.allocate_tensors()
            super().__init__(interpreter, runtime)


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
