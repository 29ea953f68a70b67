"""The tables of the accounts, as the code queries them. How a database gets them is in migrations/; a test holds the two together.

    accounts   who pays: two balances, what is held for prompts under way; one row changes with every charge
    keys       who may ask, for which account
    credits    money that came in or was corrected; never changed
    meters     requests under way: what they have used and been charged so far; gone when the request ends
    ledger     requests that ended; never changed
    servers    one row per service folder; its generation counts the starts, so that a server which was replaced notices

Money is integer nano-dollars, times are integer microseconds since 1970 in UTC: both are exact, sort, and mean the same in every
database. `credits` and `ledger` have triggers that refuse UPDATE and DELETE, the balances a CHECK that refuses a negative amount.
"""
from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, CheckConstraint, Column, ForeignKey, Index, Integer, LargeBinary, MetaData, String, Table, false

BIG = BigInteger()
ID = BigInteger().with_variant(Integer, "sqlite")  # SQLite numbers rows by itself only in a column called INTEGER
NAMES = {"pk": "pk_%(table_name)s", "uq": "uq_%(table_name)s_%(column_0_name)s", "fk": "fk_%(table_name)s_%(column_0_name)s",
         "ck": "ck_%(table_name)s_%(constraint_name)s", "ix": "ix_%(table_name)s_%(column_0_N_name)s"}

metadata = MetaData(naming_convention=NAMES)


def _number(name: str) -> Column:
    return Column(name, BIG, nullable=False, default=0, server_default="0")


def _reference(name: str, to: str) -> Column:
    return Column(name, ID, ForeignKey(to), nullable=False)


def _spent() -> list[Column]:
    """What meters and ledger both say: who asked for what, the tokens, the price row with its date, and who paid how much."""
    return [
        Column("request_id", String(200), nullable=False, unique=True),
        _reference("key_id", "keys.id"), _reference("account_id", "accounts.id"),
        Column("model", String(200), nullable=False),
        *map(_number, ("hit", "miss", "output", "reasoning")),
        Column("price_model", String(200), nullable=False), Column("price_since", String(10), nullable=False),
        *map(_number, ("cached_price", "input_price", "output_price")),
        *map(_number, ("granted", "topped_up", "invoiced")),
        Column("started", BIG, nullable=False),
    ]


accounts = Table(
    "accounts", metadata,
    Column("id", ID, primary_key=True), Column("name", String(200), nullable=False, unique=True),
    *map(_number, ("granted", "topped_up", "held")),
    Column("postpaid", Boolean, nullable=False, default=False, server_default=false()),
    Column("created", BIG, nullable=False),
    CheckConstraint("granted >= 0", "granted"), CheckConstraint("topped_up >= 0", "topped_up"), CheckConstraint("held >= 0", "held"),
)
keys = Table(
    "keys", metadata,
    Column("id", ID, primary_key=True), _reference("account_id", "accounts.id"),
    Column("prefix", String(32), nullable=False, unique=True), Column("name", String(200), nullable=False),
    Column("salt", LargeBinary(16), nullable=False), Column("hash", LargeBinary(32), nullable=False),
    Column("concurrency", Integer), Column("requests_per_minute", Integer), Column("tokens_per_minute", BIG),
    Column("created", BIG, nullable=False), Column("revoked", BIG),
)
credits = Table(
    "credits", metadata,
    Column("id", ID, primary_key=True), _reference("account_id", "accounts.id"),
    Column("kind", String(16), nullable=False), _number("granted"), _number("topped_up"),
    Column("request_id", String(200)), Column("reference", String(200), unique=True), Column("note", String(1000), nullable=False),
    Column("at", BIG, nullable=False),
    Index(None, "account_id"), Index(None, "request_id"),
)
meters = Table(
    "meters", metadata, Column("id", ID, primary_key=True), *_spent(), _number("held"),
    Column("server", String(64), nullable=False), Column("generation", BIG, nullable=False),
    Index(None, "key_id"), Index(None, "server"),
)
ledger = Table(
    "ledger", metadata, Column("id", ID, primary_key=True), *_spent(),
    Column("finished", BIG, nullable=False), Column("day", String(10), nullable=False), Column("status", String(32), nullable=False),
    CheckConstraint("hit >= 0 AND miss >= 0 AND output >= 0 AND reasoning >= 0 AND reasoning <= output", "tokens"),
    CheckConstraint("granted >= 0 AND topped_up >= 0 AND invoiced >= 0", "money"),
    Index(None, "key_id", "started"), Index(None, "account_id", "day"), Index(None, "day"),
)
servers = Table("servers", metadata, Column("id", String(64), primary_key=True), Column("generation", BIG, nullable=False))

IMMUTABLE = ("credits", "ledger")
