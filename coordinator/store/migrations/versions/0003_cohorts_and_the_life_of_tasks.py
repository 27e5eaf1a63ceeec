"""Cohorts, what devices say of themselves, the life of tasks, releases, answers kept for requests that come again"""

import json
import secrets
from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_JSON = sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql")

# What a task's settings held while they were columns, and the columns' types.
_WERE_COLUMNS: dict[str, sa.types.TypeEngine[Any]] = {
    "over_selection": sa.Float(),
    "pool_size": sa.Integer(),
    "selecting_deadline_s": sa.Float(),
    "reporting_deadline_s": sa.Float(),
    "retry_rejected_s": sa.Float(),
    "retry_reported_s": sa.Float(),
}
# The settings that are new, as they were before there were any. Frozen here: a migration never follows the code.
_NEW_SETTINGS = {
    "version": 1,
    "kind": "train",
    "evaluates": None,
    "cohort": None,
    "mode": "synchronous",
    "group_size": None,
    "rounds_at_once": 1,
    "max_staleness": 20,
    "staleness_exponent": 0.5,
    "priority": 0,
    "min_separation_s": 0.0,
    "windows": [],
    "time_zone": "UTC",
}
_OPTIMISER = {"name": "sgd", "beta1": 0.9, "beta2": 0.99, "tau": 0.001}
_STOPS = {"at": None, "metric": None, "bytes": None, "phone_seconds": None}
_RETRY_S = 900.0
_EVERY_ROUND = 100_000


def upgrade() -> None:
    _widen_devices_and_populations()
    _make_tables()
    with op.batch_alter_table("rounds", schema=None) as batch_op:
        batch_op.add_column(sa.Column("model_version", sa.Integer(), server_default=sa.text("0"), nullable=False))
        batch_op.add_column(sa.Column("metrics", sa.LargeBinary(), nullable=True))
    with op.batch_alter_table("participations", schema=None) as batch_op:
        batch_op.add_column(sa.Column("downloaded_at", sa.DateTime(timezone=True), nullable=True))
    _number_the_versions()
    _gather_settings()


def _widen_devices_and_populations() -> None:
    with op.batch_alter_table("devices", schema=None) as batch_op:
        batch_op.add_column(sa.Column("app_version_key", sa.String(length=128), server_default="", nullable=False))
        batch_op.add_column(sa.Column("region", sa.String(length=64), nullable=True))
        batch_op.add_column(sa.Column("hardware_class", sa.String(length=64), nullable=True))
        batch_op.add_column(sa.Column("attributes", _JSON, nullable=True))
        batch_op.add_column(sa.Column("seen_at", sa.DateTime(timezone=True), nullable=True))
        batch_op.add_column(sa.Column("participated_at", sa.DateTime(timezone=True), nullable=True))
        batch_op.add_column(sa.Column("participations", sa.Integer(), server_default=sa.text("0"), nullable=False))
        batch_op.create_index("ix_devices_seen", ["tenant", "population", "seen_at"], unique=False)
    with op.batch_alter_table("populations", schema=None) as batch_op:
        batch_op.add_column(sa.Column("model_family", sa.String(length=64), nullable=True))
        batch_op.add_column(sa.Column("example_schema", _JSON, nullable=True))
        batch_op.add_column(sa.Column("attributes", _JSON, nullable=True))
        batch_op.add_column(sa.Column("bucket_key", sa.LargeBinary(length=32), nullable=True))
        batch_op.add_column(sa.Column("pacing", sa.LargeBinary(), nullable=True))
        batch_op.add_column(sa.Column("version", sa.Integer(), server_default=sa.text("1"), nullable=False))
    populations = sa.table("populations", sa.column("tenant"), sa.column("name"), sa.column("bucket_key"))
    connection = op.get_bind()
    for tenant, name in connection.execute(sa.select(populations.c.tenant, populations.c.name)).all():
        connection.execute(
            populations.update()
            .where(populations.c.tenant == tenant, populations.c.name == name)
            .values(bucket_key=secrets.token_bytes(32))
        )
    with op.batch_alter_table("populations", schema=None) as batch_op:
        batch_op.alter_column("bucket_key", existing_type=sa.LargeBinary(length=32), nullable=False)


