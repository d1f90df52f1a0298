"""What a baseline is asked: one input, and what it may use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from fimaudit.space import Space

__all__ = ["Question"]


@dataclass(frozen=True)
class Question:
    """One input, and what a baseline may use.

    Attributes:
        x: the input, shape \\*shape, in the units that the model is fed.
        space: bounds, frozen features, scale, dtype.
        displacement: l2 length of one displacement, in units of the scale, at which black-box differences are taken.
        rows: rows that a sampling baseline may ask, the base row included.
        seed: of its random choices.
        label: the class that a loss refers to; the model's own decision where ``None``.
    """

    x: NDArray[Any]
    space: Space
    displacement: float
    rows: int = 200
    seed: int = 0
    label: int | None = None
