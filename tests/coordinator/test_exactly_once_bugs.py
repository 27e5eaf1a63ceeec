"""Mutants of adding up, each of which loses a report or counts one twice: every history sees it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlmodel import col, delete, select

from coordinator.core.aggregation import buffered_sum
from coordinator.core.rounds import GroupPhase
from coordinator.services import reports, sums, updates
from coordinator.store.blobs import BlobKind
from coordinator.store.tables import Group, Report
from edge_runtime.protocol.secure_sum.lanes import sum_lanes
from tests.coordinator.histories import History, Job, one_round

pytestmark = pytest.mark.usefixtures("beginnings")


def test_counting_a_report_twice_is_caught(made: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> None:
    def all_of_the_group(session: Any, blobs: Any, tenant: str, group_id: str, chunk: int, _codec: Any) -> bytes:
        everything = select(Report.sha256).where(Report.group_id == group_id)
        bodies = [blobs.get(tenant, BlobKind.REPORT, sha256) for sha256 in session.exec(everything).all()]
        total = sum_lanes(np.frombuffer(body, "<u4", offset=32) for body in bodies)
        return b"".join([bytes(16), chunk.to_bytes(4, "little"), total.tobytes()])

    monkeypatch.setattr(sums, "add_chunk", all_of_the_group)
    with pytest.raises(AssertionError, match="counted twice"):
        one_round(*made)


def test_forgetting_a_report_is_caught(made: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> None:
    def only_full_chunks(session: Any, group_id: str, chunk_reports: int) -> bool:
        waiting = select(Report).where(Report.group_id == group_id, Report.chunk == None)  # noqa: E711
        return len(session.exec(waiting).all()) >= chunk_reports

    def closed(session: Any, round_id: str) -> bool:
        phases = session.exec(select(Group.phase).where(Group.round_id == round_id)).all()
        return set(phases) == {GroupPhase.ADDING}

    monkeypatch.setattr(sums, "wants_chunk", only_full_chunks)
    monkeypatch.setattr(updates, "is_added_up", closed)
    with pytest.raises(AssertionError, match="acknowledged and lost"):
        one_round(*made)


def test_a_receipt_before_the_report_is_durable_is_caught(
    made: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    right = reports.record_report

    def forgetful(session: Any, *arguments: Any) -> Any:
        receipt = right(session, *arguments)
        session.flush()
        if len(session.exec(select(Report)).all()) == 3:
            session.exec(delete(Report).where(col(Report.participation_id) == arguments[1]))
        return receipt

    monkeypatch.setattr(reports, "record_report", forgetful)
    with pytest.raises(AssertionError, match="acknowledged and lost"):
        one_round(*made)


def test_a_sum_that_is_applied_and_stays_in_the_buffer_is_caught(
    made: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    right = updates.compute_update

    def forgetting_one(*arguments: Any) -> Any:
        update = right(*arguments)
        return replace(update, rounds=update.rounds[1:], groups=update.groups[1:])

    monkeypatch.setattr(updates, "compute_update", forgetting_one)
    with pytest.raises(AssertionError, match="counted twice"):
        one_round(*made, job=Job("words", buffered=True))


def test_a_stale_sum_of_full_weight_is_caught(made: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> None:
    right = buffered_sum

    def wave(history: History, *numbers: int) -> None:
        for number in numbers:
            history.check_in(number, anew=True)
        history.look()
        for number in numbers:
            history.check_in(number, anew=False)

    def one_is_late() -> None:
        """Phones 0 and 1 report when the model has moved on; two more make up the next update with them."""
        history = History(*made, [Job("words", buffered=True)])
        try:
            wave(history, 0, 1)
            for numbers in ((2, 3), (2, 3), (0, 1), (2, 3)):
                if 2 in numbers:
                    wave(history, *numbers)
                for number in numbers:
                    history.report(number)
                history.look()
            assert [one["model_version"] for one in history.home.rounds()][:4] == [0, 0, 0, 1]
            assert history.home.task()["model_version"] == 2
            history.check()
        finally:
            history.close()

    one_is_late()
    monkeypatch.setattr(updates, "buffered_sum", lambda held, _exponent: right(held, 0.0))
    with pytest.raises(AssertionError, match="counted twice"):
        one_is_late()


def test_taking_other_bytes_under_the_same_id_is_caught(
    made: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A check that never finds a report already held records it again."""
    monkeypatch.setattr(reports, "check_acceptable", lambda *_arguments: None)
    history = History(*made)
    try:
        for number in range(3):
            history.check_in(number, anew=False)
        history.look()
        history.check_in(0, anew=False)
        history.report(0)
        with pytest.raises(AssertionError):
            history.report(0)
    finally:
        history.close()
