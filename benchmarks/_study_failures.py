"""The same network in clothes that the measurement should fail on, with its decisions unchanged.

Decisions, and so the smallest perturbations, are those of the network itself (but for ``levels``, which rounds its input):
so the truth is known, and what changes is the surface that probabilities show.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from fimaudit import audit, open_classifier
from fimaudit.domain import InputDomain
from fimaudit.errors import FimauditError

__all__ = ["VARIANTS", "Variant", "measure_failures"]

#: What is done to logits z, probabilities or inputs, in words for the page.
VARIANTS = {
    "plain": "the network itself",
    "saturated": "logits x 30",
    "curved": "log-odds replaced by their square root",
    "flattened": "log-odds replaced by their cube",
    "rounded": "probabilities rounded to 2 decimals",
    "levels": "inputs rounded to 32 levels inside",
}


class Variant(nn.Module):
    """(n, *shape) inputs to (n, K) probabilities of one of ``VARIANTS``."""

    def __init__(self, network: nn.Module, kind: str) -> None:
        super().__init__()
        self.network, self.kind = network, kind

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.kind == "levels":
            x = (31.0 * x).round() / 31.0
        z = self.network(x)
        behind = z.amax(dim=1, keepdim=True) - z
        if self.kind == "saturated":
            z = 30.0 * z
        elif self.kind == "curved":
            z = -behind.sqrt()
        elif self.kind == "flattened":
            z = -(behind**3)
        p: torch.Tensor = z.softmax(dim=1)
        if self.kind == "rounded":
            p = (100.0 * p).round() / 100.0
        return p


def measure_failures(network: nn.Module, x: np.ndarray, domain: InputDomain, queries: int, seed: int) -> dict[str, Any]:
    """The audit of each variant: radii, statuses, kinds, flags, and what the report warns of."""
    out = {}
    for kind in VARIANTS:
        model = open_classifier(Variant(network, kind).eval(), "identity")
        try:
            report = audit(model, x, domain=domain, queries=queries, mode="black-box", seed=seed)
        except FimauditError as exc:
            out[kind] = {"refused": str(exc)}
            continue
        out[kind] = {
            "margin_radius": [s.margin_radius.value for s in report.inputs],
            "smallest_radius": [s.smallest_radius for s in report.inputs],
            "peak_spectral_norm": [s.peak_spectral_norm.value for s in report.inputs],
            "spectral_norm": [s.spectral_norm.value for s in report.inputs],
            "status": [s.status for s in report.inputs],
            "kind": [s.kind for s in report.inputs],
            "flags": [s.flags for s in report.inputs],
            "warnings": list(report.warnings),
        }
    return out
