"""The command as its users meet it: real processes, real sockets on loopback, a verdict, and nothing left behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from typer.testing import CliRunner

from loadtest.cli import app, require_installed
from loadtest.kinds import Kind
from loadtest.problems import SetUpError

QUICK = ("--phones", "6", "--parameters", "1000", "--speed-up", "4500")


@dataclass
class Running:
    """A load test in a process of its own, with its own folder for temporary files."""

    process: subprocess.Popen[str]
    out: Path
    temporary: Path

    def until(self, words: str) -> None:
        """Read what it says until these words."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if words in line:
                return
        pytest.fail(f"the load test never said {words!r}")

    def alive(self) -> int:
        """How many processes of this run are there: its folder is in the environment of each."""
        return sum(_environment(process).get("TMPDIR") == str(self.temporary) for process in psutil.process_iter())

    def end(self) -> tuple[int, str, str]:
        """Exit code, stdout, stderr."""
        said, complained = self.process.communicate(timeout=60)
        return self.process.returncode, said, complained


def _environment(process: psutil.Process) -> dict[str, str]:
    try:
        found: dict[str, str] = process.environ()
    except psutil.Error:  # it has ended, or is somebody else's
        return {}
    return found


def start(folder: Path, *options: str) -> Running:
    temporary = folder / "temporary"
    temporary.mkdir(parents=True)
    out = folder / "out"
    process = subprocess.Popen(
        [sys.executable, "-m", "loadtest.cli", "run", *QUICK, *options, "--out", str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(temporary), "PYTHONUNBUFFERED": "1"},
    )
    return Running(process, out, temporary)


@pytest.fixture(scope="module", autouse=True)
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Running, Running]]:
    """A run within its limits and one whose limits nobody could keep; they run beside the other tests."""
    folder = tmp_path_factory.mktemp("runs")
    good = start(folder / "good", "--seconds", "3", "--min-rounds", "1", "--max-check-in-p95-ms", "5000")
    bad = start(folder / "bad", "--seconds", "1", "--min-rounds", "99999")
    try:
        yield good, bad
    finally:
        for running in (good, bad):
            running.process.terminate()  # does nothing to one that has ended
            running.process.wait(timeout=30)
            for pipe in (running.process.stdout, running.process.stderr):
                if pipe is not None:
                    pipe.close()


def one_line(*options: str) -> str:
    """Run the command in this process, where it must not come as far as a swarm; its one line of complaint."""
    result = CliRunner().invoke(app, ["run", *options])
    assert result.exit_code == 2
    assert result.stderr.startswith("edgewise-loadtest: ")
    assert result.stderr.count("\n") == 1
    return result.stderr


def test_a_port_in_use_is_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"port {port} is in use" in one_line("--port", str(port), "--out", str(tmp_path / "out"))


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "cannot be written" in one_line("--out", str(tmp_path / "file"))


def test_locust_that_is_missing_is_named_with_the_command_that_helps() -> None:
    with pytest.raises(SetUpError, match=r"no_such_package is not installed; run: pip install 'edgewise\[loadtest\]'"):
        require_installed("no_such_package")


def aimed(folder: Path, url: str, key: str = "11" * 32, public: str = "22" * 32) -> tuple[str, ...]:
    (folder / "key").write_text(key)
    (folder / "token").write_text("ewop_none")
    files = ("--operator-token-file", str(folder / "token"), "--tenant-key", str(folder / "key"))
    return ("--coordinator", url, "--tenant", "acme", *files, "--coordinator-key", public, "--out", str(folder / "out"))


def test_aiming_at_nothing_is_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    assert f"no coordinator answers at http://127.0.0.1:{port}" in one_line(
        *aimed(tmp_path, f"http://127.0.0.1:{port}")
    )


def test_aiming_without_what_opens_the_coordinator_is_one_line(tmp_path: Path) -> None:
    assert "--coordinator needs" in one_line("--coordinator", "http://127.0.0.1:1")
    assert "http or https" in one_line(*aimed(tmp_path, "ftp://127.0.0.1"))
    assert "64 hex digits" in one_line(*aimed(tmp_path, "http://127.0.0.1:1", public="zz"))


def test_a_wrong_key_file_is_one_line_that_does_not_show_it(tmp_path: Path) -> None:
    line = one_line(*aimed(tmp_path, "http://127.0.0.1:1", key="secret words"))
    assert "64 hex digits" in line
    assert "secret" not in line


def test_the_help_teaches() -> None:
    result = CliRunner().invoke(app, ["run", "--help"], env={"COLUMNS": "200", "TERM": "dumb"})
    assert result.exit_code == 0
    codes = "Exit code: 0 when every check passed, 1 when one failed, 2 when the test could not run."
    assert codes in " ".join(result.stdout.split())


def test_the_command_line_never_imports_locust() -> None:
    code = "import sys, loadtest.cli; print([name for name in ('locust', 'gevent') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


def test_an_interrupted_run_leaves_nothing_behind(tmp_path: Path) -> None:
    running = start(tmp_path, "--seconds", "60")
    running.until("requests")
    assert running.alive() == 3  # the command, its coordinator, its swarm
    running.process.send_signal(signal.SIGTERM)
    code, _said, complained = running.end()
    assert code == 128 + signal.SIGTERM
    assert complained == "edgewise-loadtest: ended by SIGTERM; everything it started is stopped\n"
    assert running.alive() == 0
    assert list(tmp_path.joinpath("temporary").iterdir()) == []
    assert not (running.out / "verdict.json").exists()


def test_limits_that_cannot_be_kept_end_with_1_and_name_the_checks(both: tuple[Running, Running]) -> None:
    bad = both[1]
    code, said, _complained = bad.end()
    assert code == 1
    verdict = json.loads((bad.out / "verdict.json").read_text())
    failed = [check["name"] for check in verdict["checks"] if not check["passed"]]
    assert "rounds-committed" in failed
    assert verdict["passed"] is False
    assert "FAILED rounds-committed: " in said
    assert list(bad.temporary.iterdir()) == []


def test_a_short_swarm_passes_and_leaves_nothing_behind(both: tuple[Running, Running]) -> None:
    good = both[0]
    code, said, complained = good.end()
    assert (code, complained) == (0, "")
    verdict = json.loads((good.out / "verdict.json").read_text())
    assert set(verdict) == {"passed", "checks"}
    assert verdict["passed"] is True
    assert all(
        set(check) == {"name", "passed", "measured", "bound", "limit", "unit", "sentence"} and check["passed"]
        for check in verdict["checks"]
    )
    assert said.rstrip().endswith(str(good.out / "verdict.json"))
    assert good.alive() == 0
    assert list(good.temporary.iterdir()) == []


def test_every_kind_of_request_was_sent_and_each_has_its_own_line(both: tuple[Running, Running]) -> None:
    good = both[0]
    good.process.wait(timeout=60)
    swarm = json.loads((good.out / "statistics.json").read_text())["swarm"]
    sent = {row["kind"]: row["requests"] for row in swarm["requests"]}
    assert list(sent) == list(Kind)
    assert all(sent[kind] > 0 for kind in (Kind.ENROL, Kind.HELD_CHECK_IN, Kind.BUNDLE, Kind.CHECKPOINT, Kind.REPORT))
    assert sent[Kind.ENROL] == 6
    assert swarm["receipts"] > 0
    assert (good.out / "locust.html").is_file()
    assert (good.out / "requests.csv").read_text().startswith("Type,Name")
