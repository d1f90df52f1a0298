"""What real endpoints do to their answers and inputs, wrapped around two models whose exact values are known.

    python benchmarks/conditions.py [--inputs 100] [--queries 200] [--only NAME ...] [--json FILE]

Every row is compared with the exact value of what can be measured there (float64 autograd): of the classes that the answers
show, the others pooled; of the features that may change; of the mean answer of a random model. A result that names itself
``finite_scale`` is compared with the same quantity at its displacement, from many more directions. *median_error* is over
``ok`` inputs, *coverage* over all with a value, *upper_holds* over all, *not_ok* also where p_max < 0.99 (*not_ok_unsure*).

Then what stopping early saves: *adaptive*, the fixed number of queries at which 95 % of inputs are as narrow as --precision
0.2 (*fixed_queries*) against what ``--queries auto`` takes (*mean_queries* an input in its estimate, as in the report;
*mean_rows* with pilot, checks and profile), and *threshold*, 2,000 simulated inputs at a threshold and at twice it.
"""

from __future__ import annotations

import sys

sys.path.append(sys.path.pop(0))  # this folder last: its http.py must not hide the standard library's

import argparse
import copy
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _models import Trained, breast_cancer, digits

from fimaudit import InputDomain, audit
from fimaudit.estimation.noise import DEVIATIONS, QUANTA
from fimaudit.estimation.stopping import decide_threshold, next_look
from fimaudit.measurement.energy import displaced, draw_signs
from fimaudit.models.classifier import ModelInfo
from fimaudit.results import Sensitivity

Answer = Callable[[np.ndarray], np.ndarray]
#: Directions of a finite-scale reference, and masks of a random model's mean.
REFERENCE = 3000
MASKS = 400
UNSURE = 0.99


@dataclass
class Case:
    """One condition around one model.

    Attributes:
        answer: float32 rows to probabilities, as the condition gives them.
        x: inputs.
        domain: bounds, quantum, frozen features.
        pool: which classes of the exact p count as measurable; ``None`` for all.
        dtype, details: what the model declares.
        network: the exact network, float64.
        dropout: whether it is random.
    """

    answer: Answer
    x: np.ndarray
    domain: InputDomain
    network: Any
    pool: Callable[[np.ndarray], np.ndarray] | None = None
    dtype: str = "float32"
    details: dict[str, Any] = field(default_factory=dict)
    dropout: bool = False


class Wrapped:
    """A classifier around a function."""

    def __init__(self, case: Case, name: str) -> None:
        self._case = case
        self.info = ModelInfo(name, "benchmark", tuple(case.x.shape[1:]), case.dtype, details=case.details)

    def probabilities(self, batch: np.ndarray) -> np.ndarray:
        """As the condition answers."""
        return np.asarray(self._case.answer(batch), dtype=np.float64)

    def close(self) -> None:
        """Nothing to give back."""


