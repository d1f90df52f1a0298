"""What an audit is about: the inputs, in memory or as a stream, checked against the model, within a domain that is fixed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fimaudit.data.arrays import Inputs, InputSource, check_inputs, fitting
from fimaudit.data.streams import Counter, Stream, look_at, open_data
from fimaudit.domain import InputDomain, Space
from fimaudit.errors import DataError
from fimaudit.models.classifier import ModelInfo
from fimaudit.results import Sensitivity

__all__ = ["AuditDataset", "as_data", "open_subject"]

#: Bounds of decoded images that are fed as floats.
IMAGE_BOUNDS = {"lower": 0.0, "upper": 1.0}


@dataclass(frozen=True)
class AuditDataset:
    """The data of an audit.

    Attributes:
        data: as given.
        source: what is measured: inputs in memory within the domain, or the stream.
        reference: all inputs in memory, or those that stand for a stream.
        x: (m, \\*shape) the same within the domain.
        numbers: (m,) their positions in the data.
        domain: as asked for, with the model's and the table's defaults.
        space: the domain fixed.
    """

    data: Inputs | Stream
    source: InputSource
    reference: Inputs
    x: NDArray[Any]
    numbers: NDArray[np.int64]
    domain: InputDomain
    space: Space

    def __len__(self) -> int:
        return len(self.source)

    def arrays(self, results: Sequence[Sensitivity]) -> Mapping[int, NDArray[Any]]:
        """The inputs of some results as they were given, by position."""
        indices = sorted(s.index for s in results)
        return {i: row.x for i, row in zip(indices, self.data.rows(indices), strict=True) if row.x is not None}


def as_data(x: Any, y: ArrayLike | None, group: ArrayLike | None, counter: Counter | None = None) -> Inputs | Stream:
    """Arrays, a file, a folder, a glob or a URL as data; ``counter`` as for ``open_data``."""
    if isinstance(x, Inputs | Stream):
        return x
    if isinstance(x, str | Path):
        return open_data(x, counter)
    try:
        array = np.asarray(x)
    except ValueError as exc:
        raise DataError(f"expected x as one array (inputs, *shape), got inputs of different shapes: {exc}") from exc
    labels = None if y is None else np.asarray(y)
    return Inputs(array, labels, None if group is None else np.asarray(group))


def open_subject(data: Inputs | Stream, info: ModelInfo, domain: InputDomain, free: Sequence[str]) -> AuditDataset:
    """Check the data against the model and fix the domain.

    Args:
        data: the inputs.
        info: of the model.
        domain: as asked for.
        free: whole-number columns of a table that may change.

    Raises:
        DataError, DomainError: what does not fit. Of a stream only what stands for it is looked at; the rest is checked
            input by input as it is measured.
    """
    if data.names is not None:
        domain = domain.for_table(data.names, data.whole, free)
    domain = domain.with_defaults(info.details.get("domain"))
    if isinstance(data, Inputs):
        reference = check_inputs(data, info.input_shape)
        space = domain.resolve(reference.x, info.dtype)
        x = space.admit(reference.x)
        return AuditDataset(reference, replace(reference, x=x), reference, x, np.arange(len(x)), domain, space)
    stream = data.for_model(info.input_shape, info.dtype)
    if stream.images and info.dtype != "uint8":
        domain = domain.with_defaults(IMAGE_BOUNDS)
    reference, numbers = look_at(stream, info.input_shape)
    space = domain.resolve(reference.x, info.dtype)
    good = [i for i in range(len(reference)) if _fits(reference.x[i], space)]
    x = space.admit(reference.x[good] if good else reference.x)  # where none fits, says why
    return AuditDataset(stream, stream, reference, x, numbers[good], domain, space)


def _fits(x: NDArray[Any], space: Space) -> bool:
    try:
        fitting(x, space)
    except DataError:
        return False
    return True
