"""The main job on real data that ships with scikit-learn: train, export to ONNX, audit the file, compare with the truth."""

from __future__ import annotations

import importlib.util
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.table import Table

from fimaudit.audit_report import Report
from fimaudit.baselines import rayleigh_max
from fimaudit.errors import MissingExtraError
from fimaudit.estimation.secants import complete
from fimaudit.models.meter import Meter
from fimaudit.models.opening import open_classifier
from fimaudit.perturbations.random_signs import generator
from fimaudit.perturbations.rows import PlainRows
from fimaudit.results import QUANTITY_TITLES, Interval
from fimaudit.runs.auditing import audit
from fimaudit.statistics.spread import evenly_spread

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["DemoComparison", "run_demo"]

Array = NDArray[np.float64]

SEED = 0
#: A population p95 has a finite upper limit from 72 inputs on.
INPUTS = 100
QUERIES = 200
SHOWN = 3
OVERSTATES = "local_radius_overstates"
#: Random stream of the baseline's directions, apart from the audit's own (``directions.generator``).
BASELINE = 101


@dataclass(frozen=True)
class DemoComparison:
    """One audited model beside the truth.

    Attributes:
        name: the run folder's name.
        accuracy: of the trained network on inputs that it did not see.
        report: the audit of the ONNX file, from probabilities only.
        spectral_norm, peak_spectral_norm, margin_radius: (n,) exact values, float64 autograd through the torch original.
        rayleigh_max: (n,) the published estimator's readings, from as many rows.
        rayleigh_queries: rows that those readings took.
        folder: the run folder.
    """

    name: str
    accuracy: float
    report: Report
    spectral_norm: Array
    peak_spectral_norm: Array
    margin_radius: Array
    rayleigh_max: Array
    rayleigh_queries: int
    folder: Path


@dataclass(frozen=True)
class _Case:
    """A trained network with the inputs to audit it on."""

    name: str
    title: str
    network: nn.Module
    accuracy: float
    x: NDArray[np.float32]
    y: NDArray[np.int64]
    domain: dict[str, Any]


def run_demo(out: Path, console: Console | None = None) -> list[DemoComparison]:
    """Train two small networks, export both to ONNX, audit each file from its probabilities, and print the truth beside it.

    A CNN on scikit-learn's digits (8 x 8, scaled up to 28 x 28) and an MLP on its breast cancer data, both seeded.

    Args:
        out: where the models, their inputs and the run folders go.
        console: where to print.

    Raises:
        MissingExtraError: torch, onnx, onnxruntime or scikit-learn is not installed.
    """
    for package, extra in (("torch", "torch"), ("onnx", "onnx"), ("onnxruntime", "onnx"), ("sklearn", "sklearn")):
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError("the demo", package, extra)
    console = console or Console()
    started = time.perf_counter()
    out.mkdir(parents=True, exist_ok=True)
    compared = []
    for make in (_digits, _breast_cancer):
        case = make()
        compared.append(_compare(case, out))
        _show(console, case, compared[-1])
    console.print(f"{time.perf_counter() - started:.0f} s in all. Run folders:", highlight=False)
    for one in compared:
        console.print(f"  {one.folder}", highlight=False, soft_wrap=True)
    return compared


