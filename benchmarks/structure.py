"""Directions measured exactly: the error at equal queries with and without, and what a useless surrogate does.

    python benchmarks/structure.py [--inputs 264] [--only NAME ...] [--json FILE]

Each network is audited from its probabilities alone: without directions, with those of a surrogate (another architecture,
trained on other data), with those learned from the first inputs, and with those of a network that was never trained. The
truth is float64 autograd. *median_error* is of the spectral norm over the same inputs in each row (those after the learned
prefix), *coverage* of its interval, *width* the median of (upper - lower) / truth. Queries are such that the whole Jacobian,
which needs no structure, does not fit. ``--profile off`` throughout: the profile takes its rows either way.
"""

from __future__ import annotations

import sys

sys.path.append(sys.path.pop(0))  # this folder last: its http.py must not hide the standard library's

import argparse
import copy
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_breast_cancer, load_digits
from torch import nn

from fimaudit import Report, audit
from fimaudit.measurement.deflation_trial import PREFIX

WAYS = ("without", "surrogate", "learned", "useless")
EPOCHS, BATCH = 12, 32
SIZES = (14, 7, 10, 3, 7, 7, 7, 7, 6, 6)


@dataclass(frozen=True)
class Case:
    """One audited network.

    Attributes:
        name: of the row.
        target, surrogate, useless: networks that give logits; the last as it was initialised.
        x: inputs that neither was trained on.
        queries: numbers of rows an input.
        bounds: of the inputs.
    """

    name: str
    target: nn.Module
    surrogate: nn.Module
    useless: nn.Module
    x: np.ndarray
    queries: tuple[int, ...]
    bounds: tuple[float, float] | None


def dense(features: int, classes: int, width: int) -> nn.Module:
    """Two hidden layers."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(features, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, classes)
    )


def tanh(features: int, classes: int, width: int) -> nn.Module:
    """One hidden layer of another kind."""
    return nn.Sequential(nn.Flatten(), nn.Linear(features, width), nn.Tanh(), nn.Linear(width, classes))


def convolutional(side: int, width: int) -> nn.Module:
    """Two convolutions for square images of one channel, ten classes."""
    stride = 1 if side < 16 else 2
    body = nn.Sequential(
        nn.Conv2d(1, width, 3, stride=stride, padding=1), nn.ReLU(), nn.Conv2d(width, 2 * width, 3, stride=2), nn.ReLU()
    )
    features = body(torch.zeros(1, 1, side, side)).numel()
    return nn.Sequential(*body, nn.Flatten(), nn.Linear(features, 10))


def networks(name: str) -> tuple[nn.Module, nn.Module, nn.Module]:
    """The audited one, another architecture, and the audited one's again; none of them trained."""
    if name == "digits 8x8":
        return dense(64, 10, 64), convolutional(8, 8), dense(64, 10, 64)
    if name == "digits 28x28":
        return convolutional(28, 8), dense(784, 10, 64), convolutional(28, 8)
    return dense(30, 2, 32), tanh(30, 2, 16), dense(30, 2, 32)


def trained(network: nn.Module, x: torch.Tensor, y: torch.Tensor) -> nn.Module:
    """Adam on the cross entropy."""
    optimiser = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=1e-2)
    for _ in range(EPOCHS):
        for batch in torch.split(torch.randperm(len(x)), BATCH):
            optimiser.zero_grad()
            nn.functional.cross_entropy(network(x[batch]), y[batch]).backward()
            optimiser.step()
    return network.eval()


