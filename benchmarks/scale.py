"""The Ray engine on this machine, and its driver alone in front of a thousand workers.

    python benchmarks/scale.py [--inputs 100000] [--heavy 1500] [--json FILE]

JSON: *efficiency_2_workers* (inputs a second of two workers over twice those of one, first piece to last, heavy model, one
thread each), *driver_ms_per_input* (CPU of the driver process, all of it, over ``--inputs`` inputs of a light model),
*driver_growth_mb* (peak of its resident memory over that of 1,000 inputs). Then for docs/scale.md: rows a second of a
worker, bytes and seconds a part, reading each format, and ``simulated``: parts of a thousand workers as fast as one driver
takes them.
Every figure of a run is from a fresh process. Other work on the machine lowers the efficiency.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import resource
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.append(sys.path.pop(0))  # behind the others: http.py in this folder is not the http that Ray imports

import numpy as np
from _scale_models import FEATURES

QUERIES = 32
SHARD = 5000
WORKERS = 1000


def write_shards(folder: Path, inputs: int) -> str:
    """``inputs`` random inputs in .npz files of ``SHARD``; returns the glob."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for k, first in enumerate(range(0, inputs, SHARD)):
        count = min(SHARD, inputs - first)
        x = rng.standard_normal((count, FEATURES))
        np.savez(folder / f"{k:05d}.npz", x=x, y=rng.integers(0, 4, count))
    return str(folder / "*.npz")


def one_run(model: str, data: str, out: str, workers: int) -> dict[str, float]:
    """One audit in this process on its own cluster: what its driver took."""
    from fimaudit import audit

    seen: list[tuple[float, int]] = []
    report = audit(
        f"_scale_models:{model}", data, queries=QUERIES, out=out, engine="ray" if workers else "local",
        workers=workers or None, progress=lambda rows, expected, done, inputs: seen.append((time.perf_counter(), done)),
    )  # fmt: skip
    done = [(at, count) for at, count in seen if count]
    used = resource.getrusage(resource.RUSAGE_SELF)
    seconds = done[-1][0] - done[0][0]
    return {
        "inputs": float(report.data["measured"]),
        "inputs_a_second": (done[-1][1] - done[0][1]) / seconds,
        "rows_a_second": (done[-1][1] - done[0][1]) / seconds * report.summary.queries / report.data["measured"],
        "cpu_seconds": used.ru_utime + used.ru_stime,
        "peak_mb": used.ru_maxrss / 1024,
        "seconds": float(report.environment["seconds"]),
    }


