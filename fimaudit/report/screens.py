"""What ``print`` and a notebook show of a report, an input, a comparison and a verdict."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from functools import singledispatch

from fimaudit.audit_report import Report
from fimaudit.comparison.two_runs import Comparison
from fimaudit.errors.option_names import COMMAND_LINE, caller
from fimaudit.policy.formats import OUTCOME_WORDS
from fimaudit.policy.gate import Decision, Verdict
from fimaudit.report import charts
from fimaudit.report.answer import Answer, Headline, NextStep, answer_of
from fimaudit.report.drawing import Chart
from fimaudit.report.screen import Screen, bar, histogram
from fimaudit.report.wording import STATUS_WORDS, abbreviated, interval_text, number, percent
from fimaudit.results import FLAG_WORDS, QUANTITY_NAMES, QUANTITY_TITLES, Interval, Sensitivity
from fimaudit.storage.run_folder import is_run, run_of

__all__ = ["screen_of"]

TITLES = dict(reversed(QUANTITY_TITLES.items()))
#: Decisions and warnings that fit a screen.
MOST_ROWS = 12


@singledispatch
def screen_of(thing: object) -> Screen:
    """The screen of a thing that has one."""
    raise TypeError(f"nothing is known to show of {type(thing).__name__}")


@screen_of.register
def _(report: Report) -> Screen:
    run = run_of(report, whole=False)
    answer = answer_of(report, run.inputs)
    unit = str(report.domain["unit"])
    radii = [s.margin_radius.value for s in run.inputs if s.margin_radius.value]
    blocks = histogram(radii)
    plot = [f"margin radius of the inputs: {number(min(radii))} {blocks} {number(max(radii))}"] if blocks else []

    def chart() -> Chart | None:
        return charts.distribution_chart("margin_radius", [s.margin_radius for s in run.inputs], unit)

    return Screen(
        title=answer.audited,
        sentences=[answer.found],
        rows=answer.headlines,
        notes=_notes(answer, report),
        plot=plot,
        chart=chart,
        steps=answer.steps,
    )


def _notes(answer: Answer, report: Report) -> list[tuple[str, str]]:
    found = [("not measured", sentence) for sentence in answer.unmeasured]
    found.append(("integrity", answer.integrity.removeprefix("integrity: ")))
    return found + [("warning", w) for w in report.warnings][:MOST_ROWS]


@screen_of.register
def _(s: Sensitivity) -> Screen:
    answered = "no answer" if s.predicted_class is None else f"class {s.predicted_class}"
    sure = "" if s.probability is None else f", {percent(s.probability)} sure"
    wrong = "" if s.label is None or s.label == s.predicted_class else f" (label: class {s.label})"
    cells = [(name, getattr(s, name)) for name in reversed(QUANTITY_NAMES)]
    known = _known(c for _, c in cells)
    ends = (min(known) / 1.5, max(known) * 1.5) if known else (0.1, 10.0)

    def chart() -> Chart | None:
        axis, drawn = "radius in units, norms in 1 / unit²", [(TITLES[name], c) for name, c in cells]
        return charts.interval_chart("fig-input", f"Input {s.index}", axis, drawn, ["quantity", "value", ""])

    reason = STATUS_WORDS.get(s.status, s.status) if s.reason is None else f"{s.status}: {s.reason}"
    return Screen(
        title=f"Input {s.index}: {answered}{sure}{wrong}",
        sentences=[reason if s.status != "ok" else f"measured with {s.queries:,} queries ({s.method})"],
        rows=[Headline(TITLES[name], number(c.value), interval_text(c)) for name, c in cells],
        notes=[(flag, FLAG_WORDS.get(flag, "")) for flag in s.flags],
        plot=[f"{TITLES[name]:14} {bar(c, *ends)}" for name, c in cells if c.value],
        chart=chart,
    )


@screen_of.register
def _(c: Comparison) -> Screen:
    ratios = {name: c.quantities[name].ratios["median"].these_inputs for name in TITLES if name in c.quantities}
    reach = _farthest_from_one(ratios.values())

    def chart() -> Chart | None:
        title, drawn = "Second model divided by the first, medians", [(TITLES[name], r) for name, r in ratios.items()]
        return charts.interval_chart("fig-ratios", title, "ratio of medians", drawn, ["quantity", "ratio", ""], mark=1.0)

    rows = [
        Headline(TITLES[name], f"× {number(r.value)}", f"{c.quantities[name].verdict}; ratio of medians {interval_text(r)}")
        for name, r in ratios.items()
    ]
    radius = c.quantities.get("margin_radius")
    second, first = c.second.get("name"), c.first.get("name")
    relation = (
        "cannot be told apart from" if radius is None or radius.verdict == "not told apart" else f"is {radius.verdict} than"
    )
    accuracy = []
    if c.answers.first_accuracy is not None:
        shares = f"{percent(c.answers.first_accuracy)} and {percent(c.answers.second_accuracy)}"
        says = f"first and second; McNemar p = {number(c.answers.accuracy_p_value)}"
        accuracy = [Headline("right answers", shares, says)]
    return Screen(
        title=f"{second} against {first}, on {c.inputs:,} inputs both were measured at",
        sentences=[
            f"By the distance to another answer, {second} {relation} {first}, at {percent(c.confidence)} confidence."
        ],
        rows=[*rows, *accuracy],
        notes=[("warning", w) for w in c.warnings][:MOST_ROWS],
        plot=[f"{TITLES[name]:14} {bar(r, 1 / reach, reach, 1.0)}" for name, r in ratios.items() if r.value],
        chart=chart,
        steps=_after_comparing(c),
    )


def _after_comparing(c: Comparison) -> list[NextStep]:
    folders = [str(side.get("folder")) for side in (c.first, c.second)]
    if not all(is_run(folder) for folder in folders):
        return []
    first, second = map(shlex.quote, folders)
    made = f"fimaudit gate --init {first} > policy.yaml"
    if caller() == COMMAND_LINE:
        decide = f"fimaudit gate {second} --policy policy.yaml --baseline {first}"
        return [NextStep("make a policy of the first", made), NextStep("decide it on the second", decide)]
    decide = f'print(fimaudit.gate("{folders[1]}", "policy.yaml", baseline="{folders[0]}"))'
    return [NextStep("make a policy of the first, in a shell", made), NextStep("decide it on the second", decide)]


@screen_of.register
def _(v: Verdict) -> Screen:
    shares = [(d.title, _within(d)) for d in v.decisions[:MOST_ROWS] if d.limit > 0 and d.value]

    def chart() -> Chart | None:
        title, axis = "How far each value is within its limit", "right of the line: within the limit"
        return charts.interval_chart("fig-rules", title, axis, shares, ["rule", "times within", ""], mark=1.0)

    reach = _farthest_from_one(c for _, c in shares)
    counts = ", ".join(
        f"{n} {outcome}" for outcome in OUTCOME_WORDS if (n := sum(d.outcome == outcome for d in v.decisions))
    )
    return Screen(
        title=f"{v.outcome.upper()}: {OUTCOME_WORDS[v.outcome]} “{v.policy}”",
        sentences=[f"{len(v.decisions)} decisions ({counts}), each on its one-sided {percent(v.confidence)} bound."],
        notes=[
            *((d.outcome, f"{d.title}: {d.sentence}") for d in v.decisions[:MOST_ROWS]),
            *(("warning", w) for w in v.warnings),
        ],
        plot=[f"{abbreviated(name, 24):24} {bar(c, 1 / reach, reach, 1.0)}" for name, c in shares],
        chart=chart,
    )


def _known(cells: Iterable[Interval]) -> list[float]:
    """Values and limits, as far as they are there."""
    return [v for c in cells for v in (c.value, c.lower, c.upper) if v]


def _farthest_from_one(ratios: Iterable[Interval]) -> float:
    """The reach of an axis around 1: twofold at least."""
    return max([2.0, *(max(v, 1 / v) for v in _known(ratios))])


def _within(d: Decision) -> Interval:
    """How many times within its limit a value lies, whichever side the limit is on: above 1 is kept."""
    if d.side == "at least":
        return Interval(**{name: None if x is None else x / d.limit for name, x in _ends(d).items()})
    value, upper, lower = ((d.limit / x if x else None) for x in _ends(d).values())
    return Interval(value=value, lower=lower, upper=upper)


def _ends(decision: Decision) -> dict[str, float | None]:
    return {name: getattr(decision, name) for name in ("value", "lower", "upper")}
