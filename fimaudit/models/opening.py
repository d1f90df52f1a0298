"""Opening a target: which adapters there are, and the one that takes a file, an object, a factory or a URL."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from fimaudit.errors import TargetError
from fimaudit.models.classifier import Adapter, Classifier, Options
from fimaudit.models.columns import TableColumn
from fimaudit.models.links import Link
from fimaudit.models.normalising import Normalize
from fimaudit.models.packing import Packing
from fimaudit.models.python_targets import call_factory, is_python_target, named_object

__all__ = ["adapter_option_names", "adapters", "is_endpoint", "open_classifier"]

ENTRY_POINT_GROUP = "fimaudit.adapters"


def is_endpoint(target: object) -> bool:
    """Whether rows sent to ``target`` leave this machine's process: a URL or an endpoint file.

    >>> is_endpoint("https://host/score"), is_endpoint("endpoint.yaml"), is_endpoint("model.onnx")
    (True, True, False)
    """
    text = os.fspath(target) if isinstance(target, os.PathLike) else target
    return isinstance(text, str) and ("://" in text or text.lower().endswith((".yaml", ".yml")))


def adapters() -> dict[str, Adapter]:
    """The registered adapters by name, in alphabetical order, ``function`` (which takes any callable) last.

    What an adapter's import raises is passed on.
    """
    found = _registered(tuple((place, _changed(place)) for place in sys.path))
    names = sorted(found, key=lambda name: (name == "function", name))
    return {name: found[name].load() for name in names}


@lru_cache(maxsize=1)
def _registered(places: tuple[tuple[str, int], ...]) -> dict[str, EntryPoint]:
    """Entry points by name: every distribution's file is read, so again only where something was installed."""
    return {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}


def _changed(place: str) -> int:
    try:
        return os.stat(place or ".").st_mtime_ns
    except OSError:
        return 0


def adapter_option_names() -> set[str] | None:
    """Names of the further options of all registered adapters; ``None`` where one of them does not say."""
    declared = [getattr(adapter, "option_names", None) for adapter in adapters().values()]
    return None if None in declared else {name for names in declared for name in names or ()}


def open_classifier(
    target: object,
    link: Link = "auto",
    *,
    adapter: str | None = None,
    device: str | None = None,
    weights: str | os.PathLike[str] | None = None,
    trust_pickle: bool = False,
    input: str | None = None,
    output: str | int | None = None,
    output_step: int | None = None,
    finding: str | int | None = None,
    hold: Mapping[str, Any] | None = None,
    table: Sequence[TableColumn] = (),
    data: str | None = None,
    packing: Packing | None = None,
    normalise: Normalize | None = None,
    **extra: Any,
) -> Classifier:
    """Open a model as a ``Classifier``; an open one is handed back as it is, whatever the options.

    The first of ``adapters()`` that accepts the target opens it. ``package.module:factory`` is imported, or from its path
    ``path/to/file.py:factory``, and called unless it is a model already or needs one argument, the batch.

    Args:
        target: a torch module, a scikit-learn estimator, a callable from a batch to outputs, an open ``Classifier``, or a
            path: ``.onnx``, ``.pt2``, TorchScript, ``.skops``, a booster's ``.json``, ``.ubj``, ``.txt`` or ``.cbm``, or
            ``.joblib`` or ``.pkl`` (``trust_pickle``); ``package.module:factory``, ``path/to/file.py:factory``, or a URL.
        link: ``auto``, ``identity``, ``softmax``, ``sigmoid`` or ``labels``; see ``fimaudit.models.links.to_probabilities``.
        adapter: name of the adapter to take, where more than one would do.
        device: ``cpu``, ``cuda`` and the like; the best at hand when left out.
        weights: ``.safetensors`` or ``.pt`` (weights only) for a ``package.module:factory`` target.
        trust_pickle: allow formats that run code when they are opened.
        input: name of the audited input of a model with several.
        output: name or position of the output to read.
        output_step: position of the step to read from an output of shape (rows, steps, classes).
        finding: name or position of one column to audit against its complement, where columns are independent.
        hold: constant values for the other inputs, by name.
        table: what each number of an input stands for, where the data are a table.
        data: what the data came as: the name of a numpy dtype, or ``table`` for one in memory.
        packing: what rows hold behind the audited numbers, where other inputs have a value for each.
        normalise: what is done with the audited input before the model.
        **extra: further options of one adapter.

    Raises:
        TargetError: nothing there, not a model, or no adapter for it.
        MissingExtraError: the adapter's framework is not installed.
        UntrustedPickleError: it would unpickle and ``trust_pickle`` is not set.
    """
    options = Options(
        link,
        device,
        weights,
        trust_pickle,
        input,
        output,
        output_step,
        finding,
        dict(hold or {}),
        tuple(table),
        data,
        packing,
        normalise,
        extra,
    )
    if isinstance(target, os.PathLike):
        target = os.fspath(target)
    if isinstance(target, Classifier):
        return target
    known = adapters()
    if adapter is not None:
        if adapter not in known:
            raise TargetError(f"expected an adapter among {', '.join(known)}, got {adapter!r}")
        return known[adapter].open(target, options)
    if isinstance(target, str) and is_python_target(target):
        return _open_named(target, options)
    for candidate in known.values():
        if candidate.accepts(target):
            return candidate.open(target, _own_settings(options, candidate))
    raise TargetError(_no_adapter(target, known))


def _own_settings(options: Options, adapter: Adapter) -> Options:
    """Settings as an endpoint file holds them are plain options of an adapter that has no such file."""
    if "endpoint" not in options.extra or "endpoint" in getattr(adapter, "option_names", ()):
        return options
    extra = dict(options.extra)
    for part in extra.pop("endpoint"):
        if not isinstance(part, Mapping):
            raise TargetError(f"expected an endpoint for the settings in {part}, got a model of this machine")
        extra |= part
    return replace(options, extra=extra)


def _open_named(target: str, options: Options) -> Classifier:
    made = named_object(target)
    known = adapters()
    if not _is_model(made, known):
        made = call_factory(made, target)
    for candidate in known.values():
        if candidate.accepts(made):
            return candidate.open(made, _own_settings(options, candidate))
    if isinstance(made, Classifier):
        return made
    raise TargetError(f"{target} returned {type(made).__name__}; expected a torch module, an estimator or a callable")


def _is_model(made: object, known: Mapping[str, Adapter]) -> bool:
    named = [adapter for name, adapter in known.items() if name != "function"]
    return isinstance(made, Classifier) or any(adapter.accepts(made) for adapter in named)


def _no_adapter(target: object, known: Mapping[str, Adapter]) -> str:
    if not isinstance(target, str):
        return f"expected a torch module, an estimator, a callable or a string, got {type(target).__name__}"
    suffix = os.path.splitext(target)[1]
    if suffix == ".py":
        return f"expected the name of the model in {target!r} too: {target}:model, or of a function that makes it"
    if os.path.isdir(target):
        return f"expected a model file, got the folder {target!r}; give the file in it"
    return (
        f"no adapter opens {target!r} (ending {suffix!r}); expected .onnx, .pt2, .pt, .ts, .skops, .joblib, .pkl, "
        "a booster's .json, .ubj, .txt or .cbm, a URL, package.module:factory or file.py:factory "
        f"(adapters here: {', '.join(known) or 'none'})"
    )
