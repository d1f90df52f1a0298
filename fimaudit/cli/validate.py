"""``fimaudit validate``: attack the inputs of an audit and see whether the metric predicted it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from fimaudit.cli.console import limits_text, number_text, plain_table, progress_bar, show_screen
from fimaudit.cli.data_flags import DataFlags, DomainFlags
from fimaudit.cli.flag_blocks import in_blocks
from fimaudit.cli.flag_values import one_of_two
from fimaudit.cli.flags import Batch, Budget, Confidence, Data, LinkName, ModeName, Overwrite, Resume, Target
from fimaudit.cli.model_flags import ModelFlags, SentFlags
from fimaudit.cli.output import OutputFlags, print_line
from fimaudit.cli.plan import may_send
from fimaudit.cli.resuming import resumable, resume_command
from fimaudit.cli.settings_file import SettingsFileFlags, save_settings
from fimaudit.cli.terminal import Terminal
from fimaudit.data.streams import WHOLE_BYTES, Stream
from fimaudit.errors import UsageError
from fimaudit.models.normalising import read_normalize
from fimaudit.models.opening import is_endpoint
from fimaudit.results import Interval
from fimaudit.validation import Validation
from fimaudit.validation import validate as run_validate
from fimaudit.validation.validating import ATTACK_ROWS

__all__ = ["validate"]


@in_blocks
def validate(
    context: typer.Context,
    target: Target,
    data: Data,
    out: Annotated[Path, typer.Option("--out", help="Run folder: the audit's files, validation.json, calibration.svg.")],
    table: DataFlags,
    domain: DomainFlags,
    model: ModelFlags,
    endpoint: SentFlags,
    settings: SettingsFileFlags,
    output: OutputFlags,
    attacks: Annotated[
        str, typer.Option(help="auto, or names between commas: deepfool,carlini-wagner,pgd,hopskipjump,square.")
    ] = "auto",
    attack_rows: Annotated[int, typer.Option(help="Rows, both ways, that the attacks on one input may take.")] = ATTACK_ROWS,
    eps: Annotated[
        list[float] | None,
        typer.Option("--eps", help="Say how well inputs flipped within it are recognised. Repeatable."),
    ] = None,
    queries: Annotated[int, typer.Option(help="Rows an input of the measurement, base row included.")] = 200,
    mode: ModeName = "black-box",
    link: LinkName = "auto",
    confidence: Confidence = 0.95,
    seed: Annotated[int, typer.Option(help="Of directions, attacks and bootstrap.")] = 0,
    budget: Budget = None,
    batch: Batch = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
) -> None:
    """Check on your own model whether the metric predicts vulnerability: attack each input and correlate.

    Attacks are those of adversarial-robustness-toolbox: fimaudit's extra "attacks". Every row counts.
    """
    one_of_two(resume, overwrite)
    names = "auto" if attacks == "auto" else [name.strip() for name in attacks.split(",") if name.strip()]
    inputs, normalise = table.read(data), read_normalize(None, table.mean, table.std)
    before: dict[str, Any] = {} if normalise is None else {"normalise": normalise}
    if isinstance(inputs, Stream):
        raise UsageError(
            f"expected one file of at most {WHOLE_BYTES // 2**20} MiB to attack, got {data}; give a sample of it"
        )
    yes = endpoint.yes or resume
    if is_endpoint(target) and not may_send(target, inputs, queries + attack_rows, endpoint, batch, yes=yes):
        raise typer.Exit(2)
    if not resume:
        save_settings(context, settings.save_config)
    with resumable(out, resume_command()), progress_bar(shown=not output.silent) as progress:
        validation = run_validate(
            target,
            inputs,
            out=out,
            link=link,
            queries=queries,
            mode=mode,
            attacks=names,
            attack_rows=attack_rows,
            eps=eps or (),
            confidence=confidence,
            seed=seed,
            budget=budget,
            batch=batch,
            resume=resume,
            overwrite=overwrite,
            progress=progress,
            classes=table.classes,
            **before,
            **domain.options(),
            **model.options(),
            **endpoint.options(),
        )
    output.write(lambda: validation, lambda: _show(Terminal(highlight=False), validation, out))
    if len(validation.inputs) < validation.data["inputs"] or validation.attacked == 0:
        raise typer.Exit(3)


def _show(console: Console, v: Validation, out: Path) -> None:
    """What was found, then how well a small radius predicts what is flipped within a distance."""
    show_screen(console, v)
    if v.flipped:
        percent = f"{100 * v.settings['confidence']:g} % interval"
        table = plain_table(None, "flipped within", "AUC", percent, "flipped", "not")
        for f in v.flipped:
            cells = (number_text(f.auc.value), _limits(f.auc), str(f.flipped), str(f.not_flipped))
            table.add_row(f"{f.eps:g}", *cells)
        console.print()
        console.print(table)
    print_line(console, f"run folder: {out}")


def _limits(interval: Interval) -> str:
    return "" if interval.value is None else limits_text(interval)
