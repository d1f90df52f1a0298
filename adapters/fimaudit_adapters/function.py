"""The adapter for any callable from a batch to rows of probabilities or logits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fimaudit.errors import DataError, TargetError
from fimaudit.models.classifier import Classifier, ModelInfo, Options
from fimaudit.models.labels import LabelledAs
from fimaudit.models.links import chosen_step, to_probabilities
from fimaudit_adapters.options import refuse_unused

__all__ = ["ADAPTER", "FunctionAdapter", "FunctionClassifier"]


class FunctionAdapter:
    """Takes any callable; the last adapter that is tried."""

    option_names = ("batch", "classes", "dtype", "input_shape", "name")

    def accepts(self, target: object) -> bool:
        """Anything that can be called and is not a class."""
        return callable(target) and not isinstance(target, type)

    def open(self, target: Any, options: Options) -> Classifier:
        """Wrap ``target``, a function from (B, \\*shape) to (B, K).

        Options, all by keyword and optional: ``name``, ``input_shape`` (without the batch axis), ``dtype`` that the
        function is fed with (float64), ``classes``, ``batch`` (most rows a call).

        Raises:
            TargetError: not callable, or an option that makes no sense.
        """
        refuse_unused(options, "function", used=("output_step",), extra=self.option_names)
        if not callable(target):
            raise TargetError(f"expected a callable from a batch to (batch, classes), got {type(target).__name__}")
        return FunctionClassifier(target, options)


class FunctionClassifier:
    """A callable as a ``Classifier``."""

    def __init__(self, function: Callable[[NDArray[Any]], Any], options: Options) -> None:
        extra = options.extra
        try:
            dtype = np.dtype(extra.get("dtype", "float64"))
        except TypeError as exc:
            raise TargetError(f"expected the name of a numpy dtype, got dtype={extra['dtype']!r}") from exc
        shape = extra.get("input_shape")
        self._function = function
        self._link, self._step = options.link, options.output_step
        self._labels = LabelledAs()
        texts = self._labels.facts() if options.link == "labels" else {}
        self._info = ModelInfo(
            name=str(extra.get("name") or getattr(function, "__qualname__", type(function).__name__)),
            adapter="function",
            input_shape=None if shape is None else tuple(shape),
            dtype=dtype.name,
            classes=extra.get("classes"),
            preferred_batch=extra.get("batch"),
            details={"module": getattr(function, "__module__", type(function).__module__), **texts},
            labels_only=options.link == "labels",
        )

    @property
    def info(self) -> ModelInfo:
        """What is known about the function without calling it."""
        return self._info

    def probabilities(self, batch: NDArray[Any]) -> NDArray[np.float64]:
        """Answer (B, \\*shape) inputs with (B, K) probabilities; the function gets a copy of its own."""
        rows = np.array(batch, dtype=self._info.dtype, order="C")
        if len(rows) == 0:
            raise DataError("expected at least one input, got an empty batch")
        output = chosen_step(np.asarray(self._function(rows)), self._step)
        if self._link == "labels":
            return self._labels(output, len(rows))
        return to_probabilities(output, self._link, rows=len(rows))

    def close(self) -> None:
        """Nothing to give back."""


ADAPTER = FunctionAdapter()
