"""What an audit takes beside the model: CPU time an input on one thread, by part, with a nearly free model.

    python benchmarks/overhead.py [--cells 30x2 3072x10 ...] [--inputs 48] [--repeats 5] [--against CHECKOUT] [--json FILE]

A cell is features x classes. The model is a softmax over a few tanh units; its own time, every call of it, is taken off.
With ``--against`` another checkout of the project is measured in turn with this one, cell by cell and repeat by repeat, so
that a machine whose speed drifts is the same for both; the ratio is the median over the pairs.

JSON, for each cell: *ms* (CPU milliseconds an input beside the model, least of the repeats), *share* (of the whole, for a
model that takes 1 ms an input), *parts* (share of each module of the package, from a sample of where the process is each
millisecond), and with ``--against`` *ms_against* and *ratio* (this checkout over the other).
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent

CELLS = ("30x2", "784x10", "3072x10", "3072x43", "3072x100", "3072x1000", "150528x10")
UNITS = 8
#: Where an input has so many features, so few of them are measured.
MANY_FEATURES, FEW_INPUTS = 100_000, 8
SAMPLE_SECONDS = 1e-3


class Model:
    """A softmax over a few tanh units, and the CPU time that it took."""

    def __init__(self, features: int, classes: int) -> None:
        import numpy as np

        rng = np.random.default_rng(0)
        self._into = (rng.standard_normal((features, UNITS)) / np.sqrt(features)).astype(np.float32)
        self._out = (1.5 * rng.standard_normal((UNITS, classes))).astype(np.float32)
        self.seconds = 0.0

    def __call__(self, x: Any) -> Any:
        """(rows, features) to (rows, classes)."""
        import numpy as np

        start = time.process_time()
        z = np.tanh(x @ self._into) @ self._out
        z -= z.max(axis=1, keepdims=True)
        np.exp(z, out=z)
        z /= z.sum(axis=1, keepdims=True)
        self.seconds += time.process_time() - start
        return z


def measure(cell: str, inputs: int, queries: int, parts: bool) -> dict[str, Any]:
    """One audit of a cell: milliseconds an input beside the model, and the share of each part where wanted."""
    import numpy as np

    from fimaudit import audit

    features, classes = map(int, cell.split("x"))
    count = min(inputs, FEW_INPUTS) if features >= MANY_FEATURES else inputs
    model = Model(features, classes)
    x = np.random.default_rng(1).standard_normal((count, features)).astype(np.float32)
    seen: Counter[str] = Counter()

    def sample(_signal: int, frame: Any) -> None:
        while frame is not None and "/fimaudit/" not in frame.f_code.co_filename:
            if frame.f_code.co_filename == __file__:
                return
            frame = frame.f_back
        if frame is not None:
            seen[frame.f_code.co_filename.rpartition("/fimaudit/")[2].removesuffix(".py").replace("/", ".")] += 1

    if parts:
        signal.signal(signal.SIGPROF, sample)
        signal.setitimer(signal.ITIMER_PROF, SAMPLE_SECONDS, SAMPLE_SECONDS)
    start = time.process_time()
    audit(model, x, queries=queries)
    seconds = time.process_time() - start - model.seconds
    signal.setitimer(signal.ITIMER_PROF, 0)
    total = max(1, sum(seen.values()))
    return {"ms": 1e3 * seconds / count, "parts": {name: hits / total for name, hits in seen.most_common()}}


def answer_requests() -> None:
    """Measure what each line of stdin asks for, and answer with a line."""
    for line in sys.stdin:
        print(json.dumps(measure(**json.loads(line))), flush=True)


class Checkout:
    """A process that measures with the package of one checkout."""

    def __init__(self, tree: Path) -> None:
        env = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(tree), str(tree / "adapters")]),
            **{f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL")},
        }
        # ``__file__`` would put this checkout first.
        code = f"import runpy, sys; sys.argv = [{__file__!r}, '--answer']; runpy.run_path({__file__!r}, run_name='__main__')"
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env
        )

    def measure(self, **asked: Any) -> dict[str, Any]:
        """See ``measure``."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        found: dict[str, Any] = json.loads(self._process.stdout.readline())
        return found

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


def run_cell(cell: str, options: argparse.Namespace, this_tree: Checkout, other_tree: Checkout | None) -> dict[str, Any]:
    """All figures of a cell, in turn."""
    asked = {"cell": cell, "inputs": options.inputs, "queries": options.queries, "parts": False}
    ours, theirs = [], []
    for repeat in range(options.repeats + 1):  # the first warms up
        one = this_tree.measure(**asked)["ms"]
        other = other_tree.measure(**asked)["ms"] if other_tree is not None else None
        if repeat:
            ours.append(one)
            theirs.append(other)
    figures: dict[str, Any] = {"ms": min(ours), "share": min(ours) / (min(ours) + 1.0)}
    if other_tree is not None:
        figures["ms_against"] = min(theirs)
        figures["ratio"] = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
    return {**figures, "parts": this_tree.measure(**{**asked, "parts": True})["parts"]}


def main() -> None:
    """Print one line a cell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", nargs="*", default=CELLS)
    parser.add_argument("--inputs", type=int, default=48)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--against", type=Path, help="another checkout of the project")
    parser.add_argument("--shown", type=int, default=6, help="parts that are printed")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--answer", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.answer:
        return answer_requests()
    this_tree = Checkout(ROOT)
    other_tree = None if options.against is None else Checkout(options.against.resolve())
    cells = {}
    for cell in options.cells:
        cells[cell] = found = run_cell(cell, options, this_tree, other_tree)
        line = f"{cell:>10} {found['ms']:8.2f} ms beside the model, {100 * found['share']:.0f} % beside a model of 1 ms"
        if other_tree is not None:
            line += f"; {found['ms_against']:.2f} ms before, ratio {found['ratio']:.2f}"
        print(line, flush=True)
        largest = list(found["parts"].items())[: options.shown]
        print(" " * 11 + ", ".join(f"{name} {100 * share:.0f} %" for name, share in largest), flush=True)
    this_tree.close()
    if other_tree is not None:
        other_tree.close()
    if options.json:
        options.json.write_text(json.dumps({"cells": cells}, indent=1))
    return None


if __name__ == "__main__":
    main()
