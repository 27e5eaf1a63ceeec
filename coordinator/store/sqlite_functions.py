"""What connections to SQLite are given, since it has no hash of its own."""

from __future__ import annotations

import sqlite3
from typing import Final

from coordinator.core.cohorts.evaluation import bucket_of

SQLITE_BUCKET: Final = "edgewise_bucket"
"""A device id and a key to a bucket; PostgreSQL computes it by itself (`cohort_sql`)."""


def add_functions(connection: sqlite3.Connection) -> None:
    """Give them to a new connection."""
    connection.create_function(SQLITE_BUCKET, 2, bucket_of, deterministic=True)
