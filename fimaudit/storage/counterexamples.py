"""Witnesses in the run folder: kept as inputs finish, gathered at the end, asked again by ``fimaudit verify``."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fimaudit.errors import DataError, RunFolderError
from fimaudit.foreign_errors import translated
from fimaudit.models.classifier import Classifier
from fimaudit.models.labels import top_classes
from fimaudit.models.meter import Meter
from fimaudit.perturbations.rows import JoinedRows, PlainRows
from fimaudit.results import Sensitivity
from fimaudit.storage.durable_files import reading, replacing, writing

__all__ = [
    "WITNESS_FILE",
    "Recheck",
    "gather_witnesses",
    "gathered_witnesses",
    "keep_witness",
    "kept_witness",
    "recheck_witnesses",
]

WITNESS_FILE = "witness.npz"
FOLDER = "witness"


def keep_witness(folder: Path, result: Sensitivity) -> None:
    """Save one input's witness at once, so that a killed run loses nothing."""
    if result.witness is not None and result.witness.x is not None:
        with writing(folder / FOLDER):
            (folder / FOLDER).mkdir(exist_ok=True)
        with replacing(folder / FOLDER / f"{result.index}.npy") as file:
            np.save(file, result.witness.x, allow_pickle=False)


def kept_witness(folder: Path, index: int) -> NDArray[Any] | None:
    """One input's witness as an earlier process kept it, gathered or not; ``None`` where there is none."""
    single = _single(folder, index)
    return gathered_witnesses(folder).get(index) if single is None else single


def _single(folder: Path, index: int) -> NDArray[Any] | None:
    path = folder / FOLDER / f"{index}.npy"
    with translated(RunFolderError, f"{path} is damaged"), reading(path):
        return np.asarray(np.load(path, allow_pickle=False)) if path.exists() else None


def gathered_witnesses(folder: Path) -> dict[int, NDArray[Any]]:
    """The witnesses of a run that has ended, by index; none where no file holds any."""
    path = folder / WITNESS_FILE
    if not path.exists():
        return {}
    with translated(RunFolderError, f"{path} is damaged"), reading(path), np.load(path, allow_pickle=False) as archive:
        return dict(zip(archive["index"].tolist(), archive["x"], strict=True))


def gather_witnesses(folder: Path, results: Sequence[Sensitivity]) -> None:
    """Write ``witness.npz``: index, x, class before and after, distance; the single files go.

    Those that an earlier process of the run gathered stay in it.
    """
    before = gathered_witnesses(folder)
    kept = {s.index: _single(folder, s.index) for s in results if s.witness is not None}
    both = {index: before.get(index) if one is None else one for index, one in kept.items()}
    x = {index: one for index, one in both.items() if one is not None}
    having = [s for s in results if s.index in x]
    if having:
        with replacing(folder / WITNESS_FILE) as file:
            np.savez(
                file,
                index=np.array([s.index for s in having]),
                x=np.stack([x[s.index] for s in having]),
                before=np.array([s.predicted_class for s in having]),
                after=np.array([s.witness.predicted_class for s in having if s.witness is not None]),
                distance=np.array([s.witness.distance for s in having if s.witness is not None]),
            )
    shutil.rmtree(folder / FOLDER, ignore_errors=True)


@dataclass(frozen=True)
class Recheck:
    """What the model says of the kept witnesses now.

    Attributes:
        index: (n,) inputs.
        before, after: (n,) classes at the input and at the witness when they were found.
        now: (n,) class at the witness now, asked alone.
        among: (n,) the same, asked among the other witnesses.
    """

    index: NDArray[np.int64]
    before: NDArray[np.int64]
    after: NDArray[np.int64]
    now: NDArray[np.int64]
    among: NDArray[np.int64]

    @property
    def failed(self) -> NDArray[np.int64]:
        """Inputs whose witness no longer changes the decision, alone or among others."""
        return np.asarray(self.index[(self.now == self.before) | (self.among == self.before)])


def recheck_witnesses(folder: Path, classifier: Classifier) -> Recheck:
    """Ask the model again about every witness of a run, alone and among others.

    Raises:
        DataError: the folder holds no witnesses.
    """
    path = folder / WITNESS_FILE
    if not path.exists():
        raise DataError(f"{folder} holds no {WITNESS_FILE}; run the audit with --witness first")
    with translated(RunFolderError, f"{path} is damaged"), reading(path), np.load(path, allow_pickle=False) as archive:
        index, x, before, after = (archive[name] for name in ("index", "x", "before", "after"))
    rows = x.astype(classifier.info.dtype)
    meter = Meter(classifier)
    together = JoinedRows([PlainRows(rows), PlainRows(rows[:1])])  # a single one stands beside itself
    return Recheck(
        index,
        before,
        after,
        top_classes(np.concatenate([meter.ask([PlainRows(rows[i : i + 1])])[0] for i in range(len(rows))])),
        top_classes(meter.ask([together])[0][: len(rows)]),
    )
