"""Refusals as RFC 9457 problem details: the one table of statuses."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from datetime import datetime

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from edge_runtime.protocol import wire
from edge_runtime.protocol.enrolment import Problem
from edge_runtime.protocol.errors import Malformed, NotFound, PrivacyRefusal, Refusal, Unavailable

_log = logging.getLogger("edgewise.api")

STATUSES: Mapping[str, int] = {
    "bad-signature": 401,
    "body-too-large": 413,
    "box-not-opened": 422,
    "budget-spent": 409,
    "clock-skew": 401,
    "cohort-too-small": 422,
    "conflict": 409,
    "conflicting-report": 409,
    "contradicted-group": 409,
    "contradicted-round": 409,
    "device-left": 410,
    "device-storage-full": 507,
    "digest-mismatch": 422,
    "group-ended": 410,
    "interpreter-failed": 422,
    "interpreter-missing": 422,
    "invalid-budget": 422,
    "invalid-clipping-norm": 422,
    "invalid-examples": 422,
    "invalid-group": 422,
    "invalid-limits": 422,
    "invalid-noise": 422,
    "invalid-plan": 422,
    "invalid-roster": 422,
    "invalid-target-delta": 422,
    "invalid-weights": 422,
    "lanes-out-of-range": 422,
    "ledger-closed": 409,
    "ledger-damaged": 409,
    "malformed": 400,
    "malformed-bundle": 422,
    "malformed-checkpoint": 422,
    "malformed-report": 422,
    "mode-not-given": 422,
    "no-authority": 409,
    "noise-lowered": 409,
    "non-finite-training": 422,
    "not-covered": 422,
    "not-found": 404,
    "not-reserved": 409,
    "operator-unauthorised": 401,
    "opinions-differ": 409,
    "participation-ended": 410,
    "precondition-failed": 412,
    "privacy-refused": 422,
    "replayed-request": 409,
    "report-length": 422,
    "round-closed": 410,
    "schema-changed": 409,
    "state-damaged": 422,
    "state-in-use": 409,
    "step-not-allowed": 409,
    "storage-full": 507,
    "switched-off": 403,
    "too-few-survivors": 409,
    "unavailable": 503,
    "unknown-collection": 404,
    "unknown-device": 401,
    "unknown-participation": 404,
    "unsupported-version": 400,
    "untrusted-document": 422,
    "wrong-checkpoint": 422,
    "wrong-share": 422,
    "wrong-storage-key": 422,
}
"""A status for each refusal code; a test holds it against `REFUSALS`."""


class NotChanged(Exception):
    """What the caller holds is the newest."""

    def __init__(self, tag: str) -> None:
        super().__init__(tag)
        self.tag = tag


def problem_of(refusal: Refusal, now: datetime, status: int | None = None) -> Problem:
    """A refusal as a message, with the time by the clock that signatures are held against."""
    return Problem(
        type=f"urn:edgewise:refusal:{refusal.code}",
        title=refusal.title,
        status=status or STATUSES[refusal.code],
        detail=refusal.detail,
        code=refusal.code,
        retry=refusal.retry,
        retry_after_s=refusal.retry_after_s,
        server_time=int(now.timestamp()),
    )


def problem_response(
    request: Request, refusal: Refusal, status: int | None = None, headers: Mapping[str, str] | None = None
) -> Response:
    """Write a refusal as `application/problem+json`."""
    problem = problem_of(refusal, request.app.state.parts.now(), status)
    body = wire.encode(problem)
    if isinstance(refusal, PrivacyRefusal):  # for operators: no device is sent one
        more = {"reason": refusal.reason, "nearest": refusal.nearest}
        body = json.dumps(json.loads(body) | more, sort_keys=True).encode()
    challenge = {"www-authenticate": "Bearer"} if refusal.code == "operator-unauthorised" else {}
    return Response(body, problem.status, {**challenge, **(headers or {})}, media_type="application/problem+json")


def answer_with_problems(app: FastAPI) -> None:
    """Make every error of an application a problem with a permanent code."""

    @app.exception_handler(Refusal)
    async def refused(request: Request, problem: Refusal) -> Response:
        return problem_response(request, problem)

    @app.exception_handler(NotChanged)
    async def not_changed(_request: Request, problem: NotChanged) -> Response:
        return Response(status_code=304, headers={"etag": problem.tag})

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, problem: RequestValidationError) -> Response:
        first = problem.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        return problem_response(request, Malformed(f"{where}: {first['msg']}"), 422)

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, problem: HTTPException) -> Response:
        if problem.status_code == 404:
            return problem_response(request, NotFound(f"there is nothing at {request.url.path}"))
        return problem_response(request, Malformed(str(problem.detail)), problem.status_code, problem.headers)

    @app.exception_handler(Exception)
    async def bug(request: Request, problem: Exception) -> Response:
        _log.error("a bug answered %s %s", request.method, request.url.path, exc_info=problem)
        sorry = Unavailable("the coordinator made a mistake; it is in its log", retry_after_s=60)
        return problem_response(request, sorry, 500)
