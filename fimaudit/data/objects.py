"""Objects that hold inputs, as arrays: tensors, lists of them, images, data loaders and data sets. Imports no framework."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fimaudit.data.images import levels
from fimaudit.errors import DataError
from fimaudit.foreign_errors import foreign, one_line

__all__ = ["INPUT_KEYS", "FoundArrays", "as_array", "found_arrays", "is_hugging_face", "named_classes"]

#: Keys under which a sample that is a dictionary holds its input and its label.
INPUT_KEYS = ("x", "input", "inputs", "pixel_values", "image", "img", "images", "features", "data")
LABEL_KEYS = ("y", "label", "labels", "target")


@dataclass(frozen=True)
class FoundArrays:
    """What an object holds.

    Attributes:
        x: inputs (n, \\*shape).
        y: labels, where there are any.
        images: whether the inputs are decoded images.
        classes: names of all its classes, of which the labels are positions, where it has them.
    """

    x: NDArray[Any]
    y: NDArray[Any] | None = None
    images: bool = False
    classes: tuple[str, ...] = ()


def found_arrays(x: Any) -> FoundArrays:
    """Inputs, and labels where the object brings them.

    Args:
        x: an array or a tensor, sparse, masked or with a gradient; a list of these or of PIL images; a torch
            ``DataLoader`` or ``Dataset``, or anything that can be gone through whose items are inputs, pairs of input and
            label, or dictionaries.

    Raises:
        DataError: inputs of several shapes, or an object that holds none.
    """
    if is_image(x):
        raise DataError("expected several inputs, got one image; put it into a list")
    if isinstance(x, np.ndarray) or hasattr(x, "__array__") or _is_tensor(x) or hasattr(x, "toarray"):
        return FoundArrays(as_array(x))
    loaded = getattr(x, "dataset", None)
    batched = loaded is not None and not _has_places(loaded) and getattr(x, "batch_size", None) is not None
    if loaded is not None and hasattr(x, "batch_size") and _has_places(loaded):
        # A loader may shuffle: inputs keep their places in the data set, or are those that its sampler is given.
        some, collate = _sampled(x), getattr(x, "collate_fn", None)
        if collate is not None and not getattr(collate, "__name__", "").startswith("default_"):
            places = range(len(loaded)) if some is None else some
            x, batched = [collate([loaded[i]]) for i in places], True  # it may change what the model sees
        else:
            x = loaded if some is None else [loaded[i] for i in some]
    if isinstance(x, list | tuple) and not any(is_image(v) or _is_tensor(v) or _is_sample(v) for v in x):
        return FoundArrays(_stacked([as_array(v) for v in x]) if _ragged(x) else as_array(x))
    samples = _samples(x)
    if not samples:
        raise DataError("expected at least one input, got none")
    pairs = [_pair(sample) for sample in samples]
    images = is_image(pairs[0][0])
    inputs = [levels(one) if images else as_array(one) for one, _ in pairs]
    labels = [label for _, label in pairs]
    known = all(label is not None for label in labels)
    if batched:
        each = np.concatenate([np.atleast_1d(as_array(v)) for v in labels]) if known else None
        return FoundArrays(np.concatenate(inputs), each, classes=named_classes(loaded))
    return FoundArrays(_stacked(inputs), _labels(labels) if known else None, images, named_classes(x))


def is_hugging_face(x: object) -> bool:
    """Whether it is a data set of ``datasets``."""
    return any(c.__module__.partition(".")[0] == "datasets" for c in type(x).__mro__) and hasattr(x, "column_names")


def named_classes(x: Any, label: str | None = None) -> tuple[str, ...]:
    """Names of a data set's classes, in the order in which its labels count them; none where it does not say.

    Args:
        x: a data set of Hugging Face's, or one with a list ``classes``, as torchvision's have it.
        label: its column of labels, found when left out.
    """
    while type(x).__name__ == "Subset" and hasattr(x, "dataset"):
        x = x.dataset
    features = getattr(x, "features", None)
    if is_hugging_face(x) and isinstance(features, Mapping):
        names = next((features[k] for k in ((label,) if label else LABEL_KEYS) if k in features), None)
        names = getattr(names, "names", None)
    else:
        names = getattr(x, "classes", None)
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        return ()
    return tuple(names)


def _sampled(loader: Any) -> list[int] | None:
    """Places that a loader takes out of its data set; ``None`` for all of them.

    Raises:
        DataError: a sampler that draws as it likes.
    """
    own = loader.batch_sampler if loader.batch_size is None else None
    sampler = getattr(own, "sampler", own) if own is not None else getattr(loader, "sampler", None)
    if sampler is None or type(sampler).__name__ in ("SequentialSampler", "RandomSampler", "_InfiniteConstantSampler"):
        return None
    some = getattr(sampler, "indices", sampler)
    if not isinstance(some, list | tuple | range | np.ndarray) and not _is_tensor(some):
        raise DataError(
            f"the loader draws its inputs by {type(sampler).__name__}, each time others; give the data set itself, or a "
            "Subset of it"
        )
    return [int(i) for one in some for i in np.atleast_1d(np.asarray(one))]


def _has_places(x: Any) -> bool:
    """Whether its items can be asked for one by one."""
    return hasattr(type(x), "__getitem__") and hasattr(type(x), "__len__")


def _samples(x: Any) -> list[Any]:
    """The items of an object in their order."""
    kind = type(x).__name__
    if isinstance(x, Mapping):
        columns = x.values()
        if not is_hugging_face(x) and all(isinstance(v, list | tuple) and np.ndim(v[:1]) == 1 for v in columns):
            raise DataError("expected inputs, got a dict of columns; make a table of it: pandas.DataFrame(x)")
        what = "its splits" if is_hugging_face(x) else "its entries"
        raise DataError(f"expected inputs, got a {kind} of {', '.join(map(str, list(x)[:10]))}; give one of {what}")
    try:
        return [x[i] for i in range(len(x))] if _has_places(x) else list(x)
    except Exception as exc:
        what = "collect it first" if hasattr(x, "collect") else foreign(exc)
        raise DataError(f"expected inputs as an array, a table, a file, a data set or a list, got {kind} ({what})") from exc


def _labels(labels: Sequence[Any]) -> NDArray[Any]:
    """One label an input, or a row of them."""
    if np.ndim(as_array(labels[0])):
        return _stacked([as_array(label) for label in labels])
    plain = np.empty(len(labels), dtype=object)
    plain[:] = [v.item() if hasattr(v, "item") else v for v in labels]
    return plain


def as_array(x: Any) -> NDArray[Any]:
    """One object of numbers as an array: without gradient, dense, in a type that numpy has, NaN where it is masked.

    Raises:
        DataError: no array.
    """
    if isinstance(x, np.ma.MaskedArray):
        return np.asarray(np.ma.filled(x.astype(np.float64), np.nan))
    try:
        return _of_tensor(x) if _is_tensor(x) else np.asarray(x.toarray() if hasattr(x, "toarray") else x)
    except Exception as exc:  # an object's own __array__ raises what it likes
        raise DataError(
            f"expected x as one array (inputs, *shape), got inputs of different shapes or kinds (labels go apart, as y): "
            f"{one_line(exc)}"
        ) from exc


def _of_tensor(x: Any) -> NDArray[Any]:
    import torch

    plain = x.detach()
    plain = plain.dequantize() if plain.is_quantized else plain
    plain = (plain.to_dense() if plain.layout != torch.strided else plain).cpu()
    has_type = not plain.is_floating_point() or plain.dtype in (torch.float16, torch.float32, torch.float64)
    return np.asarray((plain if has_type else plain.float()).resolve_conj().numpy())


def _ragged(x: Sequence[Any]) -> bool:
    return any(isinstance(v, np.ma.MaskedArray) or hasattr(v, "toarray") for v in x)


def _is_tensor(x: object) -> bool:
    return any((c.__module__, c.__name__) == ("torch", "Tensor") for c in type(x).__mro__)


def _is_sample(x: object) -> bool:
    """A dictionary, or a pair whose first is no number."""
    pair = isinstance(x, tuple) and len(x) == 2 and not np.isscalar(x[0])
    return isinstance(x, Mapping) or pair or _is_longer(x)


def _is_longer(x: object) -> bool:
    return isinstance(x, tuple) and len(x) > 2 and (_is_tensor(x[0]) or is_image(x[0]) or isinstance(x[0], np.ndarray))


def is_image(x: object) -> bool:
    return any(c.__module__ == "PIL.Image" and c.__name__ == "Image" for c in type(x).__mro__)


def _pair(sample: Any) -> tuple[Any, Any]:
    """Input and label of one sample."""
    if isinstance(sample, Mapping):
        key = next((k for k in INPUT_KEYS if k in sample), None)
        if key is None:
            raise DataError(
                f"expected samples with one of {', '.join(INPUT_KEYS)}, got {', '.join(map(str, sample))}; "
                "of records make a table: pandas.DataFrame(x)"
            )
        return sample[key], next((sample[k] for k in LABEL_KEYS if k in sample), None)
    if isinstance(sample, tuple | list) and len(sample) == 2 and not np.isscalar(sample[0]):
        return sample[0], sample[1]
    if isinstance(sample, tuple | list) and len(sample) == 1:
        return sample[0], None
    if _is_longer(sample):
        raise DataError(
            f"expected samples of an input, or of an input and its label, got {len(sample)} parts; give these two"
        )
    return sample, None


def _stacked(arrays: Sequence[NDArray[Any]]) -> NDArray[Any]:
    shapes = {a.shape for a in arrays}
    if len(shapes) > 1:
        first, second = sorted(shapes)[:2]
        raise DataError(f"expected inputs of one shape, got {first} and {second}; resize them as the model wants them")
    return np.stack(arrays)
