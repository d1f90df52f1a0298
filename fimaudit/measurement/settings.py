"""What the user chose for each input's measurement."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["ProfileChoice", "Settings"]

ProfileChoice = Literal["off", "cheap", "full"]


@dataclass(frozen=True)
class Settings:
    """What the user chose for each input's measurement.

    Attributes:
        queries: rows an input, the base row included; profile and witness rows are taken out of them.
        confidence: of each two-sided interval.
        seed: directions depend on it and the input's index alone.
        profile: how much of the scale profile is measured.
        witness: whether a displacement that really changes the decision is looked for.
        precision: stop when the spectral norm's half-width is within this share of its value; ``None``: take all queries.
        threshold: stop when the spectral norm is decided to lie above or below it.
        smooth: standard deviation of the noise of the smoothed classifier to certify; ``None`` measures the model itself.
        smooth_radius: stop when this radius is certified, or is out of reach.
        screening: whether this is a first look that finds out which inputs to measure (``focus``).
    """

    queries: int = 200
    confidence: float = 0.95
    seed: int = 0
    profile: ProfileChoice = "cheap"
    witness: bool = False
    precision: float | None = None
    threshold: float | None = None
    screening: bool = False
    smooth: float | None = None
    smooth_radius: float | None = None

    @property
    def adaptive(self) -> bool:
        """Whether an input may stop before all its queries are asked."""
        return self.precision is not None or self.threshold is not None
