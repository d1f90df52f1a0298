"""Which input of an ONNX model is audited, which are held, which output is read, and in what types."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fimaudit.errors import DataError, ModelFailure, TargetError
from fimaudit.models.columns import TableColumn, arranged, column_cells
from fimaudit.models.normalising import Normalize
from fimaudit.models.packing import Packing

__all__ = [
    "HeldInput",
    "Port",
    "choose_input",
    "choose_output",
    "column_port",
    "fits",
    "held_inputs",
    "holds_labels",
    "packed_port",
    "spelled",
]

_DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    **{f"tensor({kind})": kind for kind in ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64")},
}
_HELD_DTYPES = {**_DTYPES, "tensor(bool)": "bool", "tensor(string)": "object"}
_LABELS = ("tensor(string)", "tensor(bool)", *(t for t, kind in _DTYPES.items() if np.dtype(kind).kind in "iu"))
_SCORES = ("tensor(float)", "tensor(float16)", "tensor(double)")


#: What can be done with an output that holds classes.
_LABELS_ONLY = ", or audit its classes alone with --link labels"


@dataclass(frozen=True)
class ColumnSource:
    """An input of one column: its name, numpy dtype, the table's column, and that column's place in a row of numbers."""

    name: str
    dtype: str
    column: TableColumn
    place: int
    axes: int

    @property
    def discrete(self) -> bool:
        """Whether its type has nothing between two values."""
        return self.dtype == "object" or np.dtype(self.dtype).kind in "iub"

    def feed(self, rows: NDArray[Any]) -> NDArray[Any]:
        """(B, 1) cells of the column, or (B,), in the input's type.

        Raises:
            ModelFailure: an input of whole numbers or truth values can hold no gap and no fraction.
        """
        cells = column_cells(self.column, rows[:, self.place])
        if self.dtype == "object":
            whole = self.column.kind == "whole"
            texts = ["" if cell != cell else str(int(cell) if whole else cell) for cell in cells.tolist()]
            cells = np.array(texts, dtype=object)
        elif self.discrete:
            with np.errstate(invalid="ignore"):
                odd = np.flatnonzero(cells.astype(self.dtype) != cells)
            if odd.size:
                what = "nothing can be missing" if cells[odd[0]] != cells[odd[0]] else f"{cells[odd[0]]} has no place"
                raise ModelFailure(f"the model takes {self.dtype} in column {self.name!r}, in which {what}")
        return np.ascontiguousarray(cells.astype(self.dtype).reshape(-1, *[1] * (self.axes - 1)))


@dataclass(frozen=True)
class Port:
    """The audited input: its name, numpy dtype, and declared shape with the batch axis (``None``: rank unknown).

    Attributes:
        name, dtype, shape: of the rows of numbers; ``name`` is the first input of a model with an input a column.
        sources: of a model with an input a column, where each comes from.
        packing: of rows that hold values for further inputs behind the audited one.
        axes: batch axis of such inputs, where it is not the first.
        normalise: what is done with the audited input before it is sent.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...] | None
    sources: tuple[ColumnSource, ...] = ()
    packing: Packing | None = None
    axes: Mapping[str, int] = field(default_factory=dict)
    normalise: Normalize | None = None

    @property
    def names(self) -> list[str]:
        """The model's inputs that a row of numbers makes."""
        if self.sources:
            return [source.name for source in self.sources]
        return [self.name, *(part.name for part in (self.packing.parts if self.packing is not None else ()))]

    def feeds(self, rows: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """The model's inputs from rows of numbers; of one row without its axis, the input as it is."""
        if self.sources:
            return {source.name: source.feed(rows) for source in self.sources}
        if self.packing is None:
            return {self.name: self._sent(rows)}
        audited, held = self.packing.split(rows)
        made = {part.name: part.restored(held[part.name]) for part in self.packing.parts}
        made = {name: np.ascontiguousarray(np.moveaxis(v, 0, self.axes.get(name, 0))) for name, v in made.items()}
        return {self.name: np.ascontiguousarray(self._sent(audited)), **made}

    def _sent(self, rows: NDArray[Any]) -> NDArray[Any]:
        return rows if self.normalise is None else np.ascontiguousarray(self.normalise(rows))

    @property
    def batch(self) -> int | None:
        """Declared length of the first axis, ``None`` where it is free."""
        return None if self.shape is None else self.shape[0]


@dataclass(frozen=True)
class HeldInput:
    """An input that stays constant: the value goes in as it is, or is repeated along a batch axis, ``axis`` or the first."""

    name: str
    value: NDArray[Any]
    batched: bool
    axis: int | None = None

    def feed(self, rows: int) -> NDArray[Any]:
        """What is sent beside ``rows`` rows of the audited input."""
        if self.axis is not None:
            return np.repeat(self.value, rows, axis=self.axis)
        if not self.batched:
            return self.value
        return np.ascontiguousarray(np.broadcast_to(self.value, (rows, *self.value.shape)))


def choose_input(inputs: Sequence[Any], graph: Any, wanted: str | None, hold: Mapping[str, Any]) -> Port:
    """The audited input among the session's, by ``--input``, or the only one that is not held.

    Raises:
        TargetError: no such input, several to choose from, or one that does not hold numbers.
    """
    names = [i.name for i in inputs]
    if not names:
        raise TargetError("the model has no inputs, so there is nothing to audit")
    free = [name for name in names if name not in hold]
    if wanted is not None and wanted not in names:
        raise TargetError(f"the model has no input {wanted!r}; --input takes one of {_quoted(names)}")
    if wanted is not None and wanted in hold:
        raise TargetError(f"input {wanted!r} is both audited and held; drop it from --input or from --hold")
    if wanted is None and len(free) != 1:
        held = " and none of them is left to audit" if not free else ""
        raise TargetError(
            f"the model has {len(names)} inputs, {_described(inputs)}{held}; name the audited one with --input NAME "
            "and give a value for each of the others with --hold NAME=VALUE"
        )
    chosen = inputs[names.index(wanted if wanted is not None else free[0])]
    if chosen.type not in _DTYPES:
        raise TargetError(f"input {chosen.name!r} is a {chosen.type}; an audited input must be a tensor of numbers")
    shape = _declared(chosen, graph)
    if shape == ():
        raise TargetError(f"input {chosen.name!r} is a single number without axes; expected a batch of inputs")
    return Port(chosen.name, _DTYPES[chosen.type], shape)


def column_port(inputs: Sequence[Any], graph: Any, columns: Sequence[TableColumn], hold: Mapping[str, Any]) -> Port | None:
    """The port of a model that has an input for each column of the table; ``None`` for any other model.

    Raises:
        DataError: some of its inputs are columns of the table, others are not.
    """
    wanted = [i for i in inputs if i.name not in hold]
    shapes = [_declared(i, graph) for i in wanted]
    single = all(s is not None and len(s) in (1, 2) and s[1:] in ((), (1,)) for s in shapes)
    if len(wanted) < 2 or not columns or not single or any(i.type not in _HELD_DTYPES for i in wanted):
        return None
    order = arranged(columns, [i.name for i in wanted])
    sources = tuple(
        ColumnSource(i.name, _HELD_DTYPES[i.type], columns[place], place, len(shape or ()))
        for i, place, shape in zip(wanted, order, shapes, strict=True)
    )
    for source in sources:
        text = source.column.kind in ("text", "category") and any(isinstance(v, str) for v in source.column.values)
        if (text and source.dtype != "object") or (source.dtype == "object" and source.column.kind == "number"):
            takes, came = (source.dtype, "text") if text else ("text", "fractions")
            raise DataError(f"the model takes {takes} in column {source.name!r}, but the data has {came}; give it as fitted")
    dtype = "float64" if any(s.dtype in ("float64", "int64") for s in sources) else "float32"
    return Port(wanted[0].name, dtype, ((shapes[0] or (None,))[0], len(columns)), sources)


def packed_port(port: Port, inputs: Sequence[Any], graph: Any, packing: Packing) -> Port:
    """The port of rows that hold values for other inputs behind the audited one, each in its declared shape and type.

    Raises:
        TargetError: no such input, or values of another shape.
    """
    declared, parts, axes = {i.name: i for i in inputs}, [], {}
    for part in packing.parts:
        if part.name not in declared or part.name == port.name:
            raise TargetError(f"--hold names {part.name!r}, but the inputs beside {port.name!r} are {_quoted([*declared])}")
        kind = declared[part.name].type
        shape = _declared(declared[part.name], graph) or (None, *part.shape)
        axis = shape.index(None) if None in shape else 0
        row = tuple(n for i, n in enumerate(shape) if i != axis)
        if kind not in _HELD_DTYPES or not (fits(part.shape, row) or (part.size == 1 and all(n in (1, None) for n in row))):
            raise TargetError(
                f"the values held for {part.name!r} have shape {part.shape} an input, but the model declares "
                f"{spelled(row)} ({kind})"
            )
        parts.append(replace(part, shape=part.shape if fits(part.shape, row) else (1,) * len(row), dtype=_HELD_DTYPES[kind]))
        axes[part.name] = axis
    if port.shape is not None and not fits(packing.shape, port.shape[1:]):
        raise TargetError(f"input {port.name!r} takes shape {spelled(port.shape[1:])}, but x holds {packing.shape}")
    batch = None if port.shape is None else port.shape[0]
    rows = (batch, packing.features + packing.held)
    return Port(port.name, port.dtype, rows, packing=replace(packing, parts=tuple(parts)), axes=axes)


def held_inputs(inputs: Sequence[Any], graph: Any, port: Port, hold: Mapping[str, Any]) -> list[HeldInput]:
    """The values of every other input, in its type; each has the shape of one input, without the batch axis.

    Raises:
        TargetError: a value is missing, of the wrong shape or type, or for an input that is not there.
    """
    others = [i for i in inputs if i.name not in port.names]
    if unknown := [name for name in hold if name not in [i.name for i in inputs]]:
        raise TargetError(f"--hold names {_quoted(unknown)}, but the model's inputs are {_quoted([i.name for i in inputs])}")
    if missing := [i for i in others if i.name not in hold]:
        raise TargetError(
            f"the model has further inputs, {_described(missing)}; give a value for each with --hold NAME=VALUE"
        )
    return [_held(i, _declared(i, graph), port, hold[i.name]) for i in others]


def choose_output(outputs: Sequence[Any], wanted: str | int | None, *, labels: bool = False) -> Any:
    """The output to read: by name or position, the only one, or the one that holds probabilities by type, shape, name.

    Args:
        outputs: the session's.
        wanted: name or position.
        labels: whether classes will do: the only output of whole numbers or text comes first.

    Raises:
        TargetError: no such output, labels instead of scores, or more than one that would do.
    """
    names = [o.name for o in outputs]
    if wanted is not None:
        chosen = outputs[_position(names, wanted)]
        if labels and holds_labels(chosen):
            return chosen
        if not _holds_scores(chosen):
            rest = [o.name for o in outputs if _holds_scores(o)]
            better = f"name one of {_quoted(rest)} with --output" if rest else "no output of this model holds any"
            raise TargetError(
                f"output {chosen.name!r} is a {chosen.type}, expected probabilities or logits; {better}{_LABELS_ONLY}"
            )
        return chosen
    classes = [o for o in outputs if holds_labels(o)] if labels else []
    if len(classes) == 1:
        return classes[0]
    scores = [o for o in outputs if _holds_scores(o)]
    if not scores:
        raise TargetError(
            f"expected an output of probabilities or logits, got {_described(outputs)}, which hold labels or the like; "
            f"export the model with its probabilities{_LABELS_ONLY}"
        )
    rows = [o for o in scores if _could_be_rows(o)]
    named = [o for o in rows if "prob" in o.name.lower()]
    for candidates in (scores, rows, named):
        if len(candidates) == 1:
            return candidates[0]
    raise TargetError(f"the model has several outputs that could be read, {_described(scores)}; name one with --output NAME")


def _held(declaration: Any, shape: tuple[int | None, ...] | None, port: Port, given: Any) -> HeldInput:
    name = declaration.name
    if declaration.type not in _HELD_DTYPES:
        raise TargetError(f"input {name!r} is a {declaration.type} and cannot be held; expected a tensor")
    dtype = _HELD_DTYPES[declaration.type]
    try:
        value = np.ascontiguousarray(np.asarray(given).astype(dtype)).reshape(np.shape(given))
    except (TypeError, ValueError) as exc:
        raise TargetError(f"the value held for input {name!r} does not convert to {dtype}: {exc}") from exc
    if shape is None:
        return HeldInput(name, value, batched=True)
    if shape and shape[0] in (None, port.batch) and fits(value.shape, shape[1:]):
        return HeldInput(name, value, batched=True)
    if shape and shape[0] is None and value.shape[:1] == (1,) and fits(value.shape[1:], shape[1:]):
        return HeldInput(name, value[0], batched=True)
    free = [i for i, n in enumerate(shape) if n is None]
    if len(free) == 1 and free[0] > 0:  # a recurrent state (layers, batch, features): one row's value, for each row
        row = np.expand_dims(value, free[0]) if value.ndim == len(shape) - 1 else value
        if fits(row.shape, shape) and row.shape[free[0]] == 1:
            return HeldInput(name, row, batched=False, axis=free[0])
    if fits(value.shape, shape):
        return HeldInput(name, value, batched=False)
    expected = shape[1:] if shape and shape[0] in (None, port.batch) else shape
    raise TargetError(f"the value held for input {name!r} has shape {value.shape}, expected {spelled(expected)}")


def fits(shape: tuple[int, ...], declared: tuple[int | None, ...]) -> bool:
    """Whether an array of this shape is one of the declared shape, ``None`` for an axis of any length."""
    return len(shape) == len(declared) and all(d is None or d == n for n, d in zip(shape, declared, strict=True))


def _declared(declaration: Any, graph: Any) -> tuple[int | None, ...] | None:
    """The declared shape; onnxruntime gives [] both for a scalar and for an unknown rank, the graph tells them apart."""
    if not declaration.shape:
        for value in graph.input:
            if value.name == declaration.name and not value.type.tensor_type.HasField("shape"):
                return None
    return tuple(n if isinstance(n, int) and n > 0 else None for n in declaration.shape)


def _position(names: list[str], wanted: str | int) -> int:
    if wanted in names:
        return names.index(str(wanted))
    if str(wanted).lstrip("-").isdigit() and -len(names) <= int(wanted) < len(names):
        return int(wanted)
    raise TargetError(
        f"the model has no output {wanted!r}; --output takes one of {_quoted(names)} or a position, 0 to {len(names) - 1}"
    )


def holds_labels(output: Any) -> bool:
    """Whether an output holds whole numbers, truth values or text, which are classes."""
    return output.type in _LABELS


def _holds_scores(output: Any) -> bool:
    return output.type in _SCORES or ("map(" in output.type and output.type.rstrip(")").endswith(("float", "double")))


def _could_be_rows(output: Any) -> bool:
    """(N, K), (N,), (N, K, 1, ...) or of unknown shape; lists of maps always."""
    return output.type not in _SCORES or all(n == 1 for n in output.shape[2:])


def _described(values: Sequence[Any]) -> str:
    return ", ".join(f"{v.name!r} ({v.type} {list(v.shape)})" if v.shape else f"{v.name!r} ({v.type})" for v in values)


def _quoted(names: Sequence[str]) -> str:
    return ", ".join(repr(name) for name in names)


def spelled(shape: tuple[int | None, ...]) -> str:
    """A declared shape in a sentence."""
    return "(" + ", ".join("any" if n is None else str(n) for n in shape) + ")"
