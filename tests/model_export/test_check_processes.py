"""Between the processes of a check: a child that dies is a sentence, and what is written is read as it was."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model_export.asked import Asked
from model_export.check.case import (
    read_facts,
    read_first_inputs,
    read_manifest,
    read_recording,
    write_case,
    write_facts,
)
from model_export.check.checking import try_runtime
from model_export.check.children import run
from model_export.spec import Adam, Loss, Metric, Sgd, Storage
from model_export.verify import Answer, PrivateStep, Recording, Step
from model_export.wishes import asked_from, wishes_of
from tests.model_export.test_check import FACTS, MANIFEST


@pytest.mark.parametrize(
    ("program", "sentence"),
    [
        ("print('done')", ""),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "died of SIGSEGV"),
        ("import os; os.abort()", "died of SIGABRT"),
        ("raise ValueError('no luck')", "failed: ValueError: no luck"),
        ("import os; os._exit(3)", "ended with status 3"),
        ("import threading; threading.Event().wait()", "did not end within 0.5 s"),
    ],
)
def test_a_child_that_dies_or_hangs_is_a_sentence(program: str, sentence: str) -> None:
    timeout_s = 0.5 if "within" in sentence else 60.0
    heard: list[str] = []
    ended = run([sys.executable, "-c", program], timeout_s, heard.append)
    assert ended.sentence == sentence
    assert heard == (["done"] if not sentence else [])


def arrays(*names: str) -> dict[str, Any]:
    return {name: np.random.default_rng(len(name)).normal(size=(2, 3)).astype(np.float32) for name in names}


def recording() -> Recording:
    step = Step(
        inputs=arrays("x", "y", "mask"),
        outputs=arrays("loss"),
        before=arrays("kernel"),
        after=arrays("kernel", "b"),
        slots_before={},
        slots_after=arrays("momentum_kernel"),
        noise={"kernel": np.array(0.5)},
    )
    private = PrivateStep((arrays("x", "y"), arrays("x")), (0.5, 2.0), arrays("lr"), arrays("kernel"), arrays("kernel"))
    return Recording((step,) * 11, (Answer("infer", arrays("x"), arrays("output")),), private)


def test_a_recording_is_read_as_it_was_written(tmp_path: Path) -> None:
    written = recording()
    write_case(tmp_path, b"graph", MANIFEST, written)
    found = read_recording(tmp_path)
    np.testing.assert_equal(asdict(found), asdict(written))
    np.testing.assert_equal(read_first_inputs(tmp_path), written.steps[0].inputs)
    assert read_manifest(tmp_path) == MANIFEST
    facts = replace(FACTS, table_rows={"user": 3}, finite=False)
    write_facts(tmp_path, facts)
    assert read_facts(tmp_path) == facts


@pytest.mark.parametrize("optimizer", [None, Sgd(), Sgd(momentum=0.5), Adam(beta_1=0.8)])
def test_wishes_survive_the_way_to_another_process(optimizer: Sgd | Adam | None) -> None:
    asked = Asked(
        name="a", input_shape=(2, 3), classes=4, class_names=("a", "b"), loss=Loss.HUBER, metrics=(Metric.CORRECT,),
        storage=Storage.INT8, trainable=("*",), proximal=False, labels_shape=(), optimizer=optimizer,
    )  # fmt: skip
    assert asked_from(json.loads(json.dumps(wishes_of(asked)))) == asked
    assert asked_from(json.loads(json.dumps(wishes_of(Asked())))) == Asked()


@pytest.mark.parametrize("runtime", ["litert", "tflite"])
def test_a_graph_that_no_interpreter_loads_is_a_finding(tmp_path: Path, runtime: str) -> None:
    write_case(tmp_path, b"no graph at all", MANIFEST, recording())
    found = try_runtime(runtime, tmp_path, 60.0, lambda _text: None)
    assert found.crashed.endswith("in loading the graph")
    assert found.timing is None
