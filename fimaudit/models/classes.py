"""What a model's classes are called, and which of them a label means: by name, never by chance."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fimaudit.errors import DataError, TargetError, UsageError
from fimaudit.foreign_errors import listed
from fimaudit.models.classifier import ModelInfo

__all__ = ["ClassLabels", "class_labels", "finding_names", "finding_position", "group_name", "read_classes"]

#: Of a model that does not say how many classes it has; beyond this a label is no column.
MOST_CLASSES = 2**31
#: Classes in a command that a sentence suggests.
SHOWN = 20


@dataclass(frozen=True)
class ClassLabels:
    """How labels are matched with the columns of an answer.

    Attributes:
        values: what the model itself calls its classes, column by column (``classes_`` of an estimator); ``None`` where it
            does not say.
        names: what people call them (``--classes``, ``id2label``), likewise.
        columns: number of classes, where it is known.
        finding: of labels that are rows, one value a finding, the one that is meant.
    """

    values: tuple[Any, ...] | None = None
    names: tuple[str, ...] | None = None
    columns: int | None = None
    finding: int | None = None

    @property
    def shown(self) -> tuple[str, ...] | None:
        """The classes' names for people, column by column."""
        if self.names is not None:
            return self.names
        return None if self.values is None else tuple(str(value) for value in self.values)

    def positions(self, labels: Iterable[Any]) -> NDArray[np.int64]:
        """The column that each label means.

        A label is matched by the model's own value, then by name; whole numbers are columns where the model's classes have
        names only, or none.

        Raises:
            DataError: a label that matches no class.

        >>> ClassLabels(values=(3, 5, 9)).positions([9, 3.0, "5"]).tolist()
        [2, 0, 1]
        >>> ClassLabels(names=("benign", "other")).positions([1, 0]).tolist()
        [1, 0]
        """
        labels = list(labels)
        if self.finding is None and labels and all(_is_one_hot(label) for label in labels):
            raise DataError("expected one label for each input, got rows with a single 1 each; give its place: y.argmax(1)")
        given = [_plain(self._of_finding(label)) for label in labels]
        missing = sum(label is None for label in given)
        if missing:
            raise DataError(
                f"{missing} of {len(given)} labels are missing; give a label for every input, or leave the labels out"
            )
        if self.finding is not None and self.values is None and all(label in (0, 1) for label in given):
            return np.array(given, dtype=np.int64)  # there or not, whatever the finding is called
        known: dict[str, int] = {}
        for called in (self.names, self.values):
            known |= {key: place for place, value in enumerate(called or ()) for key in _keys(value)}
        found = [next((known[key] for key in _keys(label) if key in known), None) for label in given]
        if self.values is None and all(place is None for place in found):
            columns = self.columns if self.names is None else len(self.names)
            found = [int(label) if _is_column(label, columns) else None for label in given]
        unknown = [str(v) for v, place in zip(given, found, strict=True) if place is None]
        if unknown:
            raise DataError(self._refusal(sorted(set(unknown))))
        return np.array(found, dtype=np.int64)

    def _of_finding(self, label: Any) -> Any:
        if not isinstance(label, list | tuple | np.ndarray):
            return label
        if self.finding is None:
            raise DataError(
                f"expected one label for each input, got {len(label)}; where they are findings that do not exclude each "
                "other (multi-label), choose one with --class NAME"
            )
        if self.finding >= len(label):
            raise DataError(f"each input has {len(label)} labels, but --class names position {self.finding}")
        return label[self.finding]

    def _refusal(self, unknown: Sequence[str]) -> str:
        said = f"the labels hold {listed(unknown)}, which matches no class of the model"
        if self.shown is not None:
            return f"{said} ({listed(self.shown)}); label the inputs by these names, or name the classes with --classes"
        count = "classes" if self.columns is None else f"{self.columns} classes"
        return f"{said}: its {count} have no names, so labels are 0, 1, ...; name them in order with --classes a,b,c"

    def of_answers(self, found: Sequence[str] | None) -> tuple[str, ...] | None:
        """The names for people, with those that answers give to columns behind them: what an endpoint does not show.

        Args:
            found: names of the answers' columns, where they have any.

        >>> ClassLabels(names=("a", "b")).of_answers(("a", "b", "(rest)"))
        ('a', 'b', '(rest)')
        """
        shown = self.shown
        return tuple(found) if shown is not None and found is not None and tuple(found[: len(shown)]) == shown else shown

    def agree(self, columns: int, labels: NDArray[np.int64] | None = None, found: Sequence[str] | None = None) -> None:
        """Refuse what the first answer contradicts.

        Args:
            columns: classes that the model answers.
            labels: the inputs' labels as columns.
            found: names that the first answer gave its classes.

        Raises:
            UsageError: another number of names; a label beyond the classes, or matched before their names were known.
        """
        if labels is not None and self.shown is None:
            replace(self, columns=columns).positions(labels.tolist())
            if found is not None and any(str(name) != str(place) for place, name in enumerate(found)):
                how = f"--classes {','.join(map(str, found[:SHOWN]))}" if len(found) == columns else "labels: [..]"
                raise UsageError(
                    f"the model calls its classes {listed(found)}, which was not known when labels were matched; "
                    f"say so with {how}, and labels are matched by name"
                )
        beyond = () if self.shown is None else (self.of_answers(found) or ())[len(self.shown) :]  # of what is not shown
        for called in (self.names, self.values):
            if called is not None and len(called) + len(beyond) != columns:
                raise UsageError(
                    f"{len(called)} classes are named ({listed(called)}), but the model answers {columns}; name each of "
                    "them, in the model's order, with --classes a,b,c"
                )


