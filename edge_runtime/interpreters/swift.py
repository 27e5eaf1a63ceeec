"""iOS: LiteRT's Swift interpreter (the pod TensorFlowLiteSwift), through rubicon-objc and a small class of the app's.

Swift's `Interpreter` and `SignatureRunner` are no Objective-C classes, so the app has `EdgewiseInterpreter`, which is:
docs/phones/EdgewiseInterpreter.swift. Names and behaviours are those of
https://github.com/tensorflow/tensorflow/tree/v2.16.1/tensorflow/lite/swift/Sources and of
https://rubicon-objc.readthedocs.io.

The graph goes through a file that is deleted once it is mapped: `Interpreter(modelData:)` keeps a pointer to memory
that Swift may have freed.
"""

from __future__ import annotations

import contextlib
import importlib
import tempfile
import weakref
from collections.abc import Mapping
from typing import Any, Final, Protocol, cast

import numpy as np

from edge_runtime.interpreters import Array
from edge_runtime.interpreters.bridge import DTYPES, Slot, bridged, check_inputs

_SHIM: Final = "EdgewiseInterpreter"


class ObjC(Protocol):
    """The module `rubicon.objc`: https://rubicon-objc.readthedocs.io"""

    runtime: Any

    def ObjCClass(self, name: str) -> Any:  # noqa: N802
        """The Objective-C class of that name."""

    def ns_from_py(self, pyobj: Any) -> Any:
        """A Foundation object: NSDictionary, NSArray, NSData, NSString, NSNumber."""

    def py_from_ns(self, nsobj: Any) -> Any:
        """A Python object from a Foundation object."""


def objc_module() -> ObjC:
    """The bridge of this process.

    Raises:
        ImportError: rubicon-objc is not bundled, or this is not an Apple system.
    """
    return cast(ObjC, importlib.import_module("rubicon.objc"))


def swift_runtime(objc: ObjC | None = None) -> str:
    """Package and version, such as "TensorFlowLiteSwift 2.17.0".

    Raises:
        ImportError: There is no bridge, or the app lacks EdgewiseInterpreter.swift.
    """
    return f"TensorFlowLiteSwift {_shim(objc or objc_module()).runtimeVersion()}"


def _shim(objc: ObjC) -> Any:
    try:
        return objc.ObjCClass(_SHIM)
    except NameError as problem:
        raise ImportError(f"{_SHIM}.swift is not part of this app") from problem


class SwiftInterpreter:
    """An `Interpreter` on LiteRT for iOS, with XNNPACK.

    Closing it frees its memory; dropping the last reference does the same.

    Raises:
        ImportError: There is no bridge, or the app lacks EdgewiseInterpreter.swift.
        InterpreterFailed: It cannot load the graph.
    """

    def __init__(self, graph: bytes, threads: int, objc: ObjC | None = None) -> None:
        self._objc = objc or objc_module()
        self.runtime = swift_runtime(self._objc)
        with bridged(self.runtime, "load the graph"), self._pool():
            self._shim = _shim(self._objc).alloc().init()
            with tempfile.NamedTemporaryFile(suffix=".tflite") as file:
                file.write(graph)
                file.flush()
                self._require(self._shim.openGraph_threads_(file.name, threads))
            self._names = tuple(sorted(self._objc.py_from_ns(self._shim.signatures())))
        self.close = weakref.finalize(self, self._shim.close)
        self.close.atexit = False
        self._slots: dict[str, dict[str, Slot]] = {}

    def signatures(self) -> tuple[str, ...]:
        return self._names

    def call(self, signature: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        if signature not in self._names:
            raise KeyError(signature)
        with bridged(self.runtime, f"run {signature}", lambda: self._forget(signature)), self._pool():
            slots = self._slots.get(signature) or self._looked_up(signature)
            check_inputs(inputs, slots)
            raw = {name: values.tobytes() for name, values in inputs.items()}
            sides = {name: list(values.shape) for name, values in inputs.items() if values.shape != slots[name].shape}
            ns = self._objc.ns_from_py
            told = self._require(self._shim.call_inputs_shapes_(signature, ns(raw), ns(sides)))
            for name in sides:
                slots[name] = Slot(slots[name].dtype, inputs[name].shape)
            return {name: _array(*output) for name, output in self._objc.py_from_ns(told).items()}

    def _pool(self) -> contextlib.AbstractContextManager[None]:
        """A thread of our own has no autorelease pool: without one, what a call makes would stay until it ends."""
        return cast(contextlib.AbstractContextManager[None], self._objc.runtime.autoreleasepool())

    def _require(self, answer: Any) -> Any:
        if answer is None or answer is False:
            raise ValueError(str(self._shim.problem()))
        return answer

    def _forget(self, signature: str) -> None:
        """After a failure nobody knows what was resized."""
        self._slots.pop(signature, None)

    def _looked_up(self, signature: str) -> dict[str, Slot]:
        told = self._objc.py_from_ns(self._require(self._shim.inputsOf_(signature)))
        self._slots[signature] = {name: Slot(DTYPES[kind], tuple(sides)) for name, (kind, *sides) in told.items()}
        return self._slots[signature]


def _array(kind: str, *shape_and_data: Any) -> Array:
    """An output as the app's class tells it: dtype, sides, bytes."""
    *sides, raw = shape_and_data
    return np.frombuffer(raw, DTYPES[kind]).reshape(sides).copy()
