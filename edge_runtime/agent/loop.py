"""The loop of a device that runs by itself: a slice, then sleep until a further one can do something new."""

from __future__ import annotations

import contextlib
import math
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Final

from edge_runtime.agent.home import alone, mark_left, opened
from edge_runtime.agent.settings import Settings
from edge_runtime.outcomes import Happened, SliceEnd
from edge_runtime.protocol.errors import DeviceStorageFull, StateInUse
from edge_runtime.protocol.reasons import Blocker, Outcome
from edge_runtime.schedule import LOOK_AGAIN_S
from edge_runtime.surroundings import Log

PATIENCE_S: Final = 1.5
"""A slice that was asked to end gets so long before it is cut: a request to a silent server does not ask."""
_OTHERS_S: Final = 5.0
"""How long to wait for another command on the folder."""
_STOPPED: Final = frozenset({signal.SIGTERM, signal.SIGINT})


class Cut(BaseException):
    """Raised in the middle of a slice that did not end in time. What is on disk holds, as after any kill."""


class Ending:
    """Whether somebody wants this process to end; told by SIGTERM and SIGINT within `listening`."""

    def __init__(self) -> None:
        self._asked = threading.Event()
        self._cuts = False

    def asked(self) -> bool:
        """Whether it should."""
        return self._asked.is_set()

    def ask(self) -> None:
        """Want it."""
        self._asked.set()

    def wait(self, seconds: float) -> bool:
        """Sleep so long, or until it should; whether it should."""
        return self._asked.wait(min(seconds, threading.TIMEOUT_MAX))

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Take the two signals for as long as the block lasts. For the main thread only."""
        handlers = {number: signal.signal(number, self._told) for number in (*_STOPPED, signal.SIGALRM)}
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            for number, handler in handlers.items():
                signal.signal(number, handler)

    @contextlib.contextmanager
    def cutting(self) -> Iterator[None]:
        """Raise `Cut` within the block if it does not end in time; swallow it at its end."""
        try:
            self._cuts = True
            yield
        except Cut:
            self.ask()
        finally:
            self._cuts = False

    def _told(self, number: int, _frame: FrameType | None) -> None:
        if number in _STOPPED and not self._asked.is_set():
            self.ask()
            signal.setitimer(signal.ITIMER_REAL, PATIENCE_S)
        elif self._cuts:
            raise Cut


def run(
    settings: Settings, ending: Ending, told: Callable[[SliceEnd], None], log: Log, *, once: bool = False
) -> SliceEnd:
    """Work until somebody ends it, or the owner has opted out and the coordinator knows; the last slice's end.

    Args:
        told: Takes every slice's end.
        once: One slice, whatever comes of it: for timers.

    Raises:
        Refusal: The folder cannot be worked on: another one does, the key is wrong, or a later version wrote it.
        OSError: The folder cannot be used.
    """
    with alone(settings):
        while True:
            end = _slice(settings, ending, log)
            told(end)
            if once or (end.happened is Happened.OPTED_OUT and end.come_back_s == 0) or ending.wait(end.come_back_s):
                return end


def _slice(settings: Settings, ending: Ending, log: Log) -> SliceEnd:
    """One slice; the folder is free before and after it."""
    end = SliceEnd(happened=Happened.INTERRUPTED, reason=Outcome.SYSTEM_STOPPED, come_back_s=0.0)
    with ending.cutting():
        try:
            with opened(settings, log=log, wait_s=_OTHERS_S, give_up=ending.asked) as runtime:
                end = runtime.run_slice(math.inf, ending.asked)
                if end.happened is Happened.OPTED_OUT:
                    mark_left(settings)
        except StateInUse:
            return SliceEnd(happened=Happened.REFUSED, reason=StateInUse.code, come_back_s=_OTHERS_S)
        except DeviceStorageFull:
            return SliceEnd(happened=Happened.BLOCKED, reason=Blocker.STORAGE_LOW, come_back_s=LOOK_AGAIN_S)
    return end
