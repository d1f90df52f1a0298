"""Names of the study's metrics as the page shows them, and small pieces of Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

__all__ = ["FOLDER", "WORDS", "cost", "interval", "median_of", "picture", "spread_of", "table"]

#: Of the pictures, beside the page.
FOLDER = "study"

WORDS = {
    "margin_radius": "margin radius",
    "smallest_radius": "shortest radius of the profile",
    "peak_spectral_norm": "peak norm",
    "spectral_norm": "spectral norm (lambda)",
    "margin_radius_white": "margin radius, derivatives",
    "peak_spectral_norm_white": "peak norm, derivatives",
    "spectral_norm_white": "spectral norm, derivatives",
    "label_radius": "radius from labels alone",
    "rayleigh_max": "rayleigh_max, black box",
    "rayleigh_max_white": "rayleigh_max, white box",
    "clever": "CLEVER",
    "great_score": "GREAT score",
    "local_lipschitz": "local Lipschitz of the probabilities",
    "loss_gradient": "loss gradient norm",
    "trace": "trace of F",
    "attacks": "PGD, Carlini-Wagner and DeepFool together",
    "ddn": "DDN, 2 starts of 150 steps",
    "autoattack": "AutoAttack at one eps",
    "hopskipjump": "HopSkipJump, 2,000 rows",
}


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def interval(values: Sequence[float | None]) -> str:
    """``0.95 [0.90, 0.98]``."""
    value, lower, upper = values
    if value is None or lower is None or upper is None:
        return "-"
    return f"{value:.2f} [{lower:.2f}, {upper:.2f}]"


def spread_of(row: Mapping[str, Any] | None, form: str = ".3f", factor: float = 1.0) -> str:
    """``0.950 (0.940 to 0.960)``: a median with its interval over networks."""
    if row is None or row["median"] is None:
        return "-"
    value, lower, upper = (format(factor * row[key], form) for key in ("median", "lower", "upper"))
    return f"{value} ({lower} to {upper})"


def median_of(row: Mapping[str, Any] | None, form: str = ".2f") -> str:
    """The median alone."""
    return "-" if row is None or row["median"] is None else format(row["median"], form)


def cost(row: Mapping[str, Any]) -> str:
    """Rows an input: ``200 + 0``."""
    return "-" if row["forward"] is None else f"{row['forward']:,.0f} + {row['backward'] or 0:,.0f}"


def picture(name: str, words: str) -> str:
    """A picture of the page, with words for those who do not see it."""
    return f"![{words}]({FOLDER}/{name}.svg)"
