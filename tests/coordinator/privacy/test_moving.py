"""A tenant whose sums wait for noise of the coordinator stays: one sum, one view, whatever place goes on with it."""

from __future__ import annotations

import pytest
from sqlmodel import Session, select

from coordinator.services import hiding, transfer
from coordinator.services.transfer import export_tenant
from coordinator.store.privacy_tables import NoiseRow
from coordinator.store.tables import Round
from edge_runtime.protocol.errors import Conflict
from edge_runtime.protocol.plan import Plan, Privacy
from tests.coordinator.privacy.spending import CENTRAL, put_budget
from tests.coordinator.running import act, begun, reported, written
from tests.coordinator.secure import in_database
from tests.programme import COORDINATOR_KEY, PLAN, TASK, TENANT, Home, Phone, one_hot, replace

ALONE = replace(CENTRAL, goal=1, expected_participants=1)
CORRELATED = replace(ALONE, privacy=Privacy.CORRELATED, separation=3)
NONE = replace(PLAN, goal=1, min_reports=1, expected_participants=1)


def exported(home: Home) -> list[bytes]:
    parts = home.app.state.parts
    with parts.database.reading() as session:
        return list(export_tenant(session, parts.blobs, TENANT, COORDINATOR_KEY))


def at_work(home: Home, plan: Plan) -> Phone:
    """A phone that has reported to a round, and nobody has looked since."""
    home.publish()
    phones = [home.phone(number) for number in range(2)]
    if plan.privacy is not Privacy.NONE:
        put_budget(home, "recipients", rho=9.0).raise_for_status()
    home.start_task(plan, pool_size=1, rounds=3)
    (assignment,) = begun(home, phones[:1], "one")
    reported(home, phones[0], assignment, one_hot(0))
    return phones[0]


def prepared(session: Session) -> None:
    """The step before an update: the round is charged, and its noise is drawn."""
    hiding.prepare(session, session.exec(select(Round.id)).all())


def stays_until_its_round_ends(home: Home, plan: Plan) -> None:
    at_work(home, plan)
    act(home, "pause")
    for step in (None, prepared):
        if step is not None:
            written(home, step)
        with pytest.raises(Conflict, match=f"round 1 of the task '{TASK}' is open.*let the round end, or cancel it"):
            exported(home)
    home.look()
    assert home.rounds()[0]["phase"] == "committed"
    assert exported(home)


@pytest.mark.parametrize("plan", [ALONE, CORRELATED], ids=lambda plan: plan.privacy.value)
def test_a_tenant_is_not_exported_between_a_sum_and_its_noise(home: Home, plan: Plan) -> None:
    stays_until_its_round_ends(home, plan)


def test_an_export_that_looks_at_nothing_is_caught(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "_check_hidden", lambda *_arguments: None)
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        stays_until_its_round_ends(home, ALONE)


def test_a_cancelled_task_holds_no_export_up_and_leaves_no_seed(home: Home) -> None:
    at_work(home, ALONE)
    written(home, prepared)
    act(home, "cancel")
    assert exported(home)
    assert in_database(home, lambda session: session.exec(select(NoiseRow)).all()) == []


def test_a_seed_that_outlived_its_round_holds_an_export_up(home: Home) -> None:
    at_work(home, ALONE)
    written(home, prepared)

    def ended(session: Session) -> None:
        round_ = session.exec(select(Round)).one()
        round_.phase = "abandoned"
        session.add(round_)

    written(home, ended)
    with pytest.raises(Conflict, match="is open"):
        exported(home)


def test_an_open_round_without_noise_of_the_coordinator_goes_along(home: Home) -> None:
    at_work(home, NONE)
    assert exported(home)
