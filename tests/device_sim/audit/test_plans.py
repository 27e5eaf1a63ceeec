"""The audit of a plan, through the code of phones and coordinator: right code survives it, planted faults do not.

Coins and noise are those of fixed keys, so that outcomes never change. `nightly` plants every fault in every mode.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
from typer.testing import CliRunner

from coordinator.core.privacy.gaussian import exact_epsilon
from device_sim.audit import page
from device_sim.audit.attacks import Verdict, audited, figure
from device_sim.audit.configured import plan_of, read_plan
from device_sim.audit.plans import Audit, claim_of, judged, ran
from device_sim.cli import app
from edge_runtime.protocol import wire
from edge_runtime.protocol.errors import InvalidPlan, LanesOutOfRange
from edge_runtime.protocol.plan import Plan, Privacy
from tests.device_sim.audit import planted
from tests.device_sim.audit.planted import CLAIM, HONEST, MODES, Fault, audit_of, audit_of_examples, verdict_of
from tests.vectors.make import PLANS_5

CANARIES: Final = {Privacy.DISTRIBUTED: 5_000, Privacy.LOCAL: 3_000}
"""Elsewhere 10,000: a report of each in each round is what an audit costs."""
FOUND: Final = (
    (Privacy.DISTRIBUTED, Fault.HALF_NOISE),
    (Privacy.CENTRAL, Fault.NO_CLIPPING),
    (Privacy.CENTRAL, Fault.HALF_NOISE),
    (Privacy.CENTRAL, Fault.DOUBLE_COUNT),
    (Privacy.CENTRAL, Fault.NO_LIMITS),
    (Privacy.CENTRAL, Fault.NOISE_NOT_REFRESHED),
    (Privacy.CORRELATED, Fault.HALF_NOISE),
    (Privacy.CORRELATED, Fault.NOISE_NOT_REFRESHED),
)


@pytest.mark.parametrize("mode", MODES)
def test_a_right_task_survives_its_audit_in_every_mode(mode: Privacy) -> None:
    audit = audit_of(mode, canaries=CANARIES.get(mode, 10_000))
    verdict = verdict_of(audit, "right")
    assert not verdict.disproved
    assert 0.4 < verdict.bound < verdict.claimed <= CLAIM  # and it is not idle
    assert 0.7 < verdict.estimate.epsilon / verdict.claimed < 1.1, "the claim is what is really given"


@pytest.mark.parametrize(("mode", "fault"), FOUND)
def test_a_fault_in_the_products_code_is_found(mode: Privacy, fault: Fault) -> None:
    rounds = 6 if fault is Fault.NO_LIMITS else 2
    if mode is Privacy.DISTRIBUTED:
        rounds = 1
    canaries = 10_000 if fault is Fault.NO_LIMITS else 20_000
    audit = audit_of(mode, canaries=canaries, rounds=rounds, separation=max(2, rounds))
    verdict = verdict_of(audit, "planted", fault)
    assert verdict.disproved
    assert verdict.claimed <= CLAIM


def test_steps_that_hide_examples_survive_their_audit() -> None:
    audit = audit_of_examples()
    assert (audit.mode.value, audit.together) == ("example-level", 10_000)
    verdict = verdict_of(audit, "examples")
    assert not verdict.disproved
    assert 0.6 < verdict.bound < verdict.claimed <= CLAIM
    assert 0.7 < verdict.estimate.epsilon / verdict.claimed < 1.1


@pytest.mark.parametrize("fault", [Fault.NO_CLIPPING, Fault.HALF_NOISE, Fault.NO_LIMITS])
def test_a_fault_in_the_steps_that_hide_examples_is_found(fault: Fault) -> None:
    audit = audit_of_examples(5_000, rounds=6) if fault is Fault.NO_LIMITS else audit_of_examples(20_000)
    assert verdict_of(audit, "examples", fault).disproved


def test_a_device_that_does_not_clip_cannot_even_write_its_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge_runtime.privacy.clip", lambda delta, _norm: delta)
    with pytest.raises(LanesOutOfRange, match="beyond the clipping norm"):
        ran(audit_of(Privacy.CENTRAL, canaries=200))


def test_a_local_report_that_is_added_twice_tells_nothing_more() -> None:
    """Its noise is added twice with it."""
    assert not verdict_of(audit_of(Privacy.LOCAL, canaries=1000), "twice", Fault.DOUBLE_COUNT).disproved


def test_the_claim_is_that_of_the_coordinators_accounting() -> None:
    central = Audit(plan=plan_of(Privacy.CENTRAL, 2.0, separation=2), rounds=6)
    assert claim_of(central) == pytest.approx(exact_epsilon(3**0.5 / 2.0, 1e-5), rel=1e-3)
    assert central.opponent.value == "recipients"
    once = replace(central, plan=replace(central.plan, most_participations=1))
    assert claim_of(once) == pytest.approx(exact_epsilon(1 / 2.0, 1e-5), rel=1e-3)
    for mode in (Privacy.LOCAL, Privacy.DISTRIBUTED):
        asked = Audit(plan=plan_of(mode, 2.0), rounds=1)
        assert asked.opponent.value == "coordinator"
        assert claim_of(asked) == pytest.approx(exact_epsilon(1 / 2.0, 1e-5), rel=0.1)


def test_canaries_are_as_many_as_the_honest_members_of_a_group() -> None:
    assert audit_of(Privacy.DISTRIBUTED).together == HONEST
    assert Audit(plan=PLANS_5["distributed"]).together == 80 - 10
    assert Audit(plan=PLANS_5["local"]).together == 1
    assert Audit(plan=PLANS_5["central"], canaries=150).together == 150


def test_limits_decide_in_which_rounds_canaries_are() -> None:
    plan = plan_of(Privacy.CENTRAL, 1.0, separation=2, most_participations=2)
    assert ran(Audit(plan=plan, rounds=6, canaries=100)).gave == (0, 2)
    free = replace(plan, separation=1, most_participations=None)
    assert ran(Audit(plan=free, rounds=3, canaries=100)).gave == (0, 1, 2)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"plan": PLANS_5["none"]}, "nothing to audit"),
        ({"rounds": 0}, "1 round or more"),
        ({"canaries": 99}, "100 canaries"),
        ({"target_delta": 0.0}, "between 0 and 1"),
    ],
)
def test_what_cannot_be_audited_is_refused(changes: dict[str, Any], why: str) -> None:
    fields: dict[str, Any] = {"plan": PLANS_5["central"], **changes}
    with pytest.raises(InvalidPlan, match=why):
        Audit(**fields)


# --- the report ---------------------------------------------------------------------------------------------------


def small(mode: Privacy = Privacy.CENTRAL, canaries: int = 2000) -> tuple[Audit, Any, Verdict]:
    audit = Audit(plan=plan_of(mode, 2.0, separation=2), rounds=2, canaries=canaries)
    with planted.drawn_from("small"):
        run = ran(audit)
    return audit, run, judged(audit, run)


def test_the_report_has_the_bound_beside_the_claim(tmp_path: Path) -> None:
    audit, run, verdict = small()
    numbers, report = page.write(tmp_path / "new", audit, run, verdict)
    found = json.loads(numbers.read_text())
    assert found["epsilon_bound"] == verdict.bound < found["epsilon_claimed"] == claim_of(audit)
    assert (found["mode"], found["opponent"], found["disproved"]) == ("central", "recipients", False)
    assert (found["unit"], found["adjacency"]) == ("one installation of the app", "one gives zeros instead")
    assert found["mechanism"] == "Gaussian on the sum of a round"
    assert found["sampling"]
    assert found["assumptions"]
    text = report.read_text()
    assert text.count("<svg") == 2
    assert text.count("<rect") > 50
    assert f"{verdict.claimed:.2f}" in text
    assert "was not disproved" in text
    assert "for one installation of the app (one gives zeros instead)" in text, "ε never stands alone"
    assert "http" not in text, "it loads nothing"


def test_what_no_attacker_looks_at_is_said(tmp_path: Path) -> None:
    """The counts of a norm that adapts: with half of the devices' noise in z_b, 1 % of the claim."""
    plan = PLANS_5["distributed"]
    assert plan.adaptive is not None
    audit = Audit(plan=plan, rounds=1, canaries=140)
    run = ran(audit)
    numbers, report = page.write(tmp_path, audit, run, judged(audit, run))
    said = json.loads(numbers.read_text())["not_attacked"]
    share = (plan.noise_multiplier / plan.adaptive.count_multiplier) ** 2
    assert f"{share:.1%} of the claimed ρ" in said
    assert said in report.read_text()
    assert json.loads(page.write(tmp_path, *small())[0].read_text())["not_attacked"] is None


