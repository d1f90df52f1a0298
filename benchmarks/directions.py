"""Where exact directions could come from when no surrogate is given: what each source catches at inputs it did not see.

    python benchmarks/directions.py [--models DIR] [--medmnist FILE] [--inputs 300] [--only NAME ...] [--smallest]
        [--json FILE]

DIR as for ``benchmarks/realmodels.py`` (its inputs in [0, 1] are learned from by two thirds, and tried at the last one, in
turn); beside them networks that are trained here, on digits and on FILE, learned from at ``--inputs`` inputs and tried at 40
more; MNIST's networks are asked about the digits too. Every input learned from takes the 200 queries of an audit.

*4, 8, 16*: share of the energy (trace of J_s J_s^T) that so many directions catch, and *top* of the leading right singular
vector by 8, means over the inputs tried. *exact* are the same shares where exact Jacobians of the learned inputs take the
place of the estimated ones: what more queries could reach. *width* is what the best number of directions, 12 at most, would
leave of an interval's width, by the product's own rule, which asks for 0.9 or less; *pays* says which of both forms do.
So many directions must catch *even*, about q / m of the energy, to pay at all. One training and one
seed each; the best number is chosen on the inputs tried; *common* learns from all inputs here, the product from 64 at most.

Sources: *common* (``--surrogate learned`` of today, here from all inputs), *nearest k* in input space, *nearest 3 of the
class* (the predicted one), *log-odds of nearest 32* and *of all* (mean Jacobian of log p, weighted with the input's own p),
*distilled* (a network trained on the answers as directional derivatives), *another network* and *its log-odds* (of another
architecture, trained on the same data; for a given network, another given one of its inputs; its derivatives are exact).
"""

from __future__ import annotations

import sys

sys.path.append(sys.path.pop(0))  # this folder last: its http.py must not hide the standard library's

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from torch import nn

from benchmarks._study_data import Split, balanced_part, digits, medmnist
from benchmarks._study_training import Recipe, trained
from fimaudit import InputDomain, open_classifier
from fimaudit.data.arrays import Inputs
from fimaudit.engines.work import Work, measure_inputs
from fimaudit.estimation.secants import complete, log_probabilities
from fimaudit.measurement.deflation_trial import MOST_DIRECTIONS, WORTH, JacobianLearner, expected_width, usual_rows
from fimaudit.measurement.pilot import Steps, choose_steps
from fimaudit.measurement.settings import Settings
from fimaudit.measurement.surrogates import leading
from fimaudit.models.classifier import Classifier, Differentiable
from fimaudit.models.linearization import linearize
from fimaudit.models.meter import Meter
from fimaudit.perturbations.rows import CoordinateRows, Rows
from fimaudit.space import Space

SETTINGS = Settings(queries=200)
COUNTS, TRIED, FOLDS, MOST = (4, 8, 16), 40, 3, 16
#: Of the distilled network: steps, inputs a step, directions of each, weight of its answers beside their derivatives.
STEPS, BATCH, TANGENTS, VALUES = 300, 32, 4, 0.3


