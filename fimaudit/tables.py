"""The per-input results as a flat table, and as ``inputs.parquet``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from fimaudit.results import Carrier, Contrast, Interval, ScaleRung, Sensitivity, Witness

__all__ = ["INPUTS_FILE", "flat_row", "read_inputs_table", "write_inputs"]

INPUTS_FILE = "inputs.parquet"
#: Fields with a structure of their own are kept as JSON text.
NESTED: dict[str, TypeAdapter[Any]] = {
    "carried_by": TypeAdapter(list[Carrier]),
    "profile": TypeAdapter(list[ScaleRung]),
    "witness": TypeAdapter(Witness | None),
}


def flat_row(result: Sensitivity) -> dict[str, Any]:
    """One input as a row: an interval becomes ``name``, ``name_lower``, ``name_upper``; the contrast two columns."""
    row: dict[str, Any] = {}
    for name in Sensitivity.model_fields:
        cell = getattr(result, name)
        if isinstance(cell, Interval):
            row[name], row[f"{name}_lower"], row[f"{name}_upper"] = cell.value, cell.lower, cell.upper
        elif name == "contrast":
            row["contrast_from"] = None if cell is None else cell.from_
            row["contrast_to"] = None if cell is None else cell.to
        elif name in NESTED:
            row[name] = NESTED[name].dump_json(cell).decode() if cell else None
        else:
            row[name] = cell
    return row


def write_inputs(path: Path, results: Sequence[Sensitivity]) -> None:
    """Write all inputs to a Parquet file with one fixed schema."""
    import pyarrow as pa
    import pyarrow.parquet as pq

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
    beside = path.with_suffix(".tmp")
    pq.write_table(pa.Table.from_pylist([flat_row(r) for r in results], schema=pa.schema(fields)), beside)
    beside.replace(path)


def read_inputs_table(path: Path) -> list[Sensitivity]:
    """The inputs of a Parquet file written by ``write_inputs``."""
    import pyarrow.parquet as pq

    out = []
    for row in pq.read_table(path).to_pylist():
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