def in_a_process(*arguments: str) -> Any:
    """What ``--one`` or ``--simulate`` prints in a process of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    script = Path(__file__)
    command = [sys.executable, str(script), *arguments]
    done = subprocess.run(command, cwd=script.parent, env=environment, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def simulate(pieces: int) -> dict[str, float]:
    """The driver alone: a thousand workers' parts, already packed, handed over one after the other."""
    from fimaudit.engines.ray.engine import MOST_INPUTS, cut
    from fimaudit.results import Interval, MeasuredInput, Sensitivity
    from fimaudit.statistics.summary import summarise
    from fimaudit.storage.journal import Journal
    from fimaudit.storage.parts import pack
    from fimaudit.storage.result_store import ParquetStore

    with tempfile.TemporaryDirectory() as name:
        inputs = pieces * MOST_INPUTS
        journal = Journal(Path(name) / "run", {"simulated": True}, resume=False, overwrite=False)
        kept = ParquetStore(inputs, journal)
        start = time.perf_counter()
        cuts = cut(np.arange(inputs), 8, None, WORKERS)
        cutting = time.perf_counter() - start
        rng, taking, size = np.random.default_rng(0), 0.0, 0
        for k in range(pieces):
            value = np.exp(rng.standard_normal(MOST_INPUTS))
            cells = [Interval(value=v, lower=v / 2, upper=v * 2) for v in value.tolist()]
            outcomes = [
                MeasuredInput(
                    Sensitivity(
                        index=k * MOST_INPUTS + i, status="ok", method="rademacher", queries=200, spectral_norm=cell,
                        peak_spectral_norm=cell, margin_radius=cell, trace=cell, displacement=0.1, effective_rank=1.5,
                        predicted_class=1, probability=0.5,
                    ),
                    200,
                    1,
                )
                for i, cell in enumerate(cells)
            ]  # fmt: skip
            part = pack(outcomes)
            size += len(part.data)
            start = time.perf_counter()
            kept.add(part)
            taking += time.perf_counter() - start
        start = time.perf_counter()
        finished = kept.finish((), 100)
        merging = time.perf_counter() - start
        start = time.perf_counter()
        summarise(finished.columns, 0.95, 0, 0)
        summing = time.perf_counter() - start
        journal.close()
    return {
        "inputs": float(inputs),
        "pieces_planned": float(len(cuts) - 1),
        "cutting_seconds": cutting,
        "ms_a_part": 1e3 * taking / pieces,
        "bytes_an_input": size / inputs,
        "parts_a_second": pieces / taking,
        "inputs_a_second": inputs / taking,
        "merging_us_an_input": 1e6 * merging / inputs,
        "summary_us_an_input": 1e6 * summing / inputs,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def simulate_calls(pieces: int) -> dict[str, float]:
    """Ray Data's own share: pieces that do nothing, through a pool of two actors and the shared coordinator."""
    import pyarrow as pa

    from fimaudit.engines.selection import RayEngine, choose_engine

    place = choose_engine("ray", RayEngine(workers=2))
    try:
        import ray
        import ray.data

        from fimaudit.engines.ray.engine import _quiet_data

        class Nothing:
            def __call__(self, batch: dict[str, Any]) -> pa.Table:
                return pa.table({"piece": [int(batch["piece"][0])], "data": [b"0" * 50_000]})

        _quiet_data()
        blocks = [pa.table({"piece": [k]}) for k in range(pieces)]
        start, cpu = time.perf_counter(), time.process_time()
        dataset = ray.data.from_arrow(blocks).map_batches(
            Nothing, batch_size=1, batch_format="numpy", num_cpus=1,
            compute=ray.data.ActorPoolStrategy(size=2, max_tasks_in_flight_per_actor=2),
        )  # fmt: skip
        count, first = 0, 0.0
        for _ in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            first = first or time.perf_counter()
            count += 1
        end = time.perf_counter()
        return {
            "pieces": float(count),
            "first_piece_seconds": first - start,
            "pieces_a_second": (count - 1) / (end - first),
            "driver_cpu_ms_a_piece": 1e3 * (time.process_time() - cpu) / count,
        }
    finally:
        place.close()


def reading(inputs: int = 200) -> dict[str, float]:
    """Milliseconds to read one 224 x 224 colour image out of each format, from this machine's disk."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from PIL import Image

    from fimaudit.data.streams import Stream, open_data

    rng = np.random.default_rng(0)
    smooth = np.kron(rng.integers(0, 256, (inputs, 28, 28, 3)), np.ones((1, 8, 8, 1))).astype(np.uint8)
    encoded = []
    for pixels in smooth:
        out = io.BytesIO()
        Image.fromarray(pixels).save(out, "JPEG", quality=90)
        encoded.append(out.getvalue())
    figures = {"jpeg_bytes": float(np.mean([len(e) for e in encoded]))}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with tarfile.open(folder / "a.tar", "w") as tar:
            for i, data in enumerate(encoded):
                info = tarfile.TarInfo(f"{i:06d}.jpg")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
        pq.write_table(pa.table({"image": encoded, "label": list(range(inputs))}), folder / "a.parquet")
        planar = np.moveaxis(smooth, -1, 1)
        np.savez(folder / "b-0.npz", x=planar)
        np.savez_compressed(folder / "c-0.npz", x=planar)
        for key, spec in (("tar", "a*.tar"), ("parquet", "a*.parquet"), ("npz", "b-*.npz"), ("packed_npz", "c-*.npz")):
            stream = open_data(folder / spec)
            assert isinstance(stream, Stream)
            start = time.perf_counter()
            for _ in stream.for_model((3, 224, 224), "float32").rows(range(inputs)):
                pass
            figures[f"{key}_ms"] = 1e3 * (time.perf_counter() - start) / inputs
    return figures


def main() -> None:
    """Each figure in a fresh process; the pieces of them when asked by name."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--heavy", type=int, default=1500)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", nargs=4, metavar=("MODEL", "DATA", "OUT", "WORKERS"), help=argparse.SUPPRESS)
    parser.add_argument("--simulate", choices=("parts", "calls", "reading"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        model, data, out, workers = options.one
        print(json.dumps(one_run(model, data, out, int(workers))))
        return
    if options.simulate:
        made = {"parts": lambda: simulate(1000), "calls": lambda: simulate_calls(1000), "reading": reading}
        print(json.dumps(made[options.simulate]()))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        heavy = write_shards(folder / "heavy", options.heavy)
        one, two = (in_a_process("--one", "heavy", heavy, str(folder / f"h{n}"), str(n)) for n in (1, 2))
        few, many = (
            in_a_process("--one", "light", write_shards(folder / f"{n}", n), str(folder / f"l{n}"), "2")
            for n in (1000, options.inputs)
        )
    figures = {
        "efficiency_2_workers": two["inputs_a_second"] / (2 * one["inputs_a_second"]),
        "driver_ms_per_input": 1e3 * (many["cpu_seconds"] - few["cpu_seconds"]) / (many["inputs"] - few["inputs"]),
        "driver_growth_mb": many["peak_mb"] - few["peak_mb"],
        "driver_cpu_ms_per_input_with_start": 1e3 * many["cpu_seconds"] / many["inputs"],
        "runs": {"heavy_1": one, "heavy_2": two, "light_1000": few, f"light_{options.inputs}": many},
        "simulated": in_a_process("--simulate", "parts"),
        "ray_data": in_a_process("--simulate", "calls"),
        "reading": in_a_process("--simulate", "reading"),
    }
    print(json.dumps(figures, indent=1))
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
