"""Android: the LiteRT Java interpreter, `org.tensorflow.lite.Interpreter`, through Chaquopy's `java` module.

The app has `com.google.ai.edge.litert:litert` 1.x or `org.tensorflow:tensorflow-lite` 2.x among its Gradle
dependencies; both hold the same classes. Names and behaviours are those of their sources,
https://github.com/tensorflow/tensorflow/tree/v2.16.1/tensorflow/lite/java, and of
https://chaquo.com/chaquopy/doc/current/python.html. What they make of signatures:

- `runSignature` refuses an empty map of inputs, and the first subgraph of a file cannot be run without inputs at all.
  Our exporter puts a signature with inputs there; for the others the map says that it is not empty, and has no entries.
- A buffer is never resized to: its capacity must be the input's size. There is no `resizeInput` for a signature. A
  nested array resizes, so an array is passed when the number of rows changes, and buffers from then on.
- Every call leaves a few dozen bytes behind for each input, until the interpreter is closed or after; they are
  `TensorHandle`s that the library makes and does not free.
"""

from __future__ import annotations

import importlib
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, cast

import numpy as np

from edge_runtime.interpreters import Array
from edge_runtime.interpreters.bridge import DTYPES, Slot, bridged, check_inputs

_PACKAGE: Final = "org.tensorflow.lite"


class Java(Protocol):
    """Chaquopy's `java` module: https://chaquo.com/chaquopy/doc/current/python.html"""

    jbyte: Any
    jfloat: Any
    jint: Any

    def jclass(self, cls_name: str) -> Any:
        """The Java class of that name."""

    def jarray(self, element_type: Any) -> Any:
        """The class of Java arrays of that type."""

    def dynamic_proxy(self, *implements: Any) -> Any:
        """A class to inherit from, whose instances are Java objects with these interfaces."""


def java_module() -> Java:
    """The bridge of this process.

    Raises:
        ImportError: This is not an app built with Chaquopy.
    """
    return cast(Java, importlib.import_module("java"))


def java_runtime(java: Java | None = None) -> str:
    """Package and version, such as "org.tensorflow.lite 2.17.0".

    Raises:
        ImportError: No bridge was given, and this is not an app built with Chaquopy.
    """
    return f"{_PACKAGE} {(java or java_module()).jclass(f'{_PACKAGE}.TensorFlowLite').runtimeVersion()}"


@dataclass(slots=True)
class _Signature:
    """A signature's tensors, as they were when its inputs were last resized."""

    slots: dict[str, Slot]
    outputs: dict[str, Any] = field(default_factory=dict)
    """Looked up after the first run: before it, nobody knows the shape of an output that depends on the rows."""
    buffers: dict[str, Any] = field(default_factory=dict)
    """A direct buffer for each input, used again and again: Java frees them late."""


