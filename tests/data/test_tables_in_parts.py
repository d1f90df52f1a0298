"""Tables that come in several files: text, gaps and dates as in one file, and no word of them taken for another."""

from __future__ import annotations

import datetime
import io
import pickle
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from fimaudit import audit
from fimaudit.audit_report import Report
from fimaudit.data.arrays import Inputs
from fimaudit.data.streams import Stream, open_data
from fimaudit.data.table_reading import TableReading
from fimaudit.data.table_shards import ParquetTable, table_facts
from fimaudit.errors import DataError
from tests.data.test_brought_tables import CELLS as BROUGHT_CELLS
from tests.parquet_footers import thrift_integer, with_footer

RNG = np.random.default_rng(0)
COUNT = 60
PEOPLE = pd.DataFrame(
    {
        "age": RNG.normal(50, 10, COUNT),
        "sex": RNG.choice(["f", "m"], COUNT),
        "stage": RNG.integers(1, 5, COUNT),
        "creatinine": np.where(np.arange(COUNT) % 5, RNG.normal(1, 0.3, COUNT), np.nan),
        "smoker": RNG.random(COUNT) < 0.5,
    }
)
PEOPLE.loc[[3, 6], "sex"] = np.nan
SICK = np.where(0.1 * (PEOPLE.age - 50) + (PEOPLE.sex == "m") + 0.5 * PEOPLE.stage > 1.8, "sick", "well")
PIPELINE = make_pipeline(
    ColumnTransformer(
        [
            ("n", make_pipeline(SimpleImputer(), StandardScaler()), ["age", "creatinine"]),
            ("w", OneHotEncoder(handle_unknown="ignore"), ["sex", "stage", "smoker"]),
        ]
    ),
    LogisticRegression(),
).fit(PEOPLE, SICK)
ASKED = PEOPLE[:12].assign(outcome=SICK[:12], ward=["a", "a", "b"] * 4)


def asked(x: Any, **options: Any) -> Report:
    return audit(PIPELINE, x, y="outcome", group="ward", queries=24, profile="off", scale="std", **options)


def in_parts(table: pd.DataFrame, folder: Path, ending: str, cuts: list[int]) -> str:
    for k, part in enumerate(np.split(np.arange(len(table)), cuts)):
        some = table.iloc[part]
        if ending == "csv":
            some.to_csv(folder / f"{k}.csv", index=False)
        else:
            some.to_parquet(folder / f"{k}.parquet", row_group_size=2)
    return str(folder / f"*.{ending}")


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_text_and_gaps_in_parts_give_the_report_of_one_table(ending: str, tmp_path: Path) -> None:
    spec = in_parts(ASKED, tmp_path, ending, [4, 7])
    whole, parts = asked(ASKED), asked(spec, out=tmp_path / "run")
    assert parts.data["files"] == 3
    assert [s.model_dump() for s in parts.inputs] == [s.model_dump() for s in whole.inputs]
    assert parts.domain == whole.domain
    assert parts.groups == whole.groups
    assert {s.label for s in parts.inputs} == {0, 1}
    held = [w for w in parts.warnings if "hold no numbers" in w or "missing values" in w]
    assert held == [w for w in whole.warnings if w in held]
    assert len(held) == 2
    again = asked(spec, out=tmp_path / "run", resume=True)
    assert again.inputs == parts.inputs


def test_columns_of_parts_are_matched_by_name(tmp_path: Path) -> None:
    ASKED[:6].to_parquet(tmp_path / "0.parquet")
    ASKED[list(reversed(ASKED.columns))][6:].to_parquet(tmp_path / "1.parquet")
    report = asked(str(tmp_path))
    assert [s.probability for s in report.inputs] == pytest.approx(PIPELINE.predict_proba(ASKED).max(axis=1).tolist())
    ASKED.drop(columns="age").to_parquet(tmp_path / "2.parquet")
    with pytest.raises(DataError, match=r"0.parquet has the columns age, .* but .*2.parquet has sex, .*same columns"):
        asked(str(tmp_path))


def test_one_column_of_two_kinds_is_refused(tmp_path: Path) -> None:
    for k, cells in enumerate((["1", "2"], ["low", "high"])):
        (tmp_path / f"{k}.csv").write_text("a,b\n" + "".join(f"{cell},1.5\n" for cell in cells))
    with pytest.raises(DataError, match=r"column 'a' holds numbers in .*0.csv and text in .*1.csv"):
        open_data(str(tmp_path / "*.csv"))
    stream = open_data(str(tmp_path / "*.csv"), reading=TableReading(categorical=("a",)))
    assert isinstance(stream, Stream)
    assert [(c.kind, c.values) for c in stream.columns] == [("text", ("1", "2", "low", "high")), ("number", ())]


