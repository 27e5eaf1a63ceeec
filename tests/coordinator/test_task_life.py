"""The life of a task: paused, cancelled, stopped by its conditions, changed, cloned, tried out on paper."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlmodel import Session

from coordinator.core.forecast import Caution, Forecast, Reach, Sizes, forecast
from coordinator.core.task_settings import Change, Stops, TaskSettings, Window, changes
from coordinator.services import task_changes
from coordinator.services.funnel import funnel
from coordinator.services.stops import spent
from coordinator.store.tables import Participation, Tenant
from edge_runtime.protocol.checkpoint import checkpoint_bytes
from edge_runtime.protocol.errors import Conflict, Malformed, NotFound, PreconditionFailed
from edge_runtime.protocol.report import report_bytes
from tests.coordinator.asking import assigned, check_in, refusal, send_outcome, send_report
from tests.coordinator.running import begun, reported, rounds_of, stored, task_of, written
from tests.programme import MANIFEST, PLAN, START, TASK, TENANT, Home, Phone, one_hot, replace

ALONE = replace(PLAN, goal=1, min_reports=1)


def act(home: Home, what: str, task: str = TASK) -> dict[str, Any]:
    answer: dict[str, Any] = home.operator("POST", f"/tasks/{task}/{what}").raise_for_status().json()
    return answer


def one_round(home: Home, number: int, visit: str) -> None:
    """One phone does a whole round alone."""
    phone = home.phone(number)
    (assignment,) = begun(home, [phone], visit)
    reported(home, phone, assignment, one_hot(number))
    home.look()


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


# --- changes ------------------------------------------------------------------------------------------------------


def change(home: Home, patch: Any, version: int | None = None) -> None:
    def acted(session: Session) -> None:
        task_changes.change_task(session, session.get_one(Tenant, TENANT), TASK, patch, version)

    written(home, acted)


def draft(home: Home, **settings: Any) -> None:
    order = home.order(checkpoint_sha256=home.publish(), **settings)
    home.operator("POST", "/tasks", json=order).raise_for_status()


def test_a_change_names_what_it_changes_and_leaves_the_rest(home: Home) -> None:
    draft(home)
    before = task_of(home, TASK)["settings"]
    change(home, {"pool_size": 9, "stop": {"bytes": 1000}})
    after = task_of(home, TASK)["settings"]
    assert after == {**before, "pool_size": 9, "stop": {**before["stop"], "bytes": 1000}}
    with stored(home, TASK) as (_session, task):
        assert task.version == 2


def test_the_same_again_is_no_change(home: Home) -> None:
    draft(home)
    change(home, {"pool_size": 4})
    with stored(home, TASK) as (_session, task):
        assert task.version == 1


def test_what_was_approved_is_a_draft_again_when_it_changes(home: Home) -> None:
    draft(home)
    act(home, "approve")
    change(home, {"priority": 3})
    found = task_of(home, TASK)
    assert (found["state"], found["approved_at"]) == ("draft", None)
    assert refusal(home.operator("POST", f"/tasks/{TASK}/start")) == "conflict"


OTHER_VALUES: dict[str, Any] = {
    "kind": "evaluate",
    "cohort": "nobody",
    "mode": "buffered",
    "pool_size": 7,
    "over_selection": 2.5,
    "group_size": 3,
    "selecting_deadline_s": 77.0,
    "reporting_deadline_s": 77.0,
    "max_staleness": 7,
    "staleness_exponent": 0.25,
    "priority": 7,
    "min_separation_s": 77.0,
    "windows": [{"days": [1], "from_minute": 0, "to_minute": 60}],
    "time_zone": "Europe/Berlin",
    "server_optimiser.name": "adam",
    "server_optimiser.learning_rate": 0.5,
    "server_optimiser.beta1": 0.5,
    "server_optimiser.beta2": 0.5,
    "server_optimiser.tau": 0.5,
    "stop.rounds": 77,
    "stop.at": "2027-01-01T00:00:00+00:00",
    "stop.bytes": 77_000,
    "stop.phone_seconds": 77_000,
    "retry_rejected_s": 77.0,
    "retry_reported_s": 77.0,
}
NOT_ALONE = {"evaluates", "rounds_at_once", "stop.metric"}
"""Fields that cannot change without another."""


def patch_of(field: str) -> dict[str, Any]:
    outer, _dot, inner = field.partition(".")
    return {outer: {inner: OTHER_VALUES[field]} if inner else OTHER_VALUES[field]}


def test_every_field_has_a_value_to_change_to() -> None:
    assert set(OTHER_VALUES) | NOT_ALONE == set(changes())


@pytest.mark.parametrize("state", ["active", "paused"])
def test_each_field_changes_when_it_says_and_is_refused_by_name_when_not(home: Home, state: str) -> None:
    home.start_task()
    if state == "paused":
        act(home, "pause")
    allowed = {Change.ACTIVE} if state == "active" else {Change.ACTIVE, Change.PAUSED}
    for field, when in changes().items():
        if field in NOT_ALONE or field == "cohort":
            continue
        if when in allowed:
            change(home, patch_of(field))
            outer, _dot, inner = field.partition(".")
            found = task_of(home, TASK)["settings"][outer]
            assert (found[inner] if inner else found) == OTHER_VALUES[field]
        else:
            with pytest.raises(Conflict, match=f"{field} cannot change while the task is {state}: .*"):
                change(home, patch_of(field))


TARGET = {"task": TASK, "metric": "loss", "at_least": None, "at_most": 1.0, "rounds": 1}


@pytest.mark.parametrize(
    ("patch", "refused"),
    [
        ({"pool_size": 1}, Malformed),
        ({"pool_size": None}, Malformed),
        ({"colour": "red"}, Malformed),
        ({"stop": None}, Malformed),
        ({"stop": {"at": "tomorrow"}}, Malformed),
        ({"windows": [{"days": [], "from_minute": 0, "to_minute": 1}]}, Malformed),
        ({"time_zone": "Middle/Earth"}, Malformed),
        ({"kind": "evaluate"}, Malformed),
        ({"cohort": "nobody"}, NotFound),
        (
            {"stop": {"metric": {"task": "none", "metric": "loss", "at_least": None, "at_most": 1.0, "rounds": 1}}},
            NotFound,
        ),
        (
            {"stop": {"metric": {"task": TASK, "metric": "loss", "at_least": None, "at_most": 1.0, "rounds": 1}}},
            Malformed,
        ),
    ],
)
def test_a_change_to_something_impossible_is_refused(home: Home, patch: Any, refused: type[Exception]) -> None:
    draft(home)
    before = task_of(home, TASK)
    with pytest.raises(refused):
        change(home, patch)
    assert task_of(home, TASK) == before


def test_a_change_to_another_version_is_refused(home: Home) -> None:
    draft(home)
    change(home, {"priority": 1}, 1)
    with pytest.raises(PreconditionFailed):
        change(home, {"priority": 2}, 1)


def test_a_task_that_ended_does_not_change(home: Home) -> None:
    draft(home)
    act(home, "cancel")
    with pytest.raises(Conflict, match="clone it"):
        change(home, {"priority": 1})


def test_the_next_round_follows_a_change(home: Home) -> None:
    home.start_task(ALONE, pool_size=1, rounds=100)
    change(home, {"selecting_deadline_s": 7.0, "pool_size": 2})
    one_round_opened = rounds_of(home, TASK)[0]
    home.clock.forward(100)
    home.look()
    second = rounds_of(home, TASK)[1]
    assert one_round_opened["phase"] == "selecting"
    home.clock.forward(7)
    home.look()
    assert rounds_of(home, TASK)[1]["abandonment"] == "too-few-devices"
    assert second["number"] == 2


# --- clones -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("newest", [False, True])
def test_a_clone_is_a_draft_of_the_same_plan_and_settings(home: Home, newest: bool) -> None:
    home.start_task(ALONE, pool_size=1, rounds=1)
    one_round(home, 0, "first")
    task = task_of(home, TASK)
    assert task["state"] == "completed"

    def cloned(session: Session) -> None:
        for _again in range(2):
            tenant = session.get_one(Tenant, TENANT)
            task_changes.clone_task(session, tenant, TASK, "twin", START, newest=newest)
            session.flush()

    written(home, cloned)
    twin = task_of(home, "twin")
    assert (twin["state"], twin["rounds_committed"], twin["settings"]) == ("draft", 0, task["settings"])
    assert twin["model_version"] == int(newest)
    act(home, "approve", "twin")
    act(home, "start", "twin")
    home.look()
    assert rounds_of(home, "twin")[0]["checkpoint_sha256"] == twin["checkpoint_sha256"]
    with pytest.raises(Conflict):
        written(home, cloned)


def test_a_clone_needs_a_name_that_is_one(home: Home) -> None:
    draft(home)
    with pytest.raises(Malformed):
        written(
            home,
            lambda session: task_changes.clone_task(
                session, session.get_one(Tenant, TENANT), TASK, "No Name", START, newest=True
            ),
        )


# --- on paper -----------------------------------------------------------------------------------------------------

SIZES = Sizes(checkpoint=1000, bundle=50_000, report=800)
SETTINGS = TaskSettings(pool_size=13, selecting_deadline_s=600, reporting_deadline_s=600, stop=Stops(rounds=10))
TEN = replace(PLAN, goal=10, min_reports=8)


def foreseen(devices: int = 1000, per_hour: float = 130.0, plan: Any = TEN, **changed: Any) -> Forecast:
    reach = Reach(devices=devices, check_ins_an_hour=per_hour)
    return forecast(plan, replace(SETTINGS, **changed), reach, SIZES, START)


def test_a_forecast_adds_up() -> None:
    """13 of 130 an hour come in 360 s, and work for 60 s at most: a round takes 420 s."""
    found = foreseen()
    assert (found.chosen, found.round_s, found.cautions) == (13, 420.0, ())
    assert found.rounds_a_day == pytest.approx(86400 / 420)
    assert (found.a_round.bytes_down, found.a_round.bytes_up, found.a_round.phone_seconds) == (13_000, 10_400, 780)
    assert found.stops_after_s == pytest.approx(4200)
    assert found.rounds == pytest.approx(10)
    assert found.total is not None
    assert found.total.bytes_down == pytest.approx(130_000 + 130 * 50_000, abs=50_001)
    assert found.total.phone_seconds == pytest.approx(7800, abs=1)


def test_windows_and_separation_slow_a_task_down() -> None:
    window = Window(days=(0, 1, 2, 3, 4, 5, 6), from_minute=0, to_minute=360)
    assert foreseen(windows=(window,)).rounds_a_day == pytest.approx(86400 / 420 / 4)
    assert foreseen(devices=130, min_separation_s=86400.0).rounds_a_day == pytest.approx(10)
    assert foreseen(windows=(window,)).opens_at == START + timedelta(hours=12)


def test_the_first_stop_that_can_be_foreseen_counts() -> None:
    stop = Stops(rounds=10, at=(START + timedelta(seconds=2100)).isoformat())
    assert foreseen(stop=stop).rounds == pytest.approx(5)
    assert foreseen(stop=Stops(bytes=23_400 * 3)).rounds == pytest.approx(3)
    assert foreseen(stop=Stops(phone_seconds=780 * 4)).rounds == pytest.approx(4)
    assert foreseen(stop=Stops()).stops_after_s is None


@pytest.mark.parametrize(
    ("caution", "changed"),
    [
        (Caution.POOL_BELOW_SELECTION, {"pool_size": 12}),
        (Caution.DEADLINE_BELOW_TIME_LIMIT, {"reporting_deadline_s": 59.0}),
        (Caution.NO_STOP, {"stop": Stops()}),
        (Caution.DATE_PASSED, {"stop": Stops(at=START.isoformat())}),
        (Caution.TOO_FEW_DEVICES, {"devices": 7}),
        (Caution.POOL_ABOVE_COHORT, {"devices": 12}),
        (Caution.POOL_NEVER_FILLS, {"per_hour": 47.0}),
        (Caution.GROUP_ABOVE_ROUND, {"group_size": 14}),
    ],
)
def test_each_caution_is_raised_alone(caution: Caution, changed: dict[str, Any]) -> None:
    assert foreseen(**changed).cautions == (caution,)


def test_a_round_that_never_gets_its_reports_has_no_rate() -> None:
    found = foreseen(devices=7)
    assert (found.round_s, found.rounds_a_day, found.stops_after_s) == (None, 0.0, None)


def test_a_dry_run_says_what_is_wrong_and_changes_nothing(home: Home) -> None:
    draft(home)
    before = task_of(home, TASK)

    def nobody(session: Session, tenant: Tenant, population: str, cohort: str | None) -> Reach:
        assert (tenant.name, population, cohort) == (TENANT, "keyboard", None)
        assert session.get(Tenant, TENANT) is tenant
        return Reach(devices=100, check_ins_an_hour=60.0)

    parts = home.app.state.parts
    with parts.database.reading() as session:
        found = task_changes.dry_run(session, session.get_one(Tenant, TENANT), TASK, parts.blobs, nobody, START)
    assert found.findings == ()
    assert found.forecast.chosen == 4
    assert found.forecast.a_round.bytes_down == 4 * checkpoint_bytes(MANIFEST.parameters)
    assert task_of(home, TASK) == before

    def broken(session: Session) -> None:
        task = session.merge(stored_task)
        settings = json.loads(task.settings)
        task.settings = json.dumps({**settings, "cohort": "gone"}, sort_keys=True, separators=(",", ":")).encode()

    with stored(home, TASK) as (_session, stored_task):
        pass
    written(home, broken)
    with parts.database.reading() as session:
        found = task_changes.dry_run(session, session.get_one(Tenant, TENANT), TASK, parts.blobs, nobody, START)
    assert found.findings == ("the population 'keyboard' has no cohort 'gone'",)
