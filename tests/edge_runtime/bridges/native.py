"""The library below both fake bridges: ai-edge-litert's, with a signature's steps taken one by one.

Java and Swift resize, set, invoke and read separately, and tensors keep what they held before. Runs in the worker.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

OPEN: Final[set[int]] = set()
"""The interpreters that nobody deleted."""


class NativeError(Exception):
    """A status that is not ok."""


class Native:
    """`tflite::Interpreter`."""

    def __init__(self, graph: bytes, threads: int) -> None:
        from ai_edge_litert.interpreter import Interpreter

        try:
            self._interpreter: Any = Interpreter(model_content=graph, num_threads=threads)
        except (ValueError, RuntimeError) as problem:
            raise NativeError(str(problem)) from None
        self._wrapper: Any = self._interpreter._interpreter
        self._keys: dict[str, Any] = self._interpreter._get_full_signature_list()
        self._number = id(self)
        OPEN.add(self._number)

    def delete(self) -> None:
        OPEN.discard(self._number)
        self._interpreter = self._wrapper = None

    def signatures(self) -> list[str]:
        return list(self._keys)

    def subgraph(self, key: str) -> int:
        return int(self._wrapper.GetSubgraphIndexFromSignature(key))

    def names(self, key: str, side: str) -> list[str]:
        """The names of `inputs` or `outputs`."""
        return list(self._keys[key][side])

    def primary_inputs(self) -> int:
        return len(self._interpreter.get_input_details())

    def dtype_and_shape(self, key: str, side: str, name: str) -> tuple[np.dtype[Any], tuple[int, ...]]:
        told = self._interpreter._get_tensor_details(self._index(key, side, name), self.subgraph(key))
        return np.dtype(told["dtype"]), tuple(int(side) for side in told["shape"])

    def resize(self, key: str, name: str, shape: tuple[int, ...]) -> None:
        index = self._index(key, "inputs", name)
        self._checked("ResizeInputTensor", index, np.array(shape, np.int32), False, self.subgraph(key))

    def allocate(self, key: str) -> None:
        self._checked("AllocateTensors", self.subgraph(key))

    def write(self, key: str, name: str, raw: bytes) -> None:
        dtype, shape = self.dtype_and_shape(key, "inputs", name)
        values = np.frombuffer(raw, dtype).reshape(shape)
        self._checked("SetTensor", self._index(key, "inputs", name), values, self.subgraph(key))

    def invoke(self, key: str) -> None:
        self._checked("Invoke", self.subgraph(key))

    def read(self, key: str, name: str) -> bytes:
        values = self._checked("GetTensor", self._index(key, "outputs", name), self.subgraph(key))
        return bytes(values.tobytes())

    def _index(self, key: str, side: str, name: str) -> int:
        return int(self._keys[key][side][name])

    def _checked(self, function: str, *arguments: Any) -> Any:
        try:
            return getattr(self._wrapper, function)(*arguments)
        except (ValueError, RuntimeError) as problem:
            raise NativeError(str(problem)) from None
