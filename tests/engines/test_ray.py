"""The Ray engine on a real cluster of two nodes on this machine: the numbers of the local engine, whatever dies."""

from __future__ import annotations

import fcntl
import functools
import importlib.util
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fimaudit import RayEngine, audit
from fimaudit.audit_report import Report
from fimaudit.engines.ray.cluster import connect
from fimaudit.engines.ray.coordinator import Coordinator
from fimaudit.errors import MissingExtraError, TargetError, UsageError

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed: fimaudit[ray]"),
    # Ray Data copies its own settings and warns of those that it has renamed itself.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"),
]

WEIGHTS = np.random.default_rng(1).standard_normal((6, 3)) / 2
HERE = Path(__file__).parent


def probabilities(x: Any) -> Any:
    z = np.tanh(x) @ WEIGHTS
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def model() -> Any:
    """What a command line names."""
    return probabilities


#: Rows that this process answered.
ANSWERED = 0


def held(gate: str, driver: int, most: int, x: Any) -> Any:
    """A model that a worker asks so many rows; before the next it waits until nobody locks the gate."""
    global ANSWERED
    ANSWERED += len(x)
    if most < ANSWERED and os.getpid() != driver:
        with open(gate) as file:
            fcntl.flock(file, fcntl.LOCK_SH)
    return probabilities(x)


class Nodes:
    """A head with room for one worker, and another node that can be lost."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        # A node that is gone refuses the question whether it lives at once; one that is only busy has a minute for it.
        often = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_timeout_ms": 60_000}
        comparable = {**often, "worker_niceness": 0}  # else workers stand still while the other half of the tests computes
        head = {"num_cpus": 1, "include_dashboard": False, "object_store_memory": 100_000_000, "_system_config": comparable}
        self._cluster = Cluster(initialize_head=True, head_node_args=head)
        self.address = str(self._cluster.address)
        self._other: Any = None
        self.ensure()

    def ensure(self) -> None:
        """Both nodes are there."""
        if self._other is None:
            self._other = self._cluster.add_node(num_cpus=1, object_store_memory=100_000_000)

    def lose(self) -> None:
        """Kill the other node without a word."""
        if self._other is not None:
            self._cluster.remove_node(self._other, allow_graceful=False)
            self._other = None

    def close(self) -> None:
        self._cluster.shutdown()


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    """One cluster for the file; this process is connected to it."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
    import ray

    from fimaudit.engines.ray.cluster import connect

    logging.getLogger("ray").setLevel(logging.CRITICAL)
    cluster = Nodes()
    connection = connect(cluster.address)
    yield cluster
    connection.close()
    assert not ray.is_initialized()
    cluster.close()


def comparable(report: Report) -> dict[str, Any]:
    """A report without what may differ: times and machine."""
    return report.model_dump(exclude={"environment"})


@pytest.mark.coverage  # the test of last digits cuts a budget that two workers share
def test_workers_share_one_budget(nodes: Nodes) -> None:
    nodes.ensure()
    x = np.random.default_rng(0).standard_normal((60, 6))
    report = audit(probabilities, x, queries=16, budget=600, engine="ray", workers=2)
    assert report.summary.queries <= 600
    assert 20 <= report.data["measured"] < 60
    assert any("the budget of 600 rows is spent" in w for w in report.warnings)


