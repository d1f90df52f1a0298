"""Models that are, and are not, what the measurement assumes: what it says of each, against what is so.

    python benchmarks/regimes.py [--queries 20 50 200 1000] [--seeds 3] [--inputs 12] [--only NAME ...] [--jobs 2]
        [--folder DIR] [--json FILE]
    python benchmarks/regimes.py --quick --jobs 2

Networks, estimators, numbers of few bits, roundings and filters inside, noise and versions chosen by a hash
(``benchmarks/_regimes.py``), trained here in seconds. Four sorts: *smooth*, where a local value must be found; *kinked*,
where there is one almost everywhere; *hidden*, a smooth model behind small jumps, whose value is the right one if any is
given; *none*, where a value that calls itself local is a false one. Exact: float64 autograd or central differences.

Columns: *held*, the intervals of the spectral norm of ``ok``, ``local`` inputs that hold the exact value, and of how many
(likewise of the peak norm and the margin radius; one that a real change of decision cut must not begin above any); *off*,
the ``ok``, ``local`` values off by more than 2 times from 50 queries on, all of them where there is nothing local, and
*worst*, the largest factor; *not ok* and *not local*, of all inputs; *alarm*, the share refused of the inputs of smooth
regimes that show something; *overstated*, the ``ok`` inputs with a real change of decision below the lower limit of their
radius, and *silent*, those of them that no flag marks (*far*: less than three quarters of it away). *rows* an input, *s*
seconds of one processor. Shares in per cent.
"""

from __future__ import annotations

import sys
from pathlib import Path

# In place of this script's own folder, whose http.py hides the standard library's.
sys.path.pop(0)
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import argparse
import json
import logging
import multiprocessing
import tempfile
import time
import warnings
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from functools import reduce
from operator import add
from typing import Any

import torch

from benchmarks._regime_scores import Scores, exact_inputs, measure
from benchmarks._regimes import REGIMES, Workshop

#: What is wanted: coverage of all and of every regime, false alarms on the smooth ones, radii overstated without a flag.
POOLED, EACH, ALARMS, SILENT = 0.94, 0.90, 0.01, 0.05
#: Fewest queries at which no value may be off.
FEWEST = 50
HEAD = (
    f"{'':26} {'sort':7} {'held':>14} {'peak':>6} {'radius':>6} {'off':>9} {'worst':>8} {'not ok':>6} {'not local':>9} "
    f"{'alarm':>6} {'overstated':>11} {'silent':>6} {'far':>4} {'rows':>6} {'s':>5}"
)


