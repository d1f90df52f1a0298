"""Endpoints that look robust while every decision stays as it is, and honest ones with oddities: which are distinguished.

    python benchmarks/hostile.py [--seeds 5] [--first 0] [--inputs 16] [--queries 200] [--models DIR]
                                 [--model digits|breast cancer|NAME] [--only CASE ...] [--json FILE]

Each is wrapped around a small network on real data whose exact numbers are known (derivatives in float64), and with --models
around each ONNX file of a folder as ``realmodels.py`` takes it, where two files take the same inputs. A run of a
hostile one is *found* where an integrity check is contradicted, *refused* where fewer than half of the inputs get a lower
limit of their margin radius and no flag (or none is measured), *right* where the medians of norm and radius are within a
factor of 1.5 of the exact ones all the same; else *missed*. An honest one that is contradicted is a *false alarm*.
"""

from __future__ import annotations

import sys

sys.path.append(sys.path.pop(0))  # this folder last: its http.py must not hide the standard library's

import argparse
import io
import json
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _models import overfit_tanh
from _subjects import TRAINED, Answer, Subject, answers, onnx_subjects, softmax, trained_subject
from PIL import Image
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier

from fimaudit import Report, audit

#: Factor within which the medians count as right, and share of the inputs that must claim something to be judged.
RIGHT, CLAIMED = 1.5, 0.5
#: Flags that leave a claim as it is.
HARMLESS = {"own_step"}


def one_hot(p: np.ndarray) -> np.ndarray:
    return np.eye(p.shape[1])[p.argmax(axis=1)]


def logs(p: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(p, 1e-300))


# --- hostile: each takes the honest answers and gives others with the same decisions


def blended(answer: Answer, share: float) -> Answer:
    return lambda b: (1 - share) * one_hot(p := answer(b)) + share * p


def jumped(answer: Answer, shrunk: float) -> Answer:
    return lambda b: softmax(shrunk * logs(p := answer(b)) + 2 * one_hot(p))


def floored(answer: Answer, least: float) -> Answer:
    def f(b: np.ndarray) -> np.ndarray:
        p = np.maximum(answer(b), least)
        return p / p.sum(axis=1, keepdims=True)

    return f


def by_rank(answer: Answer) -> Answer:
    def f(b: np.ndarray) -> np.ndarray:
        p = answer(b)
        scores = np.array([0.9, *[0.1 / (p.shape[1] - 1)] * (p.shape[1] - 1)])
        out = np.empty_like(p)
        np.put_along_axis(out, np.argsort(-p, axis=1), np.tile(scores, (len(p), 1)), 1)
        return out

    return f


def margins(answer: Answer, shape: Callable[[np.ndarray], np.ndarray]) -> Answer:
    """The log-odds to the winner, changed by an increasing function."""
    return lambda b: softmax(-shape(logs(p := answer(b)).max(axis=1, keepdims=True) - logs(p)))


class Remembers:
    """Near an earlier row it answers that again (``shrunk`` 0), or a step of it that is shrunk.

    Attributes:
        reach: l2 distance from which a row is new.
        after: near-duplicates of a row that are answered honestly first.
        first: compare with the earliest row in reach rather than the nearest.
        memo: answer each exact row the same for good.
        every: keep every row, not new ones only.
    """

    def __init__(
        self,
        answer: Answer,
        reach: float,
        shrunk: float,
        after: int = 0,
        first: bool = False,
        memo: bool = False,
        every: bool = False,
    ) -> None:
        self.answer, self.reach, self.shrunk, self.after = answer, reach, shrunk, after
        self.first, self.memo, self.every = first, memo, every
        self.rows: list[np.ndarray] = []
        self.hits: list[int] = []
        self.known: dict[bytes, np.ndarray] = {}

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        return np.array([self._one(np.asarray(row, np.float32)) for row in batch])

    def _one(self, row: np.ndarray) -> np.ndarray:
        key = row.tobytes()
        if self.memo and key in self.known:
            return self.known[key]
        found = self.answer(self._instead(row)[None])[0]
        if self.memo:
            self.known[key] = found
        return found

    def _instead(self, row: np.ndarray) -> np.ndarray:
        """The row that is answered."""
        flat, instead, new = row.ravel(), row, True
        if self.rows:
            distance = np.linalg.norm(np.array(self.rows) - flat, axis=1)
            near = distance < self.reach
            at = int(np.argmax(near)) if self.first else int(distance.argmin())
            if near[at]:
                new = False
                self.hits[at] += 1
                if self.hits[at] > self.after:
                    centre = self.rows[at].reshape(row.shape)
                    instead = (centre + self.shrunk * (row - centre)).astype(np.float32)
        if new or self.every:
            self.rows.append(flat.copy())
            self.hits.append(0)
        return instead


