"""Every interpreter passes the one contract suite; and what only the bridges of phones have."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edge_runtime.interpreters import open_interpreter, runtime_name
from edge_runtime.interpreters.swift import swift_runtime
from edge_runtime.protocol.errors import InterpreterFailed, InterpreterMissing
from model_export.spec import Exported
from tests.contracts.interpreters import MODEL, TASKS, WRONG, InterpreterContract
from tests.edge_runtime.bridges.swift_bridge import EdgewiseInterpreter, FakeObjC
from tests.edge_runtime.test_training import first_weights, plan_for, stripes
from tests.workers import Workers

BRIDGES = ("java", "swift")


class TestLiteRT(InterpreterContract):
    which = "litert"
    package = "ai-edge-litert"


class TestTFLite(InterpreterContract):
    """Other kernels: the numbers are close, not equal."""

    which = worker = "tflite"
    package = "tflite-runtime"
    exact = False


class TestJava(InterpreterContract):
    which = "java"
    package = "org.tensorflow.lite"


class TestSwift(InterpreterContract):
    which = "swift"
    package = "TensorFlowLiteSwift"


@pytest.mark.parametrize("which", BRIDGES)
def test_a_convolutional_model_trains_through_a_bridge(
    workers: Workers, exported: Callable[[str], Exported], which: str
) -> None:
    of = exported("cnn")
    arguments = (of, first_weights(of), plan_for(of, epochs=1), stripes(8))
    ours, theirs = (workers["litert"].run(f"{TASKS}:trained", one, *arguments) for one in (which, "litert"))
    assert ours.delta.tobytes() == theirs.delta.tobytes()


@pytest.mark.parametrize("which", BRIDGES)
def test_a_bridge_goes_on_after_it_refused(workers: Workers, exported: Callable[[str], Exported], which: str) -> None:
    wrong = {
        **WRONG,
        "of another rank": {"x": np.zeros((5, 64), np.float32)},
        "no rows": {"x": np.zeros((0, 8, 8, 1), np.float32)},
    }
    said, before, after = workers["litert"].run(f"{TASKS}:refusals", which, exported(MODEL), list(wrong.values()))
    assert [detail.rpartition(" ")[2] for detail in said] == ["infer"] * len(wrong)
    assert {name: values.tobytes() for name, values in before.items()} == {
        name: values.tobytes() for name, values in after.items()
    }


@pytest.mark.parametrize("which", BRIDGES)
def test_a_closed_or_dropped_interpreter_frees_the_library(
    workers: Workers, exported: Callable[[str], Exported], which: str
) -> None:
    assert workers["litert"].run(f"{TASKS}:left_open", which, exported(MODEL), ["close", "drop", "drop"]) == [0, 0, 0]


@pytest.mark.parametrize("which", BRIDGES)
def test_a_call_after_the_end_is_refused(workers: Workers, exported: Callable[[str], Exported], which: str) -> None:
    with pytest.raises(InterpreterFailed, match="could not run get_weights"):
        workers["litert"].run(f"{TASKS}:call_after_close", which, exported(MODEL))


def test_java_cannot_run_a_first_subgraph_without_inputs_and_says_so_at_once(
    workers: Workers, exported: Callable[[str], Exported]
) -> None:
    assert workers["litert"].run(f"{TASKS}:failed_load_leaves_nothing", "java", exported(MODEL)) == 0


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_the_exporter_puts_a_signature_with_inputs_first(
    workers: Workers, exported: Callable[[str], Exported], name: str
) -> None:
    assert workers["litert"].run(f"{TASKS}:first_inputs", exported(name)) > 0


def test_java_is_given_the_same_buffers_at_every_step(workers: Workers, exported: Callable[[str], Exported]) -> None:
    assert workers["litert"].run(f"{TASKS}:java_costs", exported(MODEL), 5) == (5, 0)


@pytest.mark.parametrize("which", BRIDGES)
def test_without_a_bridge_the_interpreter_is_missing(which: str) -> None:
    for ask in (lambda: open_interpreter(b"", which), lambda: runtime_name(which)):
        with pytest.raises(InterpreterMissing, match=f"no bridge to {which}"):
            ask()


def test_the_fake_answers_to_the_selectors_of_the_swift_file() -> None:
    text = (Path(__file__).parents[2] / "docs/phones/EdgewiseInterpreter.swift").read_text()
    named = {selector.replace(":", "_") for selector in re.findall(r"@objc\((\w+:[\w:]*)\)", text)}
    plain = set(re.findall(r"@objc public (?:static )?func (\w+)\(\)", text))
    inherited = {"alloc", "init"}
    assert {name for name in vars(EdgewiseInterpreter) if not name.startswith("_")} == named | plain | inherited


def test_an_app_that_lacks_the_swift_class_is_told_its_name() -> None:
    with pytest.raises(ImportError, match=r"EdgewiseInterpreter.swift is not part of this app"):
        swift_runtime(FakeObjC(shim=False))
