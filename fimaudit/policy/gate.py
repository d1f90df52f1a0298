"""The verdict of a policy over a run: pass, fail or undecided, on one-sided confidence bounds. ``gate``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from fimaudit.comparison.two_runs import STREAM, check_same
from fimaudit.errors import UsageError
from fimaudit.policy.rules import (
    AccuracyRule,
    FlagRule,
    IntegrityRule,
    NotOkRule,
    Policy,
    QuantileRule,
    RatioRule,
    ShareBelowRule,
    read_policy,
)
from fimaudit.results import Interval, Presented, Sensitivity
from fimaudit.statistics.confidence import contrast_counts
from fimaudit.statistics.one_sided import Cells, mean_limit, quantile_limits, share_limits
from fimaudit.statistics.paired import column, quantile_ratio
from fimaudit.storage.run_folder import RunFolder, read_run

__all__ = ["Decision", "Outcome", "Verdict", "baseline_folder", "decide", "gate", "proposed_queries"]

Outcome = Literal["pass", "fail", "undecided"]
QUANTILES = {"median": 0.5, "p05": 0.05, "p95": 0.95, "min": 0.0, "max": 1.0}
#: A population quantile has finite limits at 95 % from this many inputs on.
FOR_QUANTILE = {"median": 6, "p05": 72, "p95": 72}
#: Queries are proposed up to this multiple of what was spent.
MOST_TIMES = 64.0
STEP = 1.25
#: Half-widths by which a ratio should clear its limit: 1.5 would decide four reruns in five if the ratio were certain.
DETECTING = 2.2
#: Runs drawn for each multiple, and the share of them that must be decided.
DRAWS, MOST = 40, 0.8
TOO_NEAR = f"not even {MOST_TIMES:.0f} times the queries would: the value is too near the limit, or too few inputs are known"
#: Adapter of the models that somebody else runs.
ENDPOINT = "http"
STATISTICS = {"p05": "5th percentile of the", "p95": "95th percentile of the", "min": "smallest", "max": "largest"}
WORDS = {"spectral_norm": "spectral norm", "peak_spectral_norm": "peak norm", "margin_radius": "margin radius"}


class Decision(BaseModel):
    """One rule on one selection of inputs.

    Attributes:
        value: the point value, which decides nothing.
        lower, upper: one-sided confidence bounds; ``bound`` is the one the rule passes on.
        queries: rows an input that would probably decide an undecided rule; ``None`` where no number of them would.
        sentence: what was asked, found and decided, in words.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    rule: str
    name: str
    selection: str
    inputs: int
    outcome: Outcome
    side: Literal["at most", "at least"]
    limit: float
    value: float | None
    lower: float | None
    upper: float | None
    bound: float | None
    queries: int | None = None
    sentence: str


class Verdict(Presented, BaseModel):
    """All decisions: fail if one fails, else undecided if one is, else pass."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal[1] = 1
    policy: str
    confidence: float
    outcome: Outcome
    baseline: dict[str, Any] | None = None
    decisions: list[Decision]
    warnings: list[str] = []

    def to_json(self) -> str:
        """The text of ``verdict.json``."""
        return self.model_dump_json(indent=1) + "\n"


def gate(folder: str | Path, policy: str | Path, *, baseline: str | Path | None = None) -> Verdict:
    """Decide a policy file over a run folder.

    Args:
        folder: the run.
        policy: YAML file.
        baseline: run folder for ``ratio`` rules, in place of the policy's own.

    Raises:
        UsageError: no run, a policy that is refused, a group or baseline that is not there.
    """
    checked = read_policy(policy)
    place = baseline_folder(checked, policy, baseline)
    return decide(read_run(folder), checked, None if place is None else read_run(place))


def baseline_folder(checked: Policy, policy: str | Path, baseline: str | Path | None) -> Path | None:
    """Where the baseline lies: the given folder, else the policy's own, relative to its file; ``None`` if none is needed."""
    if not checked.needs_baseline():
        return None
    if baseline is not None:
        return Path(baseline)
    if checked.baseline is None:
        raise UsageError("the policy has a ratio rule but names no baseline; give its run folder with --baseline")
    return Path(policy).parent / checked.baseline


