"""Whether a process has what it needs: a database at the newest migration, and a place for blobs."""

from __future__ import annotations

from sqlalchemy.exc import SQLAlchemyError

from coordinator.store import migrate
from coordinator.store.blobs import Blobs
from coordinator.store.database import Database
from edge_runtime.protocol.errors import Refusal


def problems(database: Database, blobs: Blobs) -> list[str]:
    """What is missing, a sentence each; empty when everything is there."""
    found = []
    try:
        behind = migrate.missing(database)
        if behind:
            found.append(f"the database wants {len(behind)} migrations; run `edgewise-coordinator migrate`")
    except (SQLAlchemyError, Refusal):
        found.append("the database does not answer")
    try:
        blobs.check()
    except (OSError, Refusal) as problem:
        found.append(f"the blobs cannot be written: {problem}")
    return found
