"""A fake of Chaquopy's `java` module with LiteRT's Java interpreter, over the real library. Runs in the worker.

Classes, methods, checks and exceptions are those of org.tensorflow.lite (2.16, and LiteRT 1.x); what a method does not
check there is not checked here. As in Chaquopy, a Java exception is a Python one, and a missing name is an
`AttributeError`.
"""
# ruff: noqa: N802, N803

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, Final

import numpy as np

from tests.edge_runtime.bridges.native import Native, NativeError

JAVA_TYPES: Final = {"jbyte": ("b", "B"), "jfloat": ("f",), "jint": ("i", "l")}
"""The formats of Python buffers that an array of that type takes in one go."""


class Throwable(Exception):
    """java.lang.Throwable, as Chaquopy raises it."""


class IllegalArgumentException(Throwable):
    pass


class IllegalStateException(Throwable):
    pass


class BufferOverflowException(Throwable):
    pass


class NoClassDefFoundError(Throwable):
    pass


class ByteOrder:
    BIG_ENDIAN: Final = "BIG_ENDIAN"
    LITTLE_ENDIAN: Final = "LITTLE_ENDIAN"

    @classmethod
    def nativeOrder(cls) -> str:
        return cls.LITTLE_ENDIAN if sys.byteorder == "little" else cls.BIG_ENDIAN


class ByteBuffer:
    """java.nio.ByteBuffer. A new one is big-endian, whatever the processor."""

    allocated = 0

    def __init__(self, raw: bytearray, direct: bool, read_only: bool = False) -> None:
        self.raw, self.direct, self.read_only = raw, direct, read_only
        self.position, self.byte_order = 0, ByteOrder.BIG_ENDIAN

    @classmethod
    def allocateDirect(cls, capacity: int) -> ByteBuffer:
        assert type(capacity) is int
        cls.allocated += 1
        return cls(bytearray(capacity), direct=True)

    def order(self, bo: str) -> ByteBuffer:
        self.byte_order = bo
        return self

    def capacity(self) -> int:
        return len(self.raw)

    def clear(self) -> ByteBuffer:
        self.position = 0
        return self

    def put(self, src: JavaArray) -> ByteBuffer:
        assert src.element == "jbyte"
        assert not self.read_only
        end = self.position + len(src.values)
        if end > len(self.raw):
            raise BufferOverflowException("java.nio.BufferOverflowException")
        self.raw[self.position : end] = src.values.tobytes()
        self.position = end
        return self

    def get(self, dst: JavaArray) -> ByteBuffer:
        assert dst.element == "jbyte"
        end = self.position + len(dst.values)
        if end > len(self.raw):
            raise Throwable("java.nio.BufferUnderflowException")
        dst.values[:] = np.frombuffer(bytes(self.raw[self.position : end]), np.int8)
        self.position = end
        return self


class JavaArray:
    """What `jarray(...)` makes: of bytes, floats or ints, or of arrays."""

    def __init__(self, element: Any, content: Any) -> None:
        self.element = element
        if isinstance(element, ArrayClass):
            assert all(isinstance(one, JavaArray) and one.element == element.element for one in content)
            self.values: Any = list(content)
            return
        kind = {"jbyte": np.int8, "jfloat": np.float32, "jint": np.int32}[element]
        if isinstance(content, int):
            self.values = np.zeros(content, kind)
            return
        view = memoryview(content)
        assert view.ndim == 1
        assert view.format in JAVA_TYPES[element]
        self.values = np.frombuffer(view, kind).copy()

    def __len__(self) -> int:
        return len(self.values)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.values)

    def __buffer__(self, flags: int) -> memoryview:  # Python 3.12 calls it; 3.11 uses __bytes__
        return memoryview(self.values.tobytes())

    def __bytes__(self) -> bytes:
        return bytes(self.values.tobytes())

    def shape(self) -> tuple[int, ...]:
        inner = self.values[0].shape() if isinstance(self.element, ArrayClass) else ()
        return (len(self.values), *inner)

    def flat(self) -> bytes:
        return b"".join(one.flat() for one in self.values) if isinstance(self.element, ArrayClass) else bytes(self)

    def dtype(self) -> str:
        if isinstance(self.element, ArrayClass):
            return str(self.values[0].dtype())
        return {"jbyte": "UINT8", "jfloat": "FLOAT32", "jint": "INT32"}[self.element]


