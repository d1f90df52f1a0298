"""The verdict of a policy over a run: pass, fail or undecided, on one-sided confidence bounds. ``gate``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from fimaudit.comparison.two_runs import check_same
from fimaudit.errors import UsageError
from fimaudit.policy.decisions import decide_integrity, decide_ratio, decide_rule
from fimaudit.policy.rules import IntegrityRule, Policy, RatioRule, read_policy
from fimaudit.policy.verdict import Decision, Outcome, Verdict
from fimaudit.results import Sensitivity
from fimaudit.storage.run_folder import RunFolder, read_run

__all__ = ["Decision", "Outcome", "Verdict", "baseline_run", "decide", "gate"]

#: Adapter of the models that somebody else runs.
ENDPOINT = "http"


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
    return decide(read_run(folder), checked, baseline_run(checked, policy, baseline))


def baseline_run(checked: Policy, policy: str | Path, baseline: str | Path | None) -> RunFolder | None:
    """The baseline: the given folder, else the policy's own, relative to its file; ``None`` if none is needed.

    Raises:
        UsageError: there is none, or it holds no run.
    """
    if not checked.needs_baseline():
        return None
    if baseline is not None:
        return read_run(baseline)
    if checked.baseline is None:
        raise UsageError("the policy has a ratio rule but names no baseline; give its run folder with --baseline")
    return read_run(Path(policy).parent / checked.baseline)


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
            decisions.append(decide_ratio(name, rule, run, baseline, policy.confidence))
        elif isinstance(rule, IntegrityRule):
            decisions.append(decide_integrity(name, run))
        else:
            for selection, inputs in _selections(run, rule.group, rule.label):
                decisions.append(decide_rule(name, rule, selection, inputs, run, policy.confidence))
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
