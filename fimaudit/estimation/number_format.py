"""In which numbers answers came: float32, few digits or bits, steps, or float64; and what each cannot tell apart."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "FEW_DIFFERENT",
    "FLOAT32_SPACING",
    "FLOAT64_SPACING",
    "are_float32_below_range",
    "common_step",
    "number_spacing",
]

Array = NDArray[np.float64]

#: Distance of the numbers just below 1.
FLOAT32_SPACING, FLOAT64_SPACING = 2.0**-24, 2.0**-53
#: The least positive number of float32.
FLOAT32_LEAST = 2.0**-149
#: From here on float64 tells every decimal number from its neighbours.
MOST_DIGITS = 15
#: Fewer different numbers have few digits by chance.
FEW_DIFFERENT = 6
#: Of fewer numbers all may be multiples of two steps by chance.
FEW_WITH_A_STEP = 10
#: Numbers whose digits are looked at.
MOST_LOOKED_AT = 400
#: A step is looked for up to so many times between neighbours.
MOST_STEPS = 8
#: Steps from 0 to 1 that 7 to 16 bits make; of any other number they are votes, whose jumps are the model's own.
QUANTISED = frozenset(2**bits - less for bits in range(7, 17) for less in (0, 1))
#: A shorter step is none of theirs.
SHORTEST = 2.0**-17
#: By how much of a step a multiple of it may seem off while the step is known roughly.
CLEARLY = 0.2
#: What a division by a sum of nearly 1 may change a number of float32 by.
DIVIDED = 2e-6


def number_spacing(values: Array) -> float:
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
    seen = seen[:: max(1, len(seen) // MOST_LOOKED_AT)]
    if seen.size == 0:
        return FLOAT64_SPACING
    exact = np.array_equal(seen, seen.astype(np.float32))
    spacing = FLOAT32_SPACING if exact or _are_float32_text(seen) else FLOAT64_SPACING
    if seen.size < FEW_DIFFERENT:
        return spacing
    written = [float(str(np.float32(value))) for value in seen] if exact else [float(value) for value in seen]
    digits = MOST_DIGITS + 1
    while digits > 1 and all(float(f"{value:.{digits - 2}e}") == value for value in written):
        digits -= 1
    decimal = 0.0 if digits > MOST_DIGITS else float(f"1e-{digits}")
    return max(spacing, decimal, _binary_spacing(seen))


def _binary_spacing(values: Array) -> float:
    """2^-b of numbers whose b bits are fewer than those of float64: float32 has 24, float16 11, bfloat16 8."""
    mantissa, _ = np.frexp(values)
    bits = next((b for b in range(1, 53) if np.array_equal(mantissa * 2.0**b, np.rint(mantissa * 2.0**b))), 53)
    return float(2.0**-bits)


def common_step(values: NDArray[np.floating]) -> float:
    """1/N where all numbers from 0 to 1 are multiples of it, N as 7 to 16 bits make it (256, 255); 0 where there is none.

    Args:
        values: (n,) sorted and different; the distance of two neighbours is some step, or a few.

    >>> common_step(np.array([3, 8, 21, 33, 40, 77, 95, 120, 121, 250]) / 255) == 1 / 255
    True
    >>> common_step(np.sort(np.random.default_rng(0).random(20)))
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


def _are_float32_text(values: Array) -> bool:
    """Whether each number is what its nearest float32 is written as."""
    return all(float(str(np.float32(value))) == value for value in values)
