"""``fimaudit compare``: models on the same inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from fimaudit.cli.console import limit_texts, number_text, plain_table, show_screen
from fimaudit.cli.data_flags import DataFlags, DomainFlags
from fimaudit.cli.flag_blocks import FlagBlock, in_blocks
from fimaudit.cli.flag_values import one_of_two, output_choice
from fimaudit.cli.flags import Device, ModeName, Overwrite, Resume, TrustPickle, Yes
from fimaudit.cli.output import OutputFlags, print_line
from fimaudit.cli.plan import asked_of, confirm
from fimaudit.cli.terminal import Terminal
from fimaudit.comparison.ranking import Ranking, rank_runs
from fimaudit.comparison.two_runs import Comparison, compare_runs
from fimaudit.data.arrays import Inputs
from fimaudit.data.streams import Stream, first_size
from fimaudit.errors import RunFolderError, UsageError
from fimaudit.models.opening import is_endpoint
from fimaudit.results import QUANTITY_TITLES, Metric
from fimaudit.runs.comparing import open_runs
from fimaudit.runs.cost import cost_of
from fimaudit.storage.durable_files import write_whole
from fimaudit.storage.run_folder import RunFolder, is_run

__all__ = ["compare"]

EACH = "Once for all models, or once for each in their order (- for none)."


@dataclass(frozen=True)
class EachModelFlags(FlagBlock):
    """How the models are opened."""

    panel = "Models"

    link: Annotated[
        list[str] | None,
        typer.Option("--link", help=f"Output to probabilities: auto, identity, softmax, sigmoid, or labels. {EACH}"),
    ] = None
    weights: Annotated[list[str] | None, typer.Option(help=f"Weights of a package.module:factory target. {EACH}")] = None
    endpoint: Annotated[list[str] | None, typer.Option(help=f"YAML file with an endpoint's settings. {EACH}")] = None
    output: Annotated[list[str] | None, typer.Option(help=f"Name or position of the output to read. {EACH}")] = None
    device: Device = None
    trust_pickle: TrustPickle = False

    def options(self, count: int) -> list[dict[str, Any]]:
        """As ``audit`` takes them, of each of so many models."""
        own: dict[str, Sequence[Any]] = {
            "link": [name or "auto" for name in _each(self.link, "--link", count)],
            "weights": _each(self.weights, "--weights", count),
            "endpoint": _each(self.endpoint, "--endpoint", count),
            "output": [output_choice(name) for name in _each(self.output, "--output", count)],
            "device": [self.device] * count,
            "trust_pickle": [self.trust_pickle] * count,
        }
        return [{name: values[k] for name, values in own.items() if values[k] is not None} for k in range(count)]


@in_blocks
def compare(
    context: typer.Context,
    targets: Annotated[list[str], typer.Argument(help="Run folders, or models with --data. The first is the reference.")],
    *,
    data: Annotated[Path | None, typer.Option("--data", help="Inputs for models that are not audited yet.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for the comparison (JSON and HTML) and the runs behind it.")
    ] = None,
    metric: Annotated[
        Metric,
        typer.Option(metavar="WORD", help="Rank three and more by margin_radius, peak_spectral_norm or spectral_norm."),
    ] = "margin_radius",
    queries: Annotated[int, typer.Option(help="Rows an input, for models that are not audited yet.")] = 200,
    mode: ModeName = "auto",
    budget: Annotated[int | None, typer.Option(help="Most rows that may be sent to each model.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the directions, the same for every model.")] = 0,
    resume: Resume = False,
    overwrite: Overwrite = False,
    yes: Yes = False,
    output: OutputFlags,
    models: EachModelFlags,
    table: DataFlags,
    domain: DomainFlags,
) -> None:
    """Compare two models, or rank more, on the same inputs, with intervals.

    Of run folders nothing is measured again. Models are audited first, under the same options but for --link, --weights,
    --endpoint and --output, which may be given once for each. Where they differ in more (secret headers, held inputs),
    audit each by fimaudit audit and compare the run folders.
    """
    if len(targets) < 2:
        raise UsageError(f"expected two run folders or models, or more, got {len(targets)}")
    existing = one_of_two(resume, overwrite)
    if all(is_run(target) for target in targets):
        _refuse_unused(context)
    common = {"queries": queries, "mode": mode, "budget": budget, "seed": seed, "existing": existing, **domain.options()}
    common |= table.options()
    each = [{**common, **own} for own in models.options(len(targets))]
    inputs = None if data is None else table.read(data)
    asked = [(t, own) for t, own in zip(targets, each, strict=True) if is_endpoint(t)]
    if not _agreed(asked, inputs, queries, yes=yes or resume):
        raise typer.Exit(2)
    runs = open_runs(list(targets), inputs, out, each)
    found = compare_runs(*runs) if len(runs) == 2 else rank_runs(runs, metric)
    files = [] if out is None else _written(out, runs, found)
    output.write(lambda: found, lambda: _show(Terminal(highlight=False), found, files))


def _written(out: Path, runs: Sequence[RunFolder], found: Comparison | Ranking) -> list[Path]:
    """The files of what was found: data, and a page."""
    from fimaudit.report.page import render_comparison
    from fimaudit.report.ranking_page import ranking_html

    name = "comparison" if isinstance(found, Comparison) else "ranking"
    file, page = out / f"{name}.json", out / f"{name}.html"
    write_whole(file, found.to_json().encode(), RunFolderError)
    if isinstance(found, Comparison):
        render_comparison(found, runs[0], runs[1], page)
    else:
        write_whole(page, ranking_html(found, runs[0].report.environment).encode(), RunFolderError)
    return [file, page]


#: What has a meaning for run folders too.
OF_RUNS = ("targets", "out", "metric", "json", "quiet")


def _refuse_unused(context: typer.Context) -> None:
    """Options of an audit where nothing is audited would be passed over in silence."""
    given = [
        parameter.opts[-1]
        for parameter in context.command.params
        if parameter.name not in OF_RUNS
        and parameter.name is not None
        and str(getattr(context.get_parameter_source(parameter.name), "name", "")) == "COMMANDLINE"
    ]
    if given:
        raise UsageError(f"{', '.join(given)} cannot be used: every target is a finished run, so nothing is measured")


def _each(values: Sequence[str] | None, flag: str, count: int) -> list[str | None]:
    """One value a target, from none, one for all, or one for each."""
    if not values:
        return [None] * count
    if len(values) not in (1, count):
        raise UsageError(f"expected {flag} once, or once for each of the {count} targets, got it {len(values)} times")
    spread = list(values) * count if len(values) == 1 else list(values)
    return [None if value == "-" else value for value in spread]


def _agreed(
    endpoints: Sequence[tuple[str, Mapping[str, Any]]], inputs: Inputs | Stream | None, queries: int, *, yes: bool
) -> bool:
    """Whether rows may be sent to endpoints, asked once on a terminal."""
    if not endpoints or inputs is None:
        return True
    features = first_size(inputs)
    own = [{name: said[name] for name in ("endpoint",) if name in said} for _, said in endpoints]
    batch = min(asked_of(target, said, None).batch for (target, _), said in zip(endpoints, own, strict=True))
    return confirm(cost_of(max(1, len(inputs)) * len(endpoints), queries, features=features, batch=batch), yes=yes)


def _show(console: Console, found: Comparison | Ranking, files: Sequence[Path]) -> None:
    show_screen(console, found)
    if isinstance(found, Comparison):
        _show_ratios(console, found)
    if files:
        print_line(console, f"written: {', '.join(map(str, files))}")


def _show_ratios(console: Console, c: Comparison) -> None:
    table = plain_table(None, "ratio of", "", "value", "these inputs", "population")
    for name, q in c.quantities.items():
        for place, (which, r) in enumerate(q.ratios.items()):
            title = QUANTITY_TITLES[name] if place == 0 else ""
            limits = (" to ".join(limit_texts(of)) for of in (r.these_inputs, r.population))
            table.add_row(title, which, number_text(r.these_inputs.value), *limits)
    console.print()
    console.print(table)