def decide(run: RunFolder, policy: Policy, baseline: RunFolder | None = None) -> Verdict:
    """Decide a policy over a run that was read."""
    unit = str(run.report.domain.get("unit"))
    if policy.unit is not None and policy.unit != unit:
        raise UsageError(
            f"the policy is stated in {policy.unit!r}, the run in {unit!r}; audit with --unit and --scale to match"
        )
    decisions: list[Decision] = []
    for place, rule in enumerate(policy.rules):
        name = rule.name or f"rule {place + 1}"
        if isinstance(rule, RatioRule):
            if baseline is None:
                raise UsageError("the policy has a ratio rule, but no baseline run was given")
            check_same(baseline, run)
            found = _ratio(name, rule, run, baseline, policy.confidence)
            decisions.append(_withheld(found, rule.metric, run, baseline))
            continue
        if isinstance(rule, IntegrityRule):
            decisions.append(_integrity(name, run))
            continue
        for selection, inputs in _selections(run, rule.group, rule.label):
            found = _decision(name, rule, selection, inputs, run, policy.confidence)
            decisions.append(_withheld(found, _metric_of(rule), run))
    outcomes = {d.outcome for d in decisions}
    outcome: Outcome = "fail" if "fail" in outcomes else "undecided" if "undecided" in outcomes else "pass"
    about = None if baseline is None else {"name": baseline.report.model.get("name"), "folder": baseline.folder.name}
    return Verdict(
        policy=policy.name,
        confidence=policy.confidence,
        outcome=outcome,
        baseline=about,
        decisions=decisions,
        warnings=_unguarded(run, policy),
    )


def _unguarded(run: RunFolder, policy: Policy) -> list[str]:
    """That a vendor's endpoint is judged without a look at whether its answers can be believed."""
    if policy.checks_integrity or run.report.model.get("adapter") != ENDPOINT:
        return []
    return [
        "the run is of an endpoint, and the policy has no rule on integrity: answers can be made to look robust without a "
        "decision changing; add '- rule: integrity'"
    ]


def _metric_of(rule: Any) -> str | None:
    """The quantity that a rule decides on; ``None`` for other rules."""
    return "margin_radius" if isinstance(rule, ShareBelowRule) else getattr(rule, "metric", None)


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


def _integrity(name: str, run: RunFolder) -> Decision:
    """No check contradicted, and at least one made."""
    checks, against = run.report.integrity, run.report.contradicted
    made = [check for check in checks if check.outcome != "not_applicable"]
    outcome: Outcome = "fail" if against else "pass" if made else "undecided"
    if against:
        sentence = f"integrity contradicted: {'; '.join(f'{check.name}: {check.finding}' for check in against)}: fail"
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


def _selections(run: RunFolder, group: str | None, label: int | str | None) -> Iterator[tuple[str, list[Sensitivity]]]:
    """Each selection with its name. Unmeasured inputs belong to every one: nobody knows what they are."""
    inputs = list(run.inputs)
    if label is not None:
        names = run.report.model.get("class_names") or []
        wanted = names.index(str(label)) if str(label) in names else label
        inputs = [s for s in inputs if s.label == wanted]
        if not inputs:
            raise UsageError(f"the policy names label {label}, but the run has no input with it")
    words = [] if label is None else [f"label {label}"]
    if group is None:
        yield " and ".join(words) or "all inputs", inputs
        return
    names = sorted({s.group for s in run.inputs if s.group is not None})
    if not names:
        raise UsageError("the policy names groups, but the run has none; audit data that holds an array or column 'group'")
    if group != "*" and group not in names:
        raise UsageError(f"the policy names group {group!r}, but the run has {', '.join(names[:20])}")
    for name in names if group == "*" else [group]:
        chosen = [s for s in inputs if s.group == name]
        if chosen:
            yield " and ".join([f"group {name}", *words]), chosen


