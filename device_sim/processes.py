"""Child processes that never outlive their parent's work: started in sessions of their own, stopped by process id."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess  # nosec B404
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

STOP_PATIENCE_S = 8.0


class CommandFailed(Exception):
    """A command of ours ended with an error; the text is its last line."""


def python_module(module: str, *arguments: str) -> list[str]:
    """The command line that runs one of our command-line modules with this very Python."""
    return [sys.executable, "-m", module, *arguments]


class Stopped(CommandFailed):
    """The command is being stopped, and starts nothing any more."""


class Children:
    """The child processes of one command, started and stopped from any thread.

    After `stop_all` none runs and none can be started: a start and that moment exclude each other.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: list[subprocess.Popen[str]] = []
        self._stopped = False

    @property
    def stopped(self) -> bool:
        """Whether all are being stopped; true before the first of them sees it."""
        return self._stopped

    def run(self, command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None) -> None:
        """Run a command to its end, its output in a log file.

        Raises:
            CommandFailed: It ended with an error.
        """
        with self.started(command, log, environment) as child:
            code = child.wait()
        if code:
            raise CommandFailed(last_line(log) or f"{command[2]} ended with code {code}; see {log}")

    @contextlib.contextmanager
    def started(
        self,
        command: Sequence[str],
        log: Path,
        environment: Mapping[str, str] | None = None,
        *,
        stdout: int | None = None,
    ) -> Iterator[subprocess.Popen[str]]:
        """Start a command; it is stopped when the block ends, whatever happens.

        Args:
            log: Where its standard error goes, and its standard output unless `stdout` says otherwise.
            stdout: `subprocess.PIPE` to read its output.

        Raises:
            Stopped: Nothing is started any more.
        """
        with log.open("a") as file, self._lock:
            if self._stopped:
                raise Stopped("stopped")
            child = subprocess.Popen(  # nosec B603
                command,
                stdin=subprocess.DEVNULL,
                stdout=file if stdout is None else stdout,
                stderr=file,
                env={**os.environ, **(environment or {})},
                start_new_session=True,
                text=True,
            )
            self._running.append(child)
        try:
            yield child
        finally:
            end([child])
            if child.stdout is not None:
                child.stdout.close()
            with self._lock:
                self._running.remove(child)

    def stop_all(self) -> None:
        """Stop all of them, and let nobody start another."""
        with self._lock:
            self._stopped = True
            running = list(self._running)
        end(running)


def end(children: Sequence[subprocess.Popen[str]]) -> None:
    """Ask children to end, all at once, and kill those that do not; return when all have ended."""
    for child in children:
        child.terminate()  # nothing, if it has ended
    limit = time.monotonic() + STOP_PATIENCE_S
    for child in children:
        try:
            child.wait(max(0.0, limit - time.monotonic()))
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def last_line(log: Path) -> str:
    """The last line of a log that says something."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else ""


def free_port(wanted: int = 0) -> int:
    """A free loopback port: the wanted one, or any.

    Raises:
        CommandFailed: The wanted one is in use.
    """
    try:
        with socket.create_server(("127.0.0.1", wanted)) as probe:
            port: int = probe.getsockname()[1]
            return port
    except OSError:
        raise CommandFailed(f"port {wanted} is in use; stop what uses it, or leave --port out") from None


def wait_until_listening(port: int, child: subprocess.Popen[str], log: Path, patience_s: float = 30.0) -> None:
    """Return when a child takes connections on a loopback port.

    Raises:
        CommandFailed: It ended, or did not listen in time.
    """
    limit = time.monotonic() + patience_s
    while time.monotonic() < limit:
        if child.poll() is not None:
            raise CommandFailed(last_line(log) or "the coordinator ended at once")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.05)
    raise CommandFailed(f"nothing listens on port {port} after {patience_s:.0f} s; see {log}")
