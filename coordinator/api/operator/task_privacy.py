"""What hides the participants of a task, and what that is worth, as operators see it."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Sequence
from typing import Final

from pydantic import Field
from sqlmodel import Session

from coordinator.api.operator.access import Body
from coordinator.core.privacy.plans import mode_of
from coordinator.core.privacy.statement import Mode, Opponent
from coordinator.services.running import read_plan
from coordinator.services.task_costs import TaskCost, claims, costs_of, costs_of_all
from coordinator.store.tables import Task

NEXT_TO_NOTHING: Final = 20.0
"""ε of one round above which whoever runs the task is warned: odds may change by e^20, half a thousand million."""


class CostView(Body):
    """ε of a task's rounds against one opponent, at most: of one group, and as if all of them were charged."""

    opponent: Opponent
    protects: bool = Field(description="Whether the mode hides a device from this opponent.")
    target_delta: float = Field(description="Of the budget against it, or else of the other.")
    epsilon_a_round: float | None = Field(description="Of correlated noise the first; null where there is no bound.")
    epsilon_in_all: float | None = Field(
        description="After all rounds that are wanted; null where their number or a bound is not known."
    )


class PrivacyView(Body):
    """What hides a participant."""

    mode: Mode
    noise_multiplier: float | None = Field(description="z of the plan; null where it claims nothing.")
    example_noise_multiplier: float | None = Field(description="Of each step, where that hides single examples.")
    costs: list[CostView] = Field(description="One against each opponent; none without a claim or a budget.")

    @property
    def tag(self) -> str:
        """Changes with the costs: a budget does that, and no version of the task."""
        return hashlib.sha256("".join(one.model_dump_json() for one in self.costs).encode()).hexdigest()[:8]


def privacy_of(session: Session, task: Task) -> PrivacyView:
    """How a task hides its participants."""
    return _view(task, costs_of(session, task))


def privacy_of_all(session: Session, tasks: Sequence[Task]) -> list[PrivacyView]:
    """The same of tasks of one tenant, without what takes a while to find."""
    return [_view(task, costs) for task, costs in zip(tasks, costs_of_all(session, tasks), strict=True)]


def _view(task: Task, costs: Sequence[TaskCost]) -> PrivacyView:
    plan = read_plan(task.plan)
    return PrivacyView(
        mode=mode_of(plan),
        noise_multiplier=plan.noise_multiplier if claims(task) else None,
        example_noise_multiplier=None if plan.example_clipping_norm is None else plan.example_noise_multiplier,
        costs=[CostView(**dataclasses.asdict(one)) for one in costs],
    )


def weak_promises(privacy: PrivacyView) -> list[str]:
    """A sentence where one round promises next to nothing."""
    costs = [math.inf if one.epsilon_a_round is None else one.epsilon_a_round for one in privacy.costs if one.protects]
    worst = max(costs, default=0.0)
    if worst <= NEXT_TO_NOTHING:
        return []
    figure = f"ε = {worst:,.0f}" if math.isfinite(worst) else "no bound on ε"
    return [f"{figure} for a single round: next to nothing is promised; take more noise"]
