"""Which runtime is taken, what its absence says, and the two traps of tflite-runtime."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from edge_runtime import interpreters
from edge_runtime.interpreters import open_interpreter, runtime_name, tflite
from edge_runtime.protocol.errors import InterpreterMissing
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


@pytest.mark.parametrize("wanted", [None, "litert", "tflite"])
def test_a_missing_interpreter_says_what_to_install(monkeypatch: pytest.MonkeyPatch, wanted: str | None) -> None:
    monkeypatch.setattr(interpreters, "PACKAGES", {"litert": "not-installed-1", "tflite": "not-installed-2"})
    with pytest.raises(InterpreterMissing, match=rf"pip install 'edgewise\[{wanted or 'litert'}\]'"):
        open_interpreter(b"", wanted)


def test_the_fallback_is_taken_where_litert_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interpreters, "PACKAGES", {"litert": "not-installed", "tflite": "tflite-runtime"})
    assert runtime_name() == "tflite-runtime 2.14.0"


def test_an_unknown_runtime_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="no runtime is called 'java'"):
        open_interpreter(b"", "java")


def test_tflite_refuses_to_be_loaded_after_tensorflow(workers: Workers) -> None:
    with pytest.raises(InterpreterMissing, match="after TensorFlow"):
        workers["tensorflow"].run("edge_runtime.interpreters.tflite:check_process")


def test_tflite_refuses_numpy_2(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(np, "__version__", "2.1.0")
    with pytest.raises(InterpreterMissing, match="numpy<2"):
        tflite.check_process()
