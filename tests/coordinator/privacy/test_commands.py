"""`edgewise-coordinator privacy`: plans, budgets, ledgers and statements, typed at a real coordinator."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

from coordinator.store.privacy_tables import LedgerRow
from tests.coordinator.serving import Served, complaint, run, serving
from tests.programme import POPULATION, TENANT

WISH = ("--population", "900", "--rounds", "50", "--goal", "100", "--parameters", "300")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("served")) as found:
        found.home.publish()
        found.home.phone(0)
        yield found


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("EDGEWISE_ADDRESS", "EDGEWISE_TOKEN_FILE", "EDGEWISE_CONFIG"):
        monkeypatch.delenv(name, raising=False)


def test_a_plan_says_what_a_budget_needs_and_draws_every_mode(tmp_path: Path) -> None:
    chart = tmp_path / "epsilon.svg"
    result = run("privacy", "plan", *WISH, "--epsilon-coordinator", "8", "--chart", str(chart))
    assert result.exit_code == 0, result.output
    assert "Reachable with a noise multiplier of 3.79" in result.stdout
    assert "distributed, coordinator" in result.stdout
    assert "central, recipients" in result.stdout
    picture = ElementTree.fromstring(chart.read_text())
    assert len(picture.findall("{http://www.w3.org/2000/svg}polyline")) >= 3


def test_a_plan_that_cannot_be_kept_names_the_costs_and_the_nearest_choice() -> None:
    """The issue's sentence: one group against the coordinator, a larger one, and several against recipients."""
    words = ["--population", "2000000", "--rounds", "1000", "--goal", "100", "--parameters", "102000"]
    limits = ["--separation", "100", "--most", "2", "--epsilon-coordinator", "2"]
    found = json.loads(run("privacy", "plan", *words, *limits, "--json").stdout)
    assert not found["reachable"]
    said = " ".join(found["sentences"])
    assert "one group of 100 costs ε = 43" in said
    assert "a group of 1,000 costs ε = 2.8" in said
    assert "against recipients, 24 groups of 100 cost ε = 1.1" in said
    assert "Nearest: groups of 1,000" in said
    assert {one["opponent"] for one in found["figures"]} == {"coordinator", "recipients"}
    assert {one["mode"] for one in found["modes"]} >= {"distributed", "central", "local"}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((*WISH,), "Give ε against one opponent at least"),
        ((*WISH, "--epsilon-coordinator", "8", "--mode", "central"), "does not protect from the coordinator"),
        ((*WISH, "--epsilon-coordinator", "8", "--clipping-norm", "0"), "bounds nothing"),
        ((*WISH, "--epsilon-coordinator", "8", "--target-delta", "0.5"), "be exposed"),
        ((*WISH, "--epsilon-coordinator", "-1"), "--epsilon-coordinator: input should be greater than 0"),
        ((*WISH, "--epsilon-coordinator", "8", "--separation", "40"), "cannot meet a goal"),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused_in_one_line(words: tuple[str, ...], says: str) -> None:
    result = run("privacy", "plan", *words)
    assert result.exit_code == 2
    assert says in complaint(result)


def test_a_budget_is_set_shown_and_in_the_ledger(served: Served) -> None:
    assert "there is no budget yet" in served.out("privacy", "budget", "show", POPULATION)
    assert "the ledger is empty" in served.out("privacy", "ledger", POPULATION)
    shown = served.out(
        "privacy", "budget", "set", POPULATION, "coordinator", "--epsilon", "8", "--target-delta", "1e-6"
    )
    assert "ε = 8" in shown
    served.out("privacy", "budget", "set", POPULATION, "recipients", "--rho", "0.5")
    shown = served.out("privacy", "budget", "show", POPULATION)
    assert "coordinator" in shown
    assert "ρ = 0.5" in shown
    listed = served.out("privacy", "ledger", POPULATION).splitlines()
    assert [line.split()[0] for line in listed] == ["entry", "1", "2"]
    said = json.loads(served.out("privacy", "statement", POPULATION, "--json"))
    head = f"{said['entries']}:{said['head']}"
    assert head in served.out("privacy", "statement", POPULATION, "--claim")
    assert "nothing may be claimed" in served.out("privacy", "statement", POPULATION)
    served.out("privacy", "ledger", POPULATION, "--known", head)
    another = served.run("privacy", "ledger", POPULATION, "--known", f"2:{'0' * 64}")
    assert "is not the one whose entry 2" in complaint(another, 1)
    neither = served.run("privacy", "budget", "set", POPULATION, "coordinator")
    assert "give --epsilon, or --rho" in complaint(neither)


def test_the_doctor_finds_a_damaged_ledger(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEWISE_DATA_DIR", str(served.folder))
    served.out("privacy", "budget", "set", POPULATION, "coordinator", "--epsilon", "9")
    found = {one["what"]: one for one in json.loads(run("doctor", "--json").stdout)}
    ledger = found[f"ledger {TENANT}/{POPULATION}"]
    assert ledger["health"] == "ok"
    assert "whole" in ledger["found"]
    with served.home.app.state.parts.database.writing() as session:
        row = session.get_one(LedgerRow, (TENANT, POPULATION))
        row.count += 1
        session.add(row)
    result = run("doctor", "--json")
    found = {one["what"]: one for one in json.loads(result.stdout)}
    assert (result.exit_code, found[f"ledger {TENANT}/{POPULATION}"]["health"]) == (1, "problem")
    assert "ends in another one" in found[f"ledger {TENANT}/{POPULATION}"]["found"]
