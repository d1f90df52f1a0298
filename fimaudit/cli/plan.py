"""``fimaudit plan``: what an audit will ask, take and cost, before a single query."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, cast

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from fimaudit.data.arrays import read_inputs
from fimaudit.errors import UsageError
from fimaudit.runs.planning import PURPOSES, Cost, Expected, Proposal, cost_of, expected_interval, proposal

__all__ = ["confirm", "per_second", "plan"]


def plan(
    data: Annotated[Path | None, typer.Option("--data", help="Inputs: gives their number and features.")] = None,
    inputs: Annotated[int | None, typer.Option(help="Number of inputs; those of --data when left out.")] = None,
    features: Annotated[int | None, typer.Option(help="Numbers in one input; those of --data when left out.")] = None,
    classes: Annotated[int, typer.Option(help="Number of classes.")] = 10,
    queries: Annotated[int, typer.Option(help="Rows an input, base row included.")] = 200,
    purpose: Annotated[
        str | None, typer.Option("--for", help=f"Question to propose inputs x queries for: {', '.join(PURPOSES)}.")
    ] = None,
    budget: Annotated[int | None, typer.Option(help="Most rows to spend; needed with --for.")] = None,
    batch: Annotated[int, typer.Option(help="Rows a request.")] = 100,
    rate: Annotated[str | None, typer.Option(help="Requests that the endpoint allows: 20/s, 100/min, 5000/h.")] = None,
    seconds_per_request: Annotated[float | None, typer.Option(help="How long one request takes.")] = None,
    concurrency: Annotated[int, typer.Option(help="Requests at once.")] = 8,
    price_per_row: Annotated[float | None, typer.Option(help="Price of one row, in any currency.")] = None,
    price_per_request: Annotated[float | None, typer.Option(help="Price of one request.")] = None,
    confidence: Annotated[float, typer.Option(help="Of each interval.")] = 0.95,
    binary: Annotated[bool, typer.Option("--binary", help="Count bytes for binary tensors rather than JSON.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the plan as JSON.")] = False,
) -> None:
    """Show rows, requests, bytes, time, money and the interval to expect; sends nothing."""
    found_inputs, found_features = _shape(data, inputs, features)
    proposed: Proposal | None = None
    if purpose is not None:
        if budget is None:
            raise UsageError("--for needs --budget: the rows that may be spent")
        proposed = proposal(cast(Any, purpose), budget, available=found_inputs)
        found_inputs, queries = proposed.inputs, proposed.queries
    if found_inputs is None:
        raise UsageError("say how many inputs: --data x.npz, --inputs N, or --for with --budget")
    cost = cost_of(
        found_inputs,
        queries,
        features=found_features,
        classes=classes,
        batch=batch,
        encoding="binary" if binary else "json",
        rate=per_second(rate),
        seconds_per_request=seconds_per_request,
        concurrency=concurrency,
        price_per_row=price_per_row,
        price_per_request=price_per_request,
        rows=proposed.rows if proposed is not None else None,
    )
    expected = expected_interval(queries, confidence)
    facts: dict[str, Any] = {
        "inputs": found_inputs,
        "queries": queries,
        "cost": asdict(cost),
        "interval": asdict(expected),
        "proposal": asdict(proposed) if proposed is not None else None,
        "within_budget": None if budget is None else (proposed.rows if proposed is not None else cost.rows) <= budget,
    }
    if as_json:
        print(json.dumps(facts, indent=1))
        return
    _show(Console(), found_inputs, queries, cost, expected, proposed, confidence)
    if facts["within_budget"] is False:
        Console().print(
            f"[bold]The budget of {budget:,} rows does not reach[/bold]; the run would end with a partial report."
        )


def confirm(cost: Cost, *, yes: bool = False) -> bool:
    """Ask whether to go on with a run of this cost, on a terminal only; elsewhere, or with ``yes``, go on."""
    if yes or not (sys.stdin.isatty() and sys.stderr.isatty()):
        return True
    price = f", {cost.money:,.2f} in money" if cost.money is not None else ""
    return typer.confirm(f"Send about {cost.rows:,} rows in {cost.requests:,} requests{price}?", err=True)


def per_second(rate: str | None) -> float | None:
    """``20/s``, ``100/min``, ``5000/h`` to requests a second.

    >>> per_second("120/min")
    2.0
    """
    if rate is None:
        return None
    number, _, unit = rate.partition("/")
    seconds = {"": 1.0, "s": 1.0, "sec": 1.0, "second": 1.0, "min": 60.0, "minute": 60.0, "h": 3600.0, "hour": 3600.0}
    try:
        value = float(number) / seconds[unit.strip()]
    except (ValueError, KeyError):
        raise UsageError(f"expected a rate like 20/s, 100/min or 5000/h, got {rate!r}") from None
    if not value > 0:
        raise UsageError(f"expected a rate above 0, got {rate!r}")
    return value


def _shape(data: Path | None, inputs: int | None, features: int | None) -> tuple[int | None, int]:
    if data is not None:
        x = read_inputs(data).x
        inputs = len(x) if inputs is None else inputs
        features = int(np.prod(x.shape[1:])) if features is None else features
    if features is None:
        raise UsageError("say how many numbers an input has: --data x.npz or --features N")
    return inputs, features


def _show(
    console: Console, inputs: int, queries: int, cost: Cost, expected: Expected, proposed: Proposal | None, confidence: float
) -> None:
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_row("inputs x queries", f"{inputs:,} x {queries:,}")
    if proposed is not None and proposed.again:
        table.add_row("largest again", f"10 x {proposed.again:,}")
    table.add_row("rows", f"{cost.rows:,} at most (pilot and checks included; retries and refused batches not)")
    table.add_row("requests", f"{cost.requests:,}")
    table.add_row("bytes", f"{cost.bytes / 2**20:,.1f} MiB")
    table.add_row("time", "unknown: give --rate or --seconds-per-request" if cost.seconds is None else _time(cost.seconds))
    if cost.money is not None:
        table.add_row("price", f"{cost.money:,.2f}")
    table.add_row(
        f"{confidence:.0%} interval", f"{expected.lower:.2f} to {expected.upper:.2f} times the spectral norm of an input"
    )
    if proposed is not None and proposed.standard_error is not None:
        table.add_row(f"error of the {proposed.purpose}", f"about {proposed.standard_error:.1%}")
    console.print(table)
    if proposed is not None:
        console.print(proposed.reason + ".")


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
