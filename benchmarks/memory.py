"""Peak memory and time of an audit at d = 150,528 and K = 1000 (SqueezeNet 1.1), 200 queries an input.

    python benchmarks/memory.py [--inputs 2] [--json FILE]

JSON: *peak_mb*, *time_ratio* (audit over bare onnxruntime: rows built beforehand, one process, minimum of three).
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
from squeezenet import write_squeezenet

from fimaudit import audit, open_classifier
from fimaudit.models.meter import Meter

QUERIES = 200


def bare(path: Path, x: np.ndarray, batch: int) -> float:
    """Seconds for as many rows through onnxruntime alone, in the audit's batches; one buffer of rows, built before."""
    import onnxruntime as ort

    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    rows = np.repeat(x[:1], batch, axis=0)
    session.run(None, {"x": rows})
    start = time.perf_counter()
    for _ in range(len(x)):
        for first in range(0, QUERIES, batch):
            session.run(None, {"x": rows[: min(batch, QUERIES - first)]})
    return time.perf_counter() - start


def main() -> None:
    """Audit first (its peak is what counts), then the times."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=2)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "squeezenet.onnx"
        write_squeezenet(path)
        x = np.random.default_rng(1).random((options.inputs, 3, 224, 224), dtype=np.float32)
        classifier = open_classifier(path, link="softmax")
        report = audit(classifier, x, queries=QUERIES, out=Path(folder) / "run")
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        batch = Meter(classifier).batch_rows(x[0].nbytes)
        whole, alone = np.inf, np.inf
        for _ in range(3):
            alone = min(alone, bare(path, x, batch))
            start = time.perf_counter()
            audit(classifier, x, queries=QUERIES)
            whole = min(whole, time.perf_counter() - start)
    figures = {
        "peak_mb": peak,
        "time_ratio": whole / alone,
        "seconds_an_input_bare": alone / len(x),
        "rows_on_top": report.summary.queries / (QUERIES * len(x)) - 1,
        "batch": batch,
    }
    for name, value in figures.items():
        print(f"{name:22} {value:.4g}")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
