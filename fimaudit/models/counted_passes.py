"""A model's forward and backward rows, each counted by the meter: the currency in which attacks and baselines are priced."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from fimaudit.errors import FimauditError, TargetError
from fimaudit.estimation.secants import log_probabilities
from fimaudit.models.classifier import Classifier, Differentiable
from fimaudit.models.linearization import Linearization, derivative_failure, linearize
from fimaudit.models.meter import Meter
from fimaudit.perturbations.rows import PlainRows

__all__ = ["CountedModel", "LinearizedRows", "logs"]

Array = NDArray[np.float64]

#: Stands in for a probability of 0, whose logarithm no attack can use.
LEAST_PROBABILITY = 1e-300


class CountedModel:
    """Asks a model for probabilities and derivatives; one row is one input through it, forwards or backwards.

    Args:
        meter: counts every row and holds the budget.

    Attributes:
        dtype: what the model is fed.
        differentiable: whether it offers derivatives.
        forward, backward: rows so far through this object.
    """

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self.dtype = meter.model.info.dtype
        self.differentiable = isinstance(meter.model, Differentiable)
        self.forward = 0
        self.backward = 0

    @property
    def model(self) -> Classifier:
        """What is asked."""
        return self._meter.model

    def probabilities(self, rows: NDArray[Any]) -> Array:
        """(n, \\*shape) rows to (n, K) probabilities, cast to the model's dtype on the way."""
        answers = self._meter.ask([PlainRows(np.asarray(rows).astype(self.dtype))])[0]
        self.forward += len(rows)
        return answers

    def apart(self, rows: NDArray[Any]) -> Array:
        """The same in a call of their own, also where the questions of several tasks share calls."""
        return self.probabilities(rows)

    def linearized(self, rows: NDArray[Any]) -> LinearizedRows:
        """The model linearised at (n, \\*shape) rows: n forward rows.

        Raises:
            TargetError: the model gives no derivatives.
            ModelFailure: it raised.
        """
        model = cast(Differentiable, self._meter.model)
        if not self.differentiable:
            raise TargetError(
                f"the {model.info.adapter} adapter gives no derivatives; take metrics and attacks without them"
            )
        batch = np.asarray(rows).astype(self.dtype)
        made = self._counted(lambda: linearize(model, batch), batch)
        self.forward += len(batch)
        return LinearizedRows(made, lambda call: self._backward(call, batch))

    def _backward(self, call: Callable[[], Array], batch: NDArray[Any]) -> Array:
        result = self._counted(call, batch)
        self.backward += len(batch)
        return np.asarray(result)

    def _counted(self, call: Callable[[], Any], batch: NDArray[Any]) -> Any:
        ticket = self._meter.reserve(len(batch))
        try:
            result = call()
        except FimauditError:
            raise
        except Exception as exc:
            raise derivative_failure(exc) from exc
        self._meter.commit(ticket, len(batch), np.empty((len(batch), 0)), "ok", batch.nbytes)
        return result


class LinearizedRows:
    """First derivatives of log p at a batch; each ``pull`` is one backward row an input."""

    def __init__(self, at: Linearization, counted: Callable[[Callable[[], Array]], Array]) -> None:
        self._at, self._counted = at, counted
        self.log_probabilities: Array = np.maximum(at.log_probabilities, np.log(LEAST_PROBABILITY))

    def pull(self, cotangents: Array) -> Array:
        """J_L^T w, J_L the Jacobian of log p: (n, K) to (n, \\*shape)."""
        return self._counted(lambda: self._at.pull(cotangents))

    def gradients(self) -> Array:
        """grad log p_k for every class: (n, K, \\*shape), K backward rows an input."""
        count, classes = self.log_probabilities.shape
        rows = [self.pull(np.tile(unit, (count, 1))) for unit in np.eye(classes)]
        return np.stack(rows, axis=1)


def logs(probabilities: Array) -> Array:
    """log p of each row, finite, the top class by 1 minus the others: (n, K) to (n, K)."""
    p = np.maximum(probabilities, LEAST_PROBABILITY)
    return log_probabilities(p[:, None], p.argmax(axis=1))[:, 0]
