"""What a population works for now: its running tasks and their open rounds, as check-ins see them."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import Connection, Row, bindparam, func, select
from sqlmodel import Session, col

from coordinator.core.cohorts.declarations import Declared, read_declared
from coordinator.core.cohorts.evaluation import Test, compiled
from coordinator.core.rounds import OPEN_PHASES, Phase
from coordinator.core.selection import round_seed
from coordinator.core.task_settings import TaskSettings, read_settings
from coordinator.core.tasks import RUNNING
from coordinator.store.tables import Candidate, Cohort, Population, Round, Task
from edge_runtime.protocol import wire
from edge_runtime.protocol.bundle import Manifest
from edge_runtime.protocol.plan import Plan
from edge_runtime.protocol.policy import Policy


class Home(NamedTuple):
    """Where a device is enrolled."""

    tenant: str
    population: str


@dataclass(slots=True, kw_only=True)
class OpenRound:
    id: str
    number: int
    phase: str
    checkpoint_sha256: str
    deadline_at: datetime
    closed_at: datetime | None
    seed: bytes
    candidates: int = 0
    """Counted only where rounds contend."""


@dataclass(slots=True, kw_only=True)
class Running:
    """A task that is active or paused, with its open rounds, the newest first."""

    id: str
    state: str
    plan_raw: bytes
    plan_signature: bytes
    plan: Plan
    settings: TaskSettings
    seed: bytes
    cohort: Test
    """Whether a device is one that the task addresses."""
    rounds: list[OpenRound] = field(default_factory=list)


@dataclass(slots=True, kw_only=True)
class Programme:
    """What a population works for; the tasks by priority, then by age."""

    switched_off: bool
    policy: Policy | None
    bucket_key: bytes
    declared: Declared
    """What its devices may say of themselves."""
    pacing: bytes | None
    tasks: list[Running]

    def selecting(self) -> list[OpenRound]:
        return [round_ for task in self.tasks for round_ in task.rounds if round_.phase == Phase.SELECTING]


@functools.lru_cache(maxsize=1024)
def read_plan(raw: bytes) -> Plan:
    """A plan as it was stored; decoded once."""
    return wire.decode(Plan, raw)


def norm_of(row: Task | Round, plan: Plan) -> float:
    """The clipping norm of a round, or of those of a task that begin now: what was learned, or the plan's."""
    return plan.clipping_norm if row.clipping_norm is None else row.clipping_norm


@functools.lru_cache(maxsize=256)
def read_manifest(raw: bytes) -> Manifest:
    """A bundle's manifest as it was stored; decoded once."""
    return wire.decode(Manifest, raw)


@functools.lru_cache(maxsize=1024)
def _read_policy(raw: bytes) -> Policy:
    return wire.decode(Policy, raw)


_POPULATION = select(
    col(Population.switched_off),
    col(Population.policy),
    col(Population.bucket_key),
    col(Population.attributes),
    col(Population.pacing),
).where(col(Population.tenant) == bindparam("tenant"), col(Population.name) == bindparam("population"))
_TASKS = (
    select(
        col(Task.id),
        col(Task.state),
        col(Task.plan),
        col(Task.plan_signature),
        col(Task.settings),
        col(Task.seed),
    )
    .where(col(Task.tenant) == bindparam("tenant"), col(Task.population) == bindparam("population"))
    .where(col(Task.state).in_(RUNNING))
    .order_by(col(Task.created_at), col(Task.id))
)
_ROUNDS = (
    select(
        col(Round.id),
        col(Round.task_id),
        col(Round.number),
        col(Round.phase),
        col(Round.checkpoint_sha256),
        col(Round.deadline_at),
        col(Round.closed_at),
    )
    .where(col(Round.task_id).in_(bindparam("tasks", expanding=True)), col(Round.phase).in_(OPEN_PHASES))
    .order_by(col(Round.number).desc())
)
_RULES = select(col(Cohort.name), col(Cohort.rule)).where(
    col(Cohort.tenant) == bindparam("tenant"),
    col(Cohort.population) == bindparam("population"),
    col(Cohort.name).in_(bindparam("names", expanding=True)),
)
_COUNTS = (
    select(col(Candidate.round_id), func.count())
    .where(col(Candidate.round_id).in_(bindparam("rounds", expanding=True)))
    .group_by(col(Candidate.round_id))
)


def programme_of(session: Session, home: Home) -> Programme:
    """The running tasks of a population with their open rounds; candidates are counted where rounds contend."""
    connection, where = session.connection(), home._asdict()
    switched_off, policy, bucket_key, attributes, pacing = connection.execute(_POPULATION, where).one()
    found = connection.execute(_TASKS, where).all()
    tests = _cohorts(connection, home, bucket_key, {read_settings(settings).cohort for *_, settings, _ in found})
    tasks = {row[0]: _running(row, tests) for row in found}
    rounds = connection.execute(_ROUNDS, {"tasks": [*tasks]}) if tasks else ()
    for id_, task_id, number, phase, checkpoint, deadline_at, closed_at in rounds:
        tasks[task_id].rounds.append(
            OpenRound(
                id=id_,
                number=number,
                phase=phase,
                checkpoint_sha256=checkpoint,
                deadline_at=deadline_at,
                closed_at=closed_at,
                seed=round_seed(tasks[task_id].seed, number),
            )
        )
    programme = Programme(
        switched_off=switched_off,
        policy=None if policy is None else _read_policy(policy),
        bucket_key=bucket_key,
        declared=read_declared(attributes),
        pacing=pacing,
        tasks=sorted(tasks.values(), key=lambda task: -task.settings.priority),
    )
    _count_candidates(connection, programme.selecting())
    return programme


def _everybody(_facts: object) -> bool:
    return True


def _nobody(_facts: object) -> bool:
    return False


def _cohorts(
    connection: Connection, home: Home, bucket_key: bytes, named: set[str | None]
) -> Mapping[str | None, Test]:
    """What asks whether a device is in a cohort, by the cohort's name; a cohort that is not there has nobody."""
    tests: dict[str | None, Test] = {**dict.fromkeys(named, _nobody), None: _everybody}
    if names := named - {None}:
        rules = connection.execute(_RULES, {**home._asdict(), "names": [*names]})
        tests.update((name, compiled(rule, bucket_key)) for name, rule in rules)
    return tests


def _running(row: Row[str, str, bytes, bytes, bytes, bytes], tests: Mapping[str | None, Test]) -> Running:
    id_, state, plan, plan_signature, settings, seed = row
    return Running(
        id=id_,
        state=state,
        plan_raw=plan,
        plan_signature=plan_signature,
        plan=read_plan(plan),
        settings=read_settings(settings),
        seed=seed,
        cohort=tests[read_settings(settings).cohort],
    )


def _count_candidates(connection: Connection, selecting: Sequence[OpenRound]) -> None:
    if len(selecting) < 2:
        return
    counts = {row[0]: row[1] for row in connection.execute(_COUNTS, {"rounds": [one.id for one in selecting]})}
    for round_ in selecting:
        round_.candidates = counts.get(round_.id, 0)
