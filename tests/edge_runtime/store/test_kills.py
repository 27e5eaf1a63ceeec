"""kill -9 at any write: nothing lost, nothing trained twice, nothing reported twice."""

from __future__ import annotations

import subprocess
import sys

from tests.workers import ROOT


def kills(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.edge_runtime.store.kills", *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_a_device_killed_at_any_write_goes_on_as_if_nothing_had_happened() -> None:
    ended = kills("--count", "40")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert int(ended.stdout.split()[0]) >= 40


def test_a_journal_that_was_written_over_would_be_found_out() -> None:
    ended = kills("--count", "40", "--in-place")
    assert ended.returncode == 1
    assert ended.stdout.startswith("broken:")
