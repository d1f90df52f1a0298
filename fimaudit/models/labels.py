"""Answers that are a class and nothing else: one number for each label, however the model says it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fimaudit.errors import OutputError

__all__ = ["LabelledAs", "are_one_hot", "label_codes", "one_row_each", "text_code", "top_classes"]

#: Codes of text lie above those of any class index, and are whole numbers in float64.
TEXT_FLOOR, TEXT_BITS = 2**51, 50
LARGEST_INDEX = 2**31
#: Texts that one process keeps by their code, for reports.
MOST_TEXTS = 10_000


def text_code(text: str) -> int:
    """A label that is text as a number, the same in every process and in any order: its index where it is a whole number,
    else 2^51 plus 50 bits of its BLAKE2b hash.

    >>> text_code("7"), text_code("cat") == text_code("cat") != text_code("dog")
    (7, True)
    """
    plain = text.strip()
    if plain.isdecimal() and plain.isascii() and len(plain) <= 9 and str(int(plain)) == plain:
        return int(plain)
    digest = hashlib.blake2b(plain.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return TEXT_FLOOR + (int.from_bytes(digest, "little") >> (64 - TEXT_BITS))


class LabelledAs:
    """Reads answers as labels, and keeps which text stood for which code.

    Args:
        names: the labels in the order of the classes: their codes are then positions.

    Attributes:
        texts: by code, as far as this process has seen them.
    """

    def __init__(self, names: Sequence[object] | None = None) -> None:
        self._known = None if names is None else {str(name): i for i, name in enumerate(names)}
        self.texts: dict[int, str] = {} if names is None else {i: str(name) for i, name in enumerate(names)}

    def facts(self) -> dict[str, Any]:
        """For ``ModelInfo.details``: the texts, as they come to be known."""
        return {"label_texts": self.texts}

    def __call__(self, output: Any, rows: int) -> NDArray[np.float64]:
        """See ``label_codes``; text that is not among the names is refused."""
        values = np.asarray(output)
        if values.dtype.kind not in "OUS" and (self._known is None or values.dtype.kind not in "iu"):
            return label_codes(values, rows)
        named = [_text(value) for value in _column(values, rows).tolist()]
        if self._known is None:
            codes = [text_code(name) for name in named]
        else:
            unknown = next((name for name in named if name not in self._known), None)
            if unknown is not None:
                raise OutputError(f"the model answers with label {unknown[:80]!r}, which is not among the labels given")
            codes = [self._known[name] for name in named]
        if len(self.texts) < MOST_TEXTS:
            self.texts.update(zip(codes, named, strict=True))
        return np.array(codes, dtype=np.float64)[:, None]


def label_codes(output: Any, rows: int) -> NDArray[np.float64]:
    """The class of each answer as a whole number in float64.

    Taken as a class: a whole number, a truth value, a text, or of a row of several numbers (scores, a one-hot row) the
    position of the largest, the first one at a tie.

    Args:
        output: (rows,), (rows, 1), (rows, K) or these with further axes of 1.
        rows: how many inputs were asked.

    Returns:
        (rows, 1): class indices; ``text_code`` of a text.

    Raises:
        OutputError: wrong number of rows, NaN, numbers that are no class, or several whole numbers that are not one-hot.

    >>> label_codes([3, 1], 2).tolist(), label_codes([[0.2, 0.8]], 1).tolist()
    ([[3.0], [1.0]], [[1.0]])
    """
    values = np.asarray(output)
    if values.dtype.kind in "OUS":
        return np.array([text_code(_text(value)) for value in _column(values, rows).tolist()], dtype=np.float64)[:, None]
    if values.dtype.kind not in "fiub":
        raise OutputError(f"expected labels from the model, got dtype {values.dtype}")
    table = one_row_each(values, rows, labels=True)
    if not np.isfinite(table.astype(np.float64)).all():
        raise OutputError("expected labels from the model, got values that are not finite")
    if table.shape[1] > 1:
        if table.dtype.kind in "iub" and not are_one_hot(table):
            raise OutputError(
                f"expected one class or a one-hot row for each input, got rows of {table.shape[1]} whole numbers; "
                "name the output that holds the class with --output"
            )
        return np.asarray(table.argmax(axis=1), dtype=np.float64)[:, None]
    codes = np.asarray(table, dtype=np.float64)
    text = (codes >= TEXT_FLOOR) & (codes < TEXT_FLOOR + 2**TEXT_BITS)
    wrong = (codes != np.round(codes)) | ((np.abs(codes) > LARGEST_INDEX) & ~text)
    if wrong.any():
        odd = codes[wrong][0]
        raise OutputError(
            f"expected a class for each input, got {odd:.6g}; a single column of scores is no class: use --link identity or "
            "--link sigmoid where it is a probability or a logit"
        )
    return codes


def top_classes(answers: NDArray[np.float64]) -> NDArray[np.int64]:
    """The class of each answer: the most probable one of (n, K) probabilities, or the code of (n, 1) labels.

    >>> top_classes(np.array([[0.2, 0.8]])).tolist(), top_classes(np.array([[7.0]])).tolist()
    ([1], [7])
    """
    return np.asarray(answers[:, 0] if answers.shape[1] == 1 else answers.argmax(axis=1), dtype=np.int64)


def one_row_each(values: NDArray[Any], rows: int, *, labels: bool = False) -> NDArray[Any]:
    """Bring answers of shape (rows,), (rows, 1), (rows, K) or (rows, K, 1, ...) to (rows, K).

    Args:
        values: as the model gives them.
        rows: how many inputs were asked.
        labels: whether they are to be labels, for the sentence.

    Raises:
        OutputError: another number of rows, or further axes.

    >>> one_row_each(np.zeros((4, 3, 1)), 4).shape
    (4, 3)
    """
    if values.ndim == 0 or values.shape[0] != rows:
        wanted, each = ("labels", "") if labels else ("rows of output", " with one row")
        raise OutputError(
            f"expected {rows} {wanted} for {rows} inputs, got an array of shape {values.shape}; "
            f"the model must answer each input of a batch{each}"
        )
    if values.ndim == 1:
        return values[:, None]
    if values.ndim > 2 and all(n == 1 for n in values.shape[2:]):
        values = values.reshape(values.shape[:2])
    if values.ndim != 2 or values.shape[1] == 0:
        wanted = "one label for each input, got answers of shape" if labels else f"output of shape ({rows}, classes), got"
        raise OutputError(
            f"expected {wanted} {values.shape}; choose one of several steps with --output-step, one of several outputs with "
            "--output"
        )
    return values


def are_one_hot(values: NDArray[Any]) -> bool:
    """Whether every row is all 0 but for a single 1, over at least two columns.

    >>> are_one_hot(np.array([[0, 1], [1, 0]])), are_one_hot(np.array([[0.5, 0.5]]))
    (True, False)
    """
    array = np.asarray(values)
    if array.ndim != 2 or array.shape[1] < 2 or array.size == 0:
        return False
    return bool(((array == 0) | (array == 1)).all() and (array.sum(axis=1) == 1).all())


def _column(values: NDArray[Any], rows: int) -> NDArray[Any]:
    """The first label of each row: lists name the likeliest first."""
    return np.asarray(one_row_each(values, rows, labels=True)[:, 0])


def _text(value: object) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise OutputError(f"expected a label that is text or a whole number, got {type(value).__name__}")
    if isinstance(value, float):
        if value != round(value):
            raise OutputError(f"expected a label that is text or a whole number, got {value:.6g}")
        return str(int(value))
    return str(value)
