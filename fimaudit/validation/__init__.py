"""Does the metric predict vulnerability? Attacks of a kept library over any classifier, and what correlates with them.

Importing this needs no extra; running attacks needs ``attacks`` (adversarial-robustness-toolbox).
"""

from __future__ import annotations

from fimaudit.validation.results import Validation
from fimaudit.validation.validating import validate

__all__ = ["Validation", "validate"]