@pytest.mark.parametrize(
    "workers",
    [(2, 1), *(pytest.param(same, marks=pytest.mark.coverage) for same in ((1, 1, 1), (2, 2, 2)))],  # a start each
)
def test_last_digits_that_depend_on_the_call_are_the_same_on_any_workers(
    nodes: Nodes, tmp_path: Path, workers: tuple[int, ...]
) -> None:
    """A budget that all workers share, spent and resumed here or there, leaves no trace, and inputs stop early as here."""
    from tests.runs.test_same_numbers import facts, sensitive

    nodes.ensure()
    x = np.random.default_rng(0).standard_normal((40, 9))
    local = audit(sensitive, x, name="m", queries=30, threshold=0.2, out=tmp_path / "local")
    assert {"above_threshold", "below_threshold"} <= {flag for s in local.inputs for flag in s.flags}
    there: dict[str, Any] = {"name": "m", "queries": 30, "threshold": 0.2, "out": tmp_path / "ray", "engine": "ray"}
    for k, number in enumerate(workers[:-1]):
        budget = int(0.3 * (k + 1) * local.summary.queries)
        cut = audit(sensitive, x, budget=budget, resume=k > 0, workers=number, **there)
        assert cut.summary.queries <= budget
        assert 0 < cut.data["measured"] < 40
    assert facts(audit(sensitive, x, resume=True, workers=workers[-1], **there)) == facts(local)


WIDE = np.random.default_rng(2).standard_normal((40, 3)) / 4


def wide(x: Any) -> Any:
    e = np.exp(np.tanh(x) @ WIDE)
    return e / e.sum(axis=1, keepdims=True)


def near_wide(x: Any) -> Any:
    e = np.exp(x @ (WIDE + 0.05))
    return e / e.sum(axis=1, keepdims=True)


def test_focus_and_known_directions_go_across_workers(nodes: Nodes, tmp_path: Path) -> None:
    nodes.ensure()
    np.save(tmp_path / "x.npy", np.random.default_rng(0).standard_normal((96, 40)))
    settings: dict[str, Any] = {"queries": 36, "profile": "off", "focus": "top:5", "surrogate": near_wide}
    local = audit(wide, str(tmp_path / "*.npy"), out=tmp_path / "local", **settings)
    ray = audit(wide, str(tmp_path / "*.npy"), out=tmp_path / "ray", engine=RayEngine(workers=2), **settings)
    assert comparable(ray) == comparable(local)
    assert ray.data["focus"]["measured"] == ray.data["focus"]["chosen"] < 96
    assert "deflated" in {s.method for s in local.inputs}


#: What the service answers with.
served = probabilities


