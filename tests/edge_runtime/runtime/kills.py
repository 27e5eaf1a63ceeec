"""kill -9 at writes of a whole runtime's life against a real coordinator, from enrolment to a receipt.

Each life has a task of one round of its own, from the same first checkpoint. The device is killed at a write, goes on
in a new process, is killed again, and ends. However it was killed, the round must have been committed with one report
and no outcome, and to the same weights, bit for bit, as the life that was never killed.

    python -m tests.edge_runtime.runtime.kills --count 200      (0: every write there is)
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import hashlib
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC
from pathlib import Path
from typing import Any, Final

import httpx
import numpy as np
import uvicorn

import edge_runtime.driver
from coordinator.app import create_app
from edge_runtime import Collection, Floors, Happened, Installation, Network, Policy, Runtime, runs
from edge_runtime.conditions.fixed import FixedSource
from edge_runtime.journal import Progress
from edge_runtime.model import Model
from edge_runtime.protocol.bundle import encode_bundle
from edge_runtime.protocol.checkpoint import Weights, encode_checkpoint
from edge_runtime.protocol.keys import digest
from edge_runtime.protocol.plan import Plan, sign_plan
from edge_runtime.surroundings import Surroundings
from edge_runtime.testing import GRAPH, LinearEngine, linear_manifest
from edge_runtime.training import Batches, Finished, resume
from tests.edge_runtime.runtime.bench import pairs
from tests.edge_runtime.store import tracing
from tests.edge_runtime.store.kills import MEMORY, spread
from tests.edge_runtime.store.lives import Wrong, require
from tests.programme import PLAN, POPULATION, ROOTS, TENANT, TENANT_KEY, make_home, settings_in
from tests.workers import ROOT

MANIFEST: Final = linear_manifest()
BUNDLE: Final = encode_bundle(MANIFEST, GRAPH, TENANT_KEY)
SHA256: Final = digest(BUNDLE).hex()
CHECKPOINT: Final = encode_checkpoint(np.zeros(MANIFEST.parameters, np.float32), SHA256, 0, TENANT_KEY)
EXAMPLES: Final = 9
PATIENCE_S: Final = 20.0
COLLECTION: Final = Collection(
    name="pairs",
    features=MANIFEST.features,
    labels=MANIFEST.labels,
    max_rows=100,
    max_bytes=1 << 20,
    time_to_live_s=None,
    dedupe=True,
)


@dataclass(frozen=True, slots=True)
class Real:
    """A coordinator behind a socket, and its operator."""

    address: str
    operator: httpx.Client

    def call(self, method: str, path: str, **content: Any) -> Any:
        answer = self.operator.request(method, f"/v1/operator{path}", **content).raise_for_status()
        return answer.json() if answer.content else None

    def start(self, life: str) -> None:
        """A task of one round for one device, whose plan allows it one participation."""
        plan = replace(
            PLAN, version=5, bundle_sha256=SHA256, epochs=2, batch_size=4, goal=1, min_reports=1,
            expected_participants=1, most_participations=1,
        )  # fmt: skip
        raw, signature = sign_plan(plan, TENANT_KEY)
        checkpoint = self.call("POST", f"/bundles/{SHA256}/checkpoints", content=CHECKPOINT)["sha256"]
        order = {
            "name": life,
            "plan": base64.b64encode(raw).decode(),
            "plan_signature": base64.b64encode(signature).decode(),
            "checkpoint_sha256": checkpoint,
            "settings": {
                "stop": {"rounds": 1},
                "over_selection": 1.0,
                "pool_size": 1,
                "retry_rejected_s": 0.02,
                "retry_reported_s": 0.02,
            },
        }
        self.call("POST", "/tasks", json=order)
        self.call("POST", f"/tasks/{life}/approve")
        self.call("POST", f"/tasks/{life}/start")

    def result(self, life: str) -> str:
        """The weights that the task's round was committed to.

        Raises:
            Wrong: It was not, or not with one report.
        """
        limit_s = time.monotonic() + PATIENCE_S
        while (task := self.call("GET", f"/tasks/{life}"))["state"] == "active":
            require(time.monotonic() < limit_s, "the round was not committed")
            time.sleep(0.02)
        (only,) = self.call("GET", f"/tasks/{life}/rounds")
        require((only["reports"], only["outcomes"]) == (1, {}), f"{only['reports']} reports, {only['outcomes']}")
        weights: str = task["weights_sha256"]
        return weights


@contextlib.contextmanager
def coordinator(folder: Path) -> Iterator[Real]:
    """In a process of its own: this one forks, and so has a single thread."""
    token = make_home(folder)
    command = [sys.executable, "-m", "tests.edge_runtime.runtime.kills", "--serve", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        try:
            address = (process.stdout or sys.stdin).readline().strip()
            headers = {"authorization": f"Bearer {token}"}
            with httpx.Client(base_url=address, headers=headers, trust_env=False) as operator:
                real = Real(address, operator)
                real.call("PUT", f"/populations/{POPULATION}")
                real.call("PUT", f"/bundles/{SHA256}", content=BUNDLE)
                yield real
        finally:
            process.kill()


def serve(folder: Path) -> None:
    """Be the coordinator, and say where."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        print(f"http://127.0.0.1:{listening.getsockname()[1]}", flush=True)
        app = create_app(settings_in(folder).model_copy(update={"worker_interval_s": 0.02}))
        uvicorn.Server(uvicorn.Config(app, log_level="error")).run(sockets=[listening])


