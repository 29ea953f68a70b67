"""Databases of every age end up the same, keep their rows and their triggers, and only one process upgrades at a time."""
from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Engine, create_engine, inspect, text

from fathom.errors import UserError
from fathom.server.accounts import Accounts
from fathom.server.database import open_database
from fathom.server.migrations import revision_of, upgrade
from fathom.server.tables import metadata
from tests.server.databases import cluster, url  # noqa: F401  (fixtures)

# ruff: noqa: F811  (fixtures are arguments of the same name)

HEAD = "0002"
ROOT = Path(__file__).parents[2]


def plain(tmp_path: Path, url: str | None) -> Engine:
    """An engine without our settings, as another program would have."""
    return create_engine(url.replace("postgresql://", "postgresql+psycopg://") if url else f"sqlite:///{tmp_path}/accounts.sqlite")


def shape(engine: Engine) -> dict:
    """Tables with columns, keys, indexes and constraints, in an order that doesn't depend on how they were made."""
    look = inspect(engine)
    return {name: ({c["name"]: (str(c["type"]), c["nullable"]) for c in look.get_columns(name)}, look.get_pk_constraint(name),
                   sorted(map(str, look.get_foreign_keys(name))), sorted(map(str, look.get_indexes(name))),
                   sorted(c["name"] for c in look.get_check_constraints(name)), sorted(map(str, look.get_unique_constraints(name))))
            for name in look.get_table_names()}


def test_upgraded_is_what_the_code_expects(tmp_path: Path, url: str | None) -> None:
    engine = open_database(tmp_path, url)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, metadata) == []
        assert revision_of(connection) == HEAD
    expected = {table.name: {c.name for c in table.constraints if c.name and c.name.startswith("ck_")} for table in metadata.sorted_tables}
    assert {name: set(found[4]) for name, found in shape(engine).items() if name in expected} == {
        name: {"ck_ledger_tokens", "ck_ledger_money"} if name == "ledger" else {f"ck_accounts_{c}" for c in ("granted", "topped_up", "held")}
        if name == "accounts" else set() for name in expected}


def test_from_the_first_version_with_its_rows(tmp_path: Path, url: str | None) -> None:
    engine = plain(tmp_path, url)
    with engine.begin() as connection:
        upgrade(connection, "0001")
        assert revision_of(connection) == "0001"
        connection.execute(text("INSERT INTO accounts (id, name, granted, topped_up, created) VALUES (1, 'old', 5, 7, 0)"))
        connection.execute(text("INSERT INTO credits (account_id, kind, granted, topped_up, note, at) VALUES (1, 'grant', 5, 17, '', 0)"))
        connection.execute(text("INSERT INTO keys (id, account_id, prefix, name, salt, hash, created) VALUES (1, 1, 'sk-aaaaaaaa', 'k', :b, :b, 0)"),
                           {"b": b"x" * 16})
        connection.execute(text(
            "INSERT INTO ledger (request_id, key_id, account_id, model, miss, price_model, price_since, input_price, topped_up, started, finished, "
            "day, status) VALUES ('r', 1, 1, 'm', 10, 'm', '2026-01-01', 1000000, 10, 0, 0, '1970-01-01', 'stop')"))
    engine.dispose()
    with Accounts.open(tmp_path, url) as accounts:
        assert accounts.audit() == []
        (row,) = accounts.usage()
        assert (row.cost, row.invoiced) == (10, 0) and accounts.balance(1).total == 12 and not accounts.balance(1).postpaid
        raw = accounts.engine.raw_connection()
        with pytest.raises(Exception, match="append-only"):
            raw.cursor().execute("UPDATE ledger SET status = 'x'")
        raw.rollback()
        raw.close()
        upgraded = shape(accounts.engine)
    engine.dispose()
    if url is None:
        assert upgraded == shape(open_database(tmp_path / "fresh"))


def test_opening_again_changes_nothing(tmp_path: Path, url: str | None) -> None:
    first = shape(open_database(tmp_path, url))
    assert shape(open_database(tmp_path, url)) == first


def test_a_newer_database_is_left_alone(tmp_path: Path, url: str | None) -> None:
    open_database(tmp_path, url).dispose()
    engine = plain(tmp_path, url)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(UserError, match="9999: is the revision of a newer version"):
        open_database(tmp_path, url)
    with engine.connect() as connection:
        assert revision_of(connection) == "9999"


def test_a_failed_upgrade_leaves_nothing_half_done(tmp_path: Path, url: str | None, monkeypatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("alembic.operations.Operations.add_column", lambda *args, **options: 1 / 0, raising=True)
        with pytest.raises(ZeroDivisionError):
            open_database(tmp_path, url)
    engine = plain(tmp_path, url)
    assert inspect(engine).get_table_names() == []
    open_database(tmp_path, url)
    with engine.connect() as connection:
        assert revision_of(connection) == HEAD


def test_eight_processes_open_one_empty_database(tmp_path: Path, url: str | None) -> None:
    code = ("import sys; from pathlib import Path; from fathom.server.accounts import Accounts\n"
            "a = Accounts.open(Path(sys.argv[1]), sys.argv[2] or None, serving=False); sys.stdin.read(); print(a.create_key(sys.argv[3]).key.name)")
    folder, count = tmp_path / "service", 8 if url is None else 4
    started = [subprocess.Popen([sys.executable, "-c", code, str(folder), url or "", f"k{i}"], cwd=ROOT, stdin=subprocess.PIPE,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for i in range(count)]
    said = [process.communicate("", timeout=120) for process in started]
    assert sorted(out.strip() for out, _ in said) == [f"k{i}" for i in range(count)], [error[-500:] for _, error in said]


@pytest.mark.parametrize(("given", "says"), [
    ("not a url", "not a database URL"), ("nosuch://host/db", "not a database URL"), ("sqlite://", "keeps nothing"),
    ("sqlite:////nowhere/at/all.db", "can't be opened"), ("oracle://u:secret@h/db", "needs the module"),
])
def test_urls_that_cannot_be(tmp_path: Path, given: str, says: str) -> None:
    with pytest.raises(UserError, match=says) as error:
        open_database(tmp_path, given)
    assert "secret" not in str(error.value)


@pytest.mark.needs("module:psycopg")
def test_a_database_that_is_not_there_shows_no_password(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="can't be opened") as error:
        open_database(tmp_path, f"postgresql://u:secret@/db?host={tmp_path}")
    assert "secret" not in str(error.value) and "u:***@" in str(error.value)


def test_files_that_are_something_else(tmp_path: Path) -> None:
    (tmp_path / "accounts.sqlite").write_bytes(b"this is no database, and long enough for SQLite to see it" * 20)
    with pytest.raises(UserError, match="can't be opened: file is not a database"):
        Accounts.open(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="--folder"):
        Accounts.open(tmp_path / "file" / "below", serving=False)
    with pytest.raises(UserError, match="--folder"):
        Accounts.open(tmp_path / "file" / "below")
