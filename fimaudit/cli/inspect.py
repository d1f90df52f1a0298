"""``fimaudit inspect``: what was found out about a model, before any measurement."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, cast

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from fimaudit.classifier import open_classifier
from fimaudit.cli import options as o
from fimaudit.errors import DataError
from fimaudit.facts import model_facts
from fimaudit.meter import Meter
from fimaudit.preflight import look
from fimaudit.sources import Inputs, check_inputs, read_inputs

__all__ = ["inspect"]


def inspect(
    target: o.Target,
    data: Annotated[Path | None, typer.Option("--data", help="Inputs to ask with; random ones when left out.")] = None,
    link: o.LinkName = "auto",
    weights: o.Weights = None,
    trust_pickle: o.TrustPickle = False,
    device: o.Device = None,
    adapter: o.Adapter = None,
    input: o.Input = None,
    output: o.Output = None,
    hold: o.Hold = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the facts as JSON.")] = False,
) -> None:
    """Show what was found: shapes, dtypes, batch, provider, classes, link, repeatability, rounding of the answers."""
    classifier = open_classifier(
        target,
        cast(Any, link),
        adapter=adapter,
        device=device,
        weights=weights,
        trust_pickle=trust_pickle,
        input=input,
        output=o.output_choice(output),
        hold=o.held(hold),
    )
    try:
        info = classifier.info
        inputs = check_inputs(_inputs(data, info.input_shape, info.dtype), info.input_shape)
        meter = Meter(classifier)
        seen = look(meter, inputs.x, info.dtype)
        facts = {**model_facts(classifier, seen), "link": link, "notes": [*info.notes, *seen.warnings()]}
    finally:
        classifier.close()
    if as_json:
        print(json.dumps(facts, indent=1, default=str))
        return
    _show(Console(), facts)


def _inputs(data: Path | None, shape: tuple[int | None, ...] | None, dtype: str) -> Inputs:
    if data is not None:
        return read_inputs(data)
    if shape is None or any(n is None for n in shape):
        raise DataError("the model leaves its input shape open; give inputs to ask with: --data x.npz")
    rng = np.random.default_rng(0)
    full = (3, *(int(n) for n in shape if n is not None))
    if np.dtype(dtype).kind in "iu":
        return Inputs(rng.integers(0, 128, full).astype(dtype), source="random")
    return Inputs(rng.random(full).astype(dtype), source="random")


def _show(console: Console, facts: dict[str, Any]) -> None:
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    seen = facts["preflight"]
    shape = facts["input_shape"]
    rows = {
        "model": facts["name"],
        "adapter": facts["adapter"],
        "device": facts["device"],
        "input shape": "open" if shape is None else "(" + ", ".join("any" if n is None else str(n) for n in shape) + ")",
        "input dtype": facts["dtype"],
        "classes": facts["classes"],
        "link": facts["link"],
        "repeated answers differ by": f"{seen['repeat_difference']:.3g}",
        "answers alone and in a batch differ by": f"{seen['batch_difference']:.3g}",
        "answers rounded to": f"{seen['output_quantum']:g}" if seen["output_quantum"] else "not rounded",
        **facts["details"],
    }
    for name, value in rows.items():
        table.add_row(name.replace("_", " "), str(value))
    console.print(table)
    for note in facts["notes"]:
        console.print(f"note: {note}", style="yellow", highlight=False, markup=False, soft_wrap=True)
