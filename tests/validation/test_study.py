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
from benchmarks._study_attacks import autoattack, within_eps
from benchmarks._study_calibration import (
    LABELLED,
    LARGEST_BEND,
    PREDICTORS,
    Predictor,
    calibrate,
    calibration_curve,
    errors_aside,
    points_of,
    predicted_accuracy,
    robust_accuracy,
)
from benchmarks._study_cell import FLAG, METRICS, as_length, is_flagged, metrics_of
from benchmarks._study_check import compare_with_page, read_page
from benchmarks._study_data import CIFAR_RECORD, Split, balanced_part, cifar10, digits, features_of, medmnist, resized
from benchmarks._study_failures import VARIANTS, Variant
from benchmarks._study_families import family_orders, partial_correlation, with_bound
from benchmarks._study_folder import folder_models
from benchmarks._study_page import COLUMNS
from benchmarks._study_repeats import seed_stability
from benchmarks._study_stability import radius_at
from benchmarks._study_tables import compare, compare_with_clever, explain, fitted, learned, network_row
from benchmarks._study_training import ARCHITECTURES, TRAININGS, Recipe, build, trained
from fimaudit import open_classifier
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
    main(arguments)
    printed = capsys.readouterr().out
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
    assert page.strip() == printed.strip()
    opening = "\n".join(page.splitlines()[:10])
    assert "You may conclude" in opening
    assert "You may not conclude" in opening
    for name in ("correlations", "networks", "calibration", "bounds", "stability", "costs", "failures"):
        assert f"study/{name}.svg" in page
        assert (tmp_path / "study" / f"{name}.svg").stat().st_size > 1000
    assert set(read_page(tmp_path / "study.md")) == {"breast_cancer MLP plain 0"}
    (kept,) = folder.iterdir()
    before = kept.read_bytes()
    main(arguments)  # a finished cell is not measured again, and the figures are the same
    assert capsys.readouterr() == (printed, "")
    assert kept.read_bytes() == before
    line = next(line for line in page.splitlines() if line.startswith("| breast_cancer MLP plain 0"))
    assert all(d.fits for d in compare_with_page(read_page(tmp_path / "study.md"), json.loads(before), ours["spearman"])), (
        line
    )


@pytest.mark.coverage
def test_a_cell_is_the_same_in_another_process(tmp_path: Path) -> None:
    """Measured anew from the seed; only clocks differ."""
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        done = study("--smallest", "--out", str(folder), "--docs", str(tmp_path))
        assert done.returncode == 0, done.stderr
    one, two = (json.loads(next(folder.iterdir()).read_bytes()) for folder in folders)
    clocks = {"seconds", "cpu_seconds"}
    assert {k: v for k, v in one.items() if k not in clocks} == {k: v for k, v in two.items() if k not in clocks}


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


def network(radius: list[float], found: list[float | None], right: bool = True, **more: Any) -> dict[str, Any]:
    """A cell of which robust accuracy, families and seeds are asked."""
    labels = [0] * len(radius)
    one = cell(found, radius, radius, predicted=[0 if right else 1] * len(radius), labels=labels, lipschitz=2.0)
    one["readings"]["peak_spectral_norm"] = one["readings"]["spectral_norm"] = [1 / r**2 for r in radius]
    return {**one, **more}


def test_accuracies_of_a_network() -> None:
    one = network([1.0] * 4, [0.5, 2.0, None, 2.0], accuracy=0.9, balanced_accuracy=0.9, classes=2)
    one["labels"][3] = 9
    one["readings"]["spectral_norm_white"] = [1.0, 1.0, None, 4.0]
    one |= {"within_eps": {"pgd": [True, False, False, False]}, "autoattack": [{"flipped": [True, True]}]}
    row = network_row(one)
    assert row["robust_accuracy"] == 0.5  # flipped; right and far; right and never flipped; wrong
    assert (row["pgd_accuracy"], row["autoattack_accuracy"]) == (0.5, 0.0)
    assert (row["spectral_norm_mean"], row["spectral_norm_median"], row["censored"]) == (2.0, 1.0, 1)
    assert learned({"balanced_accuracy": 0.76, "classes": 2})
    assert not learned({"balanced_accuracy": 0.75, "classes": 2})


