"""Many phones, each with a time to come back, on a few threads."""

from __future__ import annotations

import heapq
import threading
import time
from collections.abc import Callable


def keep_appointments(count: int, act: Callable[[int], float | None], workers: int) -> None:
    """Call ``act(index)`` for each of `count` phones at once, and again as many seconds later as it returns.

    A phone whose `act` returns None is done; the call returns when all are. No phone acts twice at the same time.

    Args:
        workers: Phones that act at the same time, each on a thread of its own.

    Raises:
        BaseException: What the first failing `act` raised; the others finish the visit they are in.
    """
    agenda = _Agenda(count)

    def work() -> None:
        while (index := agenda.next_due()) is not None:
            try:
                agenda.done(index, act(index))
            except BaseException as problem:
                agenda.fail(problem)

    threads = [threading.Thread(target=work, name=f"phones-{number}", daemon=True) for number in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if agenda.failure is not None:
        raise agenda.failure


class _Agenda:
    def __init__(self, count: int) -> None:
        self._due: list[tuple[float, int]] = [(0.0, index) for index in range(count)]
        self._remaining = count
        self._changed = threading.Condition()
        self.failure: BaseException | None = None

    def next_due(self) -> int | None:
        """Wait for the next appointment; None when there will be no more."""
        with self._changed:
            while self._remaining and self.failure is None:
                wait_s = self._due[0][0] - time.monotonic() if self._due else None
                if wait_s is not None and wait_s <= 0:
                    return heapq.heappop(self._due)[1]
                self._changed.wait(wait_s)
            return None

    def done(self, index: int, again_s: float | None) -> None:
        with self._changed:
            if again_s is None:
                self._remaining -= 1
            else:
                heapq.heappush(self._due, (time.monotonic() + again_s, index))
            self._changed.notify_all()

    def fail(self, problem: BaseException) -> None:
        with self._changed:
            self.failure = self.failure or problem
            self._changed.notify_all()
