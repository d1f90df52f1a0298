"""CLEVER by the ``clever_u`` of adversarial-robustness-toolbox (ART), over the same meter and input domain."""

from __future__ import annotations

import contextlib
import io
import warnings

import numpy as np

from fimaudit.baselines.question import Question
from fimaudit.models.counted_passes import CountedModel, logs
from fimaudit.validation.art_estimator import Asked, WhiteBoxEstimator, quiet
from fimaudit.validation.coordinates import Coordinates

# isort: split
from art.metrics import clever_u

__all__ = ["BATCHES", "POOL", "RADIUS", "SAMPLES", "clever_score"]

#: Radius of the ball, in units of the scale, as published for l2.
RADIUS = 5.0
#: Batches of which each gives one maximum, samples in a batch, and the pool in multiples of that. The paper takes 500
#: batches of 1024 fresh samples, a hundred times the cost of these.
BATCHES, SAMPLES, POOL = 50, 8, 16


def clever_score(passes: CountedModel, question: Question) -> float:
    """CLEVER for an untargeted attack in l2: min over classes of the margin over the estimated local Lipschitz constant.

    Source: Weng et al., ICLR 2018, arXiv 1801.10578.
    """
    at = Coordinates(question.x, question.space, 1.0)
    log_p = logs(passes.probabilities(question.x[None]))[0]
    asked = Asked(passes, at, int(log_p.argmax()))
    model = WhiteBoxEstimator(asked, len(log_p), None)
    with quiet(question.seed), contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # the Weibull fit tries parameters without a density
        origin = np.zeros(question.x.shape, dtype=np.float32)
        score = clever_u(model, origin, BATCHES, SAMPLES, RADIUS, 2, pool_factor=POOL, verbose=False)
    return float(score)