class ArrayClass:
    """The class of arrays of one element type."""

    def __init__(self, element: Any) -> None:
        self.element = element

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ArrayClass) and self.element == other.element

    def __hash__(self) -> int:
        return hash(("array", self.element))

    def __call__(self, content: Any) -> JavaArray:
        return JavaArray(self.element, content)


class HashMap(dict[str, Any]):
    def isEmpty(self) -> bool:
        return not self

    def size(self) -> int:
        return len(self)

    def entrySet(self) -> list[tuple[str, Any]]:
        return list(self.items())

    def put(self, key: str, value: Any) -> Any:
        assert type(key) is str
        previous = self.get(key)
        self[key] = value
        return previous


class HashSet(set[Any]):
    pass


class Map:
    """An interface."""


class DataType:
    def __init__(self, dtype: np.dtype[Any]) -> None:
        self._name = dtype.name.upper()

    def toString(self) -> str:
        return self._name


class Tensor:
    """org.tensorflow.lite.TensorImpl: its shape is a copy, made when it was asked for."""

    def __init__(self, native: Native, key: str, side: str, name: str) -> None:
        self._native, self._key, self._side, self._name = native, key, side, name
        self._dtype, self._shape = native.dtype_and_shape(key, side, name)

    def dataType(self) -> DataType:
        return DataType(self._dtype)

    def shape(self) -> list[int]:
        return list(self._shape)

    def numBytes(self) -> int:
        _dtype, shape = self._native.dtype_and_shape(self._key, self._side, self._name)
        return int(np.prod(shape, dtype=np.int64)) * self._dtype.itemsize

    def asReadOnlyBuffer(self) -> ByteBuffer:
        raw = bytearray(translated(self._native.read, self._key, self._name))
        return ByteBuffer(raw, direct=True, read_only=True).order(ByteOrder.nativeOrder())

    def getInputShapeIfDifferent(self, value: Any) -> tuple[int, ...] | None:
        if isinstance(value, ByteBuffer):
            return None
        if value.dtype() != self.dataType().toString():
            raise IllegalArgumentException("Cannot convert between a TensorFlowLite tensor and a Java object")
        return None if value.shape() == self._shape else value.shape()

    def setTo(self, value: Any) -> None:
        if isinstance(value, ByteBuffer):
            if value.capacity() != self.numBytes():
                raise IllegalArgumentException(
                    f"Cannot copy to a TensorFlowLite tensor ({self._name}) with {self.numBytes()} bytes from a Java "
                    f"Buffer with {value.capacity()} bytes."
                )
            assert value.direct
            assert value.byte_order == ByteOrder.nativeOrder()
            translated(self._native.write, self._key, self._name, bytes(value.raw))
        else:
            translated(self._native.write, self._key, self._name, value.flat())


class InterpreterOptions:
    def __init__(self) -> None:
        self.threads, self.xnnpack = -1, True

    def setNumThreads(self, numThreads: int) -> InterpreterOptions:
        assert type(numThreads) is int
        self.threads = numThreads
        return self

    def setUseXNNPACK(self, useXNNPACK: bool) -> InterpreterOptions:
        self.xnnpack = useXNNPACK
        return self


