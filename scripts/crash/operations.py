"""The commands that are disturbed, each small and exact, and what must be the same afterwards."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.request
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from scripts.crash.counting_server import PATH

ROOT = Path(__file__).resolve().parents[2]
#: What a run may leave in its folder, also for a moment.
NAMES = (
    "journal.jsonl", "in-use.lock", "answers.bin", "report.json", "inputs.parquet", "shown.npz", "report.html",
    "ledger.sqlite", "ledger.sqlite-wal", "ledger.sqlite-journal", "ledger.sqlite-shm", "attacks.jsonl", "validation.json",
    "calibration.svg", "parts", "parts/part-000000000000-000000000001.parquet",
    "parts/part-000000000002-000000000003.parquet",
)  # fmt: skip
#: Warnings that count what happened to connections.
COUNTED = ("rows were refused unprocessed", "the endpoint was out")
MODEL = "scripts.crash.linear_model:make"


@dataclass(frozen=True)
class Operation:
    """One command.

    Attributes:
        arguments: of ``fimaudit``, first time.
        again: after it was disturbed.
        outcome: what must be the same, by name; from the folder of the operation.
        folder: the run folder.
        watched: what is disturbed: ``folder``, ``socket``.
        most_again: rows that may be asked again: those of one call, those in flight, sentinels that a resume asks.
        rows: how many the model has answered since the operation began, where somebody counts; else what the run counted.
        prepare: makes the folder as it is before the command.
        also: more paths whose system calls count.
        threads: whether other threads and processes than the command's main thread are disturbed too.
    """

    arguments: list[str]
    again: list[str]
    outcome: Callable[[], Mapping[str, object]]
    folder: Path
    rows: Callable[[], int]
    prepare: Callable[[], None]
    most_again: int = 0
    watched: tuple[str, ...] = ("folder",)
    also: tuple[Path, ...] = ()
    threads: bool = True

    def left_over(self) -> bool:
        """Whether there is a lock, or a file that was to be deleted."""
        return any(path.suffix in (".lock", ".tmp") for path in self.folder.iterdir())

    @property
    def paths(self) -> list[Path]:
        """Everything whose system calls count."""
        names = [self.folder, *(self.folder / name for name in NAMES), *self.also]
        return [*names, *(path.with_name(f"{path.name}.tmp") for path in names[1:])]


def local(place: Path) -> Operation:
    """An audit of a local model."""
    return _audit(place, MODEL, _inputs(place, 3), most_again=16)


def streamed(place: Path) -> Operation:
    """An audit of a folder of files, whose results go into parts of two inputs."""
    data = place / "data"
    data.mkdir(exist_ok=True)
    for k, x in enumerate(np.split(_x(4), 2)):
        np.savez(data / f"{k}.npz", x=x)
    return _audit(place, MODEL, data, most_again=16)


def endpoint(place: Path, port: int) -> Operation:
    """An audit of an endpoint, with its ledger."""
    url = f"http://127.0.0.1:{port}"
    arguments = [f"{url}{PATH}/infer", _inputs(place, 3), "--yes", "--batch", "8", "--set", "concurrency=2"]
    rows = _rows_of(f"{url}/rows")
    asked_anew = 3  # a resumed run asks its sentinels whether the endpoint is still the same
    return _audit(place, *arguments, rows=rows, most_again=2 * 8 + asked_anew, watched=("folder", "socket"))


def distributed(place: Path, address: str) -> Operation:
    """An audit whose inputs are measured on a Ray cluster: what is disturbed is its driver."""
    data = _inputs(place, 4)
    made = _audit(place, MODEL, data, "--engine", "ray", "--address", address, "--workers", "1", most_again=1000)
    return replace(made, threads=False)


def validated(place: Path) -> Operation:
    """Attacks on audited inputs."""
    made = _audit(place, MODEL, _inputs(place, 2), most_again=60)
    options = ["--attacks", "hopskipjump", "--attack-rows", "100"]
    arguments = ["validate", *made.arguments[1:], *options]

    def outcome() -> dict[str, object]:
        found = json.loads((made.folder / "validation.json").read_text())
        for name in ("environment", "measured_rows"):
            found.pop(name)
        return {"validation.json": found, "calibration.svg": (made.folder / "calibration.svg").read_bytes()}

    return Operation(
        arguments, [*arguments, "--resume"], outcome, made.folder, lambda: _validated_rows(made.folder), made.prepare, 160
    )


def bundled(place: Path, finished: Path) -> Operation:
    """A finished run packed as evidence."""
    folder, archive = place / "run", place / "evidence.zip"

    def prepare() -> None:
        shutil.rmtree(folder, ignore_errors=True)
        archive.unlink(missing_ok=True)
        shutil.copytree(finished, folder)

    def outcome() -> dict[str, object]:
        with zipfile.ZipFile(archive) as held:
            members = {name: held.read(name) for name in held.namelist()}
        for name in ("bundle.json", "statement.json"):  # they say when
            members[name] = b"there"
        return members

    arguments = ["bundle", str(folder), "-o", str(archive)]
    return Operation(arguments, arguments, outcome, folder, lambda: 0, prepare, also=(archive,))


@contextmanager
def clustered() -> Iterator[str]:
    """The address of a Ray cluster on this machine, whose workers can import the model."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    scratch = tempfile.mkdtemp(prefix="ray-")  # short: sockets lie in it
    os.environ["RAY_AUTH_MODE"] = "disabled"  # of cluster and drivers, whatever tokens this machine keeps
    options = ["--head", "--block", "--port", str(port), "--num-cpus", "2", "--include-dashboard", "false"]
    process = subprocess.Popen(
        [sys.executable, "-m", "ray.scripts.scripts", "start", *options, "--disable-usage-stats"],
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'adapters'}", "RAY_TMPDIR": scratch},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,  # so that this cluster ends with us, and no other
    )
    try:
        assert process.stdout is not None
        while "--block" not in (line := process.stdout.readline()):  # what it says once all of it runs
            if not line:
                raise RuntimeError("Ray could not be started")
        yield f"127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()
        process.stdout.close()
        shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def served() -> Iterator[int]:
    """The port of a counting server."""
    process = subprocess.Popen(
        [sys.executable, "-m", "scripts.crash.counting_server"],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    try:
        assert process.stdout is not None
        yield int(process.stdout.readline())
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


def _audit(
    place: Path,
    target: str,
    data: Path | str,
    *more: str,
    most_again: int,
    rows: Callable[[], int] | None = None,
    watched: tuple[str, ...] = ("folder",),
) -> Operation:
    folder = place / "run"
    arguments = ["audit", target, "--data", str(data), "--out", str(folder), "--queries", "16", *more]

    def prepare() -> None:
        shutil.rmtree(folder, ignore_errors=True)

    counted = rows or (lambda: int(json.loads((folder / "report.json").read_text())["summary"]["queries"]))
    return Operation(
        arguments, [*arguments, "--resume"], lambda: _audited(folder), folder, counted, prepare, most_again, watched
    )


def _audited(folder: Path) -> dict[str, object]:
    """The report but for times and counts, the table of inputs, and that there is a page."""
    report = json.loads((folder / "report.json").read_text())
    for name in ("started", "finished", "seconds"):
        report["environment"].pop(name)
    for name in ("queries", "requests"):
        report["summary"].pop(name)
    report["model"].pop("refused_rows", None)  # a connection that failed is counted, and said
    report["warnings"] = [text for text in report["warnings"] if not any(word in text for word in COUNTED)]
    if "sentinels" in report["model"]:
        report["model"]["sentinels"] = sorted(report["model"]["sentinels"])
    page = (folder / "report.html").read_text().rstrip().endswith("</html>")
    left = sorted(p.name for p in folder.iterdir() if p.name.endswith(".tmp"))
    return {
        "report.json": report, "inputs.parquet": (folder / "inputs.parquet").read_bytes(), "a whole page": page,
        "in use": (folder / "in-use.lock").exists(), "left": left,
    }  # fmt: skip


def _validated_rows(folder: Path) -> int:
    found = json.loads((folder / "validation.json").read_text())
    return int(found["measured_rows"] + found["forward_rows"] + found["backward_rows"])


def _rows_of(url: str) -> Callable[[], int]:
    def rows() -> int:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return int(json.load(answer)["rows"])

    return rows


def _x(inputs: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(inputs, 4))


def _inputs(place: Path, inputs: int) -> str:
    np.savez(place / "x.npz", x=_x(inputs))
    return str(place / "x.npz")
