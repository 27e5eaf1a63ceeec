"""What the routers share: the parts joined in `coordinator.app`, and how a body is read."""

from __future__ import annotations

import hashlib
import re
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Final, TypeVar, cast

from fastapi import Depends, Request
from sqlmodel import Session
from starlette.requests import ClientDisconnect
from starlette.responses import FileResponse, Response, StreamingResponse
from starlette.types import Receive, Scope

from coordinator.api.bell import Bell
from coordinator.api.desk import Desk, DeskFull
from coordinator.core.privacy.settings import SMALLEST_COHORT
from coordinator.services.device_calls import Call
from coordinator.services.privacy_claims import SecondOpinion
from coordinator.store.blobs import STEP_BYTES, BlobKind, Blobs
from coordinator.store.database import Database
from coordinator.store.tables import Device
from edge_runtime.protocol import wire
from edge_runtime.protocol.errors import BodyTooLarge, Malformed, Unavailable
from edge_runtime.protocol.keys import SigningKey
from edge_runtime.protocol.signing import SIGNATURE_HEADERS, SignedBy, claimed, verify_body

Answer = TypeVar("Answer")
Asked = TypeVar("Asked")

BUSY_AFTER_S: Final = 10.0
_LENGTH_DIGITS = 18
_RANGE = re.compile(r"bytes=([0-9]{1,18})-([0-9]{0,18})")
_BYTES = "application/octet-stream"
_DEVICE_HEADERS = {name.encode(): name for name in (*SIGNATURE_HEADERS, "content-length")}


@dataclass(frozen=True, slots=True)
class Parts:
    """Everything a request may need."""

    database: Database
    blobs: Blobs
    key: SigningKey
    now: Callable[[], datetime]
    bell: Bell
    calls: Desk[Call, object]
    """Signed requests that wait for their transaction."""
    looks: Desk[Callable[[Session], object], object]
    """Questions that are asked again while they are held."""
    hold_s: float
    authority: SigningKey | None = None
    """Certifies devices; None where there is none."""
    smallest_cohort: int = SMALLEST_COHORT
    """No task that claims privacy addresses fewer devices."""
    second_opinion: Callable[[], SecondOpinion | None] = lambda: None
    """Finds who gives second opinions; None where nobody is asked."""


def parts_of(request: Request) -> Parts:
    parts: Parts = request.app.state.parts
    return parts


PartsOf = Annotated[Parts, Depends(parts_of)]


async def body_of(headers: Mapping[str, str], receive: Receive, limit_bytes: int) -> bytes:
    """Read a whole body, and stop reading as soon as it is too large.

    Raises:
        BodyTooLarge: It is.
        ClientDisconnect: The peer is gone.
    """
    _check_announced(headers.get("content-length", "0"), limit_bytes)
    parts = [part async for part in body_parts(receive, limit_bytes)]
    return parts[0] if len(parts) == 1 else b"".join(parts)


async def body_parts(receive: Receive, limit_bytes: int) -> AsyncIterator[bytes]:
    """The parts of a body as they come.

    Raises: As `body_of`.
    """
    read_bytes, more = 0, True
    while more:
        event = await receive()
        if event["type"] == "http.disconnect":
            raise ClientDisconnect
        part: bytes = event.get("body", b"")
        read_bytes += len(part)
        if read_bytes > limit_bytes:
            raise BodyTooLarge(f"more than {limit_bytes} bytes came; this endpoint takes no more")
        yield part
        more = event.get("more_body", False)


def _check_announced(announced: str, limit_bytes: int) -> None:
    if not announced.isdecimal() or len(announced) > _LENGTH_DIGITS or int(announced) > limit_bytes:
        raise BodyTooLarge(f"a longer body is announced than the {limit_bytes} bytes that this endpoint takes")


async def read_body(request: Request, limit_bytes: int) -> bytes:
    """Read the whole body of a request.

    Raises: As `body_of`.
    """
    return await body_of(request.headers, request.receive, limit_bytes)


def target_of(scope: Scope) -> str:
    """Path and query as they stood on the request line."""
    path: bytes = scope.get("raw_path") or scope["path"].encode()
    query: bytes = scope["query_string"]
    return (path + (b"?" + query if query else b"")).decode("latin-1")


