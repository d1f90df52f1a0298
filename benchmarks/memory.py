"""Peak memory and time of an audit at d = 150,528 and K = 1000 (SqueezeNet 1.1), 200 queries an input.

    python benchmarks/memory.py [--inputs 2] [--json FILE]

JSON: *peak_mb*, *peak_mb_bare* (of a process that sends as many rows to onnxruntime alone), *peak_mb_beside* (the
difference), *time_ratio* (audit over bare onnxruntime: rows built beforehand, one process, minimum of three).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

QUERIES = 200
SHAPE = (3, 224, 224)


def inputs(count: int) -> np.ndarray:
    """Random ones."""
    return np.random.default_rng(1).random((count, *SHAPE), dtype=np.float32)


def peak_mb() -> float:
    """Of this process so far: of its own program, where ``getrusage`` counts that of the one that started it too."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return float(line.split()[1]) / 1024
    raise SystemExit("expected VmHWM in /proc/self/status")


def bare_peak(path: Path, count: int, batch: int) -> float:
    """Peak of a process that does nothing but ``bare``."""
    command = [sys.executable, __file__, "--bare", str(path), "--inputs", str(count), "--batch", str(batch)]
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


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
    parser.add_argument("--bare", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--batch", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.bare:
        bare(options.bare, inputs(options.inputs), options.batch)
        print(peak_mb())
        return
    from squeezenet import write_squeezenet

    from fimaudit import audit, open_classifier
    from fimaudit.models.meter import Meter

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "squeezenet.onnx"
        write_squeezenet(path)
        x = inputs(options.inputs)
        classifier = open_classifier(path, link="softmax")
        report = audit(classifier, x, queries=QUERIES, out=Path(folder) / "run")
        peak = peak_mb()
        batch = Meter(classifier).batch_rows(x[0].nbytes)
        alone_mb = bare_peak(path, len(x), batch)
        whole, alone = np.inf, np.inf
        for _ in range(3):
            alone = min(alone, bare(path, x, batch))
            start = time.perf_counter()
            audit(classifier, x, queries=QUERIES)
            whole = min(whole, time.perf_counter() - start)
    figures = {
        "peak_mb": peak,
        "peak_mb_bare": alone_mb,
        "peak_mb_beside": peak - alone_mb,
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
