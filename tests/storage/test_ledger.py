"""The ledger: what is counted, what is kept, and what a kill, a stranger or damage does to it."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time

import numpy as np
import pytest

from fimaudit.errors import RunFolderError, StorageFailure
from fimaudit.models.leases import RepeatLease, Usage
from fimaudit.storage.ledger import open_ledger


def key(i: int) -> bytes:
    return i.to_bytes(32, "big")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "ledger.sqlite"


def test_answers_come_back_bit_for_bit(path):
    book = open_ledger(path, "f")
    answers = np.random.default_rng(0).dirichlet(np.ones(5), 7)
    ticket = book.reserve(7, key(1))
    assert book.recall(key(1)) is None
    book.commit(ticket, 7, answers, "ok", 1234)
    assert np.array_equal(book.recall(key(1)), answers)
    book.close()
    book.close()
    book = open_ledger(path, "f", resume=True)
    assert np.array_equal(book.recall(key(1)), answers)
    assert book.usage() == Usage(7, 1, 1234)
    book.close()


@pytest.mark.parametrize("change", ["removed", "moved", "another in its place"])
def test_nothing_is_sent_that_nobody_could_find_again(path, change, monkeypatch):
    """A folder that is removed under a run would take with it all that is still paid for."""
    monkeypatch.chdir(path.parent)
    book = open_ledger(path.name, "f")
    ticket = book.reserve(1, key(1))
    monkeypatch.chdir("/")
    second = book.reserve(1, key(2))  # wherever the process is now
    if change == "removed":
        path.unlink()
    else:
        path.rename(path.with_name("elsewhere"))
    if change == "another in its place":
        path.write_bytes(b"")
    with pytest.raises(StorageFailure, match=r"ledger\.sqlite was removed or moved .*nothing more is sent"):
        book.reserve(1, key(3))
    for one in (ticket, second):  # what is under way may end
        book.commit(one, 1, np.ones((1, 2)) / 2, "ok", 1)
    book.close()


def test_failures_retries_and_unanswered_rows_are_counted(path):
    book = open_ledger(path, "f")
    before = time.time()
    book.commit(book.reserve(3, key(1)), 3, None, "503", 10)
    took = time.time() - before
    book.commit(book.reserve(3, key(1)), 3, np.ones((3, 2)) / 2, "ok", 20)
    book.reserve(4, key(2))
    sent = book.requests()
    assert [(r.rows, r.retry, r.status, r.bytes) for r in sent] == [(3, 0, "503", 10), (3, 1, "ok", 20), (4, 0, None, None)]
    assert sent[0].seconds is not None
    assert 0 <= sent[0].seconds <= took
    assert sent[2].seconds is None
    book.close()
    book = open_ledger(path, "f", resume=True)
    assert book.usage() == Usage(7, 3, 30, refused=3)
    book.commit(book.reserve(4, key(2)), 4, None, "timeout", 0)
    assert book.requests()[-1].retry == 1
    book.close()


def test_notes_and_starts(path):
    book = open_ledger(path, "f")
    assert book.note("batch") is None
    book.remember("batch", {"rows": 12, "labels": ["a"]})
    assert book.starts == 1
    book.close()
    book = open_ledger(path, "f", resume=True)
    assert book.note("batch") == {"rows": 12, "labels": ["a"]}
    assert book.starts == 2
    book.close()


def test_an_occasion_has_answers_of_its_own(path):
    book = open_ledger(path, "f")
    once = RepeatLease(book, "check 1")
    book.commit(book.reserve(1, key(1)), 1, np.array([[0.5, 0.5]]), "ok", 1)
    assert once.recall(key(1)) is None
    once.commit(once.reserve(1, key(1)), 1, np.array([[0.1, 0.9]]), "ok", 1)
    assert once.recall(key(1))[0, 0] == 0.1
    assert book.recall(key(1))[0, 0] == 0.5
    assert RepeatLease(book, "check 2").recall(key(1)) is None
    book.close()


def test_another_endpoint_is_refused(path):
    open_ledger(path, "f").close()
    with pytest.raises(RunFolderError, match="another endpoint"):
        open_ledger(path, "g", resume=True)
    with pytest.raises(RunFolderError, match="resume=True or start anew"):
        open_ledger(path, "f")


@pytest.mark.parametrize("content", [b"hello, this is no database at all", b"SQLite format 3\x00" + b"\xff" * 5000])
def test_foreign_and_damaged_files(path, content):
    path.write_bytes(content)
    with pytest.raises(RunFolderError, match=r"no ledger|damaged"):
        open_ledger(path, "f", resume=True)


def test_another_programs_database(path):
    base = sqlite3.connect(path)
    base.execute("CREATE TABLE t (x)")
    base.commit()
    base.close()
    with pytest.raises(RunFolderError, match="another program"):
        open_ledger(path, "f", resume=True)


def test_a_flipped_answer_is_seen(path):
    book = open_ledger(path, "f")
    book.commit(book.reserve(1, key(1)), 1, np.array([[0.5, 0.5]]), "ok", 1)
    book.close()
    base = sqlite3.connect(path)
    base.execute("UPDATE ends SET probabilities = x'00'")
    base.commit()
    base.close()
    book = open_ledger(path, "f", resume=True)
    with pytest.raises(RunFolderError, match="damaged"):
        book.recall(key(1))
    book.close()


def test_cannot_be_made(tmp_path):
    with pytest.raises(RunFolderError, match="cannot write or read"):
        open_ledger(tmp_path / "none" / "ledger.sqlite", "f")


def test_two_processes_never_share_a_ledger(path):
    book = open_ledger(path, "f")
    with pytest.raises(RunFolderError, match="in use by another process"):
        open_ledger(path, "f", resume=True)
    book.close()


def test_threads(path):
    book = open_ledger(path, "f")

    def work(n: int) -> None:
        for i in range(50):
            k = key(100 * n + i)
            book.commit(book.reserve(2, k), 2, np.full((2, 2), 0.5), "ok", 1)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(book.requests()) == 200
    assert len({r.ticket for r in book.requests()}) == 200
    book.close()


KILLED = """
    import sys, numpy as np
    from fimaudit.storage.ledger import open_ledger
    book = open_ledger(sys.argv[1], "f", resume=True)
    i = int(book.note("next") or 0)
    while True:
        k = i.to_bytes(32, "big")
        ticket = book.reserve(5, k)
        print("r", i, flush=True)
        book.commit(ticket, 5, np.full((5, 3), float(i)), "ok", 1)
        book.remember("next", i + 1)
        print("c", i, flush=True)
        i += 1
