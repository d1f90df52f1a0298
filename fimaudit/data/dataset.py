"""What an audit is about: the inputs, in memory or as a stream, checked against the model, within a domain that is fixed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fimaudit.data.arrays import Inputs, InputSource, Row, check_inputs, fitting, table_inputs
from fimaudit.data.held_beside import held_beside
from fimaudit.data.images import as_model_takes
from fimaudit.data.objects import as_array, found_arrays, named_classes
from fimaudit.data.streams import Stream, Surveyor, look_at, open_data
from fimaudit.data.table_reading import TableReading
from fimaudit.data.tables import is_table
from fimaudit.domain import InputDomain
from fimaudit.errors import DataError
from fimaudit.models.classes import ClassLabels, class_labels
from fimaudit.models.classifier import ModelInfo
from fimaudit.models.columns import arranged, coded, column_cells
from fimaudit.models.opening import is_endpoint
from fimaudit.models.packing import pack_held
from fimaudit.results import Sensitivity
from fimaudit.space import Space

__all__ = ["AuditDataset", "LabelledStream", "about", "as_data", "hold_by_input", "open_subject"]

#: Of a stream, so many inputs are tried for the shape of one.
FIRST = 16
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
        labels: the model's classes, by which labels were matched.
        notes: sentences for the user.
        audited: the domain of the audited numbers, where ``space`` has others behind.
    """

    data: Inputs | Stream
    source: InputSource
    reference: Inputs
    x: NDArray[Any]
    numbers: NDArray[np.int64]
    domain: InputDomain
    space: Space
    labels: ClassLabels = field(default_factory=ClassLabels)
    notes: tuple[str, ...] = ()
    audited: Space | None = None

    @property
    def stated(self) -> Space:
        """The domain for the report: of the audited numbers alone, without what is held behind them."""
        return self.audited or self.space

    def __len__(self) -> int:
        return len(self.source)

    @property
    def complete(self) -> NDArray[np.int64]:
        """Which of ``x`` the first questions are about: those without gaps, or all where each has some."""
        gaps = self.space.missing(self.x)
        whole = np.arange(len(self.x)) if gaps is None else np.flatnonzero(~gaps.reshape(len(gaps), -1).any(axis=1))
        return whole if whole.size else np.arange(len(self.x))

    def arrays(self, results: Sequence[Sensitivity]) -> Mapping[int, NDArray[Any]]:
        """The inputs of some results as they were given, by position."""
        indices = sorted(s.index for s in results)
        return {i: row.x for i, row in zip(indices, self.data.rows(indices), strict=True) if row.x is not None}


@dataclass(frozen=True)
class LabelledStream:
    """A stream whose labels are columns of the answer, with what is held behind each input's numbers.

    An input whose label matches no class cannot be measured.
    """

    stream: Stream
    labels: ClassLabels
    dtype: str

    def __len__(self) -> int:
        return len(self.stream)

    @property
    def starts(self) -> list[int]:
        """See ``Stream``."""
        return self.stream.starts

    def rows(self, indices: Iterable[int]) -> Iterator[Row]:
        """See ``InputSource``."""
        packing = self.stream.packing
        for read in self.stream.rows(indices):
            row = read
            if packing is not None and row.x is not None and row.held is not None:
                row = replace(row, x=packing.packed(row.x[None], row.held[None], self.dtype)[0])
            if row.y is None:
                yield row
                continue
            try:
                yield replace(row, y=int(self.labels.positions([row.y])[0]))
            except DataError as exc:
                yield Row(None, None, row.group, str(exc))


