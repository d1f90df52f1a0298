"""How many inputs are measured side by side, and how many one process is given at least."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from fimaudit.data.arrays import Inputs
from fimaudit.domain import InputDomain
from fimaudit.engines.driver import LOCAL_BLOCK, LOCAL_BYTES
from fimaudit.engines.work import PIECE, Work
from fimaudit.measurement.pilot import Steps
from fimaudit.measurement.settings import Settings
from fimaudit.models.opening import open_classifier
from fimaudit.whitebox.inputs import BLOCK
from tests.cases import linear


def work_of(features: int) -> Work:
    x = np.zeros((4, features))
    return Work(Inputs(x), InputDomain().resolve(x, "float64"), Settings(200), Steps(0.1, [], 1))


def test_rows_and_answers_bound_how_many_inputs_are_measured_side_by_side() -> None:
    model = open_classifier(linear(3, 4, 8, 1.0))
    assert work_of(8).block(model) == work_of(8).block(model, 10) == LOCAL_BLOCK
    assert work_of(3000).block(model) == LOCAL_BYTES // (3000 * 8 * 200)
    assert work_of(8).block(model, 3000) == LOCAL_BYTES // (3000 * 8 * 200)
    assert work_of(10**7).block(model) == 1


def test_every_process_has_a_share_of_a_small_run() -> None:
    """Derivatives of one input share passes with those of others, so that whole blocks stay together."""
    model, work = open_classifier(linear(3, 4, 8, 1.0)), work_of(8)
    assert work.piece(model) == PIECE < LOCAL_BLOCK
    assert work_of(10**5).piece(model) == work_of(10**5).block(model) < PIECE
    assert replace(work, steps=None).piece(model) == BLOCK
