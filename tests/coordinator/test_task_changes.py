"""A task is changed while it runs, each field when it may; cloned; and tried out on paper."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
from sqlmodel import Session

from coordinator.core.forecast import Caution, Forecast, Reach, Sizes, forecast
from coordinator.core.task_settings import Change, Stops, TaskSettings, Window, changes
from coordinator.services import task_changes
from coordinator.store.tables import Tenant
from edge_runtime.protocol.checkpoint import checkpoint_bytes
from edge_runtime.protocol.errors import Conflict, Malformed, NotFound, PreconditionFailed
from tests.coordinator.asking import refusal
from tests.coordinator.running import ALONE, act, one_round, rounds_of, stored, task_of, written
from tests.programme import MANIFEST, PLAN, START, TASK, TENANT, Home, replace

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