def hashed(answer: Answer, share: float, other: Answer) -> Answer:
    """Another model answers a share of the rows, by their checksum; decisions stay."""

    def f(b: np.ndarray) -> np.ndarray:
        p, q = answer(b), other(b)
        mine = np.array([zlib.crc32(np.asarray(r, np.float32).tobytes()) % 1000 >= 1000 * share for r in b])
        same = q.argmax(axis=1) == p.argmax(axis=1)
        return np.where((mine | ~same)[:, None], p, q)

    return f


def hash_noise(answer: Answer, size: float) -> Answer:
    """Noise that the row's checksum draws, so that a repeated row is answered alike."""

    def f(b: np.ndarray) -> np.ndarray:
        p = answer(b)
        keys = [zlib.crc32(np.asarray(r, np.float32).tobytes()) for r in b]
        drawn = np.array([np.random.default_rng(k).standard_normal(p.shape[1]) for k in keys])
        return softmax(logs(p) + size * drawn)

    return f


HOSTILE: dict[str, Callable[[Answer, Answer], Answer]] = {
    "blend 1e-6": lambda a, _: blended(a, 1e-6),
    "blend 0.01": lambda a, _: blended(a, 0.01),
    "blend 0.5": lambda a, _: blended(a, 0.5),
    "logits x 0.1, winner + 2": lambda a, _: jumped(a, 0.1),
    "logits x 0.01, winner + 2": lambda a, _: jumped(a, 0.01),
    "winner + 2": lambda a, _: jumped(a, 1.0),
    "scores below 0.01 floored": lambda a, _: floored(a, 0.01),
    "by rank": lambda a, _: by_rank(a),
    "one-hot": lambda a, _: lambda b: one_hot(a(b)),
    "margin ^ 0.25": lambda a, _: margins(a, lambda m: m**0.25),
    "margins in steps of 3": lambda a, _: margins(a, lambda m: 3 * np.floor(m / 3) + 0.01 * m),
    "steep near the boundary": lambda a, _: margins(a, lambda m: np.minimum(m, 0.3) * 10 + 0.05 * m),
    "cache 0.3": lambda a, _: Remembers(a, 0.3, 0.0),
    "cache 1": lambda a, _: Remembers(a, 1.0, 0.0),
    "cache 3": lambda a, _: Remembers(a, 3.0, 0.0),
    "shrunk 0.3": lambda a, _: Remembers(a, 0.3, 0.1),
    "shrunk 1": lambda a, _: Remembers(a, 1.0, 0.1),
    "shrunk 3": lambda a, _: Remembers(a, 3.0, 0.1),
    "shrunk 3 to half": lambda a, _: Remembers(a, 3.0, 0.5),
    "shrunk 3, every row kept": lambda a, _: Remembers(a, 3.0, 0.1, every=True),
    "shrunk 3, first match, memory": lambda a, _: Remembers(a, 3.0, 0.1, first=True, memo=True),
    "shrunk 3 after 20": lambda a, _: Remembers(a, 3.0, 0.1, after=20),
    "shrunk 3 after 100": lambda a, _: Remembers(a, 3.0, 0.1, after=100),
    "frozen 3 after 100": lambda a, _: Remembers(a, 3.0, 0.0, after=100),
    "half the rows by another model": lambda a, o: hashed(a, 0.5, o),
    "a tenth by another model": lambda a, o: hashed(a, 0.1, o),
    "noise from a checksum": lambda a, _: hash_noise(a, 0.05),
}


def flattened(p: np.ndarray, by: np.ndarray | float) -> np.ndarray:
    """Logits times ``by`` (a number, or one a row), and a constant for the winner: decisions stay, slopes shrink."""
    share = np.asarray(by, dtype=np.float64).reshape(-1, 1)
    return softmax(share * logs(p) + 2 * (1 - share) * one_hot(p))


def keyed(answer: Answer, cell: float, share: float, other: Answer) -> Answer:
    """Another model answers a share of the rows, by the checksum of the cell of a grid that they lie in."""

    def f(b: np.ndarray) -> np.ndarray:
        p, q = answer(b), other(b)
        mine = np.array(
            [zlib.crc32(np.round(np.asarray(r) / cell).astype(np.int32).tobytes()) % 1000 >= 1000 * share for r in b]
        )
        return np.where((mine | (q.argmax(axis=1) != p.argmax(axis=1)))[:, None], p, q)

    return f


