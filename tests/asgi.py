"""One request to an ASGI application in this process, without what a client adds around it."""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping
from typing import Any

import httpx
from starlette.types import ASGIApp

_Event = MutableMapping[str, Any]


async def answer_of(app: ASGIApp, request: httpx.Request) -> httpx.Response:
    """What an application answers; 500 when it fails, as a server would answer for it."""
    body = request.stream.__aiter__()  # type: ignore[union-attr]  # a request of an asynchronous client
    done = asyncio.Event()
    read = False
    began: _Event = {"status": 500}
    parts: list[bytes] = []

    async def receive() -> _Event:
        nonlocal read
        if read:
            await done.wait()
            return {"type": "http.disconnect"}
        try:
            return {"type": "http.request", "body": await body.__anext__(), "more_body": True}
        except StopAsyncIteration:
            read = True
            return {"type": "http.request", "body": b"", "more_body": False}

    async def send(event: _Event) -> None:
        if event["type"] == "http.response.start":
            began.update(event)
            return
        parts.append(event.get("body", b""))
        if not event.get("more_body", False):
            done.set()

    try:
        await app(_scope(request), receive, send)
    except Exception:
        done.set()
    assert done.is_set()
    content = b"" if request.method == "HEAD" else b"".join(parts)
    return httpx.Response(began["status"], headers=began.get("headers"), content=content, request=request)


def _scope(request: httpx.Request) -> dict[str, Any]:
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": request.method,
        "headers": [(name.lower(), value) for name, value in request.headers.raw],
        "scheme": request.url.scheme,
        "path": request.url.path,
        "raw_path": request.url.raw_path.split(b"?")[0],
        "query_string": request.url.query,
        "server": (request.url.host, request.url.port),
        "client": ("127.0.0.1", 123),
        "root_path": "",
    }
