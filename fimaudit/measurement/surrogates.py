"""Surrogates: local models whose Jacobian at an input says along which directions the audited model may change.

Whatever a surrogate says, the estimate stays unbiased (``deflation``); a good one makes it more precise. Its derivatives are
exact where its adapter gives them, else central differences of every feature. None of its rows pass the audit's meter.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fimaudit.errors import FimauditError, LinkError, TargetError, UsageError
from fimaudit.estimation.secants import complete
from fimaudit.foreign_errors import one_line
from fimaudit.models.classifier import Classifier, Differentiable, NetworkClassifier
from fimaudit.models.linearization import linearize
from fimaudit.models.links import Link
from fimaudit.models.opening import open_classifier
from fimaudit.models.shipping import ShippedModel, ship_model
from fimaudit.space import Space

__all__ = ["Surrogates", "choose_surrogates", "leading", "open_surrogates"]

Array = NDArray[np.float64]

#: What the output may be, in the order in which it is tried.
LINKS_TRIED: tuple[Link, ...] = ("auto", "softmax", "identity", "sigmoid")
#: The most probable classes carry the Jacobian of 2 sqrt(p).
MOST_CLASSES = 16
#: Without derivatives every feature is displaced; more features than this would take minutes an input.
MOST_FEATURES = 8192
#: A single feature's displacement, as a share of the l2 length at which the audited model answers linearly.
SHARE = 0.25
#: Numbers of rows that are built together.
BLOCK_NUMBERS = 2**24
#: Directions with less than this share of the largest singular value are rounding.
RANK = 1e-6


class Surrogates:
    """Opened lazily, once a process; pickles without what is open.

    Args:
        models: how to open each.
        opened: the same models where they are open already.
    """

    def __init__(self, models: Sequence[ShippedModel], opened: Sequence[Classifier] | None = None) -> None:
        self._models = tuple(models)
        self._opened: tuple[Classifier, ...] | None = None if opened is None else tuple(opened)

    def __getstate__(self) -> dict[str, Any]:
        return {"_models": self._models, "_opened": None}

    def portable(self) -> Surrogates:
        """The same with the models' files inside, for processes that may run on other machines."""
        opened = self._open()
        return Surrogates(
            [
                ship_model(m.target, m.link, m.options, bytes, one.info.details.get("external_data") or {})
                for m, one in zip(self._models, opened, strict=True)
            ]
        )

    def facts(self) -> list[dict[str, Any]]:
        """For the report: names, hashes and links."""
        return [
            {"name": one.info.name, "sha256": one.info.details.get("sha256"), "link": m.link}
            for m, one in zip(self._models, self._open(), strict=True)
        ]

    def directions(self, x: NDArray[Any], space: Space, rho: float, most: int) -> Array:
        """The leading right singular directions of all Jacobians of 2 sqrt(p) at x, stacked: (q, d), orthonormal, q <= most.

        Args:
            x: the input.
            space: its domain; d are the features that may change, in units of the scale.
            rho: l2 displacement at which the audited model answers linearly.
            most: directions.

        Returns:
            none, (0, d), where a model does not answer: the input is then measured without.
        """
        try:
            rows = [_jacobian(model, x, space, rho) for model in self._open()]
        except TargetError:
            raise
        except Exception as error:
            logging.getLogger("fimaudit").warning("a surrogate does not answer: %s: %s", type(error).__name__, error)
            return np.zeros((0, space.features))
        return leading(np.concatenate(rows), most)

    def close(self) -> None:
        """Close what was opened here; may be called twice."""
        for given, model in zip(self._models, self._opened or (), strict=False):
            if model is not given.target:
                model.close()

    def _open(self) -> tuple[Classifier, ...]:
        if self._opened is None:
            self._opened = tuple(model.open(bytes) for model in self._models)
        return self._opened


def leading(rows: Array, most: int) -> Array:
    """Leading right singular vectors (q, d) of (n, d) rows, those of rounding left out; through the smaller side."""
    rows = rows[np.isfinite(rows).all(axis=1)]
    if not len(rows) or not rows.any():
        return rows[:0]
    wide = len(rows) < rows.shape[1]
    values, vectors = np.linalg.eigh(rows @ rows.T if wide else rows.T @ rows)
    found = vectors[:, ::-1][:, np.flatnonzero(values[::-1] > RANK * values[-1])[:most]].T
    return np.ascontiguousarray(np.linalg.qr((found @ rows if wide else found).T)[0].T)


def open_surrogates(
    targets: Sequence[object], x: NDArray[Any], *, trust_pickle: bool = False, device: str | None = None
) -> Surrogates:
    """Open local models and find out what turns their output into probabilities.

    Args:
        targets: files, modules or open classifiers, as for ``open_classifier``.
        x: one input, as the audited model takes it.
        trust_pickle, device: as for ``open_classifier``.

    Raises:
        TargetError: not there, not local, not a classifier, or for inputs of another shape.
    """
    models, opened = [], []
    options = {"trust_pickle": trust_pickle, "device": device}
    try:
        for target in targets:
            link, model = _opened(os.fspath(target) if isinstance(target, os.PathLike) else target, x, options)
            opened.append(model)
            models.append(ShippedModel(target, link, options, {}, ()))
    except BaseException:
        for model in opened:
            model.close()
        raise
    return Surrogates(models, opened)


