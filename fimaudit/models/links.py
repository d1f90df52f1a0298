"""What turns a model's output into probabilities: ``auto``, ``identity``, ``softmax``, ``sigmoid``; or into ``labels``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from fimaudit.errors import FimauditError, LinkError, OutputError, SeveralFindingsError
from fimaudit.models.labels import label_codes, one_row_each
from fimaudit.number_format import number_spacing, output_resolution

__all__ = [
    "SMALL",
    "Link",
    "RawRows",
    "are_distributions",
    "as_rows",
    "chosen_finding",
    "chosen_step",
    "probabilities_each",
    "raw_rows",
    "to_probabilities",
]

Link = Literal["auto", "identity", "softmax", "sigmoid", "labels"]
LINKS: tuple[str, ...] = get_args(Link)

#: A row of float32 probabilities misses 1 by about 1e-7 times its length; anything beyond this is no distribution.
ROW_SUM_TOLERANCE = 1e-5
#: Answers of so many numbers are looked at together; BLAS multiplies them on one thread, whatever else runs (OpenBLAS:
#: interface/gemv.c).
SMALL = 9000
#: Fewer rows than these lie from 0 to 1 by chance.
FEW = 3
#: Rows that miss 1 by less than this are no several findings but rounded or cut off.
NEARLY_ONE = 0.05


class RawRows(NamedTuple):
    """What a model answered to a call, before it is known to be probabilities.

    Attributes:
        values: (rows, K) as it gave them, a copy.
        dtype: in which it gave them.
    """

    values: NDArray[np.float64]
    dtype: np.dtype[Any]


def to_probabilities(output: NDArray[Any], link: Link, *, rows: int) -> NDArray[np.float64]:
    """Turn a model's raw output for ``rows`` inputs into probabilities, in float64.

    - ``softmax``: rows of K >= 2 logits; ``p = exp(z - max z) / sum``; a logit of -inf is a class that is masked, p = 0.
    - ``sigmoid``: one logit an input; ``p = (1 - sigma(z), sigma(z))``.
    - ``identity``: rows that are distributions, or one column that is P(class 1).
    - ``auto``: ``identity`` for K >= 2, and a refusal that names the flag for everything else.
    - ``labels``: no probabilities but (rows, 1) whole numbers, the classes (``labels.label_codes``).

    Args:
        output: shape (rows, K), (rows, K, 1, ...), (rows, 1) or (rows,); any real dtype.
        link: one of ``LINKS``.
        rows: how many inputs were asked.

    Returns:
        (rows, K) array; each row is non-negative and sums to 1 within rounding (rows that sum to 1 within the
        tolerance are passed on as they came: the measurement takes the top class as 1 minus the others).

    Raises:
        OutputError: wrong number of rows, NaN, infinite values, or not a row of numbers.
        LinkError: the rows are no distributions under ``link``.

    >>> to_probabilities(np.array([[0.0, 0.0]]), "softmax", rows=1)
    array([[0.5, 0.5]])
    """
    found = probabilities_each([raw_rows(output, link, rows=rows)], link)[0]
    if isinstance(found, FimauditError):
        raise found
    return found


def raw_rows(output: Any, link: Link, *, rows: int) -> RawRows:
    """The first half of ``to_probabilities``: numbers, so many rows of them.

    Raises:
        OutputError, LinkError: they are none, or there is no such link.
    """
    if link not in LINKS:
        raise LinkError(f"expected a link among {', '.join(LINKS)}, got {link!r}")
    values = label_codes(output, rows) if link == "labels" else as_rows(output, rows)
    return RawRows(values.astype(np.float64), values.dtype)


def probabilities_each(raw: Sequence[RawRows], link: Link) -> list[NDArray[np.float64] | FimauditError]:
    """The second half, of the answers to several calls: their probabilities, or why they are none.

    Args:
        raw: what becomes of one does not depend on the others.
        link: one of ``LINKS``.

    >>> calls = [raw_rows(np.array(answer), "identity", rows=1) for answer in ([[0.25, 0.75]], [[2.0, 3.0]])]
    >>> fine, wrong = probabilities_each(calls, "identity")
    >>> fine, type(wrong).__name__
    (array([[0.25, 0.75]]), 'LinkError')
    """
    if link == "labels":
        return [answers.values for answers in raw]
    found: list[NDArray[np.float64] | FimauditError] = []
    for group in _groups(raw):
        values = [answers.values for answers in group]
        if link in ("auto", "identity") and are_distributions(values[0] if len(group) == 1 else np.concatenate(values)):
            found += values  # nearly always; what is wrong, or how far the answers are rounded, takes longer to say
        elif len(group) > 1:
            found += [one for answers in group for one in probabilities_each([answers], link)]
        else:
            try:
                found.append(_linked(*group[0], link))
            except FimauditError as error:
                found.append(error)
    return found


def _groups(raw: Sequence[RawRows]) -> Iterator[list[RawRows]]:
    """Answers in a row of as many classes, few enough numbers to be looked at together."""
    group: list[RawRows] = []
    size = 0
    for answers in raw:
        values = answers.values
        if group and (size + values.size > SMALL or values.shape[1] != group[0].values.shape[1]):
            yield group
            group, size = [], 0
        group.append(answers)
        size += values.size
    if group:
        yield group


def _linked(z: NDArray[np.float64], dtype: np.dtype[Any], link: Link) -> NDArray[np.float64]:
    _refuse_nonfinite(z, link)
    if link == "softmax":
        if z.shape[1] < 2:
            raise LinkError("link softmax needs at least two columns, got one; use --link sigmoid for a single logit")
        e = np.exp(z - z.max(axis=1, keepdims=True))
        return np.asarray(e / e.sum(axis=1, keepdims=True))
    if link == "sigmoid":
        if z.shape[1] != 1:
            raise LinkError(
                f"link sigmoid needs one column, got {z.shape[1]}; where these are findings that do not exclude each other "
                "(multi-label), choose one with --class NAME; where they are logits of classes that do, use --link softmax"
            )
        t = np.exp(-np.abs(z))
        near, far = 1.0 / (1.0 + t), t / (1.0 + t)
        positive = z >= 0
        return np.hstack([np.where(positive, far, near), np.where(positive, near, far)])
    return _distributions(z, dtype, link)


def chosen_step(output: Any, step: int | None) -> Any:
    """One step of (rows, steps, classes) outputs, arrays or tensors: (rows, classes); as it is when ``step`` is ``None``.

    Raises:
        OutputError: the output has no such axis, or not so many steps.
    """
    if step is None:
        return output
    if output.ndim != 3:
        raise OutputError(
            f"expected output of shape (rows, steps, classes) to take step {step} of, got {tuple(output.shape)}; "
            "leave --output-step out"
        )
    steps = output.shape[1]
    if not -steps <= step < steps:
        raise OutputError(
            f"the model answers {steps} steps; expected --output-step from {-steps} to {steps - 1}, got {step}"
        )
    return output[:, step]


def chosen_finding(output: Any, finding: int | None) -> Any:
    """One column of (rows, findings) outputs, arrays or tensors, as (rows, 1); as it is when ``finding`` is ``None``.

    Raises:
        OutputError: no such column.
    """
    if finding is None:
        return output
    if output.ndim < 2 or output.shape[1] < 2 or not 0 <= finding < output.shape[1]:
        raise OutputError(
            f"expected output of several columns to take --class {finding} of, got shape {tuple(output.shape)}"
        )
    return output[:, finding : finding + 1]


def as_rows(output: NDArray[Any], rows: int) -> NDArray[Any]:
    """Bring (N,), (N, 1), (N, K) or (N, K, 1, ...) to (N, K); anything else is refused."""
    values = np.asarray(output)
    if values.dtype.kind == "f":
        return one_row_each(values, rows)
    if values.dtype.kind in "US" or (values.dtype.kind == "O" and all(isinstance(v, str) for v in values.ravel()[:1])):
        raise OutputError(
            "expected numbers from the model, got text, which looks like class labels; name the output that holds "
            "probabilities with --output, or audit the labels alone with --link labels"
        )
    if values.dtype.kind not in "iub":
        raise OutputError(f"expected numbers from the model, got dtype {values.dtype}")
    raise OutputError(
        f"expected probabilities or logits, got {values.dtype} values, which look like class labels; "
        "name the output that holds probabilities with --output, or audit the labels alone with --link labels"
    )


def _refuse_nonfinite(values: NDArray[Any], link: Link) -> None:
    finite = np.isfinite(values)
    if finite.all():
        return
    masked = np.isneginf(values) if link == "softmax" else np.zeros_like(finite)
    if not (finite | masked).all() or masked.all(axis=1).any():
        raise OutputError(
            f"expected finite numbers from the model, got {describe_nonfinite(values)}; "
            "check the preprocessing of the inputs and the model's own numerics"
        )


def describe_nonfinite(values: NDArray[Any]) -> str:
    """How many NaN and infinite values, for a message."""
    return f"{int(np.isnan(values).sum())} NaN and {int(np.isinf(values).sum())} infinite among {values.size}"


def are_distributions(p: NDArray[np.float64]) -> bool:
    """Whether (rows, K) numbers, K >= 2, lie from 0 to 1 and add up to 1 in each row; none of them is NaN then."""
    if p.shape[1] < 2 or not p.size or not p.min() >= 0 or not p.max() <= 1:
        return False
    off = (p.dot(_ones(p.shape[1])) if p.size <= SMALL else p.sum(axis=1)) - 1.0  # a product takes a tenth of the time
    return bool(off.dot(off) <= ROW_SUM_TOLERANCE**2 or np.abs(off).max() <= ROW_SUM_TOLERANCE)


@lru_cache(maxsize=8)
def _ones(count: int) -> NDArray[np.float64]:
    return np.ones(count)


def _distributions(p: NDArray[np.float64], dtype: np.dtype[Any], link: str) -> NDArray[np.float64]:
    if p.shape[1] == 1:
        if link == "auto":
            raise LinkError(
                "the model returns a single column, which can be P(class 1) or a logit; "
                "say which with --link identity or --link sigmoid"
            )
        low, high = float(p.min()), float(p.max())
        if low < 0 or high > 1:
            percent = ", or divide by 100 if these are percentages" if 0 <= low <= high <= 100 else ""
            raise LinkError(
                f"link identity reads a single column as P(class 1), but values run from {low:.6g} to {high:.6g}; "
                f"use --link sigmoid for a logit{percent}"
            )
        return np.hstack([1.0 - p, p])
    low, high = float(p.min()), float(p.max())
    sums = p.sum(axis=1)
    worst = float(sums[np.argmax(np.abs(sums - 1.0))])
    rounded = max(output_resolution(p.astype(dtype)), number_spacing(p))
    tolerance = max(ROW_SUM_TOLERANCE, min(0.5, p.shape[1] * rounded / 2))
    if low >= 0 and np.abs(sums / 100.0 - 1.0).max() <= tolerance:
        raise LinkError("expected rows that sum to 1, got rows that sum to 100: these are percentages; divide them by 100")
    if low < -tolerance or high > 1 + tolerance:
        raise LinkError(
            f"expected probabilities, got values from {low:.6g} to {high:.6g}, which look like logits; "
            "use --link softmax if they are"
        )
    if tolerance < abs(worst - 1.0) <= NEARLY_ONE and np.abs(sums - 1.0).max() <= NEARLY_ONE and low >= 0:
        raise LinkError(
            f"expected rows that sum to 1 within {tolerance:.1g}, got a row that sums to {worst:.6g}: if answers are cut "
            "off or rounded on the way, divide each row by its sum (p / p.sum(axis=1, keepdims=True)); if they are findings "
            "that do not exclude each other (multi-label), audit one of them with --class NAME --link identity"
        )
    if worst == 0.0 and low >= 0 and (sums[np.abs(sums - 1.0) > tolerance] == 0).all():
        raise LinkError(
            "expected rows that sum to 1, got a row of zeros only: the model names no class there, as OneVsRestClassifier "
            "of trees does where none of them says yes; audit one class against the others with --class NAME --link "
            "identity, or give a function that says which class is meant"
        )
    if abs(worst - 1.0) > tolerance and low >= 0 and high <= 1:
        few = "; so few answers may also be logits that lie there by chance" if len(p) < FEW else ""
        raise SeveralFindingsError(
            f"expected rows that sum to 1, got probabilities in a row that sums to {worst:.6g}: findings that do not "
            "exclude each other (multi-label) are no distribution; audit one of them against its complement with --class "
            f"NAME --link identity, or name the output that holds one distribution with --output{few}"
        )
    if abs(worst - 1.0) > tolerance:
        raise LinkError(
            f"expected rows that sum to 1 within {tolerance:.1g}, got a row that sums to {worst:.6g}; "
            "use --link softmax if these are logits, or name the output that holds probabilities with --output"
        )
    return np.asarray(np.clip(p, 0.0, 1.0))
