"""The demo as a newcomer runs it, small: real export, coordinator, fleet, report; killed, interrupted, mistaken."""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.workers import Workers

DEVICES, ROUNDS, SEED = 8, 2, 5
SMALL = (f"--devices={DEVICES}", f"--rounds={ROUNDS}", "--epochs=1", f"--seed={SEED}")
PATIENCE_S = 100


def demo(out: Path, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "device_sim", "demo", f"--out={out}", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "COLUMNS": "120"},
    )


def finished(child: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = child.communicate(timeout=PATIENCE_S)
    return child.returncode, out, err


def processes_of(out: Path, *, command: str = "") -> list[psutil.Process]:
    """Every process that was started for this demo's folder, the demo itself included; or those with this command.

    One may end between any two questions.
    """
    found = []
    for process in psutil.process_iter():
        try:
            words = process.cmdline()
            named = " ".join(words) + process.environ().get("EDGEWISE_DATA_DIR", "")
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
        if str(out) in named and (not command or command in words):
            found.append(process)
    return found


def coordinator_of(out: Path) -> psutil.Process | None:
    return next(iter(processes_of(out, command="serve")), None)


def wait_for(condition: Callable[[], Any], child: subprocess.Popen[str]) -> Any:
    pause, limit = threading.Event(), time.monotonic() + PATIENCE_S
    while time.monotonic() < limit and child.poll() is None:
        found = condition()
        if found:
            return found
        pause.wait(0.05)
    raise AssertionError("the demo ended or stalled before it got there")


def reports_held(out: Path) -> int:
    address = f"file:{out / 'coordinator' / 'coordinator.sqlite'}?mode=ro"
    try:
        with contextlib.closing(sqlite3.connect(address, uri=True)) as connection:
            return int(connection.execute("SELECT count(*) FROM reports").fetchone()[0])
    except sqlite3.Error:
        return 0


def kill_in_the_middle(out: Path, child: subprocess.Popen[str]) -> None:
    """kill -9 the coordinator while a round has some reports and not all."""
    wait_for(lambda: reports_held(out), child)
    coordinator = wait_for(lambda: coordinator_of(out), child)
    coordinator.kill()


@dataclass(frozen=True)
class Run:
    """A whole demo whose coordinator was killed in the middle."""

    folder: Path
    code: int
    out: str
    err: str

    @property
    def summary(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / "summary.json").read_text())
        return found


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("demo")
    child = demo(folder, *SMALL, "--privacy=distributed")
    kill_in_the_middle(folder, child)
    return Run(folder, *finished(child))


def test_the_demo_ends_with_a_summary_and_a_report(run: Run) -> None:
    assert (run.code, run.err) == (0, "")
    assert (run.summary["rounds"], run.summary["devices"]) == (ROUNDS, DEVICES)
    assert run.summary["reports_counted"] >= ROUNDS
    assert run.summary["bytes_up_per_report"] == 32 + 3 * (9_098 + 4)
    assert run.summary["accuracy_final"] > run.summary["accuracy_initial"]
    assert "<svg" in (run.folder / "report.html").read_text()
    assert "report.html" in run.out
    assert "accuracy, federated" in run.out
    assert f"secure, {ROUNDS} of {ROUNDS} groups" in run.out


def test_through_a_killed_coordinator_the_weights_are_those_of_plain_arithmetic(run: Run, workers: Workers) -> None:
    assert "the coordinator died (code -9); starting it again" in run.out
    expected = workers["litert"].run("tests.device_sim.oracle:final_weights_sha256", run.folder, DEVICES, ROUNDS, SEED)
    assert run.summary["final_weights_sha256"] == expected


def test_the_run_adds_noise_and_the_ledger_says_what_it_is_worth(run: Run) -> None:
    summary = run.summary
    assert (summary["privacy_mode"], summary["target_delta"]) == ("distributed", pytest.approx(DEVICES**-1.1))
    assert summary["epsilon_recipients"] == pytest.approx(summary["epsilon_coordinator"])  # of one group a round
    rho = ROUNDS / (2 * 0.25**2)  # k/2z²; rounding adds a little
    assert rho < summary["epsilon_coordinator"] < 1.2 * (rho + 2 * math.sqrt(rho * 1.1 * math.log(DEVICES)))


def test_what_the_noise_costs_is_measured_against_the_same_training_without_it(run: Run, workers: Workers) -> None:
    task = "tests.device_sim.oracle:accuracy_without_noise"
    expected = workers["litert"].run(task, run.folder, DEVICES, ROUNDS, SEED)
    assert run.summary["accuracy_without_noise"] == pytest.approx(expected, abs=0.01)


def test_another_seed_gives_other_weights(run: Run, workers: Workers) -> None:
    other = workers["litert"].run("tests.device_sim.oracle:final_weights_sha256", run.folder, DEVICES, 1, SEED + 1)
    assert run.summary["final_weights_sha256"] != other


def test_the_demo_leaves_no_process_behind(run: Run) -> None:
    assert processes_of(run.folder) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_everything(number: signal.Signals, run: Run, tmp_path: Path) -> None:
    child = demo(tmp_path, *SMALL, "--rounds=1000", f"--exported={run.folder}")
    try:
        wait_for(lambda: coordinator_of(tmp_path), child)
        child.send_signal(number)
        child.send_signal(number)  # an impatient one
        code, _out, err = finished(child)
    finally:
        child.kill()  # nothing to do unless something failed
        child.communicate()
    assert (code, err) == (130, "edgewise-sim: stopped; nothing is left running\n")
    assert processes_of(tmp_path) == []


def one_line_error(*options: str, out: Path) -> str:
    code, _out, err = finished(demo(out, *options))
    assert code == 2
    assert len(err.strip().splitlines()) == 1
    return err.strip()


def test_mistakes_are_said_in_one_line(tmp_path: Path) -> None:
    import socket

    assert "there is no dataset 'cats'; choose one of digits, watch" in one_line_error("--dataset=cats", out=tmp_path)
    assert "20" in one_line_error("--dataset=watch", "--devices=7", out=tmp_path)
    (tmp_path / "file").write_text("")
    assert "cannot be used" in one_line_error(out=tmp_path / "file" / "below")
    assert "missing.py" in one_line_error("--model=missing.py:build", out=tmp_path / "model")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"port {port} is in use" in one_line_error(f"--port={port}", out=tmp_path / "port")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--privacy=central",), "the demo has no privacy central; choose none or distributed"),
        (("--privacy=distributed", "--summing=plain"), "leave --summing plain or --privacy distributed out"),
        (("--devices=4",), "too few to sum securely"),
    ],
)
def test_what_no_plan_allows_is_refused_before_any_work(options: tuple[str, ...], says: str, tmp_path: Path) -> None:
    assert says in one_line_error(*options, out=tmp_path / "untouched")
    assert not (tmp_path / "untouched").exists()


def test_a_full_disk_is_said_before_anything_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil
    from collections import namedtuple

    from device_sim.demo import run_demo
    from device_sim.processes import Children, CommandFailed
    from device_sim.recipes import DemoOptions
    from device_sim.watching import Watcher

    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage(1 << 40, 1 << 40, 3 << 20))
    options = DemoOptions(
        dataset="digits", model="zoo:mlp", rounds=1, devices=10, seed=1, port=0, out=tmp_path / "full"
    )
    with pytest.raises(CommandFailed, match="the disk has 3 MB free"):
        run_demo(options, Watcher(), Children())
