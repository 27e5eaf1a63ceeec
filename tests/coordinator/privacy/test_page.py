"""docs/privacy.md followed to the letter: its planner call says what stands there, and its order keeps the budget."""

from __future__ import annotations

import shlex
import tomllib
from pathlib import Path
from typing import Any, Final

from coordinator.core.privacy.conversions import rho_to_epsilon
from coordinator.core.privacy.participation import most_participations
from coordinator.core.privacy.plans import cost_of
from coordinator.core.selection import wanted
from edge_runtime.protocol.plan import Close, Plan, Privacy, Summing
from tests.coordinator.serving import run

PAGE: Final = (Path(__file__).parents[3] / "docs" / "privacy.md").read_text()
STEPS: Final = PAGE.split("### From a mode to a running task")[1].split("### More to know")[0]
CALL: Final = shlex.split(STEPS.split("```sh\n")[1].split("```")[0].replace("\\\n", " "))
ORDER: Final[dict[str, Any]] = tomllib.loads(STEPS.split("```toml\n")[1].split("```")[0])


def asked(option: str) -> float:
    return float(CALL[CALL.index(option) + 1])


def ordered() -> Plan:
    said = ORDER["plan"]
    return Plan(
        version=Plan.VERSION,
        tenant="acme",
        population="keyboard",
        bundle_sha256="0" * 64,
        epochs=1,
        batch_size=1,
        learning_rate=1.0,
        proximal_mu=0.0,
        lane_bits=24,
        close=Close.GOAL,
        min_examples=1,
        time_limit_s=60.0,
        fewest_members=said["max_participants"] * 4 // 5,
        survivors=said["max_participants"] * 4 // 5,
        **{**said, "summing": Summing(said["summing"]), "privacy": Privacy(said["privacy"])},
    )


def test_the_call_of_the_page_says_what_the_page_says(tmp_path: Path) -> None:
    chart = tmp_path / "epsilon.svg"
    words = [str(chart) if word == "epsilon.svg" else word for word in CALL[1:]]
    found = run(*words)
    assert found.exit_code == 0, found.output
    assert "Reachable with a noise multiplier of 3.6726:" in found.stdout
    assert "ε = 1.39 against the recipients" in found.stdout
    assert chart.exists()


def test_the_order_of_the_page_keeps_the_budget_that_was_planned() -> None:
    plan, settings = ordered(), ORDER["settings"]
    groups = settings["pool_size"] // wanted(plan.goal, 1.3, plan.max_participants)
    assert groups * plan.max_participants == asked("--goal")
    times = most_participations(settings["stop"]["rounds"], plan.separation, plan.most_participations)
    rho = cost_of(plan, int(asked("--parameters"))).coordinator
    assert rho is not None
    delta = asked("--target-delta")
    assert 1.98 < rho_to_epsilon(rho * times, delta) <= asked("--epsilon-coordinator")
    assert rho_to_epsilon(rho * times / groups, delta) <= 1.39