class RowKeeper(JacobianLearner):
    """Keeps beside the product's estimate the directions and secants of log p, (m, d) and (m, K), and the input's answer."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}

    def take(self, index: int, rows: Rows, space: Space, view: Any, answers: np.ndarray, length: float) -> None:
        super().take(index, rows, space, view, answers, length)
        logs = log_probabilities(complete(np.maximum(answers, 1e-300), view.top), view.top) / length
        sent = rows.build(0, len(answers)).reshape(len(answers), -1).astype(np.float32)
        moved = ((sent - sent.mean(axis=0)) / length).astype(np.float16)
        self.kept[index] = (moved, (logs - logs.mean(axis=0)).astype(np.float32), view.base)


@dataclass(frozen=True)
class Network:
    """An audited network: n inputs x, answers p (n, K), Jacobians of log p (n, K, d) exact and as 200 queries show them."""

    x: np.ndarray
    p: np.ndarray
    exact: np.ndarray
    estimated: np.ndarray
    taught: np.ndarray
    sent: list[np.ndarray]
    secants: list[np.ndarray]
    steps: Steps

    @property
    def features(self) -> int:
        return int(self.x[0].size)


def exact_jacobian(meter: Meter, x: np.ndarray, step: float) -> np.ndarray:
    """(K, d) of log p: derivatives, or central differences of every feature where the model has none."""
    model: Classifier = meter.model
    if isinstance(model, Differentiable):
        at = linearize(model, x[None].astype(model.info.dtype))
        classes = at.log_probabilities.shape[1]
        return np.stack([at.pull(np.eye(1, classes, k))[0].ravel() for k in range(classes)])
    flat, every = x.astype(model.info.dtype).ravel(), np.arange(x.size)
    ends = [(flat + way * step).astype(flat.dtype) for way in (1, -1)]
    answers = [meter.ask([CoordinateRows(x, every, end, model.info.dtype)])[0] for end in ends]
    top = int(answers[0].mean(axis=0).argmax())
    high, low = (log_probabilities(complete(np.maximum(p, 1e-300), top), top) for p in answers)
    return ((high - low) / (ends[0].astype(float) - ends[1])[:, None]).T


def measured(target: Any, link: str, x: np.ndarray) -> Network:
    """Measure all inputs as an audit does, keeping what it learns, and the truth."""
    model = open_classifier(target, link=link)
    meter, learner = Meter(model), RowKeeper()
    space = InputDomain(0.0, 1.0).resolve(x, model.info.dtype)
    steps = choose_steps(meter, x, space, SETTINGS)
    for _ in measure_inputs(range(len(x)), Work(Inputs(x), space, SETTINGS, steps), meter, learner):
        pass
    kept = sorted(set(learner.rows) & set(learner.kept))
    sent, secants, p = (list(part) for part in zip(*(learner.kept[i] for i in kept), strict=True))
    step = steps.displacement / float(np.sqrt(x[0].size))
    exact = np.stack([exact_jacobian(meter, x[i], step) for i in kept]).astype(np.float32)
    estimated = np.stack([z.T @ v.astype(np.float32) / len(v) for v, z in zip(sent, secants, strict=True)])
    model.close()
    taught = np.stack([learner.rows[i] for i in kept])
    return Network(x[kept], np.stack(p), exact, estimated, taught, sent, secants, steps)


def rooted(jacobian: np.ndarray, p: np.ndarray) -> np.ndarray:
    """The Jacobian of 2 sqrt(p), (K, d), of unit energy, from one of log p or of log-odds, (K, d)."""
    out = np.sqrt(p)[:, None] * (jacobian - p @ jacobian)
    return out / max(float(np.linalg.norm(out)), 1e-30)


def distilled(at: Network, learned: np.ndarray, steps: int, *, exact: bool) -> Callable[[np.ndarray], np.ndarray]:
    """A small network trained on answers and their directional derivatives; returns its Jacobian of log-odds at an input.

    With ``exact``, along fresh directions with the true derivatives. Inputs count alike, whatever their energy.
    """
    with torch.random.fork_rng():
        torch.manual_seed(0)
        body = nn.Sequential(nn.Conv2d(at.x.shape[1], 16, 5, stride=2), nn.SiLU(), nn.Conv2d(16, 32, 3, stride=2), nn.SiLU())
        classes, size = at.p.shape[1], body(torch.zeros(1, *at.x.shape[1:])).numel()
        network = nn.Sequential(body, nn.Flatten(), nn.Linear(size, classes))
    optimiser = torch.optim.AdamW(network.parameters(), 2e-3, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    rng = np.random.default_rng(0)
    for _ in range(steps):
        chosen = rng.choice(learned, BATCH)
        v, z, p = [], [], at.p[chosen].repeat(TANGENTS, axis=0)
        for i in chosen:
            t = rng.integers(0, len(at.sent[i]), TANGENTS)
            signs = rng.choice(np.float32([-1, 1]), (TANGENTS, at.features)) if exact else at.sent[i][t]
            seen, weigh = (signs @ at.exact[i].T if exact else at.secants[i][t]), np.sqrt(at.p[i])
            whole = weigh * (at.secants[i] - (at.secants[i] @ at.p[i])[:, None])
            size = np.sqrt((whole**2).sum() / len(whole))
            v.append(signs)
            z.append(np.hstack([seen, np.full((TANGENTS, 1), 1 / max(size, 1e-30))]))
        target, weight = np.split(np.concatenate(z), [-1], axis=1)
        of, factor = torch.tensor(p).float(), torch.tensor(np.sqrt(p) * weight).float()
        x = torch.tensor(at.x[chosen]).float().repeat_interleave(TANGENTS, 0)
        outputs, slopes = torch.func.jvp(network, (x,), (torch.tensor(np.concatenate(v)).float().view_as(x),))
        off = slopes - torch.tensor(target).float()
        loss = ((factor * (off - (of * off).sum(1, keepdim=True))) ** 2).sum(1).mean()
        loss = loss + VALUES * nn.functional.cross_entropy(outputs[::TANGENTS], of[::TANGENTS])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    jacobian = torch.func.jacrev(network)
    return lambda x: jacobian(torch.tensor(x[None]).float())[0].detach().numpy().reshape(classes, -1)


def sources(
    at: Network, other: Network, i: int, learned: np.ndarray, students: list[Callable[[np.ndarray], np.ndarray]]
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Name, and rows whose leading directions are taken: from the estimated and from the exact Jacobians."""
    apart = ((at.x[learned] - at.x[i]) ** 2).reshape(len(learned), -1).sum(axis=1)
    near = learned[np.argsort(apart, kind="stable")]
    alike = near[at.p[near].argmax(axis=1) == at.p[i].argmax()]

    def whole(of: np.ndarray) -> np.ndarray:
        return np.concatenate([rooted(at.exact[k], at.p[k]) for k in of])

    def average(of: np.ndarray) -> list[np.ndarray]:
        return [np.sum([rooted(j[k], at.p[i]) for k in of], axis=0) for j in (at.estimated, at.exact)]

    for name, of in (
        ("common", near),
        *((f"nearest {k}", near[:k]) for k in (1, 3, 8)),
        ("nearest 3 of the class", alike[:3]),
    ):
        if len(of):
            yield name, np.concatenate(at.taught[of]), whole(of)
    for name, of in (("log-odds of nearest 32", near[:32]), ("log-odds of all", near)):
        yield name, *average(of)
    yield "distilled", *(rooted(student(at.x[i]), at.p[i]) for student in students)
    for name, p in (("another network", other.p[i]), ("its log-odds", at.p[i])):
        yield name, rooted(other.exact[i], p), rooted(other.exact[i], p)


