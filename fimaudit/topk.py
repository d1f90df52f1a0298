"""Answers that show the top few labels only: what is not seen in every answer is pooled, so that lambda is a lower bound."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["pool_hidden"]


def pool_hidden(answers: NDArray[np.float64]) -> NDArray[np.float64]:
    """Move every class that some answer hides into the rest, the last column, for all answers alike.

    An exact 0 outside the last column says "not among the top": left as it is, a label that drops out of the list
    would look like a jump to zero and inflate lambda. Merging classes never raises the Fisher information (data
    processing), so what is measured on the pooled answers is a lower bound. Columns stay; pooled ones are zero.

    Args:
        answers: (n, K) for one input: its base row and its displaced rows together; the last column is the rest.

    >>> pool_hidden(np.array([[0.6, 0.3, 0.1], [0.7, 0.0, 0.3]]))
    array([[0.6, 0. , 0.4],
           [0.7, 0. , 0.3]])
    """
    hidden = (answers[:, :-1] == 0).any(axis=0)
    pooled = answers.copy()
    pooled[:, -1] += pooled[:, :-1][:, hidden].sum(axis=1)
    pooled[:, :-1][:, hidden] = 0.0
    return pooled
