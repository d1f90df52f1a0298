"""The per-input results as a flat table with one fixed schema, and as ``inputs.parquet``."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from fimaudit.results import NESTED, Contrast, Interval, Sensitivity, flat_row
from fimaudit.storage.durable_files import replacing

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
#: Every column of ``inputs.parquet`` and its type, in the file's order; ``text`` holds words, or JSON of what is nested.
COLUMNS = {
    "index": "int64",
    "status": "text",
    "kind": "text",
    "method": "text",
    "predicted_class": "int64",
    "probability": "float64",
    "label": "int64",
    "group": "text",
    "displacement": "float64",
    "queries": "int64",
    "spectral_norm": "float64",
    "spectral_norm_lower": "float64",
    "spectral_norm_upper": "float64",
    "peak_spectral_norm": "float64",
    "peak_spectral_norm_lower": "float64",
    "peak_spectral_norm_upper": "float64",
    "trace": "float64",
    "trace_lower": "float64",
    "trace_upper": "float64",
    "margin_radius": "float64",
    "margin_radius_lower": "float64",
    "margin_radius_upper": "float64",
    "effective_rank": "float64",
    "contrast_from": "int64",
    "contrast_to": "int64",
    "carried_by": "text",
    "flags": "texts",
    "profile": "text",
    "smallest_radius": "float64",
    "witness": "text",
    "smoothed": "text",
    "reason": "text",
}


@lru_cache(maxsize=1)
def table_schema() -> Any:
    """The Arrow schema of ``inputs.parquet``."""
    import pyarrow as pa

    types = {"int64": pa.int64(), "float64": pa.float64(), "text": pa.string(), "texts": pa.list_(pa.string())}
    return pa.schema([(name, types[kind]) for name, kind in COLUMNS.items()])


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

    with replacing(path) as file:
        pq.write_table(to_table(results), file)


def read_inputs_table(path: Path) -> list[Sensitivity]:
    """The inputs of a Parquet file written by ``write_inputs``, some rows at a time.

    Others may have made the file: all at once, pyarrow makes room for as many rows as it says that it holds.

    Raises:
        ValueError: it holds fewer.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        table, stated = pa.Table.from_batches(file.iter_batches(), file.schema_arrow), file.metadata.num_rows
    if len(table) != stated:
        raise ValueError(f"it holds {len(table)} rows where it says {stated}")
    return from_table(table)


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
