"""What every place for blobs holds to, a folder and a bucket that speaks S3; and a service that fails."""

from __future__ import annotations

import os
import threading
import urllib.request
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from coordinator.store.blobs import BlobKind, Blobs, FolderBlobs
from coordinator.store.s3 import S3Blobs, open_blobs, open_bucket
from edge_runtime.protocol.errors import DigestMismatch, NotFound, Unavailable
from edge_runtime.protocol.keys import digest
from tests.s3 import KEYS, serving

PARTICIPATION = "ab" * 16
ADDRESS = digest(b"some bytes").hex()


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with serving() as url:
        yield url


@pytest.fixture(autouse=True)
def _keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(params=["folder", "s3"])
def blobs(request: pytest.FixtureRequest, tmp_path: Path) -> Blobs:
    if request.param == "folder":
        return FolderBlobs(tmp_path / "blobs", 0)
    return S3Blobs(
        open_bucket(new_bucket(request.getfixturevalue("endpoint")), "pre/fix", endpoint=endpoint_of(request))
    )


def endpoint_of(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue("endpoint"))


def new_bucket(endpoint: str) -> str:
    name = f"edgewise-{uuid.uuid4().hex}"
    urllib.request.urlopen(urllib.request.Request(f"{endpoint}/{name}", method="PUT")).close()
    return name


# --- the contract -------------------------------------------------------------------------------------------------


def test_it_can_be_written(blobs: Blobs) -> None:
    blobs.check()
    assert list(blobs.stored()) == []


@pytest.mark.parametrize("raw", [b"", b"some bytes", os.urandom(3 << 20)], ids=["empty", "short", "long"])
def test_a_blob_comes_back_as_it_was(blobs: Blobs, raw: bytes) -> None:
    for _again in range(2):
        address = blobs.put("acme", BlobKind.CHECKPOINT, raw)
    assert address == digest(raw).hex()
    assert blobs.get("acme", BlobKind.CHECKPOINT, address) == raw
    assert blobs.size("acme", BlobKind.CHECKPOINT, address) == len(raw)


@pytest.mark.parametrize(
    ("start", "end"), [(0, 3 << 20), (0, 1), (5, 9), ((3 << 20) - 1, 3 << 20), (7, 7), (1, (2 << 20) + 3)]
)
def test_a_range_of_a_blob_is_read_in_steps(blobs: Blobs, start: int, end: int) -> None:
    raw = os.urandom(3 << 20)
    address = blobs.put("acme", BlobKind.CHECKPOINT, raw)
    steps = list(blobs.stream("acme", BlobKind.CHECKPOINT, address, start, end))
    assert b"".join(steps) == raw[start:end]


def test_what_is_not_there_is_not_found(blobs: Blobs) -> None:
    blobs.put("acme", BlobKind.REPORT, b"some bytes")
    for tenant, kind in (("globex", BlobKind.REPORT), ("acme", BlobKind.CHECKPOINT)):
        with pytest.raises(NotFound):
            blobs.get(tenant, kind, ADDRESS)
        with pytest.raises(NotFound):
            blobs.size(tenant, kind, ADDRESS)
        with pytest.raises(NotFound):
            list(blobs.stream(tenant, kind, ADDRESS, 0, 5))


@pytest.mark.parametrize("tenant", ["..", "", "a/b", "acme\n", "A"])
def test_a_tenant_that_is_no_name_has_nothing(blobs: Blobs, tenant: str) -> None:
    with pytest.raises(NotFound):
        blobs.put(tenant, BlobKind.REPORT, b"some bytes")
    with pytest.raises(NotFound):
        blobs.put_part(tenant, PARTICIPATION, 0, b"some", 10)
    with pytest.raises(NotFound):
        blobs.put_part("acme", "../../x", 0, b"some", 10)


def test_a_blob_deleted_twice_is_gone(blobs: Blobs) -> None:
    address = blobs.put("acme", BlobKind.REPORT, b"some bytes")
    for _again in range(2):
        blobs.delete("acme", BlobKind.REPORT, address)
    with pytest.raises(NotFound):
        blobs.get("acme", BlobKind.REPORT, address)


def test_everything_that_is_there_is_listed_with_its_age(blobs: Blobs) -> None:
    wanted = {("acme", kind, blobs.put("acme", kind, kind.value.encode())) for kind in BlobKind}
    wanted.add(("globex", BlobKind.REPORT, blobs.put("globex", BlobKind.REPORT, b"theirs")))
    blobs.put_part("acme", PARTICIPATION, 0, b"some", 10)
    found = list(blobs.stored())
    assert {(one.tenant, one.kind, one.name) for one in found} == {*wanted, ("acme", None, PARTICIPATION)}
    assert all(abs(datetime.now(UTC) - one.modified_at) < timedelta(minutes=1) for one in found)


def test_parts_grow_into_a_whole_and_are_forgotten(blobs: Blobs) -> None:
    assert blobs.held_part("acme", PARTICIPATION) == 0
    assert blobs.put_part("acme", PARTICIPATION, 0, b"abcd", 10) == 4
    assert blobs.put_part("acme", PARTICIPATION, 8, b"ij", 10) == 4, "it would leave a gap"
    assert blobs.put_part("acme", PARTICIPATION, 4, b"efg", 10) == 7
    assert blobs.put_part("acme", PARTICIPATION, 4, b"efg", 10) == 7, "sent again"
    assert blobs.put_part("acme", PARTICIPATION, 2, b"cdef", 10) == 7, "within"
    assert blobs.put_part("acme", PARTICIPATION, 7, b"hijk", 10) == 7, "too long"
    assert blobs.put_part("acme", PARTICIPATION, 7, b"hij", 10) == 10
    assert blobs.take_parts("acme", PARTICIPATION) == b"abcdefghij"
    for _again in range(2):
        blobs.drop_parts("acme", PARTICIPATION)
        assert blobs.take_parts("acme", PARTICIPATION) == b""


