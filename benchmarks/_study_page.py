"""The study as a page: docs/study.md with its tables and pictures, all of it from the cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks._study_cell import FLAG, FLAGGED_SHARE
from benchmarks._study_pictures import draw_pictures
from benchmarks._study_sections import FOLDER, SECTIONS, given_networks, limits_of_truth
from benchmarks._study_tables import name_of
from benchmarks._study_words import interval, spread_of, table

__all__ = ["COLUMNS", "write_page"]

Row = Mapping[str, Any]

#: The table that ``study.py --check`` reads back: every network on one line.
COLUMNS = (
    "network",
    "accuracy",
    "PGD",
    "CW",
    "AutoAttack",
    "robust at eps",
    "eps",
    "mean lambda",
    "median lambda",
    "peak",
    "radius",
    "perturbation",
    "bound L_z",
    "rank correlation of the radius",
    "flagged inputs",
)


def write_page(
    cells: Sequence[Row],
    rows: Sequence[Row],
    summary: Mapping[str, Any],
    machine: Mapping[str, str],
    command: str,
    planned: Sequence[str],
    folder: Path | None,
) -> str:
    """The page's text; with ``folder``, it and its pictures are written there as ``study.md`` and ``study/*.svg``."""
    own = [cell for cell in cells if cell["dataset"] != "given"]
    given = [cell for cell in cells if cell["dataset"] == "given"]
    parts = [_opening(own, given, summary, rows), _setting(cells, command, planned, summary)]
    if own:
        parts += [section(summary) for section in SECTIONS]
        parts += [_every_network(summary["networks"], rows, own), limits_of_truth(summary["attacks"])]
    if given:
        parts.append(given_networks(given, rows))
    parts.append("## Machine\n\n" + table(("", ""), list(machine.items())))
    page = "\n\n".join(parts) + "\n"
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        if own:
            draw_pictures(own, rows, summary, folder / FOLDER)
        (folder / "study.md").write_text(page, encoding="utf-8")
    return page


def _opening(own: Sequence[Row], given: Sequence[Row], summary: Mapping[str, Any], rows: Sequence[Row]) -> str:
    """What a reader may conclude and what not: the first ten lines."""
    radius = summary["headline"]["margin_radius"]
    schemes = summary["calibration"]["margin_radius"]["schemes"]
    errors = [e["points"] for e in schemes.get("a family", [])]
    off = "-" if not errors else f"{sorted(errors)[len(errors) // 2]:.1f}"
    real = sorted(r["spearman"] for r in rows if r["dataset"] == "given" and r["metric"] == "margin_radius")
    beside = f"\nOn {len(real)} networks that others trained: {real[0]:.2f} to {real[-1]:.2f}." if real else ""
    medium = "-" if radius["median"] is None else spread_of(radius, ".2f")
    return f"""# Does it predict vulnerability?

**You may conclude**: on small image networks like these {len(own)}, the radius from 200 queries, without derivatives, orders
the inputs of one network as attacks do (rank correlation {medium} in the median).{beside}
Robust accuracy at eps follows from radii alone within {off} points in the median of networks of a family held out.
lambda alone orders networks of unlike confidence badly; compare networks by the peak norm and the radius.
**You may not conclude**: anything about networks of ImageNet's size, deep transformers, text or tables; that a radius is a
bound (attacks find less than it for about half of the inputs); that bounds from weights rank trained networks; or that
these networks are fit for use: they are small, and trained for seconds on a part of public data."""


