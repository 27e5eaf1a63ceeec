"""Cohorts: named parts of a population, by rules; and whom a rule would reach."""

from __future__ import annotations

import re
import secrets
from datetime import datetime
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Request, Response
from pydantic import Field

from coordinator.api.operator.access import Body, Cursor, Limit, OperatorRoute, RawBody, TenantOf, paged, tagged
from coordinator.api.parts import Parts, PartsOf
from coordinator.core.cohorts.declarations import check_rule, read_declared
from coordinator.core.cohorts.reading import read_rule
from coordinator.core.cohorts.rule import Rule, rule_tree
from coordinator.services import catalogue, cohorts
from coordinator.services.cohorts import Expected
from coordinator.services.reach import Reach, reach
from coordinator.store.tables import Cohort, Tenant
from edge_runtime.protocol.errors import Malformed, PreconditionFailed

router = APIRouter(route_class=OperatorRoute, tags=["cohorts"])

EXAMPLE: Final[dict[str, Any]] = {
    "version": 1,
    "where": {
        "and": [
            {"platform": ["android"]},
            {"app_version": {"at_least": "2.4", "below": "3.0.0-0"}},
            {"not": {"attribute": {"name": "beta", "is": True}}},
            {"bucket": {"salt": "spring-experiment", "from": 0, "to": 5000}},
        ]
    },
    "include": [],
    "exclude": ["00000000000000000000000000000001"],
}
"""A rule for the API's description."""
_RULE_BODY: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["version", "where"],
                    "additionalProperties": False,
                    "properties": {
                        "version": {"const": 1},
                        "where": {"type": "object", "description": "A condition, an object with one key."},
                        "include": {"type": "array", "items": {"type": "string", "pattern": "^[0-9a-f]{32}$"}},
                        "exclude": {"type": "array", "items": {"type": "string", "pattern": "^[0-9a-f]{32}$"}},
                    },
                    "examples": [EXAMPLE],
                },
                "example": EXAMPLE,
            }
        },
    }
}
_TAG = re.compile(r'"(v[0-9]{1,9}-[0-9a-f]{12})"')


class CohortView(Body):
    name: str = Field(examples=["android-spring"])
    population: str = Field(examples=["keyboard"])
    rule: dict[str, Any] = Field(description="As it is evaluated: sorted lists, every key.", examples=[EXAMPLE])
    version: int = Field(description="Goes up with every change.", examples=[3])
    created_at: datetime
    changed_at: datetime


def _expected(request: Request) -> Expected:
    """What `If-Match` or `If-None-Match` says that a change is meant for.

    Raises:
        Malformed: Both are there, or `If-None-Match` is not `*`.
        PreconditionFailed: `If-Match` names nothing that this coordinator gave out.
    """
    match, none_match = (request.headers.get(name, "").strip() for name in ("if-match", "if-none-match"))
    if match and none_match:
        raise Malformed("If-Match and If-None-Match are both there; send one")
    if none_match:
        if none_match != "*":
            raise Malformed("If-None-Match of a change is *: only if there is no such cohort")
        return Expected(absent=True)
    if match == "*":
        return Expected(present=True)
    if not match:
        return Expected()
    found = _TAG.fullmatch(match)
    if found is None:
        raise PreconditionFailed("If-Match is not an ETag of this cohort; get it anew")
    return Expected(revision=found[1])


ExpectedOf = Annotated[Expected, Depends(_expected)]


@router.get("/populations/{population}/cohorts")
def list_cohorts(
    population: str,
    request: Request,
    response: Response,
    tenant: TenantOf,
    parts: PartsOf,
    limit: Limit = 100,
    cursor: Cursor = "",
) -> list[CohortView]:
    """The cohorts of a population, by name."""
    with parts.database.reading() as session:
        found = cohorts.cohorts_of(session, tenant, population, after=cursor, most=limit + 1)
    return [_view(one) for one in paged(request, response, found, limit, lambda one: one.name)]


@router.get("/populations/{population}/cohorts/{cohort}")
def get_cohort(
    population: str, cohort: str, request: Request, response: Response, tenant: TenantOf, parts: PartsOf
) -> CohortView:
    """A cohort and its rule."""
    with parts.database.reading() as session:
        found = cohorts.cohort_named(session, tenant, population, cohort)
    tagged(request, response, _tag(found))
    return _view(found)


@router.put("/populations/{population}/cohorts/{cohort}", openapi_extra=_RULE_BODY)
def put_cohort(
    population: str,
    cohort: str,
    raw: RawBody,
    response: Response,
    tenant: TenantOf,
    parts: PartsOf,
    expected: ExpectedOf,
) -> CohortView:
    """Save a cohort; the rule that it has already changes nothing. To replace another rule, send `If-Match`."""
    rule = read_rule(raw)
    with parts.database.writing() as session:
        found = cohorts.put_cohort(session, tenant, population, cohort, rule, parts.now(), expected)
    response.headers["etag"] = _tag(found)
    return _view(found)


@router.delete("/populations/{population}/cohorts/{cohort}", status_code=204)
def delete_cohort(population: str, cohort: str, tenant: TenantOf, parts: PartsOf, expected: ExpectedOf) -> None:
    """Delete a cohort that no task addresses any more."""
    with parts.database.writing() as session:
        cohorts.delete_cohort(session, tenant, population, cohort, expected)


@router.post("/populations/{population}/reach", openapi_extra=_RULE_BODY)
def post_reach(population: str, raw: RawBody, tenant: TenantOf, parts: PartsOf) -> Reach:
    """Whom a rule would reach; nothing is saved."""
    return _reach(parts, tenant, population, read_rule(raw))


@router.get("/populations/{population}/cohorts/{cohort}/reach")
def get_reach(population: str, cohort: str, tenant: TenantOf, parts: PartsOf) -> Reach:
    """Whom a cohort reaches now."""
    with parts.database.reading() as session:
        rule = read_rule(cohorts.cohort_named(session, tenant, population, cohort).rule)
    return _reach(parts, tenant, population, rule)


def _reach(parts: Parts, tenant: Tenant, population: str, rule: Rule) -> Reach:
    with parts.database.reading() as session:
        found = catalogue.population_named(session, tenant, population)
        check_rule(rule, read_declared(found.attributes))
        return reach(session, found, rule, parts.now(), secrets.SystemRandom().random())


def _tag(cohort: Cohort) -> str:
    return f'"{cohorts.revision(cohort)}"'


def _view(cohort: Cohort) -> CohortView:
    return CohortView(
        name=cohort.name,
        population=cohort.population,
        rule=rule_tree(read_rule(cohort.rule)),
        version=cohort.version,
        created_at=cohort.created_at,
        changed_at=cohort.changed_at,
    )