def class_labels(info: ModelInfo, given: Sequence[str] | None = None) -> ClassLabels:
    """The classes of a model, with the names that the user gives them.

    Raises:
        UsageError: another number of names than the model has classes.
    """
    names = tuple(given) if given is not None else info.class_names
    found = ClassLabels(info.class_values, names, info.classes, info.finding)
    if info.classes is not None and given is not None:
        found.agree(info.classes)
    return found


def read_classes(given: Any) -> tuple[str, ...] | None:
    """The names in ``a,b,c`` or in a list; ``None`` where a number, or nothing, was given.

    Raises:
        UsageError: a name that is empty or there twice.

    >>> read_classes("benign, other"), read_classes(10)
    (('benign', 'other'), None)
    """
    if given is None or (isinstance(given, int | np.integer) and not isinstance(given, bool)):
        return None
    items = given.split(",") if isinstance(given, str) else list(given)
    names = tuple(str(_plain(item)).strip() for item in items)
    if len(names) < 2 or "" in names or len(set(names)) < len(names):
        raise UsageError(f"expected --classes with the name of each class, all different, in order, got {given!r}")
    return names


def finding_position(finding: str | int | None, names: Sequence[Any] | None) -> int | None:
    """The column that ``--class`` means: a name of the model's, else a position.

    Raises:
        TargetError: no such name, or the model names none.
    """
    if finding is None:
        return None
    called = [str(name) for name in names or ()]
    if str(finding) in called:
        return called.index(str(finding))
    if str(finding).isdigit() and (not called or int(finding) < len(called)):
        return int(finding)
    known = f"one of {', '.join(called)}" if called else "a position (0, 1, ...): the model does not name its classes"
    raise TargetError(f"expected --class with {known}, got {finding!r}")


def finding_names(finding: int | None, names: Sequence[Any] | None) -> tuple[str, str] | None:
    """What the complement and the finding are called."""
    if finding is None:
        return None
    name = str(names[finding]) if names is not None and finding < len(names) else f"class {finding}"
    return f"not {name}", name


def _is_one_hot(label: Any) -> bool:
    several = isinstance(label, list | tuple | np.ndarray) and len(label) > 1
    return several and sorted(map(_plain, label), key=str) == [0] * (len(label) - 1) + [1]


def _plain(value: Any) -> Any:
    """A Python value; ``None`` for what is missing."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or (isinstance(value, float) and np.isnan(value)) or type(value).__name__ in ("NAType", "NaTType"):
        return None
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _keys(value: Any) -> tuple[str, ...]:
    """How a class or a label is written: 1, 1.0 and "1" alike; a truth value is its word or its number."""
    plain = _plain(value)
    if isinstance(plain, bool):
        return str(plain), str(int(plain))
    if isinstance(plain, float) and plain.is_integer():
        return (str(int(plain)),)
    return (str(plain),)


def group_name(value: Any) -> str:
    """A group as text, 1, 1.0 and "1" alike: integers with gaps are floats for some readers; empty where it is missing."""
    return "" if _plain(value) is None else _keys(value)[0]


def _is_column(value: Any, columns: int | None) -> bool:
    whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    return whole and 0 <= value < (MOST_CLASSES if columns is None else columns)