def cell_noise(answer: Answer, cell: float, size: float) -> Answer:
    """Noise that is the same within a cell of a grid, and keeps decisions."""

    def f(b: np.ndarray) -> np.ndarray:
        p = answer(b)
        keys = [zlib.crc32(np.round(np.asarray(r) / cell).astype(np.int32).tobytes()) for r in b]
        drawn = np.array([np.random.default_rng(k).standard_normal(p.shape[1]) for k in keys])
        q = softmax(logs(p) + size * drawn)
        return np.where((q.argmax(axis=1) == p.argmax(axis=1))[:, None], q, p)

    return f


class Counting:
    """Answers are flattened by how many rows, or calls, came before."""

    def __init__(self, answer: Answer, by: Callable[[int, int], float]) -> None:
        self.answer, self.by, self.rows, self.calls = answer, by, 0, 0

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        share = self.by(self.rows, self.calls)
        self.rows, self.calls = self.rows + len(batch), self.calls + 1
        return flattened(self.answer(batch), share)


def by_distance(answer: Answer, data: np.ndarray, share: Callable[[np.ndarray], np.ndarray]) -> Answer:
    """Answers are flattened by the distance to the nearest row of the data."""
    known = data.reshape(len(data), -1).astype(np.float64)

    def f(b: np.ndarray) -> np.ndarray:
        flat = np.asarray(b, np.float64).reshape(len(b), -1)
        distance = np.sqrt(np.maximum(((flat[:, None] - known[None]) ** 2).sum(axis=2), 0)).min(axis=1)
        return flattened(answer(b), share(distance))

    return f


def in_crowds(answer: Answer, reach: float, many: int) -> Answer:
    """Within one call, rows that have many others in reach are answered by a tenth of their step from the first of them."""

    def f(b: np.ndarray) -> np.ndarray:
        flat = np.asarray(b, np.float32).reshape(len(b), -1)
        rows, left = flat.copy(), np.arange(len(b))
        while left.size:
            near = left[np.linalg.norm(flat[left] - flat[left[0]], axis=1) < reach]
            if near.size >= many:
                rows[near] = flat[near[0]] + 0.1 * (flat[near] - flat[near[0]])
            left = np.setdiff1d(left, near)
        return answer(rows.reshape(np.shape(b)))

    return f


def of_some_classes(answer: Answer, changed: Answer, share: float) -> Answer:
    """Changed where the winner is among the first of the classes."""

    def f(b: np.ndarray) -> np.ndarray:
        p = answer(b)
        some = p.argmax(axis=1) < max(1, round(share * p.shape[1]))
        return np.where(some[:, None], changed(b), p)

    return f


def capped(answer: Answer, most: float) -> Answer:
    def f(b: np.ndarray) -> np.ndarray:
        p = answer(b)
        top = p.max(axis=1, keepdims=True)
        less = np.where(p == top, most, p * (1 - most) / np.maximum(1 - top, 1e-300))
        return np.where(top > most, less, p)

    return f


def off_grid(answer: Answer, step: float) -> Answer:
    """Rows that do not lie on the levels of the data are flattened."""

    def f(b: np.ndarray) -> np.ndarray:
        flat = np.asarray(b, np.float64).reshape(len(b), -1)
        off = np.abs(flat / step - np.round(flat / step)).max(axis=1) > 1e-3
        return flattened(answer(b), np.where(off, 0.1, 1.0))

    return f


#: Manipulations that the checks were not made for; each knows the audited inputs too.
FURTHER: dict[str, Callable[[Answer, Answer, np.ndarray], Answer]] = {
    "half by another model, by rounded rows": lambda a, o, x: keyed(a, 0.1, 0.5, o),
    "a tenth by another model, by rounded rows": lambda a, o, x: keyed(a, 0.1, 0.1, o),
    "noise of a coarse cell": lambda a, o, x: cell_noise(a, 0.25, 0.3),
    "flatter with every row": lambda a, o, x: Counting(a, lambda rows, _: max(0.1, 1 - rows / 3000)),
    "flat from the 1000th row": lambda a, o, x: Counting(a, lambda rows, _: 1.0 if rows < 1000 else 0.1),
    "flat in every second call": lambda a, o, x: Counting(a, lambda _, calls: 1.0 if calls % 2 else 0.1),
    "flat but in the first 100 rows": lambda a, o, x: Counting(a, lambda rows, _: 1.0 if rows < 100 else 0.1),
    "flat for 500 rows, honest after": lambda a, o, x: Counting(a, lambda rows, _: 0.1 if rows < 500 else 1.0),
    "flat off the grid": lambda a, o, x: off_grid(a, 1 / 16),
    "flat near the data": lambda a, o, x: by_distance(a, x, lambda d: np.clip(0.1 + 0.9 * (d - 0.5), 0.1, 1.0)),
    "flat at the data, smoothly": lambda a, o, x: by_distance(a, x, lambda d: 1 - 0.9 * np.exp(-((d / 0.7) ** 2))),
    "flat far from the data": lambda a, o, x: by_distance(a, x, lambda d: np.where(d > 0.02, 0.1, 1.0)),
    "first answer within 1 again": lambda a, o, x: Remembers(a, 1.0, 0.0, first=True, memo=True),
    "crowds of a call shrunk": lambda a, o, x: in_crowds(a, 2.0, 16),
    "single rows honest, others flat": lambda a, o, x: lambda b: flattened(a(b), 1.0 if len(b) == 1 else 0.1),
    "confidence capped at 0.9": lambda a, o, x: capped(a, 0.9),
    "a third of the classes blended": lambda a, o, x: of_some_classes(a, blended(a, 0.01), 0.34),
    "a third of the classes flat": lambda a, o, x: of_some_classes(a, jumped(a, 0.1), 0.34),
}


