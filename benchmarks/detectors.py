"""What published detectors of query attacks see of an audit, in both orders of its rows: digits, one row a request.

    python benchmarks/detectors.py [--inputs 16] [--queries 200] [--seed 0]

*flagged* is the share of the rows of the measurement that the detector takes for near-duplicates of earlier ones, when it
remembers all rows, and when it remembers the last so many only. *images* is the same of other digits, never audited: its own
false alarms. *turns* is the share of rows that follow a row of another input.
"""

from __future__ import annotations

import sys

sys.path.append(sys.path.pop(0))  # this folder last: its http.py must not hide the standard library's

import argparse
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from _detectors import Blacklight, Detector, PerceptualHash, flagged
from _models import Trained, digits
from _subjects import answers

from fimaudit import audit

#: Rows that a detector remembers.
MEMORIES: tuple[int | None, ...] = (1, 10, 100, 1000, None)
ORDERS: tuple[Literal["inputs", "interleaved"], ...] = ("inputs", "interleaved")
DETECTORS: dict[str, Callable[[int | None], Detector]] = {
    "Blacklight": lambda memory: Blacklight(28 * 28, memory),
    "perceptual hash": lambda memory: PerceptualHash((28, 28), memory),
}


def rows_asked(trained: Trained, order: Literal["inputs", "interleaved"], queries: int, seed: int) -> np.ndarray:
    """(n, *shape) rows that an audit asks, in their order."""
    asked: list[np.ndarray] = []
    answer = answers(trained.network)

    def model(batch: Any) -> np.ndarray:
        asked.extend(np.asarray(batch, np.float32))
        return answer(batch)

    audit(model, trained.x, lower=0.0, upper=1.0, queries=queries, seed=seed, mode="black-box", order=order, batch=1)
    return np.array(asked)


def main() -> None:
    reader = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    reader.add_argument("--inputs", type=int, default=16)
    reader.add_argument("--queries", type=int, default=200)
    reader.add_argument("--seed", type=int, default=0)
    options = reader.parse_args()
    torch.set_num_threads(1)
    trained, others = digits(options.inputs), digits(800).x[options.inputs :]
    for order in ORDERS:
        rows = rows_asked(trained, order, options.queries, options.seed)
        near = np.linalg.norm(rows[:, None].reshape(len(rows), 1, -1) - trained.x.reshape(1, len(trained.x), -1), axis=2)
        turns = float((np.diff(near.argmin(axis=1)) != 0).mean())
        print(f"{order}: {len(rows)} rows, turns {turns:.2f}")
        for name, make in DETECTORS.items():
            seen = {memory: flagged(make(memory), rows).mean() for memory in MEMORIES}
            images = flagged(make(None), others).mean()
            remembered = ", ".join(f"{'all' if memory is None else memory}: {share:.3f}" for memory, share in seen.items())
            print(f"  {name}: flagged by rows remembered {remembered}; images {images:.3f}", flush=True)


if __name__ == "__main__":
    main()
