"""Where the tests of the accounts keep them: SQLite for everyone, a PostgreSQL cluster of their own in `make check`.

PostgreSQL refuses to run as root, so there it runs as an unprivileged user of this machine, in a folder of that user's, on a socket in
that folder and on no port. It ends with the test session.
"""
from __future__ import annotations

import glob
import itertools
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fathom.server.accounts import Accounts

POSTGRES = [pytest.mark.check, pytest.mark.needs("psql", "module:psycopg")]
BOTH = ["sqlite", pytest.param("postgresql", marks=POSTGRES)]


def unprivileged() -> str:
    """A user to run PostgreSQL as, where we are root."""
    for name in ("postgres", "nobody"):
        try:
            pwd.getpwnam(name)
        except KeyError:
            continue
        return name
    raise AssertionError("no unprivileged user to run PostgreSQL as")


def program(name: str) -> str:
    """PostgreSQL's own programs; Debian keeps them off the path."""
    found = shutil.which(name) or max(glob.glob(f"/usr/lib/postgresql/*/bin/{name}"), default=None)
    assert found, f"psql is here but {name} isn't: install PostgreSQL's server"
    return found


@pytest.fixture(scope="session")
def cluster() -> Iterator[Callable[[], str]]:
    """Gives the URL of a database that is empty and one's own."""
    import psycopg

    folder = tempfile.mkdtemp(prefix="pg")  # short: a socket's path may have 107 characters
    as_user: dict = {}
    if os.geteuid() == 0:
        user = pwd.getpwnam(unprivileged())
        os.chown(folder, user.pw_uid, user.pw_gid)
        as_user = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    run = lambda *command: subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=folder, timeout=120, **as_user)
    data = f"{folder}/data"
    run(program("initdb"), "-D", data, "-U", "fathom", "--auth=trust", "--no-sync", "-E", "UTF8")
    options = f"-c listen_addresses='' -k {folder} -c fsync=off -c max_connections=200"
    run(program("pg_ctl"), "-D", data, "-w", "-l", f"{folder}/log", "-o", options, "start")
    counter = itertools.count()

    def fresh() -> str:
        name = f"accounts{next(counter)}"
        with psycopg.connect(host=folder, user="fathom", dbname="postgres", autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return f"postgresql://fathom@/{name}?host={folder}"

    try:
        yield fresh
    finally:
        run(program("pg_ctl"), "-D", data, "-w", "-m", "immediate", "stop")
        shutil.rmtree(folder)


@pytest.fixture(params=BOTH)
def url(request: pytest.FixtureRequest) -> str | None:
    """What Accounts.open takes as its URL: None for SQLite in the folder."""
    return request.getfixturevalue("cluster")() if request.param == "postgresql" else None


@pytest.fixture
def accounts(tmp_path: Path, url: str | None) -> Iterator[Accounts]:
    """Accounts that serve, on either database."""
    with Accounts.open(tmp_path / "service", url) as opened:
        yield opened
        assert opened.audit() == []
