"""A policy as an assertion: audit a model, decide the policy, and fail with the rules that do not pass."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from fimaudit.policy.formats import OUTCOME_WORDS
from fimaudit.policy.gate import baseline_run, decide
from fimaudit.policy.rules import check_policy, read_policy
from fimaudit.policy.verdict import Verdict
from fimaudit.runs.auditing import audit
from fimaudit.storage.run_folder import read_run

__all__ = ["assert_policy", "audit_and_decide", "require_pass"]


def assert_policy(
    model: object,
    x: Any,
    policy: str | Path | Mapping[str, Any],
    *,
    out: str | Path | None = None,
    baseline: str | Path | None = None,
    **options: Any,
) -> Verdict:
    """Audit a model and fail unless it keeps a policy; undecided rules fail too.

    Args:
        model: anything that ``fimaudit.audit`` takes.
        x: (n, \\*shape) inputs, or a data file.
        policy: YAML file, or the same as a mapping.
        out: run folder to keep; a temporary one when left out.
        baseline: run folder that ``ratio`` rules divide by.
        **options: of ``fimaudit.audit``: ``y``, ``queries``, ``lower``, ``upper``, ...

    Raises:
        AssertionError: with a line for each rule that does not pass.
        UsageError: a policy that is refused, before anything is measured; wrong use of ``audit``.
        RunError: the model failed under way.

    >>> import numpy as np
    >>> def model(batch):
    ...     p = 1 / (1 + np.exp(-batch[:, :1]))
    ...     return np.hstack([p, 1 - p])
    >>> rule = {"rule": "quantile", "metric": "margin_radius", "statistic": "min", "at_least": 0.5}
    >>> assert_policy(model, np.ones((4, 3)), {"rules": [rule]}, queries=50).outcome
    'pass'
    """
    __tracebackhide__ = True
    verdict = audit_and_decide(model, x, policy, out=out, baseline=baseline, **options)
    require_pass(verdict, out)
    return verdict


def audit_and_decide(
    model: object,
    x: Any,
    policy: str | Path | Mapping[str, Any],
    *,
    out: str | Path | None = None,
    baseline: str | Path | None = None,
    **options: Any,
) -> Verdict:
    """The verdict of a policy over a new audit, as ``assert_policy`` takes its arguments."""
    if isinstance(policy, Mapping):
        checked, place = check_policy(policy), Path.cwd() / "policy"
    else:
        checked, place = read_policy(policy), Path(policy)
    beside = baseline_run(checked, place, baseline)
    with TemporaryDirectory(prefix="fimaudit-") as temporary:
        folder = Path(temporary) / "run" if out is None else Path(out)
        audit(model, x, out=folder, **options)
        return decide(read_run(folder), checked, beside)


def require_pass(verdict: Verdict, folder: str | Path | None = None) -> None:
    """Fail with what does not pass.

    Args:
        verdict: of a policy.
        folder: run folder to name, where there is one.
    """
    __tracebackhide__ = True
    if verdict.outcome == "pass":
        return
    rest = [d for d in verdict.decisions if d.outcome != "pass"]
    kept = len(verdict.decisions) - len(rest)
    lines = [f"policy {verdict.policy!r}: {OUTCOME_WORDS[verdict.outcome]}; {kept} of {len(verdict.decisions)} rules pass"]
    lines += [f"  {d.title}: {d.sentence}" for d in rest]
    lines += [f"  warning: {warning}" for warning in verdict.warnings]
    lines += [] if folder is None else [f"  run folder: {folder}"]
    raise AssertionError("\n".join(lines))
