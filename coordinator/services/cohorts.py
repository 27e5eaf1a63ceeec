"""Cohorts as an operator sees them: save, look, delete; and what a population declares for their rules."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlmodel import Session, col, func, select

from coordinator.core.cohorts.declarations import check_rule, declared_tree, read_declared
from coordinator.core.cohorts.reading import read_rule
from coordinator.core.cohorts.rule import Rule, encode_rule
from coordinator.core.task_settings import read_settings
from coordinator.core.tasks import ENDED
from coordinator.services.catalogue import check_version, population_named
from coordinator.store.tables import Cohort, Population, Task, Tenant
from edge_runtime.protocol import wire
from edge_runtime.protocol.bundle import Schema
from edge_runtime.protocol.enrolment import is_name
from edge_runtime.protocol.errors import Conflict, Malformed, NotFound, PreconditionFailed

MOST_COHORTS: Final = 1000
"""Of one population."""
_REVISION_DIGITS: Final = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What a change is meant for.

    Attributes:
        absent: Only if there is no such cohort.
        present: Only if there is one.
        revision: Only if it has this revision.
    """

    absent: bool = False
    present: bool = False
    revision: str | None = None


ANYTHING: Final = Expected()


def revision(cohort: Cohort) -> str:
    """A text that no other rule of a cohort of this name has, not even after it was deleted and made again."""
    return f"v{cohort.version}-{hashlib.sha256(cohort.rule).hexdigest()[:_REVISION_DIGITS]}"


def cohort_named(session: Session, tenant: Tenant, population: str, name: str) -> Cohort:
    """Raises: NotFound: The tenant has no such population, or it no such cohort."""
    population_named(session, tenant, population)
    cohort = session.get(Cohort, (tenant.name, population, name))
    if cohort is None:
        raise NotFound(f"the population {population!r} has no cohort {name!r}")
    return cohort


def cohorts_of(session: Session, tenant: Tenant, population: str, after: str, most: int) -> Sequence[Cohort]:
    """The cohorts of a population by name, from the first after a name.

    Raises:
        NotFound: The tenant has no population of this name.
    """
    population_named(session, tenant, population)
    return session.exec(
        select(Cohort)
        .where(Cohort.tenant == tenant.name, Cohort.population == population, Cohort.name > after)
        .order_by(col(Cohort.name))
        .limit(most)
    ).all()


def put_cohort(
    session: Session, tenant: Tenant, population: str, name: str, rule: Rule, now: datetime, expected: Expected
) -> Cohort:
    """Save a cohort; the rule that it has already changes nothing. Devices follow it from their next check-in on.

    Raises:
        NotFound: The tenant has no such population.
        Malformed: The name is not one, or the rule asks for what the population does not declare.
        PreconditionFailed: The cohort is not as expected.
        Conflict: It has another rule, and nothing was expected; or there are too many.
    """
    found = population_named(session, tenant, population)
    if not is_name(name):
        raise Malformed(f"{name!r} is not a name: 1 to 64 of a-z 0-9 . _ -, a letter or digit first")
    check_rule(rule, read_declared(found.attributes))
    raw = encode_rule(rule)
    cohort = session.get(Cohort, (tenant.name, population, name))
    if cohort is not None and cohort.rule == raw and not expected.absent:
        return cohort
    _check(cohort, expected)
    if cohort is None:
        return _new(session, found, name, raw, now)
    if expected == ANYTHING:
        raise Conflict("the cohort exists with another rule; send its ETag in If-Match to replace it")
    cohort.rule, cohort.version, cohort.changed_at = raw, cohort.version + 1, now
    session.add(cohort)
    return cohort


def _new(session: Session, population: Population, name: str, raw: bytes, now: datetime) -> Cohort:
    there = (Cohort.tenant == population.tenant, Cohort.population == population.name)
    if session.exec(select(func.count()).select_from(Cohort).where(*there)).one() >= MOST_COHORTS:
        raise Conflict(f"a population has at most {MOST_COHORTS} cohorts; delete one")
    cohort = Cohort(
        tenant=population.tenant, population=population.name, name=name, rule=raw, created_at=now, changed_at=now
    )
    session.add(cohort)
    return cohort


def delete_cohort(session: Session, tenant: Tenant, population: str, name: str, expected: Expected) -> None:
    """Delete a cohort that no task addresses any more.

    Raises:
        NotFound: There is none.
        PreconditionFailed: It is not as expected.
        Conflict: A task that has not ended addresses it.
    """
    cohort = cohort_named(session, tenant, population, name)
    _check(cohort, expected)
    tasks = session.exec(
        select(Task)
        .where(Task.tenant == tenant.name, Task.population == population, col(Task.state).not_in(ENDED))
        .order_by(col(Task.name))
    ).all()
    for task in tasks:
        if read_settings(task.settings).cohort == name:
            raise Conflict(f"the task {task.name!r} addresses the cohort; end it, or give it another cohort")
    session.delete(cohort)


def _check(cohort: Cohort | None, expected: Expected) -> None:
    if expected.absent and cohort is not None:
        raise PreconditionFailed("the cohort exists; look at it, then send its ETag in If-Match")
    if cohort is None and (expected.present or expected.revision is not None):
        raise PreconditionFailed("there is no such cohort; send If-None-Match: * to make it")
    if cohort is not None and expected.revision not in (None, revision(cohort)):
        raise PreconditionFailed("the cohort was changed meanwhile; look at it again, then change it")


# --- what a population declares -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class ExampleSchema:
    """What one example holds, on every device of a population."""

    features: Schema
    labels: Schema


def declare(
    session: Session,
    tenant: Tenant,
    name: str,
    *,
    model_family: str | None,
    example_schema: Mapping[str, Any] | None,
    attributes: Mapping[str, Any] | None,
    expected: int | None = None,
) -> Population:
    """Say what a population's devices have in common, and what they may say of themselves; again changes nothing.

    What devices said before stays in their rows until they check in again; no rule asks for what is not declared.

    Raises:
        NotFound: The tenant has no population of this name.
        Malformed: The model family is no label, or a schema or a declaration is not one.
        PreconditionFailed: The population is not in the expected version.
        Conflict: A cohort asks for what would no longer be declared.
    """
    population = population_named(session, tenant, name)
    if model_family is not None and not is_name(model_family):
        raise Malformed("model_family: write 1 to 64 of a-z 0-9 . _ -, a letter or digit first")
    if example_schema is not None:
        example_schema = json.loads(wire.encode(wire.decode(ExampleSchema, json.dumps(example_schema).encode())))
    declared = read_declared(attributes)
    wanted = {
        "model_family": model_family,
        "example_schema": example_schema,
        "attributes": None if attributes is None else declared_tree(declared),
    }
    if all(getattr(population, key) == value for key, value in wanted.items()):
        return population
    check_version(population.version, expected)
    for cohort in session.exec(select(Cohort).where(Cohort.tenant == tenant.name, Cohort.population == name)).all():
        try:
            check_rule(read_rule(cohort.rule), declared)
        except Malformed as problem:
            raise Conflict(f"the cohort {cohort.name!r} needs what you leave out: {problem.detail}") from None
    for key, value in wanted.items():
        setattr(population, key, value)
    population.version += 1
    session.add(population)
    return population
