"""What devices and operators download, and what devices send, wherever blobs are: a folder or a bucket."""

from __future__ import annotations

import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from coordinator.store.blobs import FolderBlobs
from coordinator.store.s3 import S3Blobs
from edge_runtime.protocol.checkin import bundle_path, checkpoint_path
from edge_runtime.protocol.keys import digest
from tests.coordinator.asking import ask, assigned, refusal, report_of, send_report
from tests.programme import BUNDLE, BUNDLE_SHA256, PLAN, Clock, Home, Phone, copy_home, open_home, replace
from tests.s3 import KEYS, serving


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with serving() as url:
        yield url


@pytest.fixture(params=["folder", "s3"])
def home(
    request: pytest.FixtureRequest,
    made: tuple[Path, str],
    tmp_path: Path,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Home]:
    """A coordinator with a task that one phone can do alone."""
    changes = {}
    if request.param == "s3":
        endpoint, bucket = request.getfixturevalue("endpoint"), f"edgewise-{uuid.uuid4().hex}"
        urllib.request.urlopen(urllib.request.Request(f"{endpoint}/{bucket}", method="PUT")).close()
        for name, value in {**KEYS, "AWS_ENDPOINT_URL": endpoint}.items():
            monkeypatch.setenv(name, value)
        changes["blob_url"] = f"s3://{bucket}/pre/fix"
    with open_home(copy_home(made[0], tmp_path / "home"), clock, made[1], **changes) as opened:
        assert isinstance(opened.app.state.parts.blobs, S3Blobs if changes else FolderBlobs)
        opened.start_task(replace(PLAN, goal=1, min_reports=1), pool_size=1)
        yield opened


@pytest.fixture
def phone(home: Home) -> Phone:
    return home.phone(0)


def test_a_bundle_is_downloaded_whole_or_in_ranges(home: Home, phone: Phone) -> None:
    path, middle, last = bundle_path(BUNDLE_SHA256), len(BUNDLE) // 2, len(BUNDLE) - 1
    whole = ask(home, phone, "GET", path)
    assert (whole.status_code, whole.content) == (200, BUNDLE)
    assert (whole.headers["etag"], whole.headers["accept-ranges"]) == (f'"{BUNDLE_SHA256}"', "bytes")
    assert whole.headers["content-length"] == str(len(BUNDLE))
    assert "immutable" in whole.headers["cache-control"]
    for wanted, start, end in [
        (f"bytes=0-{middle - 1}", 0, middle - 1),
        (f"bytes={middle}-", middle, last),
        (f"bytes={middle}-{10**15}", middle, last),
        (f"bytes={last}-{last}", last, last),
        (f"bytes=0-{last}", 0, last),
    ]:
        answer = ask(home, phone, "GET", path, range=wanted)
        assert (answer.status_code, answer.content) == (206, BUNDLE[start : end + 1])
        assert answer.headers["content-range"] == f"bytes {start}-{end}/{len(BUNDLE)}"
        assert answer.headers["content-length"] == str(end + 1 - start)


@pytest.mark.parametrize("wanted", ["bytes=999999999-", "bytes=5-2", "lines=1-2", "bytes=x", "bytes=0-1,3-4", ""])
def test_a_range_that_is_none_is_refused_by_name(home: Home, phone: Phone, wanted: str) -> None:
    assert refusal(ask(home, phone, "GET", bundle_path(BUNDLE_SHA256), range=wanted)) == "malformed"
    path = f"/checkpoints/{home.task()['checkpoint_sha256']}/content"
    assert home.operator("GET", path, headers={"range": wanted}).json()["code"] == "malformed"


def test_what_is_not_there_is_not_found(home: Home, phone: Phone) -> None:
    for path in (bundle_path("0" * 64), checkpoint_path("0" * 64), bundle_path("x")):
        assert refusal(ask(home, phone, "GET", path)) == "not-found"
    assert home.operator("GET", f"/checkpoints/{'0' * 64}/content").status_code == 404


def test_a_device_gets_what_its_operator_sees(home: Home, phone: Phone) -> None:
    sha256 = home.task()["checkpoint_sha256"]
    raw = ask(home, phone, "GET", checkpoint_path(sha256)).content
    assert digest(raw).hex() == sha256
    assert home.operator("GET", f"/checkpoints/{sha256}/content").content == raw


def test_a_report_is_counted_and_its_blob_deleted(home: Home, phone: Phone) -> None:
    (assignment,) = assigned(home, [phone])
    body = report_of(phone, assignment)
    first = send_report(home, phone, assignment, body)
    assert send_report(home, phone, assignment, body).content == first.content
    before = [one.name for one in home.app.state.parts.blobs.stored() if one.kind == "reports"]
    assert before == [digest(body).hex()]
    home.look()
    assert (home.rounds()[0]["phase"], home.rounds()[0]["reports"]) == ("committed", 1)
    assert not [one for one in home.app.state.parts.blobs.stored() if one.kind in ("reports", "partial-sums")]