class Service(BaseHTTPRequestHandler):
    """A model behind HTTP that notes when it was asked, and how many rows."""

    asked: list[tuple[float, int]]  # moment by the clock that all processes share, rows

    def do_POST(self) -> None:
        rows = np.array(json.loads(self.rfile.read(int(self.headers["content-length"])))["rows"])
        self.asked.append((time.monotonic(), len(rows)))
        body = json.dumps({"p": served(rows).tolist()}).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Quiet."""


@pytest.fixture
def service() -> Iterator[tuple[str, list[tuple[float, int]]]]:
    asked: list[tuple[float, int]] = []
    handler = type("Asked", (Service,), {"asked": asked, "protocol_version": "HTTP/1.1"})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/ask", asked
    server.shutdown()
    server.server_close()
    thread.join()


def test_an_endpoint_is_asked_within_one_budget_and_one_rate(
    nodes: Nodes, service: tuple[str, list[tuple[float, int]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, asked = service
    turns = tmp_path / "turns.txt"

    class Noting(Coordinator):
        """Keeps the moments that it gives out."""

        def turn(self) -> float:
            wait = super().turn()
            with open(turns, "a") as file:
                print(self._next_send - self._gap, file=file)
            return wait

    monkeypatch.setattr("fimaudit.engines.ray.engine.Coordinator", Noting)
    nodes.ensure()
    x = np.random.default_rng(0).standard_normal((64, 6))
    settings: dict[str, Any] = {
        "protocol": "json", "request": {"rows": "$rows"}, "response": "p", "kind": "probs", "batch": 64, "queries": 16,
    }  # fmt: skip
    ray = {"engine": "ray", "workers": 2}
    limits = {"rate": "40/s", "budget": 800}
    short = audit(url, x, out=tmp_path / "run", **settings, **limits, **ray)
    assert sum(rows for _, rows in asked) == short.summary.queries <= 800
    assert 0 < short.data["measured"] < 64
    places = np.array(turns.read_text().split(), float)
    arrivals = np.array([at for at, _ in asked])
    assert len(places) >= len(arrivals)  # the budget refused some that had taken their turn
    assert (np.sort(arrivals) >= np.sort(places)[: len(arrivals)]).all()
    assert (np.diff(places) >= 1 / 40 - 1e-9).all()
    whole = audit(url, x, out=tmp_path / "run", resume=True, **settings)  # on the other engine
    assert whole.data["measured"] == 64
    assert sum(rows for _, rows in asked) == whole.summary.queries
    local = audit(url, x, **settings)
    assert whole.inputs == local.inputs


def shrinking(store: list[Any], gate: threading.Lock) -> Any:
    """Near an earlier row a tenth of the step is answered."""

    def answer(rows: Any) -> Any:
        seen = []
        with gate:
            for row in rows:
                near = [one for one in store if np.linalg.norm(one - row) < 0.5]
                store.extend([] if near else [row])
                seen.append(row if not near else near[-1] + 0.1 * (row - near[-1]))
        return probabilities(np.array(seen))

    return answer


CHECKED: dict[str, Any] = {
    "protocol": "json", "request": {"rows": "$rows"}, "response": "p", "kind": "probs", "queries": 40,
    "integrity": True, "lower": 0.0, "upper": 1.0,
}  # fmt: skip


@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.coverage), 2])  # one takes as long again
def test_integrity_of_an_endpoint_is_checked_from_any_workers(
    nodes: Nodes, service: tuple[str, list[tuple[float, int]]], workers: int
) -> None:
    """Decoys are asked by the workers and looked at here; an honest server gets the report of one process."""
    nodes.ensure()
    x = np.random.default_rng(0).random((8, 6))
    local = audit(service[0], x, **CHECKED)
    ray = audit(service[0], x, engine="ray", workers=workers, **CHECKED)
    assert ray.settings["order"] == "interleaved"
    assert ray.integrity == local.integrity
    assert ray.integrity[0].numbers["decoys"] == 8
    assert [check.outcome for check in ray.integrity][:2] == ["ok", "ok"]
    assert ray.inputs == local.inputs
    assert ray.summary == local.summary


@pytest.mark.coverage
def test_an_endpoint_that_remembers_is_found_from_a_worker(
    nodes: Nodes, service: tuple[str, list[tuple[float, int]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(globals(), "served", shrinking([], threading.Lock()))
    x = np.random.default_rng(0).random((8, 6))
    # With 8 inputs of 6 features a walk may end among rows that the server has kept: 59 of 60 seeds find it, 0 does not.
    contradicted = audit(service[0], x, engine="ray", workers=1, seed=1, **CHECKED)
    assert contradicted.contradicted[0].name == "history"


@pytest.mark.coverage
def test_integrity_of_a_function_is_checked_from_any_worker(nodes: Nodes) -> None:
    x = np.random.default_rng(0).random((8, 6))
    settings: dict[str, Any] = {"queries": 40, "integrity": True}
    ray = audit(probabilities, x, order="interleaved", engine="ray", workers=1, **settings)
    assert ray.integrity == audit(probabilities, x, **settings).integrity


RUN = """
import faulthandler
faulthandler.dump_traceback_later(1500, exit=True)  # a process that hangs says where
from fimaudit.cli import main
main()
"""

#: Ends as by a power cut when the fourth part is about to get its name.
KILLED = """
import os, signal, sys
named = 0
def watch(event, arguments):
    global named
    if event == "os.rename" and os.path.basename(arguments[1]).startswith("part-"):
        named += 1
        if named == 4:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(watch)
