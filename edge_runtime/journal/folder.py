"""The state folder: one process at a time, whatever it keeps there."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from types import TracebackType

from edge_runtime.protocol.errors import StateInUse

_LOCK_FILE = "lock"


class StateFolder:
    """A folder that this process holds alone, until it closes it or ends, however it ends.

    The lock is `flock` on a file of the folder: the kernel lets go of it when the process dies. A process that forks
    shares it with its child; a child must not use what its parent opened. Needs a POSIX system.
    """

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self._lock: int | None = lock

    def close(self) -> None:
        """Let the next process in; twice is once."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> StateFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_folder(path: Path) -> StateFolder:
    """Take a folder for this process, made if need be and readable by its owner alone. Never waits.

    Raises:
        StateInUse: Another process, or another part of this one, holds it.
        OSError: The folder cannot be used.
    """
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = os.open(path / _LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise StateInUse("the state folder is in use; one process at a time", retry_after_s=60) from None
    return StateFolder(path, lock)
