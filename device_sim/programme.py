"""What an operator does before a fleet can train: publish a bundle, sign a plan, order a task; then watch it."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any

import httpx

from device_sim.recipes import Recipe
from edge_runtime.protocol.keys import SigningKey
from edge_runtime.protocol.plan import Close, Plan, Privacy, Summing, sign_plan

TENANT = "demo"


class OperatorCallFailed(Exception):
    """The coordinator refused an operator call; the text is what it said."""


OVER_SELECTION = 1.3
EXPECTED_DROPOUT = 0.08


def plan_for(recipe: Recipe, population: str, bundle_sha256: str, training_phones: int) -> Plan:
    """The plan of a demo whose training phones all check in before a round chooses."""
    goal = max(1, round(training_phones * recipe.goal_share))
    chosen = min(training_phones, -(-goal * 13 // 10))
    return Plan(
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
        expected_participants=max(1, round(chosen * (1 - EXPECTED_DROPOUT))),
        max_participants=training_phones,
        goal=goal,
        min_reports=max(1, goal // 2),
        close=Close.ALL_RESOLVED,
        summing=Summing.PLAIN,
        privacy=Privacy.NONE,
        min_examples=1,
        time_limit_s=600.0,
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