def _decision(
    name: str, rule: Any, selection: str, inputs: Sequence[Sensitivity], run: RunFolder, confidence: float
) -> Decision:
    missing, error = run.unmeasured, 1 - confidence
    miss = (1 - float(run.report.settings["confidence"])) / 2
    n, spent = len(inputs) + missing, int(run.report.settings["queries"])
    common = {"rule": rule.rule, "name": name, "selection": selection, "inputs": n}
    if isinstance(rule, QuantileRule):
        cells = cells_of(inputs, rule.metric, missing, miss)
        limit = rule.at_most if rule.at_most is not None else float(rule.at_least or 0)
        value = _point(cells, rule.statistic)
        lower, upper = _quantile(cells, rule, error)
        outcome = _outcome(lower, upper, rule.at_most, rule.at_least)
        queries = None
        if outcome == "undecided":
            queries = proposed_queries(
                cells, spent, lambda c: _outcome(*_quantile(c, rule, error), rule.at_most, rule.at_least)
            )
        what = f"{STATISTICS.get(rule.statistic, rule.statistic)} {WORDS[rule.metric]} of {_target(rule.of)}"
        tail = FOR_QUANTILE.get(rule.statistic, 0) if rule.of == "population" else 0
        hint = f"it needs at least {tail} inputs, got {n}" if n < tail else ""
        upward = rule.at_most is not None
        return _made(common, confidence, what, outcome, limit, value, lower, upper, upward, queries, hint)
    if isinstance(rule, ShareBelowRule):
        cells = cells_of(inputs, "margin_radius", missing, miss)
        known = cells.value[~np.isnan(cells.value)]
        value = float((known < rule.radius).mean()) if known.size else None
        lower, upper = _share_below(cells, rule, error)
        outcome = _outcome(lower, upper, rule.at_most, None)
        queries = None
        if outcome == "undecided":
            queries = proposed_queries(cells, spent, lambda c: _outcome(*_share_below(c, rule, error), rule.at_most, None))
        what = f"share with a margin radius below {rule.radius:g}, of {_target(rule.of)}"
        return _made(common, confidence, what, outcome, rule.at_most, value, lower, upper, True, queries, "")
    if isinstance(rule, AccuracyRule):
        right = [s.label == s.predicted_class for s in inputs if s.label is not None and s.status != "failed"]
        if not right:
            raise UsageError("the policy has an accuracy rule, but the run has no labels; audit data that holds y")
        wrong = right.count(False)
        low, high = share_limits(wrong, n - len(right), n, 0.0, error, population=rule.of == "population")
        outcome = _outcome(1 - high, 1 - low, None, rule.at_least)
        value = sum(right) / len(right)
        hint = "more labelled inputs would decide it" if rule.of == "population" else "some inputs are not measured"
        what = f"accuracy on {_target(rule.of)}"
        return _made(common, confidence, what, outcome, rule.at_least, value, 1 - high, 1 - low, False, None, hint)
    if isinstance(rule, FlagRule):
        there = [s for s in inputs if s.status != "failed"]
        found, what = sum(rule.flag in s.flags for s in there), f"share of inputs flagged {rule.flag}"
        lower, upper = found / n, (found + missing + len(inputs) - len(there)) / n  # failing must not help to pass
    else:
        assert isinstance(rule, NotOkRule)
        found, what = sum(s.status != "ok" for s in inputs) + missing, "share of inputs that are not ok"
        lower = upper = found / n
    outcome = _outcome(lower, upper, rule.at_most, None)
    hint = "some inputs are not measured"
    return _made(common, confidence, what, outcome, rule.at_most, found / n, lower, upper, True, None, hint)


def _ratio(name: str, rule: RatioRule, run: RunFolder, baseline: RunFolder, confidence: float) -> Decision:
    """Inputs that failed, in either run, are unknown rather than left out: failing must not help to pass."""
    there = {s.index: s for s in baseline.inputs}
    here = {s.index: s for s in run.inputs}
    total = max(int(run.report.data.get("inputs", 0)), len(here))
    indices = sorted({*there, *here}) + [-1] * (total - len({*there, *here}))
    sides = []
    for inputs, report in ((there, baseline.report), (here, run.report)):
        cells = [_known(inputs[i], rule.metric) if i in inputs else Interval() for i in indices]
        sides.append(column(cells, float(report.settings["confidence"])))
    rng = np.random.Generator(np.random.Philox(key=np.array([STREAM + 1, total], dtype=np.uint64)))
    two_sided = 2 * confidence - 1
    population = rule.of == "population"
    p = QUANTILES[rule.statistic]
    found = quantile_ratio(sides[0], sides[1], p, two_sided, rng, population=population)
    lower, upper = found.lower or 0.0, np.inf if found.upper is None else found.upper
    outcome = _outcome(lower, upper, rule.at_most, rule.at_least)
    limit = rule.at_most if rule.at_most is not None else float(rule.at_least or 0)
    queries = None
    if outcome == "undecided" and not population and found.value and np.isfinite(upper) and lower > 0:
        gap = abs(np.log(limit / found.value))
        half = np.log(upper / found.value) if found.value < limit else np.log(found.value / lower)
        times = (DETECTING * half / gap) ** 2 if gap > 0 else np.inf
        queries = _more(int(run.report.settings["queries"]), float(times)) if times <= MOST_TIMES else None
    common = {"rule": rule.rule, "name": name, "selection": "all inputs", "inputs": len(indices)}
    statistic = STATISTICS.get(rule.statistic, rule.statistic)
    what = f"{statistic} {WORDS[rule.metric]} of {_target(rule.of)}, divided by the baseline's"
    upward = rule.at_most is not None
    return _made(common, confidence, what, outcome, limit, found.value, lower, upper, upward, queries, "")


