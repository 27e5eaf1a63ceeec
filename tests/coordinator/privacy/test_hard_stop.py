"""A budget is spent to the end: operators see it come and see why the task ended, and devices hear `no-task`."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_runtime.protocol.plan import Plan, Privacy
from edge_runtime.protocol.reasons import Wait
from tests.coordinator.asking import check_in
from tests.coordinator.privacy.spending import CENTRAL, PRIVACY, RHO, put_budget
from tests.coordinator.running import begun, reported
from tests.coordinator.serving import Served, run, serving
from tests.programme import POPULATION, TASK, TENANT, Phone, one_hot, replace

PLAN = replace(CENTRAL, goal=1, min_reports=1, expected_participants=1)
BUDGET = 4.2
"""In rounds: 70 % are gone with the third, 90 % with the fourth, and there is no fifth."""


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    for name in ("EDGEWISE_ADDRESS", "EDGEWISE_TOKEN_FILE", "EDGEWISE_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "home").mkdir()
    with serving(tmp_path / "home") as found:
        found.home.app.state.parts = replace(found.home.app.state.parts, smallest_cohort=2)
        yield found


def gauge(served: Served, name: str) -> float:
    """A number that whoever watches the coordinator reads."""
    (line,) = [one for one in served.home.request("GET", "/metrics").text.splitlines() if one.startswith(f"{name} ")]
    return float(line.rpartition(" ")[2])


def round_(served: Served, phones: list[Phone], number: int) -> None:
    assignments = begun(served.home, phones, f"round {number}")
    for phone, assignment in zip(phones, assignments, strict=True):
        if assignment is not None:
            reported(served.home, phone, assignment, one_hot(0))
    served.home.look()


def test_a_task_that_has_spent_its_budget_ends_and_everybody_hears_of_it(
    served: Served, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = served.home
    home.publish()
    phones = [home.phone(number) for number in range(2)]
    put_budget(home, "recipients", rho=BUDGET * RHO).raise_for_status()
    home.start_task(PLAN, pool_size=2, rounds=9)
    alerts = []
    for number in range(1, 5):
        round_(served, phones, number)
        (budget,) = home.operator("GET", f"{PRIVACY}/budgets").json()
        alerts.append(budget["alerts"])
        share = gauge(served, 'edgewise_privacy_spent_share{opponent="recipients"}')
        assert share == pytest.approx(number / BUDGET, rel=1e-3)
    assert alerts == [[], [], [0.7], [0.7, 0.9]]

    task = home.task()
    assert (task["state"], task["ended_because"], task["rounds_committed"]) == ("completed", "budget-spent", 4)
    assert gauge(served, 'edgewise_tasks{state="completed"}') == 1
    told = [record for record in caplog.records if "of the privacy budget" in record.getMessage()]
    assert [re.findall(r"\d+ %", record.getMessage())[0] for record in told] == ["70 %", "90 %"]
    assert {record.levelno for record in told} == {logging.WARNING}
    assert all("against the recipients" in record.getMessage() for record in told)
    (ended,) = [record.getMessage() for record in caplog.records if "has ended" in record.getMessage()]
    assert ended == f"task {TASK} of {TENANT}/{POPULATION} has ended after 4 rounds: budget-spent"

    assert re.search(r"state\s+completed.*budget-spent", served.out("tasks", "show", TASK), re.DOTALL)
    assert json.loads(served.out("tasks", "show", TASK, "--json"))["ended_because"] == "budget-spent"
    watched = served.run("tasks", "watch", TASK)
    assert (watched.exit_code, f"{TASK} is completed, budget-spent: 4 of 9 rounds" in watched.stdout) == (0, True)
    assert "70%, 90%" in served.out("privacy", "budget", "show", POPULATION)
    charged = [line for line in served.out("privacy", "ledger", POPULATION).splitlines() if " charged " in line]
    assert len(charged) == 4
    monkeypatch.setenv("EDGEWISE_DATA_DIR", str(served.folder))
    found = {one["what"]: one for one in json.loads(run("doctor", "--json").stdout)}
    ledger = found[f"ledger {TENANT}/{POPULATION}"]
    assert (ledger["health"], "95% against the recipients" in ledger["found"], "a larger budget" in ledger["do"]) == (
        "warning",
        True,
        True,
    )

    for phone in phones:
        heard = check_in(home, phone, "after the end").retry
        assert heard is not None
        assert heard.reason is Wait.NO_TASK


def ordered(served: Served, plan: Plan = PLAN, name: str = TASK, state: str = "approved") -> int:
    """The answer's status to a new task, which is approved, and started where it is to be active."""
    home = served.home
    order = home.order(plan, name=name, checkpoint_sha256=home.publish(), pool_size=2, rounds=9)
    home.operator("POST", "/tasks", json=order).raise_for_status()
    answer = home.operator("POST", f"/tasks/{name}/approve")
    if state == "active" and answer.status_code == 200:
        answer = home.operator("POST", f"/tasks/{name}/start")
        home.look()
    return answer.status_code


def findings(served: Served) -> list[str]:
    found: list[str] = served.home.operator("GET", f"/tasks/{TASK}/dry-run").raise_for_status().json()["findings"]
    return found


@pytest.mark.parametrize("plan", [PLAN, replace(PLAN, privacy=Privacy.CORRELATED, separation=2)])
def test_a_task_whose_first_round_costs_more_than_there_is_is_not_approved(served: Served, plan: Plan) -> None:
    served.home.publish()
    for number in range(2):
        served.home.phone(number)
    put_budget(served.home, "recipients", rho=RHO / 99).raise_for_status()
    assert ordered(served, plan) == 409
    assert served.home.task()["state"] == "draft"
    (said,) = findings(served)
    assert "does not cover the round. One more round fits with " in said
    put_budget(served.home, "recipients", rho=9.0).raise_for_status()
    assert findings(served) == []
    assert served.home.operator("POST", f"/tasks/{TASK}/approve").status_code == 200


def test_what_others_spent_since_is_found_at_the_start_and_what_they_reserve_may_come_back(served: Served) -> None:
    home = served.home
    home.publish()
    phones = [home.phone(number) for number in range(2)]
    put_budget(home, "recipients", rho=1.2 * RHO).raise_for_status()
    assert [ordered(served, state="active"), ordered(served, name="second")] == [200, 200]
    (assignment, _none) = begun(home, phones, "one")
    assert home.operator("GET", f"{PRIVACY}/budgets").json()[0]["reserved"] > 0
    assert ordered(served, name="third") == 200, "it may wait for what is reserved"
    assert assignment is not None
    reported(home, phones[0], assignment, one_hot(0))
    home.look()
    assert home.operator("POST", "/tasks/second/start").json()["code"] == "budget-spent"
    assert home.operator("GET", "/tasks/second").json()["state"] == "approved"
