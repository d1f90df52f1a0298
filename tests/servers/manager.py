"""Installs each real server once, into a cache, starts it on a free loopback port, and ends it by its process group."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
CACHE = Path(os.environ.get("FIMAUDIT_TEST_CACHE", HERE.parents[1] / ".cache" / "servers"))
PACKAGES = {
    "kserve": ["kserve==0.21.0", "scikit-learn==1.9.1", "pillow"],
    "mlflow": ["mlflow-skinny==3.17.2", "scikit-learn==1.9.1", "pandas", "fastapi", "uvicorn", "skops"],
    "pytriton": ["nvidia-pytriton==0.7.0", "scikit-learn==1.9.1"],
    # Of the tests that are marked "servers" alone.
    "bentoml": ["bentoml==1.4.40", "scikit-learn==1.9.1"],
    "fastapi": ["fastapi==0.165.0", "uvicorn==0.54.0", "python-multipart", "pillow", "scikit-learn==1.9.1"],
    "gradio": ["gradio==6.31.0", "scikit-learn==1.9.1"],
    "litserve": ["litserve==0.2.19", "scikit-learn==1.9.1"],
    "mlserver": ["mlserver==1.7.1", "mlserver-sklearn==1.7.1", "scikit-learn==1.9.1"],
    "ray": ["ray[serve]==2.60.0", "scikit-learn==1.9.1"],
}
#: Seconds after which a server hangs: only so that a test run ends.
PATIENCE = 900


class CannotInstall(Exception):
    """Why a server is not there; the test is skipped with it."""


@dataclass
class Server:
    port: int
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def stop(self) -> None:
        """End the server and its children, and nothing else."""
        for sent in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, sent)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(5)
                break
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)


@contextlib.contextmanager
def locked(name: str) -> Iterator[None]:
    CACHE.mkdir(parents=True, exist_ok=True)
    with open(CACHE / f"{name}.lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def environment(name: str) -> Path:
    """Folder of the server's own virtual environment, made on demand."""
    home, wanted = CACHE / name, "\n".join(PACKAGES[name])
    done = home / "installed.txt"
    with locked(name):
        if done.exists() and done.read_text() == wanted:
            return home
        shutil.rmtree(home, ignore_errors=True)
        pip = [
            str(home / "bin" / "pip"),
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--no-compile",
            *PACKAGES[name],
        ]
        for command in ([sys.executable, "-m", "venv", str(home)], pip):
            ran = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
            if ran.returncode:
                raise CannotInstall(f"{name} cannot be installed: {ran.stderr.strip()[-400:]}")
        done.write_text(wanted)
    return home


def nginx() -> Path:
    """The nginx program, unpacked from the distribution's package."""
    home = CACHE / "nginx"
    program = home / "usr" / "sbin" / "nginx"
    with locked("nginx"):
        if program.exists():
            return program
        home.mkdir(parents=True, exist_ok=True)
        try:
            download = ["apt-get", "download", "-q", "nginx", "nginx-common"]
            ran = subprocess.run(download, cwd=home, capture_output=True, text=True, timeout=PATIENCE)
            if ran.returncode:
                raise CannotInstall(f"nginx cannot be downloaded: {ran.stderr.strip()[-400:]}")
            for package in home.glob("*.deb"):
                subprocess.run(["dpkg", "-x", package.name, "."], cwd=home, check=True, capture_output=True)
        except (FileNotFoundError, subprocess.SubprocessError) as exc:
            raise CannotInstall(f"nginx cannot be unpacked: {exc}") from exc
        if not program.exists():
            raise CannotInstall("the nginx package holds no usr/sbin/nginx")
    return program


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start(
    command: Sequence[str], port: int, log: Path, *, ready: str | None, env: Mapping[str, str] | None = None
) -> Server:
    """Start a server in a process group of its own and wait until it answers."""
    with open(log, "wb") as file:
        process = subprocess.Popen(
            list(command), stdout=file, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True,
            env={**os.environ, **(env or {})}, cwd=log.parent,
        )  # fmt: skip
    server = Server(port, process, log)
    hung = time.monotonic() + PATIENCE
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while process.poll() is None and time.monotonic() < hung:
        with contextlib.suppress(OSError):
            if ready is None:
                socket.create_connection(("127.0.0.1", port)).close()
            else:
                opener.open(server.url + ready, timeout=PATIENCE).close()
            return server
        with contextlib.suppress(subprocess.TimeoutExpired):  # it refuses, and it cannot be told to call when it is there
            process.wait(0.1)
    server.stop()
    raise RuntimeError(f"{command[0]} did not become ready; its log ends: {log.read_text(errors='replace')[-1500:]}")
