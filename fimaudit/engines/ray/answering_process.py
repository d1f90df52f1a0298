"""What the driver itself asks is answered in a process beside it: a row that kills its process does not kill the run."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import ray
from numpy.typing import NDArray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from fimaudit.errors import ModelFailure
from fimaudit.models.classifier import Classifier, DeviceClassifier, ModelInfo
from fimaudit.models.shipping import ShippedModel

__all__ = ["AnsweringProcess", "answered_beside"]

DIED = "the process that was asked these rows died on them; look for a crash or too little memory there"


class AnsweringProcess:
    """A classifier whose rows another process on this node answers; one that died on some rows is replaced for the next.

    Args:
        info: of the model, which was opened here too.
        shipped: handle of the ``ShippedModel``.
    """

    def __init__(self, info: ModelInfo, shipped: Any) -> None:
        self.info = info
        self._shipped, self._process = shipped, None

    def probabilities(self, batch: NDArray[Any]) -> NDArray[np.float64]:
        """See ``Classifier``.

        Raises:
            ModelFailure: the process died.
        """
        return self._ask("probabilities", batch)

    def close(self) -> None:
        """End the process; may be called twice."""
        process, self._process = self._process, None
        if process is not None:
            ray.kill(process)

    def _ask(self, how: str, *arrays: Any) -> NDArray[np.float64]:
        if self._process is None:
            this_node = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
            made: Any = ray.remote(_Answering)
            self._process = made.options(num_cpus=0, scheduling_strategy=this_node).remote([self._shipped])
        try:
            return np.asarray(ray.get(cast(Any, self._process).answer.remote(how, *arrays)))
        except ray.exceptions.RayTaskError as exc:  # what the model raised
            raise exc.cause from exc
        except ray.exceptions.RayActorError as exc:
            self._process = None
            raise ModelFailure(DIED) from exc


class _DisplacingProcess(AnsweringProcess):
    """One whose model builds displaced rows where it runs."""

    def displaced(self, *parts: Any) -> NDArray[np.float64]:
        """See ``DeviceClassifier``."""
        return self._ask("displaced", *parts)


class _Answering:
    """The process: the model, opened there.

    Args:
        held: a list of the handle, or Ray would hand over what it stands for.
    """

    def __init__(self, held: list[Any]) -> None:
        self._shipped: ShippedModel = ray.get(held[0])
        self._model: Classifier | None = None

    def answer(self, how: str, *parts: Any) -> NDArray[np.float64]:
        """What the model says; rows that came over are read-only, and a model may write into its own."""
        model = self._model = self._model or self._shipped.open(ray.get)
        if how == "displaced":
            return cast(DeviceClassifier, model).displaced(*parts)
        return model.probabilities(np.array(parts[0]))


def answered_beside(model: Classifier, shipped: Any) -> AnsweringProcess:
    """The process for a model that was opened here; it starts when it is first asked."""
    kind = _DisplacingProcess if isinstance(model, DeviceClassifier) else AnsweringProcess
    return kind(model.info, shipped)
