"""How many queries an input would decide a rule that is undecided."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from fimaudit.comparison.two_runs import STREAM
from fimaudit.policy.verdict import Outcome
from fimaudit.statistics.one_sided import Cells

__all__ = ["MOST_TIMES", "proposed_queries", "queries_for_ratio"]

#: Queries are proposed up to this multiple of what was spent.
MOST_TIMES = 64.0
STEP = 1.25
#: Half-widths by which a ratio should clear its limit: 1.5 would decide four reruns in five if the ratio were certain.
DETECTING = 2.2
#: Runs drawn for each multiple, and the share of them that must be decided.
DRAWS, MOST = 40, 0.8


def proposed_queries(cells: Cells, queries: int, outcome: Callable[[Cells], Outcome]) -> int | None:
    """The least number of queries an input, on a ladder, at which most runs drawn at random would decide; ``None`` above it.

    benchmarks/report.py says how often a rerun with that many is decided.
    """
    ladder = STEP ** np.arange(1, int(np.log(MOST_TIMES) / np.log(STEP)) + 1)

    def decides(times: float) -> bool:
        rng = np.random.Generator(np.random.Philox(key=np.array([STREAM + 2, len(cells)], dtype=np.uint64)))
        found = sum(outcome(cells.measured_again(times, rng)) != "undecided" for _ in range(DRAWS))
        return found >= MOST * DRAWS

    if not decides(float(ladder[-1])):
        return None
    first, last = 0, len(ladder) - 1
    while first < last:
        middle = (first + last) // 2
        first, last = (first, middle) if decides(float(ladder[middle])) else (middle + 1, last)
    return more_queries(queries, float(ladder[first]))


def queries_for_ratio(value: float | None, lower: float, upper: float, limit: float, queries: int) -> int | None:
    """Queries an input at which a ratio would probably clear its limit, the width falling with their square root.

    Args:
        value, lower, upper: the ratio with its bounds, after ``queries`` an input.
        limit: that it should clear.
        queries: spent so far.

    Returns:
        ``None`` where no number of them up to ``MOST_TIMES`` what was spent would.
    """
    if not value or not np.isfinite(upper) or lower <= 0:
        return None
    gap = abs(np.log(limit / value))
    half = np.log(upper / value) if value < limit else np.log(value / lower)
    times = (DETECTING * half / gap) ** 2 if gap > 0 else np.inf
    return more_queries(queries, float(times)) if times <= MOST_TIMES else None


def more_queries(queries: int, times: float) -> int:
    """So many times the queries, rounded up to tens."""
    return int(np.ceil(queries * times / 10) * 10)
