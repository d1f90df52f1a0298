"""Two runs on the same inputs: ratios with intervals, the inputs that changed most, and what misleads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fimaudit.errors import UsageError
from fimaudit.results import Interval, PlainData, Presented, Sensitivity, Sentence
from fimaudit.statistics.paired import Column, changes, column, larger_share, quantile_ratio, rank_correlation
from fimaudit.storage.run_folder import RunFolder

__all__ = [
    "Answers",
    "Change",
    "Comparison",
    "QuantityComparison",
    "Ratios",
    "check_same",
    "compare_runs",
    "contradictions",
    "paired",
    "run_names",
]

QUANTITIES: dict[str, dict[str, float]] = {
    "spectral_norm": {"median": 0.5, "p95": 0.95},
    "peak_spectral_norm": {"median": 0.5, "p95": 0.95},
    "margin_radius": {"median": 0.5, "p05": 0.05, "p95": 0.95},
}
#: Inputs listed as changed most.
LISTED = 10
#: Medians of the log odds of the predicted class that differ by this much change lambda by a tenth and more.
CONFIDENCE_GAP = 0.1
ACCURACY_GAP = 0.01
STREAM = 60

Difference = Literal["more sensitive", "less sensitive", "not told apart"]


class Ratios(PlainData):
    """Ratio second / first of one quantile: of these inputs, and of the population they are a sample of."""

    these_inputs: Interval
    population: Interval


class QuantityComparison(PlainData):
    """One quantity of both models; ``verdict`` is about the second, from the interval of the ratio of medians.

    Attributes:
        ratios: by quantile (``median``, ``p95``; ``p05`` too for the radius).
        more_sensitive: share of these inputs that are more sensitive in the second model.
        surely_more, surely_less: inputs whose two intervals do not meet.
        spearman: correlation of the two rankings of inputs.
    """

    verdict: Difference
    ratios: dict[str, Ratios]
    more_sensitive: Interval
    surely_more: int
    surely_less: int
    spearman: Interval


class Change(PlainData):
    """One input that changed much, by the quantity that changed most clearly."""

    index: int
    quantity: str
    ratio: Interval
    first: Interval
    second: Interval
    first_class: int | None
    second_class: int | None
    label: int | None
    group: str | None


class Answers(PlainData):
    """The two models' decisions; without labels the accuracies are ``None``."""

    first_confidence: float | None
    second_confidence: float | None
    confidence_log_odds_difference: float | None
    confidence_p_value: float | None
    same_class: float | None
    first_accuracy: float | None
    second_accuracy: float | None
    accuracy_p_value: float | None


class Comparison(Presented):
    """The second model against the first on the inputs that both answered."""

    schema_version: Literal[1] = 1
    first: dict[str, Any]
    second: dict[str, Any]
    unit: str
    confidence: float
    inputs: int
    left_out: int
    quantities: dict[str, QuantityComparison]
    changed: list[Change]
    answers: Answers
    warnings: list[Sentence]


def compare_runs(first: RunFolder, second: RunFolder) -> Comparison:
    """Compare two runs that were read, at the first one's confidence."""
    level = float(first.report.settings["confidence"])
    pairs, left_out = paired(first, second)
    if not pairs:
        raise UsageError("expected inputs that both runs measured, got none in common")
    rng = np.random.Generator(np.random.Philox(key=np.array([STREAM, len(pairs)], dtype=np.uint64)))
    columns = {name: _columns(first, second, pairs, name) for name in QUANTITIES}
    miss = 1 - min(float(r.report.settings["confidence"]) for r in (first, second))
    quantities = {name: _quantity(name, *columns[name], miss, level, rng) for name in QUANTITIES}
    answers = _answers(pairs, [run.report.model.get("class_names") for run in (first, second)])
    names = run_names([first, second])
    return Comparison(
        first=_about(first, names[0]),
        second=_about(second, names[1]),
        unit=str(first.report.domain["unit"]),
        confidence=level,
        inputs=len(pairs),
        left_out=left_out,
        quantities=quantities,
        changed=_changed(pairs, columns, level),
        answers=answers,
        warnings=[*contradictions([first, second]), *_warnings(first, second, quantities, answers, left_out)],
    )


def paired(first: RunFolder, second: RunFolder) -> tuple[list[tuple[Sensitivity, Sensitivity]], int]:
    """Inputs that both runs measured, by index, and how many of the data are left out."""
    there = {s.index: s for s in second.inputs if s.status != "failed"}
    pairs = [(s, there[s.index]) for s in first.inputs if s.status != "failed" and s.index in there]
    return pairs, int(first.report.data.get("inputs", len(pairs))) - len(pairs)


