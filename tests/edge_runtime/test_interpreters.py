"""Which runtime is taken, what its absence says, and the two traps of tflite-runtime."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from edge_runtime import interpreters
from edge_runtime.interpreters import failures_translated, open_interpreter, runtime_name, tflite
from edge_runtime.protocol.errors import InterpreterFailed, InterpreterMissing
from model_export.spec import Exported
from tests.workers import Workers


def test_litert_is_preferred_and_named_without_being_loaded() -> None:
    assert runtime_name().startswith("ai-edge-litert 2.")
    assert runtime_name("tflite") == "tflite-runtime 2.14.0"


@pytest.mark.parametrize(("runtime", "package"), [("litert", "ai-edge-litert"), ("tflite", "tflite-runtime")])
def test_an_interpreter_names_its_runtime(
    workers: Workers, exported: Callable[[str], Exported], runtime: str, package: str
) -> None:
    found = workers[runtime].run("tests.edge_runtime.tasks:runtime_here", exported("mlp"))
    assert found == runtime_name(runtime)
    assert found.startswith(package)


@pytest.mark.parametrize("runtime", ["litert", "tflite"])
def test_xnnpack_is_applied(workers: Workers, exported: Callable[[str], Exported], runtime: str) -> None:
    assert workers[runtime].run("tests.edge_runtime.tasks:delegated_nodes", exported("mlp")) > 0


def test_without_the_first_allocation_tflite_would_run_without_xnnpack(
    workers: Workers, exported: Callable[[str], Exported]
) -> None:
    """The mutant that the test before must fail: it finds no delegated node."""
    found = workers["tflite"].run("tests.edge_runtime.tasks:delegated_nodes", exported("mlp"), True)
    assert found == 0


@pytest.mark.parametrize("wanted", [None, "litert", "tflite"])
def test_a_missing_interpreter_says_what_to_install(monkeypatch: pytest.MonkeyPatch, wanted: str | None) -> None:
    monkeypatch.setattr(interpreters, "PACKAGES", {"litert": "not-installed-1", "tflite": "not-installed-2"})
    with pytest.raises(InterpreterMissing, match=rf"pip install 'edgewise\[{wanted or 'litert'}\]'"):
        open_interpreter(b"", wanted)


def test_the_fallback_is_taken_where_litert_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interpreters, "PACKAGES", {"litert": "not-installed", "tflite": "tflite-runtime"})
    assert runtime_name() == "tflite-runtime 2.14.0"


def test_an_unknown_runtime_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="no runtime is called 'kotlin'"):
        open_interpreter(b"", "kotlin")


def test_tflite_refuses_to_be_loaded_after_tensorflow(workers: Workers) -> None:
    with pytest.raises(InterpreterMissing, match="after TensorFlow"):
        workers["tensorflow"].run("edge_runtime.interpreters.tflite:check_process")


def test_tflite_refuses_numpy_2(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(np, "__version__", "2.1.0")
    with pytest.raises(InterpreterMissing, match="numpy<2"):
        tflite.check_process()


@pytest.mark.parametrize("runtime", ["litert", "tflite"])
@pytest.mark.parametrize("graph", [b"", b"not a graph"])
def test_a_graph_that_cannot_be_loaded_is_refused(workers: Workers, runtime: str, graph: bytes) -> None:
    with pytest.raises(InterpreterFailed, match="could not load the graph"):
        workers[runtime].run("tests.edge_runtime.tasks:load", graph)


@pytest.mark.parametrize("runtime", ["litert", "tflite"])
@pytest.mark.parametrize(
    "inputs",
    [
        {},
        {"y": np.zeros((5, 8, 8, 1), np.float32)},
        {"x": np.zeros((5, 8, 8, 1), np.float64)},
        {"x": np.zeros((5, 8, 9, 1), np.float32)},
    ],
    ids=["missing", "misnamed", "of another dtype", "of another shape"],
)
def test_inputs_that_the_graph_cannot_take_are_refused(
    workers: Workers, exported: Callable[[str], Exported], runtime: str, inputs: dict[str, Any]
) -> None:
    with pytest.raises(InterpreterFailed, match="could not run infer"):
        workers[runtime].run("tests.edge_runtime.tasks:call_signature", exported("mlp"), "infer", inputs)


@pytest.mark.parametrize("raised", [RuntimeError("Node number 3 failed"), ValueError("Cannot set tensor")])
def test_what_a_runtime_raises_is_kept_as_the_cause_and_not_shown(raised: Exception) -> None:
    with pytest.raises(InterpreterFailed) as refused, failures_translated("litert 2.1.0", "run train"):
        raise raised
    assert refused.value.__cause__ is raised
    assert (refused.value.code, refused.value.detail) == ("interpreter-failed", "litert 2.1.0 could not run train")


def test_a_mistake_of_ours_is_not_taken_for_the_runtimes() -> None:
    with pytest.raises(KeyError), failures_translated("litert 2.1.0", "run train"):
        raise KeyError("no such signature")
