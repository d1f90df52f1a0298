"""Local models whose last digits depend on the rows beside them: what some matrix products do, for every test at once.

With ``FIMAUDIT_TESTS_LAST_DIGITS=1`` in the environment each answer of a local model is multiplied by 1 + u eps, eps the
spacing of the model's floating-point numbers and u in [-1, 1] fixed by the number of rows in the call, the row's place in it
and the class. What came in float32 stays there, and of a single column the other class is still what it leaves of 1.

Python imports this file in every process that is started with its folder on the path: command lines and workers too.
``FIMAUDIT_TESTS_LAST_DIGITS_SEEN`` names a folder that gets a file for each test that asked such a model.
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
#: Numbers of no more significant digits were rounded on their way out: of float32, and of float64.
DIGITS32, DIGITS64 = 6, 14


def moved(answers, eps: float):
    """(n, K) answers with other last digits, fixed by n, the row and the class."""
    import numpy as np

    if answers.shape[1] == 2 and np.array_equal(answers[:, 0], 1.0 - answers[:, 1]):
        column = moved(answers[:, 1:], eps)
        return np.hstack([1.0 - column, column])
    n, classes = answers.shape
    mixed = (np.arange(n)[:, None] * 2654435761 + np.arange(classes) * 40503 + n * 97) % 1000003
    out = answers * (1.0 + eps * (mixed / 500001.0 - 1.0))
    return out.astype(np.float32).astype(np.float64) if np.array_equal(answers, answers.astype(np.float32)) else out


def rounded(column) -> bool:
    """Whether numbers are decimal ones, written by a model that rounds; also the shortest text of float32."""
    import numpy as np

    column = column[(column > 0) & (column < 1)]
    if not column.size:
        return False
    if np.array_equal(column, column.astype(np.float32)):
        return all(float(f"{float(str(np.float32(v))):.{DIGITS32 - 1}e}") == float(str(np.float32(v))) for v in column)
    return all(float(f"{v:.{DIGITS64 - 1}e}") == v or float(str(np.float32(v))) == v for v in column)


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
        if np.array_equal(answers, np.rint(answers)):
            return answers  # codes of labels, or all classes sure
        # Of two classes one may be what the other leaves of 1.
        columns = answers.T if answers.shape[1] == 2 else [answers.ravel()]
        if any(rounded(column) for column in columns):
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