def live(path: Path, address: str, life: str) -> None:
    """Go on from what is on disk until a report was received; every step is saved."""
    runs.SAVE_EVERY_S = 0.0  # type: ignore[misc]

    def entropy(count: int) -> bytes:
        """The key is this life's own; all else is the same in every life."""
        return hashlib.shake_256((life if count == 32 else "").encode()).digest(count)

    with Runtime(
        path,
        Network(coordinator=address),
        Installation(TENANT, POPULATION, "app", "1.0", "linux"),
        ROOTS,
        source=FixedSource(),
        key=lambda: bytes(range(32)),
        floors=Floors(limits=Policy(first_run_delay_s=0.0, min_interval_s=0.0)),
        engine=LinearEngine(),
        surroundings=Surroundings(entropy=entropy, zone=UTC),
    ) as runtime:
        runtime.declare(COLLECTION)
        runtime.add("pairs", pairs(EXAMPLES))
        limit_s = time.monotonic() + PATIENCE_S
        while "reported" not in [visit.reason for visit in runtime.why().history]:
            end = runtime.run_slice(60)
            fine = end.happened in (Happened.WAITING, Happened.BLOCKED, Happened.REPORTED)
            require(fine and time.monotonic() < limit_s, f"a slice ended with {end.happened}: {end.reason}")
            time.sleep(min(end.come_back_s, 0.02))
        history = runtime.why().history
        require(sum(visit.times for visit in history if visit.reason == "reported") == 1, "reported twice")


def lived(real: Real, life: str, *kill_at: int) -> tuple[str, int, int]:
    """Live one life; the weights it led to, how often it was killed, and the writes of its first process.

    Raises:
        Wrong: A promise is broken.
        tracing.Failed: The life raised.
    """
    path = Path(tempfile.mkdtemp(prefix="kills-", dir=MEMORY if MEMORY.is_dir() else None))
    try:
        real.start(life)
        fates = []
        for at in (*kill_at, None):
            fates.append(tracing.run(lambda: live(path, real.address, life), at))
            if not fates[-1].killed:
                break
        return real.result(life), sum(fate.killed for fate in fates), fates[0].writes
    finally:
        shutil.rmtree(path)


def run(count: int) -> int:
    """Kill at so many points; return how many kills there were."""
    folder = Path(tempfile.mkdtemp(prefix="kills-coordinator-"))
    try:
        with coordinator(folder) as real:
            whole, _none, writes = lived(real, "life-0")
            kills = 0
            for number, at in enumerate(spread(count, writes), start=1):
                weights, killed, _writes = lived(real, f"life-{number}", at, 1 + at * 37 % writes)
                require(weights == whole, f"killed at write {at} it led to other weights")
                kills += killed
            return kills
    finally:
        shutil.rmtree(folder)


def _one_step_back(
    model: Model, received: Weights, plan: Plan, examples: Batches, progress: Progress, **more: Any
) -> Finished:
    """The mistake that this test is there to find: a step before a savepoint is taken again."""
    return resume(model, received, plan, examples, replace(progress, step=max(0, progress.step - 1)), **more)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--twice", action="store_true", help="train a step twice, to see that this is found")
    parser.add_argument("--serve", type=Path, help="be the coordinator of this folder")
    given = parser.parse_args()
    if given.serve:
        serve(given.serve)
        return 0
    if given.twice:
        runs.resume = _one_step_back  # type: ignore[attr-defined]
    try:
        kills = run(given.count)
    except (Wrong, tracing.Failed) as problem:
        print(f"broken: {problem}")
        return 1
    print(f"{kills} kills: one report each, and the same weights bit for bit")
    return 0


if __name__ == "__main__":
    assert edge_runtime.driver, "loaded before anything is forked"
    sys.exit(main())
