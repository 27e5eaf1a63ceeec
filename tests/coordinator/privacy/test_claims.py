"""Claims: a figure beside its second opinion, kept with the release it was made for, and refused where both differ."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlmodel import select

from coordinator import accounting
from coordinator.app import create_worker
from coordinator.core.privacy.events import Event, GaussianEvent
from coordinator.core.privacy.gaussian import exact_epsilon
from coordinator.core.privacy.opinions import Opinion, SecondOpinions, agreed
from coordinator.services import ledger, spending
from coordinator.services.transfer import export_tenant, import_tenant
from coordinator.store import migrate
from coordinator.store.blobs import FolderBlobs
from coordinator.store.database import Database
from coordinator.store.privacy_tables import ClaimRow
from tests.coordinator.asking import refusal
from tests.coordinator.privacy.spending import CENTRAL, DELTA, NOISE, PRIVACY, WHOSE, put_budget, statement_of
from tests.coordinator.running import begun, reported
from tests.programme import COORDINATOR_KEY, POPULATION, TENANT, Home, one_hot, replace, settings_in


def after_one_round(home: Home) -> str:
    """The model version of a committed round of central noise."""
    home.publish()
    phones = [home.phone(number) for number in range(2)]
    put_budget(home, "recipients", rho=9.0).raise_for_status()
    home.start_task(replace(CENTRAL, goal=1), pool_size=1, rounds=1)
    (assignment,) = begun(home, phones[:1], "one")
    reported(home, phones[0], assignment, one_hot(0))
    home.look()
    found: str = home.task()["checkpoint_sha256"]
    return found


def asking(home: Home, factor: float) -> list[Sequence[Event]]:
    """Let second opinions be a fake's, which is off by a factor; what it was asked."""
    asked: list[Sequence[Event]] = []

    def ask(events: Sequence[Event], delta: float) -> tuple[Opinion, Opinion]:
        asked.append(events)
        (event,) = events
        assert isinstance(event, GaussianEvent)
        right = exact_epsilon(1 / event.noise_multiplier, delta)
        claim, second = Opinion("ours", right, delta), Opinion("theirs", right * factor, delta)
        return agreed(claim, second), second

    home.app.state.parts = replace(home.app.state.parts, second_opinion=lambda: ask)
    return asked


def release(home: Home, checkpoint: str) -> Any:
    wanted = {"checkpoint_sha256": checkpoint, "share": 0.5}
    return home.operator("POST", f"/populations/{POPULATION}/releases", json=wanted)


def claims(home: Home) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = home.operator("GET", f"{PRIVACY}/claims").raise_for_status().json()
    return found


def test_a_release_keeps_its_claim_beside_the_second_opinion_once(home: Home) -> None:
    checkpoint = after_one_round(home)
    asked = asking(home, 1.01)
    number = release(home, checkpoint).raise_for_status().json()["number"]
    release(home, checkpoint).raise_for_status()
    (claim,) = claims(home)
    epsilon = exact_epsilon(1 / NOISE, DELTA)
    assert claim["epsilon"] == pytest.approx(epsilon, rel=1e-3)
    assert claim["second_epsilon"] == pytest.approx(epsilon * 1.01, rel=1e-3)
    assert (claim["accountant"], claim["second_accountant"]) == ("ours", "theirs")
    assert (claim["opponent"], claim["target_delta"], claim["release"]) == ("recipients", DELTA, number)
    said = statement_of(home)
    assert (claim["entries"], claim["head"]) == (said["entries"], said["head"])
    assert isinstance(asked[0][0], GaussianEvent)


@pytest.mark.parametrize("factor", [0.97, 1.03])
def test_a_release_is_refused_when_two_accountants_differ_by_more_than_two_per_cent(home: Home, factor: float) -> None:
    checkpoint = after_one_round(home)
    asking(home, factor)
    answer = release(home, checkpoint)
    assert (answer.status_code, answer.json()["code"]) == (409, "opinions-differ")
    assert "theirs" in answer.json()["reason"]
    assert home.operator("GET", f"/populations/{POPULATION}/releases").json() == []
    assert home.operator("POST", f"{PRIVACY}/claims").json()["code"] == "opinions-differ"
    assert claims(home) == []


def test_a_claim_may_be_made_at_any_time_and_stays(home: Home) -> None:
    after_one_round(home)
    made = home.operator("POST", f"{PRIVACY}/claims").raise_for_status().json()
    assert [(one["opponent"], one["second_epsilon"], one["release"]) for one in made] == [("recipients", None, None)]
    home.clock.forward(60)
    assert home.operator("POST", f"{PRIVACY}/claims").json() == made, "again is the same"
    assert claims(home) == made


def kept(home: Home, place: int, opponent: str, epsilon: float, later_s: float = 0.0) -> ClaimRow:
    """A claim as if it had been made."""
    row = ClaimRow(
        id=f"{round(epsilon * 1000):032x}",
        **WHOSE._asdict(),
        place=place,
        digest="0" * 64,
        opponent=opponent,
        target_delta=DELTA,
        accountant="ours",
        epsilon=epsilon,
        at=home.clock() + timedelta(seconds=later_s),
    )
    with home.app.state.parts.database.writing() as session:
        session.add(row)
    return row


