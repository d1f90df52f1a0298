"""The seam between the measurement and a model: what an adapter is, and how one is found for a target."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from fimaudit.errors import TargetError
from fimaudit.models.columns import TableColumn
from fimaudit.models.links import Link
from fimaudit.models.normalising import Normalize
from fimaudit.models.packing import Packing

__all__ = [
    "Adapter",
    "Classifier",
    "DeviceClassifier",
    "Differentiable",
    "Lease",
    "ModelInfo",
    "NetworkClassifier",
    "Options",
    "OverwritingClassifier",
    "adapter_option_names",
    "adapters",
    "is_endpoint",
    "open_classifier",
]

ENTRY_POINT_GROUP = "fimaudit.adapters"


class Lease(Protocol):
    """What a network adapter is handed for one batch: counting, budget and recall live behind it. Thread-safe."""

    def recall(self, key: bytes) -> NDArray[np.float64] | None:
        """The committed (rows, K) answers to exactly this request body, from this run or the one it resumes, or ``None``."""
        ...

    def reserve(self, rows: int, key: bytes) -> int:
        """Count ``rows`` as sent and return a ticket.

        Raises:
            BudgetExhausted: the budget does not allow it; nothing is counted then.
        """
        ...

    def commit(self, ticket: int, rows: int, answers: NDArray[np.float64] | None, status: str, bytes: int) -> None:
        """Record how a reserved send ended.

        Args:
            ticket: from ``reserve``.
            rows: as reserved.
            answers: (rows, K) probabilities, ``None`` when it failed.
            status: ``ok``, an HTTP status or a fault's name.
            bytes: sent and received.
        """
        ...

    def note(self, name: str) -> Any:
        """A fact that was learned earlier in this run (plain JSON), or ``None``."""
        ...

    def remember(self, name: str, value: Any) -> None:
        """Keep a fact (plain JSON) for the rest of the run, resumed processes included: a batch size, say."""
        ...


@dataclass(frozen=True)
class ModelInfo:
    """What an adapter declares about its model; nothing here needs a query.

    Attributes:
        name: what a person would call it (a file name, a class name, a URL without secrets).
        adapter: the adapter's registered name.
        input_shape: shape of one input without the batch axis; ``None`` where an axis or all of it is free.
        dtype: name of the numpy dtype that the model is fed with.
        classes: number of classes, where it is known before the first answer.
        held: numbers at the end of a row that are held, and towards which derivatives are 0 (``Options.packing``).
        exact: whether answers are the model's own values and surely not rounded on the way: votes of a forest, say.
        class_values: what the model itself calls its classes (``classes_``), column by column: labels hold these.
        class_names: what people call them (``id2label``), column by column: labels may hold these, or the columns' numbers.
        feature_names: names of the columns that it was fitted on, in its order.
        takes_columns: whether it was opened for a table's columns (``Options.table``), with their names and types.
        categorical: positions of features that it was fitted on as categories, among its own.
        finding: which of several independent columns is audited against its complement: of rows of labels, it is theirs.
        device: where it runs, ``cpu`` or ``cuda:0`` or a host.
        preferred_batch: rows a call; 1 means that rows go one by one; ``None`` lets the meter choose.
        call_bytes: most bytes of the rows of one call where the meter chooses, because longer calls get slower; ``None`` for
            the meter's own limit.
        details: facts for the report (provider, opset, SHA-256, versions), plain JSON values.
        notes: sentences that the user must read, copied into the report's warnings.
        not_smooth: why the answers are known to jump, before any is asked for: ``tree ensemble: piecewise constant``;
            ``None`` where nothing is known of that.
        labels_only: whether ``probabilities`` answers with (B, 1) classes as whole numbers instead (``--link labels``).
    """

    name: str
    adapter: str
    input_shape: tuple[int | None, ...] | None
    dtype: str
    classes: int | None = None
    device: str = "cpu"
    preferred_batch: int | None = None
    call_bytes: int | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    labels_only: bool = False
    not_smooth: str | None = None
    class_values: tuple[Any, ...] | None = None
    class_names: tuple[str, ...] | None = None
    feature_names: tuple[str, ...] | None = None
    takes_columns: bool = False
    exact: bool = False
    held: int = 0
    categorical: tuple[int, ...] = ()
    finding: int | None = None

    @property
    def sentences(self) -> tuple[str, ...]:
        """All that the user must read: the notes, and what the model's making says of its answers."""
        if self.not_smooth is None:
            return self.notes
        return (*self.notes, f"the model's own making says that its answers jump ({self.not_smooth})")