def figures(at: Network, other: Network, folds: list[tuple[np.ndarray, np.ndarray]], steps: int) -> list[dict[str, Any]]:
    """One row a source: mean shares over all inputs tried."""
    shares: dict[str, list[np.ndarray]] = {}
    for learned, tried in folds:
        students = [distilled(at, learned, steps, exact=exact) for exact in (False, True)]
        for i in tried:
            truth = rooted(at.exact[i], at.p[i])
            top = np.linalg.svd(truth, full_matrices=False)[2][0]
            for name, *rows in sources(at, other, i, learned, students):
                both = []
                for one in rows:
                    found = leading(np.asarray(one, np.float64), MOST)
                    caught = np.stack([((truth @ found.T) ** 2).sum(axis=0), (found @ top) ** 2])
                    padded = np.pad(caught, ((0, 0), (1, MOST - len(found))))
                    both.append(np.cumsum(padded, axis=1))
                shares.setdefault(name, []).append(np.stack(both))

    def rows_beside(q: int) -> int:
        return usual_rows(SETTINGS, at.steps, q)

    usual = expected_width(rows_beside(0), at.features, SETTINGS.confidence)
    out = []
    for name, each in shares.items():
        mean = np.mean(each, axis=0)  # (estimated and exact, trace and top, 0 to MOST directions)
        kept = [
            expected_width(rows_beside(q), at.features - q, SETTINGS.confidence) / usual for q in range(MOST_DIRECTIONS + 1)
        ]
        width, exact_width = (float(np.min((1 - of[0, : MOST_DIRECTIONS + 1]) * kept)) for of in mean)
        caught = [{"energy": [float(of[0, q]) for q in COUNTS], "top": [float(of[1, q]) for q in COUNTS]} for of in mean]
        out.append({"source": name, "tried": len(each), "estimated": caught[0], "exact": caught[1], "width": width,
                    "exact_width": exact_width, "even": [q / rows_beside(0) for q in COUNTS]})  # fmt: skip
    return out


