"""What was sent to an endpoint and what it answered, in one SQLite file that survives a kill at any moment."""

from __future__ import annotations

import errno
import json
import os
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fimaudit.errors import FimauditError, RunFolderError, StorageFailure
from fimaudit.models.leases import Usage, is_refused
from fimaudit.storage.durable_files import SYNC_SECONDS, SyncClock, os_refusal
from fimaudit.storage.jsonl import newer

__all__ = ["RequestLedger", "SentRequest", "open_ledger"]

#: Pages of 4 KiB in the log before it is folded into the file, which waits for the disk.
LOG_PAGES = 8192
#: "fima" as SQLite's application id: a foreign database is recognised before anything is written.
APPLICATION_ID = 0x66696D61
VERSION = 1
_TABLES = """
CREATE TABLE requests (
    ticket INTEGER PRIMARY KEY, key BLOB NOT NULL, rows INTEGER NOT NULL, retry INTEGER NOT NULL, sent REAL NOT NULL);
CREATE TABLE ends (
    ticket INTEGER PRIMARY KEY, seconds REAL NOT NULL, status TEXT NOT NULL, bytes INTEGER NOT NULL, classes INTEGER,
    probabilities BLOB);
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
    """The SQLite side of ``fimaudit.models.leases.Ledger``; thread-safe, one process at a time.

    Each commit to the write-ahead log is in the operating system's hands before the call returns, so that a killed process
    loses nothing; the first one in ``sync_seconds`` is on the disk too, with all before it, so that a power cut loses no
    more than those since, and never damages the file. Rows that were reserved but never answered stay counted. Bodies,
    headers and error texts are not kept.
    """

    def __init__(self, path: Path, fingerprint: str, *, resume: bool, sync_seconds: float = SYNC_SECONDS) -> None:
        self.path = path
        self._clock = SyncClock(sync_seconds)
        self._open = False
        self._lock = threading.Lock()
        existed = path.exists() and path.stat().st_size > 0
        if existed and not resume:
            raise RunFolderError(
                f"{path} holds an earlier run's requests; go on with --resume or start anew with --overwrite"
            )
        if existed:
            _looks_like_sqlite(path)
        try:
            self._base = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=1.0)
        except sqlite3.Error as exc:
            raise self._translated(exc) from exc
        try:
            self._set_up(existed)
            self._identify(fingerprint)
            # Appending to two tables and keeping the keys here is much faster than an index over hashes.
            answered = "SELECT key, ticket FROM ends JOIN requests USING (ticket) WHERE probabilities IS NOT NULL"
            self._answered: dict[bytes, int] = dict(self._rows(answered))
            self._retries: dict[bytes, int] = dict(self._rows("SELECT key, COUNT(*) FROM requests GROUP BY key"))
            self._restored = self._used()
            self.starts = int(self._note("starts") or 0) + 1
            self._remember("starts", self.starts)
        except BaseException:
            self._base.close()
            raise
        self._open = True
        self._place = path.absolute()
        self._file = self._place.stat()
        self._sent: dict[int, float] = {}
        self._keys: dict[int, bytes] = {}

    def usage(self) -> Usage:
        """Rows, requests and bytes that earlier processes of this run have used, and rows that were refused."""
        return replace(self._restored)

    def _used(self) -> Usage:
        used = Usage()
        wanted = (
            "SELECT status, TOTAL(rows), COUNT(*), TOTAL(bytes) FROM requests LEFT JOIN ends USING (ticket) GROUP BY status"
        )
        for status, rows, requests, size in self._rows(wanted):
            refused = status is not None and is_refused(status)
            used.rows += 0 if refused else int(rows)
            used.refused += int(rows) if refused else 0
            used.requests += int(requests)
            used.bytes += int(size)
        return used

    def finish(self, inputs: Iterable[int]) -> None:
        """See ``Ledger``: what an endpoint answered is kept for good."""

    def recall(self, key: bytes) -> NDArray[np.float64] | None:
        """The committed answers under ``key``, (rows, K) in float64, exactly as they were committed."""
        with self._lock:
            ticket = self._answered.get(key)
            if ticket is None:
                return None
            wanted = "SELECT rows, classes, probabilities FROM requests JOIN ends USING (ticket) WHERE ticket = ?"
            rows, classes, blob = self._rows(wanted, (ticket,))[0]
        if not isinstance(blob, bytes) or len(blob) != 8 * rows * classes:
            raise RunFolderError(
                f"{self.path} is damaged: an answer has another length than it says; start anew with --overwrite"
            )
        return np.frombuffer(blob, "<f8").reshape(rows, classes).astype(np.float64)

    def reserve(self, rows: int, key: bytes) -> int:
        """Commit that ``rows`` rows are about to be sent; returns the ticket.

        Raises:
            StorageFailure: the file cannot be written, or is no longer where the run could find it again.
        """
        with self._lock:
            self._require_in_place()
            retry = self._retries.get(key, 0)
            statement = "INSERT INTO requests (key, rows, retry, sent) VALUES (?, ?, ?, ?)"
            ticket = self._execute(statement, (key, rows, retry, time.time()))
            self._retries[key] = retry + 1
            self._sent[ticket], self._keys[ticket] = time.monotonic(), key
        return ticket

    def commit(self, ticket: int, rows: int, answers: NDArray[np.float64] | None, status: str, bytes: int) -> None:
        """Commit how a send ended, and its answers with it: one row, so both or neither."""
        with self._lock:
            seconds = time.monotonic() - self._sent.pop(ticket)  # whatever happens to the machine's time meanwhile
            key = self._keys.pop(ticket)
            classes, blob = None, None
            if answers is not None and key not in self._answered:
                classes, blob = answers.shape[1], np.ascontiguousarray(answers, "<f8").tobytes()
            end = (ticket, seconds, status[:40], bytes, classes, blob)
            due = self._clock.due()
            if due:  # its sync takes the earlier ones along: they stand before it in the log
                self._execute("PRAGMA synchronous=FULL")
            self._execute("INSERT INTO ends VALUES (?, ?, ?, ?, ?, ?)", end)
            if due:
                self._execute("PRAGMA synchronous=NORMAL")
            if blob is not None:
                self._answered[key] = ticket

    def note(self, name: str) -> Any:
        """A fact of this run, or ``None``."""
        with self._lock:
            return self._note(name)

    def remember(self, name: str, value: Any) -> None:
        """Keep a plain JSON value."""
        with self._lock:
            self._remember(name, value)

    def requests(self) -> list[SentRequest]:
        """Every send of the run, in order."""
        with self._lock:
            wanted = "SELECT ticket, rows, retry, sent, seconds, status, bytes FROM requests LEFT JOIN ends USING (ticket)"
            return [SentRequest(*row) for row in self._rows(wanted + " ORDER BY ticket")]

    def close(self) -> None:
        """Fold the log into the file and let go of it; may be called twice."""
        with self._lock:
            self._base.close()

    def _set_up(self, existed: bool) -> None:
        # Exclusive: two processes that resume the same run would together exceed its budget.
        self._execute("PRAGMA locking_mode=EXCLUSIVE")
        self._execute("PRAGMA synchronous=NORMAL")
        self._execute(f"PRAGMA wal_autocheckpoint={LOG_PAGES}")
        tables = self._rows("SELECT COUNT(*) FROM sqlite_master")[0][0]
        if existed and tables > 0:
            application, version = (self._rows(f"PRAGMA {name}")[0][0] for name in ("application_id", "user_version"))
            if application == APPLICATION_ID and version > VERSION:
                raise newer(self.path, version, VERSION)
            if application != APPLICATION_ID or version != VERSION:
                raise RunFolderError(f"{self.path} is another program's database; start anew with --overwrite")
            if self._rows("PRAGMA quick_check(1)")[0][0] != "ok":
                raise RunFolderError(f"{self.path} is damaged; start anew with --overwrite")
            self._execute("BEGIN IMMEDIATE")
            self._execute("COMMIT")
            return
        self._execute("PRAGMA journal_mode=WAL")
        with self._transaction():
            self._execute(f"PRAGMA application_id={APPLICATION_ID}")
            self._execute(f"PRAGMA user_version={VERSION}")
            for statement in _TABLES.split(";"):
                self._execute(statement)

    def _identify(self, fingerprint: str) -> None:
        known = self._note("fingerprint")
        if known is None:
            self._remember("fingerprint", fingerprint)
        if known not in (None, fingerprint):
            raise RunFolderError(
                f"{self.path} belongs to another endpoint, or to other settings (URL, protocol, output, link, encoding); "
                "resume with the settings it was started with, or start anew with --overwrite"
            )

    def _note(self, name: str) -> Any:
        found = self._rows("SELECT value FROM notes WHERE name = ?", (name,))
        try:
            return json.loads(found[0][0]) if found else None
        except (ValueError, TypeError) as exc:
            raise RunFolderError(f"{self.path} is damaged: a note is no JSON; start anew with --overwrite") from exc

    def _remember(self, name: str, value: Any) -> None:
        self._execute("INSERT OR REPLACE INTO notes VALUES (?, ?)", (name, json.dumps(value)))

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._execute("ROLLBACK")
            raise
        self._execute("COMMIT")

    def _execute(self, statement: str, values: Sequence[Any] = ()) -> int:
        """Run a statement that writes; returns the id of the row it made, if any."""
        try:
            return self._base.execute(statement, values).lastrowid or 0
        except sqlite3.Error as exc:
            raise self._translated(exc) from exc

    def _require_in_place(self) -> None:
        """SQLite writes on into a file that was removed, and with it would go what is paid for from here on."""
        try:
            in_place = os.path.samestat(self._place.stat(), self._file)
        except OSError:
            in_place = False
        if not in_place:
            raise StorageFailure(
                f"{self.path} was removed or moved while the run went on; nothing more is sent: put the folder back and go "
                "on with --resume, or start anew"
            )

    def _rows(self, statement: str, values: Sequence[Any] = ()) -> list[Any]:
        """Run a statement that reads."""
        try:
            return self._base.execute(statement, values).fetchall()
        except sqlite3.Error as exc:
            raise self._translated(exc) from exc

    def _translated(self, exc: sqlite3.Error) -> FimauditError:
        if isinstance(exc, sqlite3.OperationalError):
            if "locked" in str(exc) or "busy" in str(exc):
                return RunFolderError(f"{self.path} is in use by another process; wait for that run to end")
            full = exc.sqlite_errorcode == sqlite3.SQLITE_FULL
            cause = OSError(errno.ENOSPC if full else errno.EIO, str(exc))
            return (StorageFailure if self._open else RunFolderError)(os_refusal("write or read", self.path, cause))
        return RunFolderError(f"{self.path} is no ledger or is damaged ({exc}); start anew with --overwrite")


def _looks_like_sqlite(path: Path) -> None:
    try:
        with open(path, "rb") as file:
            start = file.read(16)
    except OSError as exc:
        raise RunFolderError(f"{path} cannot be read: {exc.strerror}") from exc
    if start != b"SQLite format 3\x00":
        raise RunFolderError(f"{path} is no ledger of fimaudit; start anew with --overwrite")
