"""Does the metric predict vulnerability? Ours and every baseline against the smallest perturbation that attacks find.

    python benchmarks/study.py --medmnist FILE.npz --models DIR --docs docs   # the study; goes on where it was stopped
    python benchmarks/study.py --tables-only --docs docs                      # the page from the cells that are there
    python benchmarks/study.py --smallest                                     # one small cell, about a minute
    python benchmarks/study.py --check docs/study.md                          # a small part again, against the page
    python benchmarks/study.py --full --device cuda --medmnist FILE.npz       # the paper's networks and sizes, on a GPU

Cells are data set x architecture x training x seed, one file each in --out: a finished cell is not measured again.
scikit-learn's digits and breast cancer are always there; MedMNIST files (--medmnist; grey ones of 28 x 28 also resized
to 64 x 64), CIFAR-10 (--cifar10 FOLDER, its binary version) and a folder of ONNX networks with known smallest
perturbations (--models) where you have them. Nothing is downloaded.

JSON (--json): cells (dataset, model, training, seed, metric, spearman, lower, upper, ratio, inputs, cost), networks,
headline, machine.
"""

from __future__ import annotations

import sys
from pathlib import Path

# The root instead of this folder, whose http.py would hide the standard library's.
sys.path[0] = str(Path(__file__).resolve().parent.parent)

# ruff: noqa: E402
import argparse
import json
import math
import platform
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import version
from typing import Any

import numpy as np
import torch

from benchmarks._study_cell import Sizes, is_flagged, measure_network, metrics_of
from benchmarks._study_check import CHECKED, compare_with_page, read_page
from benchmarks._study_data import Split, balanced_part, breast_cancer, cifar10, digits, features_of, medmnist, resized
from benchmarks._study_folder import folder_models, measure_folder_model
from benchmarks._study_page import write_page
from benchmarks._study_tables import summarise
from benchmarks._study_training import ARCHITECTURES, PUBLISHED, PUBLISHED_SIDE, TRAININGS, Recipe, trained
from fimaudit.engines.driver import small_algebra

__all__ = ["Cell", "check", "main", "run_cell"]

#: How each data set is trained on. A part of the training images of the large ones: the study is for two cores.
RECIPES = {"digits": Recipe(12, 0.8, 3, 1.0), "breast_cancer": Recipe(20, 0.5, 3, 0.1)}
OTHERS = Recipe(9, 0.5, 3, 1.0)
#: Images of 64 x 64: the same change of each pixel is as much longer as the side.
LARGER, LARGER_RECIPE = 64, Recipe(9, 1.1, 3, 1.0)
PART = 3_000
#: When (training, seed) has its turn: a study that is stopped early answers its questions on less.
TURNS = {("plain", 0): 0, ("pgd", 0): 0, ("fisher", 0): 1, ("plain", 1): 1, ("pgd", 1): 2, ("cw", 0): 2}
#: The published grid: PGD of 20 steps within 8 levels of 255, 500 inputs, four seeds.
FULL, FULL_INPUTS, FULL_SEEDS = Recipe(20, 8 / 255, 20, 1.0, rate=1e-3, norm="linf"), 500, 4
#: Of the smallest cell, and of the part that is run again to check the page.
SMALLEST = Sizes(inputs=8, clever=2, attacked=2, automatic=4, labelled=2, labels=200, repeated=4, walked=1, steps=300)
#: Networks after which the given ones have their turn.
FIRST = 8
PACKAGES = ("fimaudit", "torch", "numpy", "scipy", "scikit-learn", "adversarial-robustness-toolbox")


@dataclass(frozen=True)
class Cell:
    """One network of the study."""

    dataset: str
    model: str
    training: str
    seed: int

    @property
    def name(self) -> str:
        """Of its file."""
        return f"{self.dataset}-{self.model}-{self.training}-{self.seed}"


def run_cell(cell: Cell, split: Split, sizes: Sizes, device: str = "cpu") -> dict[str, Any]:
    """Train the cell's network and measure it; everything in the result but its seconds follows from the seed."""
    start, busy = time.perf_counter(), time.process_time()
    recipe = _recipe(cell)
    network = trained(cell.model, cell.training, split, recipe, cell.seed, device).cpu()
    with torch.no_grad():
        answers = torch.cat([network(part) for part in torch.tensor(split.test_x).split(256)]).argmax(1).numpy()
    right = answers == split.test_y
    balanced = np.mean([right[split.test_y == k].mean() for k in np.unique(split.test_y)])
    training = time.process_time() - busy
    x, y = split.test_x[: sizes.inputs], split.test_y[: sizes.inputs]
    with small_algebra():
        measured = measure_network(network, split, x, y, sizes, cell.seed, recipe.eps, cell.training == "plain")
    seconds = {"training": training, "all": time.process_time() - busy, "wall": time.perf_counter() - start}
    about = {**asdict(cell), "unit": split.unit, "classes": split.classes, "eps": recipe.eps, "recipe": asdict(recipe)}
    about |= {"accuracy": float(right.mean()), "balanced_accuracy": float(balanced), "product": _product()}
    about |= {"flagged": is_flagged(measured["flags"]), "settings": asdict(sizes), **measured}
    return {**about, "seconds": {name: round(value, 1) for name, value in seconds.items()}}


