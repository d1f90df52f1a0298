"""The seam between the measurement and a model: what a classifier is, and the adapter that opens one."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from fimaudit.errors import FimauditError
from fimaudit.models.columns import TableColumn
from fimaudit.models.links import Link, RawRows
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
    "Notes",
    "Options",
    "RawClassifier",
]


class Notes(Protocol):
    """Facts of a run by name, as plain JSON values."""

    def note(self, name: str) -> Any:
        """A fact that was learned earlier in this run (plain JSON), or ``None``."""
        ...

    def remember(self, name: str, value: Any) -> None:
        """Keep a fact (plain JSON) for the rest of the run, resumed processes included: a batch size, say."""
        ...


class Lease(Notes, Protocol):
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
        missing_marks: by position of such a feature, the number that stood for a missing one where it was fitted.
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
    missing_marks: tuple[tuple[int, float], ...] = ()

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
class RawClassifier(Classifier, Protocol):
    """A classifier whose answers to several calls are checked together: of short calls that takes longer than the model."""

    def raw(self, batch: NDArray[Any], *, overwrite: bool = False) -> RawRows:
        """Answer (B, \\*shape) inputs, as ``probabilities`` does but for what the numbers tell.

        Args:
            batch: a copy is made, as the model may write into it.
            overwrite: nobody else has these rows, so that none is needed.
        """
        ...

    def probabilities_each(self, raw: Sequence[RawRows]) -> list[NDArray[np.float64] | FimauditError]:
        """(B, K) probabilities for each call's answers, or why they are none: of each as if it were alone."""
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
            again: a number for each part, which distinguishes questions that are repeated on purpose; 0 for the others.

        Returns:
            (B, K) probabilities in float64.

        Raises:
            BudgetExhausted: from ``lease.reserve``.
            RowsFailed: some rows could not be answered (``fimaudit.models.network_calls``).
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
