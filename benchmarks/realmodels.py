"""Audit a folder of real ONNX models with known exact answers, and compare.

    python benchmarks/realmodels.py DIR [--seeds 5] [--json FILE]

DIR holds NAME.onnx, NAME.npz (x) and truth.json: {NAME: {"link": ..., "inputs": [{"spectral_norm": ...,
"margin_radius": ..., "adversarial_l2": ... (optional)}]}}. The exact peak norm is not in the file: it is computed here from
the model's dense Jacobian (central differences over every feature), for the first ``--peak-inputs`` inputs.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from fimaudit import audit, open_classifier
from fimaudit.baselines import rayleigh_max
from fimaudit.estimation.secants import complete, log_probabilities
from fimaudit.estimation.temperature_search import peak_temperature
from fimaudit.estimation.tempering import temper
from fimaudit.models.meter import Meter
from fimaudit.perturbations.rows import CoordinateRows, PlainRows

#: Exact values below this count as zero: the input need not be resolved.
MEASURABLE = 1e-9
REPEATS = 5


def exact_peak(meter: Meter, x: np.ndarray, dtype: str, displacement: float) -> float:
    """Peak norm from the dense Jacobian of log p: central differences of every feature."""
    step, free = displacement, np.arange(x.size)
    flat = x.astype(dtype).ravel()
    high, low = (flat + step).astype(dtype), (flat - step).astype(dtype)
    up = meter.ask([CoordinateRows(x, free, high, dtype)])[0]
    down = meter.ask([CoordinateRows(x, free, low, dtype)])[0]
    base = meter.ask([PlainRows(x[None].astype(dtype))])[0]
    top = int(base[0].argmax())
    logs = [log_probabilities(complete(np.maximum(p, 1e-300), top), top) for p in (up, down, base)]
    sent = high.astype(float) - low.astype(float)
    slopes = (logs[0] - logs[1]) / sent[:, None]
    z = temper(slopes, logs[2][0], peak_temperature(slopes, logs[2][0]))
    return float(np.linalg.eigvalsh(z.T @ z)[-1])


def published_ratio(meter: Meter, x: np.ndarray, dtype: str, rho: float, truth: float, queries: int, seed: int) -> float:
    """Reading of the published estimator at the same queries and displacement, over the exact value."""
    rng = np.random.default_rng(seed)
    v = rng.standard_normal((queries - 1, x.size))
    v /= np.linalg.norm(v, axis=1, keepdims=True)
    rows = (x.ravel() + rho * v).astype(dtype).reshape(-1, *x.shape)
    p = meter.ask([PlainRows(np.concatenate([x[None].astype(dtype), rows]))])[0]
    p = complete(p, int(p[0].argmax()))
    return rayleigh_max((np.sqrt(p[1:]) - np.sqrt(p[0])) * (2.0 / rho)) / truth


def bare_seconds(path: Path, rows: list[np.ndarray], batch: int) -> float:
    """The same file and rows through onnxruntime alone: the faster of one row a call and the audit's batch."""
    import onnxruntime as ort

    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    name, first = session.get_inputs()[0].name, session.get_inputs()[0].shape[0]

    def once(size: int) -> float:
        pieces = [r[i : i + size] for r in rows for i in range(0, len(r), size)]
        start = time.perf_counter()
        for piece in pieces:
            session.run(None, {name: piece})
        return time.perf_counter() - start

    return min(once(size) for size in ([1] if isinstance(first, int) else [1, batch]))


def measure_time(path: Path, classifier: Any, x: np.ndarray, queries: int) -> tuple[float, float, float]:
    """(audit over bare, bare milliseconds an input, audit minus bare in milliseconds an input).

    The two take turns, each with its session alone, so that a machine whose speed drifts is the same for both.
    """
    dtype = classifier.info.dtype
    rng = np.random.default_rng(0)
    small = 1e-3 * float(x.std())
    rows = [(one + small * rng.choice([-1.0, 1.0], (queries, *one.shape))).astype(dtype) for one in x]
    batch = Meter(classifier).batch_rows(rows[0][0].nbytes)
    bare = whole = np.inf
    for _ in range(REPEATS):
        bare = min(bare, bare_seconds(path, rows, batch))
        start = time.perf_counter()
        report = audit(classifier, x, queries=queries)
        whole = min(whole, time.perf_counter() - start)
    # Inputs of few features take fewer rows than allowed: the bare run is charged for no more than were really asked.
    bare *= min(1.0, report.summary.queries / (len(x) * queries))
    return whole / bare, 1e3 * bare / len(x), 1e3 * (whole - bare) / len(x)