def run_given(folder: Path, name: str, truth: dict[str, Any], sizes: Sizes) -> dict[str, Any]:
    """One network of the folder, measured from its probabilities."""
    busy = time.process_time()
    about = {"dataset": "given", "model": name, "training": "given", "seed": 0, "settings": asdict(sizes)}
    found = {**about, "product": _product(), **measure_folder_model(folder, name, truth, sizes, 0)}
    return {**found, "seconds": {"all": round(time.process_time() - busy, 1)}}


def _recipe(cell: Cell) -> Recipe:
    if cell.model in PUBLISHED:
        return FULL
    recipe = LARGER_RECIPE if cell.dataset.endswith(str(LARGER)) else RECIPES.get(cell.dataset, OTHERS)
    return recipe.fitted_to(cell.model)


def _cells(options: argparse.Namespace, splits: dict[str, Split]) -> list[Cell]:
    """Every cell, in the order of ``TURNS``; larger images and the table come behind."""
    out = []
    for seed in range(options.seeds):
        for place, (name, split) in enumerate(splits.items()):
            beside = name == "breast_cancer" or name.endswith(str(LARGER))
            for training in TRAININGS[:2] if beside else TRAININGS:
                turn = TURNS.get((training, seed), 2 + seed) + 1.5 * beside
                out += [((turn, place), Cell(name, model, training, seed)) for model in _models(options, split)]
    return [cell for _, cell in sorted(out, key=lambda pair: pair[0])]


def _models(options: argparse.Namespace, split: Split) -> Sequence[str]:
    if options.full:
        return PUBLISHED
    return ARCHITECTURES[:-1] if split.image else ARCHITECTURES[-1:]


def _kept(file: Path, sizes: Sizes, recipe: Recipe | None = None) -> dict[str, Any] | None:
    """A cell that was measured before, at the same sizes and trained in the same way."""
    if not file.exists():
        return None
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    same = found["settings"] == asdict(sizes) and (recipe is None or found.get("recipe") == asdict(recipe))
    return found if same else None


