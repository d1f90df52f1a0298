"""Run folders of small numpy models, made through the public interface: pictures and a table, labels and groups."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from fimaudit import Report, audit
from fimaudit.data.arrays import Inputs
from fimaudit.report.shown import keep_shown
from fimaudit.results import Contrast, Interval, Sensitivity
from fimaudit.statistics.one_sided import Cells
from fimaudit.statistics.summary import summarise
from fimaudit.storage.tables import write_inputs

PICTURES, TABLE = 60, 90


def softmax_model(seed: int, features: int, classes: int, sharpness: float = 1.0) -> Any:
    """A seeded two-layer network as a function of a batch."""
    rng = np.random.default_rng(seed)
    first = rng.normal(size=(features, 24)) / np.sqrt(features)
    second = rng.normal(size=(24, classes)) * 2.0

    def model(batch: Any) -> Any:
        z = np.tanh(batch.reshape(len(batch), -1).astype(np.float64) @ first * 3.0) @ second * sharpness
        e = np.exp(z - z.max(axis=1, keepdims=True))
        return e / e.sum(axis=1, keepdims=True)

    return model


def pictures(count: int = PICTURES) -> Inputs:
    """Smooth grey pictures of 12 x 12 with labels that the model mostly gets right, and two groups."""
    rng = np.random.default_rng(7)
    coarse = rng.random((count, 4, 4))
    x = np.clip(np.kron(coarse, np.ones((1, 3, 3))) + rng.normal(0, 0.03, (count, 12, 12)), 0, 1)[:, None].astype(np.float32)
    y = softmax_model(0, 144, 5)(x).argmax(axis=1)
    y[::9] = (y[::9] + 1) % 5
    return Inputs(
        x, y.astype(np.int64), np.array(["scanner A", "scanner B", "scanner B"])[np.arange(count) % 3], None, "made"
    )


def table(count: int = TABLE) -> Inputs:
    """Ten named features of different spread, two classes, a small group among three."""
    rng = np.random.default_rng(8)
    x = (rng.normal(size=(count, 10)) * np.geomspace(0.1, 50, 10)).astype(np.float64)
    y = (softmax_model(1, 10, 2)(x / x.std(axis=0)).argmax(axis=1)).astype(np.int64)
    group = np.where(np.arange(count) < 12, "under 40", np.where(np.arange(count) % 2, "40 to 60", "over 60"))
    return Inputs(x, y, group, tuple(f"marker {i}" for i in range(10)), "made")


def picture_run(folder: Path, seed: int = 0, sharpness: float = 1.0, queries: int = 60, count: int = PICTURES) -> Report:
    """An audit of pictures, with what its page shows kept."""
    data = pictures(count)
    model = softmax_model(0, 144, 5, sharpness)
    report = audit(model, data, out=folder, lower=0.0, upper=1.0, unit="full grey range", queries=queries, seed=seed)
    rng = np.random.default_rng(0)
    found = {s.index: rng.normal(size=(1, 12, 12)) for s in report.inputs}
    moved = {i: np.clip(data.x[i] + 0.05 * d, 0, 1) for i, d in found.items()}
    keep_shown_with(folder, data.x, report.inputs, found, moved)
    return report


def table_run(folder: Path, seed: int = 0, count: int = TABLE) -> Report:
    """An audit of a table, in standard deviations."""
    data = table(count)
    spread = data.x.std(axis=0)
    network = softmax_model(1, 10, 2)
    report = audit(lambda batch: network(batch / spread), data, out=folder, scale="std", queries=40, seed=seed)
    rng = np.random.default_rng(0)
    keep_shown_with(folder, data.x, report.inputs, {s.index: rng.normal(size=10) * spread for s in report.inputs})
    return report


def keep_shown_with(
    folder: Path,
    x: np.ndarray,
    inputs: list[Sensitivity],
    directions: dict[int, np.ndarray],
    witnesses: dict[int, np.ndarray] | None = None,
) -> None:
    """Keep what the page shows, with directions and witnesses where an audit leaves them; these files go again."""
    place, file = folder / "directions", folder / "witness.npz"
    place.mkdir()
    for index, direction in directions.items():
        np.save(place / f"{index:05d}.npy", direction)
    if witnesses:
        np.savez(file, index=np.array(list(witnesses)), x=np.stack(list(witnesses.values())))
    keep_shown(folder, x, inputs)
    shutil.rmtree(place)
    file.unlink(missing_ok=True)


def made_run(folder: Path, template: Report, count: int, seed: int = 0, **changes: Any) -> Report:
    """A run folder of any size without a model: values drawn log-normally, intervals as 200 queries give them."""
    rng = np.random.default_rng(seed)
    norm, radius = np.exp(rng.normal(0, 1.5, count)), np.exp(rng.normal(-1, 0.8, count))
    inputs = [
        Sensitivity(
            index=i,
            status="ok",
            method="rademacher",
            predicted_class=i % 10,
            probability=float(0.5 + 0.5 * rng.random()),
            label=i % 10 if i % 11 else (i + 1) % 10,
            group=f"site {i % 4}",
            displacement=0.01,
            queries=200,
            spectral_norm=around(norm[i], 0.1),
            peak_spectral_norm=around(2 * norm[i], 0.1),
            trace=around(1.5 * norm[i], 0.1),
            margin_radius=around(radius[i], 0.05),
            effective_rank=1.5,
            contrast=Contrast(from_=i % 10, to=(i + 1 + i % 3) % 10),
        )
        for i in range(count)
    ]
    sites = {f"site {k}": [s for s in inputs if s.group == f"site {k}"] for k in range(4)}
    report = template.model_copy(
        update={
            "data": {**template.data, "inputs": count, "measured": count},
            "summary": summarise(inputs, 0.95, 200 * count, count),
            "groups": {name: summarise(of, 0.95, 200 * len(of), 0) for name, of in sites.items()},
            "inputs": inputs if count <= 10_000 else [],
            "inputs_file": "inputs.parquet",
            **changes,
        }
    )
    folder.mkdir(parents=True, exist_ok=True)
    write_inputs(folder / "inputs.parquet", inputs)
    (folder / "report.json").write_text(report.to_json(), encoding="utf-8")
    return report


def around(value: float, error: float) -> Interval:
    """A value between its two 95 % limits."""
    return Interval(
        value=float(value), lower=float(value * np.exp(-1.96 * error)), upper=float(value * np.exp(1.96 * error))
    )


def cells(true: np.ndarray, rng: np.random.Generator, m: int = 199, restatable: bool = True) -> Cells:
    """Norms as the sketch measures them: chi squared noise, limits that miss 2.5 % a side, the lower of m - 3 terms."""
    first, rest = rng.chisquare(3, len(true)), rng.chisquare(m - 3, len(true))
    value, predicted = true * (first + rest) / m, true * rest
    counts = np.full(len(true), m) if restatable else None
    return Cells(value, predicted / stats.chi2.ppf(0.975, m - 3), value * m / stats.chi2.ppf(0.025, m), 0.025, counts)


def shapes(n: int, p: float, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """True values, hard ones among them: as many at the quantile as may be, and the others just or far beside it."""
    rank = int(np.ceil(p * (n - 1)))
    return {
        "spread": np.exp(rng.normal(0, 1.5, n)),
        "close": np.exp(rng.normal(0, 0.2, n)),
        "equal": np.ones(n),
        "rest just below": np.where(np.arange(n) < rank, 0.9, 1.0),
        "rest far below": np.where(np.arange(n) < rank, 0.001, 1.0),
        "rest far above": np.where(np.arange(n) > rank, 1000.0, 1.0),
    }
