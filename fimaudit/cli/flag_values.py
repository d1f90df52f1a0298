"""What stands behind a flag, read: numbers, arrays from files, names, pairs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from fimaudit.errors import DataError, DomainError, UsageError

__all__ = ["held", "names_or_mask", "number_or_file", "one_of_two", "output_choice", "pair", "query_count", "scale_choice"]

SCALES = ("raw", "std", "range")


def one_of_two(resume: bool, overwrite: bool) -> Literal["refuse", "resume", "overwrite"]:
    """What to do with a run that is there."""
    if resume and overwrite:
        raise UsageError("expected one of --resume and --overwrite, got both")
    return "resume" if resume else "overwrite" if overwrite else "refuse"


def pair(item: str, wanted: str) -> tuple[str, str]:
    """``name=value`` as the two."""
    name, equals, value = item.partition("=")
    if not equals or not name:
        raise UsageError(f"expected {wanted}, got {name!r} without a value")
    return name, value


def held(items: list[str] | None) -> Mapping[str, Any]:
    """``name=value`` pairs to constants, to values of each input (``.npy`` with a row for each), or columns of the data."""
    pairs = [pair(item, "--hold name=number, name=file.npy or name=column:NAME") for item in items or []]
    return {
        name: value if value.startswith("column:") else np.asarray(number_or_file(value, "--hold")) for name, value in pairs
    }


def names_or_mask(text: str | None, flag: str) -> Any:
    """Names or positions between commas, or a boolean mask from a .npy file."""
    if text is None:
        return None
    if text.endswith(".npy"):
        return number_or_file(text, flag)
    return [item.strip() for item in text.split(",") if item.strip()]


def query_count(text: str) -> int | Literal["auto"]:
    """A whole number, or ``auto``."""
    if text == "auto":
        return "auto"
    try:
        return int(text)
    except ValueError:
        raise UsageError(f"expected --queries as a whole number or auto, got {text!r}") from None


def scale_choice(text: str | None) -> str | ArrayLike | None:
    """``raw``, ``std``, ``range``, a number, or an array from a .npy file."""
    return text if text in SCALES else number_or_file(text, "--scale", f"{', '.join(SCALES)}, a number")


def number_or_file(text: str | None, flag: str, otherwise: str = "a number") -> ArrayLike | None:
    """A number, or an array from a .npy file."""
    if text is None:
        return None
    try:
        return float(text)
    except ValueError:
        pass
    path = Path(text)
    if path.suffix != ".npy" or not path.exists():
        raise DomainError(f"{flag} expects {otherwise} or an existing .npy file, got {text!r}")
    try:
        array: ArrayLike = np.load(path, allow_pickle=False)
    except Exception as exc:
        raise DataError(f"could not read {path}: {exc}") from exc
    return array


def output_choice(text: str | None) -> str | int | None:
    """A position when it is a number, else a name."""
    return int(text) if text is not None and text.lstrip("-").isdigit() else text
