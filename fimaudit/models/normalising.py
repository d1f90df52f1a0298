"""The affine step before a network, so that inputs, bounds and the metric are in pixels as they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fimaudit.errors import DataError, UsageError

__all__ = ["Normalize", "read_normalize"]


@dataclass(frozen=True)
class Normalize:
    """z = (x - mean) / std, by channel: what a network is fed, where the audit is of x.

    Attributes:
        mean, std: one number, or one a channel: the first axis of an input that has as many, else the last.

    >>> Normalize((0.5,), (0.25,))(np.array([[1.0, 0.5]])).tolist()
    [[2.0, 0.0]]
    """

    mean: Sequence[float]
    std: Sequence[float]

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std) or not self.mean:
            raise UsageError(f"expected as many numbers in std as in mean, got {len(self.std)} and {len(self.mean)}")
        if not all(np.isfinite([*self.mean, *self.std])) or min(self.std) <= 0:
            raise UsageError("expected finite numbers in mean and std, std above 0")

    def __call__(self, rows: Any) -> Any:
        """(B, \\*shape) inputs, arrays or tensors, as the network is fed.

        Raises:
            DataError: no axis with as many channels.
        """
        count, shape = len(self.mean), rows.shape[1:]
        if count > 1 and count not in (shape[:1] + shape[-1:]):
            raise DataError(
                f"mean and std hold {count} channels, but inputs of shape {tuple(shape)} have no axis of {count}"
            )
        first = count == 1 or shape[0] == count
        axes = (1, count, *[1] * (len(shape) - 1)) if first else (*[1] * len(shape), count)
        if isinstance(rows, np.ndarray):
            mean, std = (np.asarray(v, dtype=rows.dtype).reshape(axes) for v in (self.mean, self.std))
        else:
            mean, std = (rows.new_tensor(list(v)).reshape(axes) for v in (self.mean, self.std))
        return (rows - mean) / std


def read_normalize(preprocess: Any, mean: Any = None, std: Any = None) -> Normalize | None:
    """The step that was asked for: an object with ``mean`` and ``std`` (torchvision's ``Normalize``), or both apart.

    Raises:
        UsageError: one of the two without the other, or something else.
    """
    if preprocess is not None:
        mean, std = getattr(preprocess, "mean", None), getattr(preprocess, "std", None)
        if mean is None or std is None:
            raise UsageError(
                f"expected preprocess with mean and std (Normalize(mean, std)), got {type(preprocess).__name__}; put any "
                "other step into the model"
            )
    if (mean is None) != (std is None):
        raise UsageError("expected --mean and --std together, got one of them")
    if mean is None:
        return None
    try:
        given = [v.split(",") if isinstance(v, str) else np.atleast_1d(np.asarray(v, float)).tolist() for v in (mean, std)]
        return Normalize(*(tuple(float(number) for number in numbers) for numbers in given))
    except (TypeError, ValueError) as exc:
        raise UsageError(f"expected mean and std as numbers (0.485,0.456,0.406), got {mean!r} and {std!r}") from exc
