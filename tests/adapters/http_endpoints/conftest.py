"""Real servers, one of each for the whole test run."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.linear_model import LogisticRegression

from fimaudit.models.opening import open_classifier
from tests.servers import manager, plain_server, vendors
from tests.servers.manager import CannotInstall, Server

SERVERS = Path(__file__).resolve().parents[2] / "servers"


@dataclass
class Known:
    """A trained model, where it is saved, and rows for it."""

    model: LogisticRegression
    path: Path
    rows: NDArray[np.float64]

    def truth(self, rows: NDArray[Any]) -> NDArray[np.float64]:
        return np.asarray(self.model.predict_proba(rows.reshape(len(rows), -1).astype(np.float64)))


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("servers")


@pytest.fixture(scope="session")
def cancer(base: Path) -> Known:
    x, y = load_breast_cancer(return_X_y=True)
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    return _trained(base / "cancer.joblib", LogisticRegression(C=0.05).fit(x, y), x)


@pytest.fixture(scope="session")
def digits(base: Path) -> Known:
    x, y = load_digits(return_X_y=True)
    return _trained(base / "digits.joblib", LogisticRegression(C=0.005, max_iter=500).fit(x, y), x)


def _trained(path: Path, model: LogisticRegression, rows: NDArray[np.float64]) -> Known:
    joblib.dump(model, path)
    return Known(model, path, rows)


def _kserve(base: Path, cancer: Known, digits: Known) -> Server:
    python, port = manager.environment("kserve") / "bin" / "python", manager.free_port()
    command = [str(python), str(SERVERS / "kserve_server.py"), str(port), str(cancer.path), str(digits.path)]
    return manager.start(command, port, base / "kserve.log", ready="/v2/health/ready")


def _of_labels(kind: str, ready: str) -> Callable[[Path, Known, Known], Server]:
    def start(base: Path, cancer: Known, digits: Known) -> Server:
        python, port = manager.environment("kserve") / "bin" / "python", manager.free_port()  # FastAPI is in it too
        command = [str(python), str(SERVERS / "real_label_servers.py"), kind, str(port), str(cancer.path)]
        return manager.start([*command, str(base / f"{kind}.counted")], port, base / f"{kind}-labels.log", ready=ready)

    return start


def _triton(base: Path, cancer: Known, digits: Known) -> Server:
    python, port = manager.environment("pytriton") / "bin" / "python", manager.free_port()
    weights = {
        f"{name}_{what}": value
        for name, known in (("cancer", cancer), ("digits", digits))
        for what, value in (
            ("coef", known.model.coef_), ("intercept", known.model.intercept_), ("classes", len(known.model.classes_)),
        )
    }  # fmt: skip
    np.savez(base / "weights.npz", **weights)
    find = [str(python), "-c", "import sysconfig; print(sysconfig.get_config_var('LIBDIR'))"]
    libraries = subprocess.run(find, capture_output=True, text=True, check=True).stdout.strip()
    env = {"LD_LIBRARY_PATH": libraries, "PATH": f"{python.parent}:{os.environ['PATH']}"}
    command = [str(python), str(SERVERS / "triton_server.py"), str(port), str(base / "weights.npz")]
    return manager.start(command, port, base / "triton.log", ready="/v2/models/digits/ready", env=env)


_SAVE = """
import sys, joblib, mlflow.sklearn as m, numpy as np
from mlflow.models import infer_signature
model = joblib.load(sys.argv[1]); x = np.zeros((2, 30)); fn = sys.argv[3]
m.save_model(model, sys.argv[2], pyfunc_predict_fn=fn, pip_requirements=[], serialization_format="cloudpickle",
             signature=infer_signature(x, getattr(model, fn)(x)))
