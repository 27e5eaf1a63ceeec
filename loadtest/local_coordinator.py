"""A coordinator of the load test's own: made in a temporary folder, served on loopback, stopped with the run."""

from __future__ import annotations

import os
import re
import socket
import subprocess  # nosec B404
import tempfile
import time
from pathlib import Path
from typing import Final

from edge_runtime.protocol.keys import PublicKey, SigningKey
from loadtest.children import Children
from loadtest.problems import SetUpError
from loadtest.programme import Target

TENANT: Final = "loadtest"
START_S: Final = 60.0
_LISTENING: Final = re.compile(r"listening on (http://\S+)")
_KEY: Final = re.compile(r"coordinator key\s+([0-9a-f]{64})")


def start_coordinator(children: Children, port: int, log: Path) -> tuple[Target, int]:
    """Make and serve a coordinator; where it listens, and its process id.

    Args:
        port: Of 127.0.0.1; 0 for any free one.
        log: The file its messages are added to.

    Raises:
        SetUpError: It did not start; the sentence is its own.
    """
    _check_port(port)
    folder = Path(children.stack.enter_context(tempfile.TemporaryDirectory(prefix="edgewise-loadtest-")))
    tenant_key = SigningKey(os.urandom(32))
    home = folder / "home"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("EDGEWISE_")}
    environment |= {"EDGEWISE_DATA_DIR": str(home), "PYTHONUNBUFFERED": "1"}
    said = _Said(children, folder, log, environment)
    init, words = said.start("init", "--tenant", TENANT, "--tenant-key", tenant_key.public.raw.hex())
    key = said.wait(init, words, _KEY)
    try:
        init.wait(START_S)
    except subprocess.TimeoutExpired:
        raise SetUpError("`edgewise-coordinator init` does not end") from None
    serving, words = said.start("serve", "--host", "127.0.0.1", "--port", str(port))
    url = said.wait(serving, words, _LISTENING)
    token = (home / "operator.token").read_text().strip()
    return Target(url, TENANT, token, tenant_key, PublicKey(bytes.fromhex(key))), serving.pid


def _check_port(port: int) -> None:
    """Say at once that a port is taken, before a coordinator is made for nothing."""
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        raise SetUpError(f"port {port} is in use; stop what uses it, or choose another with --port (0: any)") from None


class _Said:
    """Starts coordinator commands and listens to what they say."""

    def __init__(self, children: Children, folder: Path, log: Path, environment: dict[str, str]) -> None:
        self._children = children
        self._folder = folder
        self._log = log
        self._environment = environment

    def start(self, command: str, *arguments: str) -> tuple[subprocess.Popen[bytes], Path]:
        words = self._folder / f"{command}.out"
        with words.open("wb") as output:
            process = self._children.start(
                "coordinator.cli",
                command,
                *arguments,
                output=output,
                errors=self._log,
                environment=self._environment,
            )
        return process, words

    def wait(self, process: subprocess.Popen[bytes], words: Path, pattern: re.Pattern[str]) -> str:
        """Wait until a command has said something; the part in brackets.

        Raises:
            SetUpError: It ended, or took too long.
            Interrupted: Somebody asked the load test to end.
        """
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            self._children.check()
            ended = process.poll() is not None
            if found := pattern.search(words.read_text()):
                return found[1]
            if ended:
                raise SetUpError(f"the coordinator did not start: {_last_line(self._log)}")
            time.sleep(0.02)
        raise SetUpError(f"the coordinator did not start within {START_S:.0f} s; see {self._log}")


def _last_line(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1].removeprefix("edgewise-coordinator: ") if lines else "it said nothing"


def cpu_seconds(pid: int) -> float | None:
    """Processor seconds that a running process has used; None where the system does not say."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return (int(fields[11]) + int(fields[12])) / float(os.sysconf("SC_CLK_TCK"))
