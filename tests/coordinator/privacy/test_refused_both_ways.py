"""Every bad choice of privacy, over HTTP and typed: the code, the reason, and the nearest choice, which is taken."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import httpx
import pytest
from typer.testing import Result

from coordinator.api.problems import STATUSES
from edge_runtime.protocol import wire
from edge_runtime.protocol.errors import REFUSALS, PrivacyRefusal
from edge_runtime.protocol.keys import Domain, digest, sign_document
from edge_runtime.protocol.plan import Plan, Privacy
from tests.coordinator.privacy.spending import CENTRAL, NOISE, PRIVACY, RHO, distributed_plan
from tests.coordinator.running import begun
from tests.coordinator.serving import Served, complaint, serving
from tests.programme import BUNDLE_SHA256, PLAN, POPULATION, TASK, TENANT, TENANT_KEY, replace

DEVICES: Final = 3
MINIMUM: Final = 3
"""No smaller cohort is trained on."""
NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})
Act = Callable[["Programme"], None]
Ask = Callable[["Programme"], httpx.Response]


@dataclass
class Programme:
    """A coordinator on a port, a few devices, and somebody who asks and types."""

    served: Served
    folder: Path
    phones: int = 0

    def grow(self, devices: int) -> None:
        for _device in range(devices):
            self.served.home.phone(self.phones)
            self.phones += 1

    # --- over HTTP ------------------------------------------------------------------------------------------------

    def asked(self, method: str, path: str, **body: Any) -> httpx.Response:
        return self.served.home.operator(method, path, json=body or None)

    def budget(self, opponent: str, **wanted: Any) -> httpx.Response:
        return self.asked("PUT", f"{PRIVACY}/budgets/{opponent}", **wanted)

    def order(self, plan: Mapping[str, Any], settings: Mapping[str, Any] = NOTHING, name: str = TASK) -> httpx.Response:
        """Create a task and approve it."""
        made = self.asked("POST", "/tasks", **self._body(plan, settings, name))
        return made if made.status_code >= 400 else self.asked("POST", f"/tasks/{name}/approve")

    def _body(self, plan: Mapping[str, Any], settings: Mapping[str, Any], name: str) -> dict[str, Any]:
        """With a plan that need not be possible; it is signed all the same."""
        home = self.served.home
        raw = json.dumps(plan, sort_keys=True, separators=(",", ":")).encode()
        signature = sign_document(TENANT_KEY, Domain.PLAN, digest(raw))
        return home.order(PLAN, name=name, checkpoint_sha256=home.publish(), **settings) | {
            "plan": base64.b64encode(raw).decode(),
            "plan_signature": base64.b64encode(signature).decode(),
        }

    # --- typed ----------------------------------------------------------------------------------------------------

    def typed(self, *words: str) -> Result:
        return self.served.run(*words)

    def typed_order(self, plan: Mapping[str, Any], settings: Mapping[str, Any] = NOTHING, name: str = TASK) -> Result:
        """Type an order of a task, to be approved and started at once."""
        top = {
            "name": name,
            "tenant": TENANT,
            "population": POPULATION,
            "bundle_sha256": BUNDLE_SHA256,
            "checkpoint_sha256": self.served.home.publish(),
        }
        fields = {key: value for key, value in plan.items() if key not in {*top, "version"} and value is not None}
        body = self._body(plan, settings, name)["settings"]
        lines = [f"{key} = {json.dumps(value)}" for key, value in top.items()]
        for title, table in (("plan", fields), ("settings", body)):
            lines += [f"[{title}]", *(f"{key} = {_toml(value)}" for key, value in table.items() if value is not None)]
        path = self.folder / f"{name}.toml"
        path.write_text("\n".join(lines))
        key = self.folder / "tenant.key"
        key.write_text(TENANT_KEY.raw.hex() + "\n")
        return self.typed("tasks", "create", str(path), "--tenant-key-file", str(key), "--start")


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_toml(one)}" for key, one in value.items() if one is not None) + "}"
    return json.dumps(value)


def tree(plan: Plan, **changes: Any) -> dict[str, Any]:
    """A plan as it travels, with changes that the class itself would refuse."""
    found: dict[str, Any] = json.loads(wire.encode(plan))
    return found | changes


@dataclass(frozen=True, kw_only=True)
class Case:
    """A bad choice.

    Attributes:
        before: What is there already.
        take: Makes the nearest choice instead; is given what the refusal said.
    """

    code: str
    reason: str
    nearest: str
    before: Act = lambda _programme: None
    ask: Ask
    type: Callable[[Programme], Result]
    take: Callable[[Programme, str], httpx.Response]


def ordering(
    plan: Mapping[str, Any],
    nearest_plan: Mapping[str, Any],
    settings: Mapping[str, Any] = NOTHING,
    nearest_settings: Mapping[str, Any] | None = None,
    **more: Any,
) -> Case:
    """An order that is refused, and one that is not."""
    after = settings if nearest_settings is None else nearest_settings
    return Case(
        ask=lambda programme: programme.order(plan, settings),
        type=lambda programme: programme.typed_order(plan, settings, "typed"),
        take=lambda programme, _said: programme.order(nearest_plan, after, "nearest"),
        **more,
    )


def with_budget(opponent: str, **more: float) -> Act:
    def act(programme: Programme) -> None:
        programme.budget(opponent, rho=9.0, **more).raise_for_status()

    return act


def approved_after(act: Act) -> Callable[[Programme, str], httpx.Response]:
    """The task that was refused, approved when something else was done."""

    def take(programme: Programme, _said: str) -> httpx.Response:
        act(programme)
        return programme.asked("POST", f"/tasks/{TASK}/approve")

    return take


def _another(programme: Programme, _said: str) -> httpx.Response:
    """The running task is ended, and another begun."""
    programme.asked("POST", f"/tasks/{TASK}/cancel").raise_for_status()
    return programme.order(tree(CENTRAL, privacy="local"), name="another")


def _half_a_round(programme: Programme) -> None:
    programme.budget("recipients", rho=RHO / 2).raise_for_status()


def _running(programme: Programme) -> None:
    with_budget("recipients", target_delta=0.01)(programme)
    programme.served.home.start_task(CENTRAL)


def _charged(programme: Programme) -> None:
    """A round is reserved: the ledger holds it."""
    _running(programme)
    home = programme.served.home
    begun(home, [home.phone(number) for number in range(2 * DEVICES)], "one")
    assert programme.asked("GET", f"{PRIVACY}/budgets").json()[0]["reserved"] > 0


def _few(programme: Programme) -> None:
    """One of the devices leaves."""
    with_budget("recipients")(programme)
    found = programme.asked("GET", f"/populations/{POPULATION}/devices").raise_for_status().json()
    programme.asked("DELETE", f"/populations/{POPULATION}/devices/{found[0]['id']}").raise_for_status()


def number_in(said: str) -> float:
    """The last number of a sentence."""
    return float(re.findall(r"\d+(?:\.\d+)?(?:e-?\d+)?", said)[-1])


def set_typed(opponent: str, *words: str) -> Callable[[Programme], Result]:
    return lambda programme: programme.typed("privacy", "budget", "set", POPULATION, opponent, *words)


CORRELATED: Final = replace(CENTRAL, privacy=Privacy.CORRELATED, separation=2)
CASES: Final[Mapping[str, Case]] = {
    "a target delta of 1/N": Case(
        code="invalid-target-delta",
        reason="lets one of 3 devices be exposed",
        nearest="Take at most 0.299",
        ask=lambda programme: programme.budget("recipients", rho=1.0, target_delta=1 / DEVICES),
        type=set_typed("recipients", "--rho", "1", "--target-delta", str(1 / DEVICES)),
        take=lambda programme, said: programme.budget("recipients", rho=1.0, target_delta=number_in(said)),
    ),
    **{
        f"a clipping norm of {norm}": ordering(
            tree(CENTRAL, clipping_norm=norm),
            tree(CENTRAL, clipping_norm=1e-9),
            code="invalid-plan",
            reason=f"not {norm}",
            nearest="clipping_norm is 1e-09 to 1000000.0",
            before=with_budget("recipients"),
        )
        for norm in (0.0, -1.0)
    },
    **{
        f"{mode} noise of nothing": ordering(
            tree(plan, noise_multiplier=0.0),
            tree(plan),
            code="invalid-plan",
            reason=f"privacy {mode} needs a noise_multiplier",
            nearest="above 0, at most 1000",
            before=with_budget("recipients"),
        )
        for mode, plan in {
            "central": CENTRAL,
            "correlated": CORRELATED,
            "local": replace(CENTRAL, privacy=Privacy.LOCAL),
            "distributed": distributed_plan(MINIMUM),
        }.items()
    },
    "noise without a claim": ordering(
        tree(CENTRAL, privacy="none"),
        tree(CENTRAL),
        code="invalid-plan",
        reason="privacy none has a noise_multiplier of 0",
        nearest="name the mode",
        before=with_budget("recipients"),
    ),
    "a cohort below the minimum": Case(
        code="cohort-too-small",
        reason="A cohort of 2 devices is below the minimum of 3",
        nearest="Widen the cohort to at least 3 devices",
        before=_few,
        ask=lambda programme: programme.order(tree(CENTRAL)),
        type=lambda programme: programme.typed_order(tree(CENTRAL), name="typed"),
        take=approved_after(lambda programme: programme.grow(1)),
    ),
    "distributed noise in plain sums": ordering(
        tree(CENTRAL, privacy="distributed"),
        tree(CENTRAL, privacy="local"),
        code="invalid-plan",
        reason="distributed noise needs secure summing",
        nearest="sum securely, or choose local",
        before=with_budget("coordinator"),
    ),
    "distributed noise in plain sums, then securely": ordering(
        tree(CENTRAL, privacy="distributed"),
        tree(distributed_plan(MINIMUM)),
        code="invalid-plan",
        reason="distributed noise needs secure summing",
        nearest="sum securely, or choose local",
        before=with_budget("coordinator"),
    ),
    "correlated noise in buffered rounds": ordering(
        tree(CORRELATED),
        tree(CORRELATED),
        {"mode": "buffered"},
        {"mode": "synchronous"},
        code="mode-not-given",
        reason="Correlated noise is of one round after another",
        nearest="Make the task synchronous, or central",
        before=with_budget("recipients"),
    ),
    "correlated noise in buffered rounds, then central": ordering(
        tree(CORRELATED),
        tree(CENTRAL),
        {"mode": "buffered"},
        code="mode-not-given",
        reason="Correlated noise is of one round after another",
        nearest="Make the task synchronous, or central",
        before=with_budget("recipients"),
    ),
    "correlated noise without an end": ordering(
        tree(CORRELATED),
        tree(CORRELATED),
        {"rounds": None},
        {"rounds": 9},
        code="mode-not-given",
        reason="planned for a number of rounds",
        nearest="Set stop.rounds",
        before=with_budget("recipients"),
    ),
    "correlated noise of devices that are in every round": ordering(
        tree(CORRELATED, separation=1),
        tree(CORRELATED, separation=2),
        code="invalid-plan",
        reason="correlated noise needs a separation",
        nearest="2 rounds or more",
        before=with_budget("recipients"),
    ),
    "central noise against the coordinator": ordering(
        tree(CENTRAL),
        tree(CENTRAL, privacy="local"),
        code="mode-not-given",
        reason="does not protect from the coordinator",
        nearest="Choose distributed or local noise",
        before=with_budget("coordinator"),
    ),
    "no noise where there is a budget": ordering(
        tree(PLAN),
        tree(CENTRAL),
        code="mode-not-given",
        reason="Mode none does not protect from the recipients",
        nearest="Choose central, correlated, distributed or local noise",
        before=with_budget("recipients"),
    ),
    "a claim without a budget": Case(
        code="mode-not-given",
        reason="has no budget",
        nearest="`edgewise-coordinator privacy budget set`",
        ask=lambda programme: programme.order(tree(CENTRAL)),
        type=lambda programme: programme.typed_order(tree(CENTRAL), name="typed"),
        take=approved_after(with_budget("recipients")),
    ),
    "a first round beyond its budget": Case(
        code="budget-spent",
        reason="What is left of the budget against the recipients does not cover the round",
        nearest="One more round fits with 1.42 times the noise",
        before=_half_a_round,
        ask=lambda programme: programme.order(tree(CENTRAL)),
        type=lambda programme: programme.typed_order(tree(CENTRAL), name="typed"),
        take=lambda programme, said: programme.order(
            tree(CENTRAL, noise_multiplier=NOISE * number_in(said)), name="nearest"
        ),
    ),
    "a budget below what is spent": Case(
        code="invalid-budget",
        reason="The ledger holds ρ = ",
        nearest="Take a budget of ρ ≥ 0.126",
        before=_charged,
        ask=lambda programme: programme.budget("recipients", rho=0.01, target_delta=0.01),
        type=set_typed("recipients", "--rho", "0.01", "--target-delta", "0.01"),
        take=lambda programme, said: programme.budget("recipients", rho=number_in(said), target_delta=0.01),
    ),
    "a larger target delta for what is spent": Case(
        code="ledger-closed",
        reason="Charges were made at a target delta of",
        nearest="Keep it, or take a smaller one",
        before=_charged,
        ask=lambda programme: programme.budget("recipients", rho=9.0, target_delta=0.1),
        type=set_typed("recipients", "--rho", "9", "--target-delta", "0.1"),
        take=lambda programme, _said: programme.budget("recipients", rho=9.0, target_delta=0.001),
    ),
    "less noise while the task runs": Case(
        code="noise-lowered",
        reason=f"would fall from {NOISE:g} to 1",
        nearest=f"Keep at least {NOISE:g}",
        before=_running,
        ask=lambda programme: programme.order(tree(CENTRAL, noise_multiplier=1.0)),
        type=lambda programme: programme.typed_order(tree(CENTRAL, noise_multiplier=1.0)),
        take=lambda programme, _said: programme.asked(
            "POST", "/tasks", **programme._body(tree(CENTRAL), NOTHING, TASK)
        ),
    ),
    "another mode while the task runs": Case(
        code="noise-lowered",
        reason="An active task keeps its mode, central",
        nearest="End it and begin another task",
        before=_running,
        ask=lambda programme: programme.order(tree(CENTRAL, privacy="local")),
        type=lambda programme: programme.typed_order(tree(CENTRAL, privacy="local")),
        take=_another,
    ),
}


@pytest.fixture
def programme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Programme]:
    for name in ("EDGEWISE_ADDRESS", "EDGEWISE_TOKEN_FILE", "EDGEWISE_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "home").mkdir()
    with serving(tmp_path / "home") as served:
        served.home.app.state.parts = replace(served.home.app.state.parts, smallest_cohort=MINIMUM)
        served.home.publish()
        found = Programme(served, tmp_path)
        found.grow(DEVICES)
        yield found


@pytest.mark.parametrize("name", CASES)
def test_a_bad_choice_is_refused_with_its_reason_and_the_nearest_one_is_taken(programme: Programme, name: str) -> None:
    case = CASES[name]
    case.before(programme)
    answer = case.ask(programme)
    found = answer.json()
    assert (answer.status_code, found["code"], found["retry"]) == (STATUSES[case.code], case.code, "never"), found
    reason, nearest = found["detail"], found["detail"]
    if issubclass(REFUSALS[case.code], PrivacyRefusal):
        reason, nearest = found["reason"], found["nearest"]
        assert found["detail"] == f"{reason} {nearest}"
    assert case.reason in reason
    assert case.nearest in nearest
    line = complaint(case.type(programme), 2 if case.code == "invalid-plan" else 1)
    assert found["detail"] in line, "what is typed is told the same"
    taken = case.take(programme, nearest)
    assert taken.status_code < 300, taken.text
