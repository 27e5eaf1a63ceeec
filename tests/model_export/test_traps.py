"""Every trap of the interpreters has its guard, and every guard a test.

| trap | guard | test |
|---|---|---|
| tflite-runtime 2.14 needs numpy < 2 | `interpreters.tflite.check_process` | edge_runtime/test_interpreters |
| TensorFlow before tflite-runtime | `interpreters.tflite.check_process`; workers | edge_runtime/test_interpreters |
| locust after TensorFlow | conftest refuses both in pytest; workers | tests/conftest, `_clean_process` |
| an altered file crashes, or runs | digest and signature first | edge_runtime/test_tampering, and below |
| `set_weights` takes any shape | `Model.set_weights` | edge_runtime/test_model, and below |
| a label out of range has a loss like any other | `examples.check_labels` | edge_runtime/test_model, and below |
| NaN poisons weights | `examples.check_features`, `Model.delta` | edge_runtime/test_model |
| Python floats are refused | `Model` passes float32 arrays | below |
| one interpreter is not for several threads | one for each | below |
| REVERSE_V2 over two axes, on 2.14 | `gradients.layout.reverse` | below |
| BATCH_MATMUL, left transposed, beside one matrix, on 2.14 | `gradients.matmul.batched` | test_gradients |
| anchor and slots in the file | `compact` | below |
| a leak over 2,000 steps | none is known | nightly, and 2,000 steps of the MLP below |
| oneDNN writes beyond its memory | workers run TensorFlow without it | tests/workers |
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from edge_runtime import model as edge_model
from edge_runtime.protocol.bundle import verify_bundle
from edge_runtime.protocol.errors import DigestMismatch
from model_export.spec import Exported
from tests.exports import BATCH_SIZE, CLASSES, INPUT_SHAPE, TENANT_KEY
from tests.workers import Workers

RUNTIMES = pytest.mark.parametrize("runtime", ["litert", "tflite"])
GRAPH_BYTES = 60_000
"""What a file may hold beside its weights: operators, shapes and names of an MLP's signatures."""
GROWTH_BYTES = 3_000_000


@pytest.fixture
def mlp(exported: Callable[[str], Exported]) -> Exported:
    return exported("mlp")


@RUNTIMES
def test_reversing_two_axes_is_right_only_by_our_rule(workers: Workers, runtime: str) -> None:
    graph, x, reversed_x = workers["tensorflow"].run("tests.model_export.reversal:both_ways")
    run = workers[runtime].run
    as_it_is = run("tests.model_export.runs:each", graph, runtime, "as_it_is", [{"x": x}])[0]["y"]
    by_rule = run("tests.model_export.runs:each", graph, runtime, "by_rule", [{"x": x}])[0]["y"]
    assert (by_rule == reversed_x).all()
    assert (as_it_is == reversed_x).all() == (runtime == "litert"), "the trap is gone; so may be the rule"


@RUNTIMES
def test_a_python_float_is_refused_by_the_interpreters(workers: Workers, mlp: Exported, runtime: str) -> None:
    with pytest.raises(AttributeError, match="'float' object has no attribute"):
        workers[runtime].run("tests.edge_runtime.tasks:call_signature", mlp, "delta", {"clip": 1.0})


@RUNTIMES
def test_a_label_out_of_range_would_look_like_any_other(workers: Workers, mlp: Exported, runtime: str) -> None:
    """So the model must not be given one: see edge_runtime/test_model."""
    batch = {
        "x": np.zeros((BATCH_SIZE, *INPUT_SHAPE), np.float32),
        "y": np.full(BATCH_SIZE, CLASSES, np.int32),
        "mask": np.ones(BATCH_SIZE, np.float32),
    }
    found = workers[runtime].run("tests.edge_runtime.tasks:call_signature", mlp, "evaluate", batch)
    assert np.isfinite(found["loss_sum"]), "the interpreters notice by now; so the guard is not the only one"


@RUNTIMES
def test_one_interpreter_for_each_thread_is_fine(workers: Workers, mlp: Exported, runtime: str) -> None:
    run, seeds = workers[runtime].run, [1, 2, 3]
    alone = [run("tests.model_export.runs:trained", mlp, runtime, 50, seed) for seed in seeds]
    assert run("tests.model_export.runs:trained_by_threads", mlp, runtime, 50, seeds) == alone
    assert len(set(alone)) == len(seeds)


@RUNTIMES
def test_the_same_steps_give_the_same_bits(workers: Workers, exported: Callable[[str], Exported], runtime: str) -> None:
    for name in ("mlp", "cnn"):
        first, again = (
            workers[runtime].run("tests.model_export.runs:trained", exported(name), runtime, 20, 7) for _ in range(2)
        )
        assert first == again


@RUNTIMES
def test_two_thousand_steps_leave_no_memory_behind(workers: Workers, mlp: Exported, runtime: str) -> None:
    grown = workers[runtime].run("tests.model_export.long_runs:memory_growth_bytes", mlp, 2_000)
    assert grown < GROWTH_BYTES


def test_an_altered_file_never_reaches_an_interpreter(mlp: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[bytes] = []
    monkeypatch.setattr(edge_model, "open_interpreter", lambda graph, runtime: opened.append(graph))
    altered = bytearray(mlp.bundle)
    altered[len(altered) // 2] ^= 1
    with pytest.raises(DigestMismatch):
        edge_model.open_model(verify_bundle(bytes(altered), mlp.bundle_sha256, TENANT_KEY.public))
    assert not opened


@pytest.mark.parametrize("kind", ["sgd", "momentum", "adam", "private"])
def test_anchor_slots_and_sums_are_not_in_the_file(workers: Workers, kind: str) -> None:
    weights_bytes, graph_bytes = workers["tensorflow"].run("tests.model_export.sizes:of_mlp", kind)
    assert weights_bytes > 1_000_000
    assert graph_bytes <= 1.15 * weights_bytes
    assert graph_bytes - weights_bytes <= GRAPH_BYTES