def check_same(first: RunFolder, second: RunFolder) -> None:
    """Refuse runs that cannot be paired.

    Raises:
        UsageError: other inputs, another unit, or another scale.
    """
    one, two = first.report, second.report
    if one.data.get("sha256") != two.data.get("sha256"):
        raise UsageError(
            f"expected runs over the same inputs, but {first.folder} measured {one.data.get('source')} "
            f"(SHA-256 {str(one.data.get('sha256'))[:12]}) and {second.folder} {two.data.get('source')} "
            f"({str(two.data.get('sha256'))[:12]}); audit both models on one data file"
        )
    for key in ("unit", "scale", "frozen"):
        if one.domain.get(key) != two.domain.get(key):
            raise UsageError(
                f"expected runs in the same unit, but the domain's {key} differs ({first.folder}, {second.folder}); "
                "audit both models with the same --unit, --scale and frozen features"
            )


def _columns(
    first: RunFolder, second: RunFolder, pairs: Sequence[tuple[Sensitivity, Sensitivity]], name: str
) -> tuple[Column, Column]:
    levels = (float(r.report.settings["confidence"]) for r in (first, second))
    return (
        column([getattr(a, name) for a, _ in pairs], next(levels)),
        column([getattr(b, name) for _, b in pairs], next(levels)),
    )


def _quantity(
    name: str, first: Column, second: Column, miss: float, confidence: float, rng: np.random.Generator
) -> QuantityComparison:
    ratios = {
        which: Ratios(
            these_inputs=quantile_ratio(first, second, p, confidence, rng, population=False),
            population=quantile_ratio(first, second, p, confidence, rng, population=True),
        )
        for which, p in QUANTITIES[name].items()
    }
    larger_is_worse = name != "margin_radius"
    share, more, less = larger_share(*((first, second) if larger_is_worse else (second, first)), miss, confidence)
    return QuantityComparison(
        verdict=_verdict(ratios["median"].these_inputs, larger_is_worse),
        ratios=ratios,
        more_sensitive=share,
        surely_more=more,
        surely_less=less,
        spearman=rank_correlation(first, second, confidence),
    )


def _verdict(ratio: Interval, larger_is_worse: bool) -> Difference:
    above = ratio.lower is not None and ratio.lower > 1
    below = ratio.upper is not None and ratio.upper < 1
    if not above and not below:
        return "not told apart"
    return "more sensitive" if above == larger_is_worse else "less sensitive"


def _changed(
    pairs: Sequence[tuple[Sensitivity, Sensitivity]], columns: dict[str, tuple[Column, Column]], confidence: float
) -> list[Change]:
    """Inputs by how far the nearer limit of their ratio is from 1: of the radius, or of a norm where there is none."""
    name = next((n for n in ("margin_radius", "peak_spectral_norm") if _measured(columns[n])), "spectral_norm")
    ratio, lower, upper = changes(*columns[name], confidence)
    sure = np.maximum(np.maximum(lower, -upper), 0.0)
    size = np.where(np.isnan(ratio), -1.0, sure + 1e-9 * np.abs(np.nan_to_num(ratio)))
    out = []
    for i in np.argsort(-size, kind="stable")[:LISTED]:
        if size[i] < 0:
            break
        a, b = pairs[int(i)]
        out.append(
            Change(
                index=a.index,
                quantity=name,
                ratio=Interval(value=float(np.exp(ratio[i])), lower=float(np.exp(lower[i])), upper=float(np.exp(upper[i]))),
                first=getattr(a, name),
                second=getattr(b, name),
                first_class=a.predicted_class,
                second_class=b.predicted_class,
                label=a.label,
                group=a.group,
            )
        )
    return out


def _measured(both: tuple[Column, Column]) -> bool:
    known = (both[0].low == both[0].high) & (both[1].low == both[1].high)
    return bool(known.mean() >= 0.5)


def _called(classes: NDArray[np.int64], names: Sequence[Sequence[str] | None]) -> list[list[Any]]:
    """The two models' decisions, by name where both name the same classes, in whatever order; else by column."""
    first, second = names
    if first is None or second is None or sorted(first) != sorted(second) or classes.max() >= len(first):
        return [column.tolist() for column in classes.T]
    both = zip(classes.T, (first, second), strict=True)
    return [[called[k] if k >= 0 else None for k in column] for column, called in both]


