"""Many models on the same inputs: their order by one quantity, with an interval on each rank."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np

from fimaudit.comparison.two_runs import STREAM, contradictions, run_names
from fimaudit.errors import UsageError
from fimaudit.results import Interval, Metric, PlainData, Presented, Sensitivity, Sentence
from fimaudit.statistics.paired import column, quantile_ratio, rank_intervals
from fimaudit.storage.run_folder import RunFolder

__all__ = ["RankedModel", "Ranking", "rank_runs"]


class RankedModel(PlainData):
    """One model's place, 1 for the least sensitive, and the best and worst place the data allow."""

    name: str
    folder: str
    rank: int
    best: int
    worst: int
    median: Interval
    ratio_to_first: Interval
    accuracy: float | None
    confidence: float | None


class Ranking(Presented):
    """Models by the median of one quantity over the inputs that all of them measured, the least sensitive first."""

    _shown_by: ClassVar[tuple[str, str]] = ("report.ranking_page", "ranking_screen")

    schema_version: Literal[1] = 1
    metric: Metric
    target: Literal["these_inputs", "population"]
    unit: str
    confidence: float
    inputs: int
    models: list[RankedModel]
    warnings: list[Sentence]


def rank_runs(runs: Sequence[RunFolder], metric: Metric = "margin_radius", *, population: bool = True) -> Ranking:
    """Rank models by the median of a quantity; intervals on the ranks hold for all models at once.

    Args:
        runs: three or more runs over the same inputs (two will do).
        metric: by default the margin radius, which no rescaling of logits changes.
        population: ranks in the population of inputs, rather than on these inputs alone.
    """
    if len(runs) < 2:
        raise UsageError(f"expected at least two runs to rank, got {len(runs)}")
    level = float(runs[0].report.settings["confidence"])
    common = set.intersection(*({s.index for s in r.inputs if s.status != "failed"} for r in runs))
    if not common:
        raise UsageError("expected inputs that all runs measured, got none in common")
    kept = [[s for s in sorted(r.inputs, key=lambda s: s.index) if s.index in common] for r in runs]
    columns = [
        column([getattr(s, metric) for s in inputs], float(r.report.settings["confidence"]))
        for r, inputs in zip(runs, kept, strict=True)
    ]
    rng = np.random.Generator(np.random.Philox(key=np.array([STREAM, len(common)], dtype=np.uint64)))
    count = len(runs)
    each = 1 - (1 - level) / (count * (count - 1) / 2)
    worse_if_larger = metric != "margin_radius"
    table: list[list[Interval | None]] = [[None] * count for _ in runs]
    for i in range(count):
        for j in range(i + 1, count):
            pair = (columns[i], columns[j]) if worse_if_larger else (columns[j], columns[i])
            table[i][j] = quantile_ratio(*pair, 0.5, each, rng, population=population)
            table[j][i] = _inverse(table[i][j])
    medians = [np.median(np.where(c.low == c.high, c.low, np.nan)) for c in columns]
    keys = [m if worse_if_larger else -m for m in (float(np.nan_to_num(v, nan=np.inf)) for v in medians)]
    order = sorted(range(count), key=lambda i: (keys[i], i))
    places, names = rank_intervals(table), run_names(runs)
    models = []
    for rank, i in enumerate(order, start=1):
        best, worst = min(places[i][0], rank), max(places[i][1], rank)
        ratio = quantile_ratio(columns[order[0]], columns[i], 0.5, level, rng, population=population)
        models.append(
            RankedModel(
                name=names[i],
                folder=str(runs[i].folder),
                rank=rank,
                best=best,
                worst=worst,
                median=getattr(runs[i].report.summary, metric).median,
                ratio_to_first=ratio if rank > 1 else Interval(value=1.0, lower=1.0, upper=1.0),
                **_answers(kept[i]),
            )
        )
    return Ranking(
        metric=metric,
        target="population" if population else "these_inputs",
        unit=str(runs[0].report.domain["unit"]),
        confidence=level,
        inputs=len(common),
        models=models,
        warnings=[*contradictions(runs), *_warnings(models, metric)],
    )


def _inverse(ratio: Interval | None) -> Interval | None:
    if ratio is None:
        return None
    flip = [None if v is None or v <= 0 else 1 / v for v in (ratio.value, ratio.upper, ratio.lower)]
    return Interval(value=flip[0], lower=0.0 if ratio.upper is None else flip[1], upper=flip[2])


def _answers(inputs: Sequence[Sensitivity]) -> dict[str, Any]:
    labelled = [s for s in inputs if s.label is not None and s.predicted_class is not None]
    answered = [s.probability for s in inputs if s.probability is not None]
    return {
        "accuracy": float(np.mean([s.label == s.predicted_class for s in labelled])) if labelled else None,
        "confidence": float(np.median(answered)) if answered else None,
    }


def _warnings(models: Sequence[RankedModel], metric: Metric) -> list[str]:
    out = []
    sure = [m.confidence for m in models if m.confidence is not None]
    if metric == "spectral_norm":
        out.append("the spectral norm depends on confidence, sharper probabilities read smaller; rank by the margin radius")
    elif sure and max(sure) - min(sure) > 0.05:
        out.append(f"median confidence differs between the models ({min(sure):.3g} to {max(sure):.3g})")
    right = [m.accuracy for m in models if m.accuracy is not None]
    if right and max(right) - min(right) >= 0.01:
        out.append(f"accuracy differs between the models ({min(right):.1%} to {max(right):.1%}); sensitivity is not quality")
    return out
