"""How a database of any earlier version, or an empty one, gets the tables of this version: alembic's revisions, applied when it is opened.

A revision in versions/ is a frozen snapshot: it never imports tables.py, which shows the newest shape only, and once released it is
never edited. Each runs whole or not at all, in one transaction, and only one process does it at a time. There is no way down: a bill
isn't undone. To change a table: change tables.py, add versions/vNNNN_what.py with `down_revision` naming the one before; the test in
tests/server/test_migrations.py compares the outcome with tables.py.
"""
from fathom.server.migrations.upgrade import revision_of, upgrade

__all__ = ["revision_of", "upgrade"]
