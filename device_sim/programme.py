"""What an operator does before a fleet can train: publish a bundle, sign a plan, order a task; then watch it."""

from __future__ import annotations

import base64
from dataclasses import dataclass, replace
from typing import Any, Final

import httpx

from coordinator.core.privacy.statement import Opponent
from device_sim.recipes import Recipe
from edge_runtime.protocol.keys import SigningKey
from edge_runtime.protocol.plan import Close, Plan, Privacy, Summing, sign_plan
from edge_runtime.protocol.secure_sum.thresholds import complete_threshold, corrupt_members

TENANT = "demo"


class OperatorCallFailed(Exception):
    """The coordinator refused an operator call; the text is what it said."""


OVER_SELECTION = 1.3
EXPECTED_DROPOUT = 0.08

GROUP_GOAL: Final = 16
"""Reports wanted of one group that sums securely: every phone makes a mask with every other of its group."""
SURVIVOR_SHARE: Final = 0.7
"""Of a full group: so many must be left for its sum to be opened."""
CORRUPT_PERMILLE: Final = 100
SMALLEST_GROUP: Final = 4
"""Below it the first phone that drops out would leave too few."""


@dataclass(frozen=True, slots=True)
class Groups:
    """How the training phones of a demo are split into groups that sum securely.

    Attributes:
        goal: Reports wanted of one group.
        most: Phones chosen for one group.
        survivors: Fewest reports whose sum may be opened; no group forms with fewer members.
    """

    goal: int
    most: int
    survivors: int

    @classmethod
    def of(cls, recipe: Recipe, training_phones: int) -> Groups:
        """As many groups as come nearest to the goal of a round.

        Raises:
            ValueError: The phones are too few for one group.
        """
        wanted_in_all = _goal(recipe, training_phones)
        goal = wanted_in_all // max(1, round(wanted_in_all / GROUP_GOAL))
        most = _chosen(goal, training_phones)
        if most < SMALLEST_GROUP:
            raise ValueError(
                f"{training_phones} phones that train are too few to sum securely: take more with --devices, "
                "or let the coordinator see each report with --summing plain"
            )
        threshold = complete_threshold(most, corrupt_members(CORRUPT_PERMILLE, most))
        return cls(goal, most, max(threshold, round(most * SURVIVOR_SHARE)))


def _goal(recipe: Recipe, training_phones: int) -> int:
    return max(1, round(training_phones * recipe.goal_share))


def _chosen(goal: int, training_phones: int) -> int:
    return min(training_phones, -(-goal * 13 // 10))


def _expected(chosen: int) -> int:
    return max(1, round(chosen * (1 - EXPECTED_DROPOUT)))


def plan_for(
    recipe: Recipe, population: str, bundle_sha256: str, training_phones: int, summing: Summing, privacy: Privacy
) -> Plan:
    """The plan of a demo whose training phones all check in before a round chooses.

    Of secure summing it is about one group, and a round has several. Noise is the devices', of secure summing alone.

    Raises:
        ValueError: The phones are too few to sum securely.
    """
    goal = _goal(recipe, training_phones)
    plain = Plan(
        version=1,
        tenant=TENANT,
        population=population,
        bundle_sha256=bundle_sha256,
        epochs=recipe.epochs,
        batch_size=recipe.batch_size,
        learning_rate=recipe.learning_rate,
        proximal_mu=0.0,
        clipping_norm=recipe.clipping_norm,
        lane_bits=32,
        expected_participants=_expected(_chosen(goal, training_phones)),
        max_participants=training_phones,
        goal=goal,
        min_reports=max(1, goal // 2),
        close=Close.ALL_RESOLVED,
        summing=Summing.PLAIN,
        privacy=Privacy.NONE,
        min_examples=1,
        time_limit_s=600.0,
    )
    if summing is Summing.PLAIN:
        return plain
    groups = Groups.of(recipe, training_phones)
    noised = privacy is Privacy.DISTRIBUTED
    return replace(
        plain,
        version=5 if noised else 4,
        summing=Summing.SECURE,
        lane_bits=24,
        expected_participants=_expected(groups.most),
        max_participants=groups.most,
        goal=groups.goal,
        min_reports=groups.survivors,
        fewest_members=groups.survivors,
        survivors=groups.survivors,
        corrupt_permille=CORRUPT_PERMILLE,
        privacy=privacy,
        noise_multiplier=recipe.noise_multiplier if noised else 0.0,
    )


@dataclass(slots=True)
class Operator:
    """Operator calls to one coordinator."""

    client: httpx.Client

    def publish(self, population: str, bundle: bytes, bundle_sha256: str, checkpoint: bytes) -> str:
        """Bring population, bundle and first weights; the address of the checkpoint that the coordinator signed."""
        self._call("PUT", f"/populations/{population}")
        self._call("PUT", f"/bundles/{bundle_sha256}", content=bundle)
        answer = self._call("POST", f"/bundles/{bundle_sha256}/checkpoints", content=checkpoint)
        return str(answer.json()["sha256"])

    def order_task(
        self, name: str, plan: Plan, key: SigningKey, checkpoint_sha256: str, recipe: Recipe, seed: str, **how: Any
    ) -> None:
        """Sign the plan as the tenant, and start a task with it; `how` are settings of the task."""
        raw, signature = sign_plan(plan, key)
        order = {
            "name": name,
            "plan": base64.b64encode(raw).decode(),
            "plan_signature": base64.b64encode(signature).decode(),
            "checkpoint_sha256": checkpoint_sha256,
            "seed": seed,
            "settings": {
                "stop": {"rounds": recipe.rounds},
                "over_selection": OVER_SELECTION,
                "server_optimiser": {"learning_rate": recipe.server_learning_rate},
                **how,
            },
        }
        self._call("POST", "/tasks", json=order)
        for step in ("approve", "start"):
            self._call("POST", f"/tasks/{name}/{step}")

    def set_budgets(self, population: str, epsilon: float) -> None:
        """Set what the population may spend against each opponent, at the default target delta."""
        for opponent in Opponent:
            self._call("PUT", f"/populations/{population}/privacy/budgets/{opponent}", json={"epsilon": epsilon})

    def statement(self, population: str, task: str) -> dict[str, Any]:
        """What the ledger says of a task, against each opponent."""
        path = f"/populations/{population}/privacy/statement"
        found: dict[str, Any] = self._call("GET", path, params={"task": task}).json()
        return found

    def task(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self._call("GET", f"/tasks/{name}").json()
        return found

    def rounds(self, name: str, after: int = 0) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self._call("GET", f"/tasks/{name}/rounds", params={"after": after}).json()
        return found

    def _call(self, method: str, path: str, **kwargs: Any) -> httpx.Response:
        answer = self.client.request(method, f"/v1/operator{path}", **kwargs)
        if answer.is_error:
            raise OperatorCallFailed(f"{method} {path}: {answer.json().get('detail', answer.status_code)}")
        return answer