def test_many_at_once_write_one_blob(blobs: Blobs) -> None:
    raw = os.urandom(100_000)
    with ThreadPoolExecutor(8) as threads:
        written = {
            done.result() for done in [threads.submit(blobs.put, "acme", BlobKind.REPORT, raw) for _ in range(16)]
        }
    assert written == {digest(raw).hex()}
    assert blobs.get("acme", BlobKind.REPORT, *written) == raw


def test_another_replica_goes_on_with_the_parts_of_the_first(endpoint: str) -> None:
    bucket = new_bucket(endpoint)
    first, second = (S3Blobs(open_bucket(bucket, endpoint=endpoint)) for _replica in range(2))
    assert first.put_part("acme", PARTICIPATION, 0, b"abcd", 8) == 4
    assert second.put_part("acme", PARTICIPATION, 4, b"efgh", 8) == 8
    assert first.take_parts("acme", PARTICIPATION) == b"abcdefgh"


def test_blobs_are_where_the_address_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    assert isinstance(open_blobs("", tmp_path, 0), FolderBlobs)
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    bucket = new_bucket(endpoint)
    prefixed = open_blobs(f"s3://{bucket}/some/where/", tmp_path, 0)
    prefixed.put("acme", BlobKind.REPORT, b"some bytes")
    whole = open_blobs(f"s3://{bucket}/some/where", tmp_path, 0)
    assert whole.get("acme", BlobKind.REPORT, ADDRESS) == b"some bytes"
    for wrong in ("gs://bucket", "s3://", "/some/folder"):
        with pytest.raises(ValueError, match="s3://bucket"):
            open_blobs(wrong, tmp_path, 0)


# --- a service that fails -----------------------------------------------------------------------------------------


class Fault(BaseHTTPRequestHandler):
    """Answers every request in one wrong way."""

    protocol_version = "HTTP/1.1"
    status = 200
    body = b"some bytes"
    announced: int | None = None
    asked: list[str]
    never = threading.Event()

    def answer(self) -> None:
        self.asked.append(self.command)
        self.rfile.read(int(self.headers.get("content-length", 0)))
        if self.status == 0:
            self.never.wait(20)
            return
        self.send_response(self.status)
        self.send_header("content-length", str(len(self.body) if self.announced is None else self.announced))
        self.send_header("etag", '"tag"')
        self.send_header("last-modified", "Mon, 05 Jan 2026 12:00:00 GMT")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(self.body)
        self.close_connection = True

    do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = answer  # noqa: N815  (the names of the library)

    def log_message(self, *_arguments: object) -> None:
        """Say nothing."""


@contextmanager
def failing(status: int = 200, body: bytes = b"", announced: int | None = None) -> Iterator[tuple[S3Blobs, list[str]]]:
    asked: list[str] = []
    fields = {"status": status, "body": body, "announced": announced, "asked": asked, "never": threading.Event()}
    kind = type("One", (Fault,), fields)
    with ThreadingHTTPServer(("127.0.0.1", 0), kind) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        try:
            yield S3Blobs(open_bucket("bucket", endpoint=url, tries=3, timeout_s=0.5)), asked
        finally:
            fields["never"].set()  # type: ignore[attr-defined]
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("status", [500, 503, 0], ids=["broken", "busy", "silent"])
def test_a_service_that_fails_is_asked_again_and_then_unavailable(status: int) -> None:
    with failing(status) as (blobs, asked):
        for act in (
            lambda: blobs.put("acme", BlobKind.REPORT, b"some bytes"),
            lambda: blobs.get("acme", BlobKind.REPORT, ADDRESS),
        ):
            asked.clear()
            with pytest.raises(Unavailable) as raised:
                act()
            assert raised.value.retry_after_s is not None
            assert raised.value.__cause__ is not None
            assert asked


def test_a_service_that_refuses_the_key_is_no_refusal_of_a_device() -> None:
    with failing(403) as (blobs, _asked), pytest.raises(PermissionError):
        blobs.check()


def test_a_service_that_is_not_there_is_unavailable() -> None:
    with failing() as (blobs, _asked):
        pass
    with pytest.raises(Unavailable):
        blobs.get("acme", BlobKind.REPORT, ADDRESS)


def test_wrong_bytes_are_found() -> None:
    with failing(body=b"some bites") as (blobs, _asked), pytest.raises(DigestMismatch):
        blobs.get("acme", BlobKind.REPORT, ADDRESS)


def test_an_object_that_is_shorter_than_it_was_is_found() -> None:
    with failing(body=b"some") as (blobs, _asked), pytest.raises(DigestMismatch):
        blobs.get("acme", BlobKind.REPORT, ADDRESS)


def test_an_answer_that_breaks_off_is_never_taken_for_the_whole() -> None:
    with failing(body=b"some", announced=10) as (blobs, _asked), pytest.raises(Unavailable):
        blobs.get("acme", BlobKind.REPORT, ADDRESS)


def test_every_write_carries_a_checksum_that_the_service_can_verify(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, str] = {}
    right = Fault.answer

    def watching(handler: Fault) -> None:
        seen.update(handler.headers.items())
        right(handler)

    monkeypatch.setattr(Fault, "do_PUT", watching)
    with failing() as (blobs, _asked):
        blobs.put("acme", BlobKind.REPORT, b"some bytes")
    assert "x-amz-checksum-sha256" in {name.lower() for name in seen}