"""


def _mlflow(function: str) -> Callable[[Path, Known, Known], Server]:
    def start(base: Path, cancer: Known, digits: Known) -> Server:
        binaries = manager.environment("mlflow") / "bin"
        env = {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true", "PATH": f"{binaries}:{os.environ['PATH']}"}
        home, port = base / f"mlflow-{function}", manager.free_port()
        save = [str(binaries / "python"), "-c", _SAVE, str(cancer.path), str(home), function]
        saved = subprocess.run(save, env={**os.environ, **env}, capture_output=True, text=True)
        assert saved.returncode == 0, saved.stderr
        command = [str(binaries / "mlflow"), "models", "serve", "-m", str(home), "-h", "127.0.0.1", "-p", str(port)]
        return manager.start([*command, "--env-manager", "local"], port, base / f"{function}.log", ready="/ping", env=env)

    return start


#: The environment that each server runs in, where it needs one of its own.
INSTALLED = {
    "kserve": "kserve",
    "kserve_labels": "kserve",
    "fastapi_labels": "kserve",
    "triton": "pytriton",
    "mlflow": "mlflow",
    "mlflow_labels": "mlflow",
}


def pytest_collection_finish(session: pytest.Session) -> None:
    """What the chosen tests need is installed while others run: it takes a minute or two, the first time."""
    needed = {INSTALLED[name] for item in session.items for name in getattr(item, "fixturenames", ()) if name in INSTALLED}
    for name in sorted(needed):
        threading.Thread(target=_installed, args=(name,), daemon=True).start()


def _installed(name: str) -> None:
    with contextlib.suppress(CannotInstall):  # the test that needs it says so
        manager.environment(name)


STARTS: dict[str, Callable[[Path, Known, Known], Server]] = {
    "kserve": _kserve,
    "kserve_labels": _of_labels("kserve", "/v2/health/ready"),
    "fastapi_labels": _of_labels("fastapi", "/ready"),
    "mlflow": _mlflow("predict_proba"),
    "mlflow_labels": _mlflow("predict"),
    "triton": _triton,
}


@pytest.fixture(scope="session", autouse=True)  # they start while tests that need none of them run
def servers(request: pytest.FixtureRequest, base: Path, cancer: Known, digits: Known) -> Iterator[dict[str, Future[Server]]]:
    """Every server that the chosen tests need, installed and started side by side: their imports take most of the time."""
    needed = {name for item in request.session.items for name in getattr(item, "fixturenames", ())}
    with ThreadPoolExecutor(4) as pool:
        starting = {name: pool.submit(start, base, cancer, digits) for name, start in STARTS.items() if name in needed}
        yield starting
        for future in starting.values():
            if future.exception() is None:
                future.result().stop()


def _started(servers: dict[str, Future[Server]], name: str) -> Server:
    """The server, or a skip that says loudly why there is none."""
    try:
        return servers[name].result()
    except CannotInstall as exc:
        warnings.warn(pytest.PytestWarning(f"SKIPPED a real server: {exc}"), stacklevel=2)
        pytest.skip(str(exc))


@pytest.fixture(scope="session")
def kserve(servers: dict[str, Future[Server]]) -> Server:
    return _started(servers, "kserve")


@pytest.fixture(scope="session")
def plain(cancer: Known, digits: Known) -> Iterator[vendors.LoopbackServer]:
    with vendors.serving(plain_server.services(cancer.model, digits.model)) as running:
        yield running


@pytest.fixture(scope="session")
def triton(servers: dict[str, Future[Server]]) -> Server:
    return _started(servers, "triton")


@pytest.fixture(scope="session")
def mlflow(servers: dict[str, Future[Server]]) -> Server:
    """Saved with ``pyfunc_predict_fn="predict_proba"``."""
    return _started(servers, "mlflow")


@pytest.fixture(scope="session")
def kserve_labels(servers: dict[str, Future[Server]]) -> Server:
    return _started(servers, "kserve_labels")


@pytest.fixture(scope="session")
def fastapi_labels(servers: dict[str, Future[Server]]) -> Server:
    return _started(servers, "fastapi_labels")


@pytest.fixture(scope="session")
def mlflow_labels(servers: dict[str, Future[Server]]) -> Server:
    """Saved without it."""
    return _started(servers, "mlflow_labels")


@dataclass
class Gateway:
    server: Server
    tls_port: int
    ca_file: Path

    @property
    def url(self) -> str:
        return self.server.url


@pytest.fixture(scope="session")
def gateway(base: Path, kserve: Server) -> Iterator[Gateway]:
    """nginx in front of KServe."""
    try:
        program = manager.nginx()
    except CannotInstall as exc:
        warnings.warn(pytest.PytestWarning(f"SKIPPED a real server: {exc}"), stacklevel=2)
        pytest.skip(str(exc))
    home = base / "nginx"
    home.mkdir()
    make = shutil.which("openssl")
    if make is None:
        pytest.skip("openssl is not installed, so there is no certificate for nginx")
    subject = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    files = ["-keyout", str(home / "key.pem"), "-out", str(home / "cert.pem")]
    command = [make, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *subject, *files]
    subprocess.run(command, check=True, capture_output=True)
    ports = {
        "PORT": manager.free_port(),
        "TLS_PORT": manager.free_port(),
        "DEAD": manager.free_port(),
        "UPSTREAM": kserve.port,
    }
    silent = socket.create_server(("127.0.0.1", 0))  # takes connections and says nothing
    ports["SILENT"] = silent.getsockname()[1]
    text = (SERVERS / "nginx.conf").read_text().replace("HERE", str(home))
    for name in ("TLS_PORT", "PORT", "DEAD", "SILENT", "UPSTREAM"):
        text = text.replace(name, str(ports[name]))
    (home / "nginx.conf").write_text(text)
    start = [str(program), "-c", str(home / "nginx.conf"), "-p", str(home), "-e", str(home / "error.log")]
    server = manager.start(start, ports["PORT"], home / "out.log", ready=None)
    yield Gateway(server, ports["TLS_PORT"], home / "cert.pem")
    server.stop()
    silent.close()


@dataclass
class FaultProxy:
    server: Server

    @property
    def url(self) -> str:
        return self.server.url

    def set(self, **faults: Any) -> None:
        self._talk("__faults__", faults)

    def counts(self) -> dict[str, Any]:
        found: dict[str, Any] = self._talk("__faults__")
        return found

    def kill_after(self, posts: int, command: Sequence[str]) -> None:
        """Run a program in a process group of its own and kill that while the request after so many stays unanswered."""
        self._talk("__hold__", posts)
        process = subprocess.Popen(command, start_new_session=True)
        try:
            self._talk("__hold__")
            assert process.poll() is None
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            self._talk("__hold__", None)

    def _talk(self, path: str, *body: Any) -> Any:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        data = json.dumps(body[0]).encode() if body else None
        with opener.open(f"{self.url}/{path}", data=data) as answer:
            return json.load(answer)


@pytest.fixture(scope="session")
def fault_server(base: Path, kserve: Server) -> Iterator[FaultProxy]:
    port = manager.free_port()
    command = [sys.executable, str(SERVERS / "fault_proxy.py"), str(port), str(kserve.port)]
    server = manager.start(command, port, base / "faults.log", ready="/__faults__")
    yield FaultProxy(server)
    server.stop()


@pytest.fixture
def faults(fault_server: FaultProxy) -> FaultProxy:
    """The fault proxy in front of KServe, spoiling nothing yet."""
    fault_server.set(rate=0.0)
    return fault_server


@pytest.fixture
def connect() -> Iterator[Callable[..., Any]]:
    """``open_classifier`` with ``trust_env`` off, closed at the end of the test."""
    opened: list[Any] = []

    def connect(target: str, link: Any = "auto", **options: Any) -> Any:
        opened.append(open_classifier(target, link, adapter="http", trust_env=False, **options))
        return opened[-1]

    yield connect
    for model in opened:
        model.close()
