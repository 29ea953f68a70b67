"""Every request and every answer of every run, in one SQLite file; what is in it is never asked again.

An asking is (run, item, repeat, turn). Its request is written before it is sent and its answer the moment it is there, each in its
own transaction (write-ahead log, so a killed process loses nothing that was committed). A run that starts again reads its answers
back, and only asks for what is missing. Requests are compressed: long documents are most of the bytes.

The key of the endpoint is never written. One process at a time may run on a file; readers may come and go.
"""
from __future__ import annotations

import json
import sqlite3
import threading
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fathom.errors import UserError
from fathom.eval.items import Item, Verdict
from fathom.eval.pools import Probe
from fathom.eval.scores import Outcome

FORMAT = 1
SCHEMA = """
CREATE TABLE runs (id TEXT PRIMARY KEY, number INTEGER, model TEXT, endpoint TEXT, mode TEXT, seed INTEGER, started TEXT, finished TEXT,
  settings TEXT);
CREATE TABLE items (run TEXT, item TEXT, position INTEGER, dimension TEXT, kind TEXT, level INTEGER, seed INTEGER, repeats INTEGER,
  fingerprint TEXT, payload TEXT, max_tokens INTEGER, PRIMARY KEY (run, item));
CREATE TABLE asks (run TEXT, item TEXT, repeat INTEGER, turn INTEGER, request BLOB, sent TEXT, answer TEXT, reasoning TEXT, finish TEXT,
  prompt_tokens INTEGER, cached_tokens INTEGER, completion_tokens INTEGER, seconds REAL, PRIMARY KEY (run, item, repeat, turn));
CREATE TABLE attempts (run TEXT, item TEXT, repeat INTEGER, turn INTEGER, number INTEGER, at TEXT, status INTEGER, counted INTEGER,
  seconds REAL, error TEXT);
CREATE INDEX attempts_of ON attempts (run, item, repeat, turn);
CREATE TABLE verdicts (run TEXT, item TEXT, repeat INTEGER, score REAL, passed INTEGER, detail TEXT, refused INTEGER,
  PRIMARY KEY (run, item, repeat));
"""


@dataclass(frozen=True)
class Reply:
    """An answer. seconds: from sending to its last byte, of the attempt that succeeded. Token counts are None where not reported."""

    text: str
    reasoning: str = ""
    finish: str = ""
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    completion_tokens: int | None = None
    seconds: float = 0.0


@dataclass(frozen=True)
class Attempt:
    """One try at the endpoint. status: HTTP, 0 where none came.  counted: whether availability counts it.  error: "" if it succeeded."""

    status: int
    counted: bool
    seconds: float
    error: str


@dataclass(frozen=True)
class Run:
    """What a run is. endpoint: a URL without credentials, or "local".  mode: smoke, full or custom.  settings: what decides its items."""

    id: str
    model: str
    endpoint: str
    mode: str
    seed: int
    started: str
    settings: dict[str, Any] = field(default_factory=dict)
    finished: str | None = None


Key = tuple[str, int, int]  # item, repeat, turn


