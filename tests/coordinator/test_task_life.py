"""The life of a task: paused, cancelled, held to its windows, stopped by its conditions; and how far devices came."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlmodel import Session

from coordinator.services.funnel import funnel
from coordinator.services.stops import spent
from coordinator.store.tables import Participation
from edge_runtime.protocol.checkpoint import checkpoint_bytes
from edge_runtime.protocol.reasons import Wait
from edge_runtime.protocol.report import report_bytes
from tests.coordinator.asking import assigned, check_in, refusal, send_outcome, send_report
from tests.coordinator.running import ALONE, act, begun, one_round, reported, rounds_of, stored, task_of, written
from tests.programme import MANIFEST, PLAN, START, TASK, Home, Phone, one_hot, replace

# --- pause and cancel ---------------------------------------------------------------------------------------------


def test_a_pause_while_a_round_looks_for_devices_ends_it_without_harm(home: Home) -> None:
    home.start_task()
    phones = [home.phone(number) for number in range(4)]
    for phone in phones:
        check_in(home, phone)
    act(home, "pause")
    home.look()
    first = rounds_of(home, TASK)[0]
    assert (first["phase"], first["abandonment"], first["chosen"]) == ("abandoned", "task-paused", 0)
    home.clock.forward(1000)
    home.look()
    assert len(rounds_of(home, TASK)) == 1, "no new round opens while the task is paused"
    act(home, "resume")
    home.look()
    assert [one["phase"] for one in rounds_of(home, TASK)] == ["abandoned", "selecting"]
    assert all(assigned(home, phones))


def test_who_works_for_a_cancelled_task_hears_so_at_its_next_contact_whatever_it_is(home: Home) -> None:
    home.start_task()
    phones = [home.phone(number) for number in range(4)]
    assignments = assigned(home, phones)
    act(home, "cancel")
    again = check_in(home, phones[0], "first")
    assert again.assignment is None, "the very visit that was assigned asks again"
    assert again.retry is not None
    assert again.retry.reason is Wait.NO_TASK
    assert refusal(send_report(home, phones[1], assignments[1])) == "round-closed"
    assert send_outcome(home, phones[2], assignments[2]).status_code == 200, "it has nothing else to say"
    home.look()
    found = rounds_of(home, TASK)[0]
    assert (found["phase"], found["abandonment"], found["reports"]) == ("abandoned", "task-cancelled", 0)
    assert found["outcomes"] == {"deadline-passed": 4}


def test_who_works_for_an_abandoned_round_hears_so_and_is_free_for_the_next(home: Home) -> None:
    home.start_task()
    phones = [home.phone(number) for number in range(4)]
    assignments = assigned(home, phones)
    home.clock.forward(101)
    home.look()
    assert [(one["phase"], one["abandonment"]) for one in rounds_of(home, TASK)] == [
        ("abandoned", "too-few-reports"),
        ("selecting", None),
    ]
    assert refusal(send_report(home, phones[0], assignments[0])) == "round-closed"
    again = check_in(home, phones[0], "first")
    assert again.retry is not None
    assert again.retry.reason is Wait.SELECTION_PENDING
    assert all(assigned(home, phones))


@pytest.mark.parametrize("what", ["pause", "resume", "cancel"])
def test_a_change_of_state_is_held_to_the_version_that_was_seen(home: Home, what: str) -> None:
    home.start_task()
    if what == "resume":
        act(home, "pause")
    before = home.operator("GET", f"/tasks/{TASK}").headers["etag"]
    home.operator("PATCH", f"/tasks/{TASK}", json={"priority": 3}).raise_for_status()
    stale = home.operator("POST", f"/tasks/{TASK}/{what}", headers={"if-match": before})
    assert refusal(stale) == "precondition-failed"
    assert refusal(home.operator("POST", f"/tasks/{TASK}/{what}", headers={"if-match": '"3"'})) == "precondition-failed"
    assert task_of(home, TASK)["state"] == ("paused" if what == "resume" else "active")
    seen = home.operator("GET", f"/tasks/{TASK}").headers["etag"]
    home.operator("POST", f"/tasks/{TASK}/{what}", headers={"if-match": seen}).raise_for_status()
    assert task_of(home, TASK)["state"] == {"pause": "paused", "resume": "active", "cancel": "cancelled"}[what]


def test_devices_at_work_go_on_while_their_task_is_paused(home: Home) -> None:
    home.start_task()
    phones = [home.phone(number) for number in range(4)]
    assignments = assigned(home, phones)
    act(home, "pause")
    for phone, assignment in zip(phones, assignments, strict=True):
        assert send_report(home, phone, assignment).status_code == 200
    home.look()
    found = rounds_of(home, TASK)
    assert [(one["phase"], one["reports"]) for one in found] == [("committed", 4)]
    assert task_of(home, TASK)["state"] == "paused"


def test_a_cancelled_task_frees_its_phones_at_their_next_contact(home: Home) -> None:
    home.start_task(ALONE, pool_size=1)
    phone = home.phone(0)
    (assignment,) = assigned(home, [phone])
    act(home, "cancel")
    assert refusal(send_report(home, phone, assignment)) == "round-closed"
    other = home.order(ALONE, name="other", checkpoint_sha256=home.publish(), pool_size=1)
    home.start_order(other)
    home.look()
    (free,) = begun(home, [phone], "anew")
    assert free is not None
    assert free.participation != assignment.participation


# --- windows ------------------------------------------------------------------------------------------------------


def test_rounds_open_in_their_windows_alone_and_one_at_work_goes_on_after_the_end(home: Home) -> None:
    """The clock stands at 12:00 UTC, which is 13:00 in Berlin."""
    assert home.clock() == START == datetime(2026, 1, 5, 12, 0, tzinfo=UTC)
    window = {"days": [0, 1, 2, 3, 4], "from_minute": 14 * 60, "to_minute": 15 * 60}
    home.start_task(ALONE, pool_size=1, windows=[window], time_zone="Europe/Berlin", rounds=100)
    assert rounds_of(home, TASK) == []
    home.clock.forward(3599)
    home.look()
    assert rounds_of(home, TASK) == []
    home.clock.forward(1)
    home.look()
    one_round(home, 0, "inside")
    home.clock.forward(3600 - 10)
    home.look()
    phone = home.phone(1)
    (assignment,) = begun(home, [phone], "late")
    home.clock.forward(10)
    reported(home, phone, assignment, one_hot(1))
    home.look()
    found = rounds_of(home, TASK)
    assert [one["phase"] for one in found if one["chosen"]] == ["committed", "committed"]
    assert found[-1]["phase"] == "committed", "no round opens after the window"


# --- stop conditions ----------------------------------------------------------------------------------------------


def test_a_task_stops_at_its_date_whatever_it_does(home: Home) -> None:
    home.start_task(stop={"rounds": 100, "at": (START + timedelta(seconds=50)).isoformat()})
    phones = [home.phone(number) for number in range(4)]
    assignments = assigned(home, phones)
    home.clock.forward(49)
    home.look()
    assert task_of(home, TASK)["state"] == "active"
    home.clock.forward(1)
    home.look()
    found = task_of(home, TASK)
    assert (found["state"], found["ended_because"]) == ("completed", "date-passed")
    assert rounds_of(home, TASK)[0]["abandonment"] == "task-completed"
    assert refusal(send_report(home, phones[0], assignments[0])) == "round-closed"


def test_a_paused_task_stops_at_its_date_too(home: Home) -> None:
    home.start_task(stop={"at": (START + timedelta(seconds=50)).isoformat()})
    act(home, "pause")
    home.clock.forward(50)
    home.look()
    assert task_of(home, TASK)["ended_because"] == "date-passed"


def test_a_task_stops_when_its_bytes_are_spent(home: Home) -> None:
    lanes = ALONE.lanes()
    one = checkpoint_bytes(MANIFEST.parameters) + report_bytes(lanes, MANIFEST.shared_parameters)
    order = home.order(ALONE, name="capped", checkpoint_sha256=home.publish(), pool_size=1, stop={"bytes": 2 * one})
    home.start_order(order)
    home.look()
    for number in (1, 2):
        assert task_of(home, "capped")["state"] == "active"
        one_round(home, number, f"bytes {number}")
    found = task_of(home, "capped")
    assert (found["state"], found["ended_because"], found["rounds_committed"]) == ("completed", "bytes-spent", 2)
    with stored(home, "capped") as (session, task):
        assert spent(session, task).bytes == 2 * one


def test_a_task_stops_when_its_phone_seconds_are_spent(home: Home) -> None:
    """A report costs the time since its assignment, at most the plan's 60 s."""
    home.start_task(ALONE, pool_size=1, stop={"phone_seconds": 70})
    for number, (works_s, expected) in enumerate([(10, 10), (100 - 1, 70)]):
        phone = home.phone(number)
        (assignment,) = begun(home, [phone], str(number))
        home.clock.forward(works_s)
        reported(home, phone, assignment, one_hot(number))
        home.look()
        with stored(home, TASK) as (session, task):
            assert spent(session, task).phone_seconds == expected
    assert task_of(home, TASK)["ended_because"] == "seconds-spent"


