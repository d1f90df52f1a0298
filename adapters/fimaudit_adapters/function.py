"""The adapter for any callable from a batch to rows of probabilities or logits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fimaudit.errors import DataError, FimauditError, OutputError, TargetError
from fimaudit.models.classes import finding_names, finding_position
from fimaudit.models.classifier import Classifier, ModelInfo, Options
from fimaudit.models.columns import as_frame, coded
from fimaudit.models.labels import LabelledAs
from fimaudit.models.links import RawRows, chosen_finding, chosen_step, probabilities_each, raw_rows
from fimaudit_adapters.options import LogitCheck, refuse_unused

__all__ = ["ADAPTER", "FunctionAdapter", "FunctionClassifier"]

#: What a function is fed in the data's own type; other data go to it in float64.
_OWN_DTYPES = ("float32", "uint8")


class FunctionAdapter:
    """Takes any callable; the last adapter that is tried."""

    option_names = ("batch", "classes", "dtype", "input_shape", "name")

    def accepts(self, target: object) -> bool:
        """Anything that can be called and is not a class."""
        return callable(target) and not isinstance(target, type)

    def open(self, target: Any, options: Options) -> Classifier:
        """Wrap ``target``, a function from (B, \\*shape) to (B, K).

        Options, all by keyword and optional: ``name``, ``input_shape`` (without the batch axis), ``dtype`` that the
        function is fed with (that of data in float32 or uint8, else float64), ``classes``, ``batch`` (most rows a call).

        Raises:
            TargetError: not callable, or an option that makes no sense.
        """
        refuse_unused(options, "function", used=("output_step", "finding", "normalise"), extra=self.option_names)
        if not callable(target):
            raise TargetError(f"expected a callable from a batch to (batch, classes), got {type(target).__name__}")
        return FunctionClassifier(target, options)


class FunctionClassifier:
    """A callable as a ``Classifier``."""

    def __init__(self, function: Callable[[NDArray[Any]], Any], options: Options) -> None:
        extra = options.extra
        try:
            dtype = np.dtype(extra.get("dtype", options.data if options.data in _OWN_DTYPES else "float64"))
        except TypeError as exc:
            raise TargetError(f"expected the name of a numpy dtype, got dtype={extra['dtype']!r}") from exc
        shape = extra.get("input_shape")
        self._dtype = dtype
        self._function, self._normalise, self._logit_check = function, options.normalise, LogitCheck(options.link)
        self._columns = options.table if options.data == "table" or coded(options.table) else ()
        self._link, self._step = options.link, options.output_step
        self._labels = LabelledAs()
        texts = self._labels.facts() if options.link == "labels" else {}
        self._finding = finding_position(options.finding, None)
        self._info = ModelInfo(
            finding=self._finding,
            name=str(extra.get("name") or getattr(function, "__qualname__", type(function).__name__)),
            adapter="function",
            input_shape=None if shape is None else tuple(shape),
            dtype=dtype.name,
            classes=extra.get("classes") if self._finding is None else 2,
            class_names=finding_names(self._finding, None),
            preferred_batch=extra.get("batch"),
            details={"module": getattr(function, "__module__", type(function).__module__), **texts},
            labels_only=options.link == "labels",
            takes_columns=bool(options.table),
        )

    @property
    def info(self) -> ModelInfo:
        """What is known about the function without calling it, and a warning that its answers give rise to."""
        return self._logit_check.noted(self._info)

    def probabilities(self, batch: NDArray[Any]) -> NDArray[np.float64]:
        """Answer (B, \\*shape) inputs with (B, K) probabilities; the function gets a copy, of a table a DataFrame."""
        found = self.probabilities_each([self.raw(batch)])[0]
        if isinstance(found, FimauditError):
            raise found
        return found

    def raw(self, batch: NDArray[Any], *, overwrite: bool = False) -> RawRows:
        """The answers as the function gives them; rows that nobody else has it gets as they are."""
        rows = np.ascontiguousarray(batch, self._dtype) if overwrite else np.array(batch, self._dtype, order="C")
        if len(rows) == 0:
            raise DataError("expected at least one input, got an empty batch")
        rows = rows if self._normalise is None else self._normalise(rows)
        given = as_frame(self._columns, rows) if self._columns else rows
        answer = self._function(given)
        answer = answer.detach().cpu() if hasattr(answer, "detach") else answer  # a tensor, perhaps with its gradient
        output = chosen_step(_as_array(answer), self._step)
        if self._link == "labels":
            codes = self._labels(output, len(rows))
            return RawRows(codes, codes.dtype)
        chosen = chosen_finding(output, self._finding)
        self._logit_check.watch(chosen)
        return raw_rows(chosen, self._link, rows=len(rows))

    def probabilities_each(self, raw: Sequence[RawRows]) -> list[NDArray[np.float64] | FimauditError]:
        """Probabilities of several calls' answers, or why they are none."""
        return probabilities_each(raw, self._link)

    def close(self) -> None:
        """Nothing to give back."""


def _as_array(answer: Any) -> NDArray[Any]:
    """What a function answered, or a refusal that says what it was instead."""
    try:
        array = np.asarray(answer)
    except ValueError:  # parts of different lengths
        array = np.empty(0, dtype=object)
    if array.dtype != object or (array.size and all(isinstance(one, str) for one in array.ravel()[:1])):
        return array
    inside = f" of {', '.join(map(str, list(answer)[:5]))}" if isinstance(answer, Mapping) else ""
    raise OutputError(
        f"expected the function to return an array of numbers (rows, classes), got {type(answer).__name__}{inside}; return "
        "the array of probabilities, or of logits, alone"
    )


ADAPTER = FunctionAdapter()