def _answers(pairs: Sequence[tuple[Sensitivity, Sensitivity]], names: Sequence[Sequence[str] | None]) -> Answers:
    from scipy import stats  # takes half a second, which most commands need not wait for

    answered = [(a, b) for a, b in pairs if a.probability is not None and b.probability is not None]
    if not answered:
        return Answers(**dict.fromkeys(Answers.model_fields))
    p = np.array([[s.probability for s in pair] for pair in answered], dtype=float)
    classes = np.array([[-1 if s.predicted_class is None else s.predicted_class for s in pair] for pair in answered])
    same = np.array([a == b for a, b in zip(*_called(classes, names), strict=True)])
    tiny = np.finfo(float).eps
    odds = np.log(np.maximum(p, tiny)) - np.log(np.maximum(1 - p, tiny))
    gaps = odds[:, 1] - odds[:, 0]
    confidence_p = float(stats.wilcoxon(gaps).pvalue) if np.any(gaps != 0) else 1.0
    labelled = np.array([a.label is not None for a, _ in answered])
    accuracy: list[float | None] = [None, None]
    accuracy_p = None
    if labelled.any():
        labels = np.array([[-1 if s.label is None else s.label for s in pair] for pair in answered])
        right = (classes == labels)[labelled]
        accuracy = [float(v) for v in right.mean(axis=0)]
        only = int((right[:, 0] & ~right[:, 1]).sum()), int((~right[:, 0] & right[:, 1]).sum())
        accuracy_p = float(stats.binomtest(only[0], sum(only)).pvalue) if sum(only) else 1.0
    return Answers(
        first_confidence=float(np.median(p[:, 0])),
        second_confidence=float(np.median(p[:, 1])),
        confidence_log_odds_difference=float(np.median(odds[:, 1]) - np.median(odds[:, 0])),
        confidence_p_value=confidence_p,
        same_class=float(same.mean()),
        first_accuracy=accuracy[0],
        second_accuracy=accuracy[1],
        accuracy_p_value=accuracy_p,
    )


def _warnings(
    first: RunFolder, second: RunFolder, quantities: dict[str, QuantityComparison], answers: Answers, left_out: int
) -> list[str]:
    out = []
    gap = answers.confidence_log_odds_difference
    if gap is not None and abs(gap) > CONFIDENCE_GAP and (answers.confidence_p_value or 0) < 0.05:
        out.append(
            f"the median confidence differs ({answers.first_confidence:.4g} against {answers.second_confidence:.4g}): "
            "the same decisions with sharper probabilities read a smaller spectral norm, which alone misleads here; "
            "go by the peak norm and the margin radius"
        )
    if answers.first_accuracy is not None and answers.second_accuracy is not None:
        difference = answers.second_accuracy - answers.first_accuracy
        if abs(difference) >= ACCURACY_GAP:
            chance = "more than chance" if (answers.accuracy_p_value or 0) < 0.05 else "within chance"
            out.append(
                f"the accuracy differs ({answers.first_accuracy:.1%} against {answers.second_accuracy:.1%}, {chance} on "
                "these inputs, McNemar): a model that is wrong more often can still be less sensitive"
            )
    verdicts = {name: q.verdict for name, q in quantities.items()}
    if (
        verdicts["spectral_norm"] != "not told apart"
        and verdicts["peak_spectral_norm"] == verdicts["margin_radius"] == "not told apart"
    ):
        out.append(
            "only the spectral norm tells the two apart; the peak norm and the margin radius, which no rescaling of logits "
            "changes, do not: the difference is one of confidence, not of how far an input is from another answer"
        )
    if left_out > 0:
        out.append(f"{left_out} inputs of the data are left out, because a run failed on them or did not reach them")
    for key in ("lower", "upper", "quantum"):
        if first.report.domain.get(key) != second.report.domain.get(key):
            out.append(f"the two runs used different domains: {key} differs")
    if first.report.settings.get("mode") != second.report.settings.get("mode"):
        out.append("one run was white-box and the other black-box; both estimate the same quantities")
    return out


def run_names(runs: Sequence[RunFolder]) -> list[str]:
    """The models' names; where two are alike, each with the name of its folder."""
    names = [str(run.report.model.get("name")) for run in runs]
    return [f"{n} ({run.folder.name})" if names.count(n) > 1 else n for n, run in zip(names, runs, strict=True)]


def contradictions(runs: Sequence[RunFolder]) -> list[str]:
    """A sentence for each run whose integrity is contradicted: its numbers are not what they claim to be."""
    out = []
    for run, name in zip(runs, run_names(runs), strict=True):
        metrics = sorted({metric for check in run.report.contradicted for metric in check.metrics})
        if metrics:
            checks = ", ".join(check.name for check in run.report.contradicted)
            out.append(f"integrity of {name} is contradicted ({checks}): nothing is concluded from its {', '.join(metrics)}")
    return out


def _about(run: RunFolder, name: str) -> dict[str, Any]:
    report = run.report
    return {
        "name": name,
        "folder": str(run.folder),
        "sha256": report.model.get("details", {}).get("sha256"),
        "mode": report.settings.get("mode"),
        "queries": report.settings.get("queries"),
        "seed": report.settings.get("seed"),
    }
