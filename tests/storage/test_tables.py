"""``inputs.parquet``: what goes in comes out, whatever is missing."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fimaudit.results import Contrast, Interval, ScaleRung, Sensitivity, Witness, flat_row
from fimaudit.storage.tables import read_inputs_table, table_schema, write_inputs

NUMBERS = st.none() | st.floats(allow_nan=False, allow_infinity=False)
INTERVALS = st.builds(Interval, value=NUMBERS, lower=NUMBERS, upper=NUMBERS)
WORDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
RUNGS = st.builds(
    ScaleRung,
    displacement=st.floats(0, 9),
    radius=NUMBERS,
    flips=st.integers(0, 99),
    flips_upper=st.floats(0, 1),
    directions=st.integers(0, 99),
)
RESULTS = st.builds(
    Sensitivity,
    index=st.integers(0, 10**9),
    status=st.sampled_from(["ok", "below_detection", "no_rival_visible", "failed"]),
    kind=st.sampled_from(["local", "finite_scale", "lower_bound"]),
    method=st.sampled_from(["rademacher", "none"]),
    predicted_class=st.none() | st.integers(0, 1000),
    probability=NUMBERS,
    label=st.none() | st.integers(-5, 1000),
    group=st.none() | WORDS,
    displacement=NUMBERS,
    queries=st.integers(0, 10**6),
    spectral_norm=INTERVALS,
    peak_spectral_norm=INTERVALS,
    trace=INTERVALS,
    margin_radius=INTERVALS,
    effective_rank=NUMBERS,
    contrast=st.none() | st.builds(Contrast, from_=st.integers(0, 99), to=st.integers(0, 99)),
    flags=st.lists(WORDS, max_size=3),
    profile=st.lists(RUNGS, max_size=2),
    smallest_radius=NUMBERS,
    witness=st.none() | st.builds(Witness, distance=st.floats(0, 9), predicted_class=st.integers(0, 99)),
    reason=st.none() | WORDS,
)


@given(st.lists(RESULTS, max_size=2))
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_results_survive_the_table(tmp_path: Path, results: list[Sensitivity]) -> None:
    file = tmp_path / "inputs.parquet"
    write_inputs(file, results)
    assert read_inputs_table(file) == results
    assert not file.with_suffix(".tmp").exists()


def test_the_schema_is_fixed_whatever_is_missing(tmp_path: Path) -> None:
    full = Sensitivity(
        index=0,
        status="ok",
        method="rademacher",
        predicted_class=1,
        label=1,
        group="a",
        contrast=Contrast(from_=1, to=0),
        flags=["f"],
    )
    schemas = []
    for results in ([], [full], [Sensitivity(index=0, status="failed", method="none", reason="no")]):
        write_inputs(tmp_path / "inputs.parquet", results)
        schemas.append(pq.read_schema(tmp_path / "inputs.parquet"))
    assert schemas[0].equals(schemas[1])
    assert schemas[0].equals(schemas[2])
    assert str(schemas[0].field("label").type) == "int64"
    assert str(schemas[0].field("spectral_norm_upper").type) == "double"
    assert list(flat_row(full)) == schemas[0].names


@pytest.mark.parametrize("name", ["spectral_norm", "peak_spectral_norm", "trace", "margin_radius"])
def test_an_interval_is_three_columns(name: str) -> None:
    result = Sensitivity(index=0, status="ok", method="m", **{name: Interval(value=2, lower=1, upper=3)})
    row = flat_row(result)
    assert (row[name], row[f"{name}_lower"], row[f"{name}_upper"]) == (2, 1, 3)


SCHEMA = """
index: int64
status: string
kind: string
method: string
predicted_class: int64
probability: double
label: int64
group: string
displacement: double
queries: int64
spectral_norm: double
spectral_norm_lower: double
spectral_norm_upper: double
peak_spectral_norm: double
peak_spectral_norm_lower: double
peak_spectral_norm_upper: double
trace: double
trace_lower: double
trace_upper: double
margin_radius: double
margin_radius_lower: double
margin_radius_upper: double
effective_rank: double
contrast_from: int64
contrast_to: int64
carried_by: string
flags: list<item: string>
profile: string
smallest_radius: double
witness: string
smoothed: string
reason: string
"""


def test_column_types_stay() -> None:
    """Readers of earlier files and of later ones meet the same columns."""
    assert [f"{column.name}: {column.type}" for column in table_schema()] == SCHEMA.split("\n")[1:-1]
