"""An answer of any shape as rows of numbers or of labels with scores: each setting reads one part of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fimaudit.errors import OutputError
from fimaudit_adapters.http.protocols.answer_functions import by_number, compile_path, number
from fimaudit_adapters.http.protocols.base import (
    Answer,
    Body,
    Malformed,
    Reply,
    Scores,
    Tensor,
    WireFormat,
    as_label,
    as_labels,
    as_pairs,
    as_scores,
    as_tensor,
)
from fimaudit_adapters.http.protocols.parsing import parse
from fimaudit_adapters.http.protocols.row_order import refuse_other_order
from fimaudit_adapters.http.settings import Endpoint

__all__ = ["AdjustedAnswers", "AnswerShape"]

_NOTHING_SHOWN = "expected at least one score above hidden_below in each row, got a row that shows none"
#: Labels and scores as an answer names them, one pair after the other.
Pairs = list[tuple[object, object]]


class AnswerShape:
    """How the rows of an answer are found in it and read.

    Args:
        endpoint: ``failed`` says which answers are none, ``response`` leads to the rows, ``label``, ``score`` and
            ``names`` to what is in one, ``columnar`` turns the answer over, ``labels`` may name spellings, ``total`` is
            what scores sum to, ``hidden_below`` what is not shown.
        single: a request holds one row, so that the answer may be that row itself.

    Raises:
        TargetError: a path is no JMESPath.
    """

    def __init__(self, endpoint: Endpoint, *, single: bool) -> None:
        self._endpoint, self._single = endpoint, single
        self._path = endpoint.response or "@"
        self._response = compile_path(self._path, "response")
        self._label = None if endpoint.label is None else compile_path(endpoint.label, "label")
        self._score = None if endpoint.score is None else compile_path(endpoint.score, "score")
        self._names = None if endpoint.names is None else compile_path(endpoint.names, "names")
        self._failed = None if endpoint.failed is None else compile_path(endpoint.failed, "failed")
        spelled = endpoint.labels if isinstance(endpoint.labels, dict) else {}
        self._spelled = {spelling: label for label, spellings in spelled.items() for spelling in spellings}

    def read(self, content: bytes, rows: int) -> Answer:
        """The answer to ``rows`` rows.

        Raises:
            OutputError: it is none.
        """
        document = self._parsed(content, rows)
        if self._failed is not None and self._failed(document):
            raise Malformed(f"expected an answer, got one of which {self._endpoint.failed!r} is true (failed)")
        if "sort_by" not in self._path:
            refuse_other_order(document, rows)
        found = self._response(document)
        if found is None:
            raise OutputError(f"the JMESPath {self._path!r} leads nowhere in the answer")
        if self._endpoint.columnar:
            found = _turned(found, rows, self._path)
        if self._endpoint.kind == "labels":
            one = rows == 1 and (not isinstance(found, list) or len(found) != 1)
            return as_labels([found] if one else found, self._path)
        names = None if self._names is None else self._class_names(document)
        answer = self._rows(found, rows, names)
        return self._finished(answer)

    def adjust(self, answer: Answer) -> Answer:
        """An answer that another protocol has read: scaled, without hidden scores, or its one independent score."""
        if isinstance(answer, Scores):
            answer = Scores([{name: score / self._divisor for name, score in row.items()} for row in answer.rows])
        elif self._divisor != 1.0:
            answer = Tensor(answer.values / self._divisor)
        return self._finished(answer)

    def _finished(self, answer: Answer) -> Answer:
        return self._one_label(answer) if self._endpoint.kind == "independent" else self._hidden(answer)

    def steps(self, content: bytes, rows: int) -> dict[str, Any]:
        """What each path gives, for a person who looks for a mistake; a path that fails gives the sentence."""
        out: dict[str, Any] = {}
        document = self._parsed(content, rows)
        if self._failed is not None:
            out[f"failed: {self._endpoint.failed}"] = _tried(self._failed, document)
        out[f"response: {self._path}"] = found = _tried(self._response, document)
        if self._names is not None:
            out[f"names: {self._endpoint.names}"] = _tried(self._names, document)
        first = found[0] if isinstance(found, list) and found and not self._single else found
        one = first[0] if isinstance(first, list) and first else first
        for name, path in (("label", self._label), ("score", self._score)):
            if path is not None:
                out[f"{name}: {getattr(self._endpoint, name)}"] = _tried(path, one)
        return out

    def _parsed(self, content: bytes, rows: int) -> Any:
        return parse(content, self._endpoint.answer, rows, self._endpoint.separator)

    def _class_names(self, document: object) -> list[str]:
        assert self._names is not None
        found = self._names(document)
        if not isinstance(found, list) or not found:
            raise OutputError(f"expected a list of class names at {self._endpoint.names!r}, got {type(found).__name__}")
        return [as_label(name) for name in found]

    def _rows(self, found: object, rows: int, names: list[str] | None) -> Answer:
        endpoint = self._endpoint
        if names is not None:
            table = as_tensor(self._as_table(found, rows), self._path).values
            if table.ndim != 2 or table.shape[1] != len(names):
                raise OutputError(f"expected {len(names)} scores a row, one for each of names, got shape {table.shape}")
            return self._scores([list(zip(names, row, strict=True)) for row in table.tolist()])
        if endpoint.kind == "label_scores" or self._label is not None or self._score is not None or _has_names(found):
            return self._scores([self._pairs(row) for row in self._as_lists(found, rows)])
        tensor = as_tensor(self._as_table(found, rows), self._path)
        # What is not divided keeps its type: whole numbers are class labels, which the reader refuses.
        return tensor if self._divisor == 1.0 else Tensor(tensor.values / self._divisor)

    def _as_table(self, found: object, rows: int) -> object:
        found = _or_itself(found)
        if isinstance(found, bool | str) or found is None:
            hint = "; parse_json(..) reads JSON that is written as text" if isinstance(found, str) else ""
            raise OutputError(f"expected numbers at {self._path!r}, got {type(found).__name__}{hint}")
        if isinstance(found, int | float):
            return [[found]]
        if rows == 1 and isinstance(found, list) and found and not isinstance(found[0], list):
            found = [found] if self._single or len(found) > 1 else found  # the row itself
        if isinstance(found, list) and any(row is None for row in found):
            raise OutputError(f"expected a row for each input at {self._path!r}, got null rows")
        return _untexted(found)

    def _as_lists(self, found: object, rows: int) -> list[Any]:
        """The rows of labels with scores: of one input, the answer may be the row itself."""
        if isinstance(found, dict):
            return [found]
        if not isinstance(found, list):
            raise OutputError(f"expected a list of rows at {self._path!r}, got {type(found).__name__}")
        if rows == 1 and found and self._is_score(found[0]):
            return [found]
        return found

    def _is_score(self, value: object) -> bool:
        """Whether this is one label with its score rather than a row of them."""
        if isinstance(value, list):
            return len(value) == 2 and not isinstance(value[0], dict | list)
        if self._label is not None and isinstance(value, dict | str):
            label = self._label(value)
            return label is not None and not isinstance(label, list)
        return isinstance(value, dict) and self._score is None and "label" in value

    def _pairs(self, row: object) -> Pairs:
        if row is None:
            raise OutputError(f"expected a row for each input at {self._path!r}, got null rows")
        if self._label is not None and self._score is None:
            raise OutputError("label: needs score: beside it, the path to the number")
        if self._score is None:
            return as_pairs(row, self._path)
        if self._label is None:
            if not isinstance(row, dict):
                raise OutputError(f"expected a map of labels at {self._path!r}, got {type(row).__name__}; say label: too")
            return [(name, self._score(value)) for name, value in row.items()]
        if isinstance(row, list):
            return [(self._at("label", self._label, one), self._at("score", self._score, one)) for one in row]
        labels, scores = self._label(row), self._score(row)
        if isinstance(labels, str | int) and isinstance(scores, str | int | float):
            return [(labels, scores)]
        if not isinstance(labels, list) or not isinstance(scores, list) or len(labels) != len(scores):
            raise OutputError(
                f"expected two lists of one length at {self._endpoint.label!r} and {self._endpoint.score!r}, got "
                f"{_length(labels)} and {_length(scores)}"
            )
        return list(zip(labels, scores, strict=True))

    def _at(self, setting: str, path: Callable[[object], Any], one: object) -> Any:
        """What a path leads to in the object of one score."""
        found = path(one)
        if found is None:
            there = f", which holds {', '.join(map(str, one))[:80]}" if isinstance(one, dict) else ""
            raise OutputError(
                f"{setting}: {getattr(self._endpoint, setting)!r} leads nowhere in a score at {self._path!r}{there}"
            )
        return found

    def _scores(self, rows: list[Pairs]) -> Scores:
        """Numbers as the reader takes them: log-probabilities raised, scaled, spellings of one label added up."""
        out: list[Mapping[str, float]] = []
        for pairs in rows:
            if not pairs and self._endpoint.hidden_below is not None:
                raise OutputError(_NOTHING_SHOWN)
            one: dict[str, float] = {}
            for name, score in self._distinct_names(pairs):
                value = math.exp(min(score, 700.0)) if self._endpoint.kind == "logprobs" else score / self._divisor
                label = self._spelled.get(name, name)
                one[label] = one.get(label, 0.0) + value
            out.append(one)
        return Scores(out)

    def _distinct_names(self, pairs: Pairs) -> list[tuple[str, float]]:
        """Labels as text and scores as numbers, each label once; of those that only count as the rest, any number."""
        read = [[label, _number(score, self._path)] for label, score in pairs]
        if self._endpoint.other_labels == "rest":
            known = {*self._spelled, *(self._endpoint.labels or ())}
            others = [pair for pair in read if as_label(pair[0]) not in known]
            read = [pair for pair in read if as_label(pair[0]) in known]
            apart = [one for pair in others for one in as_scores([pair], self._path).items()]
            return [*(as_scores(read, self._path).items() if read else ()), *apart]
        return list(as_scores(read, self._path).items())

    @property
    def _divisor(self) -> float:
        return self._endpoint.whole if self._endpoint.kind not in ("logits", "logprobs") else 1.0

    def _hidden(self, answer: Answer) -> Answer:
        """Scores that are shown as 0 are not shown."""
        least = self._endpoint.hidden_below
        if least is None:
            return answer
        if isinstance(answer, Tensor):
            table = np.atleast_2d(answer.values)
            names = self._endpoint.class_names or tuple(map(str, range(table.shape[-1])))
            if table.ndim != 2 or table.shape[1] != len(names):
                raise OutputError(f"expected a row of {len(names)} scores for each input, got shape {table.shape}")
            answer = Scores([dict(zip(names, row, strict=True)) for row in table.tolist()])
        rows = [{name: score for name, score in row.items() if score != 0} for row in answer.rows]
        if not all(rows):
            raise OutputError(_NOTHING_SHOWN)
        return Scores(rows)

    def _one_label(self, answer: Answer) -> Tensor:
        """The one score that is audited, as a column."""
        wanted, names = self._endpoint.audit_label, self._endpoint.class_names
        if isinstance(answer, Scores):
            offered = sorted({name for row in answer.rows for name in row})
            if wanted is None or not all(str(wanted) in row for row in answer.rows):
                raise OutputError(_name_one(wanted, offered))
            return Tensor(np.array([[row[str(wanted)]] for row in answer.rows]))
        table = np.atleast_2d(answer.values)
        offered = list(names) if names is not None else [str(k) for k in range(table.shape[1])]
        if wanted is None or str(wanted) not in offered or len(offered) != table.shape[1]:
            raise OutputError(_name_one(wanted, offered))
        place = offered.index(str(wanted))
        return Tensor(table[:, place : place + 1])


class AdjustedAnswers:
    """A protocol whose answers are percentages, hide small scores, or hold scores of their own."""

    def __init__(self, inner: WireFormat, endpoint: Endpoint) -> None:
        self.url, self.most_rows = inner.url, inner.most_rows
        self.inner = inner
        self._shape = AnswerShape(endpoint, single=False)

    def encode(self, rows: NDArray[Any]) -> Body:
        return self.inner.encode(rows)

    def decode(self, reply: Reply, rows: int) -> Answer:
        return self._shape.adjust(self.inner.decode(reply, rows))


def _name_one(wanted: object, offered: list[str]) -> str:
    got = "" if wanted is None else f", got {wanted!r}"
    return (
        f"scores that are independent are audited one at a time: expected audit_label among {', '.join(offered)[:200]}{got}"
    )


def _has_names(found: object) -> bool:
    """Whether the rows are maps, lists of objects, or of pairs of a label and its score, rather than numbers."""
    if isinstance(found, dict):
        return True
    first = found[0] if isinstance(found, list) and found else None
    if isinstance(first, list) and first:
        return isinstance(first[0], dict) or _is_pair(first) or _is_pair(first[0])
    return isinstance(first, dict)


def _is_pair(value: object) -> bool:
    """``["cat", 0.9]``; two numbers as text are none."""
    if not isinstance(value, list) or len(value) != 2 or not isinstance(value[0], str):
        return False
    label, score = value
    return number(label) is None or (isinstance(score, int | float) and not isinstance(score, bool))


def _untexted(found: Any) -> Any:
    """Rows of numbers as text as rows of numbers; a list of whole numbers as text may be one of labels, and stays."""
    first = found[0] if isinstance(found, list) and found else None
    if isinstance(first, list) and first and isinstance(first[0], str):
        return [[_or_itself(cell) for cell in row] if isinstance(row, list) else row for row in found]
    if isinstance(first, str) and not all(isinstance(one, str) and one.strip().isdecimal() for one in found):
        return [_or_itself(one) for one in found]
    return found


def _or_itself(cell: Any) -> Any:
    read = number(cell) if isinstance(cell, str) else None
    return cell if read is None else read


def _turned(found: object, rows: int, path: str) -> list[Any]:
    """A list for each class or field, or a map by row, turned into one of rows."""
    lists = list(found.values()) if isinstance(found, dict) else found
    if isinstance(lists, list) and lists and all(isinstance(one, dict) and one.keys() == lists[0].keys() for one in lists):
        order = sorted(lists[0], key=by_number)
        lists = [[one[row] for row in order] for one in lists]
    if not isinstance(lists, list) or not lists or not all(isinstance(one, list) and len(one) == rows for one in lists):
        raise OutputError(f"expected lists of {rows} values each at {path!r}, because the answer is columnar")
    turned = [list(row) for row in zip(*lists, strict=True)]
    return [dict(zip(found, row, strict=True)) for row in turned] if isinstance(found, dict) else turned


def _number(value: object, path: str) -> object:
    """Numbers that are written as text are numbers too."""
    if not isinstance(value, str):
        return value
    read = number(value)
    if read is None:
        raise OutputError(f"expected a number as score at {path!r}, got text")
    return read


def _length(value: object) -> str:
    return f"{len(value)} values" if isinstance(value, list) else type(value).__name__


def _tried(path: Callable[[object], Any], document: object) -> Any:
    try:
        return path(document)
    except OutputError as exc:
        return str(exc)
