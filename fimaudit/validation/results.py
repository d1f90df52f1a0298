"""What a validation returns: plain data (pydantic), written as ``validation.json``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from fimaudit.results import Interval, PlainData, Presented, Sentence, frame_of

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["AttackSummary", "AttackedInput", "CalibrationBin", "Correlation", "Flipped", "Validation"]


class AttackedInput(PlainData):
    """One input: what the measurement predicted, what the attacks found.

    ``smallest_perturbation`` is an l2 length in the unit of the input domain; ``None`` with the status ``censored`` says
    that no attack changed the decision, which is no distance and in particular not 0. ``attacks`` has each attack's own.
    ``reason``: why an input failed, or why it is censored although attacks changed its decision.
    """

    index: int
    status: Literal["found", "censored", "failed"]
    predicted_class: int | None = None
    label: int | None = None
    margin_radius: float | None = None
    smallest_radius: float | None = None
    peak_spectral_norm: float | None = None
    spectral_norm: float | None = None
    flags: list[str] = []
    smallest_perturbation: float | None = None
    attack: str | None = None
    changed_to: int | None = None
    attacks: dict[str, float | None] = {}
    forward_rows: int = 0
    backward_rows: int = 0
    unfinished: list[str] = []
    reason: Sentence | None = None


class Correlation(PlainData):
    """How a metric follows the smallest perturbation over the inputs that have both.

    The norms enter by their reciprocal, so that +1 means that the metric orders the inputs as the attacks do.
    ``ratio``: median of metric / perturbation, for metrics that are lengths.
    """

    metric: str
    spearman: Interval
    kendall: Interval
    ratio: Interval = Interval()
    inputs: int
    censored: int
    unmeasured: int


class Flipped(PlainData):
    """How well a small margin radius predicts that an input was flipped within ``eps``: area under the ROC curve."""

    eps: float
    auc: Interval
    flipped: int
    not_flipped: int


class CalibrationBin(PlainData):
    """Inputs of similar margin radius: medians of the radius and of what was found, and the quartiles of the latter."""

    margin_radius: float
    smallest_perturbation: float
    lower: float
    upper: float
    inputs: int


class AttackSummary(PlainData):
    """One attack over all inputs: where it succeeded, where it found the smallest, and how far it was from it."""

    name: str
    succeeded: int
    smallest: int
    median_excess: float | None


class Validation(Presented):
    """A whole validation; ``validation.json`` is this, field by field, and ``print`` shows what it says."""

    _shown_by: ClassVar[tuple[str, str]] = ("validation.screen", "validation_screen")

    schema_version: Literal[1] = 1
    model: dict[str, Any]
    data: dict[str, Any]
    unit: str
    settings: dict[str, Any]
    environment: dict[str, Any]
    correlations: list[Correlation] = []
    flipped: list[Flipped] = []
    calibration: list[CalibrationBin] = []
    attacks: list[AttackSummary] = []
    measured_rows: int = 0
    forward_rows: int = 0
    backward_rows: int = 0
    attacked: int = 0
    censored: int = 0
    failed: int = 0
    warnings: list[Sentence] = []
    inputs: list[AttackedInput] = []

    def to_frame(self) -> pd.DataFrame:
        """The inputs as a pandas table, each attack's own perturbation in a column ``attack_NAME``.

        Raises:
            MissingExtraError: pandas is not installed.
        """
        rows = [
            {**s.model_dump(exclude={"attacks"}), **{f"attack_{name}": length for name, length in s.attacks.items()}}
            for s in self.inputs
        ]
        return frame_of(rows, "Validation.to_frame")

    @classmethod
    def read(cls, folder: str | Path) -> Validation:
        """The validation of a run folder (or of a path to ``validation.json``)."""
        path = Path(folder)
        return cls.model_validate_json((path / "validation.json" if path.is_dir() else path).read_bytes())
