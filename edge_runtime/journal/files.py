"""Files that are written whole or not at all, and are on disk when the call returns."""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from edge_runtime.protocol import wire
from edge_runtime.protocol.errors import DeviceStorageFull
from edge_runtime.protocol.keys import is_sha256

UNFINISHED = ".new"
"""How the name of a file ends that was not finished; one writer, so one such file for each name."""

NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""What a disk, a quota or a limit without room says."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A file of its own beside the journal, named by the SHA-256 of its bytes as they lie there."""

    sha256: str
    bytes: int

    def __post_init__(self) -> None:
        wire.require(is_sha256(self.sha256) and self.bytes >= 0, "a stored file has a digest and a length")


def replace_file(path: Path, content: bytes | memoryview) -> None:
    """Put a file in the place of the one of that name, if there is one: a reader sees the old or the new, whole.

    Raises:
        DeviceStorageFull: There is no room; the old file is as it was.
        OSError: The disk failed; the file is the old or the new one, whole.
    """
    unfinished = path.with_name(path.name + UNFINISHED)
    with naming_a_full_disk():
        try:
            _write(unfinished, content)
            os.replace(unfinished, path)
        except OSError:
            with suppress(OSError):
                unfinished.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def own_memory(size: int) -> memoryview:
    """Memory that goes back to the system once it is let go: a hole in the heap would stay while a model trains.

    Args:
        size: In bytes, above 0.
    """
    return memoryview(mmap.mmap(-1, size))


def read_file(path: Path) -> memoryview:
    """All of a large file, in memory of its own.

    Raises:
        FileNotFoundError: It is not there.
    """
    with path.open("rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        content, held = own_memory(max(1, size))[:size], 0
        while held < size and (more := file.readinto(content[held:])):
            held += more
    return content[:held]


def sync_folder(path: Path) -> None:
    """Make the names in a folder outlive a power cut."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def naming_a_full_disk() -> Iterator[None]:
    """Turn the errors of a disk without room into their refusal.

    Raises:
        DeviceStorageFull: The disk, the quota or the largest file is full.
    """
    try:
        yield
    except OSError as problem:
        if problem.errno in NO_ROOM:
            raise DeviceStorageFull("there is no room left on the device", retry_after_s=3600) from problem
        raise


def _write(path: Path, content: bytes | memoryview) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        rest = memoryview(content)
        while rest:
            rest = rest[os.write(handle, rest) :]
        os.fsync(handle)
    finally:
        os.close(handle)
