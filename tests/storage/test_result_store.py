"""Where results go: what is counted of them as they come in, so that none is read back at the end."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np
import pytest

from fimaudit import audit
from fimaudit.results import SCREENED, MeasuredInput, Sensitivity
from fimaudit.storage.journal import Journal
from fimaudit.storage.result_store import MemoryStore, ParquetStore, ResultStore
from tests.cases import normal_inputs, tanh_network


def outcome(index: int, *flags: str, status: str = "ok") -> MeasuredInput:
    result = Sensitivity(index=index, status=status, method="rademacher", flags=list(flags))  # type: ignore[arg-type]
    return MeasuredInput(result, 20, 1)


@pytest.mark.parametrize("kind", [MemoryStore, ParquetStore])
def test_inputs_that_jump_are_counted_as_they_come_in(kind: type[ResultStore], tmp_path: Path) -> None:
    def opened(*, resume: bool) -> tuple[Journal, ResultStore]:
        journal = Journal(tmp_path, {"seed": 0}, resume=resume, overwrite=False)
        return journal, kind(6, journal)  # type: ignore[call-arg]

    journal, store = opened(resume=False)
    for one in (outcome(0), outcome(1, "jumps"), outcome(2, "jumps", status="failed"), outcome(3, SCREENED)):
        store.add(one)
    assert store.jumps() == (3, 1)
    store.reopen(np.array([3]))
    store.add(outcome(3, "jumps"))
    assert store.jumps() == (3, 2)
    store.flush()
    journal.close()
    journal, store = opened(resume=True)
    store.reopen(np.array([3]))
    assert store.jumps() == (3, 2)
    journal.close()


def test_results_of_a_smooth_model_are_not_read_back(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    results = MemoryStore.results

    def counted(self: MemoryStore, indices: Collection[int]) -> dict[int, Sensitivity]:
        read.append(len(indices))
        return results(self, indices)

    monkeypatch.setattr(MemoryStore, "results", counted)
    audit(tanh_network(0, 3, 12), normal_inputs(0, 5, 12), queries=30, integrity=False)
    assert read == []
