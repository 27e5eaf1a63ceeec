"""Privacy: ledgers, claims, and noise that is still needed"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.schema import SchemaItem

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def _of_a_ledger() -> tuple[SchemaItem, ...]:
    return (
        sa.Column("tenant", sa.String(length=64), nullable=False),
        sa.Column("population", sa.String(length=64), nullable=False),
        sa.ForeignKeyConstraint(
            ["tenant", "population"], ["privacy_ledgers.tenant", "privacy_ledgers.population"], ondelete="RESTRICT"
        ),
    )


def upgrade() -> None:
    op.create_table(
        "privacy_ledgers",
        sa.Column("tenant", sa.String(length=64), nullable=False),
        sa.Column("population", sa.String(length=64), nullable=False),
        sa.Column("count", sa.Integer(), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.ForeignKeyConstraint(["tenant", "population"], ["populations.tenant", "populations.name"]),
        sa.PrimaryKeyConstraint("tenant", "population"),
    )
    op.create_table(
        "privacy_entries",
        *_of_a_ledger(),
        sa.Column("place", sa.Integer(), nullable=False),
        sa.Column("entry", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "population", "place"),
    )
    op.create_table(
        "privacy_spent",
        *_of_a_ledger(),
        sa.Column("opponent", sa.String(length=16), nullable=False),
        sa.Column("figure", sa.Float(53), nullable=False),
        sa.Column("share", sa.Float(53), nullable=False),
        sa.Column("alert", sa.Float(53), server_default=sa.text("0"), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "population", "opponent"),
    )
    op.create_table(
        "privacy_claims",
        sa.Column("id", sa.String(length=32), nullable=False),
        *_of_a_ledger(),
        sa.Column("place", sa.Integer(), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("opponent", sa.String(length=16), nullable=False),
        sa.Column("target_delta", sa.Float(53), nullable=False),
        sa.Column("accountant", sa.String(length=64), nullable=False),
        sa.Column("epsilon", sa.Float(53), nullable=False),
        sa.Column("second_accountant", sa.String(length=64), nullable=True),
        sa.Column("second_epsilon", sa.Float(53), nullable=True),
        sa.Column("release", sa.Integer(), nullable=True),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_privacy_claims_tenant", "privacy_claims", ["tenant"], unique=False)
    op.create_table(
        "privacy_noise",
        sa.Column("round_id", sa.String(length=32), nullable=False),
        sa.Column("groups_sha256", sa.String(length=64), nullable=False),
        sa.Column("seed", sa.LargeBinary(length=32), nullable=False),
        sa.ForeignKeyConstraint(["round_id"], ["rounds.id"]),
        sa.PrimaryKeyConstraint("round_id"),
    )
    op.create_table(
        "privacy_streams",
        sa.Column("task_id", sa.String(length=32), nullable=False),
        sa.Column("round", sa.Integer(), nullable=False),
        sa.Column("buffers_sha256", sa.String(length=64), nullable=True),
        sa.ForeignKeyConstraint(["task_id"], ["tasks.id"]),
        sa.PrimaryKeyConstraint("task_id"),
    )


def downgrade() -> None:
    """What was spent is forgotten: keep a copy of the ledgers before."""
    for table in ("streams", "noise", "claims", "spent", "entries", "ledgers"):
        op.drop_table(f"privacy_{table}")
