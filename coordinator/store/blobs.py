"""Blobs, addressed `{tenant}/{kind}/{sha256}`: durable before anyone is told of them; the seam, and a folder."""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from edge_runtime.protocol.enrolment import is_name
from edge_runtime.protocol.errors import DigestMismatch, NotFound, StorageFull
from edge_runtime.protocol.keys import digest, is_id

PARTS = "report-parts"
STEP_BYTES = 1 << 20
_SHA256 = re.compile(r"[0-9a-f]{64}")


class BlobKind(StrEnum):
    BUNDLE = "bundles"
    CHECKPOINT = "checkpoints"
    REPORT = "reports"
    PARTIAL_SUM = "partial-sums"
    OPTIMISER_STATE = "optimiser-states"
    NOISE_STATE = "noise-states"


@dataclass(frozen=True, slots=True)
class Stored:
    """A blob that is there, or what there is of a report that comes in parts."""

    tenant: str
    kind: BlobKind | None
    """None for parts."""
    name: str
    """The SHA-256, or the participation."""
    modified_at: datetime


class Blobs(Protocol):
    """Where blobs are. `FolderBlobs` and `s3.S3Blobs` pass one suite, and say here what it holds them to."""

    def check(self) -> None:
        """Return if blobs can be written; raise `OSError`, `StorageFull` or `Unavailable` if not."""

    def put(self, tenant: str, kind: BlobKind, raw: bytes, *, verified_sha256: str | None = None) -> str:
        """Write a blob durably and return its SHA-256; writing it again repairs it at most."""

    def get(self, tenant: str, kind: BlobKind, sha256: str, *, checked: bool = True) -> bytes:
        """Read a blob and check it, unless the caller does; raise `NotFound`, `DigestMismatch` or `Unavailable`."""

    def size(self, tenant: str, kind: BlobKind, sha256: str) -> int:
        """How many bytes a blob has; raise `NotFound` if it is not there."""

    def stream(self, tenant: str, kind: BlobKind, sha256: str, start: int, end: int) -> Iterator[bytes]:
        """Read bytes `start` to `end` (exclusive) in steps, unchecked: whoever downloads checks the whole."""

    def file_of(self, tenant: str, kind: BlobKind, sha256: str) -> Path | None:
        """The file of a blob, where blobs are files."""

    def delete(self, tenant: str, kind: BlobKind, sha256: str) -> None:
        """Delete a blob; deleting it again changes nothing."""

    def stored(self) -> Iterator[Stored]:
        """Everything that is there, in no order; what comes or goes meanwhile may be missed."""

    def held_part(self, tenant: str, participation: str) -> int:
        """How many bytes there are, without a gap, of a report that comes in parts."""

    def put_part(self, tenant: str, participation: str, offset: int, raw: bytes, most_bytes: int) -> int:
        """Keep a part that begins within or at the end of what is held, and return how much is held then."""

    def take_parts(self, tenant: str, participation: str) -> bytes:
        """Return what is held of a report that came in parts."""

    def drop_parts(self, tenant: str, participation: str) -> None:
        """Forget the parts of a report; again changes nothing."""


