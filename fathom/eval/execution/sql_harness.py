"""Runs inside the sandbox: a model's query on databases made on the spot. It knows no expected result; rows are compared outside.

Started as `python main.py`, the order on stdin as JSON: schema, databases, query, max_rows; one JSON line per database on stdout:
{"rows": …} or {"error": …}. The query may not attach files or change settings; what it changes in its own database helps nobody.
"""
import json
import sqlite3
import sys


def main() -> None:
    """Obey the order on stdin."""
    order = json.loads(sys.stdin.read())
    for tables in order["databases"]:
        connection = sqlite3.connect(":memory:")
        connection.executescript(order["schema"])
        for table, rows in tables.items():
            connection.executemany(f"INSERT INTO {table} VALUES ({', '.join('?' * len(rows[0]))})", rows)
        connection.commit()
        connection.set_authorizer(refuse)
        try:
            rows = connection.execute(order["query"]).fetchmany(order["max_rows"])
            line = json.dumps({"rows": rows})
        except (sqlite3.Error, sqlite3.Warning, TypeError, ValueError, OverflowError) as e:
            line = json.dumps({"error": f"{type(e).__name__}: {e}"[:300]})
        print(line, flush=True)


def refuse(action: int, *_: object) -> int:
    """Deny ATTACH, DETACH and PRAGMA."""
    denied = (sqlite3.SQLITE_ATTACH, sqlite3.SQLITE_DETACH, sqlite3.SQLITE_PRAGMA)
    return sqlite3.SQLITE_DENY if action in denied else sqlite3.SQLITE_OK


if __name__ == "__main__":
    main()
