"""Any ``Classifier`` as an estimator of adversarial-robustness-toolbox (ART). Importing this imports ART.

Every row that an attack asks passes the meter, is cast to the model's dtype and stays within the input domain; the
nearest one whose decision differs is kept. So the distance found does not depend on which of its iterates an attack
returns, nor on its own idea of clipping.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import random
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fimaudit.errors import MissingExtraError
from fimaudit.models.counted_passes import CountedModel, LinearizedRows, logs
from fimaudit.validation.art_settings import settings_file, write_settings
from fimaudit.validation.coordinates import Coordinates

write_settings(settings_file())
with contextlib.suppress(ImportError), warnings.catch_warnings():
    warnings.simplefilter("ignore")  # in a notebook it asks for widgets, to draw bars that are never shown
    importlib.import_module("tqdm.auto")

try:
    from art.estimators.classification.classifier import ClassGradientsMixin, ClassifierMixin
    from art.estimators.estimator import BaseEstimator, LossGradientsMixin, NeuralNetworkMixin
except ImportError as exc:  # pragma: no cover - a subprocess test without the package
    raise MissingExtraError("attacking a model", "adversarial-robustness-toolbox", "attacks") from exc

__all__ = ["Asked", "BlackBoxEstimator", "DecisionChanged", "RowsSpent", "WhiteBoxEstimator", "quiet"]

Array = NDArray[np.float64]


class RowsSpent(Exception):
    """An attack asked for more rows than one input may take; what it found so far stands."""


class DecisionChanged(Exception):
    """A nearer row with another decision was found, and no more is wanted (``Asked.until_nearer``)."""


class Asked:
    """What an attack asked of the model at one input, and the nearest row whose decision differed.

    Args:
        passes: counts and asks.
        at: the coordinates around the input.
        decision: the class that the model gives the input.
        most: rows, forward and backward, that each attack may ask.

    Attributes:
        distance, row: the nearest row so far whose decision differed, and its length in units of the scale.
        until_nearer: raise ``DecisionChanged`` at each such row.
    """

    def __init__(self, passes: CountedModel, at: Coordinates, decision: int, most: int | None = None) -> None:
        self.passes, self.at, self.decision = passes, at, decision
        self.distance: float = np.inf
        self.row: NDArray[Any] | None = None
        self.until_nearer = False
        self._most = most
        self._stop = None if most is None else passes.forward + passes.backward + most
        self._linearized: tuple[bytes, LinearizedRows, NDArray[np.bool_]] | None = None

    def forget(self) -> None:
        """Start the search for the nearest row anew, for the next attack."""
        self.distance, self.row = np.inf, None
        self._stop = None if self._most is None else self.passes.forward + self.passes.backward + self._most

    def log_probabilities(self, u: NDArray[Any]) -> Array:
        """(n, K) log p at attack coordinates."""
        rows = self.at.rows(u)
        self._allow(len(rows))
        out = logs(self.passes.probabilities(rows))
        self._look(rows, out)
        return out

    def gradients(self, u: NDArray[Any], cotangents: Array, margin: NDArray[np.bool_] | None = None) -> Array:
        """d (w . log p) / du for (n, K) cotangents w: (n, \\*shape), 0 where a bound or a frozen feature holds.

        Rows in ``margin`` have the margin of the decision over the likeliest other class instead of w . log p.
        """
        rows = self.at.rows(u)
        key = rows.tobytes()
        if self._linearized is None or self._linearized[0] != key:
            self._allow(len(rows))
            made = self.passes.linearized(rows)
            self._look(rows, made.log_probabilities)
            self._linearized = (key, made, self.at.free(u))
        _, made, free = self._linearized
        self._allow(len(rows))
        if margin is not None:
            cotangents = np.where(margin[:, None], self._margin(made.log_probabilities), cotangents)
        return np.where(free, made.pull(cotangents) * self.at.slope, 0.0)

    def _margin(self, log_p: Array) -> Array:
        others = log_p.copy()
        others[:, self.decision] = -np.inf
        out = -np.eye(log_p.shape[1])[others.argmax(axis=1)]
        out[:, self.decision] = 1.0
        return np.asarray(out)

    def _look(self, rows: NDArray[Any], log_p: Array) -> None:
        changed = np.flatnonzero(log_p.argmax(axis=1) != self.decision)
        if changed.size:
            distances = self.at.distances(rows[changed])
            # The input itself, decided otherwise among other rows, is no perturbation.
            nearest = int(np.where(distances > 0, distances, np.inf).argmin())
            if 0 < distances[nearest] < self.distance:
                self.distance, self.row = float(distances[nearest]), rows[changed[nearest]].copy()
                if self.until_nearer:
                    raise DecisionChanged

    def _allow(self, rows: int) -> None:
        if self._stop is not None and self.passes.forward + self.passes.backward + rows > self._stop:
            raise RowsSpent


class BlackBoxEstimator(ClassifierMixin, NeuralNetworkMixin, BaseEstimator):  # type: ignore[misc]
    """ART's view of a classifier that answers with probabilities; it predicts log p, whose differences are the logits'.

    Args:
        asked: the model at one input.
        classes: how many.
        clip: bounds in attack coordinates, ``None`` for none: the domain's own bounds hold in any case.
        channels_first: for attacks on images.
    """

    estimator_params = ("nb_classes", "input_shape")

    def __init__(self, asked: Asked, classes: int, clip: tuple[Any, Any] | None, channels_first: bool = True) -> None:
        super().__init__(model=None, clip_values=clip, channels_first=channels_first)
        self.asked = asked
        self.nb_classes = classes

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input."""
        return tuple(self.asked.at.origin.shape)

    def predict(self, x: NDArray[Any], batch_size: int = 128, **kwargs: Any) -> Array:
        """(n, K) log-probabilities."""
        return self.asked.log_probabilities(x)

    def fit(self, x: NDArray[Any], y: NDArray[Any], **kwargs: Any) -> None:
        """Nothing here is trained."""
        raise NotImplementedError

    def get_activations(self, x: NDArray[Any], layer: Any, batch_size: int, framework: bool = False) -> NDArray[Any]:
        """Nothing inside is visible."""
        raise NotImplementedError


