"""Rates and times as a person writes them in an endpoint file."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BeforeValidator, Field

__all__ = ["Rate", "Seconds"]

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}


def _read(value: object, form: str, expected: str) -> tuple[float, float] | None:
    """The number and the seconds of its unit; ``None`` of what is no text."""
    if not isinstance(value, str):
        return None
    found = re.fullmatch(rf"\s*([0-9.]+)\s*{form}\s*", value)
    if found is None:
        raise ValueError(f"expected {expected}")
    return float(found[1]), _UNITS[(found[2] or "s")[0]]


def _rate(value: object) -> object:
    """``20/s``, ``100/min``, ``5000/h`` or a number a second."""
    read = _read(value, r"(?:/\s*(s|sec|second|min|minute|h|hour))?", "a rate like 20/s, 100/min or 5000/h")
    return value if read is None else read[0] / read[1]


def _seconds(value: object) -> object:
    """``90``, ``90s``, ``15m``, ``2h`` in seconds."""
    read = _read(value, "(s|sec|m|min|h|hour)?", "a time like 90s, 15m or 2h")
    return value if read is None else read[0] * read[1]


Rate = Annotated[float, BeforeValidator(_rate), Field(gt=0)]
Seconds = Annotated[float, BeforeValidator(_seconds), Field(ge=0)]