"""


def test_a_killed_driver_goes_on_from_the_parts(nodes: Nodes, tmp_path: Path) -> None:
    from tests.command_line import run_command  # the driver takes its model from this file, without the tests beside it

    nodes.ensure()
    x = np.random.default_rng(0).standard_normal((240, 6))
    np.save(tmp_path / "x.npy", x)
    out = tmp_path / "run"
    flags = ["--data", str(tmp_path / "x*.npy"), "--out", str(out), "--queries", "16", "--batch", "16"]
    words = [sys.executable, "-c", KILLED + RUN, "audit", "test_ray:model", *flags]
    words += ["--engine", "ray", "--address", nodes.address, "--workers", "2"]
    assert subprocess.run(words, cwd=HERE, capture_output=True).returncode == -signal.SIGKILL
    assert len(list(out.glob("parts/part-*.parquet"))) == 3
    done = run_command("audit", "test_ray:model", *flags, "--resume", cwd=HERE)  # on the other engine
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    report = Report.read(out)
    local = audit(probabilities, str(tmp_path / "x*.npy"), queries=16, batch=16)
    assert report.inputs == local.inputs
    assert report.step == local.step
    assert not (out / "parts").exists()


REFUSED: dict[str, tuple[list[str], str]] = {
    "no workers": (["--engine", "ray", "--workers", "0"], "expected --workers of at least 1, got 0"),
    "negative GPUs": (["--engine", "ray", "--gpus-per-worker", "-1"], "expected --gpus-per-worker of 0 or more"),
    "unknown engine": (["--engine", "spark"], "expected --engine local or ray, got 'spark'"),
    "workers of the local engine": (["--workers", "2"], "--workers belongs to --engine ray"),
    "nobody at the address": (
        ["--engine", "ray", "--address", "127.0.0.1:1"],
        "no Ray cluster answers at --address 127.0.0.1:1",
    ),
    "no address": (["--engine", "ray", "--address", "there"], "expected --address auto or host:port"),
    "negative failures": (["--max-failures", "-1"], "failures to allow of 0 or more"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_wrong_use_is_refused_in_one_sentence(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    flags, words = REFUSED[name]
    if "--address" in flags:
        import ray

        monkeypatch.setattr(ray, "is_initialized", lambda: False)  # else the file's own cluster is taken
    np.save(tmp_path / "x.npy", np.zeros((3, 6)))
    arguments = [
        "fimaudit",
        "audit",
        "test_ray:model",
        "--data",
        str(tmp_path / "x.npy"),
        "--out",
        str(tmp_path / "run"),
    ]
    monkeypatch.setattr(sys, "argv", [*arguments, *flags])
    from fimaudit.cli import main

    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert words in " ".join(error.split())
    assert len(error.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_a_cluster_that_wants_a_token_is_said_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen: a cluster started where Ray had once made a token; "failed to connect", and nothing of the token."""
    import ray

    def refuse(**options: Any) -> None:
        """As Ray 2.60 words it."""
        try:
            raise RuntimeError(
                "Failed to connect to GCS. Last connection error: Traceback (most recent call last):\n"
                "ray.exceptions.AuthenticationError: RPC error: InvalidAuthToken"
            )
        except RuntimeError as exc:
            raise ConnectionError("Failed to connect to Ray cluster at 192.0.2.1:6379") from exc

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", refuse)
    with pytest.raises(UsageError, match=r"the Ray cluster at address='auto' wants a token.*set RAY_AUTH_MODE=token"):
        connect("auto")


def test_no_worker_fits(nodes: Nodes) -> None:
    with pytest.raises(UsageError, match="not one worker fits: each takes 1 CPU and 1 GPUs"):
        audit(probabilities, np.zeros((3, 6)), engine="ray", gpus_per_worker=1)


def test_a_model_that_cannot_travel_is_refused(nodes: Nodes) -> None:
    held = threading.Lock()

    def closed(x: Any) -> Any:
        with held:
            return probabilities(x)

    with pytest.raises(UsageError, match="cannot be sent to other processes"):
        audit(closed, np.random.default_rng(0).standard_normal((4, 6)), queries=8, engine="ray", workers=1)