def _make_tables() -> None:
    op.create_table(
        "cohorts",
        sa.Column("tenant", sa.String(length=64), nullable=False),
        sa.Column("population", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("rule", sa.LargeBinary(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("changed_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["tenant", "population"], ["populations.tenant", "populations.name"]),
        sa.PrimaryKeyConstraint("tenant", "population", "name"),
    )
    op.create_table(
        "releases",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("tenant", sa.String(length=64), nullable=False),
        sa.Column("population", sa.String(length=64), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("checkpoint_sha256", sa.String(length=64), nullable=False),
        sa.Column("share_ppm", sa.Integer(), nullable=False),
        sa.Column("withdrawn_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["tenant", "population"], ["populations.tenant", "populations.name"]),
        sa.ForeignKeyConstraint(["tenant", "checkpoint_sha256"], ["checkpoints.tenant", "checkpoints.sha256"]),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("tenant", "population", "number"),
    )
    op.create_table(
        "idempotency",
        sa.Column("tenant", sa.String(length=64), nullable=False),
        sa.Column("key", sa.String(length=128), nullable=False),
        sa.Column("request_sha256", sa.String(length=64), nullable=False),
        sa.Column("status", sa.Integer(), nullable=False),
        sa.Column("etag", sa.String(length=32), nullable=True),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["tenant"], ["tenants.name"]),
        sa.PrimaryKeyConstraint("tenant", "key"),
    )
    op.create_index("ix_idempotency_created_at", "idempotency", ["created_at"], unique=False)


def _number_the_versions() -> None:
    """Rounds know the model version that they start from."""
    rounds = sa.table("rounds", sa.column("tenant"), sa.column("checkpoint_sha256"), sa.column("model_version"))
    checkpoints = sa.table("checkpoints", sa.column("tenant"), sa.column("sha256"), sa.column("model_version"))
    version = (
        sa.select(checkpoints.c.model_version)
        .where(checkpoints.c.tenant == rounds.c.tenant, checkpoints.c.sha256 == rounds.c.checkpoint_sha256)
        .scalar_subquery()
    )
    op.execute(rounds.update().values(model_version=sa.func.coalesce(version, 0)))


def _gather_settings() -> None:
    with op.batch_alter_table("tasks", schema=None) as batch_op:
        batch_op.add_column(sa.Column("settings", sa.LargeBinary(), nullable=True))
        batch_op.add_column(sa.Column("optimiser_state_sha256", sa.String(length=64), nullable=True))
        batch_op.add_column(sa.Column("version", sa.Integer(), server_default=sa.text("1"), nullable=False))
        batch_op.add_column(sa.Column("approved_at", sa.DateTime(timezone=True), nullable=True))
        batch_op.add_column(sa.Column("started_at", sa.DateTime(timezone=True), nullable=True))
        batch_op.add_column(sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True))
        batch_op.add_column(sa.Column("ended_because", sa.String(length=32), nullable=True))
    names = ["id", "created_at", "state", "rounds_wanted", "server_learning_rate", *_WERE_COLUMNS]
    written = ["settings", "approved_at", "started_at", "ended_because"]
    tasks = sa.table("tasks", *(sa.column(name) for name in [*names, *written]))
    connection = op.get_bind()
    for row in connection.execute(sa.select(*(tasks.c[name] for name in names))).mappings().all():
        settings = {
            **_NEW_SETTINGS,
            **{name: row[name] for name in _WERE_COLUMNS},
            "server_optimiser": {**_OPTIMISER, "learning_rate": row["server_learning_rate"]},
            "stop": {**_STOPS, "rounds": row["rounds_wanted"]},
        }
        ended = {"completed": "rounds-done", "cancelled": "cancelled"}.get(row["state"])
        connection.execute(
            tasks.update()
            .where(tasks.c.id == row["id"])
            .values(
                settings=json.dumps(settings, sort_keys=True, separators=(",", ":")).encode(),
                approved_at=row["created_at"],
                started_at=row["created_at"],
                ended_because=ended,
            )
        )
    with op.batch_alter_table("tasks", schema=None) as batch_op:
        batch_op.alter_column("settings", existing_type=sa.LargeBinary(), nullable=False)
        for name in ("rounds_wanted", "server_learning_rate", *_WERE_COLUMNS):
            batch_op.drop_column(name)


def downgrade() -> None:
    """Tasks keep what the older schema can say: drafts and approved ones become cancelled, paused ones active."""
    _spread_settings()
    with op.batch_alter_table("participations", schema=None) as batch_op:
        batch_op.drop_column("downloaded_at")
    with op.batch_alter_table("rounds", schema=None) as batch_op:
        batch_op.drop_column("metrics")
        batch_op.drop_column("model_version")
    op.drop_table("idempotency")
    op.drop_table("releases")
    op.drop_table("cohorts")
    with op.batch_alter_table("populations", schema=None) as batch_op:
        for name in ("version", "pacing", "bucket_key", "attributes", "example_schema", "model_family"):
            batch_op.drop_column(name)
    with op.batch_alter_table("devices", schema=None) as batch_op:
        batch_op.drop_index("ix_devices_seen")
        for name in (
            "participations",
            "participated_at",
            "seen_at",
            "attributes",
            "hardware_class",
            "region",
            "app_version_key",
        ):
            batch_op.drop_column(name)


def _spread_settings() -> None:
    with op.batch_alter_table("tasks", schema=None) as batch_op:
        batch_op.add_column(sa.Column("rounds_wanted", sa.Integer(), nullable=True))
        batch_op.add_column(sa.Column("server_learning_rate", sa.Float(), nullable=True))
        for name, kind in _WERE_COLUMNS.items():
            batch_op.add_column(sa.Column(name, kind, nullable=True))
    names = ["id", "state", "settings", "rounds_wanted", "server_learning_rate", *_WERE_COLUMNS]
    tasks = sa.table("tasks", *(sa.column(name) for name in names))
    connection = op.get_bind()
    for row in connection.execute(sa.select(tasks.c.id, tasks.c.state, tasks.c.settings)).mappings().all():
        settings = json.loads(row["settings"])
        values = {name: _RETRY_S if settings[name] is None else settings[name] for name in _WERE_COLUMNS}
        state = {"draft": "cancelled", "approved": "cancelled", "paused": "active"}.get(row["state"], row["state"])
        connection.execute(
            tasks.update()
            .where(tasks.c.id == row["id"])
            .values(
                **values,
                state=state,
                rounds_wanted=settings["stop"]["rounds"] or _EVERY_ROUND,
                server_learning_rate=settings["server_optimiser"]["learning_rate"],
            )
        )
    with op.batch_alter_table("tasks", schema=None) as batch_op:
        for name, kind in {**_WERE_COLUMNS, "rounds_wanted": sa.Integer(), "server_learning_rate": sa.Float()}.items():
            batch_op.alter_column(name, existing_type=kind, nullable=False)
        for name in (
            "ended_because",
            "ended_at",
            "started_at",
            "approved_at",
            "version",
            "optimiser_state_sha256",
            "settings",
        ):
            batch_op.drop_column(name)