class JavaInterpreter:
    """An `Interpreter` on LiteRT for Android, with XNNPACK.

    Closing it frees its memory, which Java does not know of; dropping the last reference does the same.

    Raises:
        ImportError: No bridge was given, and this is not an app built with Chaquopy.
        InterpreterFailed: It cannot load the graph, or the first subgraph of the graph takes no inputs.
    """

    def __init__(self, graph: bytes, threads: int, java: Java | None = None) -> None:
        self._java = java or java_module()
        self.runtime = java_runtime(self._java)
        kind = self._java.jclass(f"{_PACKAGE}.Interpreter")
        with bridged(self.runtime, "load the graph"):
            options = kind.Options()
            options.setNumThreads(threads)
            options.setUseXNNPACK(True)
            self._interpreter = kind(self._filled(None, graph), options)
        self.close = weakref.finalize(self, self._interpreter.close)
        self.close.atexit = False
        with bridged(self.runtime, "run a first subgraph that takes no inputs", self.close):
            if not self._interpreter.getInputTensorCount():
                raise ValueError("export the model again: its file is of an older exporter")
            self._names = tuple(sorted(str(key) for key in self._interpreter.getSignatureKeys()))
        self._signatures: dict[str, _Signature] = {}
        self._no_inputs = _no_inputs(self._java)

    def signatures(self) -> tuple[str, ...]:
        return self._names

    def call(self, signature: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        if signature not in self._names:
            raise KeyError(signature)
        with bridged(self.runtime, f"run {signature}", lambda: self._forget(signature)):
            of = self._signatures.get(signature) or self._looked_up(signature)
            check_inputs(inputs, of.slots)
            given = {name: self._given(of, name, values) for name, values in inputs.items()}
            empty = self._java.jclass("java.util.HashMap")()
            self._interpreter.runSignature(self._map(given), empty, signature)
            self._note_shapes(of, signature, inputs)
            return {name: self._read(tensor) for name, tensor in of.outputs.items()}

    def _forget(self, signature: str) -> None:
        """After a failure nobody knows what was resized."""
        self._signatures.pop(signature, None)

    def _looked_up(self, signature: str) -> _Signature:
        """Ask for a signature's inputs. Each answer costs a few bytes until the process ends: kept."""
        slots = {}
        for name in self._interpreter.getSignatureInputs(signature):
            tensor = self._interpreter.getInputTensorFromSignature(name, signature)
            slots[str(name)] = Slot(_dtype(tensor), _shape(tensor))
        self._signatures[signature] = found = _Signature(slots)
        return found

    def _note_shapes(self, of: _Signature, signature: str, inputs: Mapping[str, Array]) -> None:
        """After a run: what its arrays resized, and outputs whose shape has changed with that."""
        resized = {name: values.shape for name, values in inputs.items() if values.shape != of.slots[name].shape}
        for name, shape in resized.items():
            of.slots[name] = Slot(of.slots[name].dtype, shape)
        if resized or not of.outputs:
            java = self._interpreter
            names = java.getSignatureOutputs(signature)
            of.outputs = {str(name): java.getOutputTensorFromSignature(name, signature) for name in names}

    def _given(self, of: _Signature, name: str, values: Array) -> Any:
        """A buffer, or an array where the number of rows is another than last time."""
        if values.shape != of.slots[name].shape:
            return self._array(np.ascontiguousarray(values))
        of.buffers[name] = buffer = self._filled(of.buffers.get(name), values.tobytes())
        return buffer

    def _filled(self, buffer: Any, raw: bytes) -> Any:
        """A direct buffer in native order, of exactly these bytes: the one given, if its size is right."""
        if buffer is None or buffer.capacity() != len(raw):
            order = self._java.jclass("java.nio.ByteOrder").nativeOrder()
            buffer = self._java.jclass("java.nio.ByteBuffer").allocateDirect(len(raw)).order(order)
        buffer.clear()
        buffer.put(self._java.jarray(self._java.jbyte)(raw))
        return buffer

    def _array(self, values: Array) -> Any:
        """A nested Java array; only its innermost rows are copied in one go."""
        kind = self._java.jarray(self._java.jfloat if values.dtype == np.float32 else self._java.jint)
        if values.ndim == 1:
            return kind(values)
        for _side in values.shape[1:-1]:
            kind = self._java.jarray(kind)
        return self._java.jarray(kind)([self._array(row) for row in values])

    def _map(self, given: Mapping[str, Any]) -> Any:
        if not given:
            return self._no_inputs
        found = self._java.jclass("java.util.HashMap")()
        for name, value in given.items():
            found.put(name, value)
        return found

    def _read(self, tensor: Any) -> Array:
        """Copy an output at once: the buffer is the interpreter's own memory."""
        raw = self._java.jarray(self._java.jbyte)(tensor.numBytes())
        tensor.asReadOnlyBuffer().get(raw)
        return np.frombuffer(bytes(raw), _dtype(tensor)).reshape(_shape(tensor)).copy()


def _dtype(tensor: Any) -> np.dtype[np.generic]:
    return DTYPES[str(tensor.dataType().toString())]


def _shape(tensor: Any) -> tuple[int, ...]:
    return tuple(int(side) for side in tensor.shape())


def _no_inputs(java: Java) -> Any:
    """A java.util.Map without entries that does not say so."""

    class NoInputs(java.dynamic_proxy(java.jclass("java.util.Map"))):  # type: ignore[misc]  # a class made at run time
        def isEmpty(self) -> bool:  # noqa: N802 (Java's name)
            return False

        def size(self) -> int:
            return 0

        def entrySet(self) -> Any:  # noqa: N802 (Java's name)
            return java.jclass("java.util.HashSet")()

    return NoInputs()
