"""The long form: every reference model and every test model, beside TensorFlow on both interpreters; long runs.

    python -m tests.model_export.nightly [--only NAME]

It prints a line for each and ends with status 1 if any is off. About ten minutes.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Iterator
from functools import partial

from model_export.spec import Exported
from model_export.zoo import ZOO
from tests.workers import WorkerDied, Workers

TOLERANCE = 1e-6
RUNTIMES = ("litert", "tflite")
LONG = ("zoo:mlp", "zoo:gru_next_word", "zoo:mobilenet", "normalized")
STEPS = 2_000
GROWTH_BYTES = 3_000_000
"""More than this after a warm-up is a leak: 2,000 steps would leave at least a tensor each."""

TEST_MODELS = (
    "convolutions", "poolings", "dense", "momentum", "adam", "soft", "binary", "squared", "huber", "own_loss",
    "normalized", "frozen_statistics", "recurrent", "attention", "adapters", "inputs", "dynamic", "module", "private",
    "mobilenet_v2",
)  # fmt: skip


def main(arguments: list[str]) -> int:
    only = arguments[1] if arguments[:1] == ["--only"] else ""
    names = [name for name in (*(f"zoo:{name}" for name in ZOO), *TEST_MODELS) if only in name]
    failed = 0
    for name in names:
        for what, check in checks(name):
            try:
                said = check()
            except (AssertionError, WorkerDied) as problem:
                failed += 1
                said = f"FAILED {problem}"
            except Exception:
                failed += 1
                said = f"FAILED {traceback.format_exc()}"
            print(f"{name:24} {what:20} {said}", flush=True)
    print(f"{failed} failed of {len(names)} models")
    return 1 if failed else 0


def checks(name: str) -> Iterator[tuple[str, Callable[[], str]]]:
    """What is checked of one model, each in fresh processes: one that dies takes no other with it."""
    workers = Workers()
    try:
        exported, recording = workers["tensorflow"].run("tests.model_export.models:case", name)
        for runtime in RUNTIMES:
            yield f"steps {runtime}", partial(_steps, workers, exported, recording, runtime)
        if name in LONG:
            for runtime in RUNTIMES:
                yield f"memory {runtime}", partial(_memory, workers, exported, runtime)
                yield f"repeated {runtime}", partial(_repeated, workers, exported, runtime)
    finally:
        workers.close()


def _steps(workers: Workers, exported: Exported, recording: object, runtime: str) -> str:
    found = workers[runtime].run("tests.edge_runtime.tasks:differences", exported, recording)
    worst = max(found, key=lambda one: one.error / one.scale)
    assert worst.within(TOLERANCE), worst
    return f"{worst.error / worst.scale:.1e} {worst.signature} {worst.name}"


def _memory(workers: Workers, exported: Exported, runtime: str) -> str:
    grown = workers[runtime].run("tests.model_export.long_runs:memory_growth_bytes", exported, STEPS)
    assert grown <= GROWTH_BYTES, f"{grown:,} bytes after {STEPS} steps"
    return f"{grown:,} bytes after {STEPS} steps"


def _repeated(workers: Workers, exported: Exported, runtime: str) -> str:
    first, again = workers[runtime].run("tests.model_export.long_runs:digests_of_two_runs", exported, 50)
    assert first == again
    return f"bit-identical, {first[:12]}…"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
