"""Which engine an audit runs on, with what it needs before the data and the model are opened."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from fimaudit.data.streams import Surveyor
from fimaudit.errors import UsageError
from fimaudit.models.links import Link

if TYPE_CHECKING:
    from fimaudit.engines.ray.cluster import Cluster, WorkerResources
    from fimaudit.engines.ray.engine import RayExecutor

__all__ = ["EngineName", "Place", "RayEngine", "choose_engine"]

EngineName = Literal["local", "ray"]


@dataclass(frozen=True)
class RayEngine:
    """Measure on the processes of a Ray cluster: ``audit(model, x, engine=RayEngine(workers=4))``.

    Attributes:
        address: of the cluster, ``auto`` or ``host:port``; one is started here when left out.
        workers: processes with a model each; as many as fit when left out.
        gpus_per_worker: what each takes, fractions too; one where there are any when left out.
        grace: seconds that the workers of a lost node wait for room elsewhere before those that are left do their share; a
            minute when left out. More where new nodes take longer to come.
    """

    address: str | None = None
    workers: int | None = None
    gpus_per_worker: float | None = None
    grace: float | None = None


class Place:
    """This machine, or a cluster that is connected until ``close``.

    Attributes:
        surveyor: looks into the files (``fimaudit.data.streams.open_data``).
    """

    def __init__(
        self, cluster: Cluster | None = None, resources: WorkerResources | None = None, surveyor: Surveyor | None = None
    ) -> None:
        self._cluster, self._resources, self.surveyor = cluster, resources, surveyor

    def engine(
        self, model: object, link: Link, options: Mapping[str, Any], batch: int | None, *, worst_direction: bool
    ) -> RayExecutor | None:
        """The engine with workers of its own, or ``None`` for this process.

        Args:
            model, link, options: as for ``open_classifier``: each worker opens the model for itself.
            batch: rows a call.
            worst_direction: whether workers would have to write files to the run folder.

        Raises:
            UsageError: something that workers elsewhere cannot do.
        """
        if self._resources is None:
            return None
        if worst_direction:
            raise UsageError("--worst-direction writes a file for each input from this process; use --engine local")
        from fimaudit.engines.ray.engine import RayExecutor

        return RayExecutor(self._resources, model, link, options, batch)

    def facts(self) -> dict[str, Any]:
        """For the report."""
        if self._resources is None:
            return {"name": "local"}
        return {"name": "ray", "workers": self._resources.workers, "gpus_per_worker": self._resources.gpus}

    def close(self) -> None:
        """Leave the cluster."""
        if self._cluster is not None:
            self._cluster.close()


def choose_engine(engine: EngineName | RayEngine | None, given: RayEngine) -> Place:
    """Connect to where an audit is to run.

    Args:
        engine: by name or with its settings; ``None`` is this process.
        given: settings that were given beside it, for an engine that is named.

    Raises:
        UsageError: an unknown engine, settings of the other one, numbers that make no sense, or no cluster there.
        MissingExtraError: Ray is not installed.
    """
    named = [f"--{name.replace('_', '-')}" for name, value in asdict(given).items() if value is not None]
    if engine in (None, "local"):
        if named:
            raise UsageError(f"{named[0]} belongs to --engine ray; the local engine is this one process")
        return Place()
    if isinstance(engine, RayEngine):
        if named:
            raise UsageError(f"expected {named[0][2:].replace('-', '_')} within RayEngine(...), got it beside it too")
        given = engine
    workers, gpus_per_worker = given.workers, given.gpus_per_worker
    if workers is not None and workers < 1:
        raise UsageError(f"expected --workers of at least 1, got {workers}")
    if gpus_per_worker is not None and gpus_per_worker < 0:
        raise UsageError(f"expected --gpus-per-worker of 0 or more, got {gpus_per_worker:g}")
    if given.grace is not None and given.grace < 0:
        raise UsageError(f"expected RayEngine(grace=...) of 0 seconds or more, got {given.grace:g}")
    from fimaudit.engines.ray.cluster import connect, worker_resources

    cluster = connect(given.address)
    try:
        chosen = worker_resources(workers, gpus_per_worker, given.grace)
        from fimaudit.engines.ray.engine import survey_on_ray

        return Place(cluster, chosen, survey_on_ray)
    except BaseException:
        cluster.close()
        raise
