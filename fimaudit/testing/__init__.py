"""For test suites: the conformance suite of classifiers, and a policy as an assertion."""

from fimaudit.testing.conformance import (
    CHECKS,
    DEVICE_CHECKS,
    DIFFERENTIABLE_CHECKS,
    Check,
    check_classifier,
    check_close,
    checks_for,
)
from fimaudit.testing.policy_assertion import assert_policy, audit_and_decide, require_pass

__all__ = [
    "CHECKS",
    "DEVICE_CHECKS",
    "DIFFERENTIABLE_CHECKS",
    "Check",
    "assert_policy",
    "audit_and_decide",
    "check_classifier",
    "check_close",
    "checks_for",
    "require_pass",
]
