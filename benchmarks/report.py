"""The figures of the report, the comparison and the gate: sizes, times, and how often each statistic is wrong.

    python benchmarks/report.py [--inputs 10000] [--runs 200] [--json FILE]

Page: made from a run folder of ``--inputs`` synthetic inputs and opened in headless Chromium where it is installed.
Comparison: a small network audited ``2 --runs`` times with independent seeds; how often 1 lies in the intervals. Gate: runs
whose true quantile lies exactly at the limit; how often they pass. Tails: the measured p95 of spectral norms over the true.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

# In place of this script's own folder, whose http.py hides the standard library's.
sys.path.pop(0)
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from scipy import special, stats
from synthetic_runs import cells, made_run, picture_run, pictures, shapes, softmax_model

from fimaudit import audit
from fimaudit.comparison.two_runs import compare_runs
from fimaudit.estimation.spectral_norm import spectral_limits
from fimaudit.evidence.bundle import write_bundle
from fimaudit.evidence.verification import verify_bundle
from fimaudit.policy.gate import Outcome
from fimaudit.policy.proposals import proposed_queries
from fimaudit.report.page import render
from fimaudit.results import Interval, Sensitivity
from fimaudit.statistics.one_sided import Cells, quantile_limits
from fimaudit.statistics.summary import summarise
from fimaudit.storage.run_folder import RunFolder

#: Eigenvalues over the largest.
SPECTRA = {"rank one": [1.0], "falling": [0.6**k for k in range(9)], "two equal": [1.0, 1.0], "nine equal": [1.0] * 9}


def page_figures(inputs: int) -> dict[str, Any]:
    """Size of the page, seconds to render, to open, to sort and to jump to the end; bundle and verify."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        made_run(folder / "run", picture_run(folder / "template", count=12, queries=30), inputs)
        start = time.perf_counter()
        page = render(folder / "run")
        out = {"inputs": inputs, "render_s": time.perf_counter() - start, "page_MB": page.stat().st_size / 1e6}
        out |= open_figures(page)
        start = time.perf_counter()
        bundle = write_bundle(folder / "run", folder / "e.zip")
        out["bundle_s"] = time.perf_counter() - start
        start = time.perf_counter()
        out["verify_fits"] = verify_bundle(bundle)[-1].fits
        out["verify_s"] = time.perf_counter() - start
    return out


def open_figures(page: Path) -> dict[str, Any]:
    """In headless Chromium, where it and playwright are there."""
    program = shutil.which("chromium") or shutil.which("google-chrome")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        program = None
    if program is None:
        return {"open_s": None}
    with sync_playwright() as player:
        browser = player.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        tab = browser.new_page()
        start = time.perf_counter()
        tab.goto(page.as_uri())
        tab.wait_for_selector("#rows tbody tr")
        opened = time.perf_counter() - start
        start = time.perf_counter()
        tab.get_by_role("button", name="margin radius", exact=True).click()
        tab.wait_for_selector("th[aria-sort=ascending] >> text=margin radius")
        ordered = time.perf_counter() - start
        rows = tab.locator("#rows tbody tr").count()
        browser.close()
    return {"open_s": opened, "sort_s": ordered, "rows_in_the_tree": rows}


def comparison_figures(runs: int) -> dict[str, Any]:
    """How many of ``runs`` self-comparisons hold 1, for each interval."""
    data, model = pictures(30), softmax_model(0, 144, 5)
    audits = [audit(model, data, queries=80, seed=seed, lower=0.0, upper=1.0) for seed in range(2 * runs)]
    held: Counter[str] = Counter()
    for k in range(runs):
        pair = [RunFolder(Path("."), r, tuple(r.inputs)) for r in audits[2 * k : 2 * k + 2]]
        for name, quantity in compare_runs(*pair).quantities.items():
            for which, ratios in quantity.ratios.items():
                for target in ("these_inputs", "population"):
                    found = getattr(ratios, target)
                    inside = (found.lower or 0) <= 1 and (found.upper is None or found.upper >= 1)
                    held[f"{name}.{which}.{target}"] += inside
    return {"runs": runs, "held": dict(held)}


def tail_figures(trials: int = 30, inputs: int = 200) -> dict[str, dict[str, float]]:
    """Mean ratio of the measured p95 of spectral norms to the true one, plain and as reported."""
    rng, out = np.random.default_rng(0), {}
    places = stats.norm.ppf((np.arange(inputs) + 0.5) / inputs)
    shapes = {f"log-normal {s}": np.exp(s * places) for s in (0.0, 0.3, 0.6, 1.0)}
    shapes["two clusters"] = np.where(np.arange(inputs) < 0.8 * inputs, 1.0, 20.0)
    for directions in (14, 198):
        for spectrum, values in SPECTRA.items():
            for shape, true in shapes.items():
                truth = np.quantile(true, 0.95)
                ratios = []
                for _ in range(trials):
                    found = [_measured(i, norm, np.array(values), directions, rng) for i, norm in enumerate(true)]
                    plain = np.quantile([s.spectral_norm.value or 0 for s in found], 0.95)
                    reported = summarise(found, 0.95, 0, 0).spectral_norm.p95.value
                    ratios.append((plain / truth, (reported or 0) / truth))
                plain, reported = np.mean(ratios, axis=0)
                out[f"{directions} directions, {spectrum}, {shape}"] = {"plain": float(plain), "reported": float(reported)}
    return out


