"""What a report says about its circumstances: model, data, domain, settings, environment, and warnings of them."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fimaudit.data.arrays import Inputs
from fimaudit.data.streams import Stream
from fimaudit.domain import InputDomain, spreads_differ
from fimaudit.errors.option_names import caller
from fimaudit.measurement.pilot import Steps
from fimaudit.measurement.settings import Settings
from fimaudit.models.classes import ClassLabels
from fimaudit.models.classifier import Classifier
from fimaudit.models.columns import coded
from fimaudit.runs.deflation_setup import Directions
from fimaudit.runs.options import AuditOptions
from fimaudit.runs.preflight import Preflight
from fimaudit.space import Space

__all__ = ["data_facts", "domain_facts", "domain_warnings", "environment", "identity", "model_facts", "settings_facts"]

OWN = "fimaudit"
PACKAGES = ("numpy", "scipy", "torch", "onnx", "onnxruntime-gpu", "onnxruntime", "scikit-learn", "skops", "httpx")


def model_facts(classifier: Classifier, preflight: Preflight | None, labels: ClassLabels | None = None) -> dict[str, Any]:
    """The adapter's declaration and what the first answers showed."""
    info = classifier.info
    names = None if labels is None else labels.of_answers(info.class_names)
    return {
        "name": info.name,
        "adapter": info.adapter,
        "input_shape": None if info.input_shape is None else list(info.input_shape),
        "dtype": info.dtype,
        "classes": preflight.classes if preflight is not None else info.classes,
        "class_names": names and list(names),
        "device": info.device,
        "not_smooth": info.not_smooth,
        "details": dict(info.details),
        "preflight": None if preflight is None else preflight.facts(),
    }


def data_facts(data: Inputs | Stream, reference: Inputs, measured: int) -> dict[str, Any]:
    """Where the inputs came from and what they are.

    Args:
        data: the whole of them.
        reference: in memory: all, or those that stand for a stream.
        measured: how many have a result.
    """
    inputs, streamed = reference, isinstance(data, Stream)
    return {
        "source": data.source,
        "inputs": len(data),
        "measured": measured,
        "shape": list(inputs.x.shape[1:]),
        "dtype": str(inputs.x.dtype),
        "sha256": _fingerprint(data),
        "files": len(data.shards) if isinstance(data, Stream) else None,
        "reference_inputs": len(reference) if streamed else None,
        "labels": inputs.y is not None,
        "groups": inputs.group is not None,
        "feature_names": None if inputs.names is None else list(inputs.names),
        "held_by_input": [] if inputs.packing is None else [part.name for part in inputs.packing.parts],
    }


def domain_facts(space: Space) -> dict[str, Any]:
    """Bounds, quantum, frozen features and unit; one number where all features share it."""
    return {
        "unit": space.unit,
        "lower": _compact(space.lower),
        "upper": _compact(space.upper),
        "quantum": _compact(space.quantum),
        "scale": _compact(space.scale),
        "frozen": np.flatnonzero(space.frozen.ravel()).tolist(),
        "features": space.features,
    }


def settings_facts(settings: Settings, options: AuditOptions, mode: str) -> dict[str, Any]:
    """What the user chose, and what the inputs are measured by."""
    return {
        "queries": settings.queries,
        "mode": mode,
        "link": options.link,
        "confidence": settings.confidence,
        "seed": settings.seed,
        "profile": settings.profile,
        "witness": settings.witness,
        "precision": settings.precision,
        "threshold": settings.threshold,
        "focus": options.focus,
        "budget": options.budget,
        **({} if settings.smooth is None else {"smooth": settings.smooth, "smooth_radius": settings.smooth_radius}),
    }