def _keep(file: Path, cell: dict[str, Any]) -> None:
    beside = file.with_suffix(".tmp")
    beside.write_text(json.dumps(cell, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    beside.replace(file)


def _machine() -> dict[str, str]:
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        cpu = names[0] if names else cpu
    versions = {name: version(name) for name in PACKAGES}
    return {"platform": platform.platform(), "cpu": cpu, "python": platform.python_version(), **versions}


def _product() -> str:
    """The commit that last changed what is measured with: the package and its adapters."""
    root = Path(__file__).parent.parent
    git = ["git", "-C", str(root), "log", "-1", "--format=%h", "--", "fimaudit", "adapters"]
    return subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip() or "unknown"


def _splits(options: argparse.Namespace) -> dict[str, Split]:
    """The data sets in the order in which they are studied: medical images first."""
    medical = [medmnist(file) for file in options.medmnist]
    images = [*(balanced_part(whole, PART) for whole in medical), digits()]
    if options.cifar10:
        images.append(balanced_part(cifar10(options.cifar10), PART))
    if options.full:
        return {split.name: replace(resized(_coloured(split), PUBLISHED_SIDE), name=split.name) for split in images}
    small = [split for split in images if split.name != "digits" and split.x.shape[1:] == (1, 28, 28)]
    return {split.name: split for split in [*images, breast_cancer(), *(resized(split, LARGER) for split in small)]}


def _coloured(split: Split) -> Split:
    """Grey images in three equal channels, as the published networks want them."""
    if split.x.shape[1] == 3:
        return split
    return replace(split, x=split.x.repeat(3, axis=1), test_x=split.test_x.repeat(3, axis=1))


def main(arguments: list[str] | None = None) -> None:
    """Measure the cells that are missing, then print the tables and write what was asked for."""
    options = _options(arguments)
    torch.set_num_threads(1)
    if options.check:
        sys.exit(check(options.check))
    sizes = SMALLEST if options.smallest else Sizes(inputs=options.inputs)
    splits = _splits(options)
    chosen = [Cell("breast_cancer", "MLP", "plain", 0)] if options.smallest else _cells(options, splits)
    known = folder_models(options.models) if options.models else {}
    jobs = [
        (cell.name, _recipe(cell), partial(run_cell, cell, splits[cell.dataset], sizes, options.device)) for cell in chosen
    ]
    given = [(f"given-{name}", None, partial(run_given, options.models, name, known[name], sizes)) for name in known]
    jobs = [*jobs[:FIRST], *given, *jobs[FIRST:]]
    wanted = [job for job in jobs if not options.only or any(part in job[0] for part in options.only)]
    done = [found for job in wanted if (found := _measured(options.out, *job, sizes, options.tables_only)) is not None]
    for cell in done:
        cell["features"] = features_of(cell, splits)
    rows = [row for cell in done for row in metrics_of(cell)]
    summary = summarise(done, rows)
    command = "python benchmarks/study.py " + " ".join(_shown(options))
    page = write_page(done, rows, summary, _machine(), command.strip(), [job[0] for job in wanted], options.docs)
    print(page)
    if options.json:
        figures = {"cells": rows, **summary, "machine": _machine()}
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(_with_nulls(figures), indent=1, allow_nan=False) + "\n", encoding="utf-8")


def _with_nulls(value: Any) -> Any:
    """What cannot be said, as the order of networks of which one has no value, is null: JSON knows no NaN."""
    if isinstance(value, dict):
        return {key: _with_nulls(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_with_nulls(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _measured(
    folder: Path, name: str, recipe: Recipe | None, work: Callable[[], dict[str, Any]], sizes: Sizes, only_kept: bool
) -> dict[str, Any] | None:
    """A cell from its file, else measured now and kept there."""
    file = folder / f"{name}.json"
    found = _kept(file, sizes, recipe)
    if found is None and not only_kept:
        found = work()
        folder.mkdir(parents=True, exist_ok=True)
        _keep(file, found)
        print(f"{name}: {found['seconds']['all']:.0f} s of CPU", file=sys.stderr, flush=True)
    return found


def check(page: Path) -> int:
    """Train and measure a small part again and compare it with the page; 0 where it fits, 1 where a number differs."""
    written, split = read_page(page), digits()
    differs = 0
    for name in CHECKED:
        dataset, model, training, seed = name.split()
        cell = run_cell(Cell(dataset, model, training, int(seed)), split, Sizes())
        ours = next(row for row in metrics_of(cell) if row["metric"] == "margin_radius")
        for difference in compare_with_page(written, cell, ours["spearman"]):
            print(difference, flush=True)
            differs += not difference.fits
    print("the page fits" if not differs else f"{differs} numbers differ from the page: regenerate it, or say why")
    return int(differs > 0)


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/study"), help="folder of the finished cells")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--docs", type=Path, help="write study.md and its pictures into this folder")
    parser.add_argument("--seeds", type=int, help="networks of each kind, 2 (--full: 4)")
    parser.add_argument("--inputs", type=int, help=f"test inputs a cell, {Sizes().inputs} (--full: {FULL_INPUTS})")
    parser.add_argument("--only", nargs="*", help="cells whose name holds one of these")
    parser.add_argument("--models", type=Path, help="folder with truth.json, NAME.onnx and NAME.npz")
    parser.add_argument("--cifar10", type=Path, help="folder of CIFAR-10's binary version")
    parser.add_argument("--medmnist", type=Path, nargs="*", default=[], help="MedMNIST .npz files")
    parser.add_argument("--smallest", action="store_true", help="one cell of 8 inputs, CLEVER on 2")
    parser.add_argument("--full", action="store_true", help="the paper's networks and sizes; needs torchvision")
    parser.add_argument("--device", default="cpu", help="where networks are trained")
    parser.add_argument("--tables-only", action="store_true", help="measure nothing, use the cells that are there")
    parser.add_argument("--check", type=Path, metavar="PAGE", help="measure a small part again and compare it with the page")
    options = parser.parse_args(arguments)
    options.seeds = options.seeds or (FULL_SEEDS if options.full else 2)
    options.inputs = options.inputs or (FULL_INPUTS if options.full else Sizes().inputs)
    return options


def _shown(options: argparse.Namespace) -> list[str]:
    """The flags that decide the figures; folders of the user's without their place."""
    out = [f"--seeds {options.seeds}", f"--inputs {options.inputs}"] if not options.smallest else ["--smallest"]
    out += ["--full"] if options.full else []
    out += ["--models DIR"] if options.models else []
    out += ["--cifar10 DIR"] if options.cifar10 else []
    return [*out, *(["--medmnist FILE"] if options.medmnist else []), *(["--docs docs"] if options.docs else [])]


if __name__ == "__main__":
    main()
