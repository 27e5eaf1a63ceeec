"""Processes whose memory and time `edge` measures: `python -m tests.bench.edge_process MODE ARGUMENTS`.

* `bare FOLDER STEPS`: a loop over an interpreter and nothing else; peak memory.
* `slice SETTINGS`: one slice of the runtime, from check-in to report; peak memory.
* `idle SETTINGS`: memory after the imports, and of a runtime that is open after a visit that ended in "not now".
* `overhead FOLDER STEPS`: steps as the runtime takes them, and as the bare loop does, by turns; CPU seconds of each.

Each prints one JSON object. Bytes are of /proc/self/status: `getrusage` would count what started the process, too.
"""

from __future__ import annotations

import gc
import json
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

BATCH = 20
REPEATS = 9
NOT_AT_AN_APPS = ("click", "rich")
"""httpx loads them where they are installed, for a command of its own. An app has numpy, cryptography and httpx."""


def status_bytes(name: str) -> int:
    """A line of this process's status: "VmHWM" is the most that was ever resident, "VmRSS" what is now."""
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found.group(1)) * 1024 if found else 0


def batches(folder: Path) -> list[dict[str, Any]]:
    """The examples of `examples.f32` in batches, as a bare loop would have them: ready in memory."""
    shape = tuple(json.loads((folder / "shape.json").read_text()))
    table = np.fromfile(folder / "examples.f32", "<f4").reshape(-1, int(np.prod(shape)) + 1)
    x, y = table[:, :-1].reshape(-1, *shape), table[:, -1].astype(np.int32)
    return [
        {"x": np.ascontiguousarray(x[begin : begin + BATCH]), "y": y[begin : begin + BATCH]}
        for begin in range(0, len(x), BATCH)
    ]


def bare_loop(folder: Path, steps: int) -> Callable[[], object]:
    """The least that trains: weights in, steps, the delta out."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=(folder / "graph.tflite").read_bytes(), num_threads=1)
    train, delta = interpreter.get_signature_runner("train"), interpreter.get_signature_runner("delta")
    weights = interpreter.get_signature_runner("get_weights")()
    interpreter.get_signature_runner("set_weights")(**weights)
    del weights
    interpreter.get_signature_runner("begin_round")()
    held = batches(folder)
    mask, rate = np.ones(BATCH, np.float32), np.float32(0.01)

    def loop() -> object:
        for step in range(steps):
            train(**held[step % len(held)], mask=mask, lr=rate)
        return delta(clip=np.float32(1e9))

    return loop


def bare(folder: Path, steps: int) -> dict[str, Any]:
    bare_loop(folder, steps)()
    return {"peak_bytes": status_bytes("VmHWM")}


def one_slice(settings: Path) -> dict[str, Any]:
    from edge_runtime.agent.home import opened
    from edge_runtime.agent.settings import read_settings

    with opened(read_settings(settings)) as runtime:
        end = runtime.run_slice(600)
    return {"peak_bytes": status_bytes("VmHWM"), "happened": str(end.happened), "reason": end.reason}


def idle(settings: Path) -> dict[str, Any]:
    import edge_runtime
    import edge_runtime.driver
    import edge_runtime.work  # what an open runtime has loaded is its imports, whenever it loaded it

    for name in edge_runtime.__all__:
        getattr(edge_runtime, name)
    from edge_runtime.agent.home import opened
    from edge_runtime.agent.settings import read_settings

    gc.collect()
    imports = status_bytes("VmRSS")
    with opened(read_settings(settings)) as runtime:
        end = runtime.run_slice(600)
        gc.collect()
        return {"imports_bytes": imports, "idle_bytes": status_bytes("VmRSS"), "happened": str(end.happened)}


def overhead(folder: Path, steps: int) -> dict[str, Any]:
    limit, ours = bare_loop(folder, steps), runtimes_loop(folder, steps)
    ours()
    limit()
    seconds: dict[str, list[float]] = {"ours_s": [], "limit_s": []}
    for _ in range(REPEATS):
        for name, loop in (("ours_s", ours), ("limit_s", limit)):
            begin = time.process_time()
            loop()
            seconds[name].append(time.process_time() - begin)
    return seconds


def runtimes_loop(folder: Path, steps: int) -> Callable[[], object]:
    """What a slice does between its first and its last step: sealed examples, every check, the watch, savepoints."""
    from datetime import UTC, datetime

    from edge_runtime.conditions import Assuming
    from edge_runtime.conditions.fixed import IDEAL
    from edge_runtime.conditions.linux import LinuxSource
    from edge_runtime.example_store import Collection, open_store
    from edge_runtime.examples import Examples
    from edge_runtime.journal import open_folder
    from edge_runtime.model import open_model
    from edge_runtime.protocol.bundle import verify_bundle
    from edge_runtime.protocol.keys import PublicKey, digest
    from edge_runtime.protocol.policy import Policy
    from edge_runtime.schedule import Usage
    from edge_runtime.training import beginning, resume
    from edge_runtime.watch import Watch
    from tests.bench.training import plan_for

    raw = (folder / "bundle.ewb").read_bytes()
    bundle = verify_bundle(raw, digest(raw).hex(), PublicKey(bytes.fromhex((folder / "tenant.pub").read_text())))
    manifest, model = bundle.manifest, open_model(bundle)
    store = open_store(open_folder(folder / "store"), key=lambda: bytes(32), now_s=0.0)
    schemas = {"features": manifest.features, "labels": manifest.labels}
    limits = {"max_rows": 10_000, "max_bytes": 1 << 30, "time_to_live_s": None, "dedupe": True}
    store.declare(Collection(name="bench", **schemas, **limits))  # type: ignore[arg-type]
    for batch in batches(folder):
        store.add("bench", Examples(batch["x"], batch["y"]), 0.0)
    stored = store.batches(store.snapshot("bench", None, 0.0))
    plan = plan_for(bundle.sha256, epochs=steps * BATCH // len(stored))
    received, generator = model.get_weights(), np.random.default_rng(0)
    policy = Policy(needs_idle=False, slice_s=86_400.0, daily_seconds=86_400.0)
    source = Assuming(LinuxSource(folder), IDEAL)

    def loop() -> None:
        watch = Watch(source, policy, Usage(installed_at=0.0), datetime.now(UTC), UTC)
        begun = beginning(model, received, "0" * 32, 0, generator)
        resume(model, received, plan, stored, begun, save=lambda _progress: None, stop=watch)

    return loop


def main(mode: str, arguments: list[str]) -> None:
    for name in NOT_AT_AN_APPS:
        sys.modules[name] = None  # type: ignore[assignment]  # as if it were not installed
    path = Path(arguments[0])
    found = {
        "bare": lambda: bare(path, int(arguments[1])),
        "slice": lambda: one_slice(path),
        "idle": lambda: idle(path),
        "overhead": lambda: overhead(path, int(arguments[1])),
    }[mode]()
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
