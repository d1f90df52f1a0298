"""``fimaudit audit``: measure a model over many inputs."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from fimaudit.cli import options as o
from fimaudit.cli.console import progress_bar, resumable, show_report
from fimaudit.cli.gate import apply_policy
from fimaudit.cli.plan import asked_of, confirm
from fimaudit.cli.yardsticks import YardstickFlags
from fimaudit.data.arrays import Inputs
from fimaudit.data.streams import Stream, first_size
from fimaudit.estimation.stopping import most_queries
from fimaudit.policy.rules import read_policy
from fimaudit.results import Report
from fimaudit.runs.auditing import audit as run_audit
from fimaudit.runs.cost import cost_of
from fimaudit.runs.options import MOST_LABELS

__all__ = ["audit"]

DATA_HELP = (
    "Inputs: .npz with x (and y, group), .npy, .csv or .parquet; or a folder, glob or URL (s3://) of such files, of images, "
    "or of WebDataset .tar."
)


@o.in_blocks
def audit(
    target: o.Target,
    data: Annotated[str, typer.Option("--data", help=DATA_HELP)],
    out: Annotated[Path, typer.Option("--out", help="Run folder for report.json and inputs.parquet.")],
    measurement: o.MeasurementFlags,
    table: o.DataFlags,
    domain: o.DomainFlags,
    model: o.ModelFlags,
    endpoint: o.SentFlags,
    engine: o.EngineFlags,
    white_box: o.WhiteBoxFlags,
    compared: YardstickFlags,
    link: o.LinkName = "auto",
    queries: Annotated[
        str,
        typer.Option(help="Rows an input, base row and checks included (see fimaudit plan); auto with --precision."),
    ] = "200",
    budget: o.Budget = None,
    count_refused: Annotated[
        bool,
        typer.Option(
            "--count-refused",
            help="Rows that were refused (429, 503) count against --budget too.",
            rich_help_panel=o.SentFlags.panel,
        ),
    ] = False,
    seed: Annotated[int, typer.Option(help="Directions depend on the seed and the input's index alone.")] = 0,
    policy: Annotated[
        Path | None, typer.Option(help="Rules decided at the end (fimaudit gate); exit 1 unless pass.")
    ] = None,
    resume: o.Resume = False,
    overwrite: o.Overwrite = False,
) -> None:
    """Measure how violently a model's answer can change when its input changes a little.

    Reads the model's probabilities only; writes report.json and inputs.parquet to --out and prints a summary.
    """
    existing, asked = o.one_of_two(resume, overwrite), o.query_count(queries)
    if policy is not None:
        read_policy(policy)  # refuse a bad one before the first query
    inputs: Inputs | Stream | str = data
    if o.is_endpoint(target):
        inputs = table.read(data)
        _agree(target, inputs, asked, link, measurement, endpoint, yes=endpoint.yes or resume)
    with resumable(out, o.resume_command()), progress_bar() as progress:
        report = run_audit(
            target,
            inputs,
            out=out,
            link=link,
            existing=existing,
            budget=budget,
            count_refused=count_refused,
            progress=progress,
            queries=asked,
            seed=seed,
            **{**asdict(measurement), "surrogate": measurement.surrogate or None},
            **table.options(),
            **domain.options(),
            **model.options(),
            **endpoint.options(),
            **asdict(engine),
            **asdict(white_box),
            **compared.options(),
        )
    _finish(report, out, policy, budget)


def _agree(
    target: str,
    inputs: Inputs | Stream,
    queries: int | str,
    link: str,
    measurement: o.MeasurementFlags,
    endpoint: o.SentFlags,
    *,
    yes: bool,
) -> None:
    """Ask on a terminal whether so many rows may be sent."""
    features = first_size(inputs)
    if isinstance(queries, str):
        queries = (
            MOST_LABELS
            if link == "labels"
            else most_queries(measurement.precision, measurement.threshold, measurement.confidence, features)
        )
    sent = asked_of(target, endpoint.options(), measurement.batch)
    cost = cost_of(
        max(1, len(inputs)),
        queries,
        features=features,
        batch=sent.batch,
        rate=sent.rate,
        price_per_row=endpoint.price_per_row,
        profile=measurement.profile,
        witness=measurement.witness,
        labels=link == "labels",
        integrity=measurement.integrity,
    )
    if not confirm(cost, yes=yes):
        raise typer.Exit(2)


def _finish(report: Report, out: Path, policy: Path | None, budget: int | None) -> None:
    """Show what was found, and end with 3 where inputs are missing and with 1 where a policy does not pass."""
    console = Console()
    show_report(console, report)
    console.print(f"run folder: {out}", highlight=False, soft_wrap=True)
    focused = report.data.get("focus") or {"measured": 0, "chosen": 0}
    if report.data["measured"] < report.data["inputs"] or focused["measured"] < focused["chosen"]:
        more = " (with a larger --budget)" if budget is not None else ""
        Console(stderr=True, highlight=False, soft_wrap=True).print(f"resume with: {o.resume_command()}{more}", markup=False)
        raise typer.Exit(3)
    if policy is not None and apply_policy(out, policy) != "pass":
        raise typer.Exit(1)
