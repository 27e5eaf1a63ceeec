"""Devices that leave, policies and the switch of a population, and what outcomes cost"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("populations", schema=None) as batch_op:
        batch_op.add_column(sa.Column("policy", sa.LargeBinary(), nullable=True))
        batch_op.add_column(sa.Column("switched_off", sa.Boolean(), server_default=sa.false(), nullable=False))
    with op.batch_alter_table("devices", schema=None) as batch_op:
        batch_op.add_column(sa.Column("left_at", sa.DateTime(timezone=True), nullable=True))
    with op.batch_alter_table("participations", schema=None) as batch_op:
        batch_op.add_column(sa.Column("cost_seconds", sa.Integer(), nullable=True))
        batch_op.add_column(sa.Column("cost_bytes", sa.BigInteger(), nullable=True))
        batch_op.add_column(sa.Column("cost_battery_percent", sa.Integer(), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("participations", schema=None) as batch_op:
        batch_op.drop_column("cost_battery_percent")
        batch_op.drop_column("cost_bytes")
        batch_op.drop_column("cost_seconds")
    with op.batch_alter_table("devices", schema=None) as batch_op:
        batch_op.drop_column("left_at")
    with op.batch_alter_table("populations", schema=None) as batch_op:
        batch_op.drop_column("switched_off")
        batch_op.drop_column("policy")
