"""Published estimators under their own names, for comparison. None of them is a default.

``rayleigh_max`` and ``rayleigh_max_white`` are functions of arrays; ``measure_baseline`` measures one input by any of
``BASELINES`` and says how many forward and backward rows that took.
"""

from __future__ import annotations

from fimaudit.baselines.metrics import BASELINES, Baseline, Reading, measure_baseline
from fimaudit.baselines.question import Question
from fimaudit.baselines.rayleigh import rayleigh_max, rayleigh_max_white

__all__ = ["BASELINES", "Baseline", "Question", "Reading", "measure_baseline", "rayleigh_max", "rayleigh_max_white"]
