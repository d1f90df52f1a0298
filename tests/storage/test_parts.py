"""Large runs: results in parts on disk, merged in order, summarised from columns, shown by a sample."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from fimaudit.errors import RunFolderError
from fimaudit.report.page import page_html
from fimaudit.report.wording import sample_sentences
from fimaudit.results import Interval, MeasuredInput, Sensitivity, Witness
from fimaudit.runs.auditing import audit_with_options
from fimaudit.runs.options import AuditOptions
from fimaudit.runs.task import RunSizes
from fimaudit.statistics.columns import Columns
from fimaudit.statistics.summary import summarise
from fimaudit.storage.parts import Parts, pack, unpack
from fimaudit.storage.run_folder import read_for_page, read_run
from fimaudit.storage.tables import read_inputs_table, rows_at, write_inputs


def result(index: int, status: str = "ok") -> Sensitivity:
    if status == "failed":
        return Sensitivity(index=index, status="failed", method="none", reason="no")
    value = 1.0 + (index * 7919 % 101) / 10
    norm = Interval(value=value, lower=value / 2, upper=value * 2)
    radius = Interval(value=1 / value, lower=0.5 / value, upper=2 / value if index % 3 else None)
    group = None if index % 5 == 0 else f"g{index % 4}"
    return Sensitivity(
        index=index, status="ok", method="rademacher", queries=20, spectral_norm=norm, margin_radius=radius, group=group
    )


def outcomes(indices: list[int], *, failing: tuple[int, ...] = ()) -> list[MeasuredInput]:
    return [MeasuredInput(result(i, "failed" if i in failing else "ok"), 20, 1) for i in indices]


def test_a_part_carries_everything() -> None:
    seen = result(3).model_copy(update={"witness": Witness(distance=0.5, predicted_class=2)})
    assert seen.witness is not None
    seen.witness.keep(np.arange(4.0))
    part = pack([MeasuredInput(seen, 20, 2), *outcomes([1], failing=(1,))])
    assert part.index.tolist() == [1, 3]
    assert (part.failed, part.rows, part.requests) == (1, 40, 3)
    first, second = unpack(part)
    assert first.result == result(1, "failed")
    assert second.result.model_dump() == seen.model_dump()
    assert (second.rows, second.requests) == (20, 2)
    assert second.result.witness is not None
    np.testing.assert_array_equal(second.result.witness.x, np.arange(4.0))


def test_parts_hold_each_input_once_and_merge_in_order(tmp_path: Path) -> None:
    parts = Parts(tmp_path, 40, resume=False)
    assert parts.add(pack(outcomes(list(range(20, 30)), failing=(25,)))).tolist() == list(range(20, 30))
    assert parts.add(pack(outcomes([0, 9, 35]))).tolist() == [0, 9, 35]  # ranges that meet
    assert parts.add(pack(outcomes([9, 10, 25], failing=(25,)))).tolist() == [10]  # two of them a second time
    assert parts.add(pack(outcomes([0, 9]))).tolist() == []
    assert (parts.count, parts.failed) == (14, 1)
    again = Parts(tmp_path, 40, resume=True)
    assert (again.count, again.failed) == (14, 1)
    np.testing.assert_array_equal(again.done, parts.done)
    again.merge(tmp_path / "inputs.parquet", drifted=[10])
    merged = read_inputs_table(tmp_path / "inputs.parquet")
    assert [s.index for s in merged] == [0, 9, 10, *range(20, 30), 35]
    assert [s.index for s in merged if "drift" in s.flags] == [10]
    assert merged[1] == result(9)
    assert len(again.files()) == 3  # not complete: they stay
    again.add(pack(outcomes([i for i in range(40) if not again.done[i]])))
    again.merge(tmp_path / "inputs.parquet")
    assert not again.folder.exists()
    complete = Parts(tmp_path, 40, resume=True)
    assert complete.count == 40
    before = (tmp_path / "inputs.parquet").read_bytes()
    complete.merge(tmp_path / "inputs.parquet")
    assert (tmp_path / "inputs.parquet").read_bytes() == before


def test_a_damaged_or_foreign_part_is_refused_in_words(tmp_path: Path) -> None:
    parts = Parts(tmp_path, 10, resume=False)
    parts.add(pack(outcomes([1, 2])))
    path = parts.files()[0]
    shutil.copy(path, path.with_name("part-000000000001-000000000003.parquet"))
    with pytest.raises(RunFolderError, match="holds inputs of another part"):
        Parts(tmp_path, 10, resume=True)
    path.write_bytes(b"PAR1")
    with pytest.raises(RunFolderError, match="delete it to measure its inputs again"):
        Parts(tmp_path, 10, resume=True)


def test_columns_from_disk_are_those_from_memory(tmp_path: Path) -> None:
    results = [result(i, "failed" if i % 17 == 0 else "ok") for i in range(200)]
    write_inputs(tmp_path / "inputs.parquet", results)
    held, read = Columns.of(results), Columns.read(tmp_path / "inputs.parquet")
    for name in ("index", "status", "queries", "contrasts", "group"):
        np.testing.assert_array_equal(getattr(read, name), getattr(held, name))
    assert read.groups == held.groups == ("g0", "g1", "g2", "g3")
    assert summarise(read, 0.95, 7, 3) == summarise(results, 0.95, 7, 3)
    ranked = sorted((s for s in results if s.margin_radius.value), key=lambda s: (s.margin_radius.value, s.index))
    worst = read.index[read.most_sensitive(5)].tolist()
    assert worst == [s.index for s in ranked[:5]]
    assert rows_at(tmp_path / "inputs.parquet", worst) == ranked[:5]
    assert len(pq.read_table(tmp_path / "inputs.parquet")) == 200


def linear(x: np.ndarray) -> np.ndarray:
    z = x @ np.array([[1.0, -1.0, 0.5], [0.2, 0.4, -0.3]])
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return np.asarray(e / e.sum(axis=1, keepdims=True))


def test_a_large_run_has_a_page_of_a_sample(tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((300, 2))
    sizes = RunSizes(most_inline=100)
    report = audit_with_options(linear, (x, None, None), AuditOptions(queries=6), tmp_path / "run", sizes=sizes)
    assert report.inputs == []
    assert report.data["measured"] == 300
    whole = read_run(tmp_path / "run")
    assert summarise(whole.inputs, 0.95, report.summary.queries, report.summary.requests) == report.summary
    seen = read_for_page(tmp_path / "run", sample=50, worst=10)
    assert len(seen.inputs) == 50
    assert [s.index for s in seen.inputs][-1] == 299
    smallest = sorted(whole.inputs, key=lambda s: (s.margin_radius.value or np.inf, s.index))[:10]
    assert list(seen.ranked) == smallest
    page = page_html(seen)
    assert "50 of them, spread evenly over the data" in page
    assert "The 10 most sensitive of 300 inputs" in page
    assert sample_sentences(300, 300) == []


def test_an_empty_part_adds_nothing(tmp_path: Path) -> None:
    parts = Parts(tmp_path, 3, resume=False)
    empty = pack([])
    assert empty.index.size == 0
    assert parts.add(empty).tolist() == []
    assert not parts.files()


def test_parts_that_a_kill_left_half_deleted_do_not_stand_for_the_whole(tmp_path: Path, monkeypatch) -> None:
    parts = Parts(tmp_path, 4, resume=False)
    parts.add(pack(outcomes([0, 1])))
    parts.add(pack(outcomes([2, 3])))

    def killed(folder: Path, **_: object) -> None:
        if Path(folder).exists():
            next(Path(folder).iterdir()).unlink()
            raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        parts.merge(tmp_path / "inputs.parquet")
    monkeypatch.undo()
    again = Parts(tmp_path, 4, resume=True)
    assert again.done.all()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["inputs.parquet"]