def test_without_ray_the_command_that_installs_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "ray" else found(name, *rest))
    with pytest.raises(MissingExtraError, match=r"pip install 'fimaudit\[ray\]'"):
        audit(probabilities, np.zeros((3, 6)), engine="ray")


def test_a_node_lost_in_mid_run_changes_nothing(nodes: Nodes, tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((240, 6))
    y = np.arange(240) % 3
    for k in range(4):
        np.savez(tmp_path / f"{k}.npz", x=x[60 * k : 60 * k + 60], y=y[60 * k : 60 * k + 60])
    data = str(tmp_path / "*.npz")
    gate = tmp_path / "gate"
    gate.touch()
    answers = functools.partial(held, str(gate), os.getpid(), 70 * 24)  # 70 inputs: four pieces and a part of one
    local = audit(answers, data, queries=24, batch=24, name="held", out=tmp_path / "local")
    lost_at: list[int] = []

    with open(gate) as locked:
        fcntl.flock(locked, fcntl.LOCK_EX)

        def progress(rows: int, expected: int, done: int, inputs: int) -> None:
            if done > 75 and not lost_at:  # more than one worker measures: both do, and both will wait at the gate
                nodes.lose()
                lost_at.append(done)
                fcntl.flock(locked, fcntl.LOCK_UN)

        nodes.ensure()
        engine = RayEngine(workers=2, grace=2.0)
        options: dict[str, Any] = {"queries": 24, "batch": 24, "name": "held", "out": tmp_path / "ray", "progress": progress}
        ray = audit(answers, data, engine=engine, **options)
    assert lost_at[0] < 240
    same, other = comparable(local), comparable(ray)
    # What the lost node had asked and not handed in is not known, or was asked again: calls may differ, nothing else.
    for one in (same, other):
        one["summary"].pop("queries")
        one["summary"].pop("requests")
    assert other == same
    assert [s.index for s in ray.inputs] == list(range(240))
    assert ray.environment["engine"] == {"name": "ray", "workers": 2, "gpus_per_worker": 0.0}


#: An input that kills its process, and so does what lies this close: nothing that is displaced from the others.
MARK, CLOSE = np.array([3.0, -3.0, 3.0, -3.0, 3.0, -3.0]), 0.05


def deadly(driver: int, x: Any) -> Any:
    """A model that must not be asked in the driver, whose death would be the run's."""
    if os.getpid() == driver:
        raise AssertionError("the driver itself was asked")
    if (np.abs(x - MARK) < CLOSE).all(axis=1).any():
        os._exit(1)
    return probabilities(x)


def test_inputs_that_kill_their_process_fail_alone(nodes: Nodes) -> None:
    """One that the first questions hold, and one that is first met in the measurement."""
    nodes.ensure()
    x = np.random.default_rng(0).standard_normal((24, 6))  # of which the pilot asks several
    clean = audit(probabilities, x, queries=16)
    x[[0, 22]] = MARK
    report = audit(functools.partial(deadly, os.getpid()), x, queries=16, engine="ray", workers=1)
    assert [s.index for s in report.inputs if s.status == "failed"] == [0, 22]
    assert all("each process that measured this input died on it" in str(report.inputs[k].reason) for k in (0, 22))
    assert report.data["measured"] == 24
    # The domain's statistics see both, so the numbers are compared by what they must be near.
    for a, b in zip(report.inputs, clean.inputs, strict=True):
        if a.status != "failed":
            assert a.spectral_norm.value == pytest.approx(b.spectral_norm.value, rel=0.05)


def test_a_model_that_kills_every_process_is_refused_in_a_sentence(nodes: Nodes) -> None:
    x = np.tile(MARK, (4, 1))
    with pytest.raises(TargetError, match="the model cannot be asked: the process that was asked these rows died on them"):
        audit(functools.partial(deadly, os.getpid()), x, queries=16, engine="ray", workers=1)
