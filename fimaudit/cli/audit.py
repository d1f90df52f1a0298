"""``fimaudit audit``: measure a model over many inputs."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from fimaudit.audit_report import Report
from fimaudit.cli.console import progress_bar, show_report
from fimaudit.cli.data_flags import DataFlags, DomainFlags
from fimaudit.cli.flag_blocks import in_blocks
from fimaudit.cli.flag_values import one_of_two, query_count
from fimaudit.cli.flags import Budget, LinkName, Overwrite, Resume, Target
from fimaudit.cli.gate import apply_policy, show_verdict
from fimaudit.cli.measurement_flags import EngineFlags, MeasurementFlags, WhiteBoxFlags, YardstickFlags
from fimaudit.cli.model_flags import ModelFlags, SentFlags
from fimaudit.cli.output import OutputFlags, print_command, print_line
from fimaudit.cli.plan import may_send
from fimaudit.cli.resuming import resumable, resume_command
from fimaudit.cli.settings_file import SettingsFileFlags, save_settings
from fimaudit.cli.terminal import Terminal
from fimaudit.data.arrays import Inputs
from fimaudit.data.streams import Stream, first_size
from fimaudit.estimation.stopping import most_queries
from fimaudit.models.opening import is_endpoint
from fimaudit.policy.rules import read_policy
from fimaudit.policy.verdict import Verdict
from fimaudit.runs.auditing import audit as run_audit
from fimaudit.runs.options import MOST_LABELS

__all__ = ["audit"]

DATA_HELP = (
    "Inputs: .npz with x (and y, group), .npy, .csv or .parquet; or a folder, glob or URL (s3://) of such files, of images, "
    "or of WebDataset .tar."
)


@in_blocks
def audit(
    context: typer.Context,
    target: Target,
    data: Annotated[str, typer.Option("--data", help=DATA_HELP)],
    out: Annotated[Path, typer.Option("--out", help="Run folder for report.json and inputs.parquet.")],
    measurement: MeasurementFlags,
    table: DataFlags,
    domain: DomainFlags,
    model: ModelFlags,
    endpoint: SentFlags,
    engine: EngineFlags,
    white_box: WhiteBoxFlags,
    compared: YardstickFlags,
    settings: SettingsFileFlags,
    output: OutputFlags,
    link: LinkName = "auto",
    queries: Annotated[
        str,
        typer.Option(help="Rows an input, base row and checks included (see fimaudit plan); auto with --precision."),
    ] = "200",
    budget: Budget = None,
    count_refused: Annotated[
        bool,
        typer.Option(
            "--count-refused",
            help="Rows that were refused (429, 503) count against --budget too.",
            rich_help_panel=SentFlags.panel,
        ),
    ] = False,
    seed: Annotated[int, typer.Option(help="Directions depend on the seed and the input's index alone.")] = 0,
    policy: Annotated[
        Path | None, typer.Option(help="Rules decided at the end (fimaudit gate); exit 1 unless pass.")
    ] = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
) -> None:
    """Measure how violently a model's answer can change when its input changes a little.

    Reads the model's probabilities only; writes report.json and inputs.parquet to --out and prints a summary.
    """
    existing, asked = one_of_two(resume, overwrite), query_count(queries)
    if policy is not None:
        read_policy(policy)  # refuse a bad one before the first query
    inputs: Inputs | Stream | str = data
    if is_endpoint(target):
        inputs = table.read(data)
        _agree(target, inputs, asked, link, measurement, endpoint, yes=endpoint.yes or resume)
    if not resume:
        save_settings(context, settings.save_config)
    with resumable(out, resume_command()), progress_bar(shown=not output.silent) as progress:
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
    _finish(report, out, policy, budget, output)


def _agree(
    target: str,
    inputs: Inputs | Stream,
    queries: int | str,
    link: str,
    measurement: MeasurementFlags,
    endpoint: SentFlags,
    *,
    yes: bool,
) -> None:
    """Ask on a terminal whether so many rows may be sent."""
    m, labels = measurement, link == "labels"
    if isinstance(queries, str):
        queries = MOST_LABELS if labels else most_queries(m.precision, m.threshold, m.confidence, first_size(inputs))
    more = {"profile": m.profile, "witness": m.witness, "integrity": m.integrity, "labels": labels}
    if not may_send(target, inputs, queries, endpoint, m.batch, yes=yes, **more):
        raise typer.Exit(2)


def _finish(report: Report, out: Path, policy: Path | None, budget: int | None, output: OutputFlags) -> None:
    """Tell what was found, and end with 3 where inputs are missing and with 1 where a policy does not pass."""
    focused = report.data.get("focus") or {"measured": 0, "chosen": 0}
    whole = report.data["measured"] >= report.data["inputs"] and focused["measured"] >= focused["chosen"]
    verdict = apply_policy(out, policy) if policy is not None and whole else None

    def show() -> None:
        console = Terminal(highlight=False)
        show_report(console, report)
        print_line(console, f"run folder: {out}")
        if verdict is not None:
            show_verdict(console, verdict)

    output.write(lambda: _facts(report, out, verdict), show)
    if not whole:
        more = " (with a larger --budget)" if budget is not None else ""
        print_command(Terminal(stderr=True, highlight=False), "resume with: ", resume_command(), more)
        raise typer.Exit(3)
    if verdict is not None and verdict.outcome != "pass":
        raise typer.Exit(1)


def _facts(report: Report, out: Path, verdict: Verdict | None) -> dict[str, Any]:
    """The report but for its inputs, which lie in the run folder, and the verdict."""
    facts = report.model_dump(mode="json", by_alias=True, exclude={"inputs"})
    return {"folder": str(out), "report": facts, "verdict": verdict}