def environment(started: datetime, seconds: float, engine: Mapping[str, Any], folder: Path | None = None) -> dict[str, Any]:
    """Machine, versions, engine, run folder, caller and times; the only part of a report that differs between equal runs."""
    versions = _versions()
    return {
        "fimaudit": versions[OWN],
        "python": platform.python_version(),
        "platform": platform.platform(),
        "engine": dict(engine),
        "folder": None if folder is None else folder.as_posix(),
        "called_from": caller(),
        "packages": {name: versions[name] for name in PACKAGES if name in versions},
        "started": started.isoformat(timespec="seconds"),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(seconds, 3),
    }


def identity(
    classifier: Classifier,
    data: Inputs | Stream,
    space: Space,
    settings: Settings,
    options: AuditOptions,
    mode: str,
    surrogates: Directions | None,
) -> dict[str, Any]:
    """What makes two runs the same; compared when a run is resumed."""
    info = classifier.info
    directions = surrogates if surrogates is None or surrogates == "learned" else surrogates.facts()
    return {
        "model": info.details.get("sha256") or info.name,
        "data": _fingerprint(data),
        "labels and groups": data.annotations() if isinstance(data, Inputs) else None,
        "domain": domain_facts(space),
        "settings": {**settings_facts(settings, options, mode), "budget": None},  # which may grow
        "fimaudit": _versions()[OWN],
        **({} if options.integrity is None else {"integrity": options.integrity}),
        **({} if directions is None else {"surrogate": directions}),
    }


def _fingerprint(data: Inputs | Stream) -> str:
    """SHA-256 of the numbers, or of a stream's list of files: reading them all twice would cost too much."""
    return data.fingerprint() if isinstance(data, Inputs) else data.manifest()


def domain_warnings(inputs: Inputs, space: Space, domain: InputDomain, steps: Steps | None) -> list[str]:
    """Sentences about data, domain and model that the numbers depend on."""
    out = []
    if steps is not None and steps.kind == "finite_scale":
        out.append(
            f"{steps.why}; the numbers are those at a displacement of {steps.displacement:.3g}, and each input's profile "
            "shows others"
        )
    text = coded(inputs.columns)
    if text:
        out.append(f"columns that hold no numbers are held: {', '.join(text[:20])}{' and more' if len(text) > 20 else ''}")
    missing = space.missing(inputs.x)
    if missing is not None:
        gaps = np.any(missing.reshape(len(inputs.x), -1), axis=1)
        marks = [] if space.marks is None else np.unique(space.marks[~np.isnan(space.marks)]).tolist()
        also = (
            f" ({' and '.join(f'{mark:g}' for mark in marks)} counts as missing: so the model was fitted)" if marks else ""
        )
        out.append(
            f"{int(gaps.sum())} of {len(inputs.x)} inputs have missing values{also}, which are held; what is there is "
            "measured"
        )
    held = [name for name in inputs.whole if domain.frozen is not None and name in list(domain.frozen)]
    if held:
        out.append(
            f"columns of whole numbers are held, as they may be categories: {', '.join(held[:20])}"
            f"{' and more' if len(held) > 20 else ''}; release those that may change with --free"
        )
    present = inputs.x if missing is None else np.where(missing, np.nan, inputs.x)
    ratio = spreads_differ(present, space.frozen) if inputs.x.ndim == 2 else None
    if ratio is not None and domain.scale is None:  # who says raw means it
        out.append(
            f"feature spreads differ by a factor of {ratio:.3g}, so in raw units one unit of every feature counts the same; "
            "choose --scale std or range, or --scale raw if the raw units are meant"
        )
    return out


def _compact(values: NDArray[np.float64]) -> float | list[float | None] | None:
    flat = values.ravel()
    if (flat == flat[0]).all():
        return float(flat[0]) if np.isfinite(flat[0]) else None
    return [float(v) if np.isfinite(v) else None for v in flat]


@lru_cache(maxsize=1)
def _versions() -> dict[str, str]:
    """Of fimaudit and of the packages that are there; looked up once, as every report names them."""
    found = {OWN: version(OWN)}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
