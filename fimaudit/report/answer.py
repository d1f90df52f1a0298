"""The answer of an audit: what page, terminal and ``print`` open with."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fimaudit.audit_report import Report
from fimaudit.errors.option_names import COMMAND_LINE, caller, with_keywords
from fimaudit.report import wording
from fimaudit.report.wording import interval_text, number, percent, share_text
from fimaudit.results import FLAG_WORDS, Interval, Sensitivity

if TYPE_CHECKING:
    from fimaudit.policy.gate import Verdict

__all__ = ["Answer", "Headline", "NextStep", "answer_of", "flag_sentences"]

#: Yardsticks of a distance in the order in which one stands beside the headline: asked for, then found.
ORDER = ("baseline", "noise", "linear_model", "another_class", "most_common_class")
SMALL = "small change"


@dataclass(frozen=True)
class Headline:
    """One number, what it says, and what it can be compared with.

    Attributes:
        title: what is measured.
        value: in the input's own unit, or a share.
        says: the number in a sentence, with its interval.
        yardstick: beside what it can be read; empty where nothing is known.
        more: the other yardsticks.
        label: how the yardstick relates to the value.
    """

    title: str
    value: str
    says: str = ""
    yardstick: str = ""
    more: tuple[str, ...] = ()
    label: str = "compared with"


@dataclass(frozen=True)
class NextStep:
    """What to do next, and the command, to be pasted."""

    words: str
    command: str = ""


@dataclass(frozen=True)
class Answer:
    """What an audit found, for people.

    Attributes:
        audited: what was audited, and from how many rows.
        found: what was found, in a sentence.
        headlines: the numbers behind it, each beside a yardstick.
        unmeasured: what was not measured, and why.
        integrity: what the checks of the answers found.
        contradicted: whether they contradict the numbers.
        steps: what to do next.
    """

    audited: str
    found: str
    headlines: list[Headline]
    unmeasured: list[str]
    integrity: str
    contradicted: bool
    steps: list[NextStep]


def answer_of(
    report: Report, inputs: Sequence[Sensitivity] = (), verdict: Verdict | None = None, *, page: bool = False
) -> Answer:
    """The answer of a report.

    Args:
        report: the report.
        inputs: its inputs, where its own list is empty.
        verdict: of a policy, where one was decided.
        page: it stands on the page, which is the same wherever its folder lies.
    """
    shown = report.inputs or list(inputs)
    headlines = [h for h in (_distance(report), _moved(report), _right(report)) if h is not None]
    return Answer(
        audited=_audited(report),
        found=_found(report),
        headlines=headlines,
        unmeasured=_unmeasured(report, shown),
        integrity=wording.integrity_sentence(report),
        contradicted=bool(report.contradicted),
        steps=_next_steps(report, verdict, page=page),
    )


def flag_sentences(report: Report, flags: Sequence[tuple[str, int]]) -> list[tuple[str, str]]:
    """(flag, how many inputs carry it and what it means) of flags with their counts."""
    measured = int(report.data.get("measured", 0))
    return [
        (flag, f"{count:,} of {measured:,} inputs: {FLAG_WORDS.get(flag, 'no words are known for this flag')}")
        for flag, count in flags
    ]


def _audited(report: Report) -> str:
    model, data = report.model, report.data
    how = {"white-box": "by its derivatives"}.get(report.settings["mode"], "from its probabilities alone")
    if report.settings.get("link") == "labels":
        how = "from its labels alone"
    rows = f"{report.summary.queries:,} rows sent to it"
    return (
        f"{model.get('name')} ({model.get('classes')} classes, {report.domain['features']:,} features) was audited {how}, "
        f"at {data.get('measured', 0):,} of {data.get('inputs', 0):,} inputs, with {rows}."
    )


def _found(report: Report) -> str:
    """The margin radius in words, or what else is known."""
    radius, unit = report.summary.margin_radius, str(report.domain["unit"])
    smooth = report.settings.get("smooth")
    if smooth is not None:
        reach = [s.smoothed.radius for s in report.inputs if s.smoothed is not None and s.smoothed.radius is not None]
        return (
            f"Of the model itself nothing is said: the classifier that answers by majority under noise of {number(smooth)} "
            f"({unit}) is certified at {len(reach)} of {len(report.inputs)} inputs."
        )
    if radius.median.value is None:
        if radius.median.lower:
            return f"For half of these inputs, no other answer was found within {number(radius.median.lower)} ({unit})."
        return "For half of these inputs it is not known how far another answer is."
    weakest = ""
    if radius.p05.value is not None:
        weakest = f"; for the most fragile 5% of them, {number(radius.p05.value)} or less is enough"
    change = wording.named_change(report)
    labels = report.settings.get("link") == "labels"
    how = ", by the plane that touches the decision boundary" if labels else " and to first order"
    alike = f"; as much as {number(radius.median.value / change.length)} {change.times}" if change.times else ""
    return (
        f"Half of these inputs get another answer after a change of total length {number(radius.median.value)} or less "
        f"(unit: {unit}{alike}), in the worst direction{how}{weakest}."
    )


def _distance(report: Report) -> Headline | None:
    cell, unit = report.summary.margin_radius.median, str(report.domain["unit"])
    title = "Distance to another answer"
    if cell.value is None and not cell.lower:
        return None
    if cell.value is None:
        return Headline(title, f"≥ {number(cell.lower)}", f"for half of the inputs; more is not known ({unit})")
    beside = []
    change = wording.named_change(report)
    for y in sorted(report.yardsticks, key=lambda y: ORDER.index(y.name)):
        if y.distance:
            times = cell.value / y.distance
            if y.name == "noise":
                beside.append(f"{number(times)} × {y.words} ({number(y.distance)})")
            elif y.name == "another_class":
                beside.append(f"{y.words} lies at {number(y.distance)}, {number(1 / times)} × as far (median)")
            else:
                beside.append(f"{y.words}: {number(y.distance)}; this is {number(times)} × that")
    if change.times and not beside:
        beside.append(f"as much as {number(cell.value / change.length)} {change.times}")
    says = f"median; interval {interval_text(cell)}; unit: {unit}"
    return Headline(title, number(cell.value), says, beside[0] if beside else "", tuple(beside[1:]))


def _moved(report: Report) -> Headline | None:
    """How much probability a change that people can picture moves at most."""
    norms = report.summary.spectral_norm
    change = wording.named_change(report)
    noise = next((y for y in report.yardsticks if y.name == "noise" and y.distance), None)
    if noise is not None and noise.distance is not None:
        change = wording.NamedChange(noise.words, noise.distance)
    moved = wording.moved_share(norms.median, change)
    title, of_what = "Probability that a small change moves", change.words.removeprefix("a change of ")
    if moved.value is None and moved.upper is None:
        return None
    if moved.value is None:
        says = "at most, for half of the inputs; more is not known"
        return Headline(title, f"≤ {percent(moved.upper)}", says, of_what, label=SMALL)
    says = f"at most, in the worst direction and to first order; median, interval {share_text(moved)}"
    top = wording.moved_share(norms.p95, change)
    beside, label = of_what, SMALL
    for y in report.yardsticks:
        if y.spectral_norm is not None:
            other = wording.moved_share(Interval(value=y.spectral_norm), change)
            beside, label = f"{y.words}: {percent(other.value)}, both by {change.words}", "compared with"
    if top.value is not None:
        says = f"{says}; {percent(top.value)} for the most sensitive 5%"
    return Headline(title, percent(moved.value), says, beside, label=label)


def _right(report: Report) -> Headline | None:
    cell = report.accuracy
    if cell is None:
        return None
    beside = [
        f"{y.words}: {percent(y.accuracy)}"
        for y in sorted(report.yardsticks, key=lambda y: ORDER.index(y.name))
        if y.accuracy is not None
    ]
    says = f"of the labelled inputs; for their population {share_text(cell)}"
    return Headline("Right answers", percent(cell.value), says, beside[0] if beside else "", tuple(beside[1:]))


def _unmeasured(report: Report, inputs: Sequence[Sensitivity]) -> list[str]:
    """Inputs, labels and checks that are missing, each with its reason."""
    out = []
    there = int(report.data.get("inputs", 0))
    missing = there - int(report.data.get("measured", 0))
    if missing > 0:
        out.append(f"{missing:,} of {there:,} inputs were not reached; the run can be resumed")
    for status, count in report.summary.statuses.items():
        if status != "ok":
            out.append(f"{count:,} of {there:,} inputs: {wording.STATUS_WORDS.get(status, status)}")
    failed = next((s for s in inputs if s.status == "failed"), None)
    if failed is not None:
        out.append(f"input {failed.index} failed: {failed.reason}")
    out.extend(f"input {s.index} is below detection: {s.reason}" for s in _undetected(inputs))
    if report.accuracy is None and not any(s.label is not None for s in inputs):
        out.append("right answers: the data has no labels")
    return out


def _undetected(inputs: Sequence[Sensitivity]) -> Iterator[Sensitivity]:
    """The first input below detection that has limits and the first that has none: they have different reasons."""
    seen: set[bool] = set()
    for s in inputs:
        if s.status == "below_detection" and s.reason is not None:
            limited = any(cell.upper is not None or cell.lower for cell in (s.spectral_norm, s.margin_radius))
            if limited not in seen:
                seen.add(limited)
                yield s


def _next_steps(report: Report, verdict: Verdict | None, *, page: bool) -> list[NextStep]:
    if page:  # of which it is not known where it will be read
        return list(_commands(report, _shell(report.environment.get("folder") or "RUN"), verdict))
    if caller() != COMMAND_LINE or report.folder is None:
        return list(_python_steps(report))
    return [NextStep("read the page", str(report.folder / "report.html")), *_commands(report, _shell(report.folder), None)]


def _python_steps(report: Report) -> Iterator[NextStep]:
    """For Python, whose report may lie in no folder."""
    folder = report.folder
    page = 'report.html("report.html")' if folder is None else str(folder / "report.html")
    yield NextStep("read the page", page)
    yield from _repeats(report, None, flags=False)
    yield NextStep("see the most sensitive inputs, and draw them", 'report.worst(5); report.plot("worst")')
    if folder is not None:
        yield NextStep("make a policy of this run, in a shell", f"fimaudit gate --init {_shell(folder)} > policy.yaml")
    yield NextStep("decide a policy", 'print(report.gate("policy.yaml"))')
    if folder is not None:
        yield NextStep("compare with another model on the same inputs", f'fimaudit.compare("{folder}", "OTHER_RUN")')


def _commands(report: Report, run: str, verdict: Verdict | None) -> Iterator[NextStep]:
    """For a shell, in the order in which a person would take them."""
    yield from _repeats(report, verdict, flags=report.environment.get("called_from", COMMAND_LINE) == COMMAND_LINE)
    if verdict is None:
        yield NextStep("make a policy of this run", f"fimaudit gate --init {run} > policy.yaml")
    else:
        yield NextStep("keep the evidence", f"fimaudit bundle {run} -o evidence.zip")
    yield NextStep("draw the most sensitive inputs", f"fimaudit plot {run} --kind worst -o worst.png")
    yield NextStep("compare with another model on the same inputs", f"fimaudit compare {run} OTHER_RUN --out comparison")


def _repeats(report: Report, verdict: Verdict | None, *, flags: bool) -> Iterator[NextStep]:
    """What another run of the same audit would show, and the options that it takes, as the audit was called."""

    def options(*named: str) -> str:
        return " ".join(named) if flags else ", ".join(map(with_keywords, named))

    if int(report.data.get("measured", 0)) < int(report.data.get("inputs", 0)):
        yield NextStep("measure the inputs that are missing: repeat the audit with", options("--resume"))
    more = [d.queries for d in verdict.decisions if d.outcome == "undecided" and d.queries] if verdict is not None else []
    if more:
        asked = options(f"--queries {max(more)}", "--overwrite")
        yield NextStep("decide what is undecided: repeat the audit with", asked)
    if report.model.get("adapter") == "http" and not report.integrity:
        asked = options("--integrity", "--overwrite")
        yield NextStep("check whether the answers can be believed: repeat the audit with", asked)


def _shell(folder: object) -> str:
    return shlex.quote(str(folder))
