"""The free sections of ``report.json``: that what every reader of a report needs is there and is of its kind."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from fimaudit.audit_report import Report

__all__ = ["check_sections"]

Count = Annotated[int, Field(ge=0, lt=2**53)]
Finite = Annotated[float, Field(allow_inf_nan=False)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="allow")


class _Preflight(_Section):
    repeat_difference: Finite | None = None
    batch_difference: Finite | None = None


class _Model(_Section):
    name: str
    adapter: str
    class_names: list[str] | None = None
    details: dict[str, Any] = {}
    preflight: _Preflight | None = None


class _Surrogate(_Section):
    directions: Count | None = None
    models: list[dict[str, Any]] = []
    caught: Finite | None = None


class _Settings(_Section):
    confidence: Annotated[float, Field(gt=0, lt=1)]
    queries: Count
    mode: str
    budget: Count | None = None
    smooth: Finite | None = None
    surrogate: _Surrogate | None = None


class _Domain(_Section):
    unit: str
    scale: Any
    features: Count


class _Focus(_Section):
    named: list[Count]
    measured: Count
    chosen: Count
    top: Count
    expected_right: Finite
    confidence: Finite


class _Data(_Section):
    inputs: Count
    measured: Count
    feature_names: list[Any] | None = None
    focus: _Focus | None = None


class _Environment(_Section):
    packages: dict[str, Any]
    seconds: Finite
    finished: str


class _Rung(_Section):
    displacement: Finite
    energy: Finite


class _Step(_Section):
    profile: list[_Rung] = []


class _Sections(_Section):
    model: _Model
    settings: _Settings
    domain: _Domain
    data: _Data
    environment: _Environment
    step: _Step


def check_sections(report: Report) -> None:
    """Raises ``pydantic.ValidationError`` where a section lacks what pages, gates and comparisons read in it."""
    _Sections.model_validate(report.model_dump(include={"model", "settings", "domain", "data", "environment", "step"}))
