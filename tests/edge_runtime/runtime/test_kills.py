"""kill -9 at any write of a whole life against a real coordinator: one report, and the same weights bit for bit."""

from __future__ import annotations

import subprocess
import sys

from tests.workers import ROOT


def kills(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.edge_runtime.runtime.kills", *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_a_runtime_killed_at_any_write_ends_as_if_nothing_had_happened() -> None:
    ended = kills("--count", "20")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert int(ended.stdout.split()[0]) >= 20


def test_a_step_that_is_trained_twice_would_be_found_out() -> None:
    ended = kills("--count", "12", "--twice")
    assert ended.returncode == 1
    assert ended.stdout.startswith("broken:")