def cells_of(inputs: Sequence[Sensitivity], metric: str, missing: int, miss: float) -> Cells:
    """One quantity as arrays, with ``missing`` inputs of which nothing is known."""
    every = [*(_known(s, metric) for s in inputs), *[Interval()] * missing]
    return Cells(
        np.array([np.nan if c.value is None else c.value for c in every]),
        np.array([0.0 if c.lower is None else c.lower for c in every]),
        np.array([np.inf if c.upper is None else c.upper for c in every]),
        miss,
        np.append(contrast_counts(inputs), np.zeros(missing, dtype=np.int64)),
        metric != "margin_radius",
    )


def _known(result: Sensitivity, metric: str) -> Interval:
    """What a decision may use of one input: of one that is not ok, nothing, whatever its limits say."""
    found = getattr(result, metric) if result.status == "ok" else Interval()
    assert isinstance(found, Interval)
    return found


def _quantile(cells: Cells, rule: QuantileRule, error: float) -> tuple[float, float]:
    if rule.statistic == "mean":
        return mean_limit(cells) if cells.miss <= error * (1 + 1e-9) else (0.0, np.inf)
    return quantile_limits(cells, QUANTILES[rule.statistic], error, population=rule.of == "population")


def _share_below(cells: Cells, rule: ShareBelowRule, error: float) -> tuple[float, float]:
    below = int((cells.upper < rule.radius).sum())
    crossing = int((cells.lower < rule.radius).sum()) - below
    return share_limits(below, crossing, len(cells), cells.miss, error, population=rule.of == "population")


def _point(cells: Cells, statistic: str) -> float | None:
    if np.isnan(cells.value).any():
        middle = np.where(np.isnan(cells.value), np.nan, cells.value)
        known = middle[~np.isnan(middle)]
        if known.size < len(cells) / 2:
            return None
        return float(known.mean() if statistic == "mean" else np.quantile(known, QUANTILES[statistic]))
    return float(cells.value.mean() if statistic == "mean" else np.quantile(cells.value, QUANTILES[statistic]))


def _outcome(lower: float, upper: float, at_most: float | None, at_least: float | None) -> Outcome:
    if at_most is not None:
        return "pass" if upper <= at_most else "fail" if lower > at_most else "undecided"
    assert at_least is not None
    return "pass" if lower >= at_least else "fail" if upper < at_least else "undecided"


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
    return _more(queries, float(ladder[first]))


def _more(queries: int, times: float) -> int:
    return int(np.ceil(queries * times / 10) * 10)


def _target(of: str) -> str:
    return "these inputs" if of == "these_inputs" else "the population"


def _made(
    common: dict[str, Any],
    confidence: float,
    what: str,
    outcome: Outcome,
    limit: float,
    value: float | None,
    lower: float,
    upper: float,
    upward: bool,
    queries: int | None,
    hint: str,
) -> Decision:
    bound = upper if upward else lower
    ends = [float(v) if v is not None and np.isfinite(v) else None for v in (value, lower, upper, bound)]
    shown = ["unknown" if v is None else f"{v:.4g}" for v in ends]
    side = "at most" if upward else "at least"
    sure = f"{100 * confidence:g} % bound"
    known = f"{what}: {shown[0]}" if lower == upper == value else f"{what}: {shown[0]}, {side} {shown[3]} ({sure})"
    sentence = f"{known}; required {side} {limit:g}: {outcome}"
    if outcome == "fail":
        other = shown[1] if upward else shown[2]
        sentence = f"{what}: {shown[0]}, {'above' if upward else 'below'} {other} ({sure}); required {side} {limit:g}: fail"
    elif outcome == "undecided":
        spent = f"about {queries} queries an input would probably decide it" if queries else TOO_NEAR
        sentence += f"; {hint or spent}"
    return Decision(
        **common,
        outcome=outcome,
        side="at most" if upward else "at least",
        limit=limit,
        value=ends[0],
        lower=ends[1],
        upper=ends[2],
        bound=ends[3],
        queries=queries,
        sentence=sentence,
    )