"""


def test_kill_at_any_moment_loses_nothing_that_was_committed(path, tmp_path):
    script = tmp_path / "killed.py"
    script.write_text(textwrap.dedent(KILLED))
    reserved = committed = 0
    for lines in (3, 40, 101):
        process = subprocess.Popen([sys.executable, str(script), str(path)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        said = [process.stdout.readline() for _ in range(lines)]
        os.kill(process.pid, signal.SIGKILL)
        said += [line for line in process.stdout.read().splitlines(keepends=True) if line.endswith("\n")]
        process.stdout.close()
        process.wait()
        reserved += sum(line.startswith("r") for line in said)
        committed = max([committed, *(int(line.split()[1]) + 1 for line in said if line.startswith("c"))])
    book = open_ledger(path, "f", resume=True)
    sent = book.requests()
    assert reserved <= len(sent) <= reserved + 3
    assert book.usage().rows == 5 * len(sent)
    for i in range(committed):
        assert np.array_equal(book.recall(key(i)), np.full((5, 3), float(i)))
    book.close()


def test_a_newer_ledger_is_not_called_damaged(path):
    open_ledger(path, "f").close()
    base = sqlite3.connect(path)
    base.execute("PRAGMA user_version=2")
    base.commit()
    base.close()
    with pytest.raises(RunFolderError, match=r"newer fimaudit \(schema_version 2, this one knows 1\); update fimaudit"):
        open_ledger(path, "f", resume=True)


def test_a_clock_that_jumps_back_makes_no_negative_time(path, monkeypatch):
    book = open_ledger(path, "f")
    ticket = book.reserve(1, key(1))
    monkeypatch.setattr(time, "time", lambda: 0.0)
    book.commit(ticket, 1, np.array([[0.5, 0.5]]), "ok", 1)
    assert book.requests()[0].seconds >= 0
    book.close()


def test_a_full_disk_under_way_ends_the_run_and_undoes_nothing(path):
    book = open_ledger(path, "f")
    book.commit(book.reserve(1, key(1)), 1, np.array([[0.5, 0.5]]), "ok", 1)
    book._base.execute("PRAGMA max_page_count=1")  # SQLite says SQLITE_FULL, as it does of a full disk

    def go_on() -> None:
        for i in range(2, 2000):
            book.commit(book.reserve(1, key(i)), 1, np.full((1, 500), 0.002), "ok", 1)

    with pytest.raises(StorageFailure, match="database or disk is full; what was kept before is whole: free space"):
        go_on()
    book.close()
    book = open_ledger(path, "f", resume=True)
    assert np.array_equal(book.recall(key(1)), [[0.5, 0.5]])
    book.close()
