"""Child processes that may crash or hang, and what became of them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess  # nosec B404
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import IO


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a child process ended.

    Attributes:
        sentence: What went wrong, such as "died of SIGSEGV"; empty if nothing did.
        printed: To its standard output.
        last_words: The last line it printed to standard error.
    """

    sentence: str
    printed: str
    last_words: str


def run_module(
    module: str, arguments: Sequence[str], timeout_s: float, hear: Callable[[str], None] | None = None
) -> Ended:
    """Run ``python -m module`` to its end."""
    return run([sys.executable, "-m", module, *arguments], timeout_s, hear)


def run(command: Sequence[str], timeout_s: float, hear: Callable[[str], None] | None = None) -> Ended:
    """Run a command to its end, or for so long; `hear` gets each line of its standard output at once."""
    lines: list[str] = []
    with tempfile.TemporaryFile("w+", errors="replace") as errors:
        child = subprocess.Popen(  # nosec B603
            list(command), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, text=True, errors="replace"
        )
        timed_out = threading.Event()

        def stop() -> None:
            timed_out.set()
            with contextlib.suppress(ProcessLookupError):
                child.kill()

        timer = threading.Timer(timeout_s, stop)
        timer.start()
        try:
            for line in child.stdout or ():
                lines.append(line)
                if hear is not None:
                    hear(line.rstrip("\n"))
            status = child.wait()
        finally:
            timer.cancel()
            child.kill()
            child.wait()
            if child.stdout is not None:
                child.stdout.close()
        last = _last_line(errors)
    sentence = f"did not end within {timeout_s:g} s" if timed_out.is_set() else _sentence(status, last)
    return Ended(sentence=sentence, printed="".join(lines), last_words=last)


def _sentence(status: int, last_words: str) -> str:
    if not status:
        return ""
    if status < 0:
        with contextlib.suppress(ValueError):
            return f"died of {signal.Signals(-status).name}"
        return f"died of signal {-status}"
    return f"failed: {last_words}" if last_words else f"ended with status {status}"


def _last_line(file: IO[str]) -> str:
    file.seek(0, os.SEEK_SET)
    lines = [line.strip() for line in file.read().splitlines() if line.strip()]
    return lines[-1][:400] if lines else ""
