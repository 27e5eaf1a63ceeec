"""The operators' API. Every call needs a bearer token and sees its own tenant alone."""

from __future__ import annotations

from fastapi import APIRouter

from coordinator.api.operator import cohorts, devices, models, populations, privacy, releases, tasks
from coordinator.api.operator.access import PREFIX
from coordinator.api.operator.tasks import TaskRequest

__all__ = ["PREFIX", "TaskRequest", "router"]

router = APIRouter(prefix=PREFIX)
for _part in (populations, cohorts, models, tasks, devices, releases, privacy):
    router.include_router(_part.router)
router.include_router(devices.kept_out)