def run_model(folder: Path, name: str, truth: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """All figures of one model."""
    x = np.load(folder / f"{name}.npz")["x"]
    path = folder / f"{name}.onnx"
    classifier = open_classifier(str(path), link=truth["link"])
    exact = truth["inputs"]
    errors, covered, widths, ratios, ok, upper_holds, published, peaks = [], [], [], [], [], [], [], []
    adversarial: list[tuple[float, float]] = []
    rows = on_top = 0
    meter = Meter(classifier)
    dtype = classifier.info.dtype
    for seed in range(options.seeds):
        report = audit(classifier, x, queries=options.queries, seed=seed, mode="black-box", witness=options.witness)
        rows, nominal = report.summary.queries, len(x) * options.queries
        on_top = max(on_top, rows / nominal - 1)
        for s, t in zip(report.inputs, exact, strict=True):
            value = t["spectral_norm"]
            if value <= MEASURABLE:
                upper_holds.append(s.spectral_norm.upper is not None and s.spectral_norm.upper >= value)
                continue
            ok.append(s.status == "ok")
            if s.status != "ok" or s.spectral_norm.value is None:
                upper_holds.append(s.spectral_norm.upper is not None and s.spectral_norm.upper >= value)
                continue
            errors.append(s.spectral_norm.value / value - 1)
            covered.append(s.spectral_norm.lower <= value <= s.spectral_norm.upper)
            widths.append(s.spectral_norm.upper / s.spectral_norm.lower)
            if s.margin_radius.value is not None:
                ratios.append(s.margin_radius.value / t["margin_radius"])
                if t.get("adversarial_l2"):
                    adversarial.append((s.margin_radius.value, t["adversarial_l2"]))
            if seed == 0:
                arguments = (meter, x[s.index], dtype)
                published.append(published_ratio(*arguments, s.displacement, value, options.queries, s.index))
            if s.index < options.peak_inputs and s.peak_spectral_norm.value is not None:
                if seed == 0:
                    t["peak"] = exact_peak(meter, x[s.index], dtype, s.displacement / np.sqrt(x[0].size))
                peaks.append(s.peak_spectral_norm.value / t["peak"] - 1)
    pairs = np.array(adversarial)
    time_ratio, bare_ms, overhead = measure_time(path, classifier, x, options.queries)
    figures = {
        "features": int(x[0].size),
        "batch": str(classifier.info.details.get("batch")),
        "rows": rows,
        "on_top": on_top,
        "ok": float(np.mean(ok)),
        "upper_holds": float(np.mean(upper_holds)) if upper_holds else None,
        "median_error": float(np.median(np.abs(errors))),
        "peak_median_error": float(np.median(np.abs(peaks))) if peaks else None,
        "coverage": float(np.mean(covered)),
        "covered_of": len(covered),
        "width": float(np.median(widths)),
        "rayleigh_max_ratio": float(np.median(published)),
        "margin_exact_ratio": float(np.median(ratios)),
        "margin_spearman": float(stats.spearmanr(*pairs.T).statistic) if len(pairs) else None,
        "margin_ratio": float(np.median(pairs[:, 0] / pairs[:, 1])) if len(pairs) else None,
        "time_ratio": time_ratio,
        "bare_ms": bare_ms,
        "overhead_ms": overhead,
    }
    classifier.close()
    return figures


def main() -> None:
    """Print one block a model, and the pooled coverage."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--peak-inputs", type=int, default=6, help="inputs with an exact peak norm (2 d rows each)")
    parser.add_argument("--only", nargs="*", help="names of models to run")
    parser.add_argument(
        "--no-witness", dest="witness", action="store_false", default=None, help="look for no counterexample"
    )
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    truth = json.loads((options.folder / "truth.json").read_text())
    models = {}
    for name in options.only or truth:
        models[name] = run_model(options.folder, name, truth[name], options)
        print(name)
        for key, value in models[name].items():
            print(f"  {key:20} {value:.4g}" if isinstance(value, float) else f"  {key:20} {value}")
    for low, high in ((0, 100), (100, 10**9)):
        pool = [m for m in models.values() if low <= m["features"] < high]
        if pool:
            total = sum(m["covered_of"] for m in pool)
            share = sum(m["coverage"] * m["covered_of"] for m in pool) / total
            print(f"coverage, features {low} to {high}: {share:.4f} of {total}")
    if options.json:
        options.json.write_text(json.dumps({"models": models}, indent=1))


if __name__ == "__main__":
    main()
