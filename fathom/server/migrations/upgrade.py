"""Applies the revisions that a database lacks. No alembic.ini and no env.py: the connection is ours, and so is the transaction."""
from __future__ import annotations

from importlib import resources

from alembic.migration import MigrationContext
from alembic.operations import Operations
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from fathom.errors import UserError

LOCK = 5_103_646_837  # PostgreSQL's name for "somebody upgrades the accounts"; any number that is ours alone


def upgrade(connection: Connection, to: str = "head") -> None:
    """Brings the database up to revision `to`, inside the connection's transaction. Nothing to do is fine.

    Raises UserError where the database was written by a newer version.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
    with resources.as_file(resources.files("fathom.server.migrations")) as folder:
        script = ScriptDirectory(str(folder), version_locations=[str(folder / "versions")])
        context = MigrationContext.configure(connection)
        at = context.get_current_revision()
        known = {step.revision for step in script.walk_revisions()}
        if at is not None and at not in known:
            raise UserError("database", at, "is the revision of a newer version of Fathom", "use that version, or another database")
        with Operations.context(context):
            for step in reversed(list(script.iterate_revisions(to, at or "base"))):
                step.module.upgrade()
                context.stamp(script, step.revision)


def revision_of(connection: Connection) -> str | None:
    """The database's revision, None for an empty one."""
    return MigrationContext.configure(connection).get_current_revision()
