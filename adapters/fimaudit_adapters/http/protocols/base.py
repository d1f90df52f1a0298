"""What a wire format is: rows in, one HTTP body out; one HTTP answer in, numbers out. All else is shared."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import httpx
import numpy as np
from numpy.typing import NDArray

from fimaudit.errors import OutputError

__all__ = [
    "Answer",
    "Body",
    "Malformed",
    "NamedTwice",
    "Reply",
    "Scores",
    "Tensor",
    "WireFormat",
    "as_label",
    "as_labels",
    "as_pairs",
    "as_scores",
    "as_tensor",
    "distinct",
    "load_json",
]

#: Labels come from the server: their length is bounded, and what they hold is only ever text.
LONGEST_LABEL = 200


class Malformed(OutputError):
    """An answer that no working server of this protocol sends: garbage, half a body, NaN, absurd sizes or depths."""


class NamedTwice:
    """What a name leads to that stands twice in one object: of two classes of one name, neither's score."""


def distinct(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    """An object's pairs as a map, in which a name that stands there twice leads to nothing that can be read.

    >>> distinct([("a", 0.25), ("b", 0.75)])
    {'a': 0.25, 'b': 0.75}
    """
    found = dict(pairs)
    if len(found) < len(pairs):
        times = Counter(name for name, _ in pairs)
        found |= {name: NamedTwice() for name, count in times.items() if count > 1}
    return found


def load_json(content: bytes) -> object:
    """Parse an answer, bounded in size by the transport, here in depth and in numbers.

    Bare NaN and Infinity pass (TensorFlow Serving sends them) and are refused with the numbers; so are names that stand
    twice in one object.

    Raises:
        Malformed: not JSON, nested beyond the interpreter's depth, or an integer of thousands of digits.

    >>> load_json(b'{"a": [1.5]}')
    {'a': [1.5]}
    """
    try:
        document: object = json.loads(content, object_pairs_hook=distinct)
    except RecursionError:
        raise Malformed("expected JSON of a sane depth, got one nested too deeply") from None
    except json.JSONDecodeError as exc:
        raise Malformed(f"expected JSON, got something else ({exc.msg} at byte {exc.pos} of {len(content)})") from None
    except UnicodeDecodeError:
        raise Malformed(f"expected JSON in UTF-8, got {len(content)} bytes that are not text") from None
    except ValueError:
        raise Malformed("expected JSON with numbers of a sane length, got an integer of thousands of digits") from None
    return document


@dataclass(frozen=True)
class Body:
    """One request, ready to be sent."""

    content: bytes
    headers: Mapping[str, str] = field(default_factory=lambda: {"Content-Type": "application/json"})
    method: str = "POST"
    query: str = ""
    #: The whole URL, where rows stand in it; else that of the wire format.
    url: str | None = None

    @property
    def identity(self) -> bytes:
        """What tells this request from another to the same endpoint."""
        asked = f"{self.url or ''}?{self.query}" if self.url or self.query else ""
        return self.content + asked.encode()


@dataclass(frozen=True)
class Reply:
    """One answer as it came: status, headers, and the unpacked body within the size cap."""

    status: int
    headers: httpx.Headers
    content: bytes


@dataclass(frozen=True)
class Tensor:
    """Numbers, one row an input, in the server's own precision."""

    values: NDArray[Any]


@dataclass(frozen=True)
class Scores:
    """Label and score pairs, one list an input, in any order, perhaps only the top few."""

    rows: Sequence[Mapping[str, float]]


Answer = Tensor | Scores


class WireFormat(Protocol):
    """One protocol; ``most_rows`` is 1 where a request can hold a single row only."""

    url: str
    most_rows: int | None

    def encode(self, rows: NDArray[Any]) -> Body:
        """Write (B, \\*shape) rows as a request body; the same rows give the same bytes."""
        ...

    def decode(self, reply: Reply, rows: int) -> Answer:
        """Read the answer to ``rows`` rows; raises ``OutputError`` when it is not one."""
        ...


def as_tensor(value: object, what: str) -> Tensor:
    """A JSON value as a tensor of floats (or of integers, where all of a flat list are: class labels).

    >>> as_tensor([[0, 1], [0.5, 0.5]], "predictions").values
    array([[0. , 1. ],
           [0.5, 0.5]])
    """
    if not isinstance(value, list):
        raise OutputError(f"expected a list of rows at {what}, got {type(value).__name__}")
    if value and all(isinstance(v, str) for v in value):
        raise OutputError(
            f"expected numbers at {what}, got strings, which look like class labels; ask for probabilities instead, or "
            "audit the labels alone with --link labels"
        )
    flat_labels = bool(value) and all(isinstance(v, int) for v in value)
    try:
        values = np.asarray(value, dtype=np.int64 if flat_labels else np.float64)
    except OverflowError:
        raise Malformed(f"expected finite numbers at {what}, got one beyond any float") from None
    except (ValueError, TypeError):
        raise OutputError(
            f"expected one row of numbers for each input at {what}, got rows that differ or are no numbers"
        ) from None
    return Tensor(values)


def as_labels(value: object, what: str) -> Tensor:
    """Labels of any make as one a row: numbers as they are, text, ``{"label": ..}``, and of lists of these the first.

    Where labels have scores, the one with the largest; a list of scores alone or a one-hot row is left as it is.

    >>> as_labels([{"label": "cat"}, ["dog", "cat"]], "predictions").values.tolist()
    ['cat', 'dog']
    """
    if not isinstance(value, list):
        raise OutputError(f"expected a list of labels at {what}, got {type(value).__name__}")
    named = [_first_label(row, what) for row in value]
    if value and all(name is not None for name in named):
        return Tensor(np.array(named, dtype=np.str_))
    return as_tensor(value, what)


def _first_label(row: object, what: str) -> str | None:
    """The label of one row, or ``None`` where it is made of numbers."""
    if isinstance(row, list):
        if (row and all(isinstance(v, dict) and "score" in v for v in row)) or not row:
            scores = as_scores(row, what)
            return max(scores, key=lambda name: scores[name])
        return _first_label(row[0], what) if not isinstance(row[0], int | float | list) else None
    if isinstance(row, dict):
        if "label" in row:
            return as_label(row["label"])
        scores = as_scores(row, what)
        return max(scores, key=lambda name: scores[name])
    return as_label(row) if isinstance(row, str) else None


def as_label(value: object) -> str:
    """A label as plain text: one line, printable, bounded."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise OutputError(f"expected a label that is text or a number, got {type(value).__name__}")
    text = "".join(c if c.isprintable() else "�" for c in str(value)[: LONGEST_LABEL + 1])
    if len(text) > LONGEST_LABEL:
        raise OutputError(f"expected labels of at most {LONGEST_LABEL} characters, got a longer one")
    return text


def as_pairs(value: object, what: str) -> list[tuple[object, object]]:
    """One row's ``[{"label": .., "score": ..}, ...]``, ``[[label, score], ...]`` or ``{label: score}`` as pairs."""
    if isinstance(value, dict):
        return list(value.items())
    if isinstance(value, list) and all(isinstance(v, dict) and "label" in v and "score" in v for v in value):
        return [(v["label"], v["score"]) for v in value]
    if isinstance(value, list) and all(isinstance(v, list) and len(v) == 2 for v in value):
        return [(v[0], v[1]) for v in value]
    raise OutputError(f"expected label and score pairs at {what}, got {type(value).__name__}")


def as_scores(value: object, what: str) -> Mapping[str, float]:
    """The pairs of one row as a mapping: each label once, each score a number."""
    scores: dict[str, float] = {}
    for label, score in as_pairs(value, what):
        if isinstance(score, bool) or not isinstance(score, int | float):
            raise OutputError(f"expected a number as score at {what}, got {type(score).__name__}")
        name = as_label(label)
        if name in scores:
            raise OutputError(f"expected each label once a row at {what}, got {name!r} twice")
        try:
            scores[name] = float(score)
        except OverflowError:
            raise Malformed(f"expected finite scores at {what}, got a number beyond any float") from None
    if not scores:
        raise OutputError(f"expected label and score pairs at {what}, got an empty row")
    return scores
