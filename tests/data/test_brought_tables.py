"""Tables: the same numbers, names and held columns by every way, in any order of columns, with gaps, and no traceback."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler

from fimaudit import audit
from fimaudit.audit_report import Report
from fimaudit.data.arrays import Inputs
from fimaudit.data.dataset import as_data
from fimaudit.data.table_reading import TableReading
from fimaudit.errors import DataError, FimauditError, UsageError

RNG = np.random.default_rng(0)
COUNT = 200


def people(count: int = COUNT) -> pd.DataFrame:
    table = pd.DataFrame(
        {
            "age": RNG.normal(50, 10, count),
            "sex": RNG.choice(["f", "m"], count),
            "stage": RNG.integers(1, 5, count),
            "creatinine": RNG.normal(1, 0.3, count),
            "smoker": RNG.random(count) < 0.5,
        }
    )
    table.loc[::7, "creatinine"] = np.nan
    return table


PEOPLE = people()
SICK = np.where(0.1 * (PEOPLE.age - 50) + (PEOPLE.sex == "m") + 0.5 * PEOPLE.stage > 1.8, "sick", "well")
NUMBERS = make_pipeline(SimpleImputer(), StandardScaler())
CODES = ["sex", "stage", "smoker"]
WORDS = OneHotEncoder(handle_unknown="ignore")
PIPELINE = make_pipeline(
    ColumnTransformer([("n", NUMBERS, ["age", "creatinine"]), ("w", WORDS, ["sex", "stage", "smoker"])]),
    LogisticRegression(),
).fit(PEOPLE, SICK)
ASKED = PEOPLE[:12]


def asked(x: Any, **options: Any) -> Report:
    return audit(PIPELINE, x, queries=40, profile="off", scale="std", **options)


def ways(folder: Path, table: pd.DataFrame) -> dict[str, Any]:
    table.to_csv(folder / "t.csv", index=False)
    table.to_csv(folder / "semicolons.csv", index=False, sep=";")
    table.to_parquet(folder / "t.parquet")
    polars = pytest.importorskip("polars")
    return {
        "csv": folder / "t.csv",
        "parquet": folder / "t.parquet",
        "pandas": table,
        "polars": polars.from_dicts(table.astype(object).where(table.notna(), None).to_dict("records")),
        "arrow": pa.Table.from_pandas(table),
        "categories": table.astype({"sex": "category"}),
        "other order": table[list(reversed(table.columns))],
    }


def test_every_way_gives_the_same_report(tmp_path: Path) -> None:
    reports = {name: asked(x) for name, x in ways(tmp_path, ASKED).items()}
    reports["semicolons"] = asked(tmp_path / "semicolons.csv", sep=";")
    first = reports["csv"]
    assert [first.data["feature_names"][k] for k in first.domain["frozen"]] == ["sex", "stage", "smoker"]
    assert sum("missing values" in warning for warning in first.warnings) == 1
    for name, report in reports.items():
        held = {report.data["feature_names"][k] for k in report.domain["frozen"]}
        assert held == {"sex", "stage", "smoker"}, name
        for a, b in zip(first.inputs, report.inputs, strict=True):
            assert a.spectral_norm.value == pytest.approx(b.spectral_norm.value, rel=5e-2), name
            assert a.probability == pytest.approx(b.probability), name


def test_a_missing_value_is_held_and_the_rest_measured() -> None:
    """By hand: the same pipeline with the gap filled by its imputer, and that column held."""
    report = asked(ASKED)
    gap = ASKED.index[ASKED.creatinine.isna()]
    filled = ASKED.copy()
    filled["creatinine"] = filled.creatinine.fillna(PEOPLE.creatinine.mean())
    spread = ASKED.age.std(ddof=0)
    scale = [spread, 1.0, 1.0, ASKED.creatinine.std(ddof=0), 1.0]
    by_hand = audit(PIPELINE, filled, queries=40, profile="off", scale=scale, frozen=["creatinine"])
    for index in gap:
        a, b = report.inputs[index], by_hand.inputs[index]
        assert a.spectral_norm.value == pytest.approx(b.spectral_norm.value, rel=1e-2)


def test_a_model_that_takes_no_gaps_fails_on_these_inputs_alone() -> None:
    x = RNG.normal(size=(60, 3))
    model = LogisticRegression().fit(x, x[:, 0] > 0)
    x[4, 1] = np.nan
    report = audit(model, x[:8], queries=12)
    failed = {s.index: s.reason or "" for s in report.inputs if s.status == "failed"}
    assert list(failed) == [4]
    assert "missing values, which the model does not take" in failed[4]


def test_every_input_has_a_gap() -> None:
    x = RNG.normal(size=(300, 6))
    y = (x[:, :3].sum(axis=1) > 0).astype(int)
    for i in range(len(x)):
        x[i, i % 6] = np.nan
    model = make_pipeline(SimpleImputer(), LogisticRegression()).fit(x, y)
    report = audit(model, x[:10], queries=16)
    assert {s.status for s in report.inputs} == {"ok"}
    boosted = HistGradientBoostingClassifier(max_iter=10).fit(x, y)
    assert {s.status for s in audit(boosted, x[:10], queries=16).inputs} <= {"ok", "below_detection"}


def test_labels_groups_and_columns_that_are_none(tmp_path: Path) -> None:
    table = ASKED.assign(outcome=SICK[:12], ward=["a", "b"] * 6, id=range(100, 112), note="x")
    table.to_csv(tmp_path / "t.csv", index=False)
    for x in (table, tmp_path / "t.csv"):
        report = asked(x, y="outcome", group="ward", index="id", drop="note")
        assert report.data["labels"]
        assert list(report.groups) == ["a", "b"]
        assert report.data["feature_names"] == list(ASKED.columns)
    with pytest.raises(DataError, match=r"takes the columns age, sex, .* but the data has .* \(with .*note"):
        asked(table, y="outcome", group="ward", index="id")


REFUSED: dict[str, tuple[bytes, dict[str, Any], str]] = {
    "numbers in the first line": (b"1.5,2\n3,4\n", {}, "header=False if the file has no names, or header=True"),
    "another separator": (b"a;b\n1;2\n", {}, "sep=';'"),
    "a mark for missing numbers": (b"a,b\n1,2\n?,3\n4,5\n", {}, r"holds numbers and text \('\?'\)"),
    "decimal commas": (
        b'a;b\n"1,5";2\n"2,5";3\n',
        {"separator": ";"},
        r"decimal commas \('1,5'\); pass decimal=',' for a CSV",
    ),
    "one sign for two things": (b"a,b\n1,2\n", {"separator": ",", "decimal": ","}, "decimal= with one character"),
    "two columns of one name": (b"a,a\n1,2\n", {}, "two columns called 'a'"),
    "no such label": (b"a,b\n1,2\n", {"label": "outcome"}, "y= names the column 'outcome'"),
    "nothing left": (b"a,b\n1,2\n", {"drop": ("a", "b")}, "no feature columns"),
    "leading zeros": (b"a,b\n01,2\n02,3\n", {}, r"leading zeros \('01'\), which may be codes; pass categorical"),
    "a column without a name": (b",b\n0,2\n1,3\n", {}, "column 1 of t.csv has no name, .* index=''"),
    "another encoding": ("a,b\nä,1\n".encode("latin-1"), {}, "not text in UTF-8"),
    "thousands": (b'a,b\n"1,234.5",2\n', {}, "thousands or percent signs"),
    "thousands by points": (b"a;b\n1.234,5;2\n", {"decimal": ","}, "thousands or percent signs"),
    "percent": (b"a,b\n12.5%,2\n", {}, "thousands or percent signs"),
    "another separator, and decimal commas": (b"a;b\n1,5;2,5\n", {}, "pass sep=';', and decimal=','"),
    "a line above the header": (b"# of May\na,b\n1,2\n", {}, r"has 2 cells \(a,b\) where the first has 1; take out"),
    "a line that is too short": (b"a,b\n1,2\n3\n", {}, r"has 1 cells \(3\) where the first has 2"),
    "no rows": (b"a,b\n", {}, "expected at least one input"),
    "a separator of two": (b"a,b\n1,2\n", {"separator": "::"}, "sep= with one character"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_may_mean_two_things_is_asked_back(name: str, tmp_path: Path) -> None:
    content, reading, words = REFUSED[name]
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(DataError, match=words):
        as_data(tmp_path / "t.csv", None, None, reading=TableReading(**reading))


@pytest.mark.parametrize("packing", ["", ".gz", ".bz2", ".zst"])
@pytest.mark.parametrize("decimal", [None, ","])
def test_packed_files_and_decimal_commas(packing: str, decimal: str | None, tmp_path: Path) -> None:
    table, files = pd.DataFrame({"dose": [1.5, 2.25], "count": [3, 4]}), [f"t.csv{packing}", f"u.csv{packing}"]
    text = table.to_csv(index=False, sep=";" if decimal else ",", decimal=decimal or ".")
    for file in files:  # Arrow packs by the ending; pandas needs another package for .zst
        with pa.output_stream(str(tmp_path / file), compression="detect") as stream:
            stream.write(text.encode())
    reading = TableReading(decimal=decimal)
    for data in (tmp_path / files[0], f"{tmp_path}/*.csv{packing}"):  # whole, and one of several
        found = as_data(data, None, None, reading=reading)
        assert [(column.name, column.kind) for column in found.columns] == [("dose", "number"), ("count", "whole")]
        assert [np.asarray(row.x).tolist() for row in found.rows([0, 1])] == [[1.5, 3.0], [2.25, 4.0]]


def test_labels_in_another_order_than_the_table_are_refused() -> None:
    table, labels = ASKED.reset_index(drop=True), pd.Series(SICK[:12])
    turned = labels[::-1]
    for beside in ({"y": turned}, {"group": turned}):
        with pytest.raises(DataError, match=r"index in another order; give them in the table's: .*\.loc\[x\.index\]"):
            asked(table, **beside)
    assert asked(table, y=labels.set_axis(range(50, 62))).accuracy == asked(table, y=labels).accuracy


def test_a_packed_file_without_its_ending(tmp_path: Path) -> None:
    pd.DataFrame({"a": [1.5]}).to_csv(tmp_path / "t.csv", index=False, compression="gzip")
    assert as_data(tmp_path / "t.csv", None, None).names == ("a",)


def test_a_packed_file_that_is_cut_short_is_refused(tmp_path: Path) -> None:
    ASKED.to_csv(tmp_path / "t.csv.gz")
    (tmp_path / "t.csv.gz").write_bytes((tmp_path / "t.csv.gz").read_bytes()[:60])
    with pytest.raises(DataError, match=r"t\.csv\.gz cannot be unpacked"):
        as_data(tmp_path / "t.csv.gz", None, None)


def test_a_file_without_names_is_taken_by_position(tmp_path: Path) -> None:
    x = RNG.normal(size=(40, 3))
    model = LogisticRegression().fit(pd.DataFrame(x, columns=["a", "b", "c"]), x[:, 0] > 0)
    np.savetxt(tmp_path / "t.csv", x[:5], delimiter=",")
    report = audit(model, tmp_path / "t.csv", header=False, queries=12)
    assert report.data["inputs"] == 5
    assert report.inputs[0].probability == pytest.approx(
        model.predict_proba(pd.DataFrame(x[:1], columns=["a", "b", "c"])).max()
    )


def test_text_for_a_model_of_numbers_is_refused() -> None:
    import torch

    with pytest.raises(DataError, match="takes numbers, but column 'sex' holds text"):
        audit(torch.nn.Linear(5, 2), ASKED, link="softmax")
    with pytest.raises(UsageError, match="holds no numbers, so it cannot change"):
        asked(ASKED, free=["sex"])


def test_codes_that_are_said_to_be_categories_stay_as_they_were_written(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("code,flag,grade,ward\n01,True,3,007\n02,False,4,008\n")
    reading = TableReading(group="ward", categorical=("code", "flag", "grade"))
    found = as_data(tmp_path / "t.csv", None, None, reading=reading)
    assert isinstance(found, Inputs)
    assert [(c.kind, c.values) for c in found.columns] == [
        ("text", ("01", "02")),
        ("text", ("True", "False")),
        ("whole", ()),
    ]
    assert found.group is not None
    assert found.group.tolist() == ["007", "008"]


@pytest.mark.parametrize("kind", ["truth values", "numbers"])
def test_a_column_of_another_type_than_fitted_is_refused_before_the_start(kind: str) -> None:
    written = PEOPLE.astype({"smoker": str} if kind == "truth values" else {"stage": str})
    fitted = make_pipeline(ColumnTransformer([("w", WORDS, ["sex", "stage", "smoker"])]), LogisticRegression())
    column = "smoker" if kind == "truth values" else "stage"
    with pytest.raises(
        DataError, match=rf"fitted on text in column '{column}' .*, but the data has numbers or truth values"
    ):
        audit(fitted.fit(written[CODES], SICK), ASKED[CODES], queries=12)
    with pytest.raises(DataError, match=f"fitted on numbers or truth values in column '{column}'"):
        audit(fitted.fit(PEOPLE[CODES], SICK), written[CODES][:12], categorical=column, queries=12)


def test_missing_text_is_what_the_encoder_was_fitted_with() -> None:
    """pandas holds missing text as None or as NaN, which an encoder takes for two categories."""
    for missing in (None, np.nan):
        table = PEOPLE[["age", "sex"]].astype({"sex": object})
        table.loc[::5, "sex"] = missing
        model = make_pipeline(ColumnTransformer([("n", NUMBERS, ["age"]), ("w", WORDS, ["sex"])]), LogisticRegression())
        model.fit(table, np.where(table.sex.isna(), "well", SICK))
        report = audit(model, pa.Table.from_pandas(table[:12], preserve_index=False), queries=12)
        truth = model.predict_proba(table[:12]).max(axis=1)
        assert [s.probability for s in report.inputs] == pytest.approx(truth.tolist())


TIMES = {
    "zone": pd.date_range("2020-01-01 03:00", periods=COUNT, freq="h", tz="Europe/Berlin"),
    "duration": pd.to_timedelta(np.arange(COUNT), unit="h"),
    "day": [datetime.date(2020, 1, 1) + datetime.timedelta(days=i) for i in range(COUNT)],
    "hour": [datetime.time(i % 24) for i in range(COUNT)],
    "gaps": pd.Series(pd.date_range("2020-01-01", periods=COUNT)).where(np.arange(COUNT) % 4 > 0),
}


@pytest.mark.parametrize("name", TIMES)
def test_times_reach_the_model_as_they_were(name: str) -> None:
    table = pd.DataFrame({"age": PEOPLE.age, "at": TIMES[name]})
    seen = []

    def answer(rows: pd.DataFrame) -> Any:
        seen.append(rows)
        p = 1 / (1 + np.exp(-rows["age"].to_numpy() / 50))
        return np.stack([p, 1 - p], axis=1)

    audit(answer, table[:3], queries=12)
    assert seen[0]["at"].dtype.kind == table["at"].dtype.kind
    assert getattr(seen[0]["at"].dtype, "tz", None) == getattr(table["at"].dtype, "tz", None)
    assert all(one in set(table["at"]) or pd.isna(one) for one in seen[0]["at"])


def test_pandas_tables_that_arrow_does_not_take_as_they_are(tmp_path: Path) -> None:
    sparse = pd.DataFrame({"a": pd.arrays.SparseArray([0.0, 1.5]), "b": [1.0, 2.0]})
    assert as_data(sparse, None, None).x.tolist() == [[0.0, 1.0], [1.5, 2.0]]
    twice = pd.concat([sparse, sparse[["a"]]], axis=1)
    with pytest.raises(DataError, match=r"two columns called 'a'"):
        as_data(twice, None, None)
    with pytest.raises(DataError, match=r"column 'p' of the table holds .*period"):
        as_data(pd.DataFrame({"p": pd.period_range("2020", periods=2)}), None, None)
    named = pd.DataFrame({"a": [1.5, 2.5]}, index=["p", "q"])
    named.to_parquet(tmp_path / "t.parquet")
    assert as_data(tmp_path / "t.parquet", None, None).names == ("a",)


CELLS = {
    "number": st.floats(-100, 100, allow_nan=False, width=32),
    "gaps": st.one_of(st.none(), st.floats(-100, 100, allow_nan=False, width=32)),
    "whole": st.integers(-5, 5),
    "truth": st.booleans(),
    "text": st.one_of(st.none(), st.text("abc é,;\"'", min_size=1, max_size=4)),
}


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_table_reads_alike_or_is_refused_in_words(data: st.DataObject, tmp_path: Path) -> None:
    kinds = data.draw(st.lists(st.sampled_from(sorted(CELLS)), min_size=1, max_size=4))
    rows = data.draw(st.integers(2, 6))
    columns = {f"c{i}": [data.draw(CELLS[kind]) for _ in range(rows)] for i, kind in enumerate(kinds)}
    table = pd.DataFrame(columns)
    table.to_parquet(tmp_path / "t.parquet")
    seen = []
    for x in (table, tmp_path / "t.parquet", pa.Table.from_pandas(table)):
        try:
            found = as_data(x, None, None)
        except FimauditError as error:
            seen.append(type(error).__name__)
            continue
        assert isinstance(found, Inputs)
        seen.append((found.x.tobytes(), found.names, [(c.kind, c.values) for c in found.columns]))
    assert all(one == seen[0] for one in seen)


@settings(max_examples=10, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(order=st.permutations(list(ASKED.columns)))
def test_any_order_of_columns_gives_the_same_answers(order: list[str]) -> None:
    report = audit(PIPELINE, ASKED[order][:3], queries=12, profile="off", scale="std")
    truth = PIPELINE.predict_proba(ASKED[:3]).max(axis=1)
    assert [s.probability for s in report.inputs] == pytest.approx(truth.tolist())


HELD = {
    "seconds": (pd.Series(pd.to_datetime("2020-01-01") + pd.to_timedelta(np.arange(COUNT), "D")).dt.as_unit("s"), "int64"),
    "a time zone": (pd.Series(pd.date_range("2020", periods=COUNT, tz="Europe/Zurich", unit="ms")), "int64"),
    "durations": (pd.Series(pd.to_timedelta(np.arange(COUNT), "D")).dt.as_unit("s"), "int64"),
    "floats that are whole": (pd.Series(np.where(np.arange(COUNT) % 5 == 1, np.nan, np.arange(COUNT) % 3)), str),
    "integers with gaps": (pd.Series(pd.array(np.arange(COUNT) % 3, "Int64")).mask(np.arange(COUNT) % 5 == 1), str),
    "objects": (pd.Series([int(i) for i in np.arange(COUNT) % 3], dtype=object), object),
    "an order": (pd.Series(pd.Categorical(RNG.choice(["low", "high"], COUNT), ["low", "high"], ordered=True)), None),
}


@pytest.mark.parametrize("name", HELD)
def test_held_cells_keep_their_type(name: str) -> None:
    cells, kind = HELD[name]
    table = pd.DataFrame({"age": PEOPLE.age, "held": cells})
    as_kind = FunctionTransformer(lambda t: (t > "low").astype(float) if kind is None else t.astype(kind))
    encoder = StandardScaler() if kind in ("int64", None) else OneHotEncoder(handle_unknown="ignore")
    steps = [("n", StandardScaler(), ["age"]), ("h", make_pipeline(as_kind, encoder), ["held"])]
    model = make_pipeline(ColumnTransformer(steps), LogisticRegression()).fit(table, SICK)
    report = audit(model, table[2:6], queries=16, scale="std")
    assert [s.probability for s in report.inputs] == pytest.approx(model.predict_proba(table[2:6]).max(axis=1).tolist())
    assert report.domain["frozen"] == [1]


def test_a_column_of_text_may_be_missing_everywhere() -> None:
    report = asked(ASKED.assign(sex=None))
    assert report.inputs[1].probability == pytest.approx(PIPELINE.predict_proba(ASKED.assign(sex=None))[1].max())


@pytest.mark.parametrize("missing", [None, np.nan])
def test_groups_are_called_alike_by_every_way(missing: Any) -> None:
    groups = [1, 2, missing, 3] * 3
    names = [[s.group for s in asked(x).inputs] for x in (ASKED.assign(group=groups), pa.table(ASKED.assign(group=groups)))]
    assert [s.group for s in asked(ASKED, group=np.array(groups, dtype=object)).inputs] == names[0] == names[1]
    assert names[0][:4] == ["1", "2", "", "3"]


def test_integers_that_float64_does_not_hold_are_refused() -> None:
    table = PEOPLE[["age"]].assign(code=2**60 + np.arange(COUNT) % 3)
    steps = ColumnTransformer([("n", StandardScaler(), ["age"]), ("w", WORDS, ["code"])])
    model = make_pipeline(steps, LogisticRegression()).fit(table, SICK)
    with pytest.raises(DataError, match=r"'code' holds integers beyond 2\^53"):
        audit(model, table[:9], queries=16, scale="std")
    report = audit(model, table[:9].astype({"code": "category"}), queries=16, scale="std")
    assert [s.probability for s in report.inputs] == pytest.approx(model.predict_proba(table[:9]).max(axis=1).tolist())


def test_a_group_that_the_model_takes_is_copied_under_another_name() -> None:
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"a": rng.normal(size=60), "sex": rng.integers(0, 2, 60), "b": rng.normal(size=60)})
    model = LogisticRegression().fit(table, (table.a + table.sex > 0.5).astype(int))
    with pytest.raises(DataError, match=r"without sex.*to group by one that the model takes, copy it under another name"):
        audit(model, table[:10], group="sex", queries=20)
    report = audit(model, table[:10].assign(group=table.sex[:10]), queries=20, scale="raw")
    assert {s.group for s in report.inputs} == {"0", "1"}
