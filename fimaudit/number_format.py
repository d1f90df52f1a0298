"""In which numbers answers came: float32, few digits or bits, steps, or float64; and what each cannot tell apart."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "FLOAT32_SPACING",
    "FLOAT64_SPACING",
    "are_float32_below_range",
    "narrowed",
    "number_spacing",
    "output_resolution",
]

Array = NDArray[np.float64]

#: Distance of the numbers just below 1.
FLOAT32_SPACING, FLOAT64_SPACING = 2.0**-24, 2.0**-53
#: The least positive number of float32.
FLOAT32_LEAST = 2.0**-149
#: From here on float64 tells every decimal number from its neighbours.
MOST_DIGITS = 15
#: Up to so many decimals numbers that are multiples of them are rounded; beyond them a few unrounded ones may look so, and
#: the chance that all of them do must be less than one in so many powers of ten.
PLAIN_DECIMALS, UNLIKELY = 6, 6.0
#: Spacings of the numbers at 1, within which an answer is saturated rather than rounded.
BEFORE_ONE = 4.0
#: Fewer different numbers have few digits by chance.
FEW_DIFFERENT = 6
#: Of fewer numbers all may be multiples of two steps by chance.
FEW_WITH_A_STEP = 10
#: Numbers whose digits are looked at.
MOST_LOOKED_AT = 400
#: A step is looked for up to so many times between neighbours.
MOST_STEPS = 8
#: Steps from 0 to 1 that 7 to 16 bits make (tests/test_number_format.py: test_steps_of_a_quantised_model_are_found); of any
#: other number they are votes, whose jumps are the model's own (test_votes_have_no_step).
QUANTISED = frozenset(2**bits - less for bits in range(7, 17) for less in (0, 1))
#: A shorter step is none of theirs.
SHORTEST = 2.0**-17
#: By how much of a step a multiple of it may seem off while the step is known roughly.
CLEARLY = 0.2
#: What a division by a sum of nearly 1 may change a number of float32 by.
DIVIDED = 2e-6


def number_spacing(values: NDArray[np.floating]) -> float:
    """The distance of neighbouring numbers just below 1 in the format that answers came in.

    float32 has 2^-24, also where its numbers were written as the shortest text that says which they are; b significant bits
    have 2^-b, s significant digits 10^-s; else it is float64's 2^-53.

    Args:
        values: probabilities of any shape.

    >>> number_spacing(np.array([0.1, 1.0 / 3.0])) == FLOAT64_SPACING
    True
    >>> number_spacing(np.array([0.33333334, 1.1920929e-07])) == FLOAT32_SPACING
    True
    >>> number_spacing(np.array([0.3333, 1.192e-07, 0.2, 0.7, 0.4567, 0.8]))
    0.0001
    >>> float(np.log2(number_spacing(np.random.default_rng(0).random(30).astype(np.float16))))
    -11.0
    """
    seen = np.unique(values[(values > 0) & (values < 1)])
    seen = narrowed(seen[:: max(1, len(seen) // MOST_LOOKED_AT)])
    if seen.size == 0:
        return FLOAT64_SPACING
    spacing = FLOAT32_SPACING if seen.dtype == np.float32 or _are_float32_text(seen) else FLOAT64_SPACING
    if seen.size < FEW_DIFFERENT:
        return spacing
    digits = 0
    for value in seen:
        digits = max(digits, len(Decimal(str(value)).normalize().as_tuple().digits))
        if 10.0**-digits <= spacing:  # as of nearly all numbers that were not rounded: more digits would say no more
            break
    mantissa, _ = np.frexp(seen.astype(np.float64))
    used = int(np.bitwise_or.reduce((mantissa * 2.0**53).astype(np.int64)))
    bits = 54 - (used & -used).bit_length()  # the last one that any of them has
    return max(spacing, 2.0**-bits, float(f"1e-{digits}") if digits <= MOST_DIGITS else 0.0)


def output_resolution(values: NDArray[Any]) -> float:
    """The quantum to which a set of answers is rounded: 10^-t decimals, a 1/N, 2^-10 for half precision, 0 when none.

    Answers rounded to t decimals are multiples of 10^-t exactly, or to one unit of float32 or float64, as a division or a
    complement leaves them; those of a quantised model are multiples of 1/256 or 1/255.

    >>> output_resolution(np.array([[0.25, 0.75], [0.1, 0.9]]))
    0.01
    >>> output_resolution(np.array([[2.0**-24, 1 - 2.0**-24]]))
    0.0
    >>> output_resolution(np.array([[0.123456789, 0.876543211], [0.05, 0.95], [0.42, 0.58]]))
    1e-09
    """
    array = np.asarray(values)
    if array.dtype == np.float16:
        return 2.0**-10
    p = array.astype(np.float64)
    if p.shape[-1] == 2 and p.ndim == 2 and np.array_equal(p[:, 0], 1.0 - p[:, 1]):
        p = p[:, 1:]
    seen = np.unique(narrowed(p))
    # The last numbers before 1 are those that saturation leaves, next to every decimal.
    seen = seen[(seen > 0) & (seen < 1 - BEFORE_ONE * np.finfo(seen.dtype).eps)]
    if seen.size == 0:
        return 0.0
    for decimals in range(1, MOST_DIGITS + 1):
        if decimals == PLAIN_DECIMALS + 1:
            step = _common_step(seen)
            if step > 0 and step >= number_spacing(seen) and _unlikely(step, seen):
                return step
        # A few of numbers that were not rounded show that already.
        if _have_decimals(seen[:FEW_DIFFERENT], decimals) and _have_decimals(seen, decimals):
            quantum = float(f"1e-{decimals}")
            return quantum if decimals <= PLAIN_DECIMALS or _unlikely(quantum, seen) else 0.0
    return 0.0


def _have_decimals(seen: NDArray[np.floating], decimals: int) -> bool:
    """Whether all numbers are multiples of 10^-decimals, within a spacing of theirs."""
    near = np.round(seen.astype(np.float64), decimals).astype(seen.dtype)
    return bool(np.all(np.abs(seen - near) <= np.spacing(near)))


def _unlikely(quantum: float, seen: NDArray[np.floating]) -> bool:
    """Whether numbers that were not rounded would hardly all be multiples, within a spacing of theirs to either side."""
    if seen.size < FEW_DIFFERENT:  # perhaps the ends at which a model cuts its answers off
        return False
    chance = 3.0 * np.spacing(seen).astype(np.float64) / quantum
    return float(np.minimum(np.log10(chance), 0.0).sum()) < -UNLIKELY


def narrowed(values: NDArray[np.floating]) -> NDArray[np.floating]:
    """The same numbers, as float32 where it holds all of them.

    >>> narrowed(np.array([0.25, 0.5])).dtype, narrowed(np.array([0.1, 0.5])).dtype
    (dtype('float32'), dtype('float64'))
    """
    short = values.astype(np.float32)
    return short if np.array_equal(short, values) else values


def _common_step(values: NDArray[np.floating]) -> float:
    """1/N where all numbers from 0 to 1 are multiples of it, N as 7 to 16 bits make it (256, 255); 0 where there is none.

    Args:
        values: (n,) sorted and different; the distance of two neighbours is some step, or a few.

    >>> _common_step(np.array([3, 8, 21, 33, 40, 77, 95, 120, 121, 250]) / 255) == 1 / 255
    True
    >>> _common_step(np.sort(np.random.default_rng(0).random(20)))
    0.0
    """
    if values.size < FEW_WITH_A_STEP:
        return 0.0
    wide = values.astype(np.float64)
    least = float(np.diff(wide, prepend=0.0, append=1.0).min())
    for steps in range(1, MOST_STEPS + 1):
        step = least / steps
        if step < SHORTEST:
            break
        for value in wide[:MOST_LOOKED_AT]:  # the larger the number, the better it says how long a step is
            count = round(value / step)
            if count == 0 or abs(value / step - count) > CLEARLY:
                break
            step = value / count
        else:
            whole = round(1.0 / step)
            near = (np.rint(wide * whole) / whole).astype(values.dtype)
            if whole in QUANTISED and bool((np.abs(values - near) <= np.spacing(near)).all()):
                return 1.0 / whole
    return 0.0


def are_float32_below_range(values: Array) -> bool:
    """Whether numbers of less than 1e-40 are those of float32, which has few digits there: multiples of 2^-149.

    They may have come as text, or divided by a sum of nearly 1.

    >>> are_float32_below_range(np.array([4e-45, 3e-44])), are_float32_below_range(np.array([3.3e-45]))
    (True, False)
    """
    units = values / FLOAT32_LEAST
    if bool((np.abs(units - np.rint(units)) <= DIVIDED * units).all()):
        return True
    return _are_float32_text(np.unique(values)[:MOST_LOOKED_AT])


def _are_float32_text(values: NDArray[np.floating]) -> bool:
    """Whether each number is what its nearest float32 is written as."""
    return all(float(str(np.float32(value))) == value for value in values)