# --- honest, with oddities


def jpeg(batch: np.ndarray, quality: int = 75) -> np.ndarray:
    out = []
    for row in np.asarray(batch, np.float32):
        kept, levels = io.BytesIO(), np.round(255 * np.clip(row, 0, 1)).astype(np.uint8)
        Image.fromarray(levels[0] if len(levels) == 1 else levels.transpose(1, 2, 0)).save(kept, "JPEG", quality=quality)
        read = np.asarray(Image.open(kept), np.float32) / 255
        out.append(read[None] if read.ndim == 2 else read.transpose(2, 0, 1))
    return np.array(out)


def resized(batch: np.ndarray) -> np.ndarray:
    x = torch.as_tensor(np.asarray(batch, np.float32))
    small = torch.nn.functional.interpolate(x, scale_factor=0.75, mode="bilinear", align_corners=False)
    return torch.nn.functional.interpolate(small, size=x.shape[2:], mode="bilinear", align_corners=False).numpy()


def top(p: np.ndarray, count: int) -> np.ndarray:
    kept = p * (p >= np.sort(p, axis=1)[:, -count][:, None])
    return kept / kept.sum(axis=1, keepdims=True)


def jitter(answer: Answer, size: float, seed: int = 0) -> Answer:
    rng = np.random.default_rng(seed)
    return lambda b: answer(np.asarray(b, np.float32) + size * rng.standard_normal(np.shape(b)).astype(np.float32))


def among_others(answer: Answer) -> Answer:
    """A scale that the largest row of the call sets, as dynamic int8 does."""

    def f(b: np.ndarray) -> np.ndarray:
        step = float(np.abs(b).max()) / 127 or 1.0
        return answer(np.round(np.asarray(b) / step) * step)

    return f


def dropping(honest: Any) -> Answer:
    """Dropout that is on in service."""

    def f(b: np.ndarray) -> np.ndarray:
        honest.train()
        found = answers(honest)(b)
        honest.eval()
        return found

    return f


def fitted(subject: Subject, kind: Any) -> Answer:
    """Trees on the answers' decisions at inputs around the data."""
    rng = np.random.default_rng(0)
    flat = subject.x.reshape(len(subject.x), -1)
    x = np.repeat(flat, 20, axis=0) + 0.3 * rng.standard_normal((20 * len(flat), flat.shape[1]))
    y = subject.answer(x.reshape(-1, *subject.x.shape[1:])).argmax(axis=1)
    model = kind.fit(x, y)
    return lambda b: model.predict_proba(np.asarray(b).reshape(len(b), -1))