def test_what_an_outcome_says_that_it_cost_is_counted_as_it_says(home: Home) -> None:
    home.start_task(ALONE, pool_size=1)
    phone = home.phone(0)
    (assignment,) = assigned(home, [phone])
    home.clock.forward(5)
    send_outcome(home, phone, assignment)

    def said(session: Session) -> None:
        row = session.get_one(Participation, assignment.participation)
        row.cost_seconds, row.cost_bytes, row.cost_battery_percent = 32, 4096, 2
        session.add(row)

    written(home, said)
    with stored(home, TASK) as (session, task):
        found = spent(session, task)
        assert (found.phone_seconds, found.bytes) == (32, 4096)
        assert funnel(session, task).battery_percent == 2


# --- the funnel ---------------------------------------------------------------------------------------------------


def test_the_funnel_counts_how_far_everyone_came(home: Home) -> None:
    home.start_task(replace(PLAN, goal=3), over_selection=1.0, pool_size=5, rounds=1)
    phones = [home.phone(number) for number in range(5)]
    for phone in phones:
        check_in(home, phone, "before")
    home.look()
    chosen: list[tuple[Phone, Any]] = []
    for phone in phones:
        assignment = check_in(home, phone).assignment
        if assignment is not None:
            chosen.append((phone, assignment))
    assert len(chosen) == 3
    for phone, assignment in chosen[:2]:
        send_report(home, phone, assignment)
    send_outcome(home, *chosen[2])
    home.look()
    with stored(home, TASK) as (session, task):
        found = funnel(session, task)
    assert (found.offered, found.chosen, found.accepted) == (5, 3, 3)
    assert (found.reported, found.counted, found.outcomes) == (2, 2, {"battery-low": 1})


def test_reports_of_an_abandoned_round_are_reported_and_not_counted(home: Home) -> None:
    home.start_task()
    phones = [home.phone(number) for number in range(4)]
    assignments = assigned(home, phones)
    send_report(home, phones[0], assignments[0])
    home.clock.forward(100)
    home.look()
    with stored(home, TASK) as (session, task):
        found = funnel(session, task)
    assert (found.reported, found.counted, found.outcomes) == (1, 0, {"deadline-passed": 3})
