"""Audit a folder of real ONNX models from their labels alone, and compare with the smallest perturbation that is known.

    python benchmarks/labels.py DIR [--labels 200 500 1000 2000] [--seeds 3] [--inputs N] [--only NAME ...] [--attack 1000]
        [--search FILE] [--json FILE]

DIR as for ``benchmarks/realmodels.py``; models whose truth holds ``adversarial_l2`` are measured, within [0, 1]. The truth
is the smallest one of that, the nearest witness of any run here and, with --search, what a long search with derivatives
finds (``benchmarks/_nearest.py``): FILE keeps that for the next run. Columns: median |error|, Spearman, median ratio and
its 10 to 90 % range, share of inputs whose truth lies in [lower, upper], median width below and above, inputs without a
value, and the median ratio of the end of the walk (the witness) and, with --attack, of ART's HopSkipJump with as many
rows.
"""

from __future__ import annotations

import sys
from pathlib import Path

# The root instead of this folder, whose http.py would hide the standard library's.
sys.path[0] = str(Path(__file__).resolve().parent.parent)

# ruff: noqa: E402
import argparse
import json
from collections.abc import Iterable
from typing import Any

import numpy as np
from scipy import stats

from fimaudit import InputDomain, audit, open_classifier, validate
from fimaudit.results import Sensitivity


def run_model(folder: Path, name: str, link: str, options: argparse.Namespace) -> dict[tuple[int, int], list[Sensitivity]]:
    """Every input at every number of labels and seed."""
    x = np.load(folder / f"{name}.npz")["x"][: options.inputs]
    classifier = open_classifier(str(folder / f"{name}.onnx"), "labels")
    found = {}
    for labels in options.labels:
        for seed in range(options.seeds):
            report = audit(classifier, x, queries=labels, seed=seed, lower=0, upper=1, link="labels")
            found[labels, seed] = report.inputs
    classifier.close()
    return found


def attacked(folder: Path, name: str, link: str, labels: int, options: argparse.Namespace) -> list[float | None]:
    """Distances that HopSkipJump reaches with so many rows an input."""
    x = np.load(folder / f"{name}.npz")["x"][: options.inputs]
    path = str(folder / f"{name}.onnx")
    domain = InputDomain(lower=0, upper=1)
    result = validate(path, x, link=link, attacks=["hopskipjump"], attack_rows=labels, domain=domain, queries=50)
    return [row.attacks.get("hopskipjump") for row in result.inputs]


def figures(runs: list[list[Sensitivity]], truth: np.ndarray) -> dict[str, Any]:
    """The columns, over the runs of one number of labels."""
    rows = [
        (s.margin_radius, s.witness.distance if s.witness else np.nan, truth[s.index]) for inputs in runs for s in inputs
    ]
    known = [row for row in rows if row[0].value is not None]
    value, t = (np.array([pick(row) for row in known]) for pick in (lambda row: row[0].value, lambda row: row[2]))
    low = np.array([row[0].lower or 0.0 for row in known])
    high = np.array([np.inf if row[0].upper is None else row[0].upper for row in known])
    walked = np.array([row[1] for row in known])
    ratio = value / t
    return {
        "median_error": float(np.median(np.abs(ratio - 1))),
        "spearman": float(np.mean([_rank(inputs, truth) for inputs in runs])),
        "ratio": float(np.median(ratio)),
        "ratio_10": float(np.quantile(ratio, 0.1)),
        "ratio_90": float(np.quantile(ratio, 0.9)),
        "coverage": float(np.mean((low <= t) & (t <= high * (1 + 1e-9)))),
        "width_below": float(np.median(1 - low / value)),
        "width_above": float(np.median(high / value - 1)),
        "without": 1 - len(known) / len(rows),
        "walk": float(np.nanmedian(walked / t)),
        "of": len(rows),
    }


def _rank(inputs: list[Sensitivity], truth: np.ndarray) -> float:
    pairs = [(s.margin_radius.value, truth[s.index]) for s in inputs if s.margin_radius.value is not None]
    return float(stats.spearmanr(*np.array(pairs).T).statistic)


def searched(folder: Path, name: str, kept: Path) -> np.ndarray:
    """(n,) distances of the nearest counterexamples that a search with derivatives finds, or found and kept."""
    from benchmarks._nearest import nearest_counterexamples
    from benchmarks._onnx_network import OnnxNetwork

    known = dict(np.load(kept)) if kept.exists() else {}
    if name not in known:
        x = np.load(folder / f"{name}.npz")["x"].astype(np.float32)
        known[name] = nearest_counterexamples(OnnxNetwork(folder / f"{name}.onnx").eval(), x)
        np.savez(kept, **known)
    return np.asarray(known[name])


def nearest_known(
    folder: Path, name: str, given: list[float], runs: Iterable[list[Sensitivity]], options: argparse.Namespace
) -> np.ndarray:
    """The truth: the nearest counterexample of each input that anything found."""
    truth = np.array(given)
    if options.search is not None:
        truth = np.minimum(truth, searched(folder, name, options.search))
        share, rank = truth / given, stats.spearmanr(truth, given).statistic
        print(f"{name}: nearest {np.median(share):.2f} of adversarial_l2, {share.min():.2f} at least, Spearman {rank:.2f}")
    truth = truth[: options.inputs]
    for inputs in runs:
        for s in inputs:
            if s.witness is not None:
                truth[s.index] = min(truth[s.index], s.witness.distance)
    return truth


def main() -> None:
    """Print a line a model and number of labels."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--labels", type=int, nargs="*", default=[200, 500, 1000, 2000])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--inputs", type=int, help="of each model, all when left out")
    parser.add_argument("--only", nargs="*", help="names of models to run")
    parser.add_argument("--attack", type=int, nargs="*", help="HopSkipJump of ART beside these numbers of labels; all")
    parser.add_argument("--search", type=Path, help="search with derivatives for nearer ones; .npz that keeps them")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    known = json.loads((options.folder / "truth.json").read_text())
    with_truth = [name for name, model in known.items() if all(i.get("adversarial_l2") for i in model["inputs"])]
    models: dict[str, Any] = {}
    for name in options.only or with_truth:
        found = run_model(options.folder, name, known[name]["link"], options)
        given = [i["adversarial_l2"] for i in known[name]["inputs"]]
        truth = nearest_known(options.folder, name, given, found.values(), options)
        models[name] = {}
        for labels in options.labels:
            of = figures([found[labels, seed] for seed in range(options.seeds)], truth)
            if options.attack is not None and labels in (options.attack or options.labels):
                ends = attacked(options.folder, name, known[name]["link"], labels, options)
                of["hopskipjump"] = float(np.median([end / t for end, t in zip(ends, truth, strict=True) if end]))
            models[name][labels] = of
            print(
                f"{name:24} {labels:5} error {of['median_error']:6.1%}  Spearman {of['spearman']:.2f}  "
                f"ratio {of['ratio']:.2f} [{of['ratio_10']:.2f}, {of['ratio_90']:.2f}]  coverage {of['coverage']:.0%}  "
                f"width -{of['width_below']:.0%}/+{of['width_above']:.0%}  without {of['without']:.0%}  "
                f"walk {of['walk']:.2f}" + (f"  HopSkipJump {of['hopskipjump']:.2f}" if "hopskipjump" in of else ""),
                flush=True,
            )
        if options.json:
            options.json.write_text(json.dumps({"models": models}, indent=1))


if __name__ == "__main__":
    main()
