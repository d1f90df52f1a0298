"""Whole audits in simulated worlds, one a seed: `make simulate`, or `python scripts/simulate.py --seeds 200`.

Each seed draws how the service is offered, what goes wrong on the way, when the client is killed and resumed, and the limits
that it keeps; time is virtual and nothing leaves the process (``tests/simulation``). A seed that fails is printed with its
last events and replays alone: ``python scripts/simulate.py --seed 1234`` prints every event.
"""

from __future__ import annotations

import argparse
import collections
import os
import resource
import sys
import time
import traceback
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
#: Seeds that a process takes at a time; and so many of these between two lines of progress.
BLOCK, SHOWN = 50, 4
#: MiB by which a process may grow from its first block on.
MOST_GROWTH = 200


def main() -> None:
    """Simulate the seeds; exit 1 where one fails."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.path[:0] = [str(ROOT), str(ROOT / "adapters")]
    parser = argparse.ArgumentParser(description="Simulate audits under faults, kills and resumes.")
    parser.add_argument("--seeds", type=int, default=10_000, help="how many")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seed", type=int, help="this one alone, with its events")
    options = parser.parse_args()
    if options.seed is not None:
        _replay(options.seed)
        return
    began, seen = time.monotonic(), collections.Counter[str]()
    failed: list[int] = []
    blocks = [
        range(at, min(at + BLOCK, options.first + options.seeds))
        for at in range(options.first, options.first + options.seeds, BLOCK)
    ]
    with ProcessPoolExecutor(options.processes) as pool:
        for done, (counts, failures) in enumerate(pool.map(_block, blocks), start=1):
            seen += counts
            if done % SHOWN == 0:
                print(f"{done * BLOCK:,} seeds, {len(failed)} failed so far, {time.monotonic() - began:,.0f} s", flush=True)
            for seed, text in failures:
                failed.append(seed)
                print(f"seed {seed} fails; replay it with: python scripts/simulate.py --seed {seed}\n{text}", flush=True)
    print(
        f"{options.seeds:,} seeds, {len(failed)} failed: {seen['posts']:,} requests, {seen['faults']:,} of them spoiled, "
        f"{seen['starts']:,} starts, {seen['drifts']:,} swaps seen, {seen['seconds'] / 3600:,.0f} virtual hours, "
        f"{time.monotonic() - began:,.0f} s"
    )
    sys.exit(bool(failed))


def _block(seeds: range) -> tuple[collections.Counter[str], list[tuple[int, str]]]:
    from tests.simulation.simulation import simulate

    counts: collections.Counter[str] = collections.Counter()
    failures: list[tuple[int, str]] = []
    for seed in seeds:
        try:
            found = simulate(seed)
        except BaseException:
            failures.append((seed, traceback.format_exc(limit=-3)))
            continue
        counts.update(
            posts=found.posts, faults=found.faults, starts=found.starts, drifts=found.drifted, seconds=int(found.seconds)
        )
    grown = _growth()
    if grown > MOST_GROWTH:
        failures.append((seeds[0], f"the process grew by {grown} MiB since its first block"))
    return counts, failures


_FIRST: list[int] = []


def _growth() -> int:
    now = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    _FIRST.append(now)
    return now - _FIRST[0]


def _replay(seed: int) -> None:
    from tests.simulation.simulation import simulate

    found: Any = simulate(seed)
    print("\n".join(found.events))
    print(f"seed {seed} passes: {found.offered}, {found.starts} starts, {found.posts} requests, {found.faults} spoiled")


if __name__ == "__main__":
    main()
