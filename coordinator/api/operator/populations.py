"""Populations: what their devices have in common, and what they are told."""

from __future__ import annotations

import json
from typing import Annotated, Any

from fastapi import APIRouter, Request, Response
from fastapi import Body as FromBody
from pydantic import ConfigDict, Field, StrictBool

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
from coordinator.services import catalogue, cohorts
from coordinator.store.tables import Population
from edge_runtime.protocol import wire
from edge_runtime.protocol.policy import Policy

router = APIRouter(route_class=OperatorRoute, tags=["populations"])


_EXAMPLE: dict[str, Any] = {
    "model_family": "next-word",
    "example_schema": {
        "features": {"shape": [20], "dtype": "int32", "low": 0, "high": 9999},
        "labels": {"shape": [], "dtype": "int32", "low": 0, "high": 9999},
    },
    "attributes": {
        "language": {"type": "text", "values": ["de", "en"]},
        "ram_gb": {"type": "integer", "at_least": 0, "at_most": 64},
        "beta": {"type": "boolean"},
    },
}


class Switch(Body):
    off: StrictBool = Field(examples=[True])


class PopulationRequest(Body):
    """What a population's devices have in common, and may say of themselves; what is left out is null."""

    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})

    model_family: str | None = None
    example_schema: dict[str, Any] | None = Field(None, description="The schemas `features` and `labels`.")
    attributes: dict[str, Any] | None = Field(None, description="A type, and what is allowed, by name.")


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
def put_population(
    name: str,
    tenant: TenantOf,
    parts: PartsOf,
    expected: ExpectedVersion,
    declaration: Annotated[PopulationRequest | None, FromBody()] = None,
) -> None:
    """Make a population, and with a body say what its devices have in common; again changes nothing."""
    with parts.database.writing() as session:
        catalogue.create_population(session, tenant, name, parts.now())
        session.flush()
        if declaration is not None:
            cohorts.declare(session, tenant, name, **dict(declaration), expected=expected)


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
