"""ai-edge-litert: the preferred runtime. It verifies flatbuffers and runs training subgraphs with XNNPACK."""

from __future__ import annotations

from collections.abc import Mapping

from edge_runtime.interpreters import Array, failures_translated, runtime_name


class LiteRT:
    """An `Interpreter` on ai-edge-litert, with XNNPACK, which it applies by default.

    Raises:
        InterpreterFailed: It cannot load the graph.
    """

    def __init__(self, graph: bytes, threads: int) -> None:
        from ai_edge_litert.interpreter import Interpreter

        self.runtime = runtime_name("litert")
        with failures_translated(self.runtime, "load the graph"):
            interpreter = Interpreter(model_content=graph, num_threads=threads)
            self._runners = {name: interpreter.get_signature_runner(name) for name in interpreter.get_signature_list()}

    def signatures(self) -> tuple[str, ...]:
        return tuple(sorted(self._runners))

    def call(self, signature: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        runner = self._runners[signature]
        with failures_translated(self.runtime, f"run {signature}"):
            return dict(runner(**inputs))
