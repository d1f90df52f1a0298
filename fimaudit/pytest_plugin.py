"""The pytest plugin: a policy as a fixture. Every pytest run imports this module, so it loads the package on first use."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pytest

if TYPE_CHECKING:
    from fimaudit.policy.verdict import Verdict

__all__ = ["AssertPolicy", "assert_policy"]


class AssertPolicy(Protocol):
    """``fimaudit.testing.assert_policy``, as the fixture offers it."""

    def __call__(
        self,
        model: object,
        x: Any,
        policy: str | Path | Mapping[str, Any],
        *,
        baseline: str | Path | None = None,
        **options: Any,
    ) -> Verdict: ...


@pytest.fixture
def assert_policy(tmp_path: Path, record_property: Callable[[str, object], None]) -> AssertPolicy:
    """Audit a model and fail unless it keeps a policy: ``assert_policy(model, x, "policy.yaml", queries=200)``.

    Takes what ``fimaudit.testing.assert_policy`` takes. Each rule's line is a property of the test case (``--junit-xml``),
    and the run lies in the test's temporary folder.
    """
    calls = 0

    def assert_kept(model: object, x: Any, policy: str | Path | Mapping[str, Any], **options: Any) -> Verdict:
        __tracebackhide__ = True
        from fimaudit.testing.policy_assertion import audit_and_decide, require_pass

        nonlocal calls
        calls += 1
        out = Path(options.pop("out", None) or tmp_path / f"fimaudit-{calls}")
        verdict = audit_and_decide(model, x, policy, out=out, **options)
        record_property("fimaudit.policy", verdict.policy)
        record_property("fimaudit.outcome", verdict.outcome)
        for decision in verdict.decisions:
            record_property(f"fimaudit.rule.{decision.title}", decision.sentence)
        require_pass(verdict, out)
        return verdict

    return assert_kept
