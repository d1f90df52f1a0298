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
from pathlib import Path
from typing import Any

import numpy as np

# In place of this script's own folder, whose http.py hides the standard library's.
sys.path.pop(0)
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from scipy import stats
from synthetic_runs import made_run, picture_run, pictures, softmax_model

from fimaudit import audit
from fimaudit.comparison import compare_runs
from fimaudit.evidence import write_bundle
from fimaudit.onesided import Cells, quantile_limits
from fimaudit.report import render
from fimaudit.results import Interval, Sensitivity
from fimaudit.runfolder import Run
from fimaudit.spectrum import spectral_limits
from fimaudit.summary import summarise
from fimaudit.verification import verify_bundle

DIRECTIONS = 199
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
        pair = [Run(Path("."), r, tuple(r.inputs)) for r in audits[2 * k : 2 * k + 2]]
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
                    told = summarise(found, 0.95, 0, 0).spectral_norm.p95.value
                    ratios.append((plain / truth, (told or 0) / truth))
                plain, told = np.mean(ratios, axis=0)
                out[f"{directions} directions, {spectrum}, {shape}"] = {"plain": float(plain), "reported": float(told)}
    return out


def _measured(index: int, norm: float, spectrum: Any, directions: int, rng: np.random.Generator) -> Sensitivity:
    y = rng.normal(size=(directions, len(spectrum))) * np.sqrt(norm * spectrum)
    found, _ = spectral_limits(y, 0.95)
    cell = Interval(value=found.value, lower=found.lower, upper=found.upper)
    return Sensitivity(index=index, status="ok", method="rademacher", queries=directions + 2, spectral_norm=cell)


def gate_figures(trials: int = 2000) -> dict[str, float]:
    """Share of wrong passes where the true quantile is the limit."""
    rng, out = np.random.default_rng(0), {}
    factors = (DIRECTIONS / stats.chi2.ppf(q, DIRECTIONS) for q in (0.975, 0.025))
    down, up = factors
    for n in (10, 30, 100):
        for p in (0.5, 0.95, 1.0):
            for shape in ("spread", "equal"):
                wrong = 0
                for _ in range(trials):
                    true = np.exp(rng.normal(0, 1.5, n)) if shape == "spread" else np.ones(n)
                    seen = true * rng.chisquare(DIRECTIONS, n) / DIRECTIONS
                    limits = quantile_limits(Cells(seen, seen * down, seen * up, 0.025), p, 0.05, population=False)
                    wrong += limits[1] < np.quantile(true, p) * (1 - 1e-12)
                out[f"n={n} p={p} {shape}"] = wrong / trials
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
        "comparison": comparison_figures(options.runs),
    }
    print(json.dumps(figures, indent=1))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
