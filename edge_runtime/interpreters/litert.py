"""ai-edge-litert: the preferred runtime. It verifies flatbuffers and runs training subgraphs with XNNPACK."""

from __future__ import annotations

from edge_runtime.interpreters import failures_translated, runtime_name
from edge_runtime.interpreters.signatures import Signatures


class LiteRT(Signatures):
    """An `Interpreter` on ai-edge-litert, with XNNPACK, which it applies by default.

    Raises:
        InterpreterFailed: It cannot load the graph.
    """

    def __init__(self, graph: bytes, threads: int) -> None:
        from ai_edge_litert.interpreter import Interpreter

        runtime = runtime_name("litert")
        with failures_translated(runtime, "load the graph"):
            super().__init__(Interpreter(model_content=graph, num_threads=threads), runtime)