def oddities(subject: Subject) -> dict[str, Callable[[], Answer]]:
    """Honest endpoints around one classifier."""
    a, other = subject.answer, subject.other
    found: dict[str, Callable[[], Answer]] = {"plain": lambda: a}
    for decimals in (6, 4, 3, 2):
        found[f"{decimals} decimals"] = lambda n=decimals: lambda b: np.round(a(b), n)
    found |= {
        "8-bit inputs": lambda: lambda b: a(np.round(np.asarray(b) * 255) / 255),
        "16 levels": lambda: lambda b: a(np.round(np.asarray(b) * 16) / 16),
        "jitter 0.001": lambda: jitter(a, 0.001),
        "jitter 0.03": lambda: jitter(a, 0.03),
        "top 2": lambda: lambda b: top(a(b), 2),
        "half precision": lambda: lambda b: softmax(logs(a(b)).astype(np.float16).astype(np.float64)),
        "batch effect": lambda: among_others(a),
        "temperature 5": lambda: lambda b: softmax(logs(a(b)) / 5),
        "temperature 0.2": lambda: lambda b: softmax(logs(a(b)) * 5),
        "two models' mean": lambda: lambda b: (a(b) + other(b)) / 2,
        "random forest": lambda: fitted(subject, RandomForestClassifier(50, random_state=0)),
        "boosted trees": lambda: fitted(subject, HistGradientBoostingClassifier(max_iter=30, random_state=0)),
    }
    if subject.network is not None:
        found["dropout"] = lambda: dropping(subject.network)
    if subject.name == "digits":
        found["an overfit tanh network"] = lambda: answers(overfit_tanh())
    if subject.x.ndim == 4:
        found |= {"JPEG": lambda: lambda b: a(jpeg(b)), "resized": lambda: lambda b: a(resized(b))}
    return found


# --- scores


def judged(report: Report, exact: list[tuple[float, float]]) -> str:
    """``found``, ``refused``, ``right`` or ``missed``."""
    if report.contradicted:
        return "found"
    claims = [s for s in report.inputs if s.status == "ok" and s.margin_radius.lower and not set(s.flags) - HARMLESS]
    if len(claims) < CLAIMED * len(report.inputs):
        return "refused"
    for place, name in enumerate(("spectral_norm", "margin_radius")):
        ratios = [getattr(s, name).value / exact[s.index][place] for s in claims if getattr(s, name).value]
        if not ratios or not 1 / RIGHT < float(np.median(ratios)) < RIGHT:
            return "missed"
    return "right"


def run(answer: Answer, subject: Subject, seed: int, queries: int) -> Report:
    return audit(
        answer,
        subject.x,
        lower=subject.lower,
        upper=subject.upper,
        mode="black-box",
        queries=queries,
        seed=seed,
        integrity=True,
    )


def chosen_subjects(options: argparse.Namespace) -> Iterator[Subject]:
    """Those that were asked for."""
    for name in TRAINED:
        if options.model in (None, name):
            yield trained_subject(name, options.inputs)
    for subject in onnx_subjects(options.models, options.inputs) if options.models is not None else ():
        if options.model in (None, subject.name):
            yield subject


def main() -> None:
    reader = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    reader.add_argument("--seeds", type=int, default=5)
    reader.add_argument("--first", type=int, default=0, help="the first seed")
    reader.add_argument("--inputs", type=int, default=16)
    reader.add_argument("--queries", type=int, default=200)
    reader.add_argument("--model")
    reader.add_argument("--models", type=Path)
    reader.add_argument("--only", nargs="*")
    reader.add_argument("--json", type=Path)
    options = reader.parse_args()
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    for subject in chosen_subjects(options):
        cases = [(True, case, partial(make, subject.answer, subject.other)) for case, make in HOSTILE.items()]
        cases += [(True, case, partial(make, subject.answer, subject.other, subject.x)) for case, make in FURTHER.items()]
        cases += [(False, case, make) for case, make in oddities(subject).items()]
        for hostile, case, make in cases:
            if options.only and case not in options.only:
                continue
            rows.append(
                {"model": subject.name, "case": case, "hostile": hostile, **scored(subject, case, hostile, make, options)}
            )
            if options.json is not None:
                options.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def scored(
    subject: Subject, case: str, hostile: bool, make: Callable[[], Answer], options: argparse.Namespace
) -> dict[str, Any]:
    """One row of the table: results and checks of the runs, and the checks' share of the rows."""
    results: Counter[str] = Counter()
    checks: Counter[str] = Counter()
    took = []
    for seed in range(options.first, options.first + options.seeds):
        try:
            report = run(make(), subject, seed, options.queries)
        except Exception as refusal:  # a refusal is a result, whatever its class
            results["refused"] += 1
            print(f"{subject.name} {case}: {type(refusal).__name__}: {str(refusal)[:100]}", file=sys.stderr)
            continue
        results[judged(report, subject.exact) if hostile else "false alarm" if report.contradicted else "fine"] += 1
        checks.update(check.name for check in report.contradicted)
        took.append(sum(check.rows for check in report.integrity) / report.summary.queries)
    share = float(np.mean(took)) if took else 0.0
    kind = "hostile" if hostile else "honest"
    print(f"{subject.name:14} {kind:8} {case:32} {dict(results)!s:34} {dict(checks)} {share:.1%} rows", flush=True)
    return {**results, "checks": dict(checks), "rows": share}


if __name__ == "__main__":
    main()
