"""A fake of the module `rubicon.objc` with the app's EdgewiseInterpreter, over the real library. Runs in the worker.

The class does what docs/phones/EdgewiseInterpreter.swift does with TensorFlowLiteSwift's SignatureRunner: sizes must
match, missing inputs keep what they held, a failure is nil and a text. Foundation's objects are wrapped, so that
nothing passes that was not converted; an object made outside an autorelease pool is a leak.
"""
# ruff: noqa: N802

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from tests.edge_runtime.bridges.native import Native, NativeError

_POOLS = threading.local()


@dataclass(frozen=True)
class NSObject:
    """A Foundation object, and what it holds."""

    content: Any


@contextlib.contextmanager
def autoreleasepool() -> Iterator[None]:
    _POOLS.depth = getattr(_POOLS, "depth", 0) + 1
    try:
        yield
    finally:
        _POOLS.depth -= 1


def autoreleased(content: Any) -> NSObject:
    assert getattr(_POOLS, "depth", 0) > 0, "an object is made where no autorelease pool will free it"
    return NSObject(content)


class EdgewiseInterpreter:
    """docs/phones/EdgewiseInterpreter.swift."""

    def __init__(self) -> None:
        self._native: Native | None = None
        self._runners: set[str] = set()
        self._problem = ""

    @classmethod
    def alloc(cls) -> EdgewiseInterpreter:
        return cls()

    def init(self) -> EdgewiseInterpreter:
        return self

    @staticmethod
    def runtimeVersion() -> str:
        return "2.17.0"

    def problem(self) -> str:
        return self._problem

    def openGraph_threads_(self, path: str, threads: int) -> bool:
        assert type(path) is str
        assert type(threads) is int
        try:
            self._native = Native(Path(path).read_bytes(), threads)
        except NativeError:
            self._problem = "Failed to load the given model."
            return False
        return True

    def signatures(self) -> NSObject:
        return autoreleased([] if self._native is None else self._native.signatures())

    def inputsOf_(self, signature: str) -> NSObject | None:
        def work() -> dict[str, list[Any]]:
            native = self._runner(signature)
            return {
                name: self._described(native, signature, "inputs", name) for name in native.names(signature, "inputs")
            }

        return self._attempt(work)

    def call_inputs_shapes_(self, signature: str, inputs: NSObject, shapes: NSObject) -> NSObject | None:
        def work() -> dict[str, list[Any]]:
            native = self._runner(signature)
            for name, sides in shapes.content.items():
                native.resize(signature, name, tuple(sides))
            native.allocate(signature)
            for name, raw in inputs.content.items():
                self._copy(native, signature, name, raw)
            native.invoke(signature)
            return {
                name: [*self._described(native, signature, "outputs", name), native.read(signature, name)]
                for name in native.names(signature, "outputs")
            }

        return self._attempt(work)

    def close(self) -> None:
        self._runners = set()
        if self._native is not None:
            self._native.delete()
            self._native = None

    def _runner(self, signature: str) -> Native:
        if self._native is None:
            raise NativeError("Failed to create the interpreter.")
        if signature not in self._native.signatures():
            raise NativeError(f"Failed to create a signature runner. Signature with key ({signature}) not found.")
        if signature not in self._runners:
            self._native.allocate(signature)
            self._runners.add(signature)
        return self._native

    def _copy(self, native: Native, signature: str, name: str, raw: bytes) -> None:
        if name not in native.names(signature, "inputs"):
            raise NativeError(f"Failed to get input tensor (input name: {name}).")
        dtype, shape = native.dtype_and_shape(signature, "inputs", name)
        required = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        if len(raw) != required:
            raise NativeError(f"Provided data count {len(raw)} must match the required count {required}.")
        native.write(signature, name, raw)

    def _described(self, native: Native, signature: str, side: str, name: str) -> list[Any]:
        dtype, shape = native.dtype_and_shape(signature, side, name)
        return [dtype.name.upper(), *shape]

    def _attempt(self, work: Any) -> NSObject | None:
        try:
            return autoreleased(work())
        except NativeError as problem:
            self._problem, self._runners = str(problem), set()
            return None


class FakeObjC:
    """The module `rubicon.objc` of an app that has EdgewiseInterpreter.swift, or lacks it."""

    def __init__(self, shim: bool = True) -> None:
        self.runtime: Any = SimpleNamespace(autoreleasepool=autoreleasepool)
        self._shim = shim

    def ObjCClass(self, name: str) -> Any:
        if name == "EdgewiseInterpreter" and self._shim:
            return EdgewiseInterpreter
        raise NameError(f"ObjC Class '{name}' couldn't be found.")

    def ns_from_py(self, pyobj: Any) -> NSObject:
        """Only what rubicon-objc converts: a tuple, an array or a number of numpy's is refused."""
        self._check(pyobj)
        return autoreleased(pyobj)

    def py_from_ns(self, nsobj: Any) -> Any:
        return nsobj.content if isinstance(nsobj, NSObject) else nsobj

    def _check(self, pyobj: Any) -> None:
        if type(pyobj) is dict:
            for key, value in pyobj.items():
                self._check(key)
                self._check(value)
        elif type(pyobj) is list:
            for value in pyobj:
                self._check(value)
        elif type(pyobj) not in (str, bytes, bool, int, float):
            raise TypeError(f"Don't know how to convert a {type(pyobj).__qualname__} to a Foundation object")