@runtime_checkable
class Classifier(Protocol):
    """A model that answers inputs with probabilities. The whole of what an adapter must offer."""

    @property
    def info(self) -> ModelInfo:
        """What is known about the model without asking it."""
        ...

    def probabilities(self, batch: NDArray[Any]) -> NDArray[np.float64]:
        """Answer (B, \\*shape) inputs of ``info.dtype``, in the input's unit, with (B, K) probabilities in float64."""
        ...

    def close(self) -> None:
        """Give back what was opened; may be called twice."""
        ...


@runtime_checkable
class Differentiable(Classifier, Protocol):
    """A classifier that also gives derivatives of ``s = sqrt(p)``; arrays are torch tensors on its device.

    F = 4 J_s^T J_s with J_s the (K, d) Jacobian of s, in 1 / unit, that of the input; both products are batched over inputs.

    Source: arXiv 2606.04767.
    """

    def vjp(self, batch: Any, cotangents: Any) -> Any:
        """J_s^T w: (B, \\*shape) inputs and (B, V, K) cotangents to (B, V, \\*shape)."""
        ...

    def jvp(self, batch: Any, tangents: Any) -> Any:
        """J_s v: (B, \\*shape) inputs and (B, V, \\*shape) tangents to (B, V, K)."""
        ...


@runtime_checkable
class OverwritingClassifier(Classifier, Protocol):
    """A classifier that copies the rows it is given, as the model may write into them, unless nobody else has them."""

    def overwrite(self, batch: NDArray[Any]) -> NDArray[np.float64]:
        """As ``probabilities``, of rows that may be overwritten."""
        ...


@runtime_checkable
class DeviceClassifier(Classifier, Protocol):
    """A classifier that builds the displaced batch where the model runs; only (m, K) comes back."""

    def displaced(
        self, x: NDArray[Any], packed_signs: NDArray[np.uint8], step: NDArray[Any], lower: NDArray[Any], upper: NDArray[Any]
    ) -> NDArray[np.float64]:
        """Answer the rows of ``sign_rows.displaced_rows`` (its numpy reference) without building them on the host.

        Args:
            x: one input, shape \\*shape.
            packed_signs: (m, ceil(d / 8)) bits, most significant first, 1 for +.
            step: displacement of each feature in the input's unit, shape \\*shape or scalar; 0 holds a feature.
            lower: lower bound of each feature, shape \\*shape or scalar, ``-inf`` for none.
            upper: upper bound likewise.

        Returns:
            (m, K) probabilities in float64, on the host.
        """
        ...


@runtime_checkable
class NetworkClassifier(Classifier, Protocol):
    """A classifier behind a network: it cuts the batch into requests and sends each under the meter's lease."""

    def ask(
        self, batch: NDArray[Any], lease: Lease, sizes: Sequence[int] = (), again: Sequence[int] = ()
    ) -> NDArray[np.float64]:
        """Answer (B, \\*shape) inputs; ``lease.reserve`` before each send, retries too, ``lease.commit`` after it.

        Args:
            batch: the inputs.
            lease: counts and recalls.
            sizes: the batch is of parts of so many rows each, of which no request may hold two; one part when empty.
            again: a number for each part, which tells questions that are repeated on purpose apart; 0 for the others.

        Returns:
            (B, K) probabilities in float64.

        Raises:
            BudgetExhausted: from ``lease.reserve``.
            RowsFailed: some rows could not be answered (``fimaudit.models.meter``).
        """
        ...


