"""Secure rounds with whatever can happen to them: each report is in one opened sum at most, and that sum is exact."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from sqlmodel import Session

from coordinator.services import reports
from edge_runtime.protocol.report import Receipt
from tests.coordinator.secure_histories import Beginning, beginning, play

SEEDS = range(1, 9)


@pytest.fixture(scope="module")
def begun() -> Iterator[Beginning]:
    with beginning() as made:
        yield made


def test_whatever_happens_each_report_is_in_one_opened_sum_at_most(begun: Beginning) -> None:
    told = [play(begun, seed) for seed in SEEDS]
    assert sum(history.deaths for history in told) >= 2, "short histories in which nothing happens show nothing"
    assert sum(bool(history.sums) for history in told) >= 3


def test_a_receipt_for_a_report_that_is_not_kept_is_found_out(
    begun: Beginning, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mutant: what a receipt acknowledges is rolled back."""
    right = reports.record_report

    def forgets(session: Session, *of: Any) -> Receipt:
        undone = session.begin_nested()
        receipt = right(session, *of)
        undone.rollback()
        return receipt

    monkeypatch.setattr(reports, "record_report", forgets)
    with pytest.raises(AssertionError, match="for nothing"):
        play(begun, 1)