def cases(inputs: int) -> list[Case]:
    """Digits as they are and scaled up, and the breast cancer table; the inputs audited were trained on by nobody."""
    images, labels = load_digits(return_X_y=True)
    small = torch.tensor(images.reshape(-1, 1, 8, 8) / 16.0, dtype=torch.float32)
    large = nn.functional.interpolate(small, size=(28, 28), mode="bilinear", align_corners=False)
    table, ill = load_breast_cancer(return_X_y=True)
    rows = torch.tensor((table - table.mean(axis=0)) / table.std(axis=0), dtype=torch.float32)
    out = []
    for name, x, y, queries, bounds in (
        ("digits 8x8", small, labels, (24, 48), (0.0, 1.0)),
        ("digits 28x28", large, labels, (48, 200), (0.0, 1.0)),
        ("breast cancer", rows, ill, (24, 32), None),
    ):
        torch.manual_seed(0)
        order = torch.randperm(len(x))
        audited, rest = order[:inputs], order[inputs:]
        mine, other = rest[: len(rest) // 2], rest[len(rest) // 2 :]
        labels_ = torch.tensor(y, dtype=torch.int64)
        target, surrogate, useless = networks(name)
        trained(target, x[mine], labels_[mine])
        trained(surrogate, x[other], labels_[other])
        out.append(Case(name, target, surrogate, useless.eval(), x[audited].numpy(), queries, bounds))
    return out


def exact(case: Case) -> np.ndarray:
    """Spectral norms by derivatives in float64."""
    network = copy.deepcopy(case.target).double()
    report = audit(network, case.x.astype(np.float64), link="softmax", mode="white-box")
    return np.array([s.spectral_norm.value for s in report.inputs])


def measured(case: Case, queries: int, way: str) -> Report:
    """One audit from probabilities alone."""
    domain: dict[str, Any] = {} if case.bounds is None else {"lower": case.bounds[0], "upper": case.bounds[1]}
    given = {"without": None, "surrogate": case.surrogate, "learned": "learned", "useless": case.useless}[way]
    return audit(
        case.target, case.x, link="softmax", mode="black-box", queries=queries, profile="off", surrogate=given, **domain
    )


def row(case: Case, queries: int, way: str, truth: np.ndarray) -> dict[str, Any]:
    """One line of the table."""
    report = measured(case, queries, way)
    kept = [(s, t) for s, t in zip(report.inputs, truth, strict=True) if s.index >= PREFIX and s.spectral_norm.value]
    value, low, high = (
        np.array([getattr(s.spectral_norm, side) for s, _ in kept], float) for side in ("value", "lower", "upper")
    )
    exactly = np.array([t for _, t in kept])
    structure = report.settings["surrogate"] or {}
    return {
        "case": case.name, "features": int(case.x[0].size), "queries": queries, "way": way,
        "inputs": len(kept), "directions": structure.get("directions", 0), "caught": structure.get("caught"),
        "median_error": float(np.median(np.abs(value / exactly - 1))),
        "bias": float(np.median(value / exactly) - 1),
        "coverage": float(((low <= exactly) & (exactly <= high)).mean()),
        "width": float(np.median((high - low) / exactly)),
        "rows": report.summary.queries / len(report.inputs),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=264)
    parser.add_argument("--only", nargs="*", help="names of cases")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    heads = ("case", "queries", "way", "q", "share", "error", "bias", "cover", "width", "rows")
    print(" ".join(f"{head:{size}s}" for head, size in zip(heads, SIZES, strict=True)))
    rows = []
    for case in cases(arguments.inputs):
        if arguments.only and case.name not in arguments.only:
            continue
        truth = exact(case)
        for queries in case.queries:
            for way in WAYS:
                one = row(case, queries, way, truth)
                rows.append(one)
                share = "" if one["caught"] is None else f"{one['caught']:.0%}"
                shares = (f"{one['median_error']:.1%}", f"{one['bias']:+.1%}", f"{one['coverage']:.1%}")
                cells = (
                    case.name,
                    queries,
                    way,
                    one["directions"],
                    share,
                    *shares,
                    f"{one['width']:.2f}",
                    f"{one['rows']:.1f}",
                )
                print(" ".join(f"{cell!s:{size}s}" for cell, size in zip(cells, SIZES, strict=True)), flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps({"rows": rows}, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
