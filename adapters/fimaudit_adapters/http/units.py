"""Rates and times as a person writes them in an endpoint file."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BeforeValidator, Field

__all__ = ["Rate", "Seconds"]

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}


def _rate(value: object) -> object:
    """``20/s``, ``100/min``, ``5000/h`` or a number a second."""
    if not isinstance(value, str):
        return value
    found = re.fullmatch(r"\s*([0-9.]+)\s*(?:/\s*(s|sec|second|min|minute|h|hour))?\s*", value)
    if found is None:
        raise ValueError("expected a rate like 20/s, 100/min or 5000/h")
    return float(found[1]) / _UNITS[(found[2] or "s")[0]]


def _seconds(value: object) -> object:
    """``90``, ``90s``, ``15m``, ``2h`` in seconds."""
    if not isinstance(value, str):
        return value
    found = re.fullmatch(r"\s*([0-9.]+)\s*(s|sec|m|min|h|hour)?\s*", value)
    if found is None:
        raise ValueError("expected a time like 90s, 15m or 2h")
    return float(found[1]) * _UNITS[(found[2] or "s")[0]]


Rate = Annotated[float, BeforeValidator(_rate), Field(gt=0)]
Seconds = Annotated[float, BeforeValidator(_seconds), Field(ge=0)]
