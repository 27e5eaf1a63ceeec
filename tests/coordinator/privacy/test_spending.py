"""Rounds and the ledger: reserved before they begin, charged before they are opened, once; never given back."""

from __future__ import annotations

import contextlib
import logging
from typing import Any

import mpmath
import pytest
from sqlmodel import Session, select

from coordinator.core.privacy.chain import genesis
from coordinator.services import ledger, spending
from coordinator.store.crash_points import CrashPoint, hooked
from coordinator.store.privacy_tables import EntryRow, LedgerRow
from coordinator.store.tables import Round
from edge_runtime.protocol.group import Step
from tests.coordinator.privacy.oracle import least_over_orders
from tests.coordinator.privacy.spending import (
    DELTA,
    FEW,
    RHO,
    WHOSE,
    budget_of,
    in_a_round,
    kinds_of,
    members,
    ordered,
    put_budget,
    statement_of,
)
from tests.coordinator.secure import STEPS, SecurePhone, groups_of, in_database, meet, sums_seen
from tests.programme import POPULATION, Crash, Home


def played(home: Home, phones: list[SecurePhone], *, last: Step = Step.UNMASKING) -> None:
    meet(home, phones)
    for step in STEPS[: STEPS.index(last) + 1]:
        for phone in phones:
            phone.take(step)
        home.look()


def epsilon_of(rho: float) -> float:
    """By the definition of the conversion, with 50 digits."""

    def converted(order: mpmath.mpf) -> mpmath.mpf:
        rest = mpmath.log(1 / (order * DELTA)) + (order - 1) * mpmath.log(1 - 1 / order)
        return rho * order + rest / (order - 1)

    return least_over_orders(converted)


def test_a_secure_round_is_reserved_charged_and_stated_and_the_budget_stops_the_task(
    home: Home, caplog: pytest.LogCaptureFixture
) -> None:
    """ρ of a round is 1/2z² and what rounding adds; the budget is enough for two."""
    enrolled = members(home, FEW)
    put_budget(home, rho=2.2 * RHO).raise_for_status()
    ordered(home)
    home.look()
    for number in (1, 2):
        phones = in_a_round(home, enrolled, f"round {number}")
        assert kinds_of(home)[-1] == "reserved"
        assert budget_of(home)["spent"] == pytest.approx((number - 1) * RHO, rel=1e-3)
        assert budget_of(home)["reserved"] == pytest.approx(RHO, rel=1e-3)
        played(home, phones)
    assert kinds_of(home) == ["budget", "task", *["reserved", "charged"] * 2]
    assert (home.task()["state"], home.task()["ended_because"]) == ("completed", "budget-spent")
    assert home.task()["rounds_committed"] == 2
    said = statement_of(home)
    assert (said["rounds"], said["modes"], {one["opponent"] for one in said["figures"]}) == (
        2,
        ["distributed"],
        {"coordinator", "recipients"},
    )
    for one in said["figures"]:
        assert one["epsilon"] == pytest.approx(epsilon_of(2 * RHO), rel=1e-3)
        assert one["target_delta"] == DELTA
        assert (one["unit"], one["adjacency"]) == ("one installation of the app", "one gives zeros instead")
        assert all(part in one["sentence"] for part in (*one["assumptions"], one["mechanism"], one["sampling"]))
    told = [record.getMessage() for record in caplog.records if "privacy budget" in record.getMessage()]
    assert len(told) == 1, "90 % is passed once"
    assert "90 %" in told[0]
    share = float(home.request("GET", "/metrics").text.split('spent_share{opponent="coordinator"} ')[1].split("\n")[0])
    assert share == pytest.approx(2 / 2.2, rel=1e-3)


def test_a_round_that_opens_nothing_gives_back_what_it_reserved(home: Home) -> None:
    enrolled = members(home, FEW)
    put_budget(home, rho=1.5 * RHO).raise_for_status()
    ordered(home)
    home.look()
    in_a_round(home, enrolled, "nobody reports")
    assert budget_of(home)["reserved"] > 0
    home.clock.forward(101)
    home.look()
    assert home.rounds()[0]["phase"] == "abandoned"
    assert kinds_of(home)[:4] == ["budget", "task", "reserved", "freed"]
    assert (budget_of(home)["spent"], budget_of(home)["reserved"]) == (0, 0)
    assert home.task()["state"] == "active"


def test_what_was_charged_stays_spent_though_its_group_came_to_nothing(home: Home) -> None:
    """All confirm; then nobody reveals. The coordinator could have opened the sum: whoever said so keeps to it."""
    enrolled = members(home, FEW)
    put_budget(home, rho=9.0).raise_for_status()
    ordered(home)
    home.look()
    played(home, in_a_round(home, enrolled, "one"), last=Step.CONFIRMATION)
    assert groups_of(home)[0].phase == "unmasking"
    for _wait in range(4):
        home.clock.forward(61)
        home.look()
    assert groups_of(home)[0].phase == "aborted"
    assert home.rounds()[0]["phase"] == "abandoned"
    assert kinds_of(home) == ["budget", "task", "reserved", "charged"]
    assert budget_of(home)["spent"] == pytest.approx(RHO, rel=1e-3)


