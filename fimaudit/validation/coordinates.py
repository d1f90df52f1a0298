"""The coordinates in which one input is attacked: origin at the input, unit a length of the order of the answer.

Attack libraries have constants that fit inputs in [0, 1] and gradients of order 1 (DeepFool adds 1e-7 to squared gradients,
Carlini-Wagner has a learning rate). In u with x = x0 + scale * unit * u they fit every model: unit is the first-order
radius, so that the distance sought is of order 1 whatever the model is fed with.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fimaudit.space import Space

__all__ = ["Coordinates"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Coordinates:
    """A map from attack coordinates to rows that the model may be sent.

    Attributes:
        origin: the input x0, shape \\*shape, in the units that the model is fed.
        space: bounds, quantum, frozen features, scale, dtype.
        unit: length of u = 1, in units of the scale.
    """

    origin: NDArray[Any]
    space: Space
    unit: float

    @cached_property
    def base(self) -> Array:
        """x0 as the model gets it."""
        return self.origin.astype(self.space.dtype).astype(np.float64)

    @cached_property
    def slope(self) -> Array:
        """dx / du of each feature; 0 for frozen ones."""
        return np.where(self.space.frozen, 0.0, self.space.scale * self.unit)

    def rows(self, u: NDArray[Any]) -> NDArray[Any]:
        """(n, \\*shape) coordinates to rows within the domain, in the model's dtype: clipped, rounded, frozen ones held."""
        space, base, stepped = self.space, self.base, self._stepped
        x = base + self.slope * np.asarray(u, dtype=np.float64)
        # An attack may divide 0 by 0 (Square does, once its ball is used up): such a feature stays where it is.
        x = np.where(np.isnan(x), base, x)
        if stepped is not None:
            quantum = np.where(stepped, space.quantum, 1.0)
            x = np.where(stepped, base + np.round((x - base) / quantum) * quantum, x)
        x = np.where(space.frozen, base, np.clip(x, space.lower, space.upper))
        return (np.rint(x) if np.dtype(space.dtype).kind in "iu" else x).astype(space.dtype)

    @cached_property
    def _stepped(self) -> NDArray[np.bool_] | None:
        stepped = (self.space.quantum > 0) & ~self.space.frozen
        return stepped if stepped.any() else None

    def free(self, u: NDArray[Any]) -> NDArray[np.bool_]:
        """Where a change of u changes the row: not frozen, and not beyond a bound."""
        x = self.base + self.slope * np.asarray(u, dtype=np.float64)
        return np.asarray(~self.space.frozen & (x >= self.space.lower) & (x <= self.space.upper))

    def bounds(self) -> tuple[Array, Array]:
        """The box in u: (lower, upper), shape \\*shape, infinite where there is none."""
        slope = np.where(self.slope > 0, self.slope, 1.0)
        held = self.space.frozen
        lower = np.where(held, -np.inf, np.minimum((self.space.lower - self.base) / slope, 0.0))
        upper = np.where(held, np.inf, np.maximum((self.space.upper - self.base) / slope, 0.0))
        return lower, upper

    def coordinates(self, rows: NDArray[Any]) -> Array:
        """Rows in u, frozen features 0."""
        slope = np.where(self.slope > 0, self.slope, 1.0)
        return np.where(self.space.frozen, 0.0, (np.asarray(rows, dtype=np.float64) - self.base) / slope)

    def distances(self, rows: NDArray[Any]) -> Array:
        """l2 length, in units of the scale, of what was really sent: (n, \\*shape) to (n,)."""
        moved = (np.asarray(rows, dtype=np.float64) - self.base) / self.space.scale
        return np.asarray(np.linalg.norm(np.where(self.space.frozen, 0.0, moved).reshape(len(rows), -1), axis=1))