def test_robust_accuracy_is_predicted_from_other_networks() -> None:
    radius = [float(i) for i in range(1, 11)]
    cells = [
        network(radius, [0.8 * r for r in radius], model="VGG"),
        network([2 * r for r in radius], [1.6 * r for r in radius], model="ResNet"),
    ]
    one = points_of(cells[0])
    assert robust_accuracy(one, 4.0) == 0.5  # 0.8 r > 4 for r > 5
    assert predicted_accuracy(one, 4.0, None) == 0.6  # the radius at its word
    assert predicted_accuracy(one, 3.99, calibration_curve([points_of(cells[1])])) == 0.6
    found = calibrate(cells)
    assert max(e["points"] for e in found["schemes"]["a family"]) < 1e-9
    assert min(e["points"] for e in found["schemes"]["none: the radius at its word"]) > 5
    assert "a data set" not in found["schemes"]  # one data set: none to hold out
    wrong = points_of(network(radius, [None] * 10, right=False))
    assert (robust_accuracy(wrong, 1.0), robust_accuracy(points_of(network(radius, [None] * 10)), 1.0)) == (0.0, 1.0)


def bent_networks(bend_of_ratio: float, labels: bool = True) -> list[dict[str, Any]]:
    """Networks whose decisions change at another share of the radius each.

    Their counterexamples lie where ``ratio = 1.2 - bend_of_ratio * bend`` puts them; labels of the first inputs, where there
    are some, say the truth.
    """
    cells = []
    for seed, ratio in enumerate((0.5, 0.7, 0.9, 1.1)):
        radius = np.exp(np.random.default_rng(seed).normal(0.0, 0.5, 80))
        found = (ratio * radius).tolist()
        bend = (np.log(1.2) - np.log(ratio)) / bend_of_ratio
        one = network(radius.tolist(), found, seed=seed, features=600, settings={"queries": 200})
        one["witnesses"] = {"margin_radius": (radius * np.sqrt(800 / 200) / np.sqrt(bend)).tolist()}
        one["readings"]["label_radius"] = [d if labels and i < 50 else None for i, d in enumerate(found)]
        cells.append(one)
    return cells


def worst_of(cells: list[dict[str, Any]], predictor: Predictor) -> float:
    return max(e["points"] for e in calibrate(cells, predictor)["schemes"]["one network"])


def test_counterexamples_of_the_audit_say_how_near_another_decision_is() -> None:
    cells = bent_networks(0.3)
    assert worst_of(cells, PREDICTORS["margin_radius"]) > 15
    assert worst_of(cells, PREDICTORS["radius_and_counterexample"]) < 1e-6
    np.testing.assert_allclose(
        calibrate(cells, PREDICTORS["radius_and_counterexample"])["line"], [np.log(1.2), -0.3, 0.0], atol=1e-9
    )
    (aside,) = errors_aside(cells[:3], cells[3:], PREDICTORS["radius_and_counterexample"])
    assert aside is not None
    assert aside["points"] < 1e-6
    assert errors_aside([], cells[3:], PREDICTORS["margin_radius"]) == [None]


def test_a_bend_is_one_on_a_plane_and_nothing_where_no_counterexample_was_found() -> None:
    (one, *_) = bent_networks(0.3)
    one["readings"]["margin_radius"] = [1.0, 2.0, 3.0, 4.0]
    one["attacks"]["distance"], one["predicted"], one["labels"] = [1.0] * 4, [0] * 4, [0] * 4
    one["witnesses"] = {"margin_radius": [2.0, 8.0, None, 1e-3]}  # cosine 1/2: a plane puts them at twice the radius
    terms = points_of(one, Predictor(terms=("bend",))).terms
    assert terms is not None
    assert terms[:, 0].tolist() == pytest.approx([1.0, 0.25, 0.0, LARGEST_BEND])


