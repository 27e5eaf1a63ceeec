"""Blobs in a bucket that speaks S3, through obstore. Keys are those of the folder: `{tenant}/{kind}/{sha256}`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from coordinator.store.blobs import PARTS, STEP_BYTES, BlobKind, Blobs, FolderBlobs, Stored, key_of, parts_key
from edge_runtime.protocol.errors import DigestMismatch, NotFound, Unavailable
from edge_runtime.protocol.keys import digest

if TYPE_CHECKING:
    from obstore.store import S3Store

SCHEME = "s3://"
RETRY_AFTER_S = 30.0
_OFFSET_DIGITS = 12


def open_blobs(url: str, folder: Path, free_bytes_wanted: int) -> Blobs:
    """Blobs as the settings say.

    Args:
        url: `s3://bucket` or `s3://bucket/prefix`; empty for the folder. Keys, region and endpoint come from the
            variables of the AWS tools: `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_REGION`, `AWS_ENDPOINT_URL`.

    Raises:
        ValueError: The address is of another kind.
        ModuleNotFoundError: The extra `s3` is not installed.
    """
    if not url:
        return FolderBlobs(folder, free_bytes_wanted)
    bucket, _, prefix = url.removeprefix(SCHEME).partition("/")
    if not url.startswith(SCHEME) or not bucket:
        raise ValueError("the blobs' address is s3://bucket or s3://bucket/prefix")
    return S3Blobs(open_bucket(bucket, prefix.strip("/")))


def open_bucket(
    bucket: str, prefix: str = "", *, endpoint: str | None = None, tries: int = 4, timeout_s: float = 60
) -> S3Store:
    """A bucket by its name; the bytes of every write carry a checksum that the service verifies."""
    from obstore.store import S3Store

    return S3Store(
        bucket,
        prefix=prefix or None,
        checksum_algorithm="SHA256",
        client_options={
            "allow_http": True,  # a service inside the same machine or network; AWS's own address is HTTPS
            "connect_timeout": timedelta(seconds=min(10, timeout_s)),
            "timeout": timedelta(seconds=timeout_s),
        },
        retry_config={
            "max_retries": tries - 1,
            "retry_timeout": timedelta(seconds=timeout_s),
            "backoff": {
                "base": 2,
                "init_backoff": timedelta(milliseconds=50),
                "max_backoff": timedelta(seconds=2),
            },
        },
        config={} if endpoint is None else {"endpoint": endpoint},
    )


class S3Blobs:
    """Blobs as objects of one bucket, which several replicas share.

    A write is durable when the service has answered. Parts of a report are objects of their own, by offset, so that any
    replica can take the next one.
    """

    def __init__(self, store: S3Store) -> None:
        self._store = store

    def check(self) -> None:
        """Return if the bucket can be read and written.

        Raises:
            NotFound: The service has no such bucket.
            PermissionError: The service refuses the key.
            Unavailable: It does not answer.
        """
        import obstore

        try:
            with _translated(".check"):
                obstore.put(self._store, ".check", b"edgewise")
        except NotFound as problem:
            raise NotFound("the blob storage has no such bucket") from problem

    def put(self, tenant: str, kind: BlobKind, raw: bytes, *, verified_sha256: str | None = None) -> str:
        """Write a blob and return its SHA-256; writing it again repairs it at most.

        Raises:
            Unavailable: The service does not take it.
        """
        import obstore

        sha256 = verified_sha256 or digest(raw).hex()
        with _translated(key_of(tenant, kind, sha256)) as key:
            obstore.put(self._store, key, raw)
        return sha256

    def get(self, tenant: str, kind: BlobKind, sha256: str, *, checked: bool = True) -> bytes:
        """Read a blob and check it against its address.

        Args:
            checked: Not, where the caller checks the digest by itself.

        Raises:
            NotFound: There is none.
            DigestMismatch: Other bytes came than were written.
            Unavailable: The service does not answer.
        """
        import obstore

        with _translated(key_of(tenant, kind, sha256)) as key:
            raw = obstore.get(self._store, key).bytes().to_bytes()
        if checked and digest(raw).hex() != sha256:
            raise DigestMismatch(f"the blob {sha256[:12]}… among {kind} came damaged")
        return raw

    def size(self, tenant: str, kind: BlobKind, sha256: str) -> int:
        """How many bytes a blob has.

        Raises:
            NotFound: There is none.
            Unavailable: The service does not answer.
        """
        import obstore

        with _translated(key_of(tenant, kind, sha256)) as key:
            return obstore.head(self._store, key)["size"]

    def stream(self, tenant: str, kind: BlobKind, sha256: str, start: int, end: int) -> Iterator[bytes]:
        """Read bytes `start` to `end` (exclusive) in steps.

        Raises:
            NotFound: There is no such blob.
            Unavailable: The service does not answer.
        """
        import obstore

        if start >= end:
            return
        with _translated(key_of(tenant, kind, sha256)) as key:
            found = obstore.get(self._store, key, options={"range": (start, end)})
            for step in found.stream(min_chunk_size=STEP_BYTES):
                yield bytes(step)

    def file_of(self, tenant: str, kind: BlobKind, sha256: str) -> Path | None:
        return None

    def delete(self, tenant: str, kind: BlobKind, sha256: str) -> None:
        """Delete a blob; deleting it again changes nothing."""
        import obstore

        with _translated(key_of(tenant, kind, sha256)) as key:
            obstore.delete(self._store, key)

    def stored(self) -> Iterator[Stored]:
        """Everything that is there, one entry a part."""
        import obstore

        with _translated(""):
            for page in obstore.list(self._store):
                for found in page:
                    tenant, _, rest = found["path"].partition("/")
                    place, _, name = rest.partition("/")
                    if name:
                        kind = None if place == PARTS else BlobKind(place)
                        yield Stored(tenant, kind, name.partition("/")[0], found["last_modified"])

    def held_part(self, tenant: str, participation: str) -> int:
        """How many bytes there are, without a gap, of a report that comes in parts."""
        held = 0
        for offset, size in self._parts(tenant, participation):
            if offset <= held:
                held = max(held, offset + size)
        return held

    def put_part(self, tenant: str, participation: str, offset: int, raw: bytes, most_bytes: int) -> int:
        """Keep a part that begins within or at the end of what is held, and return how much is held then.

        Raises:
            Unavailable: The service does not take it.
        """
        import obstore

        held = self.held_part(tenant, participation)
        if not raw or offset > held or offset + len(raw) > most_bytes:
            return held
        with _translated(f"{parts_key(tenant, participation)}/{offset:0{_OFFSET_DIGITS}d}") as key:
            obstore.put(self._store, key, raw)
        return self.held_part(tenant, participation)

    def take_parts(self, tenant: str, participation: str) -> bytes:
        """Return what is held of a report that came in parts."""
        import obstore

        whole = bytearray()
        for offset, _size in self._parts(tenant, participation):
            if offset <= len(whole):
                with _translated(f"{parts_key(tenant, participation)}/{offset:0{_OFFSET_DIGITS}d}") as key:
                    raw = obstore.get(self._store, key).bytes().to_bytes()
                whole[offset : offset + len(raw)] = raw
        return bytes(whole)

    def drop_parts(self, tenant: str, participation: str) -> None:
        """Forget the parts of a report; again changes nothing."""
        import obstore

        for offset, _size in list(self._parts(tenant, participation)):
            with _translated(f"{parts_key(tenant, participation)}/{offset:0{_OFFSET_DIGITS}d}") as key:
                obstore.delete(self._store, key)

    def _parts(self, tenant: str, participation: str) -> list[tuple[int, int]]:
        """Offsets and sizes, by offset."""
        import obstore

        with _translated(parts_key(tenant, participation)) as key:
            found = [part for page in obstore.list(self._store, prefix=key) for part in page]
        return sorted((int(part["path"].rpartition("/")[2]), part["size"]) for part in found)


@contextmanager
def _translated(key: str) -> Iterator[str]:
    """What the service says, in our words; its own stay in the cause."""
    from obstore import exceptions

    try:
        yield key
    except (FileNotFoundError, exceptions.NotFoundError) as problem:
        raise NotFound(f"there is no blob {key[-64:][:12]}…") from problem
    except (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError, PermissionError) as problem:
        raise PermissionError("the blob storage refuses the coordinator's key") from problem
    except exceptions.BaseError as problem:
        raise Unavailable("the blob storage does not answer", retry_after_s=RETRY_AFTER_S) from problem