def _setting(cells: Sequence[Row], command: str, planned: Sequence[str], summary: Mapping[str, Any]) -> str:
    own = [cell for cell in cells if cell["dataset"] != "given"]
    sizes = own[0]["settings"] if own else {"inputs": 0, "queries": 0, "attacked": 0, "automatic": 0}
    there = {"-".join(str(cell[key]) for key in ("dataset", "model", "training", "seed")) for cell in cells}
    there |= {f"given-{cell['model']}" for cell in cells if cell["dataset"] == "given"}
    missing = [name for name in planned if name not in there]
    count = f"All {len(planned)} networks of this command are in the tables."
    if missing:
        count = (
            f"{len(planned) - len(missing)} of {len(planned)} networks of this command are in the tables. Not finished when "
            "this page was written, for want of time on two shared cores (the same command goes on with them): "
            f"{', '.join(missing)}."
        )
    failed = summary.get("not_learned", [])
    if failed:
        count += f" Left out of all but the table of every network, since they did not learn: {', '.join(failed)}."
    products = sorted({cell["product"] for cell in cells})
    data = sorted({cell["dataset"] for cell in own})
    source = (
        "PneumoniaMNIST: MedMNIST v2, Yang et al. 2023, doi:10.1038/s41597-022-01721-8, chest X-rays of Kermany et al.\n"
        "2018, CC BY 4.0; its file is given on the command line and is no part of this repository. Images of 64 x 64 are\n"
        "those of 28 x 28, resized; normal and pneumonia enter the training one to two.\n"
        if any("pneumonia" in name for name in data)
        else ""
    )
    return f"""## What was done

    {command}
    make study-check    # a small part again, compared with this page

Written by the first command, measured with the product at commit {", ".join(products) or "-"}.
Data: {", ".join(data) or "-"}.
{source}Families VGG, ResNet, DenseNet and ViT of `fimaudit.bounds.families`, sized to train in seconds (`--full` takes
torchvision's vgg16, resnet18, densenet121 and vit_b_16 at 224 x 224, 500 inputs and four seeds, for a GPU); trained plainly,
on PGD examples, on Carlini-Wagner examples and with `fisher_penalty`; a transformer three times as long, eps and weight
growing slowly. {sizes["inputs"]} test inputs a network, {sizes["queries"]} queries an input, black box. *Smallest
perturbation*: the least l2 length of a displacement within the bounds after which the network decides otherwise, over DDN on
every input and the library's PGD, Carlini-Wagner and DeepFool on the first {sizes["attacked"]}; AutoAttack runs on
{sizes["automatic"]}. A network *learned* when its accuracy, classes weighed equally, is more than halfway from chance to 1.
It is *flagged* when more than {FLAGGED_SHARE:.0%} of its inputs carry `{FLAG}`: a rule fixed
before the first run, which no attack enters. `fimaudit validate` (docs/validate.md) does the same for your own model.

{count}"""


def _every_network(networks: Sequence[Row], rows: Sequence[Row], cells: Sequence[Row]) -> str:
    """The paper's own table, and the radius beside it."""
    found = {(name_of(r), r["metric"]): r for r in rows}
    lines = []
    for n, cell in zip(networks, cells, strict=True):
        row = found[name_of(cell), "margin_radius"]
        shares = (f"{n[key]:.0%}" for key in ("pgd_accuracy", "cw_accuracy", "autoattack_accuracy", "robust_accuracy"))
        values = (
            "spectral_norm_mean",
            "spectral_norm_median",
            "peak_spectral_norm_median",
            "margin_radius_median",
            "smallest_perturbation_median",
            "lipschitz",
        )
        numbers = ("-" if n[key] is None else f"{n[key]:.3g}" for key in values)
        flags = sum(FLAG in of for of in cell["flags"])
        mark = f"{flags} of {len(cell['flags'])}{' (flagged)' if cell['flagged'] else ''}"
        order = interval((row["spearman"], row["lower"], row["upper"]))
        lines.append((name_of(cell), f"{n['accuracy']:.1%}", *shares, f"{n['eps']:g}", *numbers, order, mark))
    text = (
        "lambda from derivatives, peak norm and radius from 200 queries, medians over inputs but for the mean lambda. "
        "PGD, CW, AutoAttack: right, and not changed by it alone within eps; robust: by none."
    )
    return f"## Every network\n\n{text}\n\n{table(COLUMNS, lines)}"