def test_far_boundaries_come_nearer_than_their_radii_say() -> None:
    """A power of the radius below 1, the same in every network, is found from the others."""
    cells = []
    for seed, size in enumerate((0.2, 1.0, 5.0)):
        radius = size * np.exp(np.random.default_rng(seed).normal(0.0, 0.8, 80))
        middle = float(np.median(radius))
        cells.append(network(radius.tolist(), (middle * (radius / middle) ** 0.7).tolist(), seed=seed))
    assert worst_of(cells, Predictor()) > 5
    assert worst_of(cells, Predictor(terms=("place",))) < 1e-6


def test_labels_of_a_few_inputs_scale_a_network() -> None:
    cells = bent_networks(0.3)
    scaled = Predictor(labelled=LABELLED)
    assert worst_of(cells, scaled) < worst_of(cells, Predictor()) / 3
    seen = points_of(cells[0], scaled).labels
    assert seen is not None
    assert np.isfinite(seen).sum() == LABELLED
    without = bent_networks(0.3, labels=False)
    assert worst_of(without, scaled) == pytest.approx(worst_of(without, Predictor()))


def test_families_and_the_bound_beside_the_measured_values() -> None:
    cells = [
        network([r] * 5, [r * (1 + 0.01 * i) for i in range(5)], model=model, seed=seed, lipschitz=bound + 0.1 * seed)
        for seed in (0, 1)
        for model, r, bound in (("VGG", 4.0, 9.0), ("ResNet", 3.0, 1.0), ("DenseNet", 2.0, 2.0), ("ViT", 1.0, 4.0))
    ]
    (row,) = family_orders(cells)
    assert row["orders"]["smallest perturbation"] == ["VGG", "ResNet", "DenseNet", "ViT"]
    assert row["orders"]["bound L_z"] == ["ResNet", "DenseNet", "ViT", "VGG"]
    assert (row["kendall"]["radius"], row["kendall"]["bound L_z"]) == (1.0, 0.0)
    assert family_orders(cells[:3]) == []
    (family,) = with_bound(cells)
    assert (family["networks"], family["radius"][0]) == (8, 1.0)
    assert family["bound"][0] < 0.1
    rng = np.random.default_rng(0)
    radius, bound = rng.standard_normal((2, 400))
    assert partial_correlation(bound, radius, radius + 1e-3 * bound) < 0.01
    assert partial_correlation(bound, radius + bound, radius) == pytest.approx(1.0)
    both = seed_stability(cells)["radius"]
    assert both["order"] == pytest.approx(1.0)
    assert set(both["ratio"].values()) == {1.0}


def test_a_network_that_orders_badly_is_explained() -> None:
    found: list[float | None] = [float(i) for i in range(1, 13)]
    right = [float(i) for i in range(1, 13)]
    row = {"spearman": 0.5, "lower": 0.1, "upper": 0.8}
    noisy = network(right[::-1], found)
    noisy["readings"]["margin_radius_white"] = right
    assert explain(noisy, row)["why"].startswith("sampling")
    noisy["readings"]["margin_radius_white"] = right[::-1]
    assert explain(noisy, row)["why"].startswith("curvature")
    assert "ends at 0.70" in explain({**noisy, "black_box_ratio": [1.2, 0.7]}, row)["why"]
    noisy["attacks"]["distance"] = [1.0 + 0.01 * i for i in range(12)]
    assert explain(noisy, row)["why"].startswith("the distances hardly differ")


def line_of(**numbers: str) -> str:
    return "| " + " | ".join(numbers.get(column.split()[0], "1") for column in COLUMNS) + " |"


def test_a_page_is_compared_with_a_cell(tmp_path: Path) -> None:
    page = tmp_path / "study.md"
    head = "| " + " | ".join(COLUMNS) + " |"
    line = line_of(network="digits VGG plain 0", accuracy="90.0%", rank="0.95 [0.90, 0.99]", radius="2", perturbation="2")
    page.write_text("\n".join(["# A page", head, "|---|" * len(COLUMNS), line, "", "text"]))
    one = network([2.0] * 4, [2.0] * 4, accuracy=0.91, balanced_accuracy=0.9, within_eps={"pgd": [True]},
                  autoattack=[{"flipped": [True]}])  # fmt: skip
    one["readings"]["peak_spectral_norm"] = [1.1] * 4
    one["readings"]["spectral_norm_white"] = [1.0] * 4
    assert [d.fits for d in compare_with_page(read_page(page), one, 0.94)] == [True] * 5
    assert [d.fits for d in compare_with_page(read_page(page), {**one, "accuracy": 0.8}, 0.8)] == [
        False,
        True,
        True,
        True,
        False,
    ]
    with pytest.raises(DataError, match="a line of digits ViT"):
        compare_with_page(read_page(page), {**one, "model": "ViT"}, 0.9)
    page.write_text("# No table")
    with pytest.raises(DataError, match=r"write the page with study\.py first"):
        read_page(page)