class WhiteBoxEstimator(ClassGradientsMixin, LossGradientsMixin, BlackBoxEstimator):  # type: ignore[misc]
    """The same with the derivatives of log p.

    Attributes:
        margin: rows of a batch for which the loss is minus the margin over the likeliest other class, and not the
            cross-entropy. The cross-entropy's gradient mixes all rivals, and ends 5 % above the distance of a linear
            model; the margin's settles on one rival, and may settle on the wrong one.
    """

    margin: NDArray[np.bool_] | None = None

    def class_gradient(self, x: NDArray[Any], label: Any = None, **kwargs: Any) -> Array:
        """d log p_k / du: (n, 1, \\*shape) for given classes, (n, K, \\*shape) for all."""
        if label is None:
            eye = np.eye(self.nb_classes)
            return np.stack([self.asked.gradients(x, np.tile(unit, (len(x), 1))) for unit in eye], axis=1)
        chosen = np.eye(self.nb_classes)[np.broadcast_to(np.asarray(label, dtype=int), (len(x),))]
        return self.asked.gradients(x, chosen)[:, None]

    def loss_gradient(self, x: NDArray[Any], y: NDArray[Any], **kwargs: Any) -> Array:
        """d loss / du: (n, \\*shape)."""
        return -self.asked.gradients(x, np.asarray(y, dtype=np.float64), self.margin)


@contextlib.contextmanager
def quiet(seed: int) -> Iterator[None]:
    """ART draws from the global generators and logs to the terminal: seed and silence it, and put both back."""
    numpy_state, python_state = np.random.get_state(), random.getstate()
    logger = logging.getLogger("art")
    level = logger.level
    logger.setLevel(logging.ERROR)
    np.random.seed(seed % 2**32)
    random.seed(seed)
    try:
        with np.errstate(all="ignore"):
            yield
    finally:
        logger.setLevel(level)
        np.random.set_state(numpy_state)
        random.setstate(python_state)