class Interpreter:
    """org.tensorflow.lite.Interpreter."""

    Options = InterpreterOptions

    def __init__(self, byteBuffer: ByteBuffer, options: InterpreterOptions) -> None:
        if not byteBuffer.direct or byteBuffer.byte_order != ByteOrder.nativeOrder():
            raise IllegalArgumentException(
                "Model ByteBuffer should be either a MappedByteBuffer of the model file, or a direct ByteBuffer using "
                "ByteOrder.nativeOrder() which contains bytes of model content."
            )
        assert options.xnnpack
        try:
            self._native: Native | None = Native(bytes(byteBuffer.raw), options.threads)
        except NativeError:
            raise IllegalArgumentException("ByteBuffer is not a valid TensorFlow Lite model flatbuffer") from None

    def close(self) -> None:
        if self._native is not None:
            self._native.delete()
            self._native = None

    def getSignatureKeys(self) -> list[str]:
        return self._open().signatures()

    def getInputTensorCount(self) -> int:
        return self._open().primary_inputs()

    def getSignatureInputs(self, signatureKey: str) -> list[str]:
        return self._of(signatureKey).names(signatureKey, "inputs")

    def getSignatureOutputs(self, signatureKey: str) -> list[str]:
        return self._of(signatureKey).names(signatureKey, "outputs")

    def getInputTensorFromSignature(self, inputName: str, signatureKey: str) -> Tensor:
        return self._tensor(signatureKey, "inputs", inputName)

    def getOutputTensorFromSignature(self, outputName: str, signatureKey: str) -> Tensor:
        return self._tensor(signatureKey, "outputs", outputName)

    def runSignature(self, inputs: Any, outputs: Any, signatureKey: str) -> None:
        native = self._open()
        if inputs is None or inputs.isEmpty():
            raise IllegalArgumentException("Input error: Inputs should not be null or empty.")
        if outputs is None:
            raise IllegalArgumentException("Input error: Outputs should not be null.")
        self._of(signatureKey)
        entries = list(inputs.entrySet())
        if native.subgraph(signatureKey) == 0 and not entries:
            raise IllegalArgumentException("Input error: Inputs should not be null or empty.")
        for name, value in entries:
            if shape := self._tensor(signatureKey, "inputs", name).getInputShapeIfDifferent(value):
                translated(native.resize, signatureKey, name, shape)
        translated(native.allocate, signatureKey)
        for name, value in entries:
            self._tensor(signatureKey, "inputs", name).setTo(value)
        translated(native.invoke, signatureKey)
        assert not list(outputs.entrySet())

    def _open(self) -> Native:
        if self._native is None:
            raise IllegalStateException("Internal error: The Interpreter has already been closed.")
        return self._native

    def _of(self, key: str) -> Native:
        native = self._open()
        if key not in native.signatures():
            raise IllegalArgumentException(f"Input error: Signature {key} not found.")
        return native

    def _tensor(self, key: str, side: str, name: str) -> Tensor:
        native = self._of(key)
        if name not in native.names(key, side):
            raise IllegalArgumentException("DataType error: DataType 0 is not recognized in Java.")
        return Tensor(native, key, side, name)


def translated(work: Any, *arguments: Any) -> Any:
    """What the library's own side does with a status."""
    try:
        return work(*arguments)
    except NativeError as problem:
        raise IllegalStateException(f"Internal error: {problem}") from None


class FakeJava:
    """The module `java`."""

    jbyte: Any = "jbyte"
    jfloat: Any = "jfloat"
    jint: Any = "jint"

    def __init__(self) -> None:
        self._classes: dict[str, object] = {
            "java.nio.ByteBuffer": ByteBuffer,
            "java.nio.ByteOrder": ByteOrder,
            "java.util.HashMap": HashMap,
            "java.util.HashSet": HashSet,
            "java.util.Map": Map,
            "org.tensorflow.lite.Interpreter": Interpreter,
            "org.tensorflow.lite.TensorFlowLite": SimpleNamespace(runtimeVersion=lambda: "2.17.0"),
        }

    def jclass(self, cls_name: str) -> Any:
        try:
            return self._classes[cls_name]
        except KeyError:
            raise NoClassDefFoundError(f"java.lang.NoClassDefFoundError: {cls_name}") from None

    def jarray(self, element_type: Any) -> Any:
        return ArrayClass(element_type)

    def dynamic_proxy(self, *implements: Any) -> Any:
        assert implements == (Map,)
        return type("Proxy", (), {})
