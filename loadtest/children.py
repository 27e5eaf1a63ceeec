"""Child processes that never outlive a load test, however it ends."""

from __future__ import annotations

import signal
import subprocess  # nosec B404
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType, TracebackType
from typing import IO, Self

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
GRACE_S = 8.0
"""A child that has not ended so long after SIGTERM is killed."""


class Interrupted(BaseException):
    """Somebody asked the load test to end."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number


class Children:
    """Children, and everything else to be undone at the end, last first.

    The first SIGINT, SIGTERM or SIGHUP raises `Interrupted`, but never between the start of something and the
    moment its end is arranged, nor while things are being undone. Children have their own sessions, and do not see
    a Ctrl-C.
    """

    def __init__(self) -> None:
        self.stack = ExitStack()
        self._signal = 0
        self._held = False
        self._former: dict[int, object] = {}

    def __enter__(self) -> Self:
        for number in SIGNALS:
            self._former[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._held = True
        self.stack.__exit__(kind, problem, trace)
        for number, former in self._former.items():
            signal.signal(number, former)  # type: ignore[arg-type]  # it is what signal() returned

    @contextmanager
    def held(self) -> Iterator[None]:
        """Let no signal in while something is started and its end arranged."""
        self._held = True
        try:
            yield
        finally:
            self._held = False
            if self._signal:
                raise Interrupted(self._signal)

    def start(
        self, module: str, *arguments: str, output: IO[bytes] | int, errors: Path, environment: Mapping[str, str]
    ) -> subprocess.Popen[bytes]:
        """Run a module of ours in a process of its own.

        Args:
            output: Where its stdout goes.
            errors: The file its stderr is added to.
        """
        with self.held(), errors.open("ab") as log:
            # No shell, this very interpreter, and arguments that the command line has checked.
            process = subprocess.Popen(  # nosec B603
                [sys.executable, "-m", module, *arguments],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=log,
                env=dict(environment),
                start_new_session=True,
            )
            self.stack.callback(stop, process)
        return process

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if self._signal:
            return
        self._signal = number
        if not self._held:
            raise Interrupted(number)


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a process and wait for its end; it may have ended before."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()
