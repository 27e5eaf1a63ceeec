"""The trainability report: every verdict and every warning has its cause, and a crash is a finding."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
from typer.testing import CliRunner

from edge_runtime.protocol.bundle import DefaultPlan, Input, Manifest, Operator, Output, Role, Schema, Tensor
from edge_runtime.protocol.keys import digest
from model_export.check import judging
from model_export.check.case import (
    Facts,
)
from model_export.check.console import WIDTH, text
from model_export.check.page import page
from model_export.check.report import (
    Concern,
    EnergyClass,
    Exportation,
    Largest,
    Reach,
    Report,
    RuntimeReport,
    Timing,
    Verdict,
)
from model_export.check.words import byte_count, error, milliseconds, percent
from model_export.cli import app
from model_export.verify import Step
from tests.workers import ROOT

TOLERANCE: Final = 1e-6

TIMING: Final = Timing(step_ms=10.0, low_ms=9.0, high_ms=12.0, steps=200, open_ms=5.0, peak_memory_bytes=60_000_000)
LITERT: Final = RuntimeReport(
    name="litert",
    package="ai-edge-litert 2.3.0",
    largest=(Largest(signature="train", name="kernel", step=1, error=2e-7, relative=2e-7),),
    errors_by_step=(1e-8, 2e-7),
    timing=TIMING,
)
TFLITE: Final = replace(LITERT, name="tflite", package="tflite-runtime 2.14.0", timing=replace(TIMING, step_ms=15.0))
FACTS: Final = Facts(export_s=2.0, operations=200, layers=("Dense",), learning_rate=0.1)
MANIFEST: Final = Manifest(
    version=2,
    name="row",
    graph_sha256=digest(b"").hex(),
    tensors=(Tensor(name="kernel", shape=(6, 3), trainable=True, role=Role.BASE),),
    slots=(),
    features=Schema(shape=(6,), dtype="float32", low=0.0, high=1.0),
    inputs=(Input(name="x", shape=(6,)),),
    labels=Schema(shape=(3,), dtype="float32", low=0.0, high=1.0),
    class_names=(),
    outputs=(Output(name="output", shape=(3,)),),
    loss="huber",
    metrics=(),
    optimizer="sgd",
    proximal=False,
    seeded=False,
    batch_size=20,
    dynamic_batch=False,
    default_plan=DefaultPlan(epochs=1, batch_size=20, learning_rate=0.1),
    signatures=("train",),
    operators=(Operator(name="ADD", version=1),),
    minimum_runtime="2.11.0",
    measured=None,
    exporter="edgewise",
)
EXPORTATION: Final = Exportation(
    parameters=18,
    reported_parameters=18,
    weights_bytes=72,
    graph_bytes=20_000,
    report_bytes=120,
    operators=MANIFEST.operators,
    operations=200,
    signatures=("train",),
    batch_size=20,
    loss="huber",
    optimizer="sgd",
    minimum_runtime="2.11.0",
    export_s=2.0,
    exporter="edgewise",
)


def timed(**changes: Any) -> RuntimeReport:
    return replace(LITERT, timing=replace(TIMING, **changes))


def off_by(relative: float | None) -> RuntimeReport:
    found = Largest(signature="train", name="kernel", step=0, error=relative, relative=relative)
    return replace(LITERT, largest=(found,), errors_by_step=(relative,))


def step_of(change: float = 0.1, noise: float = 0.0) -> Step:
    before, after = (np.full((6, 3), value, np.float32) for value in (0.0, change))
    return Step(
        inputs={}, outputs={}, before={"kernel": before}, after={"kernel": after}, slots_before={}, slots_after={},
        noise={"kernel": np.array(noise)},
    )  # fmt: skip


STEPS: Final = [step_of()]


def report_of(*runtimes: RuntimeReport, facts: Facts = FACTS, died: str = "") -> Report:
    verdict, blamed = judging.verdict(facts, died, runtimes, TOLERANCE)
    exportation = EXPORTATION if runtimes else None
    return Report(
        version=1,
        model="row.keras",
        verdict=verdict,
        trains=verdict is Verdict.TRAINS,
        sentence=judging.sentence(verdict, blamed, facts, died, exportation, runtimes, TOLERANCE),
        tolerance=TOLERANCE,
        steps=2,
        learning_rate=0.1,
        exportation=exportation,
        reach=judging.reach(runtimes),
        energy=judging.energy(runtimes, 20),
        runtimes=runtimes,
        warnings=judging.warnings(facts, MANIFEST, EXPORTATION, runtimes, STEPS, TOLERANCE) if runtimes else (),
        carriers=judging.carriers("2.11.0"),
    )


@pytest.mark.parametrize(
    ("report", "verdict", "sentence"),
    [
        (report_of(LITERT, TFLITE), Verdict.TRAINS, "Yes: on any phone whose app brings LiteRT, or TFLite 2.11.0"),
        (report_of(timed(step_ms=2_000.0)), Verdict.TRAINS, "Yes, on recent phones with 4 GB"),
        (report_of(timed(step_ms=20_000.0)), Verdict.TRAINS, "Yes in principle, but hardly any phone"),
        (report_of(facts=Facts(refusal="the operator X has no gradient")), Verdict.REFUSED, "No: it cannot be exp"),
        (report_of(died="died of SIGKILL"), Verdict.CRASHED, "No: the export died of SIGKILL."),
        (report_of(LITERT, off_by(2e-6)), Verdict.WRONG, "No: on ai-edge-litert 2.3.0, kernel after train is off by 2"),
        (report_of(off_by(None)), Verdict.WRONG, "kernel after train is not finite"),
        (
            report_of(LITERT, replace(TFLITE, crashed="died of SIGSEGV in train", timing=None)),
            Verdict.CRASHED,
            "No: tflite-runtime 2.14.0 died of SIGSEGV in train.",
        ),
        (report_of(LITERT, RuntimeReport(name="tflite", package="")), Verdict.TRAINS, "Yes: on any phone"),
    ],
)
def test_a_verdict_says_why(report: Report, verdict: Verdict, sentence: str) -> None:
    assert report.verdict is verdict
    assert report.trains == (verdict is Verdict.TRAINS)
    assert sentence in report.sentence
    assert report.sentence.endswith(".")


@pytest.mark.parametrize(
    ("step_ms", "memory", "reach"),
    [
        (500.0, 200_000_000, Reach.ANY),
        (500.1, 100_000_000, Reach.RECENT),
        (10.0, 200_000_001, Reach.RECENT),
        (5_000.0, 600_000_000, Reach.RECENT),
        (5_000.1, 1, Reach.FEW),
        (1.0, 600_000_001, Reach.FEW),
    ],
)
def test_the_slower_and_the_larger_the_fewer_phones(step_ms: float, memory: int, reach: Reach) -> None:
    assert judging.reach([timed(step_ms=step_ms, peak_memory_bytes=memory)]) is reach


@pytest.mark.parametrize(
    ("step_ms", "joules", "energy_class"),
    [
        (1.0, 0.2, EnergyClass.A),
        (27.0, 5.4, EnergyClass.A),
        (27.1, 5.42, EnergyClass.B),
        (270.1, 54.02, EnergyClass.C),
        (2_700.1, 540.02, EnergyClass.D),
        (13_500.1, 2700.02, EnergyClass.E),
    ],
)
def test_an_energy_class_is_a_share_of_a_battery(step_ms: float, joules: float, energy_class: EnergyClass) -> None:
    found = judging.energy([timed(step_ms=step_ms), TFLITE if step_ms < 15 else timed(step_ms=2 * step_ms)], 20)
    assert found is not None
    assert found.energy_class is energy_class
    assert found.joules_per_1000_examples == pytest.approx(joules)
    assert found.battery_share == pytest.approx(joules / 54_000)


CLASSES_OF_TEN: Final = replace(MANIFEST, labels=Schema(shape=(), dtype="int32", low=0, high=9))
MOVING: Final = Tensor(name="norm_moving_mean", shape=(3,), trainable=True, role=Role.BASE)


@pytest.mark.parametrize(
    ("concern", "facts", "manifest", "exportation", "runtimes", "steps"),
    [
        (Concern.LABELS_UNCHECKED, FACTS, CLASSES_OF_TEN, EXPORTATION, [LITERT], STEPS),
        (Concern.INDICES_UNCHECKED, replace(FACTS, table_rows={"user": 1}), MANIFEST, EXPORTATION, [LITERT], STEPS),
        (
            Concern.BATCH_STATISTICS,
            replace(FACTS, layers=("BatchNormalization",)),
            replace(MANIFEST, tensors=(*MANIFEST.tensors, MOVING)),
            EXPORTATION,
            [LITERT],
            STEPS,
        ),
        (Concern.LARGE_REPORT, FACTS, MANIFEST, replace(EXPORTATION, report_bytes=9_000_000), [LITERT], STEPS),
        (Concern.DROPOUT_STEPS, FACTS, replace(MANIFEST, seeded=True), EXPORTATION, [LITERT], STEPS),
        (Concern.LARGE_GRAPH, FACTS, MANIFEST, replace(EXPORTATION, operations=3_001), [LITERT], STEPS),
        (Concern.LARGE_FILE, FACTS, MANIFEST, replace(EXPORTATION, graph_bytes=500_000), [LITERT], STEPS),
        (Concern.SLOW_ON_OLD_RUNTIME, FACTS, MANIFEST, EXPORTATION, [timed(step_ms=5.0), TFLITE], STEPS),
        (Concern.SLOW_STEP, FACTS, MANIFEST, EXPORTATION, [timed(step_ms=501.0)], STEPS),
        (Concern.MUCH_MEMORY, FACTS, MANIFEST, EXPORTATION, [timed(peak_memory_bytes=201_000_000)], STEPS),
        (Concern.TENSORFLOW_DIVERGES, replace(FACTS, finite=False), MANIFEST, EXPORTATION, [LITERT], STEPS),
        (Concern.ROUNDING_MATTERS, FACTS, MANIFEST, EXPORTATION, [LITERT], [step_of(noise=2e-4)]),
        (Concern.LITTLE_CHANGE, FACTS, MANIFEST, EXPORTATION, [LITERT], [step_of(change=1e-4)]),
        (
            Concern.RUNTIME_NOT_TRIED,
            FACTS,
            MANIFEST,
            EXPORTATION,
            [LITERT, RuntimeReport(name="tflite", package="")],
            STEPS,
        ),
    ],
    ids=lambda value: value.value if isinstance(value, Concern) else "",
)
def test_a_concern_is_raised_by_its_cause_alone(
    concern: Concern,
    facts: Facts,
    manifest: Manifest,
    exportation: Exportation,
    runtimes: list[RuntimeReport],
    steps: list[Step],
) -> None:
    found = judging.warnings(facts, manifest, exportation, runtimes, steps, TOLERANCE)
    assert [one.concern for one in found] == [concern]
    assert judging.warnings(FACTS, MANIFEST, EXPORTATION, [LITERT, TFLITE], STEPS, TOLERANCE) == ()


def test_the_page_needs_nothing_but_a_browser_and_escapes_what_it_shows() -> None:
    evil = replace(report_of(LITERT, TFLITE), model="<script>alert(1)</script>")
    found = page(evil)
    assert "<script" not in found
    assert "&lt;script&gt;" in found
    assert not re.search(r'(src|href)=|url\(|@import|https?://(?!www\.w3\.org/2000/svg")', found)
    assert found.count("<svg") == 2
    assert "prefers-color-scheme: dark" in found
    assert found == page(evil)


def test_a_refusal_has_a_page_too() -> None:
    report = report_of(facts=Facts(refusal="the operator X has no gradient"))
    assert "The operator X has no gradient." in page(report)
    assert "<svg" not in page(report)
    assert text(report) == "No: it cannot be exported. The operator X has no gradient."


def test_a_page_shows_a_crash_and_an_error_that_is_not_finite() -> None:
    crashed = replace(TFLITE, crashed="died of SIGSEGV in train", timing=None)
    found = page(report_of(off_by(None), crashed))
    assert "died of SIGSEGV in train" in found
    assert "not finite" in found


def test_the_terminal_shows_every_number_and_no_long_line() -> None:
    found = text(report_of(LITERT, TFLITE))
    for fact in ("Yes: on any phone", "ADD 1", "2.0e-07", "10\N{NO-BREAK SPACE}ms", "class A", "2.11.0", "120"):
        assert fact in found, fact
    assert all(len(line) <= WIDTH + 20 for line in found.splitlines())


def test_numbers_are_written_for_people() -> None:
    space = "\N{NO-BREAK SPACE}"
    assert [byte_count(one) for one in (12, 1_234, 5_600_000, 123_456_789, 2e9)] == [
        f"12{space}B", f"1.2{space}kB", f"5.6{space}MB", f"123{space}MB", f"2.0{space}GB"
    ]  # fmt: skip
    assert [milliseconds(one) for one in (0.0123, 1.26, 12.6, 1_260, 12_600)] == [
        f"0.012{space}ms", f"1.3{space}ms", f"13{space}ms", f"1.3{space}s", f"13{space}s"
    ]  # fmt: skip
    assert [percent(one) for one in (1e-7, 0.00013, 0.042, 0.5)] == [
        f"<0.001{space}%", f"0.013{space}%", f"4.2{space}%", f"50{space}%"
    ]  # fmt: skip
    assert [error(one) for one in (None, 0.0, 1.26e-7)] == ["not finite", "0", "1.3e-07"]


OWN: Final = """
import keras
from keras import layers

