"""What was sent to an endpoint and what it answered, in one SQLite file that survives a kill at any moment."""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fimaudit.errors import RunFolderError
from fimaudit.meter import Usage

__all__ = ["RequestLedger", "SentRequest", "open_ledger"]

#: "fima" as SQLite's application id: a foreign database is told apart before anything is written.
APPLICATION_ID = 0x66696D61
VERSION = 1
_TABLES = """
CREATE TABLE requests (
    ticket INTEGER PRIMARY KEY, key BLOB NOT NULL, rows INTEGER NOT NULL, retry INTEGER NOT NULL,
    sent REAL NOT NULL, seconds REAL, status TEXT, bytes INTEGER);
CREATE INDEX requests_by_key ON requests (key);
CREATE TABLE answers (key BLOB PRIMARY KEY, ticket INTEGER NOT NULL, rows INTEGER NOT NULL, classes INTEGER NOT NULL,
    probabilities BLOB NOT NULL);
CREATE TABLE notes (name TEXT PRIMARY KEY, value TEXT NOT NULL);
"""


@dataclass(frozen=True)
class SentRequest:
    """One send.

    Attributes:
        ticket: order of the reservation, from 1.
        rows: rows in it.
        retry: how many sends of the same request came before it.
        sent: Unix time in seconds.
        seconds: until it ended; ``None`` while in flight, or when the process was killed.
        status: ``ok``, an HTTP status or a fault's name; ``None`` likewise.
        bytes: sent and received bodies together.
    """

    ticket: int
    rows: int
    retry: int
    sent: float
    seconds: float | None
    status: str | None
    bytes: int | None


def open_ledger(path: str | os.PathLike[str], fingerprint: str, *, resume: bool = False) -> RequestLedger:
    """Open the ledger of a run, or start one.

    Args:
        path: ``ledger.sqlite`` in the run folder.
        fingerprint: of the endpoint (``model.info.details["fingerprint"]``); another one's answers are never mixed in.
        resume: go on with the file where it exists; without it, an existing file is refused.

    Raises:
        RunFolderError: a file is in the way, is no ledger, is damaged, is in use, or belongs to another endpoint.
    """
    return RequestLedger(Path(path), fingerprint, resume=resume)


