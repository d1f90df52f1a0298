"""The exact answer from derivatives, where the model gives them: every quantity of the black-box audit, without sampling.

With J_L the Jacobian of log p and C = J_L J_L^T (K x K), everything follows from C and p:

    spectral norm       top eigenvalue of diag(s) C diag(s), s = sqrt(p)
    peak spectral norm  max over T of the top eigenvalue of B C B^T, B = diag(sqrt q_T) (I - 1 q_T^T) / T, q_T ~ p^(1/T)
    trace               sum_k p_k C_kk
    margin radius       min over k != c of log(p_c / p_k) / sqrt(C_cc + C_kk - 2 C_ck), c the predicted class

Few classes: C is formed by K backward passes, all inputs of a batch together (``gram``). Many: Lanczos on products with C
(``lanczos``), whose products also serve the peak, the trace and the margins (``fimaudit.whitebox.krylov_basis``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from fimaudit.errors import ModelFailure, TargetError, UsageError
from fimaudit.models.classifier import Differentiable
from fimaudit.models.linearization import Linearizable, Linearization, linearize
from fimaudit.whitebox.gram import measure_gram
from fimaudit.whitebox.krylov import measure_krylov
from fimaudit.whitebox.result import WhiteBox

__all__ = ["CROSSOVER", "Method", "WhiteBox", "exact_reference", "inputs_together", "measure", "obstacle"]

Method = Literal["auto", "gram", "lanczos"]
METHODS: tuple[str, ...] = get_args(Method)

#: Most classes for which K backward passes cost less than Lanczos and what follows it (benchmarks/whitebox.py).
CROSSOVER = 32
#: Rows of Jacobians held together.
ROWS_BYTES = 256 * 2**20
#: Numbers of a class-side array, (inputs, classes), held together.
CLASS_NUMBERS = 2**19
NOT_FINITE = "the derivatives are not finite; use --mode black-box"
TOO_LARGE = "the derivatives of a single input do not fit the memory; use --mode black-box"


def measure(
    model: Differentiable,
    batch: NDArray[Any],
    *,
    tolerance: float = 1e-4,
    method: Method = "auto",
    worst_direction: bool = False,
    norm_only: bool = False,
    seed: int = 0,
    indices: Sequence[int] | None = None,
    together: int | None = None,
) -> list[WhiteBox]:
    """Measure inputs through the model's derivatives.

    Args:
        model: a ``Differentiable`` classifier.
        batch: (n, \\*shape) inputs.
        tolerance: relative residual |G u - lambda u| / lambda at which an input's iteration stops.
        method: ``gram`` (K backward passes, exact), ``lanczos``, or ``auto``: ``gram`` up to ``CROSSOVER`` classes.
        worst_direction: also give the input direction of unit l2 norm along which the output changes most.
        norm_only: leave out peak, trace and margin, which ``gram`` gives anyway.
        seed, indices: key of the random vectors of an iteration, and each input's number in it (0, 1, ... when left out).
        together: most inputs that share a pass; as many as fit when left out.

    Returns:
        One ``WhiteBox`` an input, in order.

    Raises:
        TargetError: the model has no derivative at these inputs.
        ModelFailure: it raised, or one input alone does not fit the memory.

    Memory is bounded by pieces of the batch: it grows neither with n nor with K d n.
    """
    if method not in METHODS:
        raise UsageError(f"expected a method among {', '.join(METHODS)}, got {method!r}")
    x = np.asarray(batch)
    keys = list(indices) if indices is not None else list(range(len(x)))
    if len(keys) != len(x):
        raise UsageError(f"expected one index an input, got {len(keys)} for {len(x)} inputs")
    if not len(x):
        return []
    classes, first = _linearized_first(model, x, together or len(x))
    if method == "auto":
        method = "gram" if classes <= CROSSOVER else "lanczos"
    results: list[WhiteBox] = []
    rows = min(_rows_together(model, x, classes, method), together or len(x))
    if first is not None:
        rows = min(rows, len(first.row_scale))
        if len(first.row_scale) > rows:  # freed before another is made
            first = None
    while len(results) < len(x):
        part = slice(len(results), len(results) + rows)
        try:
            at = first if first is not None else linearize(model, x[part])
            first = None
            if method == "gram":
                results += measure_gram(at, worst_direction=worst_direction)
            else:
                results += measure_krylov(
                    model,
                    x[part],
                    at,
                    tolerance=tolerance,
                    worst_direction=worst_direction,
                    norm_only=norm_only,
                    keys=[(seed, index) for index in keys[part]],
                )
        except NotImplementedError as exc:
            if method == "gram":
                raise ModelFailure(f"an operator of the model has no derivative: {exc}; use --mode black-box") from exc
            # Products with J need more than first derivatives; rows of J do not.
            method, rows = "gram", min(rows, _rows_together(model, x, classes, "gram"))
        except np.linalg.LinAlgError as exc:
            raise ModelFailure(NOT_FINITE) from exc
        except Exception as exc:
            rows = _fewer(rows, exc)
    return results


def exact_reference(model: Any, batch: NDArray[Any]) -> list[WhiteBox]:
    """The truth for tests and the demo: K backward passes in float64, on float64 copies of the model's parameters.

    Args:
        model: a torch classifier (one that linearises itself in a precision of choice).
        batch: (n, \\*shape) inputs.
    """
    import torch

    if not isinstance(model, Linearizable):
        raise TargetError(f"the reference needs a torch classifier, got {type(model).__name__}")
    x = np.asarray(batch)
    classes = _linearized_first(model, x, 1)[0]
    rows = max(1, _rows_together(model, x, classes, "gram") // 2)
    results: list[WhiteBox] = []
    for start in range(0, len(x), rows):
        at: Linearization = model.linearize(x[start : start + rows], dtype=torch.float64)  # type: ignore[call-arg]
        results += measure_gram(at, method="reference")
    return results


def obstacle(model: object, x: NDArray[Any]) -> str | None:
    """Why ``model`` cannot be measured by its derivatives at one input x, as a sentence; ``None`` where it can."""
    if not isinstance(model, Differentiable):
        return "the adapter gives no derivatives"
    try:
        at = linearize(model, np.asarray(x)[None])
        slopes = at.squared_norms(at.row_scale)
    except Exception as exc:
        return " ".join(str(exc).split())[:300] or type(exc).__name__
    return None if np.isfinite(slopes).all() else "the derivatives are not finite"


def _fewer(rows: int, exc: Exception) -> int:
    """Half as many inputs together, where the memory did not hold them; whatever else went wrong is raised."""
    if not _out_of_memory(exc):
        raise exc
    if rows == 1:
        raise ModelFailure(TOO_LARGE) from exc
    return rows // 2


def inputs_together(model: Differentiable, x: NDArray[Any]) -> int:
    """How many inputs like these to linearise together."""
    if isinstance(model, Linearizable):
        return model.derivative_rows(int(x[0].size * np.dtype(model.info.dtype).itemsize))
    return min(16, model.info.preferred_batch or 16)


def _linearized_first(model: Differentiable, x: NDArray[Any], most: int) -> tuple[int, Linearization | None]:
    """The number of classes, and the first inputs linearised where it takes that to know it."""
    if model.info.classes is not None:
        return model.info.classes, None
    rows = min(inputs_together(model, x), most)
    while True:
        try:
            first = linearize(model, x[:rows])
            return first.row_scale.shape[1], first
        except Exception as exc:
            rows = _fewer(rows, exc)


def _out_of_memory(exc: Exception) -> bool:
    """torch's error, known by its name: the core imports no torch."""
    return type(exc).__name__ == "OutOfMemoryError"


def _rows_together(model: Differentiable, x: NDArray[Any], classes: int, method: str) -> int:
    rows = inputs_together(model, x)
    most = ROWS_BYTES // (8 * classes * max(1, x[0].size)) if method == "gram" else CLASS_NUMBERS // classes
    return max(1, min(rows, most))
