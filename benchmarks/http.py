"""Rows a second through fimaudit's HTTP adapter, ledger included, against a bare httpx client on the same real server.

    python benchmarks/http.py [--rows 4000] [--rounds 21] [--concurrency 4] [--json FILE]

KServe V2, 30 features, batches of 100. The bare client writes the same requests, keeps the same number in flight, and
turns the answers into arrays; it counts nothing and checks nothing. Both run one after the other in each round, in turns
first; the ratio is the median over rounds, which neighbours on the machine disturb least.
JSON: throughput_ratio, and for each encoding rows_per_second and bare_rows_per_second.
"""

from __future__ import annotations

import os
import sys

# Python puts this folder first on its path, so that any benchmark's "import http" finds this file: be the real one then,
# and out of the way in any case.
_folder = os.path.dirname(os.path.realpath(__file__))
sys.path[:] = [place for place in sys.path if os.path.realpath(place) != _folder]
if __name__ == "http":
    import importlib

    del sys.modules["http"]
    importlib.invalidate_caches()
    sys.modules["http"] = importlib.import_module("http")

# ruff: noqa: E402
import argparse
import asyncio
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
import joblib
import numpy as np
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.linear_model import LogisticRegression

from fimaudit.models.meter import Meter
from fimaudit.models.opening import open_classifier
from fimaudit.perturbations.rows import PlainRows
from fimaudit.storage.ledger import open_ledger

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tests.servers import manager

BATCH = 100
MODEL = "/v2/models/cancer/infer"


def start_kserve(folder: Path) -> manager.Server:
    """KServe on loopback with the tests' two models."""
    for name, load in (("cancer", load_breast_cancer), ("digits", load_digits)):
        x, y = load(return_X_y=True)
        joblib.dump(
            LogisticRegression(C=0.01, max_iter=500).fit((x - x.mean(0)) / (x.std(0) + 1e-9), y), folder / f"{name}.joblib"
        )
    port = manager.free_port()
    script = Path(manager.HERE) / "kserve_server.py"
    python = manager.environment("kserve") / "bin" / "python"
    command = [str(python), str(script), str(port), str(folder / "cancer.joblib"), str(folder / "digits.joblib")]
    return manager.start(command, port, folder / "kserve.log", ready="/v2/health/ready")


def bare_body(rows: np.ndarray, binary: bool) -> tuple[bytes, dict[str, str]]:
    """What a person would write."""
    tensor: dict[str, Any] = {"name": "input-0", "shape": list(rows.shape)}
    if not binary:
        document = {"inputs": [{**tensor, "datatype": "FP64", "data": rows.ravel().tolist()}]}
        return json.dumps(document, separators=(",", ":")).encode(), {"Content-Type": "application/json"}
    raw = rows.astype("<f4").tobytes()
    tensor |= {"datatype": "FP32", "parameters": {"binary_data_size": len(raw)}}
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    return head + raw, {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(len(head))}


def bare_answer(response: httpx.Response) -> np.ndarray:
    length = response.headers.get("Inference-Header-Content-Length")
    content = response.content
    output = json.loads(content[: int(length)] if length else content)["outputs"][0]
    if "data" in output:
        return np.array(output["data"]).reshape(output["shape"])
    return np.frombuffer(content[int(length) :], {"FP32": "<f4", "FP64": "<f8"}[output["datatype"]]).reshape(output["shape"])


def bare_client(concurrency: int) -> httpx.AsyncClient:
    """Kept over the rounds, like the adapter's own."""
    limits = httpx.Limits(max_connections=concurrency, max_keepalive_connections=concurrency)
    return httpx.AsyncClient(trust_env=False, timeout=30, limits=limits)


async def bare(client: httpx.AsyncClient, url: str, rows: np.ndarray, concurrency: int, binary: bool) -> np.ndarray:
    starts = iter(range(0, len(rows), BATCH))
    answers: dict[int, np.ndarray] = {}

    async def work() -> None:
        for start in starts:
            body, headers = bare_body(rows[start : start + BATCH], binary)
            response = await client.post(url, content=body, headers=headers)
            response.raise_for_status()
            answers[start] = bare_answer(response)

    await asyncio.gather(*(work() for _ in range(concurrency)))
    return np.concatenate([answers[start] for start in sorted(answers)])


def measure(url: str, rows: np.ndarray, rounds: int, concurrency: int, binary: bool, folder: Path) -> dict[str, float]:
    """Median rows a second of both, and the median of their ratios round by round."""
    dtype = "float32" if binary else "float64"
    model = open_classifier(
        url, adapter="http", trust_env=False, batch=BATCH, concurrency=concurrency, binary=binary, dtype=dtype
    )
    ledger = open_ledger(folder / f"{dtype}.sqlite", model.info.details["fingerprint"])
    meter = Meter(model, ledger=ledger)
    meter.ask([PlainRows(rows[:BATCH])])
    pairs: list[tuple[float, float]] = []
    runner, client = asyncio.Runner(), bare_client(concurrency)
    try:
        for i in range(rounds + 1):  # the first warms both up
            shifted = rows + 1e-3 * (i + 1)
            seconds: dict[str, float] = {}
            answers: dict[str, np.ndarray] = {}
            for name in ("ours", "bare") if i % 2 else ("bare", "ours"):
                started = time.perf_counter()
                if name == "ours":
                    (answers[name],) = meter.ask([PlainRows(shifted)])
                else:
                    answers[name] = runner.run(bare(client, url, shifted, concurrency, binary))
                seconds[name] = time.perf_counter() - started
            assert np.allclose(answers["ours"], answers["bare"], atol=1e-6)
            if i:
                pairs.append((len(rows) / seconds["ours"], len(rows) / seconds["bare"]))
    finally:
        runner.run(client.aclose())
        runner.close()
        ledger.close()
        model.close()
    ours, theirs = (statistics.median(side) for side in zip(*pairs, strict=True))
    ratio = statistics.median(a / b for a, b in pairs)
    return {"rows_per_second": ours, "bare_rows_per_second": theirs, "throughput_ratio": ratio}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=4_000)
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--concurrency", type=int, default=4)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((options.rows, 30))
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        server = start_kserve(folder)
        try:
            for encoding, binary in (("json", False), ("binary", True)):
                found = measure(server.url + MODEL, rows, options.rounds, options.concurrency, binary, folder)
                figures[encoding] = found
                print(
                    f"KServe V2 {encoding}: fimaudit {found['rows_per_second']:,.0f} rows/s, "
                    f"bare httpx {found['bare_rows_per_second']:,.0f} rows/s, ratio {found['throughput_ratio']:.3f}"
                )
        finally:
            server.stop()
    figures["throughput_ratio"] = min(figures[encoding]["throughput_ratio"] for encoding in ("json", "binary"))
    if options.json is not None:
        options.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