class FolderBlobs:
    """Blobs as files of one folder.

    Args:
        free_bytes_wanted: A blob that would leave less than this free is refused.
    """

    def __init__(self, folder: Path, free_bytes_wanted: int) -> None:
        self._folder = folder
        self._free_bytes_wanted = free_bytes_wanted

    def put(self, tenant: str, kind: BlobKind, raw: bytes, *, verified_sha256: str | None = None) -> str:
        """Write a blob durably and return its SHA-256; writing it again repairs it at most.

        Args:
            verified_sha256: The digest, where the caller has just verified it; a second pass costs as much as writing.

        Raises:
            StorageFull: There is no room.
        """
        sha256 = verified_sha256 or digest(raw).hex()
        path = self.path(tenant, kind, sha256)
        if _holds(path, sha256):
            _sync_folder(path.parent)  # whoever wrote it may not have got so far
            return sha256
        try:
            self._make_folder(path.parent)
            if shutil.disk_usage(path.parent).free < self._free_bytes_wanted + len(raw):
                raise StorageFull("the coordinator's disk is nearly full", retry_after_s=900)
            _write_durably(path, raw)
        except OSError as problem:
            if problem.errno in (errno.ENOSPC, errno.EDQUOT):
                raise StorageFull("the coordinator's disk is full", retry_after_s=900) from problem
            raise
        return sha256

    def check(self) -> None:
        """Return if blobs can be written here.

        Raises:
            OSError: The folder cannot be written.
            StorageFull: There is no room.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        if not os.access(self._folder, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, "the folder of the blobs cannot be written", str(self._folder))
        if shutil.disk_usage(self._folder).free < self._free_bytes_wanted:
            raise StorageFull("the coordinator's disk is nearly full", retry_after_s=900)

    def get(self, tenant: str, kind: BlobKind, sha256: str, *, checked: bool = True) -> bytes:
        """Read a blob and check it against its address.

        Args:
            checked: Not, where the caller checks the digest by itself: it costs more than reading.

        Raises:
            NotFound: There is none.
            DigestMismatch: The disk returned other bytes than were written.
        """
        path = self.path(tenant, kind, sha256)
        try:
            raw = path.read_bytes()
        except FileNotFoundError:
            raise NotFound(f"there is no blob {sha256[:12]}… among {kind}") from None
        if checked and digest(raw).hex() != sha256:
            raise DigestMismatch(f"the blob {sha256[:12]}… among {kind} was damaged on disk")
        return raw

    def size(self, tenant: str, kind: BlobKind, sha256: str) -> int:
        """How many bytes a blob has.

        Raises:
            NotFound: There is none.
        """
        try:
            return self.path(tenant, kind, sha256).stat().st_size
        except FileNotFoundError:
            raise NotFound(f"there is no blob {sha256[:12]}… among {kind}") from None

    def stream(self, tenant: str, kind: BlobKind, sha256: str, start: int, end: int) -> Iterator[bytes]:
        """Read bytes `start` to `end` (exclusive) in steps.

        Raises:
            NotFound: There is no such blob.
        """
        self.size(tenant, kind, sha256)
        with self.path(tenant, kind, sha256).open("rb") as file:
            file.seek(start)
            while start < end and (step := file.read(min(STEP_BYTES, end - start))):
                start += len(step)
                yield step

    def file_of(self, tenant: str, kind: BlobKind, sha256: str) -> Path | None:
        return self.path(tenant, kind, sha256)

    def stored(self) -> Iterator[Stored]:
        """Everything that is there; not what a crash left of a write."""
        for path in self._folder.glob("*/*/[!.]*"):
            tenant, place = path.relative_to(self._folder).parts[:2]
            try:
                modified_at = datetime.fromtimestamp(path.stat().st_mtime, UTC)
            except FileNotFoundError:
                continue
            yield Stored(tenant, None if place == PARTS else BlobKind(place), path.name, modified_at)

    def held_part(self, tenant: str, participation: str) -> int:
        """How many bytes there are of a report that comes in parts."""
        path = self._part_path(tenant, participation)
        return path.stat().st_size if path.exists() else 0

    def put_part(self, tenant: str, participation: str, offset: int, raw: bytes, most_bytes: int) -> int:
        """Keep a part that begins within or at the end of what is held, and return how much is held then.

        Nothing is promised before the report is whole: a crash may take parts with it, and the device sends them again.

        Raises:
            StorageFull: There is no room.
        """
        path = self._part_path(tenant, participation)
        held = self.held_part(tenant, participation)
        if offset > held or offset + len(raw) > most_bytes:
            return held
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if shutil.disk_usage(path.parent).free < self._free_bytes_wanted + len(raw):
                raise StorageFull("the coordinator's disk is nearly full", retry_after_s=900)
            handle = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
            try:
                os.pwrite(handle, raw, offset)
            finally:
                os.close(handle)
        except OSError as problem:
            if problem.errno in (errno.ENOSPC, errno.EDQUOT):
                raise StorageFull("the coordinator's disk is full", retry_after_s=900) from problem
            raise
        return self.held_part(tenant, participation)

    def take_parts(self, tenant: str, participation: str) -> bytes:
        """Return what is held of a report that came in parts."""
        path = self._part_path(tenant, participation)
        return path.read_bytes() if path.exists() else b""

    def drop_parts(self, tenant: str, participation: str) -> None:
        """Forget the parts of a report; again changes nothing."""
        self._part_path(tenant, participation).unlink(missing_ok=True)

    def _part_path(self, tenant: str, participation: str) -> Path:
        return self._folder / parts_key(tenant, participation)

    def delete(self, tenant: str, kind: BlobKind, sha256: str) -> None:
        """Delete a blob; deleting it again changes nothing."""
        self.path(tenant, kind, sha256).unlink(missing_ok=True)

    def _make_folder(self, folder: Path) -> None:
        if not folder.is_dir():
            folder.mkdir(parents=True, exist_ok=True)
            for made in (folder.parent, self._folder, self._folder.parent):
                _sync_folder(made)

    def path(self, tenant: str, kind: BlobKind, sha256: str) -> Path:
        """Where a blob lies, whether it exists or not.

        Raises:
            NotFound: The address could not be anyone's.
        """
        return self._folder / key_of(tenant, kind, sha256)


def key_of(tenant: str, kind: BlobKind, sha256: str) -> str:
    """The address of a blob.

    Raises:
        NotFound: It could not be anyone's.
    """
    if not is_name(tenant) or _SHA256.fullmatch(sha256) is None:
        raise NotFound("a blob is addressed by a SHA-256 of 64 hex digits")
    return f"{tenant}/{kind.value}/{sha256}"


def parts_key(tenant: str, participation: str) -> str:
    """The address of the parts of a report.

    Raises:
        NotFound: It could not be anyone's.
    """
    if not is_name(tenant) or not is_id(participation):
        raise NotFound("a part is of a participation")
    return f"{tenant}/{PARTS}/{participation}"


def _write_durably(path: Path, raw: bytes) -> None:
    """File and name are on disk when this returns; a crash leaves a stray temporary file at worst."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".new-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _holds(path: Path, sha256: str) -> bool:
    """Whether a file is there and undamaged."""
    try:
        return digest(path.read_bytes()).hex() == sha256
    except FileNotFoundError:
        return False


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
