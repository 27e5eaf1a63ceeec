"""A task of the tests whose rounds are run step by step: who checks in, who reports, and what came of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from sqlmodel import Session, select

from coordinator.store.tables import Task
from edge_runtime.protocol.checkin import Assignment
from edge_runtime.protocol.checkpoint import Weights, verify_checkpoint
from tests.coordinator.asking import check_in, report_of, send_report
from tests.programme import BUNDLE_SHA256, COORDINATOR_KEY, MANIFEST, PLAN, TASK, Home, Phone, one_hot, replace

ALONE = replace(PLAN, goal=1, min_reports=1)
"""A plan that one phone can do."""


def weights_of(home: Home, sha256: str) -> Weights:
    raw = home.operator("GET", f"/checkpoints/{sha256}/content").raise_for_status().content
    return verify_checkpoint(
        raw, sha256, COORDINATOR_KEY.public, bundle_sha256=BUNDLE_SHA256, parameters=MANIFEST.parameters
    ).weights


def rounds_of(home: Home, task: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = home.operator("GET", f"/tasks/{task}/rounds").raise_for_status().json()
    return found


def task_of(home: Home, task: str) -> dict[str, Any]:
    found: dict[str, Any] = home.operator("GET", f"/tasks/{task}").raise_for_status().json()
    return found


@contextmanager
def stored(home: Home, name: str) -> Iterator[tuple[Session, Task]]:
    """A task as it is in the database, to read."""
    with home.app.state.parts.database.reading() as session:
        yield session, session.exec(select(Task).where(Task.name == name)).one()


def written(home: Home, act: Callable[[Session], Any]) -> Any:
    """What an act in one transaction answers."""
    with home.app.state.parts.database.writing() as session:
        return act(session)


def act(home: Home, what: str, task: str = TASK) -> dict[str, Any]:
    """An operator starts, pauses, resumes or cancels a task; the task."""
    answer: dict[str, Any] = home.operator("POST", f"/tasks/{task}/{what}").raise_for_status().json()
    return answer


def begun(home: Home, phones: Sequence[Phone], visit: str) -> list[Assignment | None]:
    """Phones check in, the worker looks, and each hears whether it was chosen."""
    for phone in phones:
        check_in(home, phone, f"before {visit}")
    home.look()
    return [check_in(home, phone, f"for {visit}").assignment for phone in phones]


def reported(home: Home, phone: Phone, assignment: Assignment | None, delta: np.ndarray[Any, Any]) -> None:
    assert assignment is not None
    answer = send_report(home, phone, assignment, report_of(phone, assignment, delta))
    assert answer.status_code == 200, answer.text


def one_round(home: Home, number: int, visit: str) -> None:
    """One phone does a whole round alone."""
    phone = home.phone(number)
    (assignment,) = begun(home, [phone], visit)
    reported(home, phone, assignment, one_hot(number))
    home.look()