@pytest.mark.parametrize("limit", [1, 2, 3, 500])
def test_claims_are_listed_newest_first_in_pages_though_many_were_made_at_once(home: Home, limit: int) -> None:
    """Of one ledger as it stands there may be several: for a release, and for whoever asked."""
    home.publish()
    put_budget(home, rho=1.0).raise_for_status()
    for place, opponent, epsilon, later_s in (
        (4, "recipients", 0.3, 0),
        (4, "coordinator", 0.2, 0),
        (4, "recipients", 0.4, 0),
        (4, "recipients", 0.1, 9),
        (3, "coordinator", 0.5, 99),
    ):
        kept(home, place, opponent, epsilon, later_s)
    path = f"{PRIVACY}/claims?limit={limit}"
    found: list[float] = []
    while path:
        answer = home.operator("GET", path).raise_for_status()
        assert 0 < len(answer.json()) <= limit
        if not found:
            kept(home, 5, "coordinator", 0.9)  # what comes meanwhile moves no page
        found += [one["epsilon"] for one in answer.json()]
        path = answer.links["next"]["url"].removeprefix("/v1/operator") if "next" in answer.links else ""
    assert found == [0.1, 0.2, 0.3, 0.4, 0.5]
    assert [one["epsilon"] for one in claims(home)] == [0.9, *found]


@pytest.mark.parametrize("cursor", ["x", "-1", "0" * 32, "0" * 33, "²", "\0"])
def test_a_cursor_that_the_list_of_claims_never_gave_out_is_malformed(home: Home, cursor: str) -> None:
    home.publish()
    put_budget(home, rho=1.0).raise_for_status()
    kept(home, 1, "coordinator", 0.5)
    assert refusal(home.operator("GET", f"{PRIVACY}/claims", params={"cursor": cursor})) == "malformed"


def test_a_cursor_of_another_population_s_claims_is_malformed(home: Home) -> None:
    home.publish()
    put_budget(home, rho=1.0).raise_for_status()
    row = kept(home, 1, "coordinator", 0.5)
    home.operator("PUT", "/populations/other").raise_for_status()
    assert refusal(home.operator("GET", f"/populations/other/privacy/claims?cursor={row.id}")) == "malformed"


def test_every_process_of_a_coordinator_charges(home: Home, folder: Path) -> None:
    """The embedded worker, and one of its own."""
    other = create_worker(settings_in(folder), home.app.state.parts.database)
    for worker in (home.app.state.worker, other):
        assert worker._groups._charge is spending.charge_group


def test_a_ledger_goes_whole_with_its_tenant(home: Home, tmp_path: Path) -> None:
    after_one_round(home)
    home.operator("POST", f"{PRIVACY}/claims").raise_for_status()
    parts = home.app.state.parts
    with parts.database.reading() as session:
        lines = list(export_tenant(session, parts.blobs, TENANT, COORDINATOR_KEY))
        before = ledger.read(session, WHOSE)
    target = Database(f"sqlite:///{tmp_path / 'target.sqlite'}")
    migrate.upgrade(target)
    with target.writing() as session:
        import_tenant(session, FolderBlobs(tmp_path / "blobs", 0), lambda: lines, COORDINATOR_KEY.public)
    with target.reading() as session:
        assert ledger.read(session, WHOSE) == before
        assert len(session.exec(select(ClaimRow)).all()) == 1
    target.close()
    assert b"privacy_noise" not in b"".join(lines)


def test_nothing_is_claimed_where_nothing_was_charged(home: Home) -> None:
    home.publish()
    put_budget(home, rho=1.0).raise_for_status()
    asked = asking(home, 1.0)
    assert home.operator("POST", f"{PRIVACY}/claims").raise_for_status().json() == []
    said = statement_of(home)
    assert (said["figures"], said["rounds"], said["modes"]) == ([], 0, [])
    assert asked == []


def test_central_noise_says_that_it_does_not_protect_from_the_coordinator(home: Home) -> None:
    after_one_round(home)
    against = {one["opponent"]: one for one in statement_of(home, "?task=words")["figures"]}
    assert against["coordinator"]["epsilon"] is None
    assert against["coordinator"]["sentence"].startswith("No protection against the coordinator")
    assert against["recipients"]["epsilon"] == pytest.approx(exact_epsilon(1 / NOISE, DELTA), rel=1e-3)
    assert against["recipients"]["adjacency"] == "one gives zeros instead"
    assert against["recipients"]["budget_share"] == pytest.approx(1 / (2 * NOISE**2) / 9.0, rel=1e-3)


def test_a_second_opinion_that_is_required_and_not_to_be_had_forbids_the_claim(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = after_one_round(home)
    monkeypatch.setattr("coordinator.accounting.importlib.util.find_spec", lambda _name: None)
    required = replace(home.app.state.parts, second_opinion=lambda: accounting.asked(SecondOpinions.REQUIRED))
    home.app.state.parts = required
    answer = release(home, checkpoint)
    assert (answer.json()["code"], answer.json()["nearest"]) == ("not-covered", "Install opacus.")
    assert accounting.asked(SecondOpinions.INSTALLED) is None
    assert accounting.asked(SecondOpinions.NEVER) is None


def test_a_coordinator_that_asks_nobody_loads_neither_opacus_nor_torch() -> None:
    """In a process of its own: a budget, a charged round, its statement, a plan and a release."""
    command = [sys.executable, "-W", "error", "-m", "tests.coordinator.privacy.without_opacus"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout.strip()) == (0, "[] ['dp_accounting', 'scipy']"), found.stderr
