"""The Ray engine: pieces of a pass through Ray Data's ``map_batches``, over a pool of actors with one model each."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pyarrow as pa
import ray
import ray.data
from numpy.typing import NDArray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from fimaudit.data.dataset import LabelledStream
from fimaudit.data.streams import Shard, ShardFacts, Stream, survey
from fimaudit.data.table_reading import TableReading
from fimaudit.engines.ray.answering_process import AnsweringProcess, answered_beside
from fimaudit.engines.ray.cluster import WorkerResources, alive_nodes, capacity
from fimaudit.engines.ray.coordinator import Coordinator, SharedLedger
from fimaudit.engines.ray.worker import Pass, Worker, share_turns
from fimaudit.engines.work import Work
from fimaudit.errors import BudgetExhausted, ModelFailure, TargetError
from fimaudit.errors.option_names import COMMAND_LINE, caller
from fimaudit.models.classifier import Classifier, NetworkClassifier
from fimaudit.models.leases import Ledger, Usage
from fimaudit.models.links import Link
from fimaudit.models.shipping import ship_model
from fimaudit.results import MeasuredInput
from fimaudit.storage.parts import Part

__all__ = ["RayExecutor", "cut", "survey_on_ray"]

#: Inputs of a piece at most, and pieces that each worker should get at least, so that all end at about the same time.
MOST_INPUTS, PIECES_EACH = 256, 8
#: Pieces handed to a worker ahead of time: the next one is there when one is done.
AHEAD = 2
#: Seconds between two looks at which nodes are there.
LOOK_EVERY = 1.0


def survey_on_ray(shards: Sequence[Shard], reading: TableReading) -> list[ShardFacts]:
    """What is known of each file, found all over the cluster (``streams.Surveyor``)."""
    look = ray.remote(survey).options(num_cpus=0.25)
    out: list[ShardFacts] = ray.get([look.remote(shard, reading) for shard in shards])
    return out


class RayExecutor:
    """Runs passes on a cluster; the model travels once.

    Args:
        resources: how many workers there are and what each takes.
        target, link, options: how the workers open the model.
        batch: rows a call.
    """

    def __init__(
        self, resources: WorkerResources, target: object, link: Link, options: Mapping[str, Any], batch: int | None
    ) -> None:
        self._resources, self._batch = resources, batch
        self._target, self._link, self._options = target, link, options
        self._model: Classifier | None = None
        self._coordinator: Any = None
        self._shipped: Any = None
        self._beside: AnsweringProcess | None = None
        self._shared = False

    def prepare(
        self,
        model: Classifier,
        budget: int | None,
        spent: Usage,
        ledger: tuple[str, str] | None,
        answers: tuple[str, bool] | None,
    ) -> Ledger:
        """See ``RemoteEngine``: starts the actor that the workers share, on the driver's own node."""
        node = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        network = isinstance(model, NetworkClassifier)
        rate = getattr(getattr(model, "endpoint", None), "rate", None)
        made: Any = ray.remote(Coordinator)
        self._coordinator = made.options(num_cpus=0, scheduling_strategy=node).remote(budget, spent, ledger, rate, answers)
        ray.get(self._coordinator.usage.remote())
        external = model.info.details.get("external_data") or {}
        self._shipped = ray.put(ship_model(self._target, self._link, self._options, ray.put, external))
        self._model = model
        if network:
            share_turns(model, self._coordinator, self._resources.workers + 1)
        self._shared = network or answers is not None
        return SharedLedger(self._coordinator, ray.get, keeps=self._shared)

    def answering(self) -> Classifier:
        """See ``RemoteEngine``; an endpoint's model is far away already."""
        assert self._model is not None, "prepare comes first"
        if isinstance(self._model, NetworkClassifier):
            return self._model
        self._beside = answered_beside(self._model, self._shipped)
        return self._beside

    def run(self, indices: NDArray[np.int64], work: Work) -> Generator[MeasuredInput | Part, None, None]:
        """See ``Engine``. A piece whose worker died is done again; one that was done is not.

        Raises:
            BudgetExhausted: all workers together have spent the budget.
            TargetError: a worker cannot open the model.
            ModelFailure: the model or the workers fail throughout.
        """
        assert self._model is not None, "prepare comes first"
        missing = indices
        workers = self._resources.workers
        while len(missing):
            left, work = np.ones(len(missing), dtype=bool), replace(work, sharing=workers)
            stop: tuple[str, str] | None = None
            cuts = cut(missing, work.piece(self._model), work.source, workers)
            shared, flags = self._shared or work.budget is not None, caller() == COMMAND_LINE
            for answer in self._round(Pass(work, missing, cuts, self._batch, workers, shared, flags), workers):
                piece = slice(int(cuts[answer["piece"]]), int(cuts[answer["piece"] + 1]))
                if answer["stop"]:
                    ray.get(self._coordinator.stop.remote())  # the others finish the piece they are at
                    stop = stop or (answer["stop"], answer["message"])
                elif answer["index"]:
                    left[piece] = False
                if answer["index"]:
                    index, states = np.frombuffer(answer["index"], np.int64), np.frombuffer(answer["states"], np.int8)
                    yield Part(answer["data"], index, states, answer["rows"], answer["requests"])
            if stop is not None:
                raise {"budget": BudgetExhausted, "usage": TargetError}.get(stop[0], ModelFailure)(stop[1])
            if left.all():
                raise ModelFailure(
                    "every worker died before it had measured anything; what they last said is in the logs of Ray's session "
                    "(/tmp/ray/session_latest/logs on each node); go on with --resume"
                )
            missing = missing[left]
            workers = max(1, min(self._resources.workers, capacity(self._resources.gpus)))

    def close(self) -> None:
        """End the shared actor, which lets go of the ledger, and the process that answers; may be called twice."""
        if self._beside is not None:
            self._beside.close()
        if self._coordinator is not None:
            coordinator, self._coordinator = self._coordinator, None
            with contextlib.suppress(ray.exceptions.RayError):
                ray.get(coordinator.close.remote())
                ray.kill(coordinator)

    def _round(self, given: Pass, workers: int) -> Iterator[dict[str, Any]]:
        """One dataset over the pieces that are missing; a piece that is lost with its worker for good just does not come."""
        _quiet_data()
        pieces = [pa.table({"piece": [k]}) for k in range(len(given.cuts) - 1)]
        dataset = ray.data.from_arrow(pieces).map_batches(
            Worker,
            batch_size=1,
            batch_format="numpy",
            fn_constructor_args=([self._shipped, ray.put(given)], self._coordinator),
            compute=ray.data.ActorPoolStrategy(
                size=min(workers, len(pieces)), max_tasks_in_flight_per_actor=AHEAD, max_concurrent_calls_per_actor=1
            ),
            num_cpus=1,
            num_gpus=self._resources.gpus,
        )
        over = threading.Event()
        watch = threading.Thread(target=self._watch, args=(over, workers), name="fimaudit-nodes", daemon=True)
        watch.start()
        seen: set[int] = set()
        try:
            for block in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
                for row in cast(pa.Table, block).to_pylist():
                    if row["piece"] not in seen:  # Ray may run a piece twice when a node is lost with its answer
                        seen.add(row["piece"])
                        yield row
        except ray.exceptions.RayError as exc:
            logging.getLogger("fimaudit").info("the round ended with %s", exc)  # what is missing is done in the next one
        finally:
            over.set()
            watch.join()

    def _watch(self, over: threading.Event, workers: int) -> None:
        """Give up workers of a lost node when no node has room for them: their pieces would wait for ever."""
        short_since: float | None = None
        clock = 0.0
        while not over.wait(LOOK_EVERY):
            clock += LOOK_EVERY
            try:
                short = capacity(self._resources.gpus) < workers
                short_since = (clock if short_since is None else short_since) if short else None
                if short_since is not None and clock - short_since >= self._resources.grace:
                    for lost in ray.get(self._coordinator.on_lost_nodes.remote([node["NodeID"] for node in alive_nodes()])):
                        ray.kill(lost, no_restart=True)
            except ray.exceptions.RayError:
                return