def test_numbers_that_are_all_there_in_one_part_only(tmp_path: Path) -> None:
    """Integers with gaps are floats to some writers, and a part may be of nothing but gaps."""
    parts = ([1, 2], [None, 4.0], [None, None])
    for k, cells in enumerate(parts):
        pq.write_table(pa.table({"stage": cells, "age": [0.5, 1.0]}), tmp_path / f"{k}.parquet")
    stream = open_data(str(tmp_path))
    assert isinstance(stream, Stream)
    assert stream.whole == ("stage",)
    x = np.stack([np.asarray(row.x) for row in stream.rows(range(6))])
    np.testing.assert_array_equal(x[:, 0], [1, 2, np.nan, 4, np.nan, np.nan])


def test_words_that_appear_after_the_start_fail_their_inputs_alone(tmp_path: Path) -> None:
    spec = in_parts(ASKED, tmp_path, "parquet", [6])
    stream = open_data(spec, reading=TableReading(label="outcome", group="ward"))
    assert isinstance(stream, Stream)
    other = ASKED[6:].copy()
    other.loc[8, "sex"] = "x"
    other.to_parquet(tmp_path / "1.parquet", row_group_size=2)
    rows = list(stream.rows(range(12)))
    assert [k for k, row in enumerate(rows) if row.x is None] == [8, 9]  # its row group
    assert "holds values that it did not hold before" in str(rows[8].reason)


def test_numbers_alone_are_distinguished_from_the_heads_of_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A set of hundreds of gigabytes is not read before its audit starts."""
    for k in range(2):
        pq.write_table(pa.table({"a": RNG.normal(size=50), "n": np.arange(50)}), tmp_path / f"{k}.parquet")

    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("read")

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", never)
    stream = open_data(str(tmp_path))
    assert isinstance(stream, Stream)
    assert [c.kind for c in stream.columns] == ["number", "whole"]


def test_a_table_that_is_damaged_inside_is_refused_in_a_sentence(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": ["x", "y"] * 50}), tmp_path / "0.parquet", compression="none")
    content = bytearray((tmp_path / "0.parquet").read_bytes())
    content[4:40] = b"\xff" * 36
    (tmp_path / "0.parquet").write_bytes(content)
    with pytest.raises(DataError, match=r"0.parquet is damaged inside .*; copy it again"):
        open_data(str(tmp_path / "*.parquet"))


def damaged(path: Path, change: Callable[[bytes], bytes], groups: int = 1) -> None:
    """A Parquet file of columns a and n, ten rows in each group, whose footer is changed."""
    table = pa.table({"a": RNG.normal(size=10), "n": np.arange(5, 15)})
    pq.write_table(pa.concat_tables([table] * groups), path, row_group_size=10)
    path.write_bytes(with_footer(path.read_bytes(), change))


def cut_short(footer: bytes) -> bytes:
    """The largest value of the column of numbers 14, in three bytes of eight."""
    for place in reversed([i for i in range(len(footer)) if footer[i : i + 8] == struct.pack("<q", 14)]):
        footer = footer[: place - 1] + b"\x03" + footer[place : place + 3] + footer[place + 8 :]
    return footer


def without_gaps(footer: bytes) -> bytes:
    """A column that is said to have no gaps, with the histogram of one that may have some."""
    return footer.replace(b"\x25\x02\x18\x01n", b"\x25\x00\x18\x01n")


@pytest.mark.parametrize("damage", [cut_short, without_gaps])
def test_damaged_statistics_of_a_column_do_not_end_the_process(damage: Callable[[bytes], bytes], tmp_path: Path) -> None:
    """pyarrow ends the process that looks at them; in a process of its own, since the test's would end too."""
    damaged(tmp_path / "0.parquet", damage)
    code = "import sys; from fimaudit.data.streams import open_data; open_data(sys.argv[1])"
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "*.parquet")], capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert "0.parquet is damaged inside" in done.stderr


@pytest.mark.parametrize("name", ["0.parquet", "*.parquet"])
@pytest.mark.parametrize(
    ("count", "sentence"),
    [
        (1, r"say that they hold 10\d* rows, the file that it holds 10; copy"),
        (None, r"holds 60,\d+,\d+,\d+ rows; write parts"),
    ],
)
def test_rows_that_are_not_there_take_no_memory(name: str, count: int | None, sentence: str, tmp_path: Path) -> None:
    """pyarrow makes room for the rows that a part says it has: minutes and gigabytes for a file of a kilobyte."""
    ten, rows = thrift_integer(10), thrift_integer(60_779_591_294)

    def more(footer: bytes) -> bytes:
        if count is None:
            return footer.replace(ten, rows)  # of the file, its columns and its part
        place = footer.rindex(ten)
        return footer[:place] + thrift_integer(1_000_000) + footer[place + len(ten) :]

    damaged(tmp_path / "0.parquet", more)
    with pytest.raises(DataError, match=sentence):
        open_data(str(tmp_path / name))