def _digits() -> _Case:
    import torch
    from sklearn.datasets import load_digits
    from torch import nn

    images, labels = load_digits(return_X_y=True)
    small = torch.tensor(images.reshape(-1, 1, 8, 8) / 16.0, dtype=torch.float32)
    x = nn.functional.interpolate(small, size=(28, 28), mode="bilinear", align_corners=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        network = nn.Sequential(
            nn.Conv2d(1, 8, 5, stride=2),
            nn.ReLU(),
            nn.Conv2d(8, 16, 3, stride=2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(400, 10),
        )
        accuracy, test = _train(network, x, labels, epochs=10)
    title = "digits: CNN, 10 classes, 784 features (8 x 8 pixels scaled up to 28 x 28)"
    domain = {"lower": 0.0, "upper": 1.0, "unit": "full grey range"}
    return _Case("digits", title, network, accuracy, x.numpy()[test], labels[test].astype(np.int64), domain)


def _breast_cancer() -> _Case:
    import torch
    from sklearn.datasets import load_breast_cancer
    from torch import nn

    table, labels = load_breast_cancer(return_X_y=True)
    x = torch.tensor((table - table.mean(axis=0)) / table.std(axis=0), dtype=torch.float32)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        network = nn.Sequential(nn.Linear(30, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 2))
        accuracy, test = _train(network, x, labels, epochs=8)
    title = "breast cancer: MLP, 2 classes, 30 features, standardised"
    domain = {"unit": "standard deviation of the feature"}
    return _Case("breast_cancer", title, network, accuracy, x.numpy()[test], labels[test].astype(np.int64), domain)


def _train(network: nn.Module, x: Tensor, labels: NDArray[Any], epochs: int) -> tuple[float, NDArray[np.int64]]:
    """Train on four fifths; return the accuracy on the last fifth and the first ``INPUTS`` positions there."""
    import torch
    from torch import nn

    y = torch.tensor(labels, dtype=torch.int64)
    order = torch.randperm(len(x))
    train, test = order[: len(x) * 4 // 5], order[len(x) * 4 // 5 :]
    optimiser = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=1e-2)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # networks this small wait for their threads more than they gain by them
    try:
        for _ in range(epochs):
            for batch in torch.split(train[torch.randperm(len(train))], 32):
                optimiser.zero_grad()
                loss = nn.functional.cross_entropy(network(x[batch]), y[batch])
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
    finally:
        torch.set_num_threads(threads)
    network.eval()
    with torch.no_grad():
        accuracy = float((network(x[test]).argmax(1) == y[test]).double().mean())
    return accuracy, test[:INPUTS].numpy()


def _compare(case: _Case, out: Path) -> DemoComparison:
    path, data, folder = out / f"{case.name}.onnx", out / f"{case.name}.npz", out / case.name
    _export(case.network, case.x, path)
    np.savez(data, x=case.x, y=case.y)
    report = audit(path, data, link="softmax", queries=QUERIES, seed=SEED, out=folder, overwrite=True, **case.domain)
    exact = _exact(case.network, case.x)
    published, rows = _published(path, case.x, [s.displacement for s in report.inputs])
    return DemoComparison(case.name, case.accuracy, report, *exact, published, rows, folder)


def _export(network: nn.Module, x: NDArray[np.float32], path: Path) -> None:
    """Write the network as ONNX with logits as output and a free batch axis."""
    import torch

    axes = {"x": {0: "n"}, "logits": {0: "n"}}
    with warnings.catch_warnings():
        # The newer exporter takes 15 s for a network of this size and needs one more package; this one is deprecated.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network,
            (torch.from_numpy(x[:1]),),
            path,
            dynamo=False,
            verbose=False,
            input_names=["x"],
            output_names=["logits"],
            dynamic_axes=axes,
        )


def _exact(network: nn.Module, x: NDArray[np.float32]) -> tuple[Array, Array, Array]:
    """Spectral norm, its peak and the margin radius at each input, by autograd in float64."""
    from fimaudit.whitebox.measure import exact_reference

    model = open_classifier(network, "softmax", device="cpu")
    try:
        truth = exact_reference(model, x)
    finally:
        model.close()
    found = [(one.spectral_norm, one.peak_spectral_norm, one.margin_radius) for one in truth]
    norms, peaks, radii = np.array(found, dtype=np.float64).T
    return norms, peaks, radii


def _published(path: Path, x: NDArray[np.float32], displacements: list[float | None]) -> tuple[Array, int]:
    """The published estimator at each input, with as many rows and the same displacements; and the rows it took."""
    model = open_classifier(path, "softmax")
    readings = []
    try:
        meter = Meter(model)
        for index, (point, length) in enumerate(zip(x, displacements, strict=True)):
            step = length or 1e-2
            directions = generator(SEED, index, BASELINE).standard_normal((QUERIES - 1, point.size))
            directions /= np.linalg.norm(directions, axis=1, keepdims=True)
            moved = (point + step * directions.reshape(-1, *point.shape)).astype(np.float32)
            answers = meter.ask([PlainRows(np.concatenate([point[None], moved]))])[0]
            roots = 2.0 * np.sqrt(complete(answers, int(np.argmax(answers[0]))))
            readings.append(rayleigh_max((roots[1:] - roots[0]) / step))
        return np.array(readings), meter.usage.rows
    finally:
        model.close()


def _show(console: Console, case: _Case, one: DemoComparison) -> None:
    inputs, summary = one.report.inputs, one.report.summary
    console.print(f"[bold]{case.title}[/bold]", highlight=False)
    console.print(
        f"accuracy {100 * one.accuracy:.1f} %; {case.name}.onnx audited from its probabilities alone:\n"
        f"{len(inputs)} inputs, {QUERIES} queries each, {summary.queries:,} with pilot and checks",
        highlight=False,
    )
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 2, 0, 0))
    for name in ("input", "", "estimate [95 %]", "exact", "rayleigh_max"):
        table.add_column(name, justify="right" if name in ("exact", "rayleigh_max") else "left", no_wrap=True)
    shares = one.rayleigh_max / one.spectral_norm
    medians = {name: getattr(summary, name).median for name in QUANTITY_TITLES}
    _add(
        table,
        "median",
        medians,
        {name: float(np.median(getattr(one, name))) for name in QUANTITY_TITLES},
        float(np.median(shares)),
    )
    for place in evenly_spread(len(inputs), SHOWN):
        measured = {name: getattr(inputs[place], name) for name in QUANTITY_TITLES}
        exact = {name: float(getattr(one, name)[place]) for name in QUANTITY_TITLES}
        _add(table, str(inputs[place].index), measured, exact, float(shares[place]))
    console.print(table)
    cut = [OVERSTATES in s.flags for s in inputs]
    for name, label in QUANTITY_TITLES.items():
        kept = [i for i in range(len(inputs)) if name != "margin_radius" or not cut[i]]
        intervals, exact_values = [getattr(inputs[i], name) for i in kept], getattr(one, name)[kept]
        console.print(_verdict(label, intervals, exact_values), highlight=False)
    if any(cut):
        console.print(f"{sum(cut)} more radii were cut, as another decision lies nearer", highlight=False)
    console.print(
        f"rayleigh_max (published): median {100 * float(np.median(shares)):.2g} % of the exact norm; "
        f"{one.rayleigh_queries:,} more queries\n",
        highlight=False,
        soft_wrap=True,
    )


def _add(table: Table, index: str, measured: dict[str, Interval], exact: dict[str, float], share: float) -> None:
    """One input's rows; the published estimator stands beside the spectral norm, which it estimates."""
    for name, label in QUANTITY_TITLES.items():
        first = name == "spectral_norm"
        published = f"{100 * share:.2g} %" if first else ""
        table.add_row(index if first else "", label, _text(measured[name]), f"{exact[name]:.3g}", published)


def _verdict(name: str, intervals: list[Interval], exact: Array) -> str:
    """Median error, and how many intervals cover the exact value."""
    errors = [abs(i.value / e - 1) for i, e in zip(intervals, exact, strict=True) if i.value is not None]
    covered = sum(
        (i.lower is None or i.lower <= e) and (i.upper is None or e <= i.upper)
        for i, e in zip(intervals, exact, strict=True)
    )
    miss = f"{100 * float(np.median(errors)):.2g} %" if errors else "not measured"
    return f"{name}: median error {miss}; {covered} of {len(exact)} intervals hold the exact value"


def _text(interval: Interval) -> str:
    low, value, high = (("-" if v is None else f"{v:.3g}") for v in (interval.lower, interval.value, interval.upper))
    return f"{value} [{low}, {high}]"
