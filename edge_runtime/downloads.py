"""Bundles and checkpoints on the device's disk, and what came of them so far: an answer that broke off goes on later.

They are the tenant's and hold nothing of the owner. Whatever is read from here is held against its digest first.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Final

from edge_runtime.journal.files import naming_a_full_disk, read_file, replace_file
from edge_runtime.protocol.errors import DigestMismatch
from edge_runtime.protocol.keys import digest
from edge_runtime.session import Session, fetch

_PREFIX: Final = "blob-"
_PART: Final = ".part"


class Part:
    """A `Sink` in a file: the beginning of an answer."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def held_bytes(self) -> int:
        return self._path.stat().st_size if self._path.exists() else 0

    def write(self, part: bytes) -> None:
        """Append.

        Raises:
            DeviceStorageFull: There is no room.
        """
        with naming_a_full_disk(), self._path.open("ab") as file:
            file.write(part)

    def restart(self) -> None:
        self._path.unlink(missing_ok=True)

    def content(self) -> memoryview:
        return read_file(self._path) if self._path.exists() else memoryview(b"")


class Downloads:
    """The blobs of a state folder, by their SHA-256."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def holds(self, sha256: str) -> bool:
        """Whether all of it is there; its digest is checked when it is read."""
        return self._path(sha256).exists()

    def read(self, sha256: str) -> bytes | memoryview | None:
        """Return a blob; None if it is not there, or no longer as it was written: then it is deleted."""
        try:
            raw = read_file(self._path(sha256))
        except FileNotFoundError:
            return None
        if digest(raw).hex() != sha256:
            self._path(sha256).unlink(missing_ok=True)
            return None
        return raw

    def obtain(self, path: str, sha256: str, limit_bytes: int) -> Session[bytes | memoryview]:
        """Return a blob, fetched from `path` unless it is there; what is missing of it alone is asked for.

        Raises:
            Refusal: The coordinator refused, or sends other bytes than the digest names.
            DeviceStorageFull: There is no room.
        """
        here = self.read(sha256)
        if here is not None:
            return here
        part = self.part(sha256)
        resumed = part.held_bytes > 0
        raw: bytes | memoryview = part.content()
        if digest(raw).hex() != sha256:
            raw = yield from fetch(path, limit_bytes, part)
        if resumed and digest(raw).hex() != sha256:  # what lay here was damaged: once more, from the beginning
            part.restart()
            raw = yield from fetch(path, limit_bytes, part)
        if digest(raw).hex() != sha256:
            part.restart()
            raise DigestMismatch(f"the bytes are not those of {sha256[:12]}…")
        replace_file(self._path(sha256), raw)
        part.restart()
        return raw

    def part(self, sha256: str) -> Part:
        """What there is of a blob that is not whole."""
        return Part(self._path(sha256).with_suffix(_PART))

    def keep_only(self, needed: Collection[str]) -> None:
        """Delete every blob, and every part of one, but these."""
        for path in self._folder.glob(f"{_PREFIX}*"):
            if path.name.removeprefix(_PREFIX).removesuffix(_PART) not in needed:
                path.unlink(missing_ok=True)

    def _path(self, sha256: str) -> Path:
        return self._folder / f"{_PREFIX}{sha256}"