def device_headers(scope: Scope) -> dict[str, str]:
    """The headers that say who asks, and how long the body is; one that is there twice counts as the list it is."""
    found: dict[str, str] = {}
    for raw, value in scope["headers"]:
        name = _DEVICE_HEADERS.get(raw)
        if name is not None:
            text = value.decode("latin-1")
            found[name] = f"{found[name]}, {text}" if name in found else text
    return found


def signature_of(request: Request) -> SignedBy:
    """Read the signature headers.

    Raises:
        BadSignature: They are not in the form of the device profile.
    """
    return claimed(device_headers(request.scope))


async def signed_body(request: Request, limit_bytes: int = wire.MESSAGE_LIMIT_BYTES) -> tuple[SignedBy, bytes]:
    """Read the signature headers, then a body that matches the digest they sign.

    Raises:
        BadSignature, DigestMismatch, BodyTooLarge: As they say.
    """
    claim = signature_of(request)
    body = await read_body(request, limit_bytes)
    verify_body(claim, hashlib.sha256(body).digest())
    return claim, body


async def as_device(
    request: Request,
    parts: Parts,
    claim: SignedBy,
    act: Callable[[Session, Device, datetime], Answer],
    *,
    leaving: bool = False,
) -> Answer:
    """Authenticate the device and act for it, off the event loop, in one transaction with others who ask meanwhile.

    The transaction may be repeated: `act` reads and writes by the session, and does nothing else.

    A device that left, or whose population is switched off, may do nothing but leave.

    A refusal undoes what was done and is remembered all the same: a refused request cannot be replayed either.

    Raises:
        Unavailable: Too many ask at once; nothing was done.
    """
    call = Call(claim, request.method, target_of(request.scope), act, leaving)
    return cast("Answer", await _asked(parts.calls, call))


async def look(parts: Parts, see: Callable[[Session], Answer]) -> Answer:
    """Read off the event loop, in one view with others who look meanwhile.

    Raises:
        Unavailable: Too many ask at once.
    """
    return cast("Answer", await _asked(parts.looks, see))


async def _asked(desk: Desk[Asked, object], asked: Asked) -> object:
    try:
        return await desk.ask(asked)
    except DeskFull:
        raise Unavailable("too many requests wait already", retry_after_s=BUSY_AFTER_S) from None


def message(answer: object) -> Response:
    """A protocol message as a response."""
    return Response(wire.encode(answer), media_type="application/json")


class BlobResponse(FileResponse):
    """A file, read in steps large enough that a checkpoint of a phone's model takes one or two."""

    chunk_size = STEP_BYTES


def blob_response(blobs: Blobs, tenant: str, kind: BlobKind, sha256: str, wanted: str | None) -> Response:
    """The immutable bytes of a blob, wherever blobs are. Blocks, so not on the event loop.

    Args:
        wanted: The header `Range`: one range of bytes, or none for all of them.

    Raises:
        NotFound: There is no such blob.
        Malformed: The range is not one range within the blob.
        Unavailable: The place of the blobs does not answer.
    """
    size = blobs.size(tenant, kind, sha256)
    start, end = _range(wanted, size)
    headers = {"cache-control": "private, max-age=31536000, immutable", "etag": f'"{sha256}"'}
    file = blobs.file_of(tenant, kind, sha256)
    if file is not None:
        return BlobResponse(file, media_type=_BYTES, headers=headers)  # it reads the header itself
    headers |= {"accept-ranges": "bytes", "content-length": str(end - start)}
    if wanted is not None:
        headers["content-range"] = f"bytes {start}-{end - 1}/{size}"
    steps = blobs.stream(tenant, kind, sha256, start, end)
    return StreamingResponse(steps, 200 if wanted is None else 206, headers, media_type=_BYTES)


def _range(wanted: str | None, size: int) -> tuple[int, int]:
    """The first byte that is wanted, and the one after the last."""
    if wanted is None:
        return 0, size
    found = _RANGE.fullmatch(wanted)
    if found is None or int(found[1]) >= size or (found[2] and int(found[2]) < int(found[1])):
        raise Malformed(f"the range is not one within the blob's {size} bytes")
    return int(found[1]), min(int(found[2]) + 1, size) if found[2] else size
