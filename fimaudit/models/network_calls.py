"""Batches of a classifier behind a network: which parts no request may mix, which are repeats, and what failed of them."""

from __future__ import annotations

import collections
import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fimaudit.errors import InputFailed, ModelFailure
from fimaudit.models.classifier import Lease, NetworkClassifier
from fimaudit.models.leases import RepeatLease
from fimaudit.perturbations.rows import Rows

__all__ = ["RowsFailed", "ask_network", "row_contents", "times_before"]


class RowsFailed(ModelFailure):
    """Some rows of a batch could not be answered.

    Attributes:
        answers: (rows, K); the rows that failed are NaN.
        reasons: a sentence for each failed row (or for the first of a block), by position.
        unanswered: those of them for which the server is at fault, not the row.
    """

    def __init__(self, answers: NDArray[np.float64], reasons: Mapping[int, str], unanswered: Collection[int] = ()) -> None:
        first = next(iter(reasons.values()))
        super().__init__(f"{int(np.isnan(answers).any(axis=1).sum())} of {len(answers)} rows were not answered: {first}")
        self.answers, self.reasons, self.unanswered = answers, dict(reasons), frozenset(unanswered)


def ask_network(
    network: NetworkClassifier,
    questions: Sequence[Rows],
    lease: Lease,
    again: Sequence[int],
    *,
    row_by_row: bool,
    checked: Callable[[NDArray[np.float64], int], NDArray[np.float64]],
) -> list[NDArray[np.float64] | InputFailed]:
    """Answer each block of rows with (n, K) probabilities, or with why it has none, from one batch of all of them.

    Args:
        network: the adapter.
        questions: blocks of rows.
        lease: counts and recalls.
        again: for each block 0, or a number under which its rows are asked anew, though they were answered before.
        row_by_row: each row is a part of its own; one that stands in a block several times is asked so often.
        checked: refuses answers that are no probabilities of so many rows.
    """
    parts = [rows.build(0, len(rows)) for rows in questions]
    sizes = [len(part) for part in parts]
    cuts = np.cumsum(sizes)[:-1]
    numbers = list(again)
    if row_by_row:
        numbers = [number + before for number, part in zip(again, parts, strict=True) for before in times_before(part)]
        parts = [row[None] for part in parts for row in part]
    try:
        answers = _ask_parts(network, parts, lease, numbers)
    except RowsFailed as exc:
        return _by_question(exc, np.split(exc.answers, cuts), sizes)
    return [*np.split(checked(answers, sum(sizes)), cuts)]


def _ask_parts(
    network: NetworkClassifier, parts: Sequence[NDArray[Any]], lease: Lease, numbers: Sequence[int]
) -> NDArray[np.float64]:
    """All parts in one go, as far as the adapter's ``ask`` knows of parts and of their numbers."""
    taken, sizes = inspect.signature(network.ask).parameters, [len(part) for part in parts]
    if len(sizes) == 1 and not any(numbers):
        return network.ask(parts[0], lease)
    if "again" in taken and any(numbers):
        return network.ask(np.concatenate(parts), lease, sizes, numbers)
    if "sizes" in taken and not any(numbers):
        return network.ask(np.concatenate(parts), lease, sizes)
    leases = [RepeatLease(lease, f"again {number}") if number else lease for number in numbers]
    return _one_by_one(network, parts, leases)


def row_contents(rows: NDArray[Any]) -> list[bytes]:
    """What each row (m, \\*shape) holds, to the bit.

    >>> row_contents(np.array([[1, 0], [0, 0]], dtype="u1"))
    [b'\\x01\\x00', b'\\x00\\x00']
    """
    width = rows[:1].nbytes
    return [*np.ascontiguousarray(rows).reshape(len(rows), -1).view(f"V{width}").ravel().tolist()] if width else []


def times_before(rows: NDArray[Any]) -> list[int]:
    """How often each row (m, \\*shape) stood among those before it.

    >>> times_before(np.array([[1.0], [2.0], [1.0]]))
    [0, 0, 1]
    """
    seen: collections.Counter[bytes] = collections.Counter()
    out = []
    for content in row_contents(rows):
        out.append(seen[content])
        seen[content] += 1
    return out


def _one_by_one(network: NetworkClassifier, parts: Sequence[NDArray[Any]], leases: Sequence[Lease]) -> NDArray[np.float64]:
    """Each part on its own, with the failures of all of them at the end."""
    answers: list[NDArray[np.float64]] = []
    reasons: dict[int, str] = {}
    unanswered: set[int] = set()
    for part, lease in zip(parts, leases, strict=True):
        first = sum(len(answer) for answer in answers)
        try:
            answers.append(network.ask(part, lease))
        except RowsFailed as exc:
            reasons |= {first + row: reason for row, reason in exc.reasons.items()}
            unanswered |= {first + row for row in exc.unanswered}
            answers.append(exc.answers)
    if reasons:
        raise RowsFailed(np.concatenate(answers), reasons, unanswered)
    return np.concatenate(answers)


def _by_question(
    exc: RowsFailed, blocks: Sequence[NDArray[np.float64]], sizes: Sequence[int]
) -> list[NDArray[np.float64] | InputFailed]:
    """The rows' failures as the questions' failures."""
    starts = np.cumsum([0, *sizes])
    answers: list[NDArray[np.float64] | InputFailed] = []
    for i, block in enumerate(blocks):
        if np.isnan(block).any():
            within = {row: text for row, text in exc.reasons.items() if starts[i] <= row < starts[i + 1]}
            text = next(iter(within.values())) if within else next(iter(exc.reasons.values()))
            # A row that can never be answered makes the input one that cannot be measured, whatever else failed in it.
            answers.append(InputFailed(text, unanswered=bool(within) and within.keys() <= exc.unanswered))
        else:
            answers.append(block)
    return answers
