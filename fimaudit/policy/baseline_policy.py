"""A commented policy from a baseline run: what a later run must keep to be no worse than it, but for a stated share."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from fimaudit.errors import UsageError
from fimaudit.policy.gate import Decision, decide
from fimaudit.policy.rules import Policy
from fimaudit.policy.words import explain_rule
from fimaudit.storage.run_folder import RunFolder

__all__ = ["policy_from_run"]

#: Share by which a later run may be worse.
WORSE_BY = 0.1
#: Share of inputs that may go unmeasured whatever the baseline did.
UNMEASURED = 0.05
#: Most that a bound may lie from its value, as a factor, for a limit to be made of it.
ROUGH = 2.0
#: Of a comment's lines.
WIDTH = 100
#: What can be added where the baseline's run folder is at hand.
RATIO = """- name: beside the baseline
  rule: ratio
  metric: margin_radius
  statistic: median
  at_least: 0.9"""
#: Always kept; beside it, every rule makes a valid policy.
_NO_RULE = {"rule": "not_ok", "at_most": 1.0}
#: Limits are written with so many digits, rounded to the lenient side.
DIGITS = 3


@dataclass(frozen=True)
class _Asked:
    """A rule without its limit: what it is about, and on which side the limit stands."""

    fields: Mapping[str, Any]
    side: str

    def limited(self, limit: float) -> dict[str, Any]:
        """The rule as a policy file holds it."""
        return {**self.fields, self.side: limit}


QUANTILES = (
    _Asked(
        {"name": "typical input", "rule": "quantile", "metric": "margin_radius", "statistic": "median"},
        "at_least",
    ),
    _Asked(
        {"name": "weakest inputs", "rule": "quantile", "metric": "margin_radius", "statistic": "p05"},
        "at_least",
    ),
    _Asked(
        {"name": "typical sensitivity", "rule": "quantile", "metric": "peak_spectral_norm", "statistic": "median"},
        "at_most",
    ),
)
ACCURACY = _Asked({"name": "right answers", "rule": "accuracy", "of": "population"}, "at_least")
NOT_OK = _Asked({"name": "everything measured", "rule": "not_ok"}, "at_most")
INTEGRITY = {"name": "answers that can be believed", "rule": "integrity"}


def policy_from_run(run: RunFolder, worse_by: float = WORSE_BY) -> str:
    """Write the policy that a run no worse than this one keeps, as YAML with comments.

    A limit lies the share ``worse_by`` beyond what the baseline is known to keep: its confidence bound, so that the same
    model passes when it is audited again. Of right answers it is that share more wrong ones. A quantity whose bound lies
    further than a factor of two from its value is left out, with the reason.

    Args:
        run: the baseline.
        worse_by: from 0 to below 1.

    Raises:
        UsageError: the run holds nothing that a rule could be made of, or ``worse_by`` is out of range.
    """
    if not 0 <= worse_by < 1:
        raise UsageError(f"expected --worse-by from 0 to below 1, got {worse_by:g}")
    entries = [*_limited(run, worse_by)]
    rules = [entry for entry in entries if not isinstance(entry, str)]
    if not any(rule["rule"] == "quantile" for rule in rules):
        raise UsageError(f"{run.folder} holds too few measured inputs for a policy; audit more, or with more queries")
    unit = str(run.report.domain["unit"])
    head = {"version": 1, "name": f"no worse than {run.report.model.get('name')}", "confidence": 0.95, "unit": unit}
    policy = Policy.model_validate({**head, "rules": rules})
    verdict = decide(run, policy)
    decided = iter(zip(policy.rules, verdict.decisions, strict=True))
    lines = [*(line for text in _opening(run, worse_by) for line in _comment(text)), _yaml(head), "rules:"]
    for entry in entries:
        if isinstance(entry, str):
            lines += _comment(entry, "  ")
            continue
        rule, decision = next(decided)
        lines += _comment(explain_rule(rule, unit), "  ") + _comment(_of_baseline(decision), "  ")
        lines += [f"  {'- ' if place == 0 else '  '}{line}" for place, line in enumerate(_yaml(entry).splitlines())]
    lines += [line for text in _closing(run) for line in _comment(text, "  ")]
    lines += [f"  # {line}" for line in RATIO.splitlines()]
    return "\n".join(lines) + "\n"


def _limited(run: RunFolder, worse_by: float) -> Iterator[dict[str, Any] | str]:
    """The rules that the run can be asked about, each with its limit; in words, what is left out."""
    for asked in QUANTILES:
        known = _read(run, asked)
        if known.value is None or known.bound is None or not 1 / ROUGH <= known.bound / known.value <= ROUGH:
            yield f"Left out, because it is known too roughly: {_known(known)}. More inputs, or more queries each, may tell."
            continue
        yield asked.limited(_lenient(known.bound * (1 - worse_by if asked.side == "at_least" else 1 + worse_by), asked.side))
    if any(s.label is not None and s.status != "failed" for s in run.inputs):
        wrong = 1 - (_read(run, ACCURACY).bound or 0.0)
        yield ACCURACY.limited(_lenient(max(0.0, 1 - wrong * (1 + worse_by)), "at_least"))
    unmeasured = _read(run, NOT_OK).value or 0.0
    yield NOT_OK.limited(min(1.0, _lenient(max(UNMEASURED, unmeasured * (1 + worse_by)), "at_most")))
    if any(check.outcome == "ok" for check in run.report.integrity):
        yield INTEGRITY


def _read(run: RunFolder, asked: _Asked) -> Decision:
    """What the gate reads of the run, by a rule whose limit does not matter."""
    return decide(run, Policy.model_validate({"rules": [asked.limited(1.0), _NO_RULE]})).decisions[0]


def _lenient(value: float, side: str) -> float:
    """To a few digits, never stricter than it was."""
    if value == 0:
        return 0.0
    step = 10.0 ** (math.floor(math.log10(abs(value))) - DIGITS + 1)
    rounded = math.floor(value / step + 1e-9) if side == "at_least" else math.ceil(value / step - 1e-9)
    return float(f"{rounded * step:.{DIGITS}g}")


def _known(decision: Decision) -> str:
    """What is asked about, its value and its bound."""
    value, bound = ("unknown" if v is None else f"{v:.4g}" for v in (decision.value, decision.bound))
    return f"{decision.sentence.partition(': ')[0]}: {value}, {decision.side} {bound} (95 % bound)"


def _of_baseline(decision: Decision) -> str:
    if decision.rule == "integrity":
        return f"The baseline: {decision.sentence}."
    return f"The baseline: {decision.sentence.partition('; required')[0].rpartition(': ')[2]}: {decision.outcome}."


def _opening(run: RunFolder, worse_by: float) -> Iterator[str]:
    report = run.report
    yield (
        f"From the run {run.folder} of {report.model.get('name')}: {len(run.inputs)} inputs, "
        f"{report.settings.get('queries')} queries each."
    )
    yield f"A later run may be {100 * worse_by:g} % worse than what this one is known to keep (its 95 % bound)."
    yield "Change what you know better, and leave out what you do not need."
    yield "Each rule is decided on its one-sided 95 % confidence bound, never on the value itself."
    yield "Read this file back in sentences: fimaudit gate --explain policy.yaml"
    for check in report.contradicted:
        yield f"Warning: the answers of this run are contradicted ({check.name}: {check.finding})"


def _closing(run: RunFolder) -> Iterator[str]:
    groups = sorted({s.group for s in run.inputs if s.group is not None})
    if groups:
        yield f"With group: '*' a rule is asked of each group by itself: {', '.join(groups[:20])}."
    yield (
        "Two runs on the same inputs can be told apart sooner, input by input. Audit the new model on the baseline's data, "
        "name the baseline's run folder above (baseline: FOLDER, or --baseline FOLDER), and add:"
    )


def _yaml(values: Mapping[str, Any]) -> str:
    return str(yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True, width=10_000)).rstrip("\n")


def _comment(text: str, indent: str = "") -> list[str]:
    """Lines of a comment, whatever a model's or a group's name holds."""
    plain = "".join(c if c.isprintable() else " " for c in text)
    mark, width = f"{indent}# ", WIDTH - len(indent) - 2
    return [mark + line for line in textwrap.wrap(plain, width, break_long_words=False, break_on_hyphens=False)]
