"""Puts a trainability report together: starts the children, reads what they left, judges."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from edge_runtime.protocol.bundle import Manifest
from edge_runtime.protocol.report import REPORT_HEADER
from edge_runtime.protocol.secure_sum.lanes import LANE_BITS, Lanes
from model_export.asked import Asked
from model_export.check import judging
from model_export.check.case import GRAPH, Facts, read_facts, read_manifest, read_recording
from model_export.check.children import Ended, run_module
from model_export.check.report import Exportation, Largest, Report, RuntimeReport, Timing, Verdict
from model_export.check.stock import PACKAGES, installed
from model_export.wishes import wishes_of

VERSION: Final = 1
"""Of the JSON."""

Say = Callable[[str], None]


def check(
    model: str,
    asked: Asked,
    *,
    runtimes: Sequence[str] = tuple(PACKAGES),
    steps: int = 5,
    tolerance: float = 1e-6,
    timeout_s: float = 600.0,
    say: Say = lambda _text: None,
) -> Report:
    """Export a model, train it with TensorFlow and with each interpreter, and say whether it trains on a phone.

    Args:
        model: As `model_export.load.load` takes it.
        runtimes: "litert", "tflite" or both; one that is not installed is mentioned and not held against the model.
        tolerance: Largest error, relative to the larger of 1 and TensorFlow's values.
        timeout_s: For each child process.
        say: Hears what is going on.
    """
    with tempfile.TemporaryDirectory(prefix="edgewise-check-") as name:
        folder = Path(name)
        arguments = [model, json.dumps(wishes_of(asked)), str(steps), str(folder)]
        ended = run_module("model_export.check.prepare", arguments, timeout_s, say)
        facts = Facts() if ended.sentence else read_facts(folder)
        found = []
        if not ended.sentence and not facts.refusal:
            found = [try_runtime(runtime, folder, timeout_s, say) for runtime in runtimes]
        return _judged(model, facts, ended, found, folder, steps, tolerance)


def _judged(
    model: str,
    facts: Facts,
    ended: Ended,
    runtimes: Sequence[RuntimeReport],
    folder: Path,
    steps: int,
    tolerance: float,
) -> Report:
    verdict, blamed = judging.verdict(facts, ended.sentence, runtimes, tolerance)
    exported = _exportation(folder, facts) if runtimes else None
    trains = verdict is Verdict.TRAINS
    sentence = judging.sentence(verdict, blamed, facts, ended.sentence, exported, runtimes, tolerance)
    if exported is None:
        return Report(
            version=VERSION, model=model, verdict=verdict, trains=trains, sentence=sentence, tolerance=tolerance,
            steps=steps, learning_rate=facts.learning_rate,
        )  # fmt: skip
    steps_taken = read_recording(folder).steps
    return Report(
        version=VERSION,
        model=model,
        verdict=verdict,
        trains=trains,
        sentence=sentence,
        tolerance=tolerance,
        steps=steps,
        learning_rate=facts.learning_rate,
        exportation=exported,
        reach=judging.reach(runtimes),
        energy=judging.energy(runtimes, exported.batch_size),
        runtimes=tuple(runtimes),
        warnings=judging.warnings(facts, read_manifest(folder), exported, runtimes, steps_taken, tolerance),
        carriers=judging.carriers(exported.minimum_runtime),
    )


def _exportation(folder: Path, facts: Facts) -> Exportation:
    manifest = read_manifest(folder)
    return Exportation(
        parameters=manifest.parameters,
        reported_parameters=manifest.shared_parameters,
        weights_bytes=4 * manifest.parameters,
        graph_bytes=(folder / GRAPH).stat().st_size,
        report_bytes=_report_bytes(manifest),
        operators=manifest.operators,
        operations=facts.operations,
        signatures=manifest.signatures,
        batch_size=manifest.batch_size,
        loss=manifest.loss,
        optimizer=manifest.optimizer,
        minimum_runtime=manifest.minimum_runtime,
        export_s=facts.export_s,
        exporter=manifest.exporter,
    )


def _report_bytes(manifest: Manifest) -> int:
    lanes = Lanes(bits=LANE_BITS[0], clipping_norm=1.0, max_participants=judging.GROUP)
    return REPORT_HEADER.size + lanes.packed_bytes(manifest.shared_parameters)


def try_runtime(runtime: str, folder: Path, timeout_s: float, say: Say) -> RuntimeReport:
    """Compare and measure on one interpreter, each in a process of its own."""
    package = installed().get(runtime, "")
    if not package:
        return RuntimeReport(name=runtime, package="")
    say(f"training on {package}")
    out = folder / f"{runtime}.jsonl"
    ended = run_module("model_export.check.probe", [runtime, str(folder), str(out)], timeout_s)
    lines = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
    differences = [line["difference"] for line in lines if "difference" in line]
    crashed = ""
    if ended.sentence:
        doing = [line["doing"] for line in lines if "doing" in line]
        crashed = f"{ended.sentence} in {doing[-1]}" if doing else ended.sentence
    timing = None
    if not crashed:
        say(f"measuring {package}")
        measured = run_module("model_export.check.measure", [runtime, str(folder)], timeout_s)
        crashed = f"{measured.sentence} while it was measured" if measured.sentence else ""
        timing = None if crashed else _timing(json.loads(measured.printed.splitlines()[-1]))
    return RuntimeReport(
        name=runtime,
        package=package,
        crashed=crashed,
        largest=_largest(differences),
        errors_by_step=_by_step(differences),
        timing=timing,
    )


def _timing(found: dict[str, float]) -> Timing:
    return Timing(
        step_ms=found["step_ms"],
        low_ms=found["low_ms"],
        high_ms=found["high_ms"],
        steps=int(found["steps"]),
        open_ms=found["open_ms"],
        peak_memory_bytes=int(found["peak_memory_bytes"]),
    )


def _largest(differences: Iterable[dict[str, Any]]) -> tuple[Largest, ...]:
    worst: dict[str, dict[str, Any]] = {}
    for one in differences:
        signature = one["signature"]
        if signature not in worst or _relative(one) > _relative(worst[signature]):
            worst[signature] = one
    return tuple(
        Largest(
            signature=one["signature"],
            name=one["name"],
            step=one["step"],
            error=_finite(one["error"]),
            relative=_finite(_relative(one)),
        )
        for one in worst.values()
    )


def _by_step(differences: Sequence[dict[str, Any]]) -> tuple[float | None, ...]:
    steps: dict[int, float] = {}
    for one in differences:
        if one["signature"] == "train":
            steps[one["step"]] = max(steps.get(one["step"], 0.0), _relative(one))
    return tuple(_finite(steps[step]) for step in sorted(steps))


def _relative(one: dict[str, Any]) -> float:
    return float(one["error"]) / float(one["scale"])


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
