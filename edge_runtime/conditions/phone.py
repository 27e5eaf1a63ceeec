"""What Android and iOS share: readings that may fail, and slices that the operating system begins and ends."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

Told = TypeVar("Told")

RunSlice: TypeAlias = Callable[[float, Callable[[], bool]], object]
"""(seconds it may take, whether the system wants it to end) to whether work is left: by its truth, so that
`Runtime.run_slice` fits."""

Start: TypeAlias = Callable[[Callable[[], None]], None]


def told(read: Callable[[], Told]) -> Told | None:
    """A reading through a bridge; None if it fails, whatever it fails with.

    A missing permission, a method that this version of the system lacks, a service that died: each arrives as another
    exception of the bridge, and none of them may stop the host app.
    """
    try:
        return read()
    except Exception:
        return None


@dataclass(frozen=True, slots=True)
class Ended:
    """How a slice ended.

    Attributes:
        succeeded: It returned, and did not raise.
        more: Work is left for a later slice.
        stopped: The system asked it to end.
    """

    succeeded: bool
    more: bool
    stopped: bool


def on_a_thread(work: Callable[[], None]) -> None:
    """Start it on a thread that does not keep the app alive.

    Raises:
        RuntimeError: The system gives no more threads.
    """
    threading.Thread(target=work, name="edgewise-slice", daemon=True).start()


class Slices:
    """Runs one slice at a time, away from the thread on which the system calls."""

    def __init__(self, run_slice: RunSlice, *, deadline_s: float, start: Start = on_a_thread) -> None:
        """Run nothing yet.

        Args:
            run_slice: The app's work. An exception ends the slice and goes to `threading.excepthook`.
            deadline_s: What the system allows a slice, in seconds.
            start: Runs the work elsewhere.
        """
        self._run_slice, self._deadline_s, self._start = run_slice, deadline_s, start
        self._lock = threading.Lock()
        self._stop: threading.Event | None = None

    def begin(self, ended: Callable[[Ended], None]) -> bool:
        """Start a slice and return; False if one is running, or none can be started, and `ended` is never called."""
        with self._lock:
            if self._stop is not None:
                return False
            stop = self._stop = threading.Event()
        try:
            self._start(lambda: self._work(stop, ended))
        except RuntimeError:
            self._stop = None
            return False
        return True

    def end(self) -> None:
        """Ask the running slice to stop, if there is one. Returns at once."""
        if stop := self._stop:
            stop.set()

    def _work(self, stop: threading.Event, ended: Callable[[Ended], None]) -> None:
        succeeded = more = False
        try:
            more = bool(self._run_slice(self._deadline_s, stop.is_set))
            succeeded = True
        finally:
            self._stop = None
            ended(Ended(succeeded, more, stop.is_set()))