def test_a_claim_that_no_attacker_could_disprove_is_said_to_be_one(tmp_path: Path) -> None:
    """More right guesses than all there cannot be: an audit that could never fail says so, and what to do."""
    audit, run, verdict = small()
    assert not verdict.out_of_reach
    assert verdict.bound < verdict.most
    large = replace(verdict, claimed=verdict.most)
    assert large.out_of_reach
    assert not large.disproved
    assert f"No claim above ε = {verdict.most:.2f} could be disproved here" in large.sentence()
    assert "could be disproved" not in verdict.sentence()
    text = page.page(audit, run, large)
    assert "<h1>The claim is too large to be disproved</h1>" in text
    assert "--noise-multiplier instead of --plan" in text
    assert page.facts(audit, run, large)["epsilon_bound_at_most"] == verdict.most


def test_the_most_that_can_be_shown_is_what_right_guesses_alone_would_show() -> None:
    included = np.arange(2000) % 2 == 0
    verdict = audited({"plain": included.astype(np.float64)}, included, 100.0, 1e-5)
    assert verdict.bound == verdict.most < verdict.claimed


@pytest.mark.parametrize(
    ("epsilon", "said"),
    [(2.166, "2.17"), (121.4, "121"), (5047.9, "5,048"), (504798.2, "10,000+"), (float("inf"), "10,000+")],
)
def test_large_figures_are_readable(epsilon: float, said: str) -> None:
    assert figure(epsilon) == said


