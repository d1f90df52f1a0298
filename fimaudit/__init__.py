"""fimaudit: audit deployed classifiers from their probabilities.

The measured quantity is the spectral norm of the Fisher information of the output with respect to the input: how violently
the answer can change when the input changes a little (arXiv 2606.04767).
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fimaudit.audit_report import Report
    from fimaudit.bounds.bounding import lipschitz_bound
    from fimaudit.comparison.two_runs import Comparison
    from fimaudit.domain import InputDomain
    from fimaudit.engines.selection import RayEngine
    from fimaudit.errors import FimauditError
    from fimaudit.models.classifier import Classifier as Classifier
    from fimaudit.models.normalising import Normalize
    from fimaudit.models.opening import open_classifier
    from fimaudit.policy.gate import Verdict, gate
    from fimaudit.results import Interval, Sensitivity
    from fimaudit.runs.auditing import audit, sensitivity
    from fimaudit.runs.comparing import compare, rank
    from fimaudit.runs.options import AuditOptions
    from fimaudit.runs.planning import plan
    from fimaudit.training import fisher_penalty
    from fimaudit.validation.validating import validate

    __version__: str

__all__ = [
    "AuditOptions",
    "Comparison",
    "FimauditError",
    "InputDomain",
    "Interval",
    "Normalize",
    "RayEngine",
    "Report",
    "Sensitivity",
    "Verdict",
    "audit",
    "compare",
    "fisher_penalty",
    "gate",
    "lipschitz_bound",
    "open_classifier",
    "plan",
    "rank",
    "sensitivity",
    "validate",
]

#: Where each public name is defined; its module is loaded when the name is first used.
_PLACES = {
    "AuditOptions": "runs.options",
    "Classifier": "models.classifier",
    "Comparison": "comparison.two_runs",
    "FimauditError": "errors",
    "InputDomain": "domain",
    "Interval": "results",
    "Normalize": "models.normalising",
    "RayEngine": "engines.selection",
    "Report": "audit_report",
    "Sensitivity": "results",
    "Verdict": "policy.gate",
    "audit": "runs.auditing",
    "compare": "runs.comparing",
    "fisher_penalty": "training",
    "gate": "policy.gate",
    "lipschitz_bound": "bounds.bounding",
    "open_classifier": "models.opening",
    "plan": "runs.planning",
    "rank": "runs.comparing",
    "sensitivity": "runs.auditing",
    "validate": "validation.validating",
}


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])


if not TYPE_CHECKING:  # for a type checker every name would be there

    def __getattr__(name: str) -> object:
        if name == "__version__":
            from importlib.metadata import version

            return version("fimaudit")
        if name not in _PLACES:
            raise AttributeError(f"module 'fimaudit' has no attribute {name!r}")
        found = globals()[name] = getattr(import_module(f"fimaudit.{_PLACES[name]}"), name)
        return found
