"""fimaudit: audit deployed classifiers from their probabilities.

The measured quantity is the spectral norm of the Fisher information of the output with respect to the input: how violently
the answer can change when the input changes a little (arXiv 2606.04767).
"""

from fimaudit.domain import InputDomain
from fimaudit.errors import FimauditError
from fimaudit.models.classifier import Classifier, open_classifier
from fimaudit.results import Interval, Report, Sensitivity
from fimaudit.runs.auditing import audit, sensitivity
from fimaudit.runs.comparing import compare

__all__ = [
    "Classifier",
    "FimauditError",
    "InputDomain",
    "Interval",
    "Report",
    "Sensitivity",
    "audit",
    "compare",
    "open_classifier",
    "sensitivity",
]
