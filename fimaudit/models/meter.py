"""The one door to a model: every row that is asked passes here, once, is counted, and is within the budget."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fimaudit.errors import BudgetExhausted, FimauditError, InputFailed, ModelFailure, OutputError
from fimaudit.foreign_errors import one_line
from fimaudit.models.call_order import in_turns
from fimaudit.models.classifier import Classifier, DeviceClassifier, NetworkClassifier, Notes, RawClassifier
from fimaudit.models.leases import OWNER_BYTES, CountingLease, Ledger, RepeatLease, Usage, is_refused, over_budget
from fimaudit.models.links import SMALL, RawRows
from fimaudit.models.network_calls import ask_network
from fimaudit.perturbations.rows import Rows, builds_anew
from fimaudit.perturbations.sign_rows import DisplacedRows

__all__ = ["DECOYS", "THE_RUN", "Meter"]

#: Rows of one call fit this many bytes, so that memory does not grow with the number of queries; and are this many at most.
#: test_meter.test_batches_are_bounded_in_bytes_and_rows.
BATCH_BYTES = 16 * 2**20
MOST_ROWS = 256
#: Whose answers a call's are, where they are no input's own: those to the run's first questions, and to its decoys.
THE_RUN, DECOYS = -1, -2


class _Answered(NamedTuple):
    """A call whose answer is not yet checked; it was recalled where there is no ticket."""

    block: int
    rows: Rows
    size: int
    ticket: int | None
    answer: Any


class Meter:
    """Counts rows and calls, enforces the budget, forms calls bounded in bytes, and checks every answer.

    Args:
        model: the classifier.
        budget: most rows that may be sent, ``None`` for no limit.
        batch: rows a call; the adapter's preference or a bound in bytes when left out.
        count_refused: rows that an endpoint turned away count like all others.
        ledger: keeps what was counted, and of a network adapter what was sent and answered, beyond this process.
        on_rows: called with the number of rows after each answered call (progress).
        notes: where facts of the run are kept; in the ledger, or as long as this object lives, when left out.

    Attributes:
        usage: so far, of earlier processes too where there is a ledger.
        classes: K, from the model or the first answer.
        batch: rows a call, where that was said; 1 sends each row alone, to an endpoint too and for derivatives.
    """

    def __init__(
        self,
        model: Classifier,
        *,
        budget: int | None = None,
        batch: int | None = None,
        count_refused: bool = False,
        ledger: Ledger | None = None,
        on_rows: Callable[[int], None] | None = None,
        notes: Notes | None = None,
    ) -> None:
        self.model = model
        self.budget = budget
        self.usage = ledger.usage() if ledger is not None else Usage()
        self._count_refused = count_refused
        if count_refused:
            self.usage.rows += self.usage.refused
        self.classes: int | None = model.info.classes
        self._labels_only = model.info.labels_only
        self._network = model if isinstance(model, NetworkClassifier) else None
        self._device = model if isinstance(model, DeviceClassifier) else None
        self._raw = model if isinstance(model, RawClassifier) else None
        self.batch = batch
        self._ledger = ledger
        self._on_rows = on_rows
        self._lock = threading.Lock()
        self._notes: Notes = notes or ledger or CountingLease()
        self._turns: int | None = None

    def interleave(self, seed: int) -> None:
        """Send the calls of inputs that are asked together in random turns, not one input after the other.

        No call holds other rows for it. An adapter for a network that cannot do so (no ``interleave``) is asked as before.
        """
        self._turns = seed
        interleave = getattr(self._network, "interleave", None)
        if interleave is not None:
            interleave(seed)

    def batch_rows(self, row_bytes: int) -> int:
        """Rows of one call for inputs of ``row_bytes`` bytes.

        ``batch``, else the model's preference, else as many as fit its ``call_bytes`` or ``BATCH_BYTES``, from 1 to
        ``MOST_ROWS``.
        """
        info = self.model.info
        chosen = self.batch or info.preferred_batch
        return chosen or max(1, min(MOST_ROWS, (info.call_bytes or BATCH_BYTES) // max(1, row_bytes)))

    def cuts(self, questions: Sequence[Rows]) -> list[list[int]]:
        """Where the calls of each block of rows begin, and its end: ceil(rows / batch_rows) of them, as even as can be."""
        widths = [rows.row_bytes for rows in questions]
        sizes = {width: self.batch_rows(width) for width in set(widths)}
        cuts = []
        for rows, width in zip(questions, widths, strict=True):
            count = len(rows)
            calls = -(-count // sizes[width])
            cuts.append([count * k // calls for k in range(calls + 1)] if count > sizes[width] else [0, count])
        return cuts

    def ask(self, questions: Sequence[Rows], *, occasion: str | None = None) -> list[NDArray[np.float64]]:
        """Answer each block of rows with (n, K) probabilities, or fail with the first that fails.

        Args:
            questions, occasion: as for ``ask_each``.

        Raises:
            InputFailed: one of several questions cannot be answered.
            BudgetExhausted: before the call that would exceed the budget.
            ModelFailure: the model raised.
            OutputError: wrong number of rows or columns, or values that are not finite.
        """
        answers: list[NDArray[np.float64]] = []
        for answer in self.ask_each(questions, occasion=occasion):
            if isinstance(answer, InputFailed):
                raise answer.error
            answers.append(answer)
        return answers

    def ask_each(
        self,
        questions: Sequence[Rows],
        *,
        occasion: str | None = None,
        owners: Sequence[int] = (),
        again: Sequence[int] = (),
        cuts: Sequence[Sequence[int]] | None = None,
    ) -> list[NDArray[np.float64] | InputFailed]:
        """Answer each block of rows with (n, K) probabilities, or with why it has none.

        No call holds rows of two blocks: an answer's last digits may depend on what else is in its call, and so what is
        asked of an input depends on that input alone.

        Args:
            questions: blocks of rows.
            occasion: ask even what was answered before, once under this name (``RepeatLease``).
            owners: the input that each block belongs to; ``THE_RUN`` when left out.
            again: for each block 0, or a number under which its rows are asked anew, though they were answered before.
            cuts: see ``cuts``, where they are known already.

        Raises:
            BudgetExhausted: before the call that would exceed the budget.
            ModelFailure, UsageError: an endpoint fails as a whole.
        """
        again = again or [0] * len(questions)
        if self._network is not None:
            lease = self if occasion is None else RepeatLease(self, occasion)
            row_by_row = self.batch == 1
            return ask_network(self._network, questions, lease, again, row_by_row=row_by_row, checked=self._checked)
        occasions = [f"{occasion or ''}{number or ''}" for number in again]
        owners = owners or [THE_RUN] * len(questions)
        return self._ask_locally(questions, owners, occasions, self.cuts(questions) if cuts is None else cuts)

    def finish(self, inputs: Iterable[int]) -> None:
        """See ``Ledger``."""
        if self._ledger is not None:
            self._ledger.finish(inputs)

    def restore(self) -> None:
        """Let an endpoint's adapter know what an earlier process of the run learned, though nothing may be left to ask."""
        take_over = getattr(self._network, "restore", None)
        if take_over is not None:
            take_over(self)

    def recall(self, key: bytes) -> NDArray[np.float64] | None:
        """See ``Lease``; always ``None`` without a ledger."""
        return self._ledger.recall(key) if self._ledger is not None else None

    def reserve(self, rows: int, key: bytes = b"") -> int:
        """See ``Lease``; ``BudgetExhausted`` as there."""
        with self._lock:
            refused = over_budget(self.budget, self.usage.rows, rows)
            if refused is not None:
                raise BudgetExhausted(refused)
            ticket = self._ledger.reserve(rows, key) if self._ledger is not None else 0
            self.usage.rows += rows
            self.usage.requests += 1
            return ticket

    def commit(self, ticket: int, rows: int, answers: NDArray[np.float64] | None, status: str, bytes: int) -> None:
        """See ``Lease``."""
        with self._lock:
            self.usage.bytes += bytes
            if status != "ok" and is_refused(status):
                self.usage.refused += rows
                self.usage.rows -= 0 if self._count_refused else rows
            if self._ledger is not None:
                self._ledger.commit(ticket, rows, answers, status, bytes)
            if self._on_rows is not None and answers is not None:
                self._on_rows(rows)

    def note(self, name: str) -> Any:
        """See ``Lease``."""
        return self._notes.note(name)

    def remember(self, name: str, value: Any) -> None:
        """See ``Lease``."""
        self._notes.remember(name, value)

    def _ask_locally(
        self, questions: Sequence[Rows], owners: Sequence[int], occasions: Sequence[str], cuts: Sequence[Sequence[int]]
    ) -> list[NDArray[np.float64] | InputFailed]:
        """Each block's calls in their order; the blocks one after the other, or in turns."""
        pieces: list[list[NDArray[np.float64]]] = [[] for _ in questions]
        failures: dict[int, FimauditError] = {}
        waiting: list[_Answered] = []
        calls = [[(i, *call) for call in pairwise(ends)] for i, ends in enumerate(cuts)]
        asked = b"" if self._turns is None else np.array([*owners, *(ends[-1] for ends in cuts)]).tobytes()
        try:
            for i, start, stop in in_turns(calls, self._turns, asked):
                if i in failures:
                    continue
                rows, count = questions[i], stop - start
                key = b"" if self._ledger is None else _local_key(rows, start, stop, owners[i], occasions[i])
                known = self.recall(key) if key else None
                ticket = self.reserve(count, key) if known is None else None
                try:
                    answer = self._answer(rows, start, stop) if known is None else known
                except FimauditError as error:
                    failures[i] = error
                    continue
                waiting.append(_Answered(i, rows, count, ticket, answer))
                if ticket is not None and self._on_rows is not None:
                    self._on_rows(count)
                # What a kill must not cost, a next call waits for, or is looked at while it is near.
                if self._ledger is not None or len(calls[i]) > 1 or count * (self.classes or 0) > SMALL:
                    self._take(waiting, pieces, failures)
        finally:  # those before one that the budget does not allow, too
            self._take(waiting, pieces, failures)
        alone = len(questions) == 1
        return [
            _failed(failures[i], alone) if i in failures else found[0] if len(found) == 1 else np.concatenate(found)
            for i, found in enumerate(pieces)
        ]

    def _take(
        self, waiting: list[_Answered], pieces: list[list[NDArray[np.float64]]], failures: dict[int, FimauditError]
    ) -> None:
        """Check the answers that wait, those to all calls at once, and count and keep them."""
        raw = [call.answer for call in waiting if isinstance(call.answer, RawRows)]
        checked = iter(self._raw.probabilities_each(raw) if self._raw is not None else ())
        for call in waiting:
            answers = next(checked) if isinstance(call.answer, RawRows) else call.answer
            try:
                if isinstance(answers, FimauditError):
                    raise answers
                answers = self._checked(answers, call.size, finite=isinstance(call.answer, RawRows))
            except FimauditError as error:
                failures[call.block] = error
                continue
            if call.ticket is not None:
                sent = call.size * call.rows.row_bytes
                self.usage.bytes += sent
                if self._ledger is not None:
                    self._ledger.commit(call.ticket, call.size, answers, "ok", sent)
            pieces[call.block].append(answers)
        waiting.clear()

    def _answer(self, rows: Rows, start: int, stop: int) -> Any:
        """One call of the local model."""
        try:
            if self._device is not None and isinstance(rows, DisplacedRows):
                return self._device.displaced(rows.x, rows.packed[start:stop], rows.step, rows.box.lower, rows.box.upper)
            built = rows.build(start, stop)
            if self._raw is not None:
                return self._raw.raw(built, overwrite=builds_anew(rows))
            return self.model.probabilities(built)
        except FimauditError:
            raise
        except (Exception, SystemExit) as exc:  # a model that exits would end the audit as if it were done
            what = f"the model raised {type(exc).__name__} on a batch of {stop - start} rows"
            alone = "; if it takes one row a call, give --batch 1" if stop - start > 1 else ""
            raise ModelFailure(f"{what}: {one_line(exc, 300)}{alone}") from exc

    def _checked(self, answers: Any, rows: int, *, finite: bool = False) -> NDArray[np.float64]:
        """(rows, K) probabilities, or a refusal; ``finite`` where that is known of them."""
        array = np.asarray(answers, dtype=np.float64)
        if array.ndim != 2 or array.shape[0] != rows:
            raise OutputError(f"expected {rows} rows of probabilities for {rows} inputs, got shape {array.shape}")
        if self._labels_only:
            if array.shape[1] != 1 or not np.isfinite(array).all():
                raise OutputError(f"expected one class for each input, got answers of shape {array.shape}")
            return array
        if array.shape[1] < 2:
            raise OutputError(f"expected at least two classes, got {array.shape[1]}")
        if self.classes is None:
            self.classes = array.shape[1]
        if array.shape[1] != self.classes:
            raise OutputError(f"expected {self.classes} classes in every answer, got {array.shape[1]}")
        if not (finite or np.isfinite(array.sum()) or np.isfinite(array).all()):  # a sum takes a third of the time
            raise OutputError(f"expected finite probabilities, got {int((~np.isfinite(array)).sum())} that are not")
        return array


def _failed(error: FimauditError, alone: bool) -> InputFailed:
    """Why a block has no answers; what exactly failed is told of one that was asked alone."""
    if not alone:
        return InputFailed(str(error))
    failure = InputFailed(str(error), error)
    failure.__cause__ = error
    return failure


def _local_key(rows: Rows, start: int, stop: int, owner: int, occasion: str) -> bytes:
    """Identifies a call of a local model among those of its input: its first and last row, their number, the occasion."""
    digest = hashlib.blake2b(f"{stop - start} {occasion}".encode(), digest_size=24)
    for place in (start, stop - 1):
        digest.update(rows.build(place, place + 1).tobytes())
    return owner.to_bytes(OWNER_BYTES, "little", signed=True) + digest.digest()
