"""Kinks at an input: where the slopes to either side differ, autograd gives one of them, or neither.

Max-pooling of equal values, ReLU and |x| at exactly 0. With s = 2 sqrt(p) and a displacement u, the odd part
(s(x + u) - s(x - u)) / 2 is of the order of u and so is, at a kink, the even part (s(x + u) + s(x - u)) / 2 - s(x). Of a
smooth function the even part is of the order of u^2: its share of the odd one grows with the step, as that of arithmetic
noise falls with it. At a kink it stays.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fimaudit.errors import InputFailed
from fimaudit.estimation.secants import complete
from fimaudit.models.meter import Meter
from fimaudit.perturbations.random_signs import generator
from fimaudit.perturbations.rows import PlainRows
from fimaudit.space import Space
from fimaudit.whitebox.result import WhiteBox
from fimaudit.whitebox.secant_check import arithmetic, as_fed, first_step, in_half

__all__ = ["KinkCheck", "check_kinks"]

Array = NDArray[np.float64]

#: Stream of the generator that no measurement uses.
STREAM = 106
#: Random displacements of an input, and their lengths in steps: a bend beside the input is out of reach of the shortest.
DIRECTIONS, LENGTHS = 4, (1.0, 8.0, 1 / 8)
#: Even share from which on an input counts as kinked; it grows less than so over the longer step, where curvature's grows
#: by 8, and over the shorter one it stays above this part of itself.
QUIET, GROWS, STAYS = 0.1, 3.0, 0.6
#: The even part counts from so many times what arithmetic may add; a longer change of s than this is no small one.
ABOVE_ARITHMETIC, ALTOGETHER = 5.0, 0.2
#: A step is at least so many spacings of the input's numbers, or rounding alone would make it uneven.
SPACINGS = 64.0


class KinkCheck(NamedTuple):
    """By how much of their mean the slopes to either side differ from it, 0 where nothing bends; rows; calls."""

    share: float = 0.0
    rows: int = 0
    requests: int = 0


def check_kinks(
    meter: Meter, x: NDArray[np.floating], found: Sequence[WhiteBox], space: Space, *, seed: int, indices: Sequence[int]
) -> list[KinkCheck]:
    """Look for a kink at each of these inputs, among the features that have room to both sides.

    Args:
        meter: the door to the model; counts each row. Networks in half precision are not looked at: they answer in steps.
        x: (n, \\*shape) inputs.
        found: what their derivatives gave.
        space: bounds and frozen features are respected.
        seed, indices: key of the random displacements.

    Raises:
        BudgetExhausted: the budget does not allow the rows.
    """
    out = [KinkCheck()] * len(indices)
    if in_half(meter.model) or not indices:
        return out
    flat, ways = x.reshape(len(x), -1).astype(np.float64), []
    eps = float(np.finfo(meter.model.info.dtype).eps)
    for one, measured, index in zip(flat, found, indices, strict=True):
        step = first_step(measured.trace, float(np.sqrt(np.mean(one**2))) or 1.0)
        step = max(step, SPACINGS * eps * float(np.abs(one).max()))
        room = np.minimum(one - space.lower.ravel(), space.upper.ravel() - one) > max(LENGTHS) * step
        signs = generator(seed, index, STREAM).choice([-1.0, 1.0], (DIRECTIONS, one.size))
        ways.append(np.where(room & ~space.frozen.ravel(), step * signs, 0.0))
    places = [place for place, moves in enumerate(ways) if moves.any()]
    seen: dict[int, list[tuple[float, float]]] = {place: [] for place in places}
    floor = arithmetic(meter.model)
    for length in LENGTHS:
        moved = [(flat[place], length * ways[place]) for place in places]
        for place, parts in zip(
            places, _parts(meter, moved, [indices[place] for place in places], x.shape[1:]), strict=True
        ):
            seen[place].append(parts)
        places = [place for place in places if _bends(seen[place], floor)]
    for place, lengths in seen.items():
        share = _share(lengths[0]) if place in places else 0.0
        out[place] = KinkCheck(share, len(lengths) * (2 * DIRECTIONS + 1), len(lengths))
    return out


def _bends(seen: Sequence[tuple[float, float]], floor: float) -> bool:
    """Whether nothing seen so far, over ``LENGTHS`` in their order, rules out a kink at the input itself."""
    (even, odd), share = seen[-1], _share(seen[-1])
    if len(seen) == 1:
        return even > ABOVE_ARITHMETIC * floor and share > QUIET
    if len(seen) == 2:
        return odd <= ALTOGETHER and QUIET < share < GROWS * _share(seen[0])
    return even > floor and share > STAYS * _share(seen[0])


def _share(parts: tuple[float, float]) -> float:
    even, odd = parts
    return even / odd if odd > 0 else np.inf


def _parts(
    meter: Meter, moved: Sequence[tuple[Array, Array]], owners: Sequence[int], shape: tuple[int, ...]
) -> list[tuple[float, float]]:
    """Root mean square over displacements of the even and of the odd part of s."""
    model = meter.model
    blocks = [as_fed(np.concatenate([x[None], x + u, x - u]), model).reshape(-1, *shape) for x, u in moved]  # type: ignore[arg-type]
    questions = [PlainRows(rows.astype(model.info.dtype)) for rows in blocks]
    out = []
    for answer in meter.ask_each(questions, owners=owners, occasion="kinks") if questions else []:
        if isinstance(answer, InputFailed):
            raise answer.error
        roots = 2 * np.sqrt(np.maximum(complete(answer, int(np.argmax(answer[0]))), 0.0))
        right, left = roots[1 : DIRECTIONS + 1], roots[DIRECTIONS + 1 :]
        even, odd = (right + left) / 2 - roots[0], (right - left) / 2
        out.append((float(np.sqrt((even**2).sum(axis=1).mean())), float(np.sqrt((odd**2).sum(axis=1).mean()))))
    return out
