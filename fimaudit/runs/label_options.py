"""What an audit from labels alone cannot take."""

from __future__ import annotations

from fimaudit.errors import UsageError
from fimaudit.measurement.label_radius import FEWEST_LABELS
from fimaudit.models.classifier import Classifier
from fimaudit.runs.options import AuditOptions

__all__ = ["refuse_for_labels", "refuse_without_labels"]


def refuse_without_labels(options: AuditOptions) -> None:
    """Refuse what is measured from labels.

    Raises:
        UsageError: with what to add.
    """
    if options.smooth is not None:
        raise UsageError(
            "--smooth certifies a classifier that answers with classes; add --link labels, which any model takes"
        )


def refuse_for_labels(options: AuditOptions, classifier: Classifier) -> None:
    """Refuse what needs probabilities.

    Raises:
        UsageError: with the option.
    """
    refused = {
        "--mode white-box": options.mode == "white-box",
        "--focus": options.focus is not None,
        "--threshold": options.threshold is not None,
        "--surrogate": options.surrogate is not None,
        "--worst-direction": options.worst_direction,
        "--profile full": options.profile == "full",
    }
    for name, given in refused.items():
        if given:
            raise UsageError(f"{name} needs probabilities, and {classifier.info.name} is read as labels only; leave it out")
    if options.smooth is not None:
        if options.precision is not None:
            raise UsageError("--precision belongs to intervals; a certificate stops by --smooth-radius or after --queries")
        return
    if options.queries != "auto" and options.queries < FEWEST_LABELS:
        raise UsageError(
            f"expected at least {FEWEST_LABELS} queries an input for a radius from labels, got {options.queries}; "
            "1,000 give about 8 % error (docs/labels.md)"
        )
