"""The study: its smallest cell as a command, resume, its tables on values known by hand, its loaders on made files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks._ddn import ddn
from benchmarks._study_cell import FLAG, METRICS, as_length, is_flagged, metrics_of
from benchmarks._study_data import CIFAR_RECORD, cifar10, digits, medmnist
from benchmarks._study_folder import folder_models
from benchmarks._study_tables import accuracy_under, compare, compare_with_clever, fitted
from benchmarks._study_training import ARCHITECTURES, TRAININGS, Recipe, build, trained
from fimaudit.errors import DataError

ROOT = Path(__file__).parents[2]


def study(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "benchmarks" / "study.py"), *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=environment)


def test_the_smallest_cell_and_its_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "path", ["the script takes this place", *sys.path])
    from benchmarks.study import main

    folder, figures = tmp_path / "cells", tmp_path / "study.json"
    arguments = ["--smallest", "--out", str(folder), "--json", str(figures), "--docs", str(tmp_path)]
    done = study(*arguments)
    assert done.returncode == 0, done.stderr
    cells = json.loads(figures.read_text())["cells"]
    assert {row["metric"] for row in cells} == set(METRICS)
    for row in cells:
        assert {"dataset", "model", "training", "metric", "spearman", "lower", "upper", "cost"} <= set(row)
    ours = next(row for row in cells if row["metric"] == "margin_radius")
    assert ours["inputs"] == 8
    assert ours["spearman"] > 0.9
    assert ours["cost"]["backward"] == 0
    assert ours["cost"]["forward"] <= 1.1 * 200 + 8
    page = (tmp_path / "study.md").read_text()
    assert page.strip() == done.stdout.strip()
    for name in ("correlations", "calibration"):
        assert f"study/{name}.svg" in page
        assert (tmp_path / "study" / f"{name}.svg").stat().st_size > 1000
    (kept,) = folder.iterdir()
    before = kept.read_bytes()
    capsys.readouterr()
    main(arguments)  # a finished cell is not measured again, and the figures are the same
    assert capsys.readouterr() == (done.stdout, "")
    assert kept.read_bytes() == before
    kept.unlink()
    main(arguments)  # measured anew from the seed
    one, two = (json.loads(text) for text in (before, kept.read_bytes()))
    assert {k: v for k, v in one.items() if k != "seconds"} == {k: v for k, v in two.items() if k != "seconds"}


def cell(found: list[float | None], radius: list[float], clever: list[float], **more: Any) -> dict[str, Any]:
    return {
        "dataset": "digits",
        "model": "VGG",
        "training": "plain",
        "seed": 0,
        "eps": 1.0,
        "flagged": False,
        "readings": {"margin_radius": radius, "clever": clever, "margin_radius_white": radius, "spectral_norm": radius},
        "costs": dict.fromkeys(("margin_radius", "clever", "margin_radius_white", "spectral_norm"), (1.0, 2.0)),
        "attacks": {"distance": found, "by": ["pgd"] * len(found), "each": {"pgd": found}},
        **more,
    }


def test_a_cell_is_flagged_above_a_quarter_of_its_inputs() -> None:
    assert not is_flagged([[FLAG], [], [], []])
    assert is_flagged([[FLAG], [FLAG], [], []])


def test_norms_enter_by_their_reciprocal_and_censored_inputs_stay_out() -> None:
    rows = {row["metric"]: row for row in metrics_of(cell([1.0, 2.0, 3.0, 4.0, None], [1, 2, 3, 4, 5], [4, 3, 2, 1, 9]))}
    assert rows["margin_radius"]["spearman"] == pytest.approx(1.0)
    assert rows["spectral_norm"]["spearman"] == pytest.approx(-1.0)
    assert rows["clever"]["spearman"] == pytest.approx(-1.0)
    assert rows["margin_radius"]["inputs"] == 4
    assert as_length("spectral_norm", [2.0, 0.0, None])[:2].tolist() == [0.5, np.inf]
    assert np.isnan(as_length("spectral_norm", [None])[0])


def test_where_clever_is_better_is_said_with_its_reason() -> None:
    found: list[float | None] = [float(i) for i in range(1, 13)]
    right = [float(i) for i in range(1, 13)]
    wrong = right[::-1]
    swapped = [2.0, 1.0, *right[2:]]
    assert compare_with_clever(cell(found, right, wrong)) is None
    assert compare_with_clever(cell(found, right, right)) is None
    slight = compare_with_clever(cell(found, swapped, right))
    assert slight is not None
    assert slight["why"].startswith("not resolved")
    far = compare_with_clever(cell(found, wrong, right))
    assert far is not None
    assert far["why"].startswith("curvature")
    noisy = cell(found, wrong, right)
    noisy["readings"]["margin_radius_white"] = right
    sampled = compare_with_clever(noisy)
    assert sampled is not None
    assert sampled["why"].startswith("sampling")
    assert sampled["difference"][0] == 2.0


def test_failed_fits_of_clever_are_left_out_of_the_comparison() -> None:
    found: list[float | None] = [float(i) for i in range(1, 13)]
    right = [float(i) for i in range(1, 13)]
    broken = cell(found, [2.0, 1.0, *right[2:]], [*right[:-1], 1e-7])
    assert fitted(broken).tolist() == [True] * 11 + [False]
    compared = compare_with_clever(broken)
    assert compared is not None
    assert (compared["inputs"], compared["clever"]) == (11, 1.0)
    everything = compare(broken, "clever", np.array(True))
    assert everything is not None
    assert everything["inputs"] == 12
    assert everything["clever"] < 0.6


def test_accuracy_under_an_attack() -> None:
    one = cell([0.5, 2.0, None, 2.0], [1.0] * 4, [1.0] * 4, predicted=[0, 1, 2, 3], labels=[0, 1, 2, 9])
    assert accuracy_under(one, "pgd") == 0.5  # flipped; right and far; right and never flipped; wrong


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_networks_answer_and_train_from_their_seed(architecture: str) -> None:
    split = digits()
    few = type(split)(**{**split.__dict__, "x": split.x[:64], "y": split.y[:64]})
    assert sum(p.numel() for p in build(architecture, split).parameters()) < 80_000
    recipe = Recipe(1, 0.5, 1, 0.1)
    states = [trained(architecture, "pgd", few, recipe, seed).state_dict() for seed in (0, 0, 1)]
    same = [all(bool((states[0][key] == state[key]).all()) for key in state) for state in states[1:]]
    assert same == [True, False]


@pytest.mark.parametrize("training", TRAININGS)
def test_every_training_learns(training: str) -> None:
    import torch

    network = trained("MLP", training, split := digits(), Recipe(4, 0.8, 3, 1.0), 0)
    with torch.no_grad():
        right = network(torch.tensor(split.test_x)).argmax(1).numpy() == split.test_y
    assert right.mean() > 0.8


def test_the_check_attack_is_exact_on_a_linear_network() -> None:
    import torch
    from torch import nn

    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(20, 2)).eval()
    x = np.random.default_rng(0).standard_normal((5, 20)).astype(np.float32)
    weight = (network[0].weight[0] - network[0].weight[1]).detach().numpy()
    bias = network[0].bias.detach().numpy()
    margin = np.abs(x @ weight + bias[0] - bias[1]) / np.linalg.norm(weight)
    np.testing.assert_allclose(ddn(network, x, None, None), margin, rtol=0.02)


def test_cifar_and_medmnist_are_read_from_files(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in (*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"):
        records = rng.integers(0, 256, (3, CIFAR_RECORD), dtype=np.uint8)
        records[:, 0] = [0, 5, 9]
        records.tofile(tmp_path / name)
    split = cifar10(tmp_path, train=10)
    assert split.x.shape == (10, 3, 32, 32)
    assert split.test_x.shape == (3, 3, 32, 32)
    assert split.y[:3].tolist() == [0, 5, 9]
    assert split.lower is not None
    assert split.upper is not None
    assert (split.x >= split.lower - 1e-6).all()  # normalised pixels, with the bounds that follow
    assert (split.x <= split.upper + 1e-6).all()
    assert split.x.min() < 0
    (tmp_path / "data_batch_1.bin").write_bytes(b"short")
    with pytest.raises(DataError, match="records of 3073 bytes"):
        cifar10(tmp_path)
    with pytest.raises(DataError, match="no such file"):
        cifar10(tmp_path / "nowhere")
    arrays = {f"{part}_images": rng.integers(0, 256, (4, 28, 28, 3), dtype=np.uint8) for part in ("train", "test")}
    labels = {f"{part}_labels": np.array([[0], [1], [2], [1]]) for part in ("train", "test")}
    np.savez(tmp_path / "pathmnist.npz", **arrays, **labels)
    medical = medmnist(tmp_path / "pathmnist.npz")
    assert (medical.name, medical.classes, medical.x.shape) == ("pathmnist", 3, (4, 3, 28, 28))
    np.savez(tmp_path / "other.npz", x=1)
    with pytest.raises(DataError, match="MedMNIST"):
        medmnist(tmp_path / "other.npz")


def test_a_folder_of_models_needs_its_truth(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"truth\.json"):
        folder_models(tmp_path)
    truth = {"a": {"link": "softmax", "inputs": [{"adversarial_l2": 0.1}]}, "b": {"link": "softmax", "inputs": [{}]}}
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    assert set(folder_models(tmp_path)) == {"a"}
