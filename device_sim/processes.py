"""Child processes that never outlive their parent's work: started in sessions of their own, stopped by process id."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess  # nosec B404
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

STOP_PATIENCE_S = 8.0


class CommandFailed(Exception):
    """A command of ours ended with an error; the text is its last line."""


def python_module(module: str, *arguments: str) -> list[str]:
    """The command line that runs one of our command-line modules with this very Python."""
    return [sys.executable, "-m", module, *arguments]


def run(command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None) -> None:
    """Run a command to its end, its output in a log file.

    Raises:
        CommandFailed: It ended with an error.
    """
    with started(command, log, environment) as child:
        code = child.wait()
    if code:
        raise CommandFailed(last_line(log) or f"{command[2]} ended with code {code}; see {log}")


@contextlib.contextmanager
def started(
    command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None, *, stdout: int | None = None
) -> Iterator[subprocess.Popen[str]]:
    """Start a command; it is stopped when the block ends, whatever happens.

    Args:
        log: Where its standard error goes, and its standard output unless `stdout` says otherwise.
        stdout: `subprocess.PIPE` to read its output.
    """
    with log.open("a") as file:
        child = subprocess.Popen(  # nosec B603
            command,
            stdin=subprocess.DEVNULL,
            stdout=file if stdout is None else stdout,
            stderr=file,
            env={**os.environ, **(environment or {})},
            start_new_session=True,
            text=True,
        )
    try:
        yield child
    finally:
        stop(child)
        if child.stdout is not None:
            child.stdout.close()


def stop(child: subprocess.Popen[str]) -> None:
    """Ask a child to end, and kill it if it does not."""
    if child.poll() is not None:
        return
    child.terminate()
    try:
        child.wait(STOP_PATIENCE_S)
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


@contextlib.contextmanager
def signals_as_interrupts() -> Iterator[None]:
    """Turn SIGTERM and SIGHUP into KeyboardInterrupt, so that children are stopped on them as on Ctrl-C."""

    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


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
