"""Files beside the journal: a savepoint's vectors and a sealed report, each named by its digest."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Final

from edge_runtime.journal.files import UNFINISHED, Stored, replace_file
from edge_runtime.journal.sealing import Seal, SealBroken
from edge_runtime.protocol.errors import StateDamaged
from edge_runtime.protocol.keys import digest

_PREFIX: Final = "stored-"
_CONTEXT: Final = b"edgewise/stored/v1\0"


class StoredFiles:
    """Written before the journal names them, and deleted after it no longer does."""

    def __init__(self, folder: Path, seal: Seal) -> None:
        self._folder = folder
        self._seal = seal

    def put(self, *parts: memoryview) -> Stored:
        """Seal bytes, one part after another, and keep them.

        Raises:
            DeviceStorageFull: There is no room.
        """
        sealed = self._seal.close_large(parts, _CONTEXT)
        stored = Stored(digest(sealed).hex(), len(sealed))
        replace_file(self._path(stored), sealed)
        return stored

    def get(self, stored: Stored) -> bytes:
        """Return what was kept.

        Raises:
            StateDamaged: It is gone, or not as it was written.
        """
        try:
            sealed = self._path(stored).read_bytes()
        except FileNotFoundError:
            raise StateDamaged("a file beside the journal is gone") from None
        if digest(sealed).hex() != stored.sha256:
            raise StateDamaged("a file beside the journal is not as it was written")
        try:
            return self._seal.open(sealed, _CONTEXT)
        except SealBroken:
            raise StateDamaged("a file beside the journal was sealed by another key") from None

    def drop(self, unneeded: Collection[Stored]) -> None:
        """Delete files that are no longer named."""
        for stored in unneeded:
            self._path(stored).unlink(missing_ok=True)

    def keep_only(self, needed: Collection[Stored]) -> None:
        """Delete every file but these, and what a crash left half written."""
        names = {self._path(stored).name for stored in needed}
        for path in self._folder.iterdir():
            mine = path.name.startswith(_PREFIX)
            if (mine and path.name not in names) or path.name.endswith(UNFINISHED):
                path.unlink(missing_ok=True)

    def _path(self, stored: Stored) -> Path:
        return self._folder / f"{_PREFIX}{stored.sha256}"
