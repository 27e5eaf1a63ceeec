"""Around every request: an id for it, its time and size counted, and a line in the log where that is wanted."""

from __future__ import annotations

import itertools
import logging
import re
import secrets
import time
from collections.abc import Mapping

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from coordinator.logs import AccessLog, request_id
from coordinator.metrics import Metrics

_log = logging.getLogger("edgewise.access")
_GIVEN = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_METHODS = frozenset(("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"))


class Observed:
    """An ASGI application around another one; it reads no body and keeps no answer."""

    def __init__(self, app: ASGIApp, metrics: Metrics, access: AccessLog) -> None:
        self._app = app
        self._metrics = metrics
        self._access = access
        self._prefix = secrets.token_hex(4)
        self._numbers = itertools.count(1)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers: Mapping[bytes, bytes] = dict(scope["headers"])
        named = headers.get(b"x-request-id", b"")
        name = named if named and _GIVEN.fullmatch(named) else f"{self._prefix}-{next(self._numbers):x}".encode()
        token = request_id.set(name.decode())
        began = time.perf_counter()
        status = 500

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", name)]
            await send(message)

        try:
            await self._app(scope, receive, answer)
        finally:
            self._count(scope, status, time.perf_counter() - began, headers.get(b"content-length", b"0"))
            request_id.reset(token)

    def _count(self, scope: Scope, status: int, seconds: float, length: bytes) -> None:
        method = scope["method"] if scope["method"] in _METHODS else "OTHER"
        route = _template(scope)
        received = int(length) if length.isdigit() and len(length) < 16 else 0
        self._metrics.request(method, route, status, seconds, received)
        operators = route.startswith("/v1/operator") or status >= 500
        if self._access is AccessLog.ALL or (self._access is AccessLog.OPERATORS and operators):
            facts = {"method": method, "path": scope["path"], "status": status, "ms": round(1000 * seconds, 1)}
            _log.info("%(method)s %(path)s %(status)d in %(ms).1f ms", facts, extra={"http": facts})


def _template(scope: Scope) -> str:
    """The path with names in place of what varies, as the description of the API has it; "none" if nothing is there."""
    if "endpoint" not in scope:
        return "none"
    if not scope.get("path_params"):
        return str(scope["path"])
    names = {value: f"{{{name}}}" for name, value in scope["path_params"].items()}
    return "/".join(names.get(part, part) for part in scope["path"].split("/"))