def _measured(index: int, norm: float, spectrum: Any, directions: int, rng: np.random.Generator) -> Sensitivity:
    y = rng.normal(size=(directions, len(spectrum))) * np.sqrt(norm * spectrum)
    found, _ = spectral_limits(y, 0.95)
    cell = Interval(value=found.value, lower=found.lower, upper=found.upper)
    return Sensitivity(index=index, status="ok", method="rademacher", queries=directions + 2, spectral_norm=cell)


def gate_figures(trials: int = 500) -> dict[str, dict[str, float]]:
    """Wrong decisions where the true quantile is the limit, and how far the upper bound lies above it, in logs.

    ``strict`` is the same without restating the limits at other levels: one order statistic, at the level of the intervals.
    ``bootstrap`` is what is not used: values corrected for their noise, which is drawn again.
    """
    rng, out = np.random.default_rng(0), {}
    for n in (5, 20, 100):
        for p in (0.05, 0.5, 0.95, 1.0):
            for m in (16, 199):
                found: dict[str, list[tuple[bool, bool, float, float, bool]]] = {}
                for _ in range(trials):
                    for shape, true in shapes(n, p, rng).items():
                        seen, at = cells(true, rng, m), float(np.quantile(true, p))
                        lower, upper = quantile_limits(seen, p, 0.05, population=False)
                        strict = quantile_limits(replace(seen, counts=None), p, 0.05, population=False)[1]
                        wrong = upper < at * (1 - 1e-12), lower > at * (1 + 1e-12)
                        drawn = _bootstrap_bound(np.log(seen.value), p, m, rng) < np.log(at) - 1e-12
                        found.setdefault(shape, []).append((*wrong, np.log(upper / at), np.log(strict / at), drawn))
                for shape, rows in found.items():
                    names = ("wrong_pass", "wrong_fail", "bound", "strict_bound", "bootstrap_wrong_pass")
                    figures = dict(zip(names, np.mean(rows, axis=0), strict=True))
                    out[f"n={n} p={p} m={m} {shape}"] = {name: float(v) for name, v in figures.items()}
    return out


def _bootstrap_bound(logs: Any, p: float, m: int, rng: np.random.Generator, replicates: int = 200) -> float:
    """95 % upper bound of a quantile's log: the value plus how far replicates of it stray, on the wider of both sides."""
    spread, total = float(np.sqrt(special.polygamma(1, m / 2))), float(logs.var(ddof=1))
    middle = float(np.median(logs))
    centre = middle + (logs - middle) * np.sqrt(max(0.0, 1.0 - spread**2 / total))
    again = np.quantile(centre + spread * rng.standard_normal((replicates, len(logs))), p, axis=1)
    strays = again - np.quantile(centre, p)
    return float(np.quantile(logs, p) + max(np.quantile(np.abs(strays), 0.9), np.quantile(strays, 0.95)))


def proposal_figures(trials: int = 40) -> dict[str, dict[str, float]]:
    """Runs with 100 queries that leave a rule open: how often a number of queries is proposed, and then decides."""
    rng, out = np.random.default_rng(0), {}
    for n in (20, 60, 200):
        for p in (0.5, 0.95):
            for off in (0.7, 0.85, 0.95, 1.05, 1.2, 1.4):
                counts = Counter[str]()
                for _ in range(trials):
                    true = np.exp(rng.normal(0, 1.0, n))
                    limit = float(np.quantile(true, p)) * off

                    def outcome(found: Cells, limit: float = limit, p: float = p) -> Outcome:
                        lower, upper = quantile_limits(found, p, 0.05, population=False)
                        return "pass" if upper <= limit else "fail" if lower > limit else "undecided"

                    first = cells(true, rng, 98)
                    if outcome(first) != "undecided":
                        counts["decided_at_once"] += 1
                        continue
                    queries = proposed_queries(first, 100, outcome)
                    if queries is not None:
                        counts["proposed"] += 1
                        counts["then_decided"] += outcome(cells(true, rng, queries - 2)) != "undecided"
                out[f"n={n} p={p} limit={off} of the value"] = {"runs": float(trials), **counts}
    return out


def main() -> None:
    """Print and write all figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    figures = {
        "page": page_figures(options.inputs),
        "tails": tail_figures(),
        "gate": gate_figures(),
        "proposals": proposal_figures(),
        "comparison": comparison_figures(options.runs),
    }
    print(json.dumps(figures, indent=1))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
