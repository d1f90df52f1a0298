"""``fimaudit plan``: what an audit will ask, take and cost, before a single query."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from fimaudit.cli.data_flags import TableFlags
from fimaudit.cli.flag_blocks import in_blocks
from fimaudit.cli.flag_values import held
from fimaudit.cli.flags import Hold
from fimaudit.cli.model_flags import SentFlags
from fimaudit.cli.output import OutputFlags, print_line
from fimaudit.cli.terminal import Terminal
from fimaudit.data.arrays import Inputs
from fimaudit.data.dataset import hold_by_input
from fimaudit.data.streams import Stream, first_size
from fimaudit.errors import UsageError
from fimaudit.measurement.integrity_cost import AMONG_ROWS, TYPICAL_ROWS, looks_at_integrity
from fimaudit.models.classifier import Options
from fimaudit.runs.cost import Cost, cost_of, per_second
from fimaudit.runs.planning import Plan
from fimaudit.runs.planning import plan as plan_audit
from fimaudit.runs.proposal import Purpose

__all__ = ["asked_of", "confirm", "may_send", "plan"]


@in_blocks
def plan(
    output: OutputFlags,
    table: TableFlags,
    target: Annotated[
        str | None, typer.Argument(help="Endpoint to plan for, a URL or an endpoint file: its batch, rate and format count.")
    ] = None,
    data: Annotated[str | None, typer.Option("--data", help="Inputs: gives their number and features.")] = None,
    hold: Hold = None,
    inputs: Annotated[int | None, typer.Option(help="Number of inputs; those of --data when left out.")] = None,
    features: Annotated[int | None, typer.Option(help="Numbers in one input; those of --data when left out.")] = None,
    classes: Annotated[int, typer.Option(help="Number of classes.")] = 10,
    queries: Annotated[int, typer.Option(help="Rows an input, base row included.")] = 200,
    purpose: Annotated[
        Purpose | None,
        typer.Option("--for", metavar="WORD", help="Propose inputs x queries for: mean, p95, max, compare or threshold."),
    ] = None,
    budget: Annotated[int | None, typer.Option(help="Most rows to spend; needed with --for.")] = None,
    batch: Annotated[int | None, typer.Option(help="Rows a request; the endpoint's, or 100, when left out.")] = None,
    rate: Annotated[str | None, typer.Option(help="Requests that the endpoint allows: 20/s, 100/min, 5000/h.")] = None,
    seconds_per_request: Annotated[float | None, typer.Option(help="How long one request takes.")] = None,
    concurrency: Annotated[int | None, typer.Option(help="Requests at once; the endpoint's, or 8, when left out.")] = None,
    price_per_row: Annotated[float | None, typer.Option(help="Price of one row, in any currency.")] = None,
    price_per_request: Annotated[float | None, typer.Option(help="Price of one request.")] = None,
    confidence: Annotated[float, typer.Option(help="Of each interval.")] = 0.95,
    binary: Annotated[bool, typer.Option("--binary", help="Count bytes for binary tensors rather than JSON.")] = False,
    labels: Annotated[bool, typer.Option("--labels", help="Of an audit from labels alone (--link labels).")] = False,
) -> None:
    """Show rows, requests, bytes, time, money and the interval to expect; sends nothing."""
    audited = None if data is None else hold_by_input(table.read(data), held(hold))[0]
    found_inputs, found_features = _shape(audited, inputs, features)
    said = {name: value for name, value in (("rate", rate), ("concurrency", concurrency)) if value is not None}
    asked = SendingFacts(batch or 100, None if rate is None else per_second(rate), concurrency or 8, 0.0)
    if target is not None:
        asked = asked_of(target, {"endpoint": [said]} if said else {}, batch)
    planned = plan_audit(
        found_inputs,
        features=found_features,
        classes=classes,
        queries=queries,
        purpose=purpose,
        budget=budget,
        batch=asked.batch,
        rate=asked.rate,
        seconds_per_request=seconds_per_request,
        concurrency=asked.concurrency,
        price_per_row=price_per_row,
        price_per_request=price_per_request,
        confidence=confidence,
        binary=binary,
        labels=labels,
    )
    notes = [] if target is None else [f"An outage of up to {_time(asked.patience)} is waited out (--patience)."]
    if not labels and looks_at_integrity(None, planned.inputs, planned.queries):
        notes.append(
            f"About {TYPICAL_ROWS} of the rows check integrity, {AMONG_ROWS} of them among the inputs' rows (--integrity)."
        )
    if planned.within_budget is False:
        notes.append(f"The budget of {budget:,} rows does not reach; the run would end with a partial report.")
    quantity = "margin radius" if labels else "spectral norm"
    output.write(lambda: asdict(planned), lambda: _show(Terminal(), planned, confidence, quantity, notes))


def confirm(cost: Cost, *, yes: bool = False) -> bool:
    """Ask whether to go on with a run of this cost, on a terminal only; elsewhere, or with ``yes``, go on."""
    if yes or not (sys.stdin.isatty() and sys.stderr.isatty()):
        return True
    price = f", {cost.money:,.2f} in money at most" if cost.money is not None else ""
    rows = f"about {cost.expected:,} rows ({cost.rows:,} at most, in up to {cost.requests:,} requests)"
    return typer.confirm(f"Send {rows}{price}?", err=True)


def may_send(
    target: str, inputs: Inputs | Stream, rows: int, endpoint: SentFlags, batch: int | None, *, yes: bool, **of_audit: Any
) -> bool:
    """Whether so many rows an input may be sent to an endpoint, asked on a terminal; ``of_audit`` as for ``cost_of``."""
    sent = asked_of(target, endpoint.options(), batch)
    cost = cost_of(
        max(1, len(inputs)), rows, features=first_size(inputs), batch=sent.batch, rate=sent.rate,
        price_per_row=endpoint.price_per_row, **of_audit,
    )  # fmt: skip
    return confirm(cost, yes=yes)


@dataclass(frozen=True)
class SendingFacts:
    """How an endpoint is asked, as far as a plan depends on it: its file and flags over each other.

    Attributes:
        batch: rows a request.
        rate: requests a second, ``None`` for no limit.
        concurrency: requests at once.
        patience: seconds of an outage that are waited out.
    """

    batch: int
    rate: float | None
    concurrency: int
    patience: float


def asked_of(target: str, options: Mapping[str, Any], batch: int | None) -> SendingFacts:
    """What is said of an endpoint; nothing is sent.

    Args:
        target: a URL or an endpoint file.
        options: of the flags (``SentFlags.options``).
        batch: rows a request, where they were said beside these.

    Raises:
        UsageError: it is neither.
        TargetError: the settings contradict themselves.
    """
    from fimaudit_adapters.http import ADAPTER
    from fimaudit_adapters.http.endpoint_file import read_endpoint

    if "://" not in target and not ADAPTER.accepts(target):
        raise UsageError(f"expected a URL or an endpoint file, got {target!r}; for a model on this machine leave it out")
    extra = {**options, **({} if batch is None else {"batch": batch})}
    endpoint = read_endpoint(target, Options(extra=extra))
    rows = endpoint.batch or 100
    most = endpoint.rows_a_request
    return SendingFacts(rows if most is None else min(rows, most), endpoint.rate, endpoint.concurrency, endpoint.patience)


def _shape(data: Inputs | Stream | None, inputs: int | None, features: int | None) -> tuple[int | None, int]:
    if data is not None:
        inputs = len(data) if inputs is None else inputs
        features = first_size(data) if features is None else features
    if features is None:
        raise UsageError("say how many numbers an input has: --data x.npz or --features N")
    return inputs, features


def _show(console: Console, planned: Plan, confidence: float, quantity: str, notes: Sequence[str]) -> None:
    cost, expected, proposed = planned.cost, planned.interval, planned.proposal
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_row("inputs x queries", f"{planned.inputs:,} x {planned.queries:,}")
    if proposed is not None and proposed.again:
        table.add_row("largest again", f"10 x {proposed.again:,}")
    table.add_row(
        "rows",
        f"about {cost.expected:,}, {cost.rows:,} at most (pilot and checks included; retries and refused batches not)",
    )
    alone = ", or as many as rows where those of a request move each other's answers" if cost.requests < cost.rows else ""
    table.add_row("requests", f"{cost.requests:,}{alone}")
    table.add_row("bytes", f"{cost.bytes / 2**20:,.1f} MiB")
    table.add_row("time", "unknown: give --rate or --seconds-per-request" if cost.seconds is None else _time(cost.seconds))
    if cost.money is not None:
        table.add_row("price", f"{cost.money:,.2f}")
    table.add_row(
        f"{confidence:.0%} interval", f"{expected.lower:.2f} to {expected.upper:.2f} times the {quantity} of an input"
    )
    if proposed is not None and proposed.standard_error is not None:
        table.add_row(f"error of the {proposed.purpose}", f"about {proposed.standard_error:.1%}")
    console.print(table)
    if proposed is not None:
        print_line(console, proposed.reason + ".")
    for note in notes:
        print_line(console, note)


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
