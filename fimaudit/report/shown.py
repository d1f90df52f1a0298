"""The few inputs that a page shows: the run keeps them in ``shown.npz``, because the page is made without the data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fimaudit.results import Sensitivity
from fimaudit.storage.counterexamples import gathered_witnesses
from fimaudit.storage.durable_files import replacing, writing

__all__ = ["SHOWN_FILE", "ShownInput", "keep_shown", "most_sensitive", "read_shown"]

SHOWN_FILE = "shown.npz"
MOST_SHOWN = 8
#: Larger inputs are not kept: a page could not show them.
MOST_NUMBERS = 1_000_000


@dataclass(frozen=True)
class ShownInput:
    """One input, and where known its most sensitive direction and a displaced input that changes the decision."""

    x: NDArray[Any]
    direction: NDArray[Any] | None
    witness: NDArray[Any] | None


def most_sensitive(inputs: Sequence[Sensitivity], count: int = MOST_SHOWN) -> list[Sensitivity]:
    """The inputs with the smallest margin radius; where none is measured, those with the largest norm."""

    def key(s: Sensitivity) -> tuple[float, float, int]:
        radius, norm = s.margin_radius.value, s.spectral_norm.value
        return (np.inf if radius is None else radius, 0.0 if norm is None else -norm, s.index)

    measured = [s for s in inputs if s.margin_radius.value is not None or s.spectral_norm.value is not None]
    return sorted(measured, key=key)[:count]


def keep_shown(folder: str | Path, x: NDArray[Any] | Mapping[int, NDArray[Any]], inputs: Sequence[Sensitivity]) -> None:
    """Keep the inputs that the page will show in the run folder.

    With each goes what the audit left there of it: its most sensitive direction (``directions/00012.npy``), and a displaced
    input that changes the decision (``witness.npz``).

    Args:
        folder: the run folder.
        x: (n, \\*shape) all inputs of the data, in the model's input units, or the most sensitive ones by position.
        inputs: the measured ones.
    """
    place, chosen = Path(folder), most_sensitive(inputs)
    if not chosen or x[chosen[0].index].size > MOST_NUMBERS:
        with writing(place / SHOWN_FILE):
            (place / SHOWN_FILE).unlink(missing_ok=True)
        return
    arrays: dict[str, Any] = {
        "index": np.array([s.index for s in chosen]),
        "x": np.stack([x[s.index] for s in chosen]),
    }
    witnesses = gathered_witnesses(place)
    for s in chosen:
        for name, array in (("direction", _left_direction(place, s.index)), ("witness", witnesses.get(s.index))):
            if array is not None:
                arrays[f"{name}_{s.index}"] = np.asarray(array).reshape(x[s.index].shape)
    with replacing(place / SHOWN_FILE) as file:
        np.savez_compressed(file, **arrays)


def _left_direction(folder: Path, index: int) -> NDArray[Any] | None:
    path = folder / "directions" / f"{index:05d}.npy"
    return np.asarray(np.load(path, allow_pickle=False)) if path.exists() else None


def read_shown(folder: Path) -> dict[int, ShownInput]:
    """The kept inputs by index; none where the file is missing or no archive of arrays."""
    path = folder / SHOWN_FILE
    if not path.exists():
        return {}
    try:
        with np.load(path, allow_pickle=False) as archive:
            held = {name: archive[name] for name in archive.files}
    except Exception:  # a page without pictures is better than no page
        return {}
    if "index" not in held or "x" not in held or len(held["index"]) != len(held["x"]):
        return {}
    return {
        int(i): ShownInput(x, held.get(f"direction_{i}"), held.get(f"witness_{i}"))
        for i, x in zip(held["index"].tolist(), held["x"], strict=True)
    }
