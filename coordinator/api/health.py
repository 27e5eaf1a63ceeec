"""Whether the process lives, whether it is ready, and what it measured, for whoever watches it."""

from __future__ import annotations

import hmac

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from coordinator.api.parts import PartsOf
from coordinator.metrics import CONTENT_TYPE, Metrics
from coordinator.services import readiness
from edge_runtime.protocol.errors import OperatorUnauthorised

router = APIRouter(tags=["health"])
_LOOPBACK = ("127.0.0.1", "::1", "testclient")


@router.get("/healthz")
def healthz() -> dict[str, str]:
    """The process answers. What it needs is asked for by `/readyz`."""
    return {"status": "ok"}


@router.get("/readyz")
def readyz(request: Request, parts: PartsOf) -> Response:
    """Everything that a request may need is there; 503 with what is not."""
    if request.app.state.draining:
        return JSONResponse({"status": "draining", "problems": ["the process is about to stop"]}, 503)
    problems = readiness.problems(parts.database, parts.blobs)
    return JSONResponse(
        {"status": "not-ready" if problems else "ready", "problems": problems}, 503 if problems else 200
    )


@router.get("/metrics", response_class=Response)
def metrics(request: Request) -> Response:
    """Counters and gauges for Prometheus: from loopback, or with the token of the setting `metrics_token`.

    Raises:
        OperatorUnauthorised: It is asked for from elsewhere without the token.
    """
    wanted: str = request.app.state.metrics_token
    given = request.headers.get("authorization", "").removeprefix("Bearer ")
    if wanted:
        allowed = hmac.compare_digest(given.encode(), wanted.encode())
    else:
        allowed = request.client is not None and request.client.host in _LOOPBACK
    if not allowed:
        raise OperatorUnauthorised("metrics are for loopback; elsewhere set EDGEWISE_METRICS_TOKEN, and send it")
    found: Metrics = request.app.state.metrics
    return Response(found.text(), media_type=CONTENT_TYPE)
