"""Many phones, each with a time to come back, each on a thread of its own: nearly all of them wait."""

from __future__ import annotations

import threading
from collections.abc import Callable


def keep_appointments(count: int, act: Callable[[int], float | None]) -> None:
    """Call ``act(index)`` for each of `count` phones at once, and again as many seconds later as it returns.

    A phone whose `act` returns None is done; the call returns when all are.

    Raises:
        BaseException: What the first failing `act` raised; the others finish the visit they are in.
    """
    stopping = threading.Event()
    failures: list[BaseException] = []

    def live(index: int) -> None:
        try:
            while (again_s := act(index)) is not None and not stopping.wait(again_s):
                pass
        except BaseException as problem:
            failures.append(problem)
            stopping.set()

    threads = [
        threading.Thread(target=live, args=(index,), name=f"phone-{index}", daemon=True) for index in range(count)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
