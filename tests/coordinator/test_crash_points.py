"""The coordinator may die at each of its named points: what it does afterwards is what it would have done."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from coordinator.store.blobs import BlobKind
from coordinator.store.crash_points import CrashPoint, crash_point, hooked
from edge_runtime.protocol.keys import digest
from edge_runtime.protocol.measures import encode_measures
from edge_runtime.protocol.plan import Kind, MetricRange
from tests.coordinator.asking import check_in, report_of, send_report
from tests.coordinator.privacy.spending import CENTRAL, entries_of, put_budget
from tests.coordinator.running import begun, reported, rounds_of
from tests.coordinator.test_secure_restarts import SECURE_POINTS
from tests.programme import PLAN, TASK, TENANT, Crash, Home, one_hot, replace

ALONE = replace(PLAN, goal=1, min_reports=1)


def plain(home: Home) -> None:
    """A round of one report, and the opening of the next."""
    home.start_task(ALONE, pool_size=1, rounds=2)
    phone = home.phone(0)
    check_in(home, phone)
    yield_here(home)
    assignment = check_in(home, phone).assignment
    assert assignment is not None
    body = report_of(phone, assignment)
    try:
        assert send_report(home, phone, assignment, body).status_code == 200
    except Crash:
        assert send_report(home, phone, assignment, body).status_code == 200
    yield_here(home)
    assert [one["phase"] for one in rounds_of(home, TASK)] == ["committed", "selecting"]


def buffered(home: Home) -> None:
    """One sum goes into the buffer, and is too old when the second update has been made without it."""
    home.start_task(
        ALONE,
        mode="buffered",
        rounds_at_once=2,
        pool_size=1,
        max_staleness=0,
        server_optimiser={"name": "adam"},
        rounds=9,
    )
    late, quick = home.phone(0), home.phone(1)
    (waiting,) = begun(home, [late], "late")
    (assignment,) = begun(home, [quick], "quick")
    reported(home, quick, assignment, one_hot(1))
    yield_here(home)
    reported(home, late, waiting, one_hot(0))
    yield_here(home)
    assert [one["phase"] for one in rounds_of(home, TASK)][:2] == ["abandoned", "committed"]
    assert rounds_of(home, TASK)[0]["abandonment"] == "too-stale"


def evaluating(home: Home) -> None:
    plan = replace(
        ALONE,
        version=3,
        kind=Kind.EVALUATE,
        metrics=(MetricRange(name="loss", low=0.0, high=4.0),),
        max_examples=8,
        clipping_norm=2.0,
    )
    home.start_task(plan, kind="evaluate", pool_size=1, rounds=1)
    phone = home.phone(0)
    (assignment,) = begun(home, [phone], "one")
    reported(home, phone, assignment, encode_measures(plan, {"loss": 1.0}, 8))
    yield_here(home)
    assert rounds_of(home, TASK)[0]["metrics"] == {"loss": pytest.approx(1.0, abs=1e-4)}


def central(home: Home) -> None:
    """One report, hidden by noise that the coordinator adds."""
    home.app.state.parts = replace(home.app.state.parts, smallest_cohort=1)
    put_budget(home, "recipients", rho=9.0).raise_for_status()
    phone = home.phone(0)
    home.start_task(replace(CENTRAL, goal=1), pool_size=1, rounds=1)
    (assignment,) = begun(home, [phone], "one")
    reported(home, phone, assignment, one_hot(0))
    yield_here(home)
    assert rounds_of(home, TASK)[0]["phase"] == "committed"
    assert [one["kind"] for one in entries_of(home)] == ["budget", "task", "reserved", "charged"]


def damaged(home: Home) -> None:
    home.start_task(ALONE, pool_size=1, rounds=1)
    phone = home.phone(0)
    (assignment,) = begun(home, [phone], "one")
    assert assignment is not None
    reported(home, phone, assignment, one_hot(0))
    body = report_of(phone, assignment, one_hot(0))
    home.app.state.parts.blobs.path(TENANT, BlobKind.REPORT, digest(body).hex()).write_bytes(b"")
    yield_here(home)
    assert rounds_of(home, TASK)[0]["abandonment"] == "storage-damaged"


def infinite(home: Home) -> None:
    """A learning rate that takes the weights beyond float32."""
    home.start_task(
        replace(ALONE, clipping_norm=1e6),
        pool_size=1,
        rounds=1,
        server_optimiser={"name": "adagrad", "learning_rate": 100.0},
    )
    phone = home.phone(0)
    (assignment,) = begun(home, [phone], "one")
    reported(home, phone, assignment, one_hot(0))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "coordinator.core.optimisers.step", lambda _of, state, total, _n: (np.full_like(total, 1e300), state)
        )
        yield_here(home)
    assert rounds_of(home, TASK)[0]["abandonment"] == "update-not-finite"


SCENES: dict[CrashPoint, Callable[[Home], None]] = {
    **dict.fromkeys(CrashPoint, plain),
    CrashPoint.ROUND_BUFFERED: buffered,
    CrashPoint.STALE_DROPPED: buffered,
    CrashPoint.METRICS_COMMITTED: evaluating,
    CrashPoint.NOISE_CHARGED: central,
    CrashPoint.GROUP_ABORTED: damaged,
    CrashPoint.ROUND_GIVEN_UP: infinite,
}


class Dying:
    """Dies at the passing of one point, once."""

    def __init__(self, at: CrashPoint, passing: int) -> None:
        self._at, self._passing = at, passing
        self.died = False

    def __call__(self, point: CrashPoint) -> None:
        if point is self._at and not self.died:
            self._passing -= 1
            if self._passing == 0:
                self.died = True
                raise Crash


def yield_here(home: Home) -> None:
    """The worker looks; when it dies on the way, it looks again."""
    try:
        home.look()
    except Crash:
        home.look()


@contextmanager
def dying(at: CrashPoint, passing: int) -> Iterator[Dying]:
    hook = Dying(at, passing)
    with hooked(hook):
        yield hook


OF_A_BLOB = {
    CrashPoint.CHUNK_STORED,
    CrashPoint.UPDATE_STORED,
    CrashPoint.GARBAGE_DELETED,
    CrashPoint.GARBAGE_RECORDED,
    CrashPoint.REPORT_STORED,
    CrashPoint.REPORT_RECORDED,
}
"""Passed once each time; the others are passed before and after a commit."""
PASSINGS = [
    (point, passing)
    for point in CrashPoint
    for passing in (1, 2)
    if point not in SECURE_POINTS and (passing == 1 or point not in OF_A_BLOB)
]
"""All but those of groups that sum securely: `test_secure_restarts.py` dies at each of these."""


@pytest.mark.parametrize(("point", "passing"), PASSINGS)
def test_whoever_dies_at_a_point_goes_on_as_if_it_had_not(home: Home, point: CrashPoint, passing: int) -> None:
    opened: Any = None
    with dying(point, passing) as hook:
        try:
            SCENES[point](home)
        except Crash as crash:
            opened = crash
    if opened is not None:  # it died while the task was started, before the scene had begun
        assert point is CrashPoint.TASK_TENDED
        home.look()
        assert rounds_of(home, TASK)[0]["phase"] == "selecting"
    assert hook.died, f"nothing passes {point}"


def test_without_a_hook_a_point_does_nothing() -> None:
    for point in CrashPoint:
        crash_point(point)
