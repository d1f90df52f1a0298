"""Norm and peak norm of every input of a batch: an input goes on to its peak while others are still at their norm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fimaudit.estimation.peak_norm import peak_norms
from fimaudit.estimation.spectral_norm import top_pair
from fimaudit.estimation.tempering import temper, tempered_cotangent
from fimaudit.whitebox.krylov_basis import InputBasis, input_basis
from fimaudit.whitebox.lanczos import ClassProduct, Krylov, lanczos_steps, relative_residual

__all__ = ["Peak", "norms_and_peaks"]

Array = NDArray[np.float64]
Positions = NDArray[np.intp]

#: An input's search for its peak ends here; it stops by its residual long before.
MOST_PEAK_STEPS = 40


@dataclass
class Peak:
    """The peak norm of one input, the temperature where it lies, and how far the vector is from an eigenvector there.

    Attributes:
        basis: input directions whose images are known.
        value, temperature, residual: of the last step; a Rayleigh quotient and so never above the true peak.
        steps: products that were paid for.
    """

    basis: InputBasis
    value: float = 0.0
    temperature: float = 1.0
    residual: float = 0.0
    steps: int = 0


def norms_and_peaks(
    product: ClassProduct,
    roots: Array,
    start: Array,
    log_p: Array,
    *,
    tolerance: float,
    least: int,
    most: int,
    peak_tolerance: float,
) -> tuple[Krylov, list[Peak]]:
    """``lanczos_top``, and behind it Rayleigh-Ritz over temperature on the products at hand, which grow by F_T v at the best
    temperature until v is an eigenvector there.

    Args:
        product, roots, start, tolerance, least, most: as for ``lanczos_top``.
        log_p: (B, K) log-probabilities.
        peak_tolerance: relative residual at which a peak is done.
    """
    lanczos = lanczos_steps(roots, start, tolerance=tolerance, least=least, most=most)
    search = _PeakSearch(log_p, peak_tolerance)
    known: list[list[tuple[Array, Array, float]]] = [[] for _ in roots]
    rows, active = next(lanczos)
    found: Krylov | None = None
    while len(active) or len(search.active):
        both = np.concatenate([active, search.active])
        order = np.argsort(both)
        images, squared = product(np.concatenate([rows, search.rows()])[order], both[order])
        back = np.argsort(order)
        images, squared, count = images[back], squared[back], len(active)
        search.take(images[count:], squared[count:])
        if found is not None:
            continue
        for i, *of in zip(active.tolist(), rows, images, squared, strict=False):
            known[i].append(tuple(of))
        before = active
        try:
            rows, active = lanczos.send((images[:count], squared[:count]))
        except StopIteration as stop:
            found, rows, active = stop.value, rows[:0], active[:0]
        for i in np.setdiff1d(before, active).tolist():
            search.begin(i, input_basis(*map(np.array, zip(*known[i], strict=True))))
    assert found is not None
    return found, search.peaks


class _PeakSearch:
    """The search at those inputs whose norm is known."""

    def __init__(self, log_p: Array, tolerance: float) -> None:
        self._log_p, self._tolerance = log_p, tolerance
        self.peaks = [Peak(InputBasis(log_p[:0], log_p[:0])) for _ in log_p]
        self.active: Positions = np.arange(0)
        self._asked: list[tuple[Array, Array, Array]] = []

    def begin(self, i: int, basis: InputBasis) -> None:
        """An input's basis is known; where nothing moves there is no peak to find."""
        self.peaks[i].basis = basis
        if basis.images.any():
            self.active = np.append(self.active, i)

    def rows(self) -> Array:
        """(b, K) cotangents of the products that the inputs ``active`` need next."""
        new = np.array([self.peaks[i].steps == 0 for i in self.active], dtype=bool)
        for some, known in ((self.active[new], False), (self.active[~new], True)):
            for i, temperature in zip(some.tolist(), self._temperatures(some, known), strict=True):
                self.peaks[i].temperature = temperature
        self._asked = []
        for i in self.active:
            peak = self.peaks[i]
            z = top_pair(temper(peak.basis.images, self._log_p[i], peak.temperature))[1]
            self._asked.append((z, *peak.basis.split(tempered_cotangent(z, self._log_p[i], peak.temperature))))
        return np.array([outside for _, outside, _ in self._asked]).reshape(len(self.active), self._log_p.shape[1])

    def take(self, images: Array, squared: Array) -> None:
        """The products that were asked for."""
        going = []
        for i, (z, outside, inside), image, length in zip(self.active.tolist(), self._asked, images, squared, strict=True):
            peak = self.peaks[i]
            applied = temper((image + inside @ peak.basis.images)[None], self._log_p[i], peak.temperature)
            # The Rayleigh quotient, not the Ritz value: rounding in the basis cannot raise it.
            peak.value = float((applied @ z)[0])
            peak.residual = float(relative_residual(applied, z[None], applied @ z)[0])
            peak.steps += 1
            larger = peak.basis.extended(outside, image, float(length))
            if peak.residual > self._tolerance and larger is not peak.basis and peak.steps < MOST_PEAK_STEPS:
                going.append(i)
            peak.basis = larger
        self.active = np.array(going, dtype=np.intp)

    def _temperatures(self, some: Positions, known: bool) -> Sequence[float]:
        if len(some) == 0:
            return []
        peaks = [self.peaks[i] for i in some]
        around = np.array([peak.temperature for peak in peaks]) if known else None
        return peak_norms([peak.basis.images for peak in peaks], self._log_p[some], around)[1].tolist()  # type: ignore[no-any-return]
