"""Populations: what their devices have in common, and what they are told."""

from __future__ import annotations

import json
from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import Field, StrictBool

from coordinator.api.operator.access import (
    Body,
    Cursor,
    ExpectedVersion,
    Limit,
    OperatorRoute,
    RawBody,
    TenantOf,
    etag,
    paged,
    tagged,
)
from coordinator.api.parts import PartsOf
from coordinator.services import catalogue
from coordinator.store.tables import Population
from edge_runtime.protocol import wire
from edge_runtime.protocol.policy import Policy

router = APIRouter(route_class=OperatorRoute, tags=["populations"])


class Switch(Body):
    off: StrictBool = Field(examples=[True])


class PopulationView(Body):
    name: str = Field(examples=["keyboard"])
    switched_off: bool
    policy: dict[str, Any] | None = Field(description="When devices may work; null leaves it to their apps.")
    model_family: str | None
    example_schema: dict[str, Any] | None
    attributes: dict[str, Any] | None


@router.get("/populations")
def list_populations(
    request: Request, response: Response, tenant: TenantOf, parts: PartsOf, limit: Limit = 100, cursor: Cursor = ""
) -> list[PopulationView]:
    """The tenant's populations, by name."""
    with parts.database.reading() as session:
        found = catalogue.populations(session, tenant, after=cursor, most=limit + 1)
    return [_view(one) for one in paged(request, response, found, limit, lambda one: one.name)]


@router.put("/populations/{name}", status_code=204)
def put_population(name: str, tenant: TenantOf, parts: PartsOf) -> None:
    """Make a population; again changes nothing."""
    with parts.database.writing() as session:
        catalogue.create_population(session, tenant, name, parts.now())


@router.get("/populations/{name}")
def get_population(name: str, request: Request, response: Response, tenant: TenantOf, parts: PartsOf) -> PopulationView:
    """What a population's devices are told."""
    with parts.database.reading() as session:
        population = catalogue.population_named(session, tenant, name)
    tagged(request, response, etag(population.version))
    return _view(population)


@router.put("/populations/{name}/policy")
def put_policy(
    name: str, raw: RawBody, response: Response, tenant: TenantOf, parts: PartsOf, expected: ExpectedVersion
) -> PopulationView:
    """Say when devices may work, within what their apps allow; `null` leaves it to the apps."""
    policy = None if raw.strip() == b"null" else wire.decode(Policy, raw)
    with parts.database.writing() as session:
        population = catalogue.set_policy(session, tenant, name, policy, expected)
    response.headers["etag"] = etag(population.version)
    return _view(population)


@router.put("/populations/{name}/switch")
def put_switch(
    name: str, wanted: Switch, response: Response, tenant: TenantOf, parts: PartsOf, expected: ExpectedVersion
) -> PopulationView:
    """Switch devices off or on; whoever is off does nothing but ask now and then."""
    with parts.database.writing() as session:
        population = catalogue.switch(session, tenant, name, off=wanted.off, expected=expected)
    response.headers["etag"] = etag(population.version)
    return _view(population)


def _view(population: Population) -> PopulationView:
    return PopulationView(
        name=population.name,
        switched_off=population.switched_off,
        policy=None if population.policy is None else json.loads(population.policy),
        model_family=population.model_family,
        example_schema=population.example_schema,
        attributes=population.attributes,
    )
