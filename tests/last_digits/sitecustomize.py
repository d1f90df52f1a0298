"""Local models whose last digits depend on the rows beside them: what some matrix products do, for every test at once.

With ``FIMAUDIT_TESTS_LAST_DIGITS=1`` in the environment each answer of a local model is multiplied by 1 + u eps, eps the
spacing of the model's floating-point numbers and u in [-1, 1] fixed by the number of rows in the call, the row's place in it
and the class. Python imports this file in every process that is started with its folder on the path: command lines and
workers too. ``FIMAUDIT_TESTS_LAST_DIGITS_SEEN`` names a folder that gets a file for each test that asked such a model.
"""

from __future__ import annotations

import hashlib
import importlib.abc
import importlib.util
import os
import sys
from pathlib import Path

SWITCH, SEEN = "FIMAUDIT_TESTS_LAST_DIGITS", "FIMAUDIT_TESTS_LAST_DIGITS_SEEN"
METER = "fimaudit.models.meter"
#: Answers that show no more are those of a model that rounds.
DECIMALS = 6


def moved(answers, eps: float):
    """(n, K) answers with other last digits, fixed by n, the row and the class."""
    import numpy as np

    n, classes = answers.shape
    mixed = (np.arange(n)[:, None] * 2654435761 + np.arange(classes) * 40503 + n * 97) % 1000003
    return answers * (1.0 + eps * (mixed / 500001.0 - 1.0))


def install(meter) -> None:
    """Let every meter see answers of local models so."""
    import numpy as np

    plain = meter.Meter._answer
    if getattr(plain, "forced", False):
        return  # this file was read twice: at the start of the process and by conftest.py

    def answer(self, rows, start: int, stop: int):
        seen, test = os.environ.get(SEEN), os.environ.get("PYTEST_CURRENT_TEST")
        if seen and test:
            (Path(seen) / hashlib.sha256(test.rpartition(" ")[0].encode()).hexdigest()).touch()
        answers, dtype = np.asarray(plain(self, rows, start, stop)), np.dtype(self.model.info.dtype)
        if answers.ndim != 2 or answers.dtype.kind != "f":
            return answers  # no answers, as the meter will say
        if np.array_equal(answers, answers.round(DECIMALS)):
            return answers  # rounded on their way out, last digits and all
        return moved(answers, float(np.finfo(dtype if dtype.kind == "f" else "float32").eps))

    answer.forced = True
    meter.Meter._answer = answer


class _OnImport(importlib.abc.MetaPathFinder):
    """Installs as soon as the meter is imported."""

    def find_spec(self, name, path=None, target=None):
        if name != METER:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        spec.loader = _Installing(spec.loader)
        return spec


class _Installing(importlib.abc.Loader):
    """Loads the meter as its own loader would, which may be that of many modules (pytest's), and installs."""

    def __init__(self, own) -> None:
        self._own = own

    def create_module(self, spec):
        return self._own.create_module(spec)

    def exec_module(self, module) -> None:
        self._own.exec_module(module)
        install(module)


if os.environ.get(SWITCH) == "1":
    if METER in sys.modules:
        install(sys.modules[METER])
    else:
        sys.meta_path.insert(0, _OnImport())
