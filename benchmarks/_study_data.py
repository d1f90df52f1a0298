"""The study's data: real sets that ship with scikit-learn, and CIFAR-10 and MedMNIST from files that the user has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_breast_cancer, load_digits
from torch import nn

from fimaudit.errors import DataError

__all__ = [
    "CIFAR_MEAN",
    "CIFAR_STD",
    "Split",
    "balanced_part",
    "breast_cancer",
    "cifar10",
    "digits",
    "features_of",
    "medmnist",
    "resized",
]

#: Channel statistics of CIFAR-10's training images: the networks are fed normalised pixels, as is usual there.
CIFAR_MEAN, CIFAR_STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
CIFAR_FILES = [f"data_batch_{i}.bin" for i in range(1, 6)], "test_batch.bin"
CIFAR_RECORD = 3073


@dataclass(frozen=True)
class Split:
    """A data set in the units that the networks are fed.

    Attributes:
        name: of the data set.
        x, y: (n, *shape) float32 and (n,) labels to train on.
        test_x, test_y: the same, not trained on, in random order.
        classes: how many.
        lower, upper: bounds of every feature, scalars or arrays of one input's shape; ``None`` for none.
        unit: name of the input unit.
    """

    name: str
    x: np.ndarray
    y: np.ndarray
    test_x: np.ndarray
    test_y: np.ndarray
    classes: int
    lower: float | np.ndarray | None
    upper: float | np.ndarray | None
    unit: str

    @property
    def image(self) -> bool:
        """Whether an input is (channels, height, width)."""
        return self.x.ndim == 4


def digits() -> Split:
    """scikit-learn's digits, 8 x 8 scaled up to 28 x 28, pixels in [0, 1]; half to train on."""
    images, labels = load_digits(return_X_y=True)
    small = torch.tensor(images.reshape(-1, 1, 8, 8) / 16.0, dtype=torch.float32)
    x = nn.functional.interpolate(small, size=(28, 28), mode="bilinear", align_corners=False).numpy()
    return _halves("digits", x, labels, 10, 0.0, 1.0, "pixel in [0, 1]")


def breast_cancer() -> Split:
    """scikit-learn's breast cancer table, standardised; half to train on."""
    table, labels = load_breast_cancer(return_X_y=True)
    x = ((table - table.mean(axis=0)) / table.std(axis=0)).astype(np.float32)
    return _halves("breast_cancer", x, labels, 2, None, None, "standard deviation of the feature")


def cifar10(folder: Path, train: int | None = None) -> Split:
    """CIFAR-10 from its binary version (``data_batch_1.bin`` ... ``test_batch.bin``), pixels normalised a channel.

    Args:
        folder: ``cifar-10-batches-bin``.
        train: how many training images to take, all when left out.

    Raises:
        DataError: a file is missing or of the wrong size.
    """
    parts = [_cifar_file(folder / name) for name in CIFAR_FILES[0]]
    x, y = (np.concatenate(part)[:train] for part in zip(*parts, strict=True))
    test_x, test_y = _cifar_file(folder / CIFAR_FILES[1])
    mean, std = (np.array(v, dtype=np.float32).reshape(3, 1, 1) for v in (CIFAR_MEAN, CIFAR_STD))
    normal = [((part.astype(np.float32) / 255 - mean) / std).astype(np.float32) for part in (x, test_x)]
    lower, upper = (np.broadcast_to((edge - mean) / std, x.shape[1:]).astype(float) for edge in (0.0, 1.0))
    order = np.random.default_rng(0).permutation(len(test_x))
    return Split("cifar10", normal[0], y, normal[1][order], test_y[order], 10, lower, upper, "normalised pixel")


def medmnist(file: Path) -> Split:
    """A MedMNIST file: ``.npz`` with ``train_images``, ``train_labels``, ``test_images``, ``test_labels``; pixels in [0, 1].

    Raises:
        DataError: not such a file.
    """
    try:
        with np.load(file) as archive:
            x, y, test_x, test_y = (archive[f"{a}_{b}"] for a in ("train", "test") for b in ("images", "labels"))
    except (OSError, ValueError, KeyError) as exc:
        raise DataError(f"expected a MedMNIST .npz with train_images, train_labels, ..., got {file}: {exc}") from exc
    if y.ndim != 2 or y.shape[1] != 1:
        raise DataError(f"expected one label an image, got labels of shape {y.shape} in {file.name}")
    images = [_planes(part) for part in (x, test_x)]
    order = np.random.default_rng(0).permutation(len(test_x))
    labels, test_labels = y[:, 0].astype(np.int64), test_y[:, 0].astype(np.int64)
    classes = int(labels.max()) + 1
    unit = "pixel in [0, 1]"
    return Split(file.stem, images[0], labels, images[1][order], test_labels[order], classes, 0.0, 1.0, unit)


def resized(split: Split, side: int) -> Split:
    """The same images at another size, bilinear; the name says it."""

    def scaled(images: np.ndarray) -> np.ndarray:
        return nn.functional.interpolate(
            torch.tensor(images), size=(side, side), mode="bilinear", align_corners=False
        ).numpy()

    return replace(split, name=f"{split.name}{side}", x=scaled(split.x), test_x=scaled(split.test_x))


def balanced_part(split: Split, most: int, times: int = 2) -> Split:
    """The same with at most ``most`` training images, of no class more than so many times those of the rarest."""
    counts = np.bincount(split.y, minlength=split.classes)
    each = min(times * int(counts.min()), max(most // split.classes, 1))
    rows = np.sort(np.concatenate([np.flatnonzero(split.y == k)[:each] for k in range(split.classes)]))
    return replace(split, x=split.x[rows], y=split.y[rows])


def features_of(cell: Mapping[str, Any], splits: Mapping[str, Split]) -> int:
    """Features of one input: given networks say it themselves, the others' is that of their data set."""
    found: int = cell["features"] if "features" in cell else splits[cell["dataset"]].x[0].size
    return found


def _planes(images: np.ndarray) -> np.ndarray:
    """Bytes (n, h, w) or (n, h, w, 3) to float32 (n, channels, h, w) in [0, 1]."""
    subspaces = images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2)
    return np.ascontiguousarray(subspaces, dtype=np.float32) / 255


def _cifar_file(path: Path) -> tuple[np.ndarray, np.ndarray]:
    if not path.exists():
        raise DataError(f"no such file: {path}; give the folder of CIFAR-10's binary version")
    raw = np.fromfile(path, dtype=np.uint8)
    if raw.size == 0 or raw.size % CIFAR_RECORD:
        raise DataError(f"expected records of {CIFAR_RECORD} bytes in {path}, got {raw.size} bytes")
    records = raw.reshape(-1, CIFAR_RECORD)
    return records[:, 1:].reshape(-1, 3, 32, 32), records[:, 0].astype(np.int64)


def _halves(
    name: str, x: np.ndarray, y: np.ndarray, classes: int, lower: float | None, upper: float | None, unit: str
) -> Split:
    order = np.random.default_rng(0).permutation(len(x))
    fit, test = order[: len(x) // 2], order[len(x) // 2 :]
    y = y.astype(np.int64)
    return Split(name, x[fit], y[fit], x[test], y[test], classes, lower, upper, unit)
