"""Published measures of local robustness under their own names, each over one input and priced in rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fimaudit.baselines.question import Question
from fimaudit.baselines.rayleigh import rayleigh_max, rayleigh_max_white
from fimaudit.errors import UsageError
from fimaudit.models.counted_passes import CountedModel

__all__ = ["BASELINES", "Baseline", "Reading", "measure_baseline"]

Array = NDArray[np.float64]

#: Probes of the white-box Rayleigh estimator, as published.
PROBES = 100


@dataclass(frozen=True)
class Reading:
    """A baseline's value at one input, and the rows it took."""

    value: float
    forward: int
    backward: int


@dataclass(frozen=True)
class Baseline:
    """A measure of local robustness.

    Attributes:
        measure: from the model and a question to a number.
        derivatives: whether it needs them.
        sensitivity: whether a large value means a sensitive input (the reciprocal is then compared with a distance).
        extra: the optional dependency that it needs, if any.
        source: where it was published.
    """

    measure: Callable[[CountedModel, Question], float]
    derivatives: bool
    sensitivity: bool
    source: str
    extra: str | None = None


def measure_baseline(name: str, passes: CountedModel, question: Question) -> Reading:
    """Measure one input by a named baseline.

    Raises:
        UsageError: no baseline has this name.
        TargetError: it needs derivatives, and the model gives none.
        MissingExtraError: it needs a package that is not installed.
        BudgetExhausted, ModelFailure: the model cannot be asked.
    """
    if name not in BASELINES:
        raise UsageError(f"expected a baseline among {', '.join(BASELINES)}, got {name!r}")
    forward, backward = passes.forward, passes.backward
    value = BASELINES[name].measure(passes, question)
    return Reading(value, passes.forward - forward, passes.backward - backward)


def _rayleigh_black(passes: CountedModel, q: Question) -> float:
    p, lengths = _around(passes, q, q.displacement)
    return rayleigh_max(2.0 * (np.sqrt(p[1:]) - np.sqrt(p[0])) / lengths[:, None])


def _rayleigh_white(passes: CountedModel, q: Question) -> float:
    rows, p = _root_rows(passes, q)
    probes = np.random.default_rng(q.seed).standard_normal((PROBES, len(p)))
    return rayleigh_max_white(4.0 * rows @ rows.T, probes)


def _trace(passes: CountedModel, q: Question) -> float:
    rows, _ = _root_rows(passes, q)
    return float(4.0 * (rows**2).sum())


def _great_score(passes: CountedModel, q: Question) -> float:
    ranked = np.sort(passes.probabilities(q.x[None])[0])
    return float(np.sqrt(np.pi / 2) * (ranked[-1] - ranked[-2]))


def _local_lipschitz(passes: CountedModel, q: Question) -> float:
    p, lengths = _around(passes, q, q.displacement)
    return float((np.linalg.norm(p[1:] - p[0], axis=1) / lengths).max())


def _loss_gradient(passes: CountedModel, q: Question) -> float:
    at = passes.linearized(q.x[None])
    label = int(at.log_probabilities[0].argmax()) if q.label is None else q.label
    gradient = at.pull(np.eye(at.log_probabilities.shape[1])[[label]])[0] * q.space.scale
    return float(np.linalg.norm(np.where(q.space.frozen, 0.0, gradient)))


def _clever(passes: CountedModel, q: Question) -> float:
    from fimaudit.baselines.clever import clever_score

    return clever_score(passes, q)


#: Every baseline by name.
BASELINES: Mapping[str, Baseline] = {
    "rayleigh_max": Baseline(_rayleigh_black, False, True, "arXiv 2606.04767"),
    "rayleigh_max_white": Baseline(_rayleigh_white, True, True, "arXiv 2606.04767"),
    "clever": Baseline(_clever, True, False, "Weng et al., ICLR 2018, arXiv 1801.10578", "attacks"),
    "great_score": Baseline(_great_score, False, False, "Li et al., arXiv 2304.09875"),
    "local_lipschitz": Baseline(_local_lipschitz, False, True, "Yang et al. 2020, arXiv 2003.02460"),
    "loss_gradient": Baseline(_loss_gradient, True, True, "Arpit et al. 2017, arXiv 1706.05394"),
    "trace": Baseline(_trace, True, True, "Shen et al. 2019, arXiv 1909.06137"),
}


def _around(passes: CountedModel, q: Question, length: float) -> tuple[Array, Array]:
    """Probabilities at the input and at random displacements of one l2 length, and the lengths that were really sent."""
    rng = np.random.default_rng(q.seed)
    free = ~q.space.frozen
    v = np.where(free, rng.standard_normal((q.rows - 1, *q.x.shape)), 0.0)
    v /= np.linalg.norm(v.reshape(len(v), -1), axis=1).reshape(-1, *(1,) * q.x.ndim)
    base = q.x.astype(q.space.dtype)
    rows = np.clip(base + length * q.space.scale * v, q.space.lower, q.space.upper).astype(q.space.dtype)
    moved = (rows.astype(np.float64) - base.astype(np.float64)) / q.space.scale
    lengths = np.linalg.norm(moved.reshape(len(v), -1), axis=1)
    p = passes.probabilities(np.concatenate([base[None], rows]))
    sent = lengths > 0
    return np.concatenate([p[:1], p[1:][sent]]), lengths[sent]


def _root_rows(passes: CountedModel, q: Question) -> tuple[Array, Array]:
    """The Jacobian of sqrt(p) over the free features, (K, d), in units of the scale, and p."""
    at = passes.linearized(q.x[None])
    p = np.exp(at.log_probabilities[0])
    free = (~q.space.frozen).ravel()
    slopes = (at.gradients()[0] * q.space.scale).reshape(len(p), -1)[:, free]
    return 0.5 * np.sqrt(p)[:, None] * slopes, p
