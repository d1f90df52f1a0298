"""Does the metric predict vulnerability? Ours and every baseline against the smallest perturbation that attacks find.

    python benchmarks/study.py --out runs/study --docs docs        # the whole study; goes on where it was stopped
    python benchmarks/study.py --models DIR ...                     # with a folder of real networks, truths beside them
    python benchmarks/study.py --smallest                           # one small cell, under a minute

Cells are data set x architecture x training x seed, one file each in --out: a finished cell is not measured again.
scikit-learn's digits and breast cancer are always there; CIFAR-10 (--cifar10 FOLDER, its binary version) and MedMNIST
(--medmnist FILE.npz, repeatable) where the files are. Nothing is downloaded.

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
import platform
import subprocess
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

import torch

from benchmarks._study_cell import Sizes, is_flagged, measure_network, metrics_of
from benchmarks._study_data import Split, breast_cancer, cifar10, digits, medmnist
from benchmarks._study_folder import folder_models, measure_folder_model
from benchmarks._study_page import write_page
from benchmarks._study_tables import summarise
from benchmarks._study_training import ARCHITECTURES, TRAININGS, Recipe, trained
from fimaudit.engines.driver import small_algebra

__all__ = ["Cell", "main", "run_cell"]

#: How each data set is trained on. CIFAR-10 and MedMNIST take a part of the training images: they are for the user's time.
RECIPES = {"digits": Recipe(15, 0.8, 5, 1.0), "breast_cancer": Recipe(20, 0.5, 5, 0.1)}
OTHERS = Recipe(8, 0.5, 5, 1.0)
PART = 10_000
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


def run_cell(cell: Cell, split: Split, sizes: Sizes) -> dict[str, Any]:
    """Train the cell's network and measure it; everything in the result but ``seconds`` follows from the seed."""
    start = time.perf_counter()
    recipe = _recipe(cell)
    network = trained(cell.model, cell.training, split, recipe, cell.seed)
    with torch.no_grad():
        right = network(torch.tensor(split.test_x)).argmax(1).numpy() == split.test_y
    training = time.perf_counter() - start
    x, y = split.test_x[: sizes.inputs], split.test_y[: sizes.inputs]
    with small_algebra():
        measured = measure_network(network, split, x, y, sizes, cell.seed)
    flagged = is_flagged(measured["flags"])
    seconds = {"training": round(training, 1), "all": round(time.perf_counter() - start, 1)}
    about = {**asdict(cell), "unit": split.unit, "eps": recipe.eps, "accuracy": float(right.mean())}
    about["recipe"] = asdict(recipe)
    return {**about, "flagged": flagged, "settings": asdict(sizes), **measured, "seconds": seconds}


def _recipe(cell: Cell) -> Recipe:
    return RECIPES.get(cell.dataset, OTHERS).fitted_to(cell.model)


def _cells(options: argparse.Namespace, splits: dict[str, Split]) -> Iterator[Cell]:
    """Every cell, seed by seed, so that a study that is stopped early has one seed of everything."""
    for seed in range(options.seeds):
        for name, split in splits.items():
            for model in ARCHITECTURES if split.image else ("MLP",):
                for training in TRAININGS if name == "digits" else [t for t in TRAININGS if t != "cw"]:
                    yield Cell(name, model, training, seed)


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
    git = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip() or "unknown"
    return {"platform": platform.platform(), "cpu": cpu, "python": platform.python_version(), "commit": commit, **versions}


def _splits(options: argparse.Namespace) -> dict[str, Split]:
    splits = [digits(), breast_cancer()]
    if options.cifar10:
        splits.append(cifar10(options.cifar10, PART))
    for file in options.medmnist:
        whole = medmnist(file)
        splits.append(Split(**{**whole.__dict__, "x": whole.x[:PART], "y": whole.y[:PART]}))
    return {split.name: split for split in splits}


def main(arguments: list[str] | None = None) -> None:
    """Measure the cells that are missing, then print the tables and write what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/study"), help="folder of the finished cells")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--docs", type=Path, help="write study.md and its pictures into this folder")
    parser.add_argument("--seeds", type=int, default=2, help="networks of each kind")
    parser.add_argument("--inputs", type=int, default=20, help="test inputs a cell")
    parser.add_argument("--only", nargs="*", help="cells whose name holds one of these")
    parser.add_argument("--models", type=Path, help="folder with truth.json, NAME.onnx and NAME.npz")
    parser.add_argument("--cifar10", type=Path, help="folder of CIFAR-10's binary version")
    parser.add_argument("--medmnist", type=Path, nargs="*", default=[], help="MedMNIST .npz files")
    parser.add_argument("--smallest", action="store_true", help="one cell of 8 inputs, CLEVER on 2")
    parser.add_argument("--tables-only", action="store_true", help="measure nothing, use the cells that are there")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    sizes = Sizes(inputs=8, clever=2, checked=2) if options.smallest else Sizes(inputs=options.inputs)
    splits = _splits(options)
    chosen = [Cell("breast_cancer", "MLP", "plain", 0)] if options.smallest else list(_cells(options, splits))
    if options.only:
        chosen = [cell for cell in chosen if any(part in cell.name for part in options.only)]
    options.out.mkdir(parents=True, exist_ok=True)
    done = []
    for cell in chosen:
        file = options.out / f"{cell.name}.json"
        found = _kept(file, sizes, _recipe(cell))
        if found is None and not options.tables_only:
            found = run_cell(cell, splits[cell.dataset], sizes)
            _keep(file, found)
            print(f"{cell.name}: {found['seconds']['all']:.0f} s", file=sys.stderr, flush=True)
        if found is not None:
            done.append(found)
    for name, truth in (folder_models(options.models) if options.models else {}).items():
        file = options.out / f"given-{name}.json"
        found = _kept(file, sizes)
        if found is None and not options.tables_only:
            about = {"dataset": "given", "model": name, "training": "given", "seed": 0, "settings": asdict(sizes)}
            found = {**about, **measure_folder_model(options.models, name, truth, sizes, 0)}
            _keep(file, found)
        if found is not None:
            done.append(found)
    rows = [row for cell in done for row in metrics_of(cell)]
    summary = summarise(done, rows)
    command = "python benchmarks/study.py " + " ".join(_shown(options))
    page = write_page(done, rows, summary, _machine(), command.strip(), len(chosen), options.docs)
    print(page)
    if options.json:
        figures = {"cells": rows, **summary, "machine": _machine()}
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(figures, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def _shown(options: argparse.Namespace) -> list[str]:
    """The flags that decide the figures; folders of the user's without their place."""
    out = [f"--seeds {options.seeds}", f"--inputs {options.inputs}"] if not options.smallest else ["--smallest"]
    out += ["--models DIR"] if options.models else []
    out += ["--cifar10 DIR"] if options.cifar10 else []
    return [*out, *(["--medmnist FILE"] if options.medmnist else []), *(["--docs docs"] if options.docs else [])]


if __name__ == "__main__":
    main()
