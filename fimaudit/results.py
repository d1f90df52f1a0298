"""What a measurement returns: plain data (pydantic), mirrored one to one by ``report.json``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["Contrast", "Interval", "Quantiles", "Report", "Sensitivity", "StepReport", "Summary", "json_schema"]

Status = Literal["ok", "below_detection", "no_rival_visible", "failed"]
Kind = Literal["local", "finite_scale", "lower_bound"]


class _Data(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, populate_by_name=True)


class Interval(_Data):
    """A value with its confidence limits; what was not measured is ``None``, limits that are known stay."""

    value: float | None = None
    lower: float | None = None
    upper: float | None = None

    def __str__(self) -> str:
        number = "-" if self.value is None else f"{self.value:.4g}"
        low = "0" if self.lower is None else f"{self.lower:.4g}"
        high = "inf" if self.upper is None else f"{self.upper:.4g}"
        return f"{number} [{low}, {high}]"


class Contrast(_Data):
    """The two classes that trade most probability along the most sensitive direction."""

    from_: int = Field(alias="from")
    to: int


class Sensitivity(_Data):
    """One input's measurement.

    ``spectral_norm`` and ``peak_spectral_norm`` in 1 / unit^2, ``trace`` likewise, ``margin_radius`` and ``displacement``
    (l2 length of one displacement) in the unit of the input domain.
    """

    index: int
    status: Status
    kind: Kind = "local"
    method: str
    predicted_class: int | None = None
    probability: float | None = None
    label: int | None = None
    group: str | None = None
    displacement: float | None = None
    queries: int = 0
    spectral_norm: Interval = Interval()
    peak_spectral_norm: Interval = Interval()
    trace: Interval = Interval()
    margin_radius: Interval = Interval()
    effective_rank: float | None = None
    contrast: Contrast | None = None
    flags: list[str] = []
    reason: str | None = None


class Quantiles(_Data):
    """Summary of one quantity over inputs; the low tail matters for the margin radius, the high one for the norms."""

    median: Interval = Interval()
    p05: Interval = Interval()
    p95: Interval = Interval()
    min: Interval = Interval()
    max: Interval = Interval()
    mean: Interval = Interval()


class Summary(_Data):
    """These inputs, the population they are a sample of, and what it cost."""

    spectral_norm: Quantiles = Quantiles()
    peak_spectral_norm: Quantiles = Quantiles()
    margin_radius: Quantiles = Quantiles()
    population: dict[str, Quantiles] = {}
    statuses: dict[str, int] = {}
    queries: int = 0
    requests: int = 0


class StepReport(_Data):
    """How the displacement was chosen: typical l2 length, and the pilot's energy on each rung."""

    displacement: float | None = None
    profile: list[dict[str, float]] = []


class Report(_Data):
    """A whole audit; ``report.json`` is this, field by field."""

    schema_version: Literal[1] = 1
    model: dict[str, Any]
    data: dict[str, Any]
    domain: dict[str, Any]
    settings: dict[str, Any]
    environment: dict[str, Any]
    step: StepReport
    summary: Summary
    groups: dict[str, Summary] = {}
    warnings: list[str] = []
    inputs: list[Sensitivity] = []
    inputs_file: str | None = None

    def to_json(self) -> str:
        """The text of ``report.json``."""
        return self.model_dump_json(by_alias=True, indent=1) + "\n"

    @classmethod
    def read(cls, folder: str | Path) -> Report:
        """The report of a run folder (or of a path to ``report.json``)."""
        path = Path(folder)
        return cls.model_validate_json((path / "report.json" if path.is_dir() else path).read_bytes())


def json_schema() -> Mapping[str, Any]:
    """JSON Schema of ``report.json``."""
    return Report.model_json_schema(by_alias=True)
