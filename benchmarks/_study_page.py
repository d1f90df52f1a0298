"""The study as a page: docs/study.md with its tables and pictures, all of it from the cells."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._study_calibration import LABELLED
from benchmarks._study_cell import FLAG, FLAGGED_SHARE
from benchmarks._study_pictures import draw_pictures
from benchmarks._study_prediction import HELD_OUT_DATA, LEADING, WANTED, reached
from benchmarks._study_sections import SECTIONS
from benchmarks._study_tables import name_of
from benchmarks._study_words import FOLDER, WORDS, interval, median_of, spread_of, table

__all__ = ["COLUMNS", "write_page"]

Row = Mapping[str, Any]

#: The table that ``study.py --check`` reads back: every network on one line.
COLUMNS = (
    "network",
    "accuracy",
    "PGD",
    "AutoAttack, first inputs",
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
        parts += [_every_network(summary["networks"], rows, own), _limits_of_truth(summary["attacks"])]
    if given:
        parts.append(_given_networks(given, rows))
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
    alone, walked, scaled, labels = (_against_wanted(*reached(summary)[name]) for name in LEADING)
    whole = reached(summary, HELD_OUT_DATA)
    apart = ", ".join("-" if np.isnan(whole[name][0]) else f"{whole[name][0]:.1f}" for name in LEADING)
    nearer = [
        found < at
        for cell in own
        for found, at in zip(cell["attacks"]["distance"], cell["readings"]["margin_radius"], strict=True)
        if found and at
    ]
    below = f"{sum(nearer) / len(nearer):.0%}" if nearer else "-"
    real = sorted(r["spearman"] for r in rows if r["dataset"] == "given" and r["metric"] == "margin_radius")
    beside = f"\nOn {len(real)} networks that others trained: {real[0]:.2f} to {real[-1]:.2f}." if real else ""
    medium = "-" if radius["median"] is None else spread_of(radius, ".2f")
    return f"""# Does it predict vulnerability?

**You may conclude**: on small image networks like these {len(own)}, the radius from 200 queries, without derivatives, orders
the inputs of one network as attacks do (rank correlation {medium} in the median).{beside}
Robust accuracy without an attack, at the deciles of a network's radii (at fixed eps), {WANTED:g} points wanted in the median
of networks held out: from radii alone {alone}; with the same audit's counterexamples {walked};
with labels of {LABELLED} inputs too {scaled}; from radii from labels {labels}. A data set held out: {apart}.
Compare networks by the peak norm and the radius: lambda mixes sensitivity with confidence.
**You may not conclude**: anything about networks of ImageNet's size, deep transformers, text or tables; that a radius is a
bound (attacks find less than it for {below} of the inputs); that bounds from weights rank trained networks; or that
these networks are fit for use: they are small, and trained for seconds on a part of public data."""


def _against_wanted(deciles: float, fixed: float) -> str:
    """``4.6, met (5.9, not met)``: the error at deciles and at fixed eps, and whether it is as small as was wanted."""
    if np.isnan(deciles):
        return "-"
    at, beside = (f"{value:.1f}, {'met' if value <= WANTED else 'not met'}" for value in (deciles, fixed))
    return f"{at} ({beside})"


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
            f"{_grouped(missing)}."
        )
    failed = summary.get("not_learned", [])
    if failed:
        count += f" Left out of all but the table of every network, since they did not learn: {', '.join(failed)}."
    products = Counter(cell["product"] for cell in cells).most_common()
    by = ", ".join(name if len(products) == 1 else f"{name} ({count_of} networks)" for name, count_of in products)
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

Written by the first command, measured with the product at commit {by or "-"}.
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


def _grouped(names: Sequence[str]) -> str:
    """Networks' names with those of one data set, training and seed together."""
    groups: dict[str, list[str]] = {}
    for name in names:
        dataset, _, rest = name.partition("-")
        model, training, seed = rest.split("-") if dataset != "given" else (rest, "given", "")
        groups.setdefault(" ".join(filter(None, (dataset, training if seed else "", seed))), []).append(model)
    return "; ".join(f"{group} ({', '.join(models)})" for group, models in groups.items())


def _every_network(networks: Sequence[Row], rows: Sequence[Row], cells: Sequence[Row]) -> str:
    """The paper's own table, and the radius beside it."""
    found = {(name_of(r), r["metric"]): r for r in rows}
    lines = []
    for n, cell in zip(networks, cells, strict=True):
        row = found[name_of(cell), "margin_radius"]
        shares = (f"{n[key]:.0%}" for key in ("pgd_accuracy", "autoattack_accuracy", "robust_accuracy"))
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
        "PGD, AutoAttack: right, and not changed by it alone within eps; robust: right, and nothing smaller than eps found."
    )
    return f"## Every network\n\n{text}\n\n{table(COLUMNS, lines)}"


def _limits_of_truth(attacks: Row) -> str:
    """How far the smallest perturbations can be believed."""
    low, middle, high = attacks["over_ddn"]
    near, half, far = attacks["hopskipjump_over"]
    by = ", ".join(f"{name} {count}" for name, count in attacks["smallest_by"].items())
    return f"""## How good the truth is

AutoAttack changed {attacks["autoattack_nearer"]} of {attacks["autoattack"]} decisions within an eps below our smallest
perturbation (where it does, the truth is too large). {attacks["censored"]} of {attacks["inputs"]} inputs are censored (no
attack changed the decision: left out of correlations, counted as robust, never 0). The smallest came from: {by}.
Each input is attacked by DDN (`benchmarks/_ddn.py`); the first ones of each network also by PGD, Carlini-Wagner and DeepFool
of the library (adversarial-robustness-toolbox), each nearest row asked again alone and among others. Their smallest over
DDN's, on {attacks["library"]} inputs: median {middle} (5 % to 95 %: {low} to {high}). AutoAttack is the library's, with a
tenth of its standard steps. HopSkipJump, which sees decisions alone, ends at {half} times the truth in the median of
{attacks["hopskipjump"]} inputs (10 % to 90 %: {near} to {far})."""


def _given_networks(cells: Sequence[Row], rows: Sequence[Row]) -> str:
    """Real networks with known smallest perturbations."""
    found = {(name_of(r), r["metric"]): r for r in rows}
    chosen = (
        "margin_radius",
        "margin_radius_white",
        "label_radius",
        "peak_spectral_norm",
        "spectral_norm",
        "rayleigh_max",
        "great_score",
        "local_lipschitz",
    )
    lines = [
        (
            cell["model"],
            *(interval([found[name_of(cell), m][k] for k in ("spearman", "lower", "upper")]) for m in chosen),
            median_of({"median": found[name_of(cell), "margin_radius"]["ratio"]}),
            ", ".join("-" if r is None else f"{r:.2f}" for r in cell["black_box_ratio"]),
            "flagged" if cell["flagged"] else "",
        )
        for cell in cells
    ]
    head = ("network", *(WORDS[m] for m in chosen), "radius / perturbation", "HopSkipJump and Square / perturbation", "")
    return f"""## Real networks with known smallest perturbations

Networks that others trained, as ONNX files with 30 real inputs each and known smallest perturbations (`--models`), measured
from probabilities alone: CLEVER and the other baselines that need derivatives cannot be had. The known perturbations are
upper limits.

{table(head, lines)}"""