def plain(network: Any) -> Answer:
    """Softmax in float32, as an endpoint would."""

    def answer(batch: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return network(torch.from_numpy(np.ascontiguousarray(batch))).softmax(1).numpy()

    return answer


def make(condition: str, model: Trained) -> Case:
    """The condition around the model."""
    exact = copy.deepcopy(model.network).double()
    x, clean = model.x, plain(model.network)
    bounds = {"lower": model.lower, "upper": model.upper}
    rng = np.random.default_rng(5)
    kind, _, number = condition.partition("-")
    if condition == "clean":
        return Case(clean, x, InputDomain(**bounds), exact)
    if condition == "8-bit":
        low, high = (0.0, 1.0) if model.lower is not None else (x.min(axis=0), x.max(axis=0))
        quantum = (np.asarray(high) - low) / 255
        snap = lambda rows: (low + np.round((rows - low) / quantum) * quantum).astype(np.float32)  # noqa: E731
        domain = InputDomain(lower=low, upper=high, quantum=quantum)
        return Case(lambda rows: clean(snap(rows)), snap(x), domain, exact)
    if kind == "rounded":
        step = 10.0 ** -int(number)
        keep = lambda p: np.round(p, int(number)) >= QUANTA * step  # noqa: E731
        return Case(lambda rows: np.round(clean(rows), int(number)), x, InputDomain(**bounds), exact, keep)
    if kind == "top":
        k = int(number)

        def shown(rows: np.ndarray) -> np.ndarray:
            p = clean(rows).astype(np.float64)
            hidden = np.argsort(-p, axis=1)[:, k:]
            np.put_along_axis(p, hidden, 0.0, axis=1)
            return np.hstack([p, 1.0 - p.sum(axis=1, keepdims=True)])

        return Case(shown, x, InputDomain(**bounds), exact, lambda p: p >= np.sort(p)[-k], details={"top_k": k})
    if kind == "noise":
        sigma = float(number.replace("1e_", "1e-"))

        def noisy(rows: np.ndarray) -> np.ndarray:
            p = clean(rows)
            p = np.clip(p + sigma * rng.standard_normal(p.shape), 0.0, 1.0)
            return p / p.sum(axis=1, keepdims=True)

        return Case(noisy, x, InputDomain(**bounds), exact, lambda p: p >= DEVIATIONS * sigma)
    if condition == "dropout":
        random = copy.deepcopy(model.network)
        for layer in random.modules():
            if isinstance(layer, torch.nn.Dropout):
                layer.train()
        return Case(plain(random), x, InputDomain(**bounds), exact, dropout=True)
    if condition == "clipped":
        low, high = (0.2, 0.8) if model.lower is not None else tuple(np.quantile(x, [0.1, 0.9], axis=0))
        return Case(clean, np.clip(x, low, high).astype(np.float32), InputDomain(lower=low, upper=high), exact)
    if condition == "frozen":
        frozen = np.random.default_rng(1).random(x.shape[1:]) < 0.5
        return Case(clean, x, InputDomain(frozen=frozen, **bounds), exact)
    if condition == "float16":
        half = copy.deepcopy(model.network).half()
        return Case(plain(half), x.astype(np.float16), InputDomain(**bounds), exact, dtype="float16")
    raise ValueError(condition)


def jacobian(network: Any, x: np.ndarray, masks: int | None) -> tuple[np.ndarray, np.ndarray]:
    """(p, d 2 sqrt(p) / dx) in float64; the mean over dropout masks of 2 sqrt(p) where there are any."""
    point = torch.from_numpy(x[None].astype(np.float64)).requires_grad_()
    rows = point if masks is None else point.expand(masks, *point.shape[1:])
    network.train(masks is not None)
    logits = network(rows)
    network.eval()
    roots = 2 * logits.log_softmax(1).div(2).exp().mean(0)
    slopes = torch.stack([torch.autograd.grad(r, point, retain_graph=True)[0].flatten() for r in roots])
    return (roots.detach().numpy() / 2) ** 2, slopes.numpy()


def pooled_norm(p: np.ndarray, slopes: np.ndarray, keep: np.ndarray, least: float) -> float:
    """Spectral norm of the kept classes and the rest as one; without the rest where it is below ``least``."""
    rows = [slopes[keep]]
    rest = p[~keep].sum()
    if rest > least:
        rows.append(((np.sqrt(p[~keep]) @ slopes[~keep]) / np.sqrt(rest))[None])
    g = np.concatenate(rows)
    return float(np.linalg.eigvalsh(g @ g.T)[-1])


def finite_norm(case: Case, s: Sensitivity, space: Any, keep: np.ndarray, least: float) -> float:
    """The same at the displacement that the result names, from many directions."""
    signs = draw_signs(12345, s.index, 0, REFERENCE, case.x[0].size)
    rows = displaced(case.x[s.index], space, signs, s.displacement)
    network = case.network
    if case.dropout:
        network.train(True)
    with torch.no_grad():
        moved = torch.from_numpy(rows.build(0, REFERENCE).astype(np.float64))
        p = network(moved).softmax(1).numpy()
        point = torch.from_numpy(case.x[s.index][None].astype(np.float64)).expand(REFERENCE, *case.x.shape[1:])
        deterministic = network(point).softmax(1).numpy() if case.dropout else None
    network.eval()

    def gram(q: np.ndarray) -> np.ndarray:
        rest = q[:, ~keep].sum(axis=1, keepdims=True)
        table = np.hstack([q[:, keep], rest]) if rest.mean() > least else q[:, keep]
        y = 2 * np.sqrt(table)
        return np.cov(y.T)

    g = gram(p) - (gram(deterministic) if deterministic is not None else 0)
    return float(np.linalg.eigvalsh(np.atleast_2d(g))[-1]) / space.length(rows.sent()) ** 2


def compare(case: Case, condition: str, model: Trained, queries: int, seed: int) -> dict[str, Any]:
    """One row of the table."""
    started = time.perf_counter()
    report = audit(
        Wrapped(case, f"{model.name} {condition}"), case.x, domain=case.domain, queries=queries, seed=seed, link="identity"
    )
    seconds = time.perf_counter() - started
    space = case.domain.resolve(case.x, case.dtype)
    free = ~space.frozen.ravel()
    errors, covered, upper, unsure, margins = [], [], [], [], []
    statuses: dict[str, int] = {}
    kinds: dict[str, int] = {}
    for s in report.inputs:
        x = case.x[s.index].astype(np.float32)
        p, slopes = jacobian(case.network, x, MASKS if case.dropout else None)
        slopes = slopes[:, free]
        keep = np.ones(len(p), dtype=bool) if case.pool is None else case.pool(p)
        least = QUANTA * 10.0 ** -int(condition[8:]) if condition.startswith("rounded") else 0.0
        exact = pooled_norm(p, slopes, keep, least) if keep.any() else 0.0
        whole = pooled_norm(p, slopes, np.ones(len(p), dtype=bool), 0.0)
        truth = exact
        if s.kind == "finite_scale":
            truth = finite_norm(case, s, space, keep, least)
        statuses[s.status] = statuses.get(s.status, 0) + 1
        kinds[s.kind] = kinds.get(s.kind, 0) + 1
        norm = s.spectral_norm
        reference = truth if norm.value is not None else whole
        upper.append(norm.upper is not None and norm.upper >= reference)
        if p.max() < UNSURE:
            unsure.append(s.status != "ok")
        if norm.value is not None:
            covered.append(norm.lower <= truth <= norm.upper)
            if s.status == "ok":
                errors.append(abs(norm.value / truth - 1))
        if s.status == "ok" and s.kind == "local" and s.margin_radius.value is not None and not case.dropout:
            logs = slopes / np.sqrt(p)[:, None]
            top, rivals = p.argmax(), np.delete(np.arange(len(p)), p.argmax())
            radius = (np.log(p[top] / p[rivals]) / np.linalg.norm(logs[top] - logs[rivals], axis=1)).min()
            margins.append(s.margin_radius.value / radius)
    return {
        "condition": condition,
        "model": model.name,
        "median_error": float(np.median(errors)) if errors else None,
        "coverage": float(np.mean(covered)) if covered else None,
        "not_ok": float(np.mean([s.status != "ok" for s in report.inputs])),
        "not_ok_unsure": float(np.mean(unsure)) if unsure else None,
        "unsure": len(unsure),
        "upper_holds": float(np.mean(upper)),
        "queries": report.summary.queries / len(case.x),
        "margin_ratio": [float(q) for q in np.quantile(margins, [0.05, 0.5, 0.95])] if margins else None,
        "statuses": statuses,
        "kinds": kinds,
        "seconds": seconds,
    }


def stopping(model: Trained, precision: float, seeds: int = 3) -> dict[str, Any]:
    """Queries at a fixed number that serves 95 % of inputs, and queries where each stops for itself."""
    case = make("clean", model)
    options: dict[str, Any] = {"domain": case.domain, "link": "identity"}

    def widths(seed: int, **how: Any) -> tuple[list[float], list[int], float]:
        report = audit(Wrapped(case, model.name), case.x, seed=seed, **how, **options)
        ok = [s for s in report.inputs if s.status == "ok" and s.spectral_norm.value]
        half = [(s.spectral_norm.upper - s.spectral_norm.lower) / (2 * s.spectral_norm.value) for s in ok]
        return half, [s.queries for s in ok], report.summary.queries / len(case.x)

    def narrow(queries: int) -> tuple[float, float, float]:
        runs = [widths(seed, queries=queries) for seed in range(seeds)]
        share = float(np.mean([h <= precision for half, _, _ in runs for h in half]))
        return share, float(np.mean([q for _, each, _ in runs for q in each])), float(np.mean([rows for *_, rows in runs]))

    low, high = 20, 1200  # the share rises with the number, but for chance
    while high - low > 4:
        middle = (low + high) // 2
        low, high = (low, middle) if narrow(middle)[0] >= 0.95 else (middle, high)
    _, estimate, fixed_rows = narrow(high)
    runs = [widths(seed, queries="auto", precision=precision) for seed in range(seeds)]
    mean = float(np.mean([q for _, each, _ in runs for q in each]))
    rows = float(np.mean([total for *_, total in runs]))
    return {
        "model": model.name,
        "precision": precision,
        "fixed_queries": high,
        "fixed_in_estimate": estimate,
        "fixed_rows": fixed_rows,
        "mean_queries": mean,
        "mean_rows": rows,
        "saving": 1 - mean / high,
        "saving_in_estimate": 1 - mean / estimate,
        "saving_rows": 1 - rows / fixed_rows,
        "reached": float(np.mean([h <= precision for half, _, _ in runs for h in half])),
    }


def thresholds(inputs: int = 2000) -> list[dict[str, Any]]:
    """Decisions on simulated spectra: wrong ones at the threshold and at twice it, and queries at twice it."""
    spectra = {"rank one": [1.0, 0.0, 0.0], "fast": [1.0, 0.3, 0.1, 0.03, 0.01], "slow": (1 / np.arange(1, 9)).tolist()}
    out = []
    for name, spectrum in spectra.items():
        for factor in (1.0, 2.0):
            rng = np.random.default_rng(0)
            verdicts, queries = [], []
            for _ in range(inputs):
                y = rng.standard_normal((130, len(spectrum))) * np.sqrt(np.array(spectrum) * factor)
                asked, verdict = 0, None
                while asked < len(y) and verdict is None:
                    asked = next_look(asked, len(y))
                    verdict = decide_threshold(y[:asked], 1.0, 0.05)
                verdicts.append(verdict)
                queries.append(asked + 2)
            # at the threshold itself the norm is neither above nor below: any decision counts as wrong
            wrong = np.mean([v == "below" if factor > 1 else v is not None for v in verdicts])
            out.append(
                {"spectrum": name, "norm": factor, "wrong": float(wrong), "median_queries": float(np.median(queries))}
            )
    return out


CONDITIONS = (
    "clean",
    "8-bit",
    "rounded-6",
    "rounded-4",
    "rounded-3",
    "rounded-2",
    "top-5",
    "top-1",
    "noise-1e-4",
    "noise-1e-2",
    "dropout",
    "clipped",
    "frozen",
    "float16",
)


def main() -> None:
    """Print one line a row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=100)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", help="conditions to run")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for model in (digits(options.inputs), breast_cancer(options.inputs)):
        for condition in options.only or CONDITIONS:
            if condition == "top-5" and model.name == "breast_cancer":
                continue  # two classes
            torch.manual_seed(0)
            row = compare(make(condition, model), condition, model, options.queries, options.seed)
            rows.append(row)
            shown = [f"{row[k]:.3f}" if row[k] is not None else "-" for k in ("median_error", "coverage", "upper_holds")]
            unsure = "-" if row["not_ok_unsure"] is None else f"{row['not_ok_unsure']:.2f} of {row['unsure']}"
            ratio = "-" if row["margin_ratio"] is None else "/".join(f"{q:.2f}" for q in row["margin_ratio"])
            print(
                f"{model.name:14} {condition:11} error {shown[0]} coverage {shown[1]} upper {shown[2]} "
                f"not ok {row['not_ok']:.2f} (unsure {unsure}) radius {ratio} rows {row['queries']:.0f} "
                f"{row['statuses']} {row['kinds']} {row['seconds']:.1f} s",
                flush=True,
            )
    adaptive, decided = [], []
    if not options.only:
        adaptive = [stopping(model, 0.2) for model in (digits(options.inputs), breast_cancer(options.inputs))]
        for row in adaptive:
            print(
                f"{row['model']:14} precision {row['precision']}: {row['fixed_queries']} queries serve 95 % of inputs, auto "
                f"takes {row['mean_queries']:.0f} in the mean, {100 * row['saving']:.0f} % fewer "
                f"({100 * row['saving_in_estimate']:.0f} % of the rows of estimates, {100 * row['saving_rows']:.0f} % of "
                f"all rows); {100 * row['reached']:.0f} % reach it",
                flush=True,
            )
        decided = thresholds()
        for row in decided:
            print(
                f"threshold, {row['spectrum']:9} norm {row['norm']:.0f} T: wrong {100 * row['wrong']:.1f} %, "
                f"median {row['median_queries']:.0f} queries",
                flush=True,
            )
    if options.json:
        options.json.write_text(json.dumps({"rows": rows, "adaptive": adaptive, "threshold": decided}, indent=1))


if __name__ == "__main__":
    main()
