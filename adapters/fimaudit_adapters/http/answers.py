"""From a server's answer to probabilities: what the numbers are, and labels aligned into columns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from fimaudit.errors import LinkError, OutputError
from fimaudit.models.labels import LabelledAs
from fimaudit.models.links import ROW_SUM_TOLERANCE, Link, describe_nonfinite, output_resolution, to_probabilities
from fimaudit_adapters.http.protocols.base import Answer, Malformed, Scores, Tensor

__all__ = ["REST", "AnswerReader"]

#: Name of the last column where answers hold the top few labels only: all the probability that is not shown.
REST = "(rest)"
#: Columns kept for labels of top-k answers when nobody said which there are; they fill as labels appear.
PLACES = 256
#: A sum of scores may miss 1 by this much beyond the rounding.
WHOLE = 1e-5


class AnswerReader:
    """Turns answers into (rows, K) probabilities with K fixed from the first answer on.

    Answers with all labels have a column for each. Top-k answers have ``PLACES`` columns (or one for each label that was
    declared), filled in the order in which labels appear, and the rest as the last one; 0 elsewhere means "not shown".

    Args:
        link: as in ``fimaudit.models.links``.
        kind: what the user says the numbers are.
        labels: the user's own list of labels, or ``None`` to learn it.
        top_k: how many labels were asked for; ``None`` when all were.
    """

    def __init__(self, link: Link, kind: str | None, labels: Sequence[str] | None, top_k: int | None = None) -> None:
        self._link, self._kind, self._asked = link, kind, top_k
        self._declared = tuple(labels) if labels is not None else None
        self._column: dict[str, int] = {}
        self._learned = False
        self.top_k: int | None = None
        self.label_texts = LabelledAs(labels)
        self.hidden = 0
        self.on_growth: Callable[[tuple[str, ...]], None] = lambda labels: None

    @property
    def labels(self) -> tuple[str, ...] | None:
        """Labels by column; ``None`` where answers carry none."""
        return tuple(self._column) or None

    @property
    def columns(self) -> tuple[str, ...] | None:
        """Names of all columns for the report; empty for a place not taken yet."""
        if self.labels is None or self.top_k is None:
            return self.labels
        return (*self.labels, *[""] * (self._places - len(self.labels)), REST)

    @property
    def _places(self) -> int:
        return len(self._declared) if self._declared is not None else PLACES

    def learn(self, answer: Answer) -> None:
        """Decide from the first answer whether it shows all labels, and give them their columns."""
        if not isinstance(answer, Scores) or self._learned or self._link == "labels" or not answer.rows:
            return
        seen = {label for row in answer.rows for label in row}
        if self._declared is not None and (unknown := sorted(seen - set(self._declared))):
            raise OutputError(f"the endpoint answers with label {unknown[0]!r}, which is not among the labels given")
        labels = self._declared or tuple(sorted(seen, key=_by_number))
        scores = np.array([value for row in answer.rows for value in row.values()])
        tolerance = max(WHOLE, len(labels) * output_resolution(scores) / 2)
        sums = (abs(sum(row.values()) - 1.0) for row in answer.rows)
        whole = all(len(row) == len(labels) for row in answer.rows) and all(off <= tolerance for off in sums)
        numbers = self._kind == "logits"
        if not numbers and (not whole or (self._asked is not None and self._declared is None)):
            self.top_k = max(len(row) for row in answer.rows)
        self._column = {label: k for k, label in enumerate(labels)}
        self._learned = True

    def restore(self, labels: Sequence[str] | None, top_k: int | None) -> None:
        """Take over what an earlier process of the same run had learned."""
        self._column, self.top_k = {label: k for k, label in enumerate(labels or ())}, top_k
        self._learned = labels is not None

    def probabilities(self, answer: Answer, rows: int) -> NDArray[np.float64]:
        """(rows, K) probabilities in float64.

        Raises:
            Malformed: NaN or infinite values.
            OutputError: wrong number of rows, class labels in place of numbers, labels that do not match.
            LinkError: numbers that are no distribution under the link.
        """
        if self._link == "labels":
            return self._classes(answer, rows)
        if isinstance(answer, Scores):
            if len(answer.rows) != rows:
                raise OutputError(f"expected {rows} rows of label scores for {rows} inputs, got {len(answer.rows)}")
            self.learn(answer)
            return self._top(answer.rows) if self.top_k is not None else self._whole(answer.rows)
        values = answer.values
        if self._link in ("auto", "identity") and self._kind in (None, "probs") and _plain(values, rows):
            return values.astype(np.float64)
        if values.dtype.kind == "f":
            if self._kind == "logprobs":
                with np.errstate(over="ignore", under="ignore"):
                    values = np.exp(values)
            if not np.isfinite(values).all():
                raise Malformed(f"expected finite numbers in the answer, got {describe_nonfinite(values)}")
        return to_probabilities(values, self._link_for(values), rows=rows)

    def _classes(self, answer: Answer, rows: int) -> NDArray[np.float64]:
        """(rows, 1) classes; of scores the label with the largest."""
        values = (
            answer.values if isinstance(answer, Tensor) else [max(row, key=lambda name: row[name]) for row in answer.rows]
        )
        return self.label_texts(np.asarray(values), rows)

    def _link_for(self, values: NDArray[np.float64]) -> Link:
        if self._link != "auto" or self._kind in (None, "label_scores"):
            return self._link
        if self._kind == "logits":
            return "sigmoid" if values.ndim == 1 or values.shape[-1] == 1 else "softmax"
        return "identity"

    def _whole(self, rows: Sequence[Mapping[str, float]]) -> NDArray[np.float64]:
        for row in rows:
            if row.keys() != self._column.keys():
                other = sorted(self._column.keys() ^ row.keys())[0]
                raise OutputError(
                    f"expected the same {len(self._column)} labels in every answer, got a row that differs in {other!r}; "
                    "where answers show the top few only, say so with top_k or give all labels"
                )
        values = np.array([[row[label] for label in self._column] for row in rows])
        if not np.isfinite(values).all():
            raise Malformed(f"expected finite scores, got {describe_nonfinite(values)}")
        return to_probabilities(values, self._link_for(values), rows=len(rows))

    def _top(self, rows: Sequence[Mapping[str, float]]) -> NDArray[np.float64]:
        wide = np.zeros((len(rows), self._places + 1))
        before = len(self._column)
        for i, row in enumerate(rows):
            for label, score in row.items():
                if not np.isfinite(score):
                    raise Malformed(f"expected finite scores, got {score}")
                if not -WHOLE <= score <= 1 + WHOLE:
                    raise LinkError(f"expected scores that are probabilities, got {score:.6g}; say kind: logits if they are")
                k = self._column.get(label)
                if k is None and len(self._column) < self._places:
                    k = self._column[label] = len(self._column)
                if k is None:
                    self.hidden += 1
                else:
                    wide[i, k] = min(max(score, 0.0), 1.0)
        if len(self._column) > before:
            self.on_growth(tuple(self._column))
        shown = wide.sum(axis=1)
        if shown.max() > 1 + 1e-3:
            raise LinkError(f"expected scores that sum to at most 1, got a row that sums to {shown.max():.6g}")
        wide[:, -1] = np.maximum(0.0, 1.0 - shown)
        return wide


def _plain(values: NDArray[np.generic], rows: int) -> bool:
    """Whether these are distributions beyond doubt, as nearly all answers are; a NaN fails each comparison."""
    if values.ndim != 2 or len(values) != rows or values.shape[1] < 2 or values.dtype.kind != "f":
        return False
    off = values.sum(axis=1, dtype=np.float64)
    off -= 1.0
    return bool(np.abs(off, out=off).max() <= ROW_SUM_TOLERANCE and values.min() >= 0.0 and values.max() <= 1.0)


def _by_number(label: str) -> tuple[float, str]:
    """Labels that end in a number in that number's order (``LABEL_2`` before ``LABEL_10``), the others by name."""
    digits = label[len(label.rstrip("0123456789")) :]
    return (float(digits[:15]) if digits else -1.0, label)
