"""Whether the process answers, for whoever watches it."""

from __future__ import annotations

from fastapi import APIRouter

from coordinator.api.parts import PartsOf

router = APIRouter(tags=["health"])


@router.get("/healthz")
def healthz(parts: PartsOf) -> dict[str, str]:
    """The process answers and its database does too."""
    with parts.database.reading() as session:
        session.connection().exec_driver_sql("SELECT 1")
    return {"status": "ok"}