def good():
    inputs = layers.Input((3,))
    return keras.Model(inputs, layers.Dense(2)(layers.Dropout(0.1)(layers.Dense(4, activation="gelu")(inputs))))

def bad():
    image = layers.Input((4, 4, 1))
    large = layers.UpSampling2D(interpolation="bicubic", name="blurred")(layers.Conv2D(2, 1)(image))
    return keras.Model(image, layers.Dense(2)(layers.Flatten()(large)))
"""


def invoked(folder: Path, *options: str) -> tuple[int, str, dict[str, Any]]:
    """Run `edgewise-export check`; status, what it printed and the JSON."""
    (folder / "own.py").write_text(OWN)
    arguments = [one.replace("own.py", str(folder / "own.py")) for one in options]
    result = CliRunner().invoke(app, ["check", *arguments, "--out", str(folder / "out")])
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result.exit_code, result.stdout, json.loads((folder / "out" / "report.json").read_text())


def test_a_good_model_is_checked_on_both_interpreters(tmp_path: Path) -> None:
    status, printed, report = invoked(tmp_path, "own.py:good", "--batch-size", "4", "--private-steps", "--steps", "3")
    assert (status, report["verdict"], report["reach"]) == (0, "trains", "any phone")
    assert [one["name"] for one in report["runtimes"]] == ["litert", "tflite"]
    for runtime in report["runtimes"]:
        assert {one["signature"] for one in runtime["largest"]} == {
            "train", "evaluate", "infer", "delta", "accumulate", "apply"
        }  # fmt: skip
        assert len(runtime["errors_by_step"]) == 3
        assert all(one["relative"] <= TOLERANCE for one in runtime["largest"])
        assert 10_000_000 < runtime["timing"]["peak_memory_bytes"] < 150_000_000
    assert {one["concern"] for one in report["warnings"]} == {"labels-unchecked", "dropout-steps"}
    assert printed.startswith("Yes: on any phone")
    assert (tmp_path / "out" / "report.html").read_text().startswith("<!DOCTYPE html>")


def test_a_model_that_cannot_be_exported_ends_with_status_1(tmp_path: Path) -> None:
    status, printed, report = invoked(tmp_path, "own.py:bad")
    assert (status, report["verdict"]) == (1, "refused")
    assert "ResizeBicubic" in report["sentence"]
    assert printed.startswith("No: it cannot be exported.")


def test_a_step_further_off_than_allowed_ends_with_status_1(tmp_path: Path) -> None:
    status, _, report = invoked(tmp_path, "own.py:good", "--tolerance", "1e-9", "--runtime", "litert", "--steps", "1")
    assert (status, report["verdict"]) == (1, "wrong")
    assert [one["name"] for one in report["runtimes"]] == ["litert"]


@pytest.mark.parametrize("options", [["mlp"], ["missing.py:model"], ["zoo:mlp", "--steps", "0"], ["zoo:mlp", "--no"]])
def test_a_wrong_command_line_ends_with_status_2(options: list[str]) -> None:
    assert CliRunner().invoke(app, ["check", *options]).exit_code == 2


def test_the_guide_tells_the_thresholds() -> None:
    guide = " ".join((ROOT / "docs" / "trainability.md").read_text().split())
    for concern in Concern:
        assert f"`{concern.value}`" in guide
    for energy_class, share in judging.CLASSES:
        assert f"| {energy_class.value} | {100 * share:g} % |" in guide
    for fact in (f"{judging.PHONE_SLOWER:g} times", f"{judging.CORE_WATTS:g} W", f"{judging.BATTERY_JOULES:,.0f} J"):
        assert fact in guide
    for longest_s, most_bytes in (judging.ANY_PHONE, judging.RECENT_PHONE):
        assert f"{longest_s:g} s and {most_bytes / 1e6:g} MB" in guide