class Store:
    """One SQLite file. Safe to use from several threads; every method is one transaction."""

    def __init__(self, path: str | Path) -> None:
        """Opens or makes the file. Raises UserError where it can't be opened or belongs to something else."""
        self.path = Path(path)
        self._lock = threading.RLock()
        self._claim: Any = None
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(self.path, check_same_thread=False, timeout=30)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            version = self._db.execute("PRAGMA user_version").fetchone()[0]
            empty = not self._db.execute("SELECT 1 FROM sqlite_master").fetchone()
            if empty:
                with self._db:
                    self._db.executescript(f"BEGIN; {SCHEMA} PRAGMA user_version={FORMAT}; COMMIT;")
        except (sqlite3.Error, OSError) as error:
            raise UserError("--out", self.path, f"can't hold the evaluation's store: {error}", "give another folder") from None
        if not empty and version != FORMAT:
            raise UserError("--out", self.path, f"was written in format {version}, this version reads {FORMAT}", "give another folder")

    def close(self) -> None:
        """Closes the file and lets go of the claim."""
        with self._lock:
            self._db.close()
            if self._claim is not None:
                self._claim.close()
                self._claim = None

    def claim(self) -> None:
        """Makes this process the only one that runs on the file, until it ends. Raises UserError where another one does."""
        try:
            import fcntl
        except ImportError:  # no such locks on this system: two runs on one file would ask twice, and do no other harm
            return
        handle = open(self.path.with_suffix(".lock"), "w")  # the lock lives as long as the handle
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            handle.close()
            raise UserError("--out", self.path.parent, "is in use by another evaluation", "wait for it or give another folder") from None
        self._claim = handle

    def add_run(self, run: Run, probes: list[Probe], items: Iterator[Item]) -> None:
        """A new run with its items, at once or not at all; `items` are the probes' own, in their order.

        The dimension is the probe's: a user's file is reported apart from the dimension whose judge it uses.
        """
        with self._lock, self._db:
            number = self._db.execute("SELECT coalesce(max(number), 0) + 1 FROM runs").fetchone()[0]
            settings = json.dumps(run.settings, sort_keys=True)
            self._db.execute("INSERT INTO runs VALUES (?,?,?,?,?,?,?,?,?)",
                             (run.id, number, run.model, run.endpoint, run.mode, run.seed, run.started, run.finished, settings))
            for position, (probe, item) in enumerate(zip(probes, items, strict=True)):
                self._db.execute("INSERT INTO items VALUES (?,?,?,?,?,?,?,?,?,?,?)", (
                    run.id, item.id, position, probe.dimension, item.kind, item.level, item.seed, probe.repeats, item.fingerprint(),
                    json.dumps(item.payload, ensure_ascii=False), item.max_tokens))

    def runs(self, model: str | None = None) -> list[Run]:
        """All runs, oldest first; of one model if given."""
        with self._lock:
            rows = self._db.execute("SELECT id, model, endpoint, mode, seed, started, settings, finished FROM runs ORDER BY number")
            rows = rows.fetchall()
        found = [Run(run_id, name, endpoint, mode, seed, started, json.loads(settings), finished)
                 for run_id, name, endpoint, mode, seed, started, settings, finished in rows]
        return [run for run in found if model is None or run.model == model]

    def run(self, run_id: str) -> Run:
        """One run. Raises UserError where there is none of that id."""
        for run in self.runs():
            if run.id == run_id:
                return run
        raise UserError("run", run_id, f"isn't in {self.path}", f"known: {', '.join(r.id for r in self.runs()[-8:]) or 'none'}")

    def finish(self, run_id: str, when: str) -> None:
        """Marks a run as complete."""
        with self._lock, self._db:
            self._db.execute("UPDATE runs SET finished = ? WHERE id = ?", (when, run_id))

    def items(self, run_id: str) -> list[dict[str, Any]]:
        """The run's items in order, as dicts of the columns, payload as its value."""
        columns = ("item", "position", "dimension", "kind", "level", "seed", "repeats", "fingerprint", "payload", "max_tokens")
        with self._lock:
            rows = self._db.execute(f"SELECT {', '.join(columns)} FROM items WHERE run = ? ORDER BY position", (run_id,)).fetchall()
        return [{**dict(zip(columns, row)), "payload": json.loads(row[8])} for row in rows]

    def fingerprints(self, run_id: str) -> dict[str, str]:
        """{item: fingerprint} of a run, as its items were when it began."""
        with self._lock:
            return dict(self._db.execute("SELECT item, fingerprint FROM items WHERE run=?", (run_id,)).fetchall())

    def sent(self, run_id: str, key: Key, request: dict[str, Any], when: str) -> None:
        """Writes the request down, before it goes out; again for one that got no answer is fine."""
        blob = zlib.compress(json.dumps(request, ensure_ascii=False).encode("utf-8", "surrogatepass"), 6)
        with self._lock, self._db:
            self._db.execute("INSERT INTO asks (run, item, repeat, turn, request, sent) VALUES (?,?,?,?,?,?) "
                             "ON CONFLICT (run, item, repeat, turn) DO UPDATE SET request = excluded.request, sent = excluded.sent "
                             "WHERE answer IS NULL", (run_id, *key, blob, when))

    def attempted(self, run_id: str, key: Key, attempt: Attempt, when: str) -> None:
        """Writes one try down."""
        with self._lock, self._db:
            before = self._db.execute("SELECT count(*) FROM attempts WHERE run=? AND item=? AND repeat=? AND turn=?", (run_id, *key))
            number = before.fetchone()[0]
            self._db.execute("INSERT INTO attempts VALUES (?,?,?,?,?,?,?,?,?,?)", (
                run_id, *key, number + 1, when, attempt.status, int(attempt.counted), attempt.seconds, attempt.error))

    def answered(self, run_id: str, key: Key, reply: Reply) -> None:
        """Writes the answer to a request that `sent` wrote. An answer is never replaced."""
        clean = lambda text: text.encode("utf-8", "replace").decode("utf-8")  # lone surrogates can't be stored
        with self._lock, self._db:
            done = self._db.execute(
                "UPDATE asks SET answer=?, reasoning=?, finish=?, prompt_tokens=?, cached_tokens=?, completion_tokens=?, seconds=? "
                "WHERE run=? AND item=? AND repeat=? AND turn=? AND answer IS NULL",
                (clean(reply.text), clean(reply.reasoning), reply.finish, reply.prompt_tokens, reply.cached_tokens, reply.completion_tokens,
                 reply.seconds, run_id, *key)).rowcount
        assert done == 1, f"{key} was not sent, or is answered already"

    def replies(self, run_id: str) -> dict[Key, Reply]:
        """All answers of a run."""
        with self._lock:
            rows = self._db.execute(
                "SELECT item, repeat, turn, answer, reasoning, finish, prompt_tokens, cached_tokens, completion_tokens, seconds FROM asks "
                "WHERE run=? AND answer IS NOT NULL", (run_id,)).fetchall()
        return {tuple(row[:3]): Reply(*row[3:]) for row in rows}

    def request(self, run_id: str, key: Key) -> dict[str, Any] | None:
        """The request as it was sent."""
        with self._lock:
            row = self._db.execute("SELECT request FROM asks WHERE run=? AND item=? AND repeat=? AND turn=?", (run_id, *key)).fetchone()
        return json.loads(zlib.decompress(row[0]).decode("utf-8", "surrogatepass")) if row else None

    def judged(self, run_id: str, item: str, repeat: int, verdict: Verdict, refused: bool = False) -> None:
        """Writes a verdict, in place of an earlier one. refused: the model never saw the question."""
        with self._lock, self._db:
            self._db.execute("INSERT OR REPLACE INTO verdicts VALUES (?,?,?,?,?,?,?)",
                             (run_id, item, repeat, verdict.score, int(verdict.passed), verdict.detail, int(refused)))

    def verdicts(self, run_id: str) -> dict[tuple[str, int], Verdict]:
        """{(item, repeat): verdict} of a run."""
        with self._lock:
            rows = self._db.execute("SELECT item, repeat, score, passed, detail FROM verdicts WHERE run=?", (run_id,)).fetchall()
        return {(item, repeat): Verdict(score, bool(passed), detail) for item, repeat, score, passed, detail in rows}

    def outcomes(self, run_id: str) -> list[Outcome]:
        """Every asking that the run has, judged or not (then unanswered, 0)."""
        verdicts = self.verdicts(run_id)
        with self._lock:
            refused = set(self._db.execute("SELECT item, repeat FROM verdicts WHERE run=? AND refused=1", (run_id,)))
        found = []
        for row in self.items(run_id):
            for repeat in range(row["repeats"]):
                verdict = verdicts.get((row["item"], repeat))
                found.append(Outcome(row["item"], row["dimension"], row["kind"], row["level"], repeat, verdict.score if verdict else 0.0,
                                     bool(verdict and verdict.passed), verdict is not None, (row["item"], repeat) in refused))
        return found

    def attempt_counts(self, run_id: str) -> tuple[int, int]:
        """(succeeded, failed) among the attempts that availability counts."""
        with self._lock:
            row = self._db.execute("SELECT coalesce(sum(error = ''), 0), coalesce(sum(error != ''), 0) FROM attempts "
                                   "WHERE run=? AND counted=1", (run_id,)).fetchone()
        return int(row[0]), int(row[1])

    def attempts(self, run_id: str) -> list[dict[str, Any]]:
        """Every attempt of a run in order, as dicts."""
        columns = ("item", "repeat", "turn", "number", "at", "status", "counted", "seconds", "error")
        with self._lock:
            rows = self._db.execute(f"SELECT {', '.join(columns)} FROM attempts WHERE run=? ORDER BY rowid", (run_id,)).fetchall()
        return [dict(zip(columns, row)) for row in rows]

