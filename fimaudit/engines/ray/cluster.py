"""Reaching a Ray cluster, or starting one here: quietly, and refused in a sentence where it cannot serve."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from fimaudit.errors import MissingExtraError, UsageError
from fimaudit.foreign_errors import foreign

__all__ = ["Cluster", "WorkerResources", "alive_nodes", "capacity", "connect", "worker_resources"]

#: Seconds to wait for a head node to take a connection.
PATIENCE = 5.0
#: Errors behind one another that are looked through.
MOST_CAUSES = 10
#: Seconds that a lost node's workers may wait for room elsewhere before their pieces go to the workers that are left.
GRACE = 60.0


@dataclass(frozen=True)
class WorkerResources:
    """What a worker takes, and how many workers there are.

    Attributes:
        workers: processes with a model each.
        gpus: of each worker; may be a fraction.
        grace: seconds that workers of a lost node may wait for room elsewhere.
    """

    workers: int
    gpus: float
    grace: float


class Cluster:
    """A connection; one that this process made is closed at the end, one that was there stays."""

    def __init__(self, *, owned: bool) -> None:
        self._owned = owned

    def close(self) -> None:
        """Leave the cluster; one that was started for this run ends."""
        if self._owned:
            _api().shutdown()
            self._owned = False


def connect(address: str | None) -> Cluster:
    """Reach the cluster at ``address`` (``auto``, ``host:port``), or start one on this machine.

    Raises:
        MissingExtraError: Ray is not installed.
        UsageError: nothing answers there.
    """
    for package in ("ray", "fsspec"):
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError("--engine ray", package, "ray")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # else C++ messages of expected failures reach stderr
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    ray = _api()
    if ray.is_initialized():
        return Cluster(owned=False)
    if address not in (None, "auto"):
        _check_address(str(address))
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL}
    if address is None:
        options["include_dashboard"] = False
    try:
        with _no_stderr():
            ray.init(address="local" if address is None else address, **options)
    except Exception as exc:  # ConnectionError, RuntimeError, TimeoutError, grpc's own
        if address is None:
            raise UsageError(f"Ray could not be started on this machine: {foreign(exc)}") from exc
        if _wants_token(exc):
            raise UsageError(
                f"the Ray cluster at --address {address} wants a token, as clusters do where Ray has made one "
                "(~/.ray/auth_token); set RAY_AUTH_MODE=token"
            ) from exc
        raise UsageError(
            f"no Ray cluster answers at --address {address} ({foreign(exc)}); start one with: ray start --head"
        ) from exc
    _silence_raylet(ray)
    return Cluster(owned=True)


def worker_resources(workers: int | None, gpus_per_worker: float | None, grace: float | None) -> WorkerResources:
    """Decide how many workers there are and what each takes.

    Args:
        workers: as asked for; ``None`` takes as many as fit.
        gpus_per_worker: likewise; ``None`` is one GPU where the cluster has any.
        grace: likewise; ``None`` is ``GRACE``.

    Raises:
        UsageError: not one worker fits.
    """
    have = _api().cluster_resources()
    if gpus_per_worker is None:
        gpus_per_worker = 1.0 if have.get("GPU", 0) >= 1 else 0.0
    most = capacity(gpus_per_worker)
    if most < 1:
        raise UsageError(
            f"not one worker fits: each takes 1 CPU and {gpus_per_worker:g} GPUs, and no node of the cluster has them "
            f"({have.get('CPU', 0):g} CPUs and {have.get('GPU', 0):g} GPUs in all)"
        )
    return WorkerResources(workers or most, gpus_per_worker, GRACE if grace is None else grace)


def capacity(gpus: float) -> int:
    """How many workers of one CPU and so many GPUs the nodes that are alive can hold."""
    count = 0
    for node in alive_nodes():
        has = node["Resources"]
        fit = int(has.get("CPU", 0))
        count += fit if gpus == 0 else min(fit, int(has.get("GPU", 0) / gpus))
    return count


def alive_nodes() -> list[dict[str, Any]]:
    """What Ray knows of the nodes that are alive."""
    return [node for node in _api().nodes() if node["Alive"]]


@contextmanager
def _no_stderr() -> Iterator[None]:
    """The C++ side announces its log level on file descriptor 2 as it starts, whatever the level."""
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        sys.stderr.flush()
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _api() -> Any:
    """The package, imported when a cluster is wanted; some of its functions carry no types."""
    return importlib.import_module("ray")


def _check_address(address: str) -> None:
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdigit() or "://" in address:
        raise UsageError(f"expected --address auto or host:port of a Ray head node, got {address!r}")
    try:
        with socket.create_connection((host, int(port)), timeout=PATIENCE):
            return
    except (OSError, OverflowError) as exc:
        raise UsageError(
            f"no Ray cluster answers at --address {address} ({exc}); start one there with: ray start --head --port {port}"
        ) from exc


def _wants_token(error: BaseException) -> bool:
    """Whether a cluster's refusal lies behind an error that only says that no connection came about, or in its text."""
    behind: BaseException | None = error
    for _ in range(MOST_CAUSES):
        if behind is None:
            return False
        if "AuthenticationError" in f"{type(behind).__name__} {behind}":
            return True
        behind = behind.__cause__ or behind.__context__
    return False


def _silence_raylet(ray: Any) -> None:
    """Ray prints each death of a worker to stderr whatever its settings; the run reports and repairs those itself."""
    logging.getLogger("ray").setLevel(logging.CRITICAL)
    worker: Any = getattr(getattr(ray, "_private", None), "worker", None)
    if hasattr(worker, "print_to_stdstream"):
        worker.print_to_stdstream = lambda *_, **__: None
