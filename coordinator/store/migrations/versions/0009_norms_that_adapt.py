"""Clipping norms that adapt: of each round, and where a task stands"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for table in ("rounds", "tasks"):
        with op.batch_alter_table(table, schema=None) as batch_op:
            batch_op.add_column(sa.Column("clipping_norm", sa.Float(53), nullable=True))


def downgrade() -> None:
    for table in ("tasks", "rounds"):
        with op.batch_alter_table(table, schema=None) as batch_op:
            batch_op.drop_column("clipping_norm")
