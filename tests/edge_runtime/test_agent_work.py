"""`edgewise-device run` as a process: it trains a real model, ends when it is told to, and goes on where it was."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

import httpx
import numpy as np
import pytest

from edge_runtime.journal import Phase, State, peek
from edge_runtime.protocol.keys import digest
from edge_runtime.protocol.plan import sign_plan
from edge_runtime.session import Request, Response
from edge_runtime.testing import FakeCoordinator
from tests.edge_runtime.served import served
from tests.edge_runtime.serving import RealModel, real_model, write_settings
from tests.exports import CLASSES, INPUT_SHAPE, TENANT_KEY
from tests.programme import PLAN, replace

if TYPE_CHECKING:
    from model_export.spec import Exported

BIN: Final = Path(sys.executable).parent
LABELS: Final = f'{{ dtype = "int32", low = 0, high = {CLASSES - 1} }}'
ENDS_WITHIN_S: Final = 2.0
LOADED_MACHINE_S: Final = 1.0
"""For processes that start and end on two shared cores."""


def device(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([BIN / "edgewise-device", *arguments], capture_output=True, text=True, timeout=60)


def printed(*arguments: str | Path) -> str:
    ended = device(*arguments)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@contextlib.contextmanager
def started(*arguments: str | Path) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [BIN / "edgewise-device", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def ended_by(number: signal.Signals, process: subprocess.Popen[str]) -> list[str]:
    """Send a signal; the lines that were printed. The process must end well, and in time."""
    begin = time.monotonic()
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert time.monotonic() - begin < ENDS_WITHIN_S + LOADED_MACHINE_S
    assert process.returncode == 0, err
    return out.splitlines()


def until(holds: Callable[[], bool]) -> None:
    """Look again and again, for at most 30 s."""
    limit = time.monotonic() + 30
    pause = threading.Event()
    while not holds():
        assert time.monotonic() < limit
        pause.wait(0.01)


def examples_file(folder: Path, count: int) -> Path:
    rng = np.random.default_rng(0)
    table = np.column_stack([rng.random((count, 64), np.float32), rng.integers(0, CLASSES, count)])
    (folder / "examples.f32").write_bytes(table.astype("<f4").tobytes())
    return folder / "examples.f32"


def state_of(config: Path) -> State:
    return peek(config.parent / "phone", key=None) or State()


@pytest.fixture
def coordinator(exported: Callable[[str], Exported]) -> RealModel:
    made = exported("mlp")
    return real_model(made.bundle, made.checkpoint, TENANT_KEY.public)


class TestAgainstACoordinator:
    @pytest.fixture
    def home(self, tmp_path: Path) -> Iterator[tuple[str, str, str]]:
        """A coordinator in a process of its own: address, key, operator token."""
        quiet = {name: value for name, value in os.environ.items() if not name.startswith("EDGEWISE_")}
        env = {**quiet, "EDGEWISE_DATA_DIR": str(tmp_path / "home")}
        program = str(BIN / "edgewise-coordinator")
        init = [program, "init", "--tenant", "acme", "--tenant-key", TENANT_KEY.public.raw.hex()]
        said = subprocess.run(init, env=env, capture_output=True, text=True, check=True).stdout
        serve = [program, "serve", "--port", "0"]
        with subprocess.Popen(serve, env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
            assert process.stdout is not None
            address = process.stdout.readline().split()[-1]
            key = re.findall("[0-9a-f]{64}", said)[0]
            yield address, key, (tmp_path / "home" / "operator.token").read_text()
            process.kill()

    def test_a_device_enrols_learns_and_is_counted(
        self, tmp_path: Path, home: tuple[str, str, str], exported: Callable[[str], Exported]
    ) -> None:
        address, key, token = home
        made = exported("mlp")
        sha256 = digest(made.bundle).hex()
        plan = replace(
            PLAN, bundle_sha256=sha256, batch_size=5, goal=1, min_reports=1, expected_participants=1, max_participants=1
        )
        raw, signature = sign_plan(plan, TENANT_KEY)
        operator = httpx.Client(base_url=address, headers={"authorization": f"Bearer {token}"}, trust_env=False)
        with operator:
            operator.put("/v1/operator/populations/keyboard").raise_for_status()
            operator.put(f"/v1/operator/bundles/{sha256}", content=made.bundle).raise_for_status()
            path = f"/v1/operator/bundles/{sha256}/checkpoints"
            first = operator.post(path, content=made.checkpoint).raise_for_status().json()["sha256"]
            order = {
                "name": "words",
                "plan": base64.b64encode(raw).decode(),
                "plan_signature": base64.b64encode(signature).decode(),
                "checkpoint_sha256": first,
                "settings": {"stop": {"rounds": 1}, "pool_size": 1, "over_selection": 1.0},
            }
            operator.post("/v1/operator/tasks", json=order).raise_for_status()
            operator.post("/v1/operator/tasks/words/approve").raise_for_status()
            operator.post("/v1/operator/tasks/words/start").raise_for_status()
            facts = {"tenant_key": TENANT_KEY.public.raw.hex(), "coordinator_key": key}
            config = write_settings(tmp_path, address, shape=INPUT_SHAPE, labels=LABELS, **facts)
            assert "enrolled as" in printed("enrol", "--config", config)
            assert "20 of 20 added" in printed("examples", "add", examples_file(tmp_path, 20), "--config", config)
            slice_ = json.loads(printed("run", "--once", "--json", "--config", config).splitlines()[-1])
            while slice_["happened"] == "waiting":
                slice_ = json.loads(printed("run", "--once", "--json", "--config", config).splitlines()[-1])
            assert (slice_["happened"], slice_["round"]) == ("reported", 1)
            until(lambda: operator.get("/v1/operator/tasks/words").json()["rounds_committed"] == 1)
        why = json.loads(printed("why", "--json", "--config", config))
        assert (why["history"][-1]["reason"], why["examples"], why["phase"]) == ("reported", 20, None)
        (tmp_path / "x.csv").write_text(",".join(["0.5"] * 64) + "\n")
        outputs = json.loads(printed("infer", tmp_path / "x.csv", "--fetch", "--config", config))
        assert len(outputs["probabilities"]) == CLASSES


class TestBeingStopped:
    def test_in_the_middle_of_training_leaves_a_savepoint_from_which_the_next_slice_goes_on(
        self, tmp_path: Path, coordinator: RealModel
    ) -> None:
        coordinator.assign(epochs=500, batch_size=5)
        with served(coordinator) as address:
            config = write_settings(tmp_path, address, shape=INPUT_SHAPE, labels=LABELS)
            printed("examples", "add", examples_file(tmp_path, 100), "--config", config)
            with started("run", "--json", "--config", config) as process:
                until(lambda: (held := state_of(config).participation) is not None and held.phase is Phase.TRAINING)
                *_before, last, stopped = map(json.loads, ended_by(signal.SIGTERM, process))
            assert (last["happened"], last["reason"], last["work_left"]) == ("interrupted", "system-stopped", True)
            assert stopped["text"] == "stopped"
            held = state_of(config).participation
            assert held is not None
            assert held.savepoint is not None
            assert held.savepoint.epoch * 20 + held.savepoint.step < 500 * 20, "it may not have got to the first step"
            assert not coordinator.reports
            assert "reported" in printed("run", "--once", "--quiet", "--config", config)
        assert len(coordinator.reports) == 1
        assert [path for _method, path in coordinator.asked].count("/v1/device/check-in") == 1

    def test_while_a_server_says_nothing_does_not_wait_for_it(self, tmp_path: Path) -> None:
        coordinator, silence, asked = FakeCoordinator(), threading.Event(), threading.Event()

        def silent(request: Request, headers: dict[str, str]) -> Response:
            if request.path.endswith("check-in"):
                asked.set()
                silence.wait(30)
            return coordinator(request, headers)

        with served(silent) as address:
            config = write_settings(tmp_path, address)
            with started("run", "--config", config) as process:
                assert asked.wait(30)
                lines = ended_by(signal.SIGTERM, process)
            silence.set()
        assert "interrupted: system-stopped" in lines[-2]
        assert state_of(config).asking is not None

    def test_while_it_sleeps_is_at_once_and_meanwhile_other_commands_have_the_folder(self, tmp_path: Path) -> None:
        coordinator = FakeCoordinator()
        with served(coordinator) as address:
            config = write_settings(tmp_path, address)
            with started("run", "--quiet", "--config", config) as process:
                assert process.stdout is not None
                assert "waiting: no-task; come back in 15 min" in process.stdout.readline()
                (tmp_path / "examples.csv").write_text("1,2,3,4\n")
                printed("examples", "add", tmp_path / "examples.csv", "--config", config)
                second = device("run", "--once", "--config", config)
                assert second.returncode == 2
                assert second.stderr.strip() == (
                    "edgewise-device: another `edgewise-device run` works on this folder (state-in-use)"
                )
                assert ended_by(signal.SIGINT, process) == []