def cut(indices: NDArray[np.int64], block: int, source: object, workers: int) -> NDArray[np.int64]:
    """Where pieces begin in ``indices``, and their end: whole blocks of inputs, within one file where there are files.

    The numbers do not depend on it: no call holds rows of two inputs, and passes of derivatives hold whole blocks.

    >>> cut(np.arange(10), 4, None, 1).tolist()
    [0, 4, 8, 10]
    """
    if not len(indices):
        return np.zeros(1, dtype=np.int64)
    size = max(1, min(MOST_INPUTS, len(indices) // (workers * PIECES_EACH)))
    size = -(-size // block) * block
    numbers = indices // size
    begins = np.diff(numbers, prepend=-1) != 0
    if isinstance(source, Stream | LabelledStream):
        files = np.searchsorted(np.array(source.starts), indices, side="right")
        other = np.diff(files, prepend=-1) != 0
        whole = np.diff(indices // block, prepend=-1) != 0  # a block that spans two files is not torn apart
        begins |= other & whole
    return np.append(np.flatnonzero(begins), len(indices))


def _quiet_data() -> None:
    """No bars or messages of Ray Data's own, and no end of the run because of one piece."""
    context = ray.data.DataContext.get_current()
    wanted = {
        "enable_progress_bars": False,
        "print_on_execution_start": False,
        "enable_auto_log_stats": False,
        "max_errored_blocks": -1,
        "execution_no_progress_timeout_s": -1,
    }
    for name, value in wanted.items():
        if hasattr(context, name):  # not every version knows all of them
            setattr(context, name, value)
    for name in ("ray.data", "ray"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
