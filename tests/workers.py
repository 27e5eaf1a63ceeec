"""Long-lived worker processes, so that pytest itself never loads TensorFlow or an interpreter.

TensorFlow imported before tflite-runtime kills the process, and either makes pytest slow: each lives alone, in one
process for the whole session, and runs ``module:function`` with arguments and results that can be pickled.
"""

from __future__ import annotations

import importlib
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import IO, Any, Final

ROOT: Final = Path(__file__).resolve().parent.parent

RUNTIMES: Final[Mapping[str, str]] = {
    "tensorflow": "tensorflow",
    "litert": "ai_edge_litert.interpreter",
    "tflite": "tflite_runtime.interpreter",
}
"""What each worker imports before its first task."""


class WorkerDied(Exception):
    """A worker ended without an answer; the message holds the end of what it printed."""


class Worker:
    """One process with one runtime. Not for several threads at once."""

    def __init__(self, runtime: str) -> None:
        self.runtime = runtime
        tasks_there, tasks_here = os.pipe()
        answers_here, answers_there = os.pipe()
        self._printed: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 (closed by `close`)
        command = [sys.executable, "-m", "tests.workers", runtime, str(tasks_there), str(answers_there)]
        # oneDNN's convolution with a constant filter and a stride, over an image of height 1, writes beyond its memory.
        plain = {"TF_ENABLE_ONEDNN_OPTS": "0", "CUDA_VISIBLE_DEVICES": "-1"}
        quiet = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **plain}
        self._process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=quiet,
            pass_fds=(tasks_there, answers_there),
            stdin=subprocess.DEVNULL,
            stdout=self._printed,
            stderr=self._printed,
        )
        os.close(tasks_there)
        os.close(answers_there)
        self._tasks = Connection(tasks_here, readable=False)
        self._answers = Connection(answers_here, writable=False)

    def run(self, target: str, *args: object) -> Any:
        """Call ``module:function`` there and return its result, or raise its exception here."""
        try:
            self._tasks.send((target, args))
            worked, answer = self._answers.recv()
        except (EOFError, BrokenPipeError):
            raise WorkerDied(self._last_words()) from None
        if worked:
            return answer
        raise answer

    def close(self) -> None:
        self._tasks.close()
        self._process.wait()
        self._answers.close()
        self._printed.close()

    def _last_words(self) -> str:
        status = self._process.wait()
        self._printed.seek(0)
        printed = self._printed.read()[-2000:].decode(errors="replace")
        return f"the {self.runtime} worker ended with status {status}: {printed}"


class Workers:
    """One worker for each runtime, started when it is first asked for."""

    def __init__(self) -> None:
        self._started: dict[str, Worker] = {}

    def start(self, runtime: str) -> None:
        """Start a worker, if it is not running, without waiting for it."""
        if runtime not in self._started:
            self._started[runtime] = Worker(runtime)

    def __getitem__(self, runtime: str) -> Worker:
        self.start(runtime)
        return self._started[runtime]

    def close(self) -> None:
        while self._started:
            self._started.popitem()[1].close()


def main(runtime: str, tasks_fd: str, answers_fd: str) -> None:
    """Answer tasks until the other end closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends pytest, and its end of the pipe ends this
    tasks = Connection(int(tasks_fd), writable=False)
    answers = Connection(int(answers_fd), readable=False)
    importlib.import_module(RUNTIMES[runtime])
    while True:
        try:
            target, args = tasks.recv()
        except EOFError:
            os._exit(0)  # TensorFlow would take more than a second to leave
        answers.send(_answer(target, args))


def _answer(target: str, args: tuple[object, ...]) -> tuple[bool, object]:
    module, _, function = target.partition(":")
    try:
        return True, getattr(importlib.import_module(module), function)(*args)
    except Exception as problem:
        return False, _portable(problem)


def _portable(problem: Exception) -> Exception:
    """Return the exception if pickle can carry it, or one with the same text; the remote traceback comes as a note."""
    there = traceback.format_exc()
    try:
        pickle.loads(pickle.dumps(problem))
        portable: Exception = problem
    except Exception:
        portable = RuntimeError(f"{type(problem).__name__}: {problem}")
    portable.add_note(f"in the worker:\n{there}")
    return portable


if __name__ == "__main__":
    main(*sys.argv[1:])
