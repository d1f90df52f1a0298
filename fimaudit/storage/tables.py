"""The per-input results as a flat table with one fixed schema, and as ``inputs.parquet``."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from fimaudit.results import NESTED, Contrast, Interval, Sensitivity, flat_row

__all__ = [
    "INPUTS_FILE",
    "from_table",
    "read_inputs_table",
    "rows_at",
    "table_schema",
    "to_table",
    "write_inputs",
]

INPUTS_FILE = "inputs.parquet"


@lru_cache(maxsize=1)
def table_schema() -> Any:
    """The Arrow schema of ``inputs.parquet``."""
    import pyarrow as pa

    types = {int: pa.int64(), float: pa.float64(), str: pa.string()}
    fields = []
    for name, field in Sensitivity.model_fields.items():
        if field.annotation is Interval:
            fields += [pa.field(f"{name}{part}", pa.float64()) for part in ("", "_lower", "_upper")]
        elif name == "contrast":
            fields += [pa.field("contrast_from", pa.int64()), pa.field("contrast_to", pa.int64())]
        elif name == "flags":
            fields.append(pa.field(name, pa.list_(pa.string())))
        elif name in NESTED:
            fields.append(pa.field(name, pa.string()))
        else:
            kind = next((k for k in types if str(k.__name__) in str(field.annotation)), str)
            fields.append(pa.field(name, types[kind]))
    return pa.schema(fields)


def to_table(results: Sequence[Sensitivity]) -> Any:
    """The results as an Arrow table."""
    import pyarrow as pa

    return pa.Table.from_pylist([flat_row(r) for r in results], schema=table_schema())


def from_table(table: Any) -> list[Sensitivity]:
    """The results in an Arrow table, of which other columns than ours are left alone."""
    out = []
    for row in (row for batch in table.to_batches(max_chunksize=256) for row in batch.to_pylist()):
        cells: dict[str, Any] = {}
        for name, field in Sensitivity.model_fields.items():
            if field.annotation is Interval:
                cells[name] = Interval(value=row[name], lower=row[f"{name}_lower"], upper=row[f"{name}_upper"])
            elif name == "contrast":
                have = row["contrast_from"] is not None
                cells[name] = Contrast(from_=row["contrast_from"], to=row["contrast_to"]) if have else None
            elif name in NESTED:
                text = row.get(name)
                default = field.get_default(call_default_factory=True)
                cells[name] = default if text is None else NESTED[name].validate_json(text)
            else:
                cells[name] = row[name]
        out.append(Sensitivity(**cells))
    return out


def write_inputs(path: Path, results: Sequence[Sensitivity]) -> None:
    """Write all inputs to a Parquet file with one fixed schema."""
    import pyarrow.parquet as pq

    beside = path.with_suffix(".tmp")
    pq.write_table(to_table(results), beside)
    beside.replace(path)


def read_inputs_table(path: Path) -> list[Sensitivity]:
    """The inputs of a Parquet file written by ``write_inputs``."""
    import pyarrow.parquet as pq

    return from_table(pq.read_table(path))


def rows_at(path: Path, indices: list[int]) -> list[Sensitivity]:
    """Some results of ``inputs.parquet``, in the order of ``indices``; the others are passed over, a row group at a time."""
    import pyarrow.parquet as pq

    found: dict[int, Sensitivity] = {}
    with pq.ParquetFile(path) as file:
        for k in range(file.num_row_groups):
            index = file.read_row_group(k, columns=["index"], use_threads=False).column("index").to_numpy()
            places = np.flatnonzero(np.isin(index, indices))
            if len(places):
                found |= {s.index: s for s in from_table(file.read_row_group(k, use_threads=False).take(places))}
    return [found[i] for i in indices]
