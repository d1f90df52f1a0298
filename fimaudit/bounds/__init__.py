"""Upper bounds on the sensitivity from the architecture and its weights: ``lipschitz_bound`` and what it is made of."""

from __future__ import annotations

from fimaudit.bounds.bounding import lipschitz_bound
from fimaudit.bounds.graph.operators import UnboundedError, UnknownOperatorError, register_operator
from fimaudit.bounds.result import LayerBound, LipschitzBound, covariance_factor

__all__ = [
    "LayerBound",
    "LipschitzBound",
    "UnboundedError",
    "UnknownOperatorError",
    "covariance_factor",
    "lipschitz_bound",
    "register_operator",
]
