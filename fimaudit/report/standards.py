"""A run beside the topics of a standard: what supports each, in its own numbers, and what does not. ``filled_table``."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

from fimaudit.errors import UsageError
from fimaudit.policy.formats import kept_verdict
from fimaudit.report.wording import integrity_sentence, interval_text, moved_share, named_change, number, percent, share_text
from fimaudit.results import Sensitivity
from fimaudit.statistics.subgroups import calibration
from fimaudit.storage.run_folder import RunFolder

__all__ = ["StandardTable", "Topic", "filled_table", "standard_of"]


@dataclass(frozen=True)
class Topic:
    """One topic of a standard: what this run holds on it (nothing: an empty list), and what others have to add."""

    name: str
    found: list[str]
    missing: str


@dataclass(frozen=True)
class StandardTable:
    """The topics of a standard, filled from one run.

    Attributes:
        name: as ``--template`` takes it.
        title: the standard's.
        checked: what could be checked of the standard itself, and what could not.
        topics: in its order.
    """

    name: str
    title: str
    checked: str
    topics: list[Topic]


def filled_table(name: str, run: RunFolder) -> StandardTable:
    """The table of a standard for a run, from what lies in its folder alone.

    Raises:
        UsageError: no template of this name.
    """
    if name not in STANDARDS:
        raise UsageError(f"expected --template {' or '.join(STANDARDS)}, got {name!r}")
    title, checked, topics = STANDARDS[name]
    checked = " ".join([checked, *_of_a_sample(run)])
    return StandardTable(name, title, checked, [Topic(topic, found(run), missing) for topic, found, missing in topics])


def standard_of(page: str) -> str | None:
    """The standard whose table a page holds."""
    found = re.search(r'<section id="standard" data-standard="([^"]+)"', page)
    return found[1] if found else None


def _of_a_sample(run: RunFolder) -> list[str]:
    measured = int(run.report.data.get("measured", len(run.inputs)))
    if len(run.inputs) >= measured:
        return []
    return [f"Counts of inputs are of {len(run.inputs):,} of the {measured:,} measured, spread evenly over the data."]


def _inputs(run: RunFolder) -> list[str]:
    data, unit = run.report.data, run.report.domain["unit"]
    out = [f"{data.get('measured', 0):,} of {data.get('inputs', 0):,} inputs were measured; unit: {unit}."]
    if data.get("sha256"):
        out.append(f"The data are identified by their SHA-256, {data['sha256']}.")
    if run.report.groups:
        out.append(f"Groups side by side: {', '.join(sorted(run.report.groups))}.")
    return out


def _performance(run: RunFolder) -> list[str]:
    found = calibration(run.inputs, float(run.report.settings["confidence"]))
    out = []
    if found is not None:
        out.append(f"Right answers: {percent(found.accuracy.value)} ({share_text(found.accuracy)} of the population).")
    return [*out, *_radius(run)]


def _radius(run: RunFolder) -> list[str]:
    summary, unit = run.report.summary.margin_radius, run.report.domain["unit"]
    median, low = summary.median, summary.p05
    if median.value is None:
        return []
    out = [f"Median margin radius, a first-order estimate: {number(median.value)} ({interval_text(median)}; {unit})."]
    if low.value is not None:
        out.append(f"5th percentile: {number(low.value)} ({interval_text(low)}).")
    return out


def _life_cycle(run: RunFolder) -> list[str]:
    verdict = kept_verdict(run.folder)
    if verdict is None or verdict.baseline is None:
        return []
    return [f"The policy divides by an earlier run, of {verdict.baseline['name']}, on the same inputs."]


def _expected(run: RunFolder) -> list[str]:
    verdict = kept_verdict(run.folder)
    if verdict is None:
        return []
    rules = f"{len(verdict.decisions)} rule{'' if len(verdict.decisions) == 1 else 's'}"
    return [f"Policy “{verdict.policy}”: {verdict.outcome}, from {rules} decided on one-sided bounds."]


def _drops(run: RunFolder) -> list[str]:
    rungs = [rung for s in run.inputs for rung in s.profile]
    if not rungs:
        return []
    tried, flipped = sum(r.directions for r in rungs), sum(r.flips for r in rungs)
    share = percent(flipped / tried)
    return [f"Of {tried:,} random displacements of several lengths, {flipped:,} changed the decision ({share})."]


def _response(run: RunFolder) -> list[str]:
    norm, peak = run.report.summary.spectral_norm.median, run.report.summary.peak_spectral_norm.median
    out = []
    if norm.value is not None:
        change = named_change(run.report)
        moved = percent(moved_share(norm, change).value)
        out.append(f"Median spectral norm of the Fisher information: {number(norm.value)} ({interval_text(norm)}; 1/unit²).")
        out.append(f"In the worst direction {change.words} moves at most {moved} of probability, to first order.")
    if peak.value is not None:
        limits = interval_text(peak)
        out.append(f"Median peak norm, which no rescaling of confidence changes: {number(peak.value)} ({limits}).")
    return out


def _reliability(run: RunFolder) -> list[str]:
    found = run.report.summary.population.get("margin_radius")
    if found is None or (found.p05.lower is None and found.p05.upper is None):
        return []
    level, limits = percent(float(run.report.settings["confidence"])), interval_text(found.p05)
    return [f"5th percentile of the radius in the population, {level} interval: {limits}, if inputs were drawn at random."]


def _curvature(run: RunFolder) -> list[str]:
    looked = [s for s in run.inputs if s.profile]
    if not looked:
        return []
    cut = sum("local_radius_overstates" in s.flags for s in looked)
    return [f"The scale profile looked beyond the slope at {len(looked):,} inputs; {cut:,} radii were cut by what it found."]


def _adversarial(run: RunFolder) -> list[str]:
    def distance(s: Sensitivity) -> float:
        return s.witness.distance if s.witness is not None else float("inf")

    found = sorted(distance(s) for s in run.inputs if s.witness is not None)
    out = []
    if found:
        out.append(
            f"Real counterexamples for {len(found):,} of {len(run.inputs):,} inputs; nearest {number(found[0])}, "
            f"median {number(median(found))} ({run.report.domain['unit']})."
        )
    if run.report.integrity:
        out.append(f"{integrity_sentence(run.report).capitalize()}.")
    return out


def _nothing(run: RunFolder) -> list[str]:
    return []


#: Of each standard: title, what was checked, and (topic, what a run holds on it, what it does not).
STANDARDS: dict[str, tuple[str, str, list[tuple[str, Callable[[RunFolder], list[str]], str]]]] = {
    "24029-3": (
        "ISO/IEC DIS 24029-3, robustness of neural networks: methodology for the use of statistical methods",
        "The topics are those of the public table of contents of the draft of December 2025. The text below these headings "
        "could not be read, so what a topic asks in detail is not checked, and its “other considerations” are left out; a "
        "published standard may differ from its draft.",
        [
            ("Robustness during the life cycle", _life_cycle, "when it is measured again, and what is done then"),
            ("In-domain robustness", _performance, "that these inputs are those of the domain of use"),
            ("Specification of the expected behaviour", _expected, "why these limits, and who set them"),
            ("Robustness based on drops of performance", _drops, "accuracy under changes as they occur in use"),
            ("The response to a perturbation", _response, "other perturbations than small changes measured in l2"),
            ("Separability metrics", _nothing, "all of it: this run measures answers, not representations"),
            ("Statistical reliability", _reliability, "that inputs are a random sample; failures over time"),
            ("Curvature", _curvature, "curvature as a number; the profile looks along random directions only"),
            (
                "Selection and acquisition of data",
                _inputs,
                "how inputs were chosen, and what they represent",
            ),
            ("Adversarial robustness", _adversarial, "attacks of other kinds; a counterexample is an upper limit, no proof"),
        ],
    )
}
