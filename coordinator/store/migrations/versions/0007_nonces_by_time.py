"""Nonces by the time that requests were signed at

A nonce of before is kept under the time that its request came, which is the second it was signed in or the next: one
that took longer could be sent once more until its time alone refuses it, and is answered as before.
"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    postgresql = op.get_bind().dialect.name == "postgresql"
    op.drop_index("ix_nonces_received_at", table_name="nonces")
    op.rename_table("nonces", "nonces_before")
    if postgresql:
        op.execute("ALTER INDEX nonces_pkey RENAME TO nonces_before_pkey")
    op.create_table(
        "nonces",
        sa.Column("signed_at", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("device_id", sa.String(length=32), nullable=False),
        sa.Column("nonce", sa.String(length=32), nullable=False),
        sa.PrimaryKeyConstraint("signed_at", "device_id", "nonce"),
        sqlite_with_rowid=False,
    )
    if postgresql:
        op.execute(
            "INSERT INTO nonces (signed_at, device_id, nonce) "
            "SELECT FLOOR(EXTRACT(EPOCH FROM received_at))::bigint, device_id, nonce FROM nonces_before"
        )
    else:
        op.execute(
            "INSERT INTO nonces (signed_at, device_id, nonce) "
            "SELECT CAST(STRFTIME('%s', received_at) AS BIGINT), device_id, nonce FROM nonces_before"
        )
    op.drop_table("nonces_before")


def downgrade() -> None:
    postgresql = op.get_bind().dialect.name == "postgresql"
    op.rename_table("nonces", "nonces_after")
    if postgresql:
        op.execute("ALTER INDEX nonces_pkey RENAME TO nonces_after_pkey")
    op.create_table(
        "nonces",
        sa.Column("device_id", sa.String(length=32), nullable=False),
        sa.Column("nonce", sa.String(length=32), nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("device_id", "nonce"),
    )
    op.create_index("ix_nonces_received_at", "nonces", ["received_at"], unique=False)
    if postgresql:
        op.execute(
            "INSERT INTO nonces (device_id, nonce, received_at) "
            "SELECT device_id, nonce, TO_TIMESTAMP(MAX(signed_at)) FROM nonces_after GROUP BY device_id, nonce"
        )
    else:
        op.execute(
            "INSERT INTO nonces (device_id, nonce, received_at) "
            "SELECT device_id, nonce, DATETIME(MAX(signed_at), 'unixepoch') || '.000000' "
            "FROM nonces_after GROUP BY device_id, nonce"
        )
    op.drop_table("nonces_after")
