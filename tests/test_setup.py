"""Setting up says in one line what to do when the machine lacks something."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def executable(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def set_up(folder: Path, python: str) -> subprocess.CompletedProcess[str]:
    """Run the set-up in a folder that is not ours."""
    (folder / ".ci").mkdir(exist_ok=True)
    script = shutil.copy(ROOT / ".ci" / "setup", folder / ".ci" / "setup")
    environment = {**os.environ, "PYTHON": python, "STAMP": ".venv/.ready"}
    return subprocess.run([script], capture_output=True, text=True, env=environment)


def test_a_missing_python_is_named(tmp_path: Path) -> None:
    answer = set_up(tmp_path, "python-that-is-not-here")
    assert answer.returncode == 1
    assert answer.stderr.startswith("setup: python-that-is-not-here was not found. Install Python 3.11")
    assert answer.stderr.count("\n") == 1


def test_another_python_is_named(tmp_path: Path) -> None:
    answer = set_up(tmp_path, str(executable(tmp_path / "python", "echo 3.12")))
    assert answer.returncode == 1
    assert "is Python 3.12, and Edgewise needs 3.11" in answer.stderr
    assert answer.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("pip_says", "advice"),
    [
        ("ERROR: No matching distribution found for ai-edge-litert", "A wheel is missing for this platform"),
        ("OSError: [Errno 28] No space left on device", "The disk is full: free 4 GB"),
        ("ConnectionError: Temporary failure in name resolution", "Check the network"),
    ],
)
def test_a_failed_installation_says_what_to_do(tmp_path: Path, pip_says: str, advice: str) -> None:
    pip = f'case "$*" in *pip*) echo "{pip_says}"; exit 1;; esac'
    executable(tmp_path / ".venv" / "bin" / "python", pip)
    answer = set_up(tmp_path, sys.executable)
    assert answer.returncode == 1
    last = answer.stderr.splitlines()[-1]
    assert last.startswith("setup: installing failed")
    assert advice in last
    assert not (tmp_path / ".venv" / ".ready").exists()