def test_many_parts_of_rows_that_are_not_there_take_no_memory(tmp_path: Path) -> None:
    """Each may say as many as it can hold: all at once, pyarrow made room for their sum."""
    most = 1 << 26

    def more(footer: bytes) -> bytes:
        footer = footer.replace(thrift_integer(400), thrift_integer(40 * most), 1)
        return footer.replace(thrift_integer(10), thrift_integer(most))

    damaged(tmp_path / "0.parquet", more, groups=40)
    with pytest.raises(DataError, match=r"0\.parquet holds 10 rows where it says 67108864; copy it again"):
        open_data(str(tmp_path / "0.parquet"))


class Watched(io.FileIO):
    """A file that keeps where and how much was read of it."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.reads: list[tuple[int, int]] = []

    def read(self, size: int | None = -1, /) -> bytes:
        place = self.tell()
        content = super().read(size)
        self.reads.append((place, len(content)))
        return content


def test_columns_are_looked_at_without_reading_the_file(tmp_path: Path) -> None:
    """Each group was read whole, a column at a time and twice: of data that need not fit in memory, behind a network."""
    rows = pa.table({f"c{k}": RNG.normal(size=100_000) for k in range(4)})
    pq.write_table(rows, tmp_path / "0.parquet", row_group_size=50_000, data_page_size=2**14, use_dictionary=False)
    file = Watched(tmp_path / "0.parquet")
    table = ParquetTable(file)
    file.reads.clear()
    assert [one.whole for one in table_facts(table, TableReading(), "0.parquet")] == [False] * 4
    assert len(file.reads) <= 2 * 4 * 2
    assert sum(length for _, length in file.reads) < (tmp_path / "0.parquet").stat().st_size / 4
    assert file.reads == sorted(file.reads)
    table.close()


def test_arrays_in_one_parquet_file_are_inputs(tmp_path: Path) -> None:
    x = RNG.normal(size=(5, 3)).astype(np.float32)
    pq.write_table(pa.table({"x": list(x), "label": [0, 1, 1, 0, 1]}), tmp_path / "one.parquet")
    stream = open_data(tmp_path / "one.parquet")
    rows = list(stream.rows(range(5)))
    np.testing.assert_array_equal([row.x for row in rows], x)
    assert [row.y for row in rows] == [0, 1, 1, 0, 1]


CELLS = BROUGHT_CELLS | {"day": st.one_of(st.none(), st.dates(datetime.date(2000, 1, 1), datetime.date(2030, 1, 1)))}
TYPES = {
    "number": pa.float64(),
    "gaps": pa.float64(),
    "whole": pa.int64(),
    "truth": pa.bool_(),
    "text": pa.string(),
    "day": pa.date32(),
}


@settings(max_examples=15, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_table_reads_the_same_in_parts(data: st.DataObject, tmp_path: Path) -> None:
    kinds = data.draw(st.lists(st.sampled_from(sorted(CELLS)), min_size=1, max_size=4))
    rows = data.draw(st.integers(2, 8))
    columns = {f"c{i}": pa.array([data.draw(CELLS[k]) for _ in range(rows)], TYPES[k]) for i, k in enumerate(kinds)}
    table = pa.table({**columns, "y": [str(k) for k in range(rows)]})
    folder = tmp_path
    pq.write_table(table, folder / "whole.parquet")
    cut = data.draw(st.integers(1, rows - 1))
    order = data.draw(st.permutations(table.column_names))
    pq.write_table(table[:cut], folder / "part-0.parquet", row_group_size=2)
    pq.write_table(table[cut:].select(order), folder / "part-1.parquet")
    whole, parts = open_data(folder / "whole.parquet"), open_data(str(folder / "part-*.parquet"))
    assert isinstance(whole, Inputs)
    assert isinstance(parts, Stream)
    assert parts.columns == whole.columns
    assert parts.whole == whole.whole
    read = list(pickle.loads(pickle.dumps(parts)).rows(range(rows)))
    np.testing.assert_array_equal([row.x for row in read], whole.x)
    assert [row.y for row in read] == [str(k) for k in range(rows)]