def test_the_numbers_are_json_even_where_nothing_hides_anybody(tmp_path: Path) -> None:
    audit, run, verdict = small()
    bare = replace(verdict, estimate=replace(verdict.estimate, epsilon=float("inf")))
    numbers, report = page.write(tmp_path, audit, run, bare)
    assert "Infinity" not in numbers.read_text()
    assert json.loads(numbers.read_text())["epsilon_estimated"] is None
    assert ">inf<" not in report.read_text()


def test_the_page_says_who_attacks_and_what_to_do_next() -> None:
    attackers: dict[Privacy, str] = {mode: page.page(*small(mode, 100)) for mode in MODES}
    for mode in (Privacy.DISTRIBUTED, Privacy.LOCAL):
        assert "The attacker is who runs the coordinator" in attackers[mode]
    for mode in (Privacy.CENTRAL, Privacy.CORRELATED):
        assert "The attacker is who gets the model" in attackers[mode]
        assert "runs the coordinator this mode protects nobody" in attackers[mode]
    audit, run, verdict = small()
    assert "no proof" in page.page(audit, run, verdict)
    assert "Stop the task" in page.page(audit, run, replace(verdict, bound=9.0))


def test_a_broken_claim_heads_the_page_even_where_nothing_hides_anybody() -> None:
    audit, run, verdict = small()
    worst = replace(verdict, bound=9.0, estimate=replace(verdict.estimate, epsilon=float("inf")))
    assert "<h1>The claim is disproved</h1>" in page.page(audit, run, worst)


# --- the command --------------------------------------------------------------------------------------------------


def command(tmp_path: Path, *options: str) -> tuple[int, str]:
    given = ["audit", "--canaries", "200", "--rounds", "2", "--out", str(tmp_path), *options]
    found = CliRunner().invoke(app, given)
    return found.exit_code, found.output


def test_the_command_says_claim_and_bound_and_ends_with_0(tmp_path: Path) -> None:
    code, said = command(tmp_path, "--mode", "central")
    assert code == 0, said
    assert said.startswith("Claim: ε = ")
    assert "does not disprove the claim" in said
    assert {path.name for path in tmp_path.iterdir()} == {"audit.html", "audit.json"}


def test_the_command_audits_examples_too(tmp_path: Path) -> None:
    code, said = command(tmp_path, "--mode", "example-level")
    assert code == 0, said
    assert "for an example on a device in a task of 2 rounds (example-level noise, z = 2)" in said


def test_the_command_ends_with_1_where_a_promise_is_broken(tmp_path: Path) -> None:
    with planted.planted(Fault.NO_CLIPPING):
        code, said = command(tmp_path, "--mode", "central", "--noise-multiplier", "3", "--canaries", "4000")
    assert code == 1, said
    assert json.loads((tmp_path / "audit.json").read_text())["disproved"]


@pytest.mark.parametrize("name", ["distributed", "local", "central", "correlated", "examples"])
def test_the_command_takes_the_plan_of_a_task(tmp_path: Path, name: str) -> None:
    (tmp_path / "plan.json").write_bytes(wire.encode(PLANS_5[name]))
    code, said = command(tmp_path / "out", "--plan", str(tmp_path / "plan.json"))
    assert code == 0, said
    mode = json.loads((tmp_path / "out" / "audit.json").read_text())["mode"]
    assert mode == ("example-level" if name == "examples" else name)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--mode", "none"], "nothing to audit in a mode 'none'"),
        (["--mode", "federated"], "choose one of distributed, central, correlated, local, example-level"),
        (["--plan", "/nowhere/plan.json"], "cannot be read: No such file"),
        (["--mode", "correlated", "--separation", "1"], "separation of 2 rounds"),
        (["--out", "/proc/audit"], "cannot be written"),
    ],
)
def test_a_wrong_request_is_one_line_and_ends_with_2(tmp_path: Path, options: list[str], why: str) -> None:
    code, said = command(tmp_path, *options)
    assert code == 2, said
    assert why in said
    assert said.splitlines()[-1].startswith("edgewise-sim: ")


def test_a_file_that_is_no_plan_is_named(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text("{}")
    with pytest.raises(InvalidPlan, match="not the JSON of a plan"):
        read_plan(tmp_path / "plan.json")
    assert plan_of(Privacy.CENTRAL, 1.0).version == Plan.VERSION
