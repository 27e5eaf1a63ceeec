"""`edgewise-coordinator privacy`: plans, budgets, ledgers and statements, typed at a real coordinator."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.core.privacy.figures import rounded_up
from coordinator.core.privacy.participation import ParticipationLimits
from coordinator.core.privacy.planner import Wish, point
from coordinator.core.privacy.statement import Mode, Opponent
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
    assert "budget, coordinator: ε = 8" in [text.text for text in picture.iter("{http://www.w3.org/2000/svg}text")]


def test_noise_is_shown_rounded_up_so_that_whoever_copies_it_keeps_the_budget() -> None:
    words = "--population 2000000 --rounds 1000 --goal 2400 --parameters 102000 --epsilon-coordinator 2"
    limits = "--target-delta 1e-7 --group-size 1000 --separation 100 --most 2"
    shown = run("privacy", "plan", *words.split(), *limits.split()).stdout
    (copied,) = re.findall(r"^noise multiplier +(\S+)$", shown, re.MULTILINE)
    wish = Wish(
        mode=Mode.DISTRIBUTED, population=2_000_000, rounds=1000, goal=2400, parameters=102_000, target_delta=1e-7,
        epsilon={Opponent.COORDINATOR: 2.0}, largest_error=1.0, group_size=1000,
        limits=ParticipationLimits(separation=100, most=2),
    )  # fmt: skip
    assert 1.999 < point(wish, float(copied), 1000).coordinator <= 2
    assert point(wish, float(copied) - 1e-4, 1000).coordinator > 2, "it is the nearest that keeps it"


@given(st.floats(1e-6, 1e6))
def test_a_number_that_is_rounded_up_is_never_below_itself_and_hardly_above(value: float) -> None:
    assert value <= float(rounded_up(value)) <= value * (1 + 1e-4)
    assert "e" not in rounded_up(value)


@pytest.mark.parametrize(("value", "said"), [(3.672546, "3.6726"), (0.1, "0.1"), (3.5, "3.5"), (1000.0, "1000")])
def test_numbers_that_need_no_rounding_stay_as_they_are(value: float, said: str) -> None:
    assert rounded_up(value) == said


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
    assert "budget, coordinator: ε = 8 at δ = 1e-06" in listed[1]
    assert "budget, recipients: ρ = 0.5" in listed[2]
    said = json.loads(served.out("privacy", "statement", POPULATION, "--json"))
    head = f"{said['entries']}:{said['head']}"
    assert head in served.out("privacy", "statement", POPULATION, "--claim")
    assert "nothing may be claimed" in served.out("privacy", "statement", POPULATION)
    served.out("privacy", "ledger", POPULATION, "--known", head)
    another = served.run("privacy", "ledger", POPULATION, "--known", f"2:{'0' * 64}")
    assert "is not the one whose entry 2" in complaint(another, 1)
    neither = served.run("privacy", "budget", "set", POPULATION, "coordinator")
    assert "give --epsilon, or --rho" in complaint(neither)


@pytest.mark.parametrize(
    ("words", "warned"),
    [
        (("--epsilon", "101"), True),
        (("--epsilon", "100"), False),
        (("--rho", "61", "--target-delta", "1e-6"), True),
        (("--rho", "1", "--target-delta", "1e-6"), False),
        (("--rho", "1e9", "--target-delta", "1e-6"), True),
    ],
)
def test_a_budget_that_is_next_to_no_promise_is_taken_and_warned_of(
    served: Served, words: tuple[str, ...], warned: bool
) -> None:
    population = "-".join(("wide", *words)).replace("--", "")
    served.out("populations", "create", population)
    result = served.run("privacy", "budget", "set", population, "coordinator", *words, "--json")
    assert (result.exit_code, json.loads(result.stdout)["opponent"]) == (0, "coordinator")
    assert ("next to no promise" in result.stderr) is warned


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