@dataclass(frozen=True)
class Options:
    """How to open a target; an adapter refuses, in a sentence, what it has no use for.

    Attributes:
        link: what turns the output into probabilities.
        device: ``cpu``, ``cuda``, ``cuda:1``; ``None`` takes the best at hand.
        weights: file of weights for ``package.module:factory`` targets.
        trust_pickle: allow formats that can run code when they are opened.
        input: name of the audited input of a model with several.
        output: name or position of the output that holds probabilities or logits.
        output_step: step to read of an output of shape (rows, steps, classes).
        finding: name or position of the one column to audit against its complement, of outputs that are independent.
        hold: values for the inputs that are held constant, by name; shape of one input without the batch axis.
        table: what each number of an input stands for, where the data are a table.
        data: what the data came as: the name of a numpy dtype, or ``table`` for one in memory.
        packing: what rows hold behind the audited numbers, where other inputs have a value for each.
        normalise: what is done with the audited input before the model.
        extra: further options of one adapter (an endpoint's settings, say), by name.
    """

    link: Link = "auto"
    device: str | None = None
    weights: str | os.PathLike[str] | None = None
    trust_pickle: bool = False
    input: str | None = None
    output: str | int | None = None
    output_step: int | None = None
    finding: str | int | None = None
    hold: Mapping[str, Any] = field(default_factory=dict)
    table: tuple[TableColumn, ...] = ()
    data: str | None = None
    packing: Packing | None = None
    normalise: Normalize | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


class Adapter(Protocol):
    """What an entry point of the group ``fimaudit.adapters`` resolves to; importing it must import no framework."""

    @property
    def option_names(self) -> Collection[str]:
        """Names of the further options (``Options.extra``) that ``open`` reads."""
        ...

    def accepts(self, target: object) -> bool:
        """Whether this adapter is the one for ``target``, from its type or its spelling alone."""
        ...

    def open(self, target: Any, options: Options) -> Classifier:
        """Open it with these options.

        Raises:
            TargetError: with one clear sentence.
        """
        ...


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

    The first of ``adapters()`` that accepts the target opens it. ``package.module:factory`` is imported, from the current
    folder too, and called without arguments unless it is a model already.

    Args:
        target: a torch module, a scikit-learn estimator, a callable from a batch to outputs, an open ``Classifier``, or a
            string or path: ``model.onnx``, ``model.pt2``, a TorchScript file, ``model.skops``, ``model.joblib`` or
            ``model.pkl`` (with ``trust_pickle``), ``package.module:factory``, or a URL.
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
    if isinstance(target, str) and _is_factory(target):
        return _open_factory(target, options)
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


def _is_factory(target: str) -> bool:
    module, colon, attribute = target.partition(":")
    return bool(colon) and attribute.isidentifier() and all(part.isidentifier() for part in module.split("."))


def _open_factory(target: str, options: Options) -> Classifier:
    module_name, _, attribute = target.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except Exception as exc:
        raise TargetError(f"expected an importable module {module_name!r}, got {type(exc).__name__}: {exc}") from exc
    if not hasattr(module, attribute):
        raise TargetError(f"module {module_name!r} has no attribute {attribute!r}; write package.module:factory")
    made = getattr(module, attribute)
    known = adapters()
    if not _is_model(made, known):
        try:
            made = made()
        except Exception as exc:
            raise TargetError(f"{target} was called without arguments and raised {type(exc).__name__}: {exc}") from exc
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
    return (
        f"no adapter opens {target!r} (ending {suffix!r}); expected .onnx, .pt2, .pt, .ts, .skops, .joblib, .pkl, "
        f"a URL or package.module:factory (adapters here: {', '.join(known) or 'none'})"
    )