def cases(options: argparse.Namespace) -> Iterator[tuple[str, Callable[[], tuple[Network, Network]]]]:
    """Name, and what measures it and the other network."""
    measure: dict[str, Network] = {}

    def once(name: str, target: Any, link: str, x: np.ndarray) -> Network:
        if name not in measure:
            measure[name] = measured(target, link, x)
        return measure[name]

    sets: list[tuple[Split, float]] = [(digits(), 0.8)]
    if options.medmnist:
        sets.append((balanced_part(medmnist(options.medmnist), 1_600), 0.5))
    for split, eps in sets:
        chosen = [("VGG", "plain"), ("ResNet", "pgd"), ("MLP", "plain")]

        def of(which: tuple[str, str], split: Split = split, eps: float = eps) -> Network:
            network = trained(*which, split, Recipe(8, eps, 3, 0.1), 0)
            return once(f"{split.name} {' '.join(which)}", network, "softmax", split.test_x[: options.inputs + TRIED])

        for k, which in enumerate(chosen):
            yield f"{split.name} {' '.join(which)}", lambda a=which, b=chosen[k - 1]: (of(a), of(b))
    if options.models is None:
        return
    truth = json.loads((options.models / "truth.json").read_text(encoding="utf-8"))
    inputs = {name: np.load(options.models / f"{name}.npz")["x"] for name in truth}
    images = [name for name, x in inputs.items() if x.ndim == 4]

    def given(name: str, x: np.ndarray, of: str) -> Network:
        return once(f"{name} {of}", str(options.models / f"{name}.onnx"), truth[name]["link"], x)

    for name in images:
        alike = [one for one in images if np.array_equal(inputs[one], inputs[name])]
        beside = alike[alike.index(name) - 1]
        yield name, lambda a=name, b=beside: (given(a, inputs[a], "own"), given(b, inputs[a], "own"))
        more = sets[0][0].test_x[: options.inputs + TRIED]
        if inputs[name].shape[1:] == more.shape[1:]:
            yield f"{name} on digits", lambda a=name, b=beside, x=more: (given(a, x, "digits"), given(b, x, "digits"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path)
    parser.add_argument("--medmnist", type=Path)
    parser.add_argument("--inputs", type=int, default=300)
    parser.add_argument("--only", nargs="*", help="names of networks")
    parser.add_argument("--smallest", action="store_true", help="60 inputs and a short training: whether it runs")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.inputs = 60 if options.smallest else options.inputs
    found: dict[str, list[dict[str, Any]]] = {}
    for name, networks in cases(options):
        if options.only and name not in options.only:
            continue
        at, other = networks()
        order = np.arange(len(at.x))
        if len(at.x) > 2 * TRIED:
            folds = [(order[:-TRIED], order[-TRIED:])]
        else:
            folds = [(order[order % FOLDS != k], order[order % FOLDS == k]) for k in range(FOLDS)]
        found[name] = figures(at, other, folds, 20 if options.smallest else STEPS)
        even = ", ".join(f"{q}: {100 * share:.1f} %" for q, share in zip(COUNTS, found[name][0]["even"], strict=True))
        print(f"{name}: {at.features} features, learned from {len(folds[0][0])} inputs; even {even}")
        for row in found[name]:
            own, exact = (row[form]["energy"] + row[form]["top"][1:2] for form in ("estimated", "exact"))
            pays = " ".join(form for form, key in (("pays", "width"), ("exact", "exact_width")) if row[key] < WORTH)
            cells = [" ".join(f"{100 * share:5.1f}" for share in part) for part in (own, exact)]
            width = f"{row['width']:.2f} {row['exact_width']:.2f}"
            print(f"  {row['source']:24} {cells[0]}  exact {cells[1]}  width {width} {pays}")
        sys.stdout.flush()
    if options.json:
        options.json.write_text(json.dumps({"networks": found}, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