class RequestLedger:
    """The SQLite side of ``fimaudit.meter.Ledger``; thread-safe, one process at a time.

    Write-ahead log with ``synchronous=NORMAL``: each commit is in the operating system's hands before the call returns, so
    that a killed process loses nothing; a power cut may lose the last commits but never damages the file. Rows that were
    reserved but never answered stay counted. Bodies, headers and error texts are not kept.
    """

    def __init__(self, path: Path, fingerprint: str, *, resume: bool) -> None:
        self.path = path
        self._lock = threading.Lock()
        existed = path.exists() and path.stat().st_size > 0
        if existed and not resume:
            raise RunFolderError(
                f"{path} holds an earlier run's requests; go on with --resume or start anew with --overwrite"
            )
        if existed:
            _looks_like_sqlite(path)
        with self._translated():
            self._base = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=1.0)
        try:
            with self._translated():
                self._set_up(existed)
            self._identify(fingerprint)
            with self._translated():
                self._retries = dict(self._base.execute("SELECT key, COUNT(*) FROM requests GROUP BY key"))
                rows, requests, size = self._base.execute(
                    "SELECT TOTAL(rows), COUNT(*), TOTAL(bytes) FROM requests"
                ).fetchone()
                self._restored = Usage(int(rows), int(requests), int(size))
                self.starts = int(self._note("starts") or 0) + 1
                self._remember("starts", self.starts)
        except BaseException:
            self._base.close()
            raise
        self._sent: dict[int, float] = {}
        self._keys: dict[int, bytes] = {}

    def usage(self) -> Usage:
        """Rows, requests and bytes that earlier processes of this run have used."""
        return Usage(self._restored.rows, self._restored.requests, self._restored.bytes)

    def recall(self, key: bytes) -> NDArray[np.float64] | None:
        """The committed answers under ``key``, (rows, K) in float64, exactly as they were committed."""
        with self._lock, self._translated():
            found = self._base.execute("SELECT rows, classes, probabilities FROM answers WHERE key = ?", (key,)).fetchone()
        if found is None:
            return None
        rows, classes, blob = found
        if not isinstance(blob, bytes) or len(blob) != 8 * rows * classes:
            raise RunFolderError(
                f"{self.path} is damaged: an answer has another length than it says; start anew with --overwrite"
            )
        return np.frombuffer(blob, "<f8").reshape(rows, classes).astype(np.float64)

    def reserve(self, rows: int, key: bytes) -> int:
        """Commit that ``rows`` rows are about to be sent; returns the ticket."""
        now = time.time()
        with self._lock, self._translated():
            retry = self._retries.get(key, 0)
            ticket = self._base.execute(
                "INSERT INTO requests (key, rows, retry, sent) VALUES (?, ?, ?, ?)", (key, rows, retry, now)
            ).lastrowid
            assert ticket is not None
            self._retries[key] = retry + 1
            self._sent[ticket], self._keys[ticket] = now, key
        return ticket

    def commit(self, ticket: int, rows: int, answers: NDArray[np.float64] | None, status: str, bytes: int) -> None:
        """Commit how a send ended, and its answers with it, in one transaction."""
        with self._lock, self._translated():
            seconds = time.time() - self._sent.pop(ticket)
            key = self._keys.pop(ticket)
            with self._transaction():
                self._base.execute(
                    "UPDATE requests SET seconds = ?, status = ?, bytes = ? WHERE ticket = ?",
                    (seconds, status[:40], bytes, ticket),
                )
                if answers is not None:
                    blob = np.ascontiguousarray(answers, "<f8").tobytes()
                    self._base.execute(
                        "INSERT OR IGNORE INTO answers VALUES (?, ?, ?, ?, ?)", (key, ticket, rows, answers.shape[1], blob)
                    )

    def note(self, name: str) -> Any:
        """A fact of this run, or ``None``."""
        with self._lock, self._translated():
            return self._note(name)

    def remember(self, name: str, value: Any) -> None:
        """Keep a plain JSON value."""
        with self._lock, self._translated():
            self._remember(name, value)

    def requests(self) -> list[SentRequest]:
        """Every send of the run, in order."""
        with self._lock, self._translated():
            found = self._base.execute(
                "SELECT ticket, rows, retry, sent, seconds, status, bytes FROM requests ORDER BY ticket"
            )
            return [SentRequest(*row) for row in found]

    def close(self) -> None:
        """Fold the log into the file and let go of it; may be called twice."""
        with self._lock:
            self._base.close()

    def _set_up(self, existed: bool) -> None:
        # Exclusive: two processes that resume the same run would together exceed its budget.
        self._base.execute("PRAGMA locking_mode=EXCLUSIVE")
        self._base.execute("PRAGMA synchronous=NORMAL")
        tables = self._base.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()[0]
        if existed and tables > 0:
            (application,) = self._base.execute("PRAGMA application_id").fetchone()
            (version,) = self._base.execute("PRAGMA user_version").fetchone()
            if application != APPLICATION_ID or version != VERSION:
                raise RunFolderError(
                    f"{self.path} is another program's database or another version's; start anew with --overwrite"
                )
            if self._base.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
                raise RunFolderError(f"{self.path} is damaged; start anew with --overwrite")
            self._base.execute("BEGIN IMMEDIATE")
            self._base.execute("COMMIT")
            return
        self._base.execute("PRAGMA journal_mode=WAL")
        with self._transaction():
            self._base.execute(f"PRAGMA application_id={APPLICATION_ID}")
            self._base.execute(f"PRAGMA user_version={VERSION}")
            for statement in _TABLES.split(";"):
                self._base.execute(statement)

    def _identify(self, fingerprint: str) -> None:
        with self._translated():
            known = self._note("fingerprint")
            if known is None:
                self._remember("fingerprint", fingerprint)
        if known not in (None, fingerprint):
            raise RunFolderError(
                f"{self.path} belongs to another endpoint, or to other settings (URL, protocol, output, link, encoding); "
                "resume with the settings it was started with, or start anew with --overwrite"
            )

    def _note(self, name: str) -> Any:
        found = self._base.execute("SELECT value FROM notes WHERE name = ?", (name,)).fetchone()
        return json.loads(found[0]) if found is not None else None

    def _remember(self, name: str, value: Any) -> None:
        self._base.execute("INSERT OR REPLACE INTO notes VALUES (?, ?)", (name, json.dumps(value)))

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._base.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._base.execute("ROLLBACK")
            raise
        self._base.execute("COMMIT")

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as exc:
            if "locked" in str(exc) or "busy" in str(exc):
                raise RunFolderError(f"{self.path} is in use by another process; wait for that run to end") from exc
            raise RunFolderError(f"{self.path} cannot be written or read: {exc}") from exc
        except sqlite3.DatabaseError as exc:
            raise RunFolderError(f"{self.path} is no ledger or is damaged ({exc}); start anew with --overwrite") from exc
        except json.JSONDecodeError as exc:
            raise RunFolderError(f"{self.path} is damaged: a note is no JSON; start anew with --overwrite") from exc


def _looks_like_sqlite(path: Path) -> None:
    try:
        with open(path, "rb") as file:
            start = file.read(16)
    except OSError as exc:
        raise RunFolderError(f"{path} cannot be read: {exc.strerror}") from exc
    if start != b"SQLite format 3\x00":
        raise RunFolderError(f"{path} is no ledger of fimaudit; start anew with --overwrite")
