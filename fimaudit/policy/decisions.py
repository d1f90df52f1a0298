"""How each kind of rule is decided over the inputs that it selects, on one-sided confidence bounds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from fimaudit.comparison.two_runs import STREAM
from fimaudit.errors import UsageError
from fimaudit.policy.proposals import MOST_TIMES, proposed_queries, queries_for_ratio
from fimaudit.policy.rules import (
    AccuracyRule,
    FlagRule,
    NotOkRule,
    QuantileRule,
    RatioRule,
    SelectedRule,
    ShareBelowRule,
)
from fimaudit.policy.verdict import Decision, Outcome, Side
from fimaudit.policy.words import quantity_words, target_words
from fimaudit.results import Interval, Sensitivity
from fimaudit.statistics.columns import IntervalArray
from fimaudit.statistics.confidence import contrast_counts
from fimaudit.statistics.one_sided import FOR_MEDIAN, FOR_TAIL, Cells, mean_limit, quantile_limits, share_limits
from fimaudit.statistics.paired import column, quantile_ratio
from fimaudit.storage.run_folder import RunFolder

__all__ = ["cells_of", "decide_integrity", "decide_ratio", "decide_rule"]

#: Checks whose contradiction says that the numbers do not hold, which an honest model may be the reason of.
NUMBERS_ONLY = frozenset(("slope", "radius", "ceiling"))

#: Flags that say which side of a limit a quantity was decided to lie on.
DECIDED_FLAGS = {"above_threshold": "spectral_norm", "below_threshold": "spectral_norm"}
QUANTILES = {"median": 0.5, "p05": 0.05, "p95": 0.95, "min": 0.0, "max": 1.0}
#: From how many inputs on a population quantile has finite limits at 95 %.
FOR_QUANTILE = {"median": FOR_MEDIAN, "p05": FOR_TAIL, "p95": FOR_TAIL}
TOO_NEAR = f"not even {MOST_TIMES:.0f} times the queries would: the value is too near the limit, or too few inputs are known"
UNMEASURED = "some inputs are not measured"


@dataclass(frozen=True)
class _Question:
    """One rule over one selection of inputs, some of which nobody measured.

    Attributes:
        name: of the rule, for people.
        selection: which inputs, in words.
        inputs: those of them that were measured.
        run: where they are from.
        confidence: of each one-sided bound.
    """

    name: str
    selection: str
    inputs: Sequence[Sensitivity]
    run: RunFolder
    confidence: float

    @property
    def error(self) -> float:
        """Of each bound."""
        return 1 - self.confidence

    @property
    def count(self) -> int:
        """Inputs, the unmeasured ones included: nobody knows what they are."""
        return len(self.inputs) + self.run.unmeasured

    @property
    def spent(self) -> int:
        """Queries an input."""
        return int(self.run.report.settings["queries"])

    def cells(self, metric: str) -> Cells:
        """One quantity of the inputs."""
        miss = (1 - float(self.run.report.settings["confidence"])) / 2
        return cells_of(self.inputs, metric, self.run.unmeasured, miss)


@dataclass(frozen=True)
class _Found:
    """What a rule asks about, as far as it is known.

    Attributes:
        what: it is, in words.
        value: the point value, which decides nothing.
        lower, upper: one-sided bounds.
        side, limit: on which side of what number it must stay.
        queries: rows an input that would probably decide it.
        hint: what else would.
    """

    what: str
    value: float | None
    lower: float
    upper: float
    side: Side
    limit: float
    queries: int | None = None
    hint: str = ""

    @property
    def outcome(self) -> Outcome:
        """By the bounds alone."""
        return _outcome(self.lower, self.upper, self.side, self.limit)


def decide_rule(
    name: str, rule: SelectedRule, selection: str, inputs: Sequence[Sensitivity], run: RunFolder, confidence: float
) -> Decision:
    """Decide a rule about one run over the inputs that it selects.

    Args:
        name: of the rule, for people.
        rule: what is asked.
        selection: which inputs, in words.
        inputs: the measured ones among them.
        run: where they are from.
        confidence: of each one-sided bound.

    Raises:
        UsageError: an accuracy rule over a run without labels.
    """
    asked = _Question(name, selection, inputs, run, confidence)
    metric: str | None = None
    if isinstance(rule, QuantileRule):
        metric, found = rule.metric, _quantile(asked, rule)
    elif isinstance(rule, ShareBelowRule):
        metric, found = "margin_radius", _share_below(asked, rule)
    elif isinstance(rule, AccuracyRule):
        found = _accuracy(asked, rule)
    elif isinstance(rule, FlagRule):
        metric, found = DECIDED_FLAGS.get(rule.flag), _flagged(asked, rule)
    else:
        found = _not_ok(asked, rule)
    return _withheld(_decision(rule.rule, asked, found), metric, run)


def _quantile(asked: _Question, rule: QuantileRule) -> _Found:
    cells, population = asked.cells(rule.metric), rule.of == "population"

    def bounds(c: Cells) -> tuple[float, float]:
        if rule.statistic == "mean":
            return mean_limit(c) if c.miss <= asked.error * (1 + 1e-9) else (0.0, np.inf)
        return quantile_limits(c, QUANTILES[rule.statistic], asked.error, population=population)

    lower, upper = bounds(cells)
    tail = FOR_QUANTILE.get(rule.statistic, 0) if population else 0
    return _Found(
        f"{quantity_words(rule.statistic, rule.metric)} of {target_words(rule.of)}",
        _point(cells, rule.statistic),
        lower,
        upper,
        *rule.limit,
        _proposed(asked, cells, bounds, *rule.limit),
        f"it needs at least {tail} inputs, got {asked.count}" if asked.count < tail else "",
    )


def _share_below(asked: _Question, rule: ShareBelowRule) -> _Found:
    cells = asked.cells("margin_radius")

    def bounds(c: Cells) -> tuple[float, float]:
        below = int((c.upper < rule.radius).sum())
        crossing = int((c.lower < rule.radius).sum()) - below
        return share_limits(below, crossing, len(c), c.miss, asked.error, population=rule.of == "population")

    known = cells.value[~np.isnan(cells.value)]
    value = float((known < rule.radius).mean()) if known.size else None
    what = f"share with a margin radius below {rule.radius:g}, of {target_words(rule.of)}"
    proposed = _proposed(asked, cells, bounds, "at most", rule.at_most)
    return _Found(what, value, *bounds(cells), "at most", rule.at_most, proposed)


def _accuracy(asked: _Question, rule: AccuracyRule) -> _Found:
    right = [s.label == s.predicted_class for s in asked.inputs if s.label is not None and s.status != "failed"]
    if not right:
        raise UsageError("the policy has an accuracy rule, but the run has no labels; audit data that holds y")
    wrong, n, population = right.count(False), asked.count, rule.of == "population"
    low, high = share_limits(wrong, n - len(right), n, 0.0, asked.error, population=population)
    if population:
        what, hint = "accuracy on the population", "more labelled inputs would decide it"
    else:
        what, hint = f"accuracy on these {n} inputs alone", UNMEASURED
    return _Found(what, sum(right) / len(right), 1 - high, 1 - low, "at least", rule.at_least, None, hint)


def _flagged(asked: _Question, rule: FlagRule) -> _Found:
    there = [s for s in asked.inputs if s.status != "failed"]
    n, found = asked.count, sum(rule.flag in s.flags for s in there)
    most = (found + n - len(there)) / n  # failing must not help to pass
    return _Found(
        f"share of inputs flagged {rule.flag}", found / n, found / n, most, "at most", rule.at_most, None, UNMEASURED
    )


def _not_ok(asked: _Question, rule: NotOkRule) -> _Found:
    share = (sum(s.status != "ok" for s in asked.inputs) + asked.run.unmeasured) / asked.count
    return _Found("share of inputs without a full measurement", share, share, share, "at most", rule.at_most)


def decide_ratio(name: str, rule: RatioRule, run: RunFolder, baseline: RunFolder, confidence: float) -> Decision:
    """Decide a rule about a run beside its baseline.

    Inputs that failed, in either run, are unknown rather than left out: failing must not help to pass.
    """
    baselines = {s.index: s for s in baseline.inputs}
    candidates = {s.index: s for s in run.inputs}
    total = max(int(run.report.data.get("inputs", 0)), len(candidates))
    indices = sorted({*baselines, *candidates}) + [-1] * (total - len({*baselines, *candidates}))
    sides = []
    for inputs, report in ((baselines, baseline.report), (candidates, run.report)):
        cells = [_known(inputs[i], rule.metric) if i in inputs else Interval() for i in indices]
        sides.append(column(cells, float(report.settings["confidence"])))
    rng = np.random.Generator(np.random.Philox(key=np.array([STREAM + 1, total], dtype=np.uint64)))
    population, p = rule.of == "population", QUANTILES[rule.statistic]
    ratio = quantile_ratio(sides[0], sides[1], p, 2 * confidence - 1, rng, population=population)
    lower, upper = ratio.lower or 0.0, np.inf if ratio.upper is None else ratio.upper
    side, limit = rule.limit
    asked = _Question(name, "all inputs", run.inputs, run, confidence)
    what = f"{quantity_words(rule.statistic, rule.metric)} of {target_words(rule.of)}, divided by the baseline's"
    queries = None if population else queries_for_ratio(ratio.value, lower, upper, limit, asked.spent)
    found = _Found(what, ratio.value, lower, upper, side, limit, queries)
    decision = _decision(rule.rule, asked, found).model_copy(update={"inputs": len(indices)})
    return _withheld(decision, rule.metric, run, baseline)


def decide_integrity(name: str, run: RunFolder) -> Decision:
    """Decide that no check is contradicted, and at least one made; undecided where only numbers are shown not to hold."""
    checks, against = run.report.integrity, run.report.contradicted
    made = [check for check in checks if check.outcome != "not_applicable"]
    outcome: Outcome = "pass" if made and not against else "undecided"
    if against:
        outcome = "undecided" if NUMBERS_ONLY.issuperset(check.name for check in against) else "fail"
        sentence = f"integrity contradicted: {'; '.join(f'{check.name}: {check.finding}' for check in against)}: {outcome}"
    elif made:
        sentence = f"integrity: {len(made)} of {len(checks)} checks made, none contradicted: pass"
    else:
        why = "none of the checks applies to the run" if checks else "the run was not checked; audit again with --integrity"
        sentence = f"integrity unknown: {why}: undecided"
    count = float(len(against)) if made else None
    return Decision(
        rule="integrity",
        name=name,
        selection="all inputs",
        inputs=len(run.inputs),
        outcome=outcome,
        side="at most",
        limit=0.0,
        value=count,
        lower=count,
        upper=count,
        bound=count,
        sentence=sentence,
    )


def _withheld(decision: Decision, metric: str | None, *runs: RunFolder) -> Decision:
    """Undecided where an integrity check of a run contradicts the quantity."""
    against = sorted({check.name for run in runs for check in run.report.contradicted if metric in check.metrics})
    if not against:
        return decision
    found = decision.sentence.partition("; required")[0]
    sentence = (
        f"{found}; required {decision.side} {decision.limit:g}: undecided, because integrity is contradicted "
        f"({', '.join(against)}), which no number of queries changes"
    )
    return decision.model_copy(update={"outcome": "undecided", "queries": None, "sentence": sentence})


def cells_of(inputs: Sequence[Sensitivity], metric: str, missing: int, miss: float) -> Cells:
    """One quantity as arrays, with ``missing`` inputs of which nothing is known."""
    every = IntervalArray.of([*(_known(s, metric) for s in inputs), *[Interval()] * missing])
    counts = np.append(contrast_counts(inputs), np.zeros(missing, dtype=np.int64))
    return Cells(every.value, every.lower, every.upper, miss, counts, metric != "margin_radius")


def _known(result: Sensitivity, metric: str) -> Interval:
    """What a decision may use of one input: of one that is not ok, nothing, whatever its limits say."""
    found = getattr(result, metric) if result.status == "ok" else Interval()
    assert isinstance(found, Interval)
    return found


def _point(cells: Cells, statistic: str) -> float | None:
    """Of the inputs whose value is known; ``None`` where those are fewer than half."""
    known = cells.value[~np.isnan(cells.value)]
    if known.size < len(cells) / 2:
        return None
    return float(known.mean() if statistic == "mean" else np.quantile(known, QUANTILES[statistic]))


def _outcome(lower: float, upper: float, side: Side, limit: float) -> Outcome:
    if side == "at most":
        return "pass" if upper <= limit else "fail" if lower > limit else "undecided"
    return "pass" if lower >= limit else "fail" if upper < limit else "undecided"


def _proposed(
    asked: _Question, cells: Cells, bounds: Callable[[Cells], tuple[float, float]], side: Side, limit: float
) -> int | None:
    """Queries an input that would decide a rule, where its bounds do not."""
    if _outcome(*bounds(cells), side, limit) != "undecided":
        return None
    return proposed_queries(cells, asked.spent, lambda c: _outcome(*bounds(c), side, limit))


def _decision(rule: str, asked: _Question, found: _Found) -> Decision:
    outcome = found.outcome
    queries = found.queries if outcome == "undecided" else None
    bound = found.upper if found.side == "at most" else found.lower
    ends = [float(v) if v is not None and np.isfinite(v) else None for v in (found.value, found.lower, found.upper, bound)]
    return Decision(
        rule=rule,
        name=asked.name,
        selection=asked.selection,
        inputs=asked.count,
        outcome=outcome,
        side=found.side,
        limit=found.limit,
        value=ends[0],
        lower=ends[1],
        upper=ends[2],
        bound=ends[3],
        queries=queries,
        sentence=_sentence(found, outcome, queries, asked.confidence),
    )


def _sentence(found: _Found, outcome: Outcome, queries: int | None, confidence: float) -> str:
    """What was asked, found and decided."""
    value, lower, upper = (
        "unknown" if v is None or not np.isfinite(v) else f"{v:.4g}" for v in (found.value, found.lower, found.upper)
    )
    level, upward = f"{100 * confidence:g} % bound", found.side == "at most"
    if found.lower == found.upper == found.value:
        known = value
    elif outcome == "fail":
        known = f"{value}, {'above' if upward else 'below'} {lower if upward else upper} ({level})"
    else:
        known = f"{value}, {found.side} {upper if upward else lower} ({level})"
    sentence = f"{found.what}: {known}; required {found.side} {found.limit:g}: {outcome}"
    if outcome != "undecided":
        return sentence
    spent = f"about {queries} queries an input would probably decide it" if queries else TOO_NEAR
    return f"{sentence}; {found.hint or spent}"
