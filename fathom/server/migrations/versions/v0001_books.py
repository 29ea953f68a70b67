"""Accounts, keys, credits, meters, ledger and servers, and the triggers that keep credits and ledger as they were written."""
import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

BIG = sa.BigInteger()
ID = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """From nothing."""
    op.create_table(
        "accounts",
        sa.Column("id", ID, nullable=False), sa.Column("name", sa.String(200), nullable=False),
        *map(number, ("granted", "topped_up", "held")), sa.Column("created", BIG, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_accounts"), sa.UniqueConstraint("name", name="uq_accounts_name"),
        *(sa.CheckConstraint(f"{name} >= 0", name=f"ck_accounts_{name}") for name in ("granted", "topped_up", "held")),
    )
    op.create_table(
        "keys",
        sa.Column("id", ID, nullable=False), sa.Column("account_id", ID, nullable=False),
        sa.Column("prefix", sa.String(32), nullable=False), sa.Column("name", sa.String(200), nullable=False),
        sa.Column("salt", sa.LargeBinary(16), nullable=False), sa.Column("hash", sa.LargeBinary(32), nullable=False),
        sa.Column("concurrency", sa.Integer), sa.Column("requests_per_minute", sa.Integer), sa.Column("tokens_per_minute", BIG),
        sa.Column("created", BIG, nullable=False), sa.Column("revoked", BIG),
        sa.PrimaryKeyConstraint("id", name="pk_keys"), sa.UniqueConstraint("prefix", name="uq_keys_prefix"), to_account("keys"),
    )
    op.create_table(
        "credits",
        sa.Column("id", ID, nullable=False), sa.Column("account_id", ID, nullable=False), sa.Column("kind", sa.String(16), nullable=False),
        *map(number, ("granted", "topped_up")), sa.Column("request_id", sa.String(200)), sa.Column("reference", sa.String(200)),
        sa.Column("note", sa.String(1000), nullable=False), sa.Column("at", BIG, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_credits"), sa.UniqueConstraint("reference", name="uq_credits_reference"), to_account("credits"),
    )
    op.create_table(
        "meters", *spent("meters"), number("held"),
        sa.Column("server", sa.String(64), nullable=False), sa.Column("generation", BIG, nullable=False),
    )
    op.create_table(
        "ledger", *spent("ledger"),
        sa.Column("finished", BIG, nullable=False), sa.Column("day", sa.String(10), nullable=False),
        sa.Column("status", sa.String(32), nullable=False),
        sa.CheckConstraint("hit >= 0 AND miss >= 0 AND output >= 0 AND reasoning >= 0 AND reasoning <= output", name="ck_ledger_tokens"),
        sa.CheckConstraint("granted >= 0 AND topped_up >= 0", name="ck_ledger_money"),
    )
    op.create_table("servers", sa.Column("id", sa.String(64), nullable=False), sa.Column("generation", BIG, nullable=False),
                    sa.PrimaryKeyConstraint("id", name="pk_servers"))
    for table, columns in (("credits", ["account_id"]), ("credits", ["request_id"]), ("meters", ["key_id"]), ("meters", ["server"]),
                           ("ledger", ["key_id", "started"]), ("ledger", ["account_id", "day"]), ("ledger", ["day"])):
        op.create_index(f"ix_{table}_{'_'.join(columns)}", table, columns)
    for table in ("credits", "ledger"):
        forbid_changes(table)


def number(name: str) -> sa.Column:
    """An amount or a count."""
    return sa.Column(name, BIG, nullable=False, server_default="0")


def to_account(table: str) -> sa.ForeignKeyConstraint:
    """The reference to accounts."""
    return sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=f"fk_{table}_account_id")


def spent(table: str) -> list[sa.schema.SchemaItem]:
    """The columns that meters and ledger share."""
    return [
        sa.Column("id", ID, nullable=False), sa.Column("request_id", sa.String(200), nullable=False),
        sa.Column("key_id", ID, nullable=False), sa.Column("account_id", ID, nullable=False), sa.Column("model", sa.String(200), nullable=False),
        *map(number, ("hit", "miss", "output", "reasoning")),
        sa.Column("price_model", sa.String(200), nullable=False), sa.Column("price_since", sa.String(10), nullable=False),
        *map(number, ("cached_price", "input_price", "output_price", "granted", "topped_up")), sa.Column("started", BIG, nullable=False),
        sa.PrimaryKeyConstraint("id", name=f"pk_{table}"), sa.UniqueConstraint("request_id", name=f"uq_{table}_request_id"),
        sa.ForeignKeyConstraint(["key_id"], ["keys.id"], name=f"fk_{table}_key_id"), to_account(table),
    ]


def forbid_changes(table: str) -> None:
    """Triggers against UPDATE and DELETE where the database is one that we test; others have only the guard in database.py."""
    dialect = op.get_bind().dialect.name
    message = f"{table} is append-only: corrections are new rows"
    if dialect == "sqlite":
        for event in ("UPDATE", "DELETE"):
            op.execute(f"CREATE TRIGGER {table}_no_{event.lower()} BEFORE {event} ON {table} BEGIN SELECT RAISE(ABORT, '{message}'); END")
    elif dialect == "postgresql":
        op.execute(f"CREATE FUNCTION {table}_append_only() RETURNS trigger LANGUAGE plpgsql AS "
                   f"$$ BEGIN RAISE EXCEPTION '{message}'; END $$")
        op.execute(f"CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
                   f"FOR EACH STATEMENT EXECUTE FUNCTION {table}_append_only()")
