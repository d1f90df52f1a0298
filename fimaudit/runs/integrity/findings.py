"""What the checks found, as a report, a journal and a reader get it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from fimaudit.audit_report import IntegrityCheck
from fimaudit.results import QUANTITY_NAMES, Sensitivity

__all__ = ["IntegrityFindings", "Outcome", "check_result"]

Outcome = Literal["ok", "contradicted", "not_applicable"]


@dataclass(frozen=True)
class IntegrityFindings:
    """What the checks found.

    Attributes:
        checks: one for each.
        revised: results that a real change of decision cut.
    """

    checks: list[IntegrityCheck] = field(default_factory=list)
    revised: dict[int, Sensitivity] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "checks": [check.model_dump(mode="json") for check in self.checks],
            "revised": [result.model_dump(mode="json", by_alias=True) for result in self.revised.values()],
        }

    @classmethod
    def read(cls, kept: Mapping[str, Any]) -> IntegrityFindings:
        """From plain data."""
        revised = [Sensitivity.model_validate(one) for one in kept["revised"]]
        checks = [IntegrityCheck.model_validate(one) for one in kept["checks"]]
        return cls(checks, {result.index: result for result in revised})

    def warnings(self) -> list[str]:
        """A sentence for each contradiction."""
        return [
            f"integrity contradicted ({check.name}): {check.finding}; no rule on {', '.join(check.metrics)} is decided from "
            "this run"
            for check in self.checks
            if check.outcome == "contradicted"
        ]


def check_result(
    name: Any,
    outcome: Outcome,
    notices: str,
    finding: str,
    numbers: Mapping[str, float | int | None],
    rows: int,
    metrics: Sequence[str] = tuple(QUANTITY_NAMES),
) -> IntegrityCheck:
    """One check, with the quantities that it takes away where it is contradicted."""
    return IntegrityCheck(
        name=name, outcome=outcome, notices=notices, finding=finding, numbers=dict(numbers), rows=rows, metrics=[*metrics]
    )