def as_data(
    x: Any, y: Any, group: Any, surveyor: Surveyor | None = None, reading: TableReading | None = None
) -> Inputs | Stream:
    """Arrays, tables, a file, a folder, a glob or a URL as data.

    Args:
        x: the inputs.
        y: labels, or the name of a table's column of labels; group: likewise.
        surveyor: as for ``open_data``.
        reading: how tables are read.
    """
    reading = reading or TableReading()
    if isinstance(y, str):
        reading, y = replace(reading, label=y), None
    if isinstance(group, str):
        reading, group = replace(reading, group=group), None
    for values, what in ((y, "labels"), (group, "groups")):
        _refuse_another_order(x, values, what)
    if isinstance(x, str | Path):
        data = open_data(x, surveyor, reading)
    elif isinstance(x, Inputs | Stream):
        data = x
    elif is_table(x):
        data = replace(table_inputs(x, reading), classes=named_classes(x, reading.label))
    else:
        found = found_arrays(x)
        data = Inputs(found.x, found.y, images=found.images, classes=found.classes)
    if isinstance(data, Inputs):
        if np.asarray(data.x).dtype.kind not in "fiub":
            dtype = np.asarray(data.x).dtype
            what = "an array of records; save the table as Parquet or CSV" if dtype.names else f"dtype {dtype}"
            raise DataError(f"expected inputs that are real numbers, got {what}")
        labels, called = (data.y, data.classes) if y is None else (np.asarray(y), ())
        return replace(data, y=labels, classes=called, group=data.group if group is None else np.asarray(group))
    if y is not None or group is not None:
        raise DataError(
            "data in several files brings its labels and groups itself: columns or arrays y and group, or folders"
        )
    return data


def _refuse_another_order(x: Any, values: Any, what: str) -> None:
    """Refuse labels whose pandas index is that of the table in another order: by position they would be those of others."""
    rows, own = (getattr(one, "index", None) for one in (x, values))
    if rows is None or own is None or not (hasattr(rows, "equals") and hasattr(own, "equals")):
        return
    if rows.is_unique and len(rows) == len(own) and not rows.equals(own) and set(rows) == set(own):
        raise DataError(f"the {what} have the table's index in another order; give them in the table's: {what}.loc[x.index]")


def about(data: Inputs | Stream, model: object = None) -> dict[str, Any]:
    """What an adapter needs to know of the data when it opens ``model``: options of ``open_classifier``."""
    if data.names is not None and is_endpoint(model):
        return {**about(data), "data_columns": list(data.names)}  # a table's header names what its rows are sent under
    if data.packing is not None:
        return {"table": data.columns, "packing": data.packing}
    if isinstance(data, Stream):
        first = None if data.columns or data.images else next(data.rows([0])).x
        return {"table": data.columns} if data.columns else {} if first is None else {"data": first.dtype.name}
    if not data.columns:
        return {"data": data.x.dtype.name}
    return {"table": data.columns, **({"data": "table"} if data.frame else {})}


def hold_by_input(data: Inputs | Stream, hold: Mapping[str, Any]) -> tuple[Inputs | Stream, dict[str, Any]]:
    """Take what is held for each input into the data, and leave the constants.

    Args:
        data: the inputs.
        hold: by the name of the model's input: a constant, (n, ...) values of n inputs, or ``column:NAME`` of a table.

    Raises:
        DataError: a column that is not there, or values whose meaning is open.
    """
    constants, each, columns = dict(hold), {}, {}
    for name, given in hold.items():
        if isinstance(given, str) and given.startswith("column:"):
            columns[name] = _place(data, given.removeprefix("column:"))
            constants.pop(name)
            continue
        values = as_array(given)
        if values.ndim == 0 or len(values) != len(data):
            continue
        if values.ndim == 1 and len(data) > 1:
            raise DataError(
                f"there are {len(data)} inputs and as many values to hold {name!r} at: one for each, or the same for all? "
                f"Give shape ({len(data)}, 1) for one number an input, or ({len(data)}, {len(values)}) with a row for each"
            )
        if values.ndim > 1:
            each[name] = values
            constants.pop(name)
    if not each and not columns:
        return data, constants
    if isinstance(data, Stream):
        beside = held_beside(data.columns, columns, each, _shape_without(data, len(columns)), len(data))
        return replace(data, held=beside), constants
    for name, place in columns.items():
        each[name] = column_cells(data.columns[place], data.x[:, place])[:, None]
    data = _without(data, sorted(columns.values()))
    packing, numbers = pack_held(each, as_model_takes(data.x[0], None, "uint8").shape if data.images else data.x.shape[1:])
    if not np.isfinite(numbers).all():
        raise DataError("expected finite values to hold for each input, got NaN or infinite ones")
    return replace(data, packing=packing, held=numbers), constants


