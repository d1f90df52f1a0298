"""Does the server change an image before the model sees it? Then the metric's input space is another one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fimaudit.models.meter import Meter
from fimaudit.perturbations.random_signs import generator
from fimaudit.perturbations.rows import PlainRows

__all__ = ["ServerSide", "detect_preprocessing"]

Array = NDArray[np.float64]

#: Images that are asked, and the stream of their noise: what a server does to all is seen on each.
INPUTS, STREAM = 3, 7
#: Energy of the finest pattern over that of noise of the same length, below which detail does not arrive.
BLURRED = 3e-3


@dataclass(frozen=True)
class ServerSide:
    """What the server seems to do with an image.

    Attributes:
        cast: a change of a fifth of a grey level does nothing at all, one of two levels does: 8-bit cast or JPEG.
        detail: energy of the answer's change under a checkerboard over that under noise of equal length; ``None`` untested.
        rows: rows asked.
    """

    cast: bool
    detail: float | None
    rows: int

    def warnings(self) -> list[str]:
        """Sentences for the user."""
        out = []
        if self.cast:
            out.append(
                "changes below one grey level have no effect: the server seems to cast images to 8 bits or to decode JPEG; "
                "set --quantum to one level, or steps fall between the levels"
            )
        if self.detail is not None and self.detail < BLURRED:
            out.append(
                "the finest detail of an image has no effect: the server seems to resize or blur it; the metric then counts "
                "input changes that never reach the model, so compare it only among images of this size"
            )
        return out


def detect_preprocessing(meter: Meter, x: NDArray[Any], dtype: str, span: float, noise: float = 0.0) -> ServerSide:
    """Ask a few images with changes that survive no resize, JPEG or 8-bit cast.

    Args:
        meter: the door to the model; up to 12 rows are asked.
        x: (n, \\*shape) images, two axes of at least 4 pixels.
        dtype: what the model is fed; whole numbers skip the test of the cast.
        span: upper bound minus lower bound of the domain: 255 levels of grey.
        noise: largest difference of probability between two answers to the same row.

    Returns:
        what was found; nothing is found where the answers do not move at all.
    """
    axes = _image_axes(x.shape[1:])
    if axes is None:
        return ServerSide(False, None, 0)
    level, whole = span / 255.0, np.dtype(dtype).kind in "iu"
    rng = generator(0, 0, STREAM)
    rows: list[Array] = []
    pattern = _checkerboard(x.shape[1:], axes)
    for image in x[:INPUTS].astype(np.float64):
        # A quarter above a level, so that a fifth either way crosses neither a floor nor a rounding; clear of both ends.
        base = np.clip(np.floor(image / level), 4, 250) * level + (0.0 if whole else 0.25 * level)
        signs = rng.integers(0, 2, base.shape) * 2.0 - 1.0
        rows += [base, base + (0.0 if whole else 0.2) * level * signs, base + 2 * level * signs, base + 2 * level * pattern]
    answers = np.sqrt(meter.ask([PlainRows(np.stack(rows).astype(dtype))])[0])
    base, tiny, random, fine = (answers[i::4] for i in range(4))
    quiet = max(4.0 * noise**2, 1e-14)
    moved = ((random - base) ** 2).sum(axis=1)
    above_noise = moved > 16 * quiet
    if not above_noise.any():
        return ServerSide(False, None, len(rows))
    # Of a change a tenth as long, a hundredth of the energy would be left.
    unmoved = ((tiny - base) ** 2).sum(axis=1)[above_noise] <= quiet
    detectable = moved[above_noise] * 0.01 > 4 * quiet
    cast = not whole and bool(detectable.any() and unmoved[detectable].all())
    detail = float((((fine - base) ** 2).sum(axis=1)[above_noise] / moved[above_noise]).max())
    return ServerSide(cast, detail, len(rows))


def _image_axes(shape: tuple[int, ...]) -> tuple[int, int] | None:
    """The two axes of an image: the longest two, at least 4 pixels each."""
    long = [i for i, n in enumerate(shape) if n >= 4]
    if len(shape) not in (2, 3) or len(long) < 2:
        return None
    first, second = sorted(sorted(long, key=lambda i: shape[i])[-2:])
    return first, second


def _checkerboard(shape: tuple[int, ...], axes: tuple[int, int]) -> Array:
    grid = np.indices(shape)
    return np.asarray(1.0 - 2.0 * ((grid[axes[0]] + grid[axes[1]]) % 2))
