"""Schema version 4: names are keyed by a secret; acts of forgetting.

Names of earlier versions were keyed by the tenant's name alone, which anyone can repeat. They are not renamed: salted
chain names cannot be, and KV files of those versions are no longer read either. Their blocks age out by eviction.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

# SQLite gives automatic row ids to INTEGER keys only.
ROW_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Add a column and a table."""
    op.add_column("scopes", sa.Column("key_check", sa.String(length=32), nullable=True))
    op.create_table(
        "forgets",
        sa.Column("id", ROW_ID, nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("tenant", sa.String(length=32), nullable=False),
        sa.Column("session", sa.String(length=32), nullable=True),
        sa.Column("block_keys", sa.Text(), nullable=False),
        sa.Column("erased", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sqlite_autoincrement=True,
    )
    op.execute("UPDATE semshare_schema SET version = 4")
