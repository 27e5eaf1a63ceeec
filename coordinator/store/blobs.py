"""Blobs in a folder, addressed `{tenant}/{kind}/{sha256}`: written once, durable before anyone is told of them."""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
from enum import StrEnum
from pathlib import Path

from edge_runtime.protocol.enrolment import is_name
from edge_runtime.protocol.errors import DigestMismatch, NotFound, StorageFull
from edge_runtime.protocol.keys import digest

_SHA256 = re.compile(r"[0-9a-f]{64}")


class BlobKind(StrEnum):
    BUNDLE = "bundles"
    CHECKPOINT = "checkpoints"
    REPORT = "reports"
    PARTIAL_SUM = "partial-sums"


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

    def get(self, tenant: str, kind: BlobKind, sha256: str) -> bytes:
        """Read a blob and check it against its address.

        Raises:
            NotFound: There is none.
            DigestMismatch: The disk returned other bytes than were written.
        """
        path = self.path(tenant, kind, sha256)
        try:
            raw = path.read_bytes()
        except FileNotFoundError:
            raise NotFound(f"there is no blob {sha256[:12]}… among {kind}") from None
        if digest(raw).hex() != sha256:
            raise DigestMismatch(f"the blob {sha256[:12]}… among {kind} was damaged on disk")
        return raw

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
        if not is_name(tenant) or _SHA256.fullmatch(sha256) is None:
            raise NotFound("a blob is addressed by a SHA-256 of 64 hex digits")
        return self._folder / tenant / kind.value / sha256


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