def _place(data: Inputs | Stream, name: str) -> int:
    """Where a column of the table stands."""
    names = list(data.names or ())
    if name not in names:
        raise DataError(f"--hold names the column {name!r}, but the data has {', '.join(names[:30]) or 'no columns'}")
    return names.index(name)


def _shape_without(data: Stream, taken: int) -> tuple[int, ...]:
    """Shape of a stream's inputs without so many columns; of images as they are decoded where no model says how."""
    first = next((row.x for row in data.rows(range(min(len(data), FIRST))) if row.x is not None), None)
    if first is None:
        raise DataError(f"none of the first inputs at {data.source} can be read")
    return (first.size - taken,) if taken else first.shape


def _without(data: Inputs, places: Sequence[int]) -> Inputs:
    """The table without some columns."""
    if not places:
        return data
    names = data.names or ()
    rest = [i for i in range(len(names)) if i not in places]
    return replace(
        data,
        x=data.x[:, rest],
        names=tuple(names[i] for i in rest),
        whole=tuple(n for n in data.whole if n not in [names[i] for i in places]),
        columns=tuple(data.columns[i] for i in rest),
    )


def open_subject(
    data: Inputs | Stream, info: ModelInfo, domain: InputDomain, free: Sequence[str], labels: ClassLabels | None = None
) -> AuditDataset:
    """Check the data against the model and fix the domain.

    Args:
        data: the inputs.
        info: of the model.
        domain: as asked for.
        free: whole-number columns of a table that may change.
        labels: the model's classes; labels are columns' numbers when left out.

    Raises:
        DataError, DomainError: what does not fit. Of a stream only what stands for it is looked at; the rest is checked
            input by input as it is measured.
    """
    labels = labels or class_labels(info)
    data, labels, notes = _of_named_classes(data, labels)
    if data.names is not None:
        if not info.takes_columns:
            _refuse_columns(data, info)
        fixed = coded(data.columns)
        whole = [name for name in data.names if name in data.whole or name in _categories(data, info)]
        domain = domain.for_table(data.names, [name for name in whole if name not in fixed], free, fixed)
    elif "all" not in free:
        domain = domain.also_frozen([i for i in info.categorical if str(i) not in free])
    domain = domain.with_defaults(info.details.get("domain"))
    expected = info.input_shape if data.packing is None else data.packing.shape
    if data.images and info.dtype != "uint8":
        domain = domain.with_defaults(IMAGE_BOUNDS)
    if isinstance(data, Inputs):
        reference = check_inputs(data.for_model(expected, info.dtype) if data.images else data, expected, labels)
        numbers = np.arange(len(reference))
    else:
        data = data.for_model(expected, info.dtype)
        reference, numbers = look_at(data, expected, labels)
    audited = _resolved(domain, reference, info)
    good: Any = slice(None)
    if isinstance(data, Stream):
        good = [i for i in range(len(reference)) if _fits(reference.x[i], audited)]
    x = reference.x[good]
    x, space = audited.admit(x if len(x) else reference.x), audited  # where none fits, says why
    if data.packing is not None and reference.held is not None:
        x, space = data.packing.packed(x, reference.held[good], info.dtype), audited.beside(data.packing.held)
    given: Inputs | Stream = reference if isinstance(data, Inputs) else data
    source: InputSource = replace(reference, x=x) if isinstance(data, Inputs) else LabelledStream(data, labels, info.dtype)
    return AuditDataset(given, source, reference, x, numbers[good], domain, space, labels, notes, audited)