def linear() -> tuple[Any, Split, float]:
    """A linear network of two classes on 16 x 16 images, an input in the middle of the box, and its exact distance."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(256, 2)).eval()
    x = (0.5 + 0.01 * np.random.default_rng(0).standard_normal((3, 1, 16, 16))).astype(np.float32)
    weight = (model[1].weight[0] - model[1].weight[1]).detach().numpy()
    bias = (model[1].bias[0] - model[1].bias[1]).item()
    margin = np.abs(x.reshape(3, -1) @ weight + bias) / np.linalg.norm(weight)
    split = Split("made", x, np.zeros(3, dtype=np.int64), x, np.zeros(3, dtype=np.int64), 2, 0.0, 1.0, "pixel")
    return model, split, margin


def test_attacks_within_eps_on_a_linear_network() -> None:
    model, split, margin = linear()
    for eps, flipped in ((0.9 * margin.min(), [False] * 3), (1.1 * margin.max(), [True] * 3)):
        assert autoattack(model, split, split.x, float(eps), 0)["flipped"] == flipped
        assert within_eps(model, split, split.x, float(eps))["pgd"] == flipped


def test_a_fixed_step_finds_the_radius_of_a_linear_network() -> None:
    model, split, margin = linear()
    found = [radius_at(open_classifier(model, "softmax"), x, 0.05, seed) for seed, x in enumerate(split.x)]
    np.testing.assert_allclose(np.array(found, dtype=float), margin, rtol=0.3)


@pytest.mark.parametrize("kind", VARIANTS)
def test_variants_keep_the_decisions_and_are_distributions(kind: str) -> None:
    import torch

    model, split, _ = linear()
    with torch.no_grad():
        p = Variant(model, kind)(torch.tensor(split.x)).numpy()
        z = model(torch.tensor(split.x)).numpy()
    np.testing.assert_allclose(p.sum(axis=1), 1.0, atol=1e-6)
    if kind == "curved":
        np.testing.assert_allclose(
            np.log(p[:, 0] / p[:, 1]), np.sign(z[:, 0] - z[:, 1]) * abs(z[:, 0] - z[:, 1]) ** 0.5, rtol=1e-4
        )
    if kind in ("plain", "saturated", "curved", "flattened"):
        assert (p.argmax(axis=1) == z.argmax(axis=1)).all()


def test_classes_are_balanced_and_images_resized() -> None:
    split = digits()
    y = np.array([0] * 50 + [1] * 8)
    few = Split("made", split.x[:58], y, split.test_x[:4], split.test_y[:4], 2, 0.0, 1.0, "pixel")
    part = balanced_part(few, 100)
    assert np.bincount(part.y).tolist() == [16, 8]
    larger = resized(few, 32)
    assert (larger.name, larger.x.shape, larger.test_x.shape) == ("made32", (58, 1, 32, 32), (4, 1, 32, 32))


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

    made = trained("MLP", training, split := digits(), Recipe(4, 0.8, 3, 1.0), 0)
    with torch.no_grad():
        right = made(torch.tensor(split.test_x)).argmax(1).numpy() == split.test_y
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


def test_given_networks_say_their_features_themselves() -> None:
    assert features_of({"dataset": "digits"}, {"digits": digits()}) == 784
    assert features_of({"dataset": "given", "features": 3072}, {}) == 3072


def test_a_folder_of_models_needs_its_truth(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"truth\.json"):
        folder_models(tmp_path)
    truth = {"a": {"link": "softmax", "inputs": [{"adversarial_l2": 0.1}]}, "b": {"link": "softmax", "inputs": [{}]}}
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    assert set(folder_models(tmp_path)) == {"a"}
