"""Exported models: a step on both interpreters beside TensorFlow's graph mode, by turns; memory; the export itself."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.bench.measure import Row

ROUNDS: Final = 12
STEPS: Final = 5
"""In each turn of a process."""

BOUNDS: Final[Mapping[str, tuple[str, float, float]]] = {
    "mlp": ("mlp", 0.6, 1.0),
    "femnist_cnn_small": ("femnist_cnn", 1.5, 2.0),
    "femnist_cnn": ("femnist_cnn_2048", 1.4, 1.8),
    "mobilenet": ("mobilenet", 1.4, 1.9),
    "gru_next_word": ("gru", 1.0, 1.5),
    "transformer": ("transformer", 0.9, 1.3),
}
"""By zoo name: the row's name, and the ratio that each interpreter must reach (ai-edge-litert, tflite-runtime)."""

LARGEST_S: Final = 60.0
MEMORY_BOUND: Final = 0.15


@dataclass(slots=True)
class Stepper:
    """A process that takes steps, and what it said."""

    process: subprocess.Popen[str]
    cpu_s: list[float] = field(default_factory=list)
    peak_bytes: int = 0

    def turn(self) -> None:
        if self.process.stdin is None or self.process.stdout is None:
            raise RuntimeError("the process has no pipes")
        self.process.stdin.write(f"{STEPS}\n")
        self.process.stdin.flush()
        said = json.loads(self.process.stdout.readline())
        self.cpu_s.extend(said["cpu_s"])
        self.peak_bytes = said["peak_bytes"]

    @property
    def median_ms(self) -> float:
        return statistics.median(self.cpu_s) * 1e3

    def close(self) -> None:
        if self.process.stdin is not None:
            self.process.stdin.close()
        self.process.wait()


def rows(folder: Path) -> list[Row]:
    found: list[Row] = []
    memory: list[tuple[int, int]] = []
    seconds: dict[str, float] = {}
    for name in BOUNDS:
        home = folder / name
        home.mkdir()
        subprocess.run([*_command("export", home)], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        seconds[name] = json.loads((home / "facts.json").read_text())["seconds"]
        steppers = {runtime: _started(runtime, home) for runtime in ("tensorflow", "litert", "tflite")}
        for _ in range(ROUNDS):
            for stepper in steppers.values():
                stepper.turn()
        for stepper in steppers.values():
            stepper.close()
        found.extend(_step_rows(name, steppers))
        memory.append((steppers["litert"].peak_bytes, steppers["tensorflow"].peak_bytes))
        if name == "femnist_cnn":
            found.append(_memory_row("export.memory.2048", *memory.pop(), what="FEMNIST CNN with dense 2048"))
    found.append(_memory_row("export.memory", *max(memory, key=_share), what="the largest share of these models"))
    largest = max(seconds, key=seconds.__getitem__)
    found.append(_largest_row(largest, seconds[largest]))
    return found


def _share(pair: tuple[int, int]) -> float:
    ours, limit = pair
    return ours / limit


def _step_rows(name: str, steppers: Mapping[str, Stepper]) -> list[Row]:
    row, *bounds = BOUNDS[name]
    limit = steppers["tensorflow"].median_ms
    found = []
    for (runtime, suffix, package), bound in zip(
        (("litert", "", "ai-edge-litert"), ("tflite", ".tflite", "tflite-runtime 2.14")), bounds, strict=True
    ):
        ours = steppers[runtime].median_ms
        found.append(
            Row(
                id=f"export.step.{row}{suffix}",
                ours=round(ours, 3),
                limit=round(limit, 3),
                ratio=round(ours / limit, 3),
                bound=float(bound),
                unit="ms CPU",
                how=f"one step of zoo:{name} on {package}, batch 20, one thread; limit: TensorFlow's graph mode",
            )
        )
    return found


def _memory_row(id_: str, ours: int, limit: int, what: str) -> Row:
    return Row(
        id=id_,
        ours=round(ours / 1e6, 1),
        limit=round(limit / 1e6, 1),
        ratio=round(ours / limit, 3),
        bound=MEMORY_BOUND,
        unit="MB",
        how=f"peak resident memory of a process that trains on ai-edge-litert: {what}; limit: TensorFlow's process",
    )


def _largest_row(name: str, seconds: float) -> Row:
    return Row(
        id="export.largest",
        ours=round(seconds, 2),
        limit=LARGEST_S,
        ratio=round(seconds / LARGEST_S, 3),
        bound=1.0,
        unit="s",
        how=f"export of zoo:{name}, the slowest of these; limit: a minute",
    )


def _command(runtime: str, home: Path) -> list[str]:
    return [sys.executable, "-m", "tests.bench.stepping", runtime, str(home)]


def _started(runtime: str, home: Path) -> Stepper:
    return Stepper(
        subprocess.Popen(
            _command(runtime, home),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
    )