def _resolved(domain: InputDomain, inputs: Inputs, info: ModelInfo) -> Space:
    """The domain fixed against the data; numbers that stand for missing ones count as gaps."""
    if not info.missing_marks or inputs.x.ndim != 2:
        return domain.resolve(inputs.x, info.dtype)
    marks = np.full(inputs.x.shape[1], np.nan)
    order = _order(inputs, info)
    for place, mark in info.missing_marks:
        if place < len(order):
            marks[order[place]] = mark
    gaps = inputs.x == marks
    return replace(domain.resolve(np.where(gaps, np.nan, inputs.x) if gaps.any() else inputs.x, info.dtype), marks=marks)


def _order(data: Inputs | Stream, info: ModelInfo) -> list[int]:
    """The position in the data of each of the model's features."""
    if data.columns and info.feature_names is not None:
        return arranged(data.columns, info.feature_names, info.name)
    shape = data.x.shape[1:] if isinstance(data, Inputs) else (len(data.columns),)
    return list(range(int(np.prod(shape))))


def _categories(data: Inputs | Stream, info: ModelInfo) -> list[str]:
    """Names of the columns that the model was fitted on as categories."""
    if not info.categorical or data.names is None:
        return []
    order = _order(data, info)
    return [data.names[order[i]] for i in info.categorical if i < len(order)]


def _of_named_classes(data: Inputs | Stream, labels: ClassLabels) -> tuple[Inputs | Stream, ClassLabels, tuple[str, ...]]:
    """Labels of data that name their classes (folders, a data set's own list) by name, where the model does too."""
    classes, shown = data.classes, labels.shown
    if not classes or labels.finding is not None or all(name.isdigit() for name in classes):
        return data, labels, ()
    if shown is not None and set(classes) <= set(shown):
        return _called(data), labels, ()
    if shown is not None:
        if not isinstance(data, Inputs) or set(classes) & set(shown):
            return _called(data), labels, ()  # matching them says what is wrong
        said = f"the data call their classes {', '.join(classes[:20])}, the model its own {', '.join(shown[:20])}"
        return data, labels, (f"{said}; labels are taken by their positions",)
    if labels.columns not in (None, len(classes)):
        raise DataError(
            f"{data.source} has {len(classes)} classes ({', '.join(classes[:20])}), but the model has {labels.columns}, "
            "without names; name them in the model's order with --classes a,b,c"
        )
    said = f"the model does not name its classes; they are taken to be those of the data: {', '.join(classes[:20])}"
    return _called(data), replace(labels, names=classes), (f"{said}; give --classes where its order is another",)


def _called(data: Inputs | Stream) -> Inputs | Stream:
    """The same with labels that are names instead of positions in the data's own list."""
    if not isinstance(data, Inputs) or data.y is None:
        return data
    places = ClassLabels(names=data.classes).positions(np.asarray(data.y).tolist())
    return replace(data, y=np.array(data.classes, dtype=object)[places])


def _refuse_columns(data: Inputs | Stream, info: ModelInfo) -> None:
    """What a model that takes plain rows of numbers cannot be given."""
    text = coded(data.columns)
    if text:
        raise DataError(
            f"{info.name} takes numbers, but column {text[0]!r} holds text, categories or dates; encode it as the model was "
            "trained, leave it out with --drop, or give the pipeline that takes the table as it is"
        )
    wanted = info.feature_names
    if wanted is None or data.names is None:  # numbers without names go by their order
        return
    if data.columns:
        in_order = arranged(data.columns, wanted, info.name) == list(range(len(data.columns)))
    else:
        in_order = list(data.names) == list(wanted)
    if not in_order:
        raise DataError(
            f"{info.name} takes the columns {', '.join(wanted)} in this order, but the data has {', '.join(data.names)}; "
            "reorder them"
        )


def _fits(x: NDArray[Any], space: Space) -> bool:
    try:
        fitting(x, space)
    except DataError:
        return False
    return True
