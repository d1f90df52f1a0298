"""Objects that hold inputs, as arrays: tensors, lists of them, images, data loaders and data sets. Imports no framework."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fimaudit.errors import DataError

__all__ = ["FoundArrays", "as_array", "found_arrays"]

#: Keys under which a sample that is a dictionary holds its input and its label.
INPUT_KEYS = ("x", "input", "inputs", "pixel_values", "image", "img", "images", "features", "data")
LABEL_KEYS = ("y", "label", "labels", "target")


@dataclass(frozen=True)
class FoundArrays:
    """What an object holds: inputs (n, \\*shape), labels where there are any, and whether the inputs are decoded images."""

    x: NDArray[Any]
    y: NDArray[Any] | None = None
    images: bool = False


def found_arrays(x: Any) -> FoundArrays:
    """Inputs, and labels where the object brings them.

    Args:
        x: an array or a tensor, sparse, masked or with a gradient; a list of these or of PIL images; a torch
            ``DataLoader`` or ``Dataset``, or anything with a length and items that are inputs, pairs of input and label, or
            dictionaries.
    Raises:
        DataError: inputs of several shapes, or an object that holds none.
    """
    if _is_image(x):
        raise DataError("expected several inputs, got one image; put it into a list")
    if isinstance(x, np.ndarray) or hasattr(x, "__array__") or _is_tensor(x) or hasattr(x, "toarray"):
        return FoundArrays(as_array(x))
    loaded = getattr(x, "dataset", None)
    if loaded is not None and hasattr(loaded, "__getitem__") and hasattr(loaded, "__len__"):
        x = loaded  # a loader may shuffle: inputs keep their places in the data set
    if isinstance(x, list | tuple) and not any(_is_image(v) or _is_tensor(v) or _is_sample(v) for v in x):
        return FoundArrays(_stacked([as_array(v) for v in x]) if _ragged(x) else as_array(x))
    try:
        batched = loaded is not None and x is not loaded
        samples = list(x) if batched or not hasattr(x, "__getitem__") else [x[i] for i in range(len(x))]
    except TypeError as exc:
        raise DataError(
            f"expected inputs as an array, a table, a file, a data set or a list, got {type(x).__name__}"
        ) from exc
    if not samples:
        raise DataError("expected at least one input, got none")
    pairs = [_pair(sample) for sample in samples]
    images = _is_image(pairs[0][0])
    inputs = [_pixels(one) if images else as_array(one) for one, _ in pairs]
    labels = [label for _, label in pairs]
    known = all(label is not None for label in labels)
    if batched:
        return FoundArrays(
            np.concatenate(inputs), np.concatenate([np.atleast_1d(as_array(v)) for v in labels]) if known else None
        )
    y = np.array([v.item() if hasattr(v, "item") else v for v in labels], dtype=object) if known else None
    return FoundArrays(_stacked(inputs), y, images)


def as_array(x: Any) -> NDArray[Any]:
    """One object of numbers as an array: without gradient, dense, in a type that numpy has, NaN where it is masked.

    Raises:
        DataError: no array.
    """
    if isinstance(x, np.ma.MaskedArray):
        return np.asarray(np.ma.filled(x.astype(np.float64), np.nan))
    if _is_tensor(x):
        plain = x.detach()
        plain = plain.dequantize() if plain.is_quantized else plain
        plain = (plain.to_dense() if plain.layout != _strided(x) else plain).cpu()
        return np.asarray(
            (plain.float() if str(plain.dtype) in ("torch.bfloat16", "torch.float8_e4m3fn") else plain).numpy()
        )
    if hasattr(x, "toarray"):
        return np.asarray(x.toarray())
    try:
        return np.asarray(x)
    except (ValueError, TypeError, RuntimeError) as exc:
        what = " ".join(str(exc).split())[:200]
        raise DataError(
            f"expected x as one array (inputs, *shape), got inputs of different shapes or kinds: {what}"
        ) from exc


def _ragged(x: Sequence[Any]) -> bool:
    return any(isinstance(v, np.ma.MaskedArray) or hasattr(v, "toarray") for v in x)


def _is_tensor(x: object) -> bool:
    return any((c.__module__, c.__name__) == ("torch", "Tensor") for c in type(x).__mro__)


def _is_sample(x: object) -> bool:
    """A dictionary, or a pair whose first is no number."""
    return isinstance(x, Mapping) or (isinstance(x, tuple) and len(x) == 2 and not np.isscalar(x[0]))


def _strided(x: Any) -> Any:
    import torch

    return torch.strided


def _is_image(x: object) -> bool:
    return any(c.__module__ == "PIL.Image" and c.__name__ == "Image" for c in type(x).__mro__)


def _pixels(image: Any) -> NDArray[Any]:
    """(H, W) or (H, W, 3) levels."""
    return np.asarray(image if image.mode == "L" else image.convert("RGB"))


def _pair(sample: Any) -> tuple[Any, Any]:
    """Input and label of one sample."""
    if isinstance(sample, Mapping):
        key = next((k for k in INPUT_KEYS if k in sample), None)
        if key is None:
            raise DataError(f"expected samples with one of {', '.join(INPUT_KEYS)}, got {', '.join(map(str, sample))}")
        return sample[key], next((sample[k] for k in LABEL_KEYS if k in sample), None)
    if isinstance(sample, tuple | list) and len(sample) == 2 and not np.isscalar(sample[0]):
        return sample[0], sample[1]
    if isinstance(sample, tuple | list) and len(sample) == 1:
        return sample[0], None
    return sample, None


def _stacked(arrays: Sequence[NDArray[Any]]) -> NDArray[Any]:
    shapes = {a.shape for a in arrays}
    if len(shapes) > 1:
        first, second = sorted(shapes)[:2]
        raise DataError(f"expected inputs of one shape, got {first} and {second}; resize them as the model wants them")
    return np.stack(arrays)
