"""What a signal does, at whatever moment it comes: the command ends with code 130 and one sentence, and leaves nothing.

No signal raises an exception in a command that has children. An exception in any line can lose a process that has just
been started, cut a clean-up short when a second signal comes, or vanish in a destructor. So such a command works in a
second thread; the first one waits for the end of the work or for a signal, and then stops the children itself.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Final, NoReturn, TypeVar

T = TypeVar("T")

STOPPED_CODE: Final = 130
WORK_PATIENCE_S: Final = 5.0
"""How long the work may take to see that its children are gone; it has nothing left to do but tidy up its display."""

_SENTENCE: Final = b"edgewise-sim: stopped; nothing is left running\n"
_WORK_ENDED: Final = bytes(1)
_leaving: Final = threading.Lock()
"""Held from the sentence on: it is said once, however many signals come."""


class Interrupted(Exception):
    """A signal came, and everything that was started has been stopped."""


def signals() -> tuple[signal.Signals, ...]:
    """Those that stop a command; not a hang-up that `nohup` told it to ignore."""
    hang_up = () if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else (signal.SIGHUP,)
    return (signal.SIGINT, signal.SIGTERM, *hang_up)


def end_on_signals() -> None:
    """End the process at once on a signal. For the time in which nothing runs beside it."""
    for number in signals():
        signal.signal(number, _end)


def leave() -> NoReturn:
    """Say that the command was stopped, and end; no signal and no thread that still computes can get in between."""
    if _leaving.acquire(blocking=False):
        with contextlib.suppress(OSError):
            os.write(2, _SENTENCE)
    os._exit(STOPPED_CODE)


def _end(_number: int, _frame: object) -> None:
    if not _leaving.locked():  # else the line that this signal interrupted is about to leave
        leave()


class Interrupts:
    """The signals that have come since `waiting_for_signals` began, as bytes in a socket.

    The interpreter's own handler writes them there, whatever its threads are doing, so that none is lost; a queue or an
    event that a handler fills loses some, when two come while it is waited for.
    """

    def __init__(self) -> None:
        self._news, self.teller = socket.socketpair()
        self.teller.setblocking(False)

    def close(self) -> None:
        """Hear nothing any more."""
        self._news.close()
        self.teller.close()

    def run(self, work: Callable[[], T], stop: Callable[[], None]) -> T:
        """Do the work and return its result.

        Args:
            stop: Stops every child, for ever; called in this thread after a signal. The work then ends by itself.

        Raises:
            Interrupted: A signal came; `stop` has returned.
            BaseException: Whatever the work raised.
        """
        outcome: Future[T] = Future()

        def do() -> None:
            try:
                outcome.set_result(work())
            except BaseException as problem:  # it is raised in the thread that asked
                outcome.set_exception(problem)
            with contextlib.suppress(OSError):  # nobody listens any more
                self.teller.send(_WORK_ENDED)

        thread = threading.Thread(target=do, name="work", daemon=True)
        thread.start()
        if self._news.recv(1) != _WORK_ENDED:
            stop()
            thread.join(WORK_PATIENCE_S)
            raise Interrupted
        return outcome.result()

    def check(self) -> None:
        """Return if no further signal came.

        Raises:
            Interrupted: One came.
        """
        if select.select([self._news], [], [], 0)[0]:
            raise Interrupted


@contextmanager
def waiting_for_signals() -> Iterator[Interrupts]:
    """Only note signals while the block runs. For the main thread.

    Raises:
        Interrupted: A signal came when the work of the block was done.
    """
    with contextlib.closing(Interrupts()) as interrupts:
        told_before = signal.set_wakeup_fd(interrupts.teller.fileno(), warn_on_full_buffer=False)
        before = {number: signal.signal(number, _note) for number in signals()}
        try:
            yield interrupts
            interrupts.check()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(told_before)


def _note(_number: int, _frame: object) -> None:
    """Without a handler there would be no byte."""


@contextmanager
def signals_as_interrupts() -> Iterator[None]:
    """Turn signals into KeyboardInterrupt. For a command without children."""

    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in signals()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
