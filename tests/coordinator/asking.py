"""Single requests to a coordinator of the tests, below the level of whole visits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import httpx
import numpy as np

from coordinator.api.problems import STATUSES
from edge_runtime.privacy import private_report
from edge_runtime.protocol import wire
from edge_runtime.protocol.checkin import CHECK_IN_PATH, Assignment, CheckIn, CheckInAnswer
from edge_runtime.protocol.enrolment import Problem
from edge_runtime.protocol.errors import REFUSALS
from edge_runtime.protocol.keys import digest
from edge_runtime.protocol.plan import Plan
from edge_runtime.protocol.reasons import Outcome
from edge_runtime.protocol.report import OutcomeNote, outcome_path, report_path
from edge_runtime.protocol.signing import NONCE_BYTES, sign_request
from tests.programme import POPULATION, Home, Phone, one_hot

_nonces = iter(range(1 << 62))


def signature(phone: Phone, method: str, path: str, body: bytes = b"", nonce: bytes | None = None) -> dict[str, str]:
    return sign_request(
        phone.driver.key,
        phone.driver.device_id,
        method,
        path,
        body,
        created=int(phone.clock.at.timestamp()),
        nonce=nonce or next(_nonces).to_bytes(NONCE_BYTES, "big"),
    )


def ask(home: Home, phone: Phone, method: str, path: str, body: bytes = b"", **headers: str) -> httpx.Response:
    """One signed request; `headers` with `_` for `-` are added."""
    extra = {name.replace("_", "-"): value for name, value in headers.items()}
    return home.request(method, path, content=body, headers={**signature(phone, method, path, body), **extra})


def refusal(answer: httpx.Response) -> str:
    """The code of a problem, whose every field is as it must be."""
    assert answer.headers["content-type"] == "application/problem+json"
    problem = wire.decode(Problem, answer.content)
    assert problem.status == answer.status_code >= 400
    assert problem.type == f"urn:edgewise:refusal:{problem.code}"
    assert (problem.title, problem.retry) == (REFUSALS[problem.code].title, REFUSALS[problem.code].retry)
    if answer.status_code not in (404, 405, 422, 500):
        assert answer.status_code == STATUSES[problem.code]
    return problem.code


def offer(phone: Phone, visit: str = "first", population: str = POPULATION, examples: int = 32) -> bytes:
    return wire.encode(
        CheckIn(
            version=1,
            population=population,
            visit=digest(visit.encode(), bytes([phone.number])).hex()[:32],
            runtime="none",
            examples=examples,
        )
    )


def check_in(home: Home, phone: Phone, visit: str = "first", **fields: Any) -> CheckInAnswer:
    answer = ask(home, phone, "POST", CHECK_IN_PATH, offer(phone, visit, **fields))
    assert answer.status_code == 200, answer.text
    return wire.decode(CheckInAnswer, answer.content)


def assigned(home: Home, phones: Sequence[Phone], population: str = POPULATION) -> list[Assignment]:
    """Bring every phone into the selecting round, let it choose, and fetch each one's assignment."""
    for phone in phones:
        check_in(home, phone, "before", population=population)
    home.look()
    answers = [check_in(home, phone, population=population).assignment for phone in phones]
    found = [assignment for assignment in answers if assignment is not None]
    assert len(found) == len(phones)
    return found


def report_of(phone: Phone, assignment: Assignment, delta: np.ndarray[Any, Any] | None = None, seed: int = 0) -> bytes:
    plan = wire.decode(Plan, assignment.plan)
    change = one_hot(phone.number) if delta is None else delta
    return private_report(assignment.participation, change, plan, np.random.default_rng(seed))


def send_report(home: Home, phone: Phone, assignment: Assignment, body: bytes | None = None) -> httpx.Response:
    raw = report_of(phone, assignment) if body is None else body
    return ask(home, phone, "PUT", report_path(assignment.participation), raw)


def send_outcome(
    home: Home, phone: Phone, assignment: Assignment, reason: Outcome = Outcome.BATTERY_LOW
) -> httpx.Response:
    note = wire.encode(OutcomeNote(version=1, reason=reason))
    return ask(home, phone, "POST", outcome_path(assignment.participation), note)
