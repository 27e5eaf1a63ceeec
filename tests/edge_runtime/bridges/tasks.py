"""What the contract of interpreters asks of each, inside a worker. `which` is litert, tflite, java or swift."""

from __future__ import annotations

import functools
import gc
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final, TypeAlias

import numpy as np
import psutil

from edge_runtime.examples import Examples
from edge_runtime.interpreters import Array, Interpreter, open_interpreter
from edge_runtime.interpreters.java import JavaInterpreter
from edge_runtime.interpreters.swift import SwiftInterpreter
from edge_runtime.model import Model
from edge_runtime.protocol.bundle import Bundle, verify_bundle
from edge_runtime.protocol.checkpoint import Weights
from edge_runtime.protocol.errors import InterpreterFailed
from edge_runtime.protocol.plan import Plan
from edge_runtime.training import Trained, train
from model_export.spec import Exported
from tests.edge_runtime.bridges import native
from tests.edge_runtime.bridges.java_bridge import ByteBuffer, FakeJava
from tests.edge_runtime.bridges.swift_bridge import FakeObjC
from tests.exports import TENANT_KEY

Outputs: TypeAlias = dict[str, Array]

_WARM: Final = 10


def opened(which: str, graph: bytes, threads: int = 1) -> Any:
    if which == "java":
        return JavaInterpreter(graph, threads, FakeJava())
    if which == "swift":
        return SwiftInterpreter(graph, threads, FakeObjC())
    return open_interpreter(graph, which, threads)


def named(which: str, exported: Exported) -> tuple[str, tuple[str, ...]]:
    """The runtime's name, and the signatures."""
    interpreter = opened(which, bundle(exported).graph)
    return interpreter.runtime, interpreter.signatures()


def load(which: str, graph: bytes) -> None:
    opened(which, graph)


def sequence(which: str, exported: Exported, rows: list[int], threads: int = 1) -> list[Outputs]:
    """Every output of a little training, with batches of so many rows."""
    of = bundle(exported)
    return _sequence(opened(which, of.graph, threads), of, rows)


def _sequence(interpreter: Interpreter, of: Bundle, rows: list[int]) -> list[Outputs]:
    rng = np.random.default_rng(20260105)
    tensors = {one.name: rng.normal(0, 0.1, one.shape).astype(np.float32) for one in of.manifest.tensors}
    found = [interpreter.call("set_weights", tensors), interpreter.call("begin_round", {})]
    for count in rows:
        x = rng.random((count, *of.manifest.features.shape), np.float32)
        y = rng.integers(0, len(of.manifest.class_names), count).astype(np.int32)
        batch = {"x": x, "y": y, "mask": np.ones(count, np.float32)}
        step = {"lr": np.array(0.1, np.float32), "mu": np.array(0.01, np.float32)}
        found.append(interpreter.call("train", {**batch, **step}))
        found.append(interpreter.call("evaluate", batch))
        found.append(interpreter.call("infer", {"x": x}))
    found.append(interpreter.call("delta", {"clip": np.array(0.5, np.float32)}))
    found.append(interpreter.call("get_weights", {}))
    return found


def refusals(which: str, exported: Exported, calls: list[dict[str, Array]]) -> tuple[list[str], Outputs, Outputs]:
    """How `infer` refuses each, and what it says to right inputs before and after."""
    of = bundle(exported)
    interpreter = opened(which, of.graph)
    right = {"x": np.full((of.manifest.batch_size, *of.manifest.features.shape), 0.5, np.float32)}
    before = interpreter.call("infer", right)
    said = []
    for inputs in calls:
        try:
            interpreter.call("infer", inputs)
        except InterpreterFailed as refused:
            said.append(refused.detail)
    return said, before, interpreter.call("infer", right)


def infer(which: str, exported: Exported, inputs: dict[str, Array]) -> Outputs:
    found: Outputs = opened(which, bundle(exported).graph).call("infer", inputs)
    return found


def unknown(which: str, exported: Exported) -> None:
    opened(which, bundle(exported).graph).call("no_such_signature", {})


def kept(which: str, exported: Exported) -> tuple[Outputs, Outputs]:
    """An answer as it was when it came, and as it is after another call."""
    of = bundle(exported)
    interpreter = opened(which, of.graph)
    shape = (of.manifest.batch_size, *of.manifest.features.shape)
    answer = interpreter.call("infer", {"x": np.zeros(shape, np.float32)})
    copies = {name: values.copy() for name, values in answer.items()}
    interpreter.call("infer", {"x": np.ones(shape, np.float32)})
    return copies, answer


