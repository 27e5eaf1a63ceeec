"""Child processes that never outlive a load test, however it ends."""

from __future__ import annotations

import signal
import subprocess  # nosec B404
import sys
from collections.abc import Mapping
from contextlib import ExitStack
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

    At the first SIGINT, SIGTERM or SIGHUP children are told to end, which is what the load test waits for; nothing is
    raised in the middle of anything. `Interrupted` is raised before the next child starts, or when all is undone.
    Children have their own sessions, and do not see a Ctrl-C.
    """

    def __init__(self) -> None:
        self.stack = ExitStack()
        self._signal = 0
        self._started: list[subprocess.Popen[bytes]] = []
        self._former: dict[int, object] = {}

    def __enter__(self) -> Self:
        for number in SIGNALS:
            self._former[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stack.__exit__(kind, problem, trace)
        for number, former in self._former.items():
            signal.signal(number, former)  # type: ignore[arg-type]  # it is what signal() returned
        if not isinstance(problem, Interrupted):
            self.check()  # whatever failed, failed because of that

    def check(self) -> None:
        """Return if nobody asked the load test to end.

        Raises:
            Interrupted: Somebody did.
        """
        if self._signal:
            raise Interrupted(self._signal)

    def start(
        self, module: str, *arguments: str, output: IO[bytes] | int, errors: Path, environment: Mapping[str, str]
    ) -> subprocess.Popen[bytes]:
        """Run a module of ours in a process of its own.

        Args:
            output: Where its stdout goes.
            errors: The file its stderr is added to.

        Raises:
            Interrupted: Somebody asked the load test to end.
        """
        self.check()
        with errors.open("ab") as log:
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
        self._started.append(process)
        return process

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if self._signal:
            return
        self._signal = number
        for process in self._started:
            process.terminate()  # harmless where it has ended


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