def test_no_crash_opens_a_sum_without_its_charge(home: Home) -> None:
    """The coordinator dies at every point of opening, twice. Whenever a sum's blob is there, so is its charge."""
    enrolled = members(home, FEW)
    put_budget(home, rho=9.0).raise_for_status()
    ordered(home)
    home.look()
    phones = in_a_round(home, enrolled, "one")
    died: dict[CrashPoint, int] = {}

    def die(point: CrashPoint) -> None:
        charged = in_database(home, lambda session: ledger.read(session, WHOSE)).account.tasks["words"].charged
        if seen:
            assert set(charged) == {1}, "an opened sum without its charge"
        if point in (CrashPoint.GROUP_MOVED, CrashPoint.SUM_UNMASKED, CrashPoint.SUM_OPENED, CrashPoint.UPDATE_STORED):
            died[point] = died.get(point, 0) + 1
            if died[point] <= 2:
                raise Crash

    meet(home, phones)
    with sums_seen(home) as seen, hooked(die):
        for step in STEPS:
            for phone in phones:
                phone.take(step)
            for _life in range(9):
                with contextlib.suppress(Crash):
                    home.look()
    assert len(died) == 4
    assert len(seen) == 1
    assert kinds_of(home) == ["budget", "task", "reserved", "charged"]
    assert home.rounds()[0]["phase"] == "committed"


def tampered(home: Home, act: Any) -> None:
    with home.app.state.parts.database.writing() as session:
        act(session)


def cheaper(session: Session) -> None:
    """Somebody with the database makes a charge a tenth of what it was."""
    row = session.get_one(EntryRow, (*WHOSE, 4))
    raw = row.entry.decode()
    begin = raw.index('"coordinator":') + len('"coordinator":')
    row.entry = (raw[:begin] + "0.0" + raw[begin + 3 :]).encode()
    session.add(row)


def cut_off(session: Session) -> None:
    session.delete(session.get_one(EntryRow, (*WHOSE, 4)))


def backdated(session: Session) -> None:
    row = session.get_one(LedgerRow, WHOSE)
    row.count -= 1
    session.add(row)


def charged(home: Home) -> list[SecurePhone]:
    """Phones in a round whose ledger says that it was charged."""
    enrolled = members(home, FEW)
    put_budget(home, rho=9.0).raise_for_status()
    ordered(home)
    home.look()
    phones = in_a_round(home, enrolled, "one")
    with home.app.state.parts.database.writing() as session:
        spending.charge(session, session.exec(select(Round)).one())
    assert kinds_of(home)[-1] == "charged"
    return phones


@pytest.mark.parametrize("edit", [cheaper, cut_off, backdated])
def test_an_edited_ledger_is_found_at_the_start_and_by_whoever_reads_it(
    home: Home, edit: Any, caplog: pytest.LogCaptureFixture
) -> None:
    charged(home)
    tampered(home, edit)
    for path in ("ledger", "statement", "budgets"):
        answer = home.operator("GET", f"/populations/{POPULATION}/privacy/{path}")
        assert (answer.status_code, answer.json()["code"]) == (409, "ledger-damaged")
    with caplog.at_level(logging.ERROR):
        home.app.state.worker.resume()
    assert any("is damaged" in record.getMessage() for record in caplog.records)
    home.clock.forward(200)
    home.look()
    assert (home.task()["state"], home.task()["ended_because"]) == ("completed", "ledger-damaged")
    assert "has ended after 0 rounds: ledger-damaged" in caplog.text


def test_nothing_is_opened_on_an_edited_ledger(home: Home) -> None:
    phones = charged(home)
    tampered(home, cheaper)
    with sums_seen(home) as seen:
        played(home, phones, last=Step.CONFIRMATION)
    assert (groups_of(home)[0].ended_because, seen) == ("not-charged", [])


def test_a_rewritten_ledger_is_found_by_a_head_that_was_kept_elsewhere(home: Home) -> None:
    members(home, FEW)
    put_budget(home, rho=1.0).raise_for_status()
    said = statement_of(home)
    known = f"{said['entries']}:{said['head']}"
    path = f"/populations/{POPULATION}/privacy/ledger?known="
    home.operator("GET", path + known).raise_for_status()

    with home.app.state.parts.database.writing() as session:
        for row in session.exec(select(EntryRow)).all():
            session.delete(row)
        session.flush()
        row = session.get_one(LedgerRow, WHOSE)
        row.count, row.digest = 0, genesis(str(WHOSE)).digest
        session.add(row)
    put_budget(home, rho=99.0).raise_for_status()
    home.operator("GET", path[: -len("?known=")]).raise_for_status()
    assert home.operator("GET", path + known).json()["code"] == "ledger-damaged"
