"""Accounts that go on at zero and are invoiced: the flag, and in meters and ledger what neither balance paid."""
import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Every account there is stays prepaid, every row paid by its balances."""
    op.add_column("accounts", sa.Column("postpaid", sa.Boolean, nullable=False, server_default=sa.false()))
    for table in ("meters", "ledger"):
        op.add_column(table, sa.Column("invoiced", sa.BigInteger, nullable=False, server_default="0"))