def choose_surrogates(
    given: object | Sequence[object], x: NDArray[Any], options: Mapping[str, Any]
) -> Surrogates | Literal["learned"]:
    """What ``--surrogate`` names: models, or ``learned``.

    Args:
        given: one model or several, or ``learned``.
        x: one input.
        options: of the audited model; what may be opened and where applies to surrogates too.

    Raises:
        UsageError: both, or none.
        TargetError: as for ``open_surrogates``.
    """
    targets = list(given) if isinstance(given, list | tuple) else [given]
    if not targets:
        raise UsageError("expected --surrogate as a file, several, or learned; got none")
    learned = [isinstance(target, str) and target == "learned" for target in targets]
    if any(learned):
        if len(targets) > 1:
            raise UsageError("expected --surrogate learned alone, or files alone, got both")
        return "learned"
    trusted, device = bool(options.get("trust_pickle")), options.get("device")
    return open_surrogates(targets, x, trust_pickle=trusted, device=device)


def _opened(target: object, x: NDArray[Any], options: dict[str, Any]) -> tuple[Link, Classifier]:
    if isinstance(target, str) and "://" in target:
        raise TargetError(f"expected a local model as --surrogate, got {target}; its derivatives take many rows an input")
    if isinstance(target, Classifier):
        _check(target, x)
        _ask(target, x)
        return "auto", target
    last: FimauditError | None = None
    for link in LINKS_TRIED:
        model = open_classifier(target, link, **options)
        try:
            _check(model, x)
            _ask(model, x)
        except LinkError as error:
            model.close()
            last = error
            continue
        except BaseException:
            model.close()
            raise
        return link, model
    raise TargetError(f"the surrogate {target} gives no probabilities: {last}") from last


def _ask(model: Classifier, x: NDArray[Any]) -> None:
    """One row, to see whether it is answered; what a model raises is foreign."""
    try:
        model.probabilities(x[None].astype(model.info.dtype))
    except LinkError:
        raise
    except Exception as error:
        said = one_line(error)
        reason = said if isinstance(error, FimauditError) else f"{type(error).__name__}: {said}"
        raise TargetError(f"the surrogate {model.info.name} does not answer inputs of shape {x.shape}: {reason}") from error


def _check(model: Classifier, x: NDArray[Any]) -> None:
    info = model.info
    if isinstance(model, NetworkClassifier):
        raise TargetError(f"expected a local model as --surrogate, got {info.name}")
    shape = info.input_shape
    if shape is not None and (
        len(shape) != x.ndim or any(n is not None and n != m for n, m in zip(shape, x.shape, strict=True))
    ):
        raise TargetError(
            f"the surrogate {info.name} takes inputs of shape {shape}, the data have {x.shape}; "
            "give a model that takes the same inputs as the audited one"
        )
    if not isinstance(model, Differentiable) and x.size > MOST_FEATURES:
        raise TargetError(
            f"the surrogate {info.name} gives no derivatives, and {x.size:,} features are too many to displace one by one "
            f"(at most {MOST_FEATURES:,}); give a torch module or file"
        )


def _jacobian(model: Classifier, x: NDArray[Any], space: Space, rho: float) -> Array:
    """(classes, d) Jacobian of 2 sqrt(p) over the features that may change, in units of the scale."""
    free = np.flatnonzero(~space.frozen.ravel())
    scale = space.scale.ravel()[free]
    fed = x.astype(model.info.dtype)
    if isinstance(model, Differentiable):
        try:
            at = linearize(model, fed[None])
            roots = np.exp(0.5 * at.log_probabilities[0])
            likely = np.argsort(-roots, kind="stable")[:MOST_CLASSES]
            rows = [at.pull(roots[k] * np.eye(1, len(roots), k))[0].ravel()[free] for k in likely if roots[k] > 0]
            return np.asarray(rows, dtype=np.float64) * scale
        except (RuntimeError, NotImplementedError) as error:  # an operator without derivatives
            if x.size > MOST_FEATURES:
                raise TargetError(f"the surrogate {model.info.name} gives no derivatives: {error}") from error
    return _differences(model, fed, free, SHARE * rho * scale) * scale


def _differences(model: Classifier, x: NDArray[Any], free: NDArray[np.int64], step: Array) -> Array:
    """(classes, d) Jacobian of 2 sqrt(p) by central differences of single features, in units of the input."""
    out = []
    height = max(1, BLOCK_NUMBERS // (2 * x.size))
    for first in range(0, len(free), height):
        some, far = free[first : first + height], step[first : first + height]
        place = np.arange(len(some))
        ahead, behind = np.repeat(x.reshape(1, -1), len(some), axis=0), np.repeat(x.reshape(1, -1), len(some), axis=0)
        ahead[place, some] += far.astype(x.dtype)
        behind[place, some] -= far.astype(x.dtype)
        sent = ahead[place, some].astype(np.float64) - behind[place, some]
        p = model.probabilities(np.concatenate([ahead, behind]).reshape(-1, *x.shape))
        root = 2.0 * np.sqrt(complete(p, int(p[0].argmax())))
        out.append((root[: len(some)] - root[len(some) :]) / np.where(sent == 0, np.inf, sent)[:, None])
    return np.ascontiguousarray(np.concatenate(out).T)
