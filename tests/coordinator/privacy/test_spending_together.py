"""Rounds of several tasks and groups at the same time, on both databases: one budget, one chain, one charge."""

from __future__ import annotations

import logging
import re
import threading
from typing import Any

import pytest
from sqlmodel import Session, select

from coordinator.core.rounds import Event
from coordinator.services import rounds, spending
from coordinator.services.spending import Room
from coordinator.store.database import Database
from coordinator.store.tables import Group, Round, Task
from edge_runtime.protocol.reasons import Abandonment
from tests.coordinator.asking import check_in
from tests.coordinator.privacy.spending import (
    FEW,
    PRIVACY,
    RHO,
    budget_of,
    entries_of,
    kinds_of,
    members,
    ordered,
    put_budget,
)
from tests.programme import START, Crash, Home


def rounds_in(database: Database, names: list[str], number: int = 1) -> list[tuple[str, str]]:
    """A round of each task, as it is about to begin; task and round ids."""
    made = []
    with database.writing() as session:
        for name in names:
            task = session.exec(select(Task).where(Task.name == name)).one()
            row = session.exec(select(Round).where(Round.task_id == task.id, Round.number == number)).one()
            made.append((task.id, row.id))
    return made


def at_once(database: Database, acts: list[Any]) -> list[Any]:
    """What each act answers in a transaction of its own, all begun together by threads of their own."""
    gate, answers = threading.Barrier(len(acts)), [None] * len(acts)

    def run(place: int) -> None:
        gate.wait()
        answers[place] = database.transact(acts[place])

    threads = [threading.Thread(target=run, args=(place,)) for place in range(len(acts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def reserving(ids: tuple[str, str]) -> Any:
    def act(session: Session) -> Room:
        return spending.reserve(session, session.get_one(Task, ids[0]), session.get_one(Round, ids[1]))

    return act


def test_concurrent_rounds_of_several_tasks_cannot_overspend_one_budget(home: Home) -> None:
    """Four tasks reserve at the same time, each in a transaction of a worker of its own; the budget is for two."""
    members(home, FEW)
    put_budget(home, rho=2.5 * RHO).raise_for_status()
    names = [f"words-{number}" for number in range(4)]
    for name in names:
        ordered(home, name=name)
    home.look()
    database = home.app.state.parts.database
    rounds = rounds_in(database, names)
    rooms = at_once(database, [reserving(ids) for ids in rounds])
    assert sorted(rooms) == [Room.ENOUGH, Room.ENOUGH, Room.HELD, Room.HELD]
    assert budget_of(home)["share"] <= 1
    assert kinds_of(home).count("reserved") == 2
    places = [one["place"] for one in entries_of(home)]
    assert places == list(range(1, len(places) + 1)), "one chain, without a gap"


def test_groups_of_one_round_charge_it_once_though_they_open_at_the_same_time(home: Home) -> None:
    members(home, FEW)
    put_budget(home, rho=9.0).raise_for_status()
    ordered(home)
    home.look()
    database = home.app.state.parts.database
    ((task_id, round_id),) = rounds_in(database, ["words"])
    assert at_once(database, [reserving((task_id, round_id))]) == [Room.ENOUGH]
    with database.writing() as session:
        groups = [Group(id=f"{n:032x}", round_id=round_id, number=n, phase="confirming") for n in range(1, 4)]
        session.add_all(groups)
    ids = [group.id for group in groups]
    at_once(database, [lambda s, one=one: spending.charge_group(s, s.get_one(Group, one)) for one in ids])
    assert kinds_of(home).count("charged") == 1


def of_task(session: Session, task: Task, number: int) -> Round:
    """A round as the task's first, with another number; in no table."""
    first = session.exec(select(Round).where(Round.task_id == task.id)).one()
    return Round(**{**first.model_dump(), "id": "7" * 32, "number": number})


def charged_then_abandoned(home: Home) -> None:
    """A round that was charged ends without an update."""
    members(home, FEW)
    put_budget(home, rho=9.0).raise_for_status()
    ordered(home)
    home.look()
    database = home.app.state.parts.database
    (ids,) = rounds_in(database, ["words"])
    assert at_once(database, [reserving(ids)]) == [Room.ENOUGH]

    def charge_and_abandon(session: Session) -> None:
        round_ = session.get_one(Round, ids[1])
        spending.charge(session, round_)
        rounds.abandon(session, round_, Event.TOO_FEW_DEVICES, Abandonment.TOO_FEW_REPORTS, START)

    at_once(database, [charge_and_abandon])


def test_what_is_logged_of_a_ledger_is_durable_and_is_logged_once(home: Home, caplog: pytest.LogCaptureFixture) -> None:
    """The heads that the log names are kept elsewhere: a transaction that is rolled back leaves no line."""
    members(home, FEW)
    put_budget(home, rho=1.05 * RHO).raise_for_status()
    ordered(home)
    home.look()
    database = home.app.state.parts.database
    (ids,) = rounds_in(database, ["words"])

    def reserve_and_charge(session: Session) -> None:
        spending.reserve(session, session.get_one(Task, ids[0]), session.get_one(Round, ids[1]))
        spending.charge(session, session.get_one(Round, ids[1]))

    def die(session: Session) -> None:
        reserve_and_charge(session)
        raise Crash

    def heads() -> list[str]:
        found = [re.search(r"entry (\d+), ([0-9a-f]{64})$", record.getMessage()) for record in caplog.records]
        return [f"{one[1]}:{one[2]}" for one in found if one]

    with caplog.at_level(logging.INFO, logger="edgewise.privacy"):
        with pytest.raises(Crash):
            database.transact(die)
        assert heads() == []
        database.transact(reserve_and_charge)
    assert len(heads()) == 2, "90 % is passed, and the round is charged"
    for head in heads():
        home.operator("GET", f"{PRIVACY}/ledger?known={head}").raise_for_status()


def test_an_abandoned_round_keeps_its_charge(home: Home) -> None:
    charged_then_abandoned(home)
    assert kinds_of(home) == ["budget", "task", "reserved", "charged"]
    assert budget_of(home)["spent"] == pytest.approx(RHO, rel=1e-3)


def test_a_round_that_waits_for_others_is_abandoned_by_name_and_its_task_goes_on(home: Home) -> None:
    """Another task's round, far on, has set aside what is left."""
    enrolled = members(home, FEW)
    put_budget(home, rho=1.5 * RHO).raise_for_status()
    ordered(home, name="other")
    ordered(home)
    home.look()
    database: Database = home.app.state.parts.database

    def far_on(session: Session) -> Room:
        task = session.exec(select(Task).where(Task.name == "other")).one()
        return spending.reserve(session, task, of_task(session, task, 77))

    assert at_once(database, [far_on]) == [Room.ENOUGH]
    home.operator("POST", "/tasks/other/pause").raise_for_status()
    for phone, _certificate in enrolled:
        check_in(home, phone, "one")
    home.look()
    assert (home.rounds()[0]["phase"], home.rounds()[0]["abandonment"]) == ("abandoned", "budget-held")
    assert home.task()["state"] == "active"
