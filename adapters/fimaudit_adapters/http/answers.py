"""From a server's answer to probabilities: what the numbers are, and labels aligned into columns."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fimaudit.errors import LinkError, OutputError, TargetError
from fimaudit.models.classes import finding_names
from fimaudit.models.labels import LabelledAs
from fimaudit.models.links import Link, are_distributions, describe_nonfinite, to_probabilities
from fimaudit.number_format import output_resolution
from fimaudit_adapters.http.protocols.base import Answer, Malformed, Scores, Tensor
from fimaudit_adapters.http.settings import Endpoint

__all__ = ["AnswerReader"]

#: Name of the last column where answers hold the top few labels only: all the probability that is not shown.
REST = "(rest)"
#: Columns kept for labels of top-k answers when nobody said which there are; they fill as labels appear.
PLACES = 256
#: A sum of scores may miss 1 by this much beyond the rounding.
WHOLE = 1e-5
#: What the scores of a row may sum to in other units.
WHOLES = (100.0, 1.0, 10.0, 1000.0, 10_000.0, 1_000_000.0)
#: Rows that fall from column to column so steadily are sorted by score, unless chance had it with this probability.
SORTED_BY_CHANCE = 1e-4
#: Answers count as evidence of that where they differ by so much from those before: copies of one input say nothing new.
ANOTHER_ANSWER = 0.02


class AnswerReader:
    """Turns answers into (rows, K) probabilities with K fixed from the first answer on.

    Answers with all labels have a column for each. Top-k answers have ``PLACES`` columns (or one for each label that was
    declared), filled in the order in which labels appear, and the rest as the last one; 0 elsewhere means "not shown".

    Args:
        link: as in ``fimaudit.models.links``.
        kind: what the user says the numbers are.
        labels: the user's own list of labels, or ``None`` to learn it.
        top_k: how many labels were asked for; ``None`` when all were.
        rest: a label that was not declared counts as the rest, rather than ending the run.
        hides: small scores are not shown, so that answers are read like top-k ones.
    """

    def __init__(
        self,
        link: Link,
        kind: str | None,
        labels: Sequence[str] | None,
        top_k: int | None = None,
        *,
        rest: bool = False,
        hides: bool = False,
    ) -> None:
        self._link, self._kind, self._asked = link, kind, top_k
        self._rest, self._hides = rest, hides
        self._declared = tuple(labels) if labels is not None else None
        self._order: _Order | None = _Order() if labels is None else None
        self._named: tuple[str, ...] | None = None
        self._column: dict[str, int] = {}
        self._learned = False
        self.top_k: int | None = None
        self.label_texts = LabelledAs(labels)
        self.hidden = 0
        self.on_growth: Callable[[tuple[str, ...]], None] = lambda labels: None

    @classmethod
    def of(cls, endpoint: Endpoint, link: Link) -> AnswerReader:
        """As an endpoint's settings say."""
        rest, hides = endpoint.other_labels == "rest", endpoint.hidden_below is not None
        reader = cls(link, endpoint.kind, endpoint.class_names, endpoint.top_k, rest=rest, hides=hides)
        if endpoint.audit_label is not None:
            reader._named = finding_names(0, [endpoint.audit_label])
        return reader

    @property
    def labels(self) -> tuple[str, ...] | None:
        """Labels by column; ``None`` where answers carry none."""
        return tuple(self._column) or None

    @property
    def columns(self) -> tuple[str, ...] | None:
        """Names of all columns for the report; empty for a place not taken yet."""
        if self.labels is None:
            return self._named
        if self.top_k is None:
            return self.labels
        return (*self.labels, *[""] * (self._places - len(self.labels)), REST)

    @property
    def _places(self) -> int:
        return len(self._declared) if self._declared is not None else PLACES

    def learn(self, answer: Answer) -> None:
        """Decide from the first answer whether it shows all labels, and give them their columns."""
        if not isinstance(answer, Scores) or self._learned or self._link == "labels" or not answer.rows:
            return
        answer = self._completed(answer)
        seen = {label for row in answer.rows for label in row}
        if self._declared is not None and self._rest and not seen & set(self._declared):
            shown = ", ".join(repr(label) for label in sorted(seen)[:8])
            raise OutputError(f"none of the labels given is among those of the answer ({shown}): expected other spellings")
        if self._declared is not None and not self._rest and (unknown := sorted(seen - set(self._declared))):
            raise OutputError(f"the endpoint answers with label {unknown[0]!r}, which is not among the labels given")
        labels = self._declared or tuple(sorted(seen, key=_by_number))
        scores = np.array([value for row in answer.rows for value in row.values()])
        tolerance = max(WHOLE, len(labels) * output_resolution(scores) / 2)
        sums = (abs(sum(row.values()) - 1.0) for row in answer.rows)
        whole = all(len(row) == len(labels) for row in answer.rows) and all(off <= tolerance for off in sums)
        numbers = self._kind == "logits"
        partial = self._rest or self._hides or (self._asked is not None and self._declared is None)
        if numbers or not whole:
            self._refuse_percent(np.array([sum(row.values()) for row in answer.rows]), scores)
        if not numbers and (not whole or partial):
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
            TargetError: scores that are sorted and carry no names.
        """
        if self._link == "labels":
            return self._classes(answer, rows)
        if isinstance(answer, Scores):
            if len(answer.rows) != rows:
                raise OutputError(f"expected {rows} rows of label scores for {rows} inputs, got {len(answer.rows)}")
            answer = self._completed(answer)
            self.learn(answer)
            return self._top(answer.rows) if self.top_k is not None else self._whole(answer.rows)
        values = answer.values
        if self._order is not None and values.ndim == 2:
            self._order.see(values)
        if self._link in ("auto", "identity") and self._kind in (None, "probs") and values.dtype.kind == "f":
            wide = values.astype(np.float64)
            if wide.ndim == 2 and len(wide) == rows and are_distributions(wide):
                self._name_columns(wide.shape[1])
                return wide
        if values.dtype.kind == "f":
            if self._kind == "logprobs":
                with np.errstate(over="ignore", under="ignore"):
                    values = np.exp(values)
            if not np.isfinite(values).all():
                raise Malformed(f"expected finite numbers in the answer, got {describe_nonfinite(values)}")
        if values.dtype.kind == "f" and values.ndim == 2 and values.shape[1] > 1:
            self._refuse_percent(values.sum(axis=1, dtype=np.float64), values)
        probabilities = to_probabilities(values, self._link_for(values), rows=rows)
        self._name_columns(probabilities.shape[1])
        return probabilities

    def _name_columns(self, classes: int) -> None:
        """Declared labels name the columns of plain numbers too, where there are as many."""
        if self._kind == "independent":
            return
        if self._declared is not None and len(self._declared) != classes:
            raise OutputError(f"expected {len(self._declared)} scores a row, one for each of labels, got {classes}")
        self._named = self._declared

    def _refuse_percent(self, sums: NDArray[np.float64], values: NDArray[Any]) -> None:
        """Refuse rows that are percentages, and distributions that somebody calls logits."""
        if values.min() < 0:
            return
        tolerance = max(WHOLE, len(np.atleast_1d(values[0])) * output_resolution(values / 100.0) / 2)
        for whole in WHOLES:
            if np.abs(sums / whole - 1.0).max() > tolerance:
                continue
            logits = self._kind == "logits" or self._link == "softmax"
            if whole != 1.0 and self._kind != "logprobs":
                called = ", although they are called logits" if logits else ""
                said = f"{whole:.0f}"
                raise LinkError(f"expected scores that sum to 1, got rows that sum to {said}{called}: say total: {said}")
            if whole == 1.0 and logits:
                raise LinkError("expected logits, got rows that are distributions already: say kind: probs")

    def _classes(self, answer: Answer, rows: int) -> NDArray[np.float64]:
        """(rows, 1) classes; of scores the label with the largest."""
        values = (
            answer.values if isinstance(answer, Tensor) else [max(row, key=lambda name: row[name]) for row in answer.rows]
        )
        return self.label_texts(np.asarray(values), rows)

    def _link_for(self, values: NDArray[np.float64]) -> Link:
        if self._kind == "independent":
            return "identity"
        if self._link != "auto" or self._kind in (None, "label_scores"):
            return self._link
        if self._kind == "logits":
            return "sigmoid" if values.ndim == 1 or values.shape[-1] == 1 else "softmax"
        return "identity"

    def _completed(self, answer: Scores) -> Scores:
        """Of two known labels, the one that an answer does not show has the rest."""
        labels = self._declared or ()
        if (
            len(labels) != 2
            or self._rest
            or self._hides
            or self._asked is not None
            or self._kind not in ("probs", "logprobs")
        ):
            return answer
        other = dict(zip(labels, reversed(labels), strict=True))
        rows = (
            {**row, other[next(iter(row))]: 1.0 - sum(row.values())} if row.keys() < {*labels} else row
            for row in answer.rows
        )
        return Scores(list(rows))

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
                    percent = "say total: 100 if they are percentages, " if 0 <= score <= 100 else ""
                    raise LinkError(
                        f"expected scores that are probabilities, got {score:.6g}; {percent}kind: logits if they are those, "
                        "kind: independent if they are scores of their own"
                    )
                k = self._column.get(label)
                if k is None and self._rest and self._declared is not None:
                    continue
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
            raise LinkError(
                f"expected scores that sum to at most 1, got a row that sums to {shown.max():.6g}; say kind: independent "
                "if they are scores of their own"
            )
        wide[:, -1] = np.maximum(0.0, 1.0 - shown)
        return wide


class _Order:
    """Looks at the first answers whether they are sorted by score: without names, nobody knows then whose score is whose.

    Of K >= 3 scores the largest may well be the first class every time; that the others fall too has a probability of
    (ties)! / (K - 1)! an answer. Two scores that are sorted move like those that are not.
    """

    def __init__(self) -> None:
        self._seen: list[NDArray[np.float64]] = []
        self._chance = 0.0
        self._done = False

    def see(self, values: NDArray[Any]) -> None:
        """Take in one answer.

        Raises:
            TargetError: the answers are sorted; asking again would not help.
        """
        if self._done or values.shape[1] < 3 or values.dtype.kind != "f" or not len(values) or not np.isfinite(values).all():
            return
        if (np.diff(values, axis=1) > 0).any():
            self._done = True
            return
        row = values[0].astype(np.float64)
        if not any(np.abs(row - other).sum() < ANOTHER_ANSWER for other in self._seen):
            self._seen.append(row)
            _, ties = np.unique(row[1:], return_counts=True)
            self._chance += sum(math.lgamma(n + 1) for n in ties) - math.lgamma(len(row))
        if self._chance < math.log(SORTED_BY_CHANCE):
            raise TargetError(
                "the scores of every answer are sorted and carry no names, so that nobody knows whose they are: read the "
                "names with label: and score:, or with names:, or give labels: if each column is one class"
            )


def _by_number(label: str) -> tuple[float, str]:
    """Labels that end in a number in that number's order (``LABEL_2`` before ``LABEL_10``), the others by name."""
    digits = label[len(label.rstrip("0123456789")) :]
    return (float(digits[:15]) if digits else -1.0, label)
