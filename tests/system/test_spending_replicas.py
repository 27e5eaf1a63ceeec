"""Two workers' processes on one PostgreSQL: tasks race for one budget, a worker dies, and no entry overspends it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.postgres import OwnServer, own_server
from tests.system.spending_replicas import check, spend, spenders

ROUNDS = 7


@pytest.fixture(scope="module")
def postgres() -> Iterator[OwnServer]:
    with own_server() as server:
        yield server


def test_two_workers_processes_cannot_overspend_one_budget_though_one_is_killed(
    tmp_path: Path, postgres: OwnServer
) -> None:
    """Six tasks, whose budget is for seven rounds and a half. One worker dies where both wait for the ledger."""
    with spenders(tmp_path / "home", postgres) as here:
        spend(here, ROUNDS + 0.5)
        assert check(here, ROUNDS + 0.5) == ROUNDS
