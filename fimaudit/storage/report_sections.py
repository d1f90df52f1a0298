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


class _Settings(_Section):
    confidence: Annotated[float, Field(gt=0, lt=1)]
    queries: Count
    mode: str


class _Domain(_Section):
    unit: str
    scale: Any
    features: Count


class _Data(_Section):
    inputs: Count
    measured: Count
    feature_names: list[Any] | None = None


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
    settings: _Settings
    domain: _Domain
    data: _Data
    environment: _Environment
    step: _Step


def check_sections(report: Report) -> None:
    """Raises ``pydantic.ValidationError`` where a section lacks what pages, gates and comparisons read in it."""
    _Sections.model_validate(report.model_dump(include={"settings", "domain", "data", "environment", "step"}))
