"""Who asks, and what every operator call has in common.

A call's token is checked before a byte of its body is read, and a body is read up to the limit of its endpoint. A
request that names itself (`Idempotency-Key`) gets the answer that it got before. Objects have an `ETag`, against which
`If-Match` holds changes; lists come in pages, and the `Link` header names the next one.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Coroutine, Sequence
from typing import Annotated, Any, TypeVar
from urllib.parse import urlencode

from fastapi import Depends, Header, Query, Request
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from coordinator.api.parts import Parts, parts_of, read_body
from coordinator.api.problems import NotChanged
from coordinator.services import catalogue, idempotency
from coordinator.store.tables import Tenant
from edge_runtime.protocol import wire
from edge_runtime.protocol.errors import OperatorUnauthorised, PreconditionFailed

PREFIX = "/v1/operator"
MOST_ITEMS = 500
_BODY_LIMITS: dict[Callable[..., Any], int] = {}
_ETAG = re.compile(r'"v([0-9]{1,9})(?:-[^"]*)?"')

Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])
Item = TypeVar("Item")


class Body(BaseModel):
    """Of a request or an answer; a field that is not known is refused."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


def takes(limit_bytes: int) -> Callable[[Endpoint], Endpoint]:
    """Let an endpoint take bodies larger than a message."""

    def mark(endpoint: Endpoint) -> Endpoint:
        _BODY_LIMITS[endpoint] = limit_bytes
        return endpoint

    return mark


def tenant_of_call(request: Request, parts: Parts) -> Tenant:
    """Whose operator is calling.

    Raises:
        OperatorUnauthorised: No valid token came with the call.
    """
    scheme, _space, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise OperatorUnauthorised("send the operator token: `Authorization: Bearer …`")
    with parts.database.reading() as session:
        return catalogue.tenant_of_token(session, token)


class OperatorRoute(APIRoute):
    """A route that asks for the token first, bounds the body, and answers a request that comes again as before."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        limit_bytes = _BODY_LIMITS.get(self.endpoint, wire.MESSAGE_LIMIT_BYTES)

        async def handle_call(request: Request) -> Response:
            parts = parts_of(request)
            tenant = await run_in_threadpool(tenant_of_call, request, parts)
            request.state.tenant = tenant
            request._body = await read_body(request, limit_bytes)  # what FastAPI and `body_of` take it from
            key = request.headers.get("idempotency-key")
            if key is None or request.method == "GET":
                return await handle(request)
            return await _once(parts, tenant.name, key, request, handle)

        return handle_call


async def _once(
    parts: Parts, tenant: str, key: str, request: Request, handle: Callable[[Request], Coroutine[Any, Any, Response]]
) -> Response:
    """Answer a request that named itself: as before, if it came before; every change is safe to make again."""
    digest = _request_digest(request)

    def before() -> idempotency.Answer | None:
        with parts.database.reading() as session:
            return idempotency.answered(session, tenant, key, digest)

    answer = await run_in_threadpool(before)
    if answer is None:
        response = await handle(request)
        found = idempotency.Answer(
            status=response.status_code, etag=response.headers.get("etag"), body=bytes(response.body)
        )

        def keep() -> idempotency.Answer:
            with parts.database.writing() as session:
                return idempotency.keep(session, tenant, key, digest, found, parts.now())

        answer = await run_in_threadpool(keep)
    headers = {} if answer.etag is None else {"etag": answer.etag}
    media_type = "application/json" if answer.body else None
    return Response(answer.body, answer.status, headers, media_type=media_type)


def _request_digest(request: Request) -> str:
    target = f"{request.method} {request.url.path}?{request.url.query}\n".encode()
    return hashlib.sha256(target + request._body).hexdigest()


def _tenant(request: Request) -> Tenant:
    tenant: Tenant = request.state.tenant
    return tenant


async def body_of(request: Request) -> bytes:
    """The bytes of a body that is no JSON."""
    return await request.body()


TenantOf = Annotated[Tenant, Depends(_tenant)]
RawBody = Annotated[bytes, Depends(body_of)]


# --- versions of objects ------------------------------------------------------------------------------------------


def etag(version: int, *more: object) -> str:
    """The tag of an object in its version; what changes without an operator comes after it."""
    return f'"{"-".join([f"v{version}", *map(str, more)])}"'


IfMatch = Annotated[
    str | None, Header(description="The ETag of the object; refused when somebody changed it meanwhile.")
]


def expected_version(if_match: IfMatch = None) -> int | None:
    """The version that a change is meant for; None where the caller does not say.

    Raises:
        PreconditionFailed: `If-Match` names nothing that this coordinator gave out.
    """
    tag = if_match
    if tag is None or tag.strip() == "*":
        return None
    found = _ETAG.fullmatch(tag.strip())
    if found is None:
        raise PreconditionFailed("If-Match is not an ETag of this object; get it anew")
    return int(found[1])


ExpectedVersion = Annotated[int | None, Depends(expected_version)]


def tagged(request: Request, response: Response, tag: str) -> None:
    """Put an object's tag on its answer; `If-None-Match` with the same tag gets 304 and no body."""
    response.headers["etag"] = tag
    if request.headers.get("if-none-match") == tag:
        raise NotChanged(tag)


# --- pages of lists -----------------------------------------------------------------------------------------------

Limit = Annotated[int, Query(ge=1, le=MOST_ITEMS, description="Items of a page.")]
Cursor = Annotated[
    str, Query(max_length=128, description="From the `Link` header of the page before; absent for the first page.")
]


def paged(
    request: Request, response: Response, found: Sequence[Item], limit: int, cursor_of: Callable[[Item], str]
) -> list[Item]:
    """The first `limit` of the found items; if there are more, the `Link` header says where the next page is."""
    page = list(found[:limit])
    if len(found) > limit:
        query = urlencode({**request.query_params, "cursor": cursor_of(page[-1]), "limit": limit})
        response.headers["link"] = f'<{request.url.path}?{query}>; rel="next"'
    return page
