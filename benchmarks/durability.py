"""What syncing costs: a finished input, an answer of an endpoint and a whole file, by how often each is put on the disk.

    python benchmarks/durability.py [--folder DIR] [--json FILE]

JSON, milliseconds each (median of five): *journal_line*, *ledger_answer* by policy (``never``, ``each second``, ``each``),
*file* (a file replaced, synced with its folder, or not synced).
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from fimaudit.results import Interval, Sensitivity
from fimaudit.storage.durable_files import SYNC_SECONDS, replacing
from fimaudit.storage.journal import Journal
from fimaudit.storage.ledger import RequestLedger

POLICIES = {"never": float("inf"), "each second": SYNC_SECONDS, "each": 0.0}
LINES, FILES, REPEATS = 200, 20, 5


def journal_lines(folder: Path, seconds: float) -> float:
    """Milliseconds a finished input."""
    journal = Journal(folder, {"model": "m"}, resume=False, overwrite=False, sync_seconds=seconds)
    journal.keep_steps({})
    result = Sensitivity(index=0, status="ok", method="rademacher", spectral_norm=Interval(value=0.1))
    started = time.perf_counter()
    for _ in range(LINES):
        journal.keep(result, 200, 3)
    took = time.perf_counter() - started
    journal.close()
    return 1e3 * took / LINES


def ledger_answers(folder: Path, seconds: float) -> float:
    """Milliseconds an answered request of 32 rows and 10 classes, its reservation included."""
    folder.mkdir()
    book = RequestLedger(folder / "ledger.sqlite", "f", resume=False, sync_seconds=seconds)
    answers = np.full((32, 10), 0.1)
    started = time.perf_counter()
    for i in range(LINES):
        book.commit(book.reserve(32, i.to_bytes(32, "big")), 32, answers, "ok", 1000)
    took = time.perf_counter() - started
    book.close()
    return 1e3 * took / LINES


def replaced_files(folder: Path, synced: float) -> float:
    """Milliseconds a file of 100 kB."""
    folder.mkdir()
    data = b"x" * 100_000
    started = time.perf_counter()
    for _ in range(FILES):
        if synced == 0.0:
            with replacing(folder / "part") as file:
                file.write(data)
        else:
            (folder / "part.tmp").write_bytes(data)
            (folder / "part.tmp").replace(folder / "part")
    return 1e3 * (time.perf_counter() - started) / FILES


def measured(work: Callable[[Path, float], float], place: Path, seconds: float) -> float:
    """The median of a few runs in new folders."""
    times = []
    for _ in range(REPEATS):
        with tempfile.TemporaryDirectory(dir=place) as folder:
            times.append(work(Path(folder) / "run", seconds))
    return round(statistics.median(times), 3)


def main() -> None:
    """Print and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="on the disk to measure")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    figures = {
        "journal_line": {name: measured(journal_lines, options.folder, s) for name, s in POLICIES.items()},
        "ledger_answer": {name: measured(ledger_answers, options.folder, s) for name, s in POLICIES.items()},
        "file": {name: measured(replaced_files, options.folder, POLICIES[name]) for name in ("never", "each")},
    }
    print(json.dumps(figures, indent=1))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
