"""Products with the derivatives of some inputs of a batch, in passes over those of them that are not done."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from fimaudit.models.classifier import Differentiable
from fimaudit.models.linearization import Linearization, linearize

__all__ = ["BatchProducts"]

Array = NDArray[np.float64]
T = TypeVar("T", np.float64, np.uint8)

#: Inputs by which a part is smaller at least: to record a graph anew takes a time that passes over fewer do not save.
LEAST_FEWER = 4


class BatchProducts:
    """Products for some inputs of a batch; linearised anew without those that are done once half of them are.

    Such a part is kept beside the whole, until there is a smaller one or another.
    """

    def __init__(self, model: Differentiable, x: NDArray[Any], at: Linearization) -> None:
        self._model, self._x = model, x
        self._whole = self._part = (np.arange(len(x)), at)
        self._at, self._members, self._before = at, np.arange(len(x)), at.passes
        self.passes = np.full(len(x), at.passes)

    def product(self, cotangents: Array, active: NDArray[np.intp]) -> tuple[Array, Array]:
        """C w and |J_L^T w|^2."""
        place, full = self._placed(active, cotangents)
        images, squared = self._at.product(full)
        self._count()
        return images[place], squared[place]

    def squared_norms(self, cotangents: Array, active: NDArray[np.intp]) -> Array:
        """|J_L^T w|^2."""
        place, full = self._placed(active, cotangents)
        squared = self._at.squared_norms(full)
        self._count()
        return squared[place]

    @property
    def features(self) -> int:
        """Numbers of one input."""
        return int(self._x[0].size)

    def push_signs(self, packed: NDArray[np.uint8], active: NDArray[np.intp]) -> Array:
        """J_L z."""
        place, full = self._placed(active, packed)
        images = self._at.push_signs(full)
        self._count()
        return images[place]

    def _placed(self, active: NDArray[np.intp], rows: NDArray[T]) -> tuple[NDArray[np.intp], NDArray[T]]:
        members, at = self._part if np.isin(active, self._part[0]).all() else self._whole
        before = at.passes
        if 2 * len(active) <= len(members) and len(members) - len(active) >= LEAST_FEWER:
            self._part, self._at, at = self._whole, self._whole[1], self._whole[1]  # frees what the part recorded
            members, at = self._part = active, linearize(self._model, self._x[active])
            before = 0
        self._members, self._at, self._before = members, at, before
        place = np.searchsorted(members, active)
        full = np.zeros((len(members), rows.shape[1]), dtype=rows.dtype)
        full[place] = rows
        return place, full

    def _count(self) -> None:
        self.passes[self._members] += self._at.passes - self._before
