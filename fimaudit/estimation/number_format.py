"""In which numbers answers came: float32, significant decimal digits, or float64; and what each cannot tell apart."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["FLOAT32_SPACING", "FLOAT64_SPACING", "are_float32_below_range", "number_spacing"]

Array = NDArray[np.float64]

#: Distance of the numbers just below 1.
FLOAT32_SPACING, FLOAT64_SPACING = 2.0**-24, 2.0**-53
#: The least positive number of float32.
FLOAT32_LEAST = 2.0**-149
#: From here on float64 tells every decimal number from its neighbours.
MOST_DIGITS = 15
#: Numbers whose digits are looked at.
MOST_LOOKED_AT = 400
#: What a division by a sum of nearly 1 may change a number of float32 by.
DIVIDED = 2e-6


def number_spacing(values: Array) -> float:
    """The distance of neighbouring numbers just below 1 in the format that answers came in.

    float32 has 2^-24, also where its numbers were written as the shortest text that says which they are; s significant
    digits have 10^-s; else it is float64's 2^-53.

    Args:
        values: probabilities of any shape.

    >>> number_spacing(np.array([0.1, 1.0 / 3.0])) == FLOAT64_SPACING
    True
    >>> number_spacing(np.array([0.33333334, 1.1920929e-07])) == FLOAT32_SPACING
    True
    >>> number_spacing(np.array([0.3333, 1.192e-07]))
    0.0001
    """
    seen = np.unique(values[(values > 0) & (values < 1)])
    seen = seen[:: max(1, len(seen) // MOST_LOOKED_AT)]
    if seen.size == 0:
        return FLOAT64_SPACING
    exact = np.array_equal(seen, seen.astype(np.float32))
    written = [float(str(np.float32(value))) for value in seen] if exact else [float(value) for value in seen]
    digits = MOST_DIGITS + 1
    while digits > 1 and all(float(f"{value:.{digits - 2}e}") == value for value in written):
        digits -= 1
    format_spacing = FLOAT32_SPACING if exact or _are_float32_text(seen) else FLOAT64_SPACING
    return format_spacing if digits > MOST_DIGITS else max(format_spacing, float(f"1e-{digits}"))


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
