"""Alembic's entry: runs the migrations on the connection that `coordinator.store.migrate` passes in."""

from alembic import context
from sqlmodel import SQLModel

import coordinator.store.group_tables
import coordinator.store.leases
import coordinator.store.privacy_tables
import coordinator.store.tables  # noqa: F401  (registers the tables)

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=SQLModel.metadata, render_as_batch=True)
with context.begin_transaction():
    context.run_migrations()