def grown_bytes(which: str, exported: Exported, times: int) -> int:
    """Resident memory that opening, using and dropping an interpreter so often takes, after the first few."""
    of = bundle(exported)

    def once() -> None:
        _sequence(opened(which, of.graph), of, [of.manifest.batch_size])

    def resident() -> int:
        gc.collect()
        return int(psutil.Process().memory_info().rss)

    for _ in range(_WARM):
        once()
    before = resident()
    for _ in range(times):
        once()
    return resident() - before


def in_threads(which: str, exported: Exported, count: int) -> list[list[Outputs]]:
    """The same training at once, on an interpreter for each thread."""
    of = bundle(exported)
    found: list[list[Outputs] | Exception] = [RuntimeError("it did not end")] * count

    def work(index: int) -> None:
        try:
            found[index] = _sequence(opened(which, of.graph), of, [of.manifest.batch_size] * 3)
        except Exception as problem:
            found[index] = problem

    _run_all([threading.Thread(target=work, args=(index,)) for index in range(count)])
    if problems := [one for one in found if isinstance(one, Exception)]:
        raise problems[0]
    return [one for one in found if not isinstance(one, Exception)]


def _run_all(threads: list[threading.Thread]) -> None:
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def trained(which: str, exported: Exported, weights: Weights, plan: Plan, examples: Examples) -> Trained:
    """A whole plan."""
    of = bundle(exported)
    return train(Model(of, opened(which, of.graph)), weights, plan, examples, np.random.default_rng(3))


def bundle(exported: Exported) -> Bundle:
    return verify_bundle(exported.bundle, exported.bundle_sha256, TENANT_KEY.public)


def left_open(which: str, exported: Exported, ways: list[str]) -> list[int]:
    """How many interpreters of the library are open after each way to end one: `close` it, twice, or `drop` it."""
    of = bundle(exported)
    left = []
    for way in ways:
        interpreter = opened(which, of.graph)
        assert len(native.OPEN) == 1
        if way == "close":
            interpreter.close()
            interpreter.close()
            left.append(len(native.OPEN))
        del interpreter
        if way == "drop":
            left.append(len(native.OPEN))
    return left


def call_after_close(which: str, exported: Exported) -> None:
    interpreter = opened(which, bundle(exported).graph)
    interpreter.close()
    interpreter.call("get_weights", {})


def failed_load_leaves_nothing(which: str, exported: Exported) -> int:
    """How many interpreters of the library stay open when the first subgraph takes no inputs."""
    graph = first_without_inputs(bundle(exported).graph)
    try:
        opened(which, graph)
    except InterpreterFailed:
        return len(native.OPEN)
    raise AssertionError("it was opened")


def first_inputs(exported: Exported) -> int:
    """How many inputs the first subgraph takes."""
    from ai_edge_litert.interpreter import Interpreter as Library

    return len(Library(model_content=bundle(exported).graph).get_input_details())


def first_without_inputs(graph: bytes) -> bytes:
    """The graph as the converter orders it: by name."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(bytearray(graph), 0))
    (place,) = [one.subgraphIndex for one in model.signatureDefs if one.signatureKey == b"begin_round"]
    model.subgraphs[0], model.subgraphs[place] = model.subgraphs[place], model.subgraphs[0]
    for one in model.signatureDefs:
        one.subgraphIndex = {0: place, place: 0}.get(one.subgraphIndex, one.subgraphIndex)
    builder = flatbuffers.Builder(1 << 16)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def java_costs(exported: Exported, steps: int) -> tuple[int, int]:
    """Direct buffers that the first step makes, and those of all the steps after it."""
    of = bundle(exported)
    interpreter = opened("java", of.graph)
    count = of.manifest.batch_size
    inputs = {
        "x": np.zeros((count, *of.manifest.features.shape), np.float32),
        "y": np.zeros(count, np.int32),
        "mask": np.ones(count, np.float32),
        "lr": np.array(0.1, np.float32),
        "mu": np.array(0.0, np.float32),
    }
    made = _counted(lambda: interpreter.call("train", inputs))
    return made, _counted(lambda: [interpreter.call("train", inputs) for _ in range(steps)])


def _counted(work: Callable[[], object]) -> int:
    before = ByteBuffer.allocated
    work()
    return ByteBuffer.allocated - before


@functools.cache
def dynamic(name: str) -> Exported:
    """The model of `tests.exports` with batches of any size; in the TensorFlow worker."""
    from model_export.convert import export
    from tests.exports import model, spec_for

    return export(model(name), replace(spec_for(name), dynamic_batch=True), TENANT_KEY)
