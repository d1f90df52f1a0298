"""What one batch asked of an endpoint, what came, and what failed of it."""

from __future__ import annotations

import asyncio
import collections
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fimaudit.errors import DataError, FimauditError, LinkError, ModelFailure, OutputError, TargetError
from fimaudit.models.classifier import Lease
from fimaudit.models.network_calls import RowsFailed, row_contents, times_before
from fimaudit_adapters.http.protocols.base import Answer, Malformed, WireFormat
from fimaudit_adapters.http.sending.faults import Fault, excerpt

__all__ = ["RESUME", "Batch"]

#: Characters of an unreadable answer in a message.
SHOWN = 60
RESUME = "go on with --resume once this is put right"


@dataclass
class Batch:
    """One call of ``Sender.send``: what is asked, what came, what failed.

    A row that stands in a part of it several times is asked so often on purpose, to learn the endpoint's noise: ``times``
    counts the same row before each, from the part's number ``again`` on, and belongs to the key under which its answer is
    kept. Requests of one key wait for each other, so that what stands in two parts is paid for once.
    """

    rows: NDArray[Any]
    lease: Lease
    read: Callable[[Answer, int], NDArray[np.float64]]
    sizes: Sequence[int] = ()
    again: Sequence[int] = ()
    waiting: dict[bytes, asyncio.Lock] = field(default_factory=lambda: collections.defaultdict(asyncio.Lock))
    answers: dict[int, NDArray[np.float64]] = field(default_factory=dict)
    reasons: dict[int, str] = field(default_factory=dict)
    unanswered: set[int] = field(default_factory=set)
    outlast: bool = False
    stop: BaseException | None = None
    times: NDArray[np.uint32] = field(init=False)

    def __post_init__(self) -> None:
        self.times = np.zeros(len(self.rows), dtype="<u4")
        if self.again:
            self.times[:] = np.repeat(np.array(self.again, dtype="<u4"), self.sizes)
        if len(set(row_contents(self.rows))) == len(self.rows):
            return
        for first, last in itertools.pairwise(itertools.accumulate(self.sizes or [len(self.rows)], initial=0)):
            self.times[first:last] += np.array(times_before(self.rows[first:last]), dtype="<u4")

    def decoded(self, wire: WireFormat, reply: Any, count: int, secrets: tuple[str, ...]) -> NDArray[np.float64]:
        try:
            return self.read(wire.decode(reply, count), count)
        except (OutputError, LinkError) as exc:
            unreadable = isinstance(exc, Malformed)
            came = excerpt(reply.content, secrets, SHOWN) if unreadable else ""
            raise Fault(
                "answer", "unreadable" if unreadable else "mismatch", str(exc), unreadable=unreadable, came=came
            ) from exc
        except (DataError, TargetError):
            raise
        except FimauditError as exc:
            raise Fault("answer", "unreadable", str(exc), unreadable=True) from exc

    def assembled(self) -> NDArray[np.float64]:
        """The pieces in order; a gap is a failed row."""
        widths = {a.shape[1] for a in self.answers.values()}
        if len(widths) > 1:
            raise ModelFailure(f"expected the same number of classes in every answer, got {sorted(widths)}; {RESUME}")
        if not self.answers:
            raise ModelFailure(
                f"the endpoint answered none of {len(self.rows)} rows: {next(iter(self.reasons.values()))}; {RESUME}"
            )
        if not self.reasons:
            return np.concatenate([self.answers[start] for start in sorted(self.answers)])
        whole = np.full((len(self.rows), widths.pop()), np.nan)
        for start, answers in self.answers.items():
            whole[start : start + len(answers)] = answers
        raise RowsFailed(whole, self.reasons, self.unanswered)