def run_regime(name: str, options: argparse.Namespace, folder: str) -> dict[str, Any]:
    """All runs of one regime: scores by number of queries."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.getLogger().setLevel(logging.ERROR)  # onnxruntime advises preparing a file before it is quantised
    started = time.process_time()
    made = REGIMES[name](Workshop(options.inputs, Path(folder)))
    exact = exact_inputs(made)
    prepared = time.process_time()
    scores = {
        queries: reduce(add, [measure(made, exact, queries, seed) for seed in range(options.seeds)])
        for queries in options.queries
    }
    seconds = time.process_time()
    return {
        "name": name,
        "sort": made.sort,
        "scores": scores,
        "features": int(made.x[0].size),
        "prepared_s": prepared - started,
        "seconds": seconds - started,
    }


def total(by_queries: dict[int, Scores]) -> Scores:
    """All of them together."""
    return reduce(add, by_queries.values(), Scores())


def shown(name: str, sort: str, by_queries: dict[int, Scores], seconds: float) -> str:
    """One line of the table."""
    scores, enough = total(by_queries), total({q: s for q, s in by_queries.items() if q >= FEWEST})

    def percent(share: float | None, width: int) -> str:
        return f"{'-' if share is None else f'{100 * share:.1f}':>{width}}"

    held = f"{percent(scores.coverage(), 5)} of {scores.compared['spectral_norm']}"
    off = f"{enough.off} of {enough.local}"
    radius = f"{scores.overstated} of {scores.radii}"
    rows = scores.rows / scores.inputs
    refused, elsewhere = (1 - (scores.share(name, "inputs") or 0.0) for name in ("ok", "local"))
    return (
        f"{name:26} {sort:7} {held:>14} {percent(scores.coverage('peak_spectral_norm'), 6)} "
        f"{percent(scores.coverage('margin_radius'), 6)} {off:>9} {enough.factor:8.3g} "
        f"{percent(refused, 6)} {percent(elsewhere, 9)} {percent(scores.share('refused', 'measurable'), 6)} "
        f"{radius:>11} {scores.silent:6} {scores.far:4} {rows:6.0f} {seconds:5.0f}"
    )


def record(scores: Scores, **more: Any) -> dict[str, Any]:
    """Scores as JSON, with the shares that people look for; JSON has no infinity."""
    shares = {
        "coverage": scores.coverage(),
        "peak_coverage": scores.coverage("peak_spectral_norm"),
        "radius_coverage": scores.coverage("margin_radius"),
        "not_ok": 1 - (scores.share("ok", "inputs") or 0.0),
        "not_local": 1 - (scores.share("local", "inputs") or 0.0),
        "false_alarms": scores.share("refused", "measurable"),
        "radius_silent": scores.share("silent", "radii"),
        "radius_far": scores.share("far", "radii"),
    }
    return {**more, **shares, **vars(scores), "factor": scores.factor if scores.factor < float("inf") else "inf"}


def promises(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What is wanted and what came, each with the regimes that break it."""
    off = {r["name"]: total({q: s for q, s in r["scores"].items() if q >= FEWEST}).off for r in runs}
    every = [(r["name"], total(r["scores"])) for r in runs]
    whole = reduce(add, [s for _, s in every])
    covered = [(name, share) for name, s in every if (share := s.coverage()) is not None]
    low = {name: share for name, share in covered if share < EACH}
    alarms = {name: s.share("refused", "measurable") for name, s in every if s.refused > ALARMS * s.measurable}
    return [
        {"promise": f"coverage of all at least {POOLED:.0%}", "found": whole.coverage(), "broken_by": None},
        {"promise": f"coverage of every regime at least {EACH:.0%}", "found": len(low), "broken_by": low},
        {
            "promise": f"no ok, local value off by more than 2 times from {FEWEST} queries on",
            "found": sum(off.values()),
            "broken_by": {name: count for name, count in off.items() if count},
        },
        {
            "promise": f"false alarms on smooth regimes at most {ALARMS:.0%}",
            "found": whole.share("refused", "measurable"),
            "broken_by": alarms,
        },
        {
            "promise": f"radii overstated without a flag at most {SILENT:.0%}",
            "found": whole.share("silent", "radii"),
            "broken_by": {name: f"{s.silent} of {s.radii}" for name, s in every if s.silent > SILENT * s.radii},
        },
    ]


def main() -> None:
    """Print one line a regime, by sort, by queries, and what is wanted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, nargs="+", default=[20, 50, 200, 1000])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--inputs", type=int, default=12)
    parser.add_argument("--only", nargs="*", choices=list(REGIMES), metavar="NAME", help=f"among {', '.join(REGIMES)}")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--quick", action="store_true", help="four inputs, one seed, 20 and 50 queries")
    parser.add_argument("--folder", type=Path, help="keep trained networks here; a temporary folder otherwise")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.quick:
        options.queries, options.seeds, options.inputs = [20, 50], 1, 4
    runs = []
    print(HEAD, flush=True)
    with tempfile.TemporaryDirectory() as made:
        folder = str(options.folder or made)
        Path(folder).mkdir(parents=True, exist_ok=True)
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(options.jobs, mp_context=context) as pool:
            waiting = [pool.submit(run_regime, name, options, folder) for name in options.only or REGIMES]
            for run in (future.result() for future in waiting):
                print(shown(run["name"], run["sort"], run["scores"], run["seconds"]), flush=True)
                runs.append(run)
    groups: dict[str, dict[int, Scores]] = defaultdict(lambda: defaultdict(Scores))
    for run in runs:
        for queries, scores in run["scores"].items():
            for name in ("all", f"by sort: {run['sort']}", f"by queries: {queries}"):
                groups[name][queries] += scores
    for name in sorted(groups, key=lambda n: ("queries" in n, len(n), n)):
        print(shown(name, "", groups[name], 0.0))
    kept = promises(runs)
    for row in kept:
        found = f"{row['found']:.4f}" if isinstance(row["found"], float) else row["found"]
        print(f"{row['promise']}: {found}" + (f" {row['broken_by']}" if row["broken_by"] else ""))
    if options.json:
        rows = [
            record(scores, regime=run["name"], sort=run["sort"], features=run["features"], queries=queries)
            for run in runs
            for queries, scores in run["scores"].items()
        ]
        totals = [record(total(scores), name=name) for name, scores in groups.items()]
        seconds = {run["name"]: run["seconds"] for run in runs}
        options.json.write_text(json.dumps({"rows": rows, "pooled": totals, "promises": kept, "seconds": seconds}, indent=1))


if __name__ == "__main__":
    main()
