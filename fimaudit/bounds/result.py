"""What a bound is, as plain data: the constant, the layers it is made of, what it means for lambda and for one answer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from fimaudit.bounds.graph.ir import Node
from fimaudit.bounds.graph.operators import UnboundedError
from fimaudit.bounds.graph.recursion import Step, propagate

__all__ = ["LayerBound", "LipschitzBound", "bound_of", "covariance_factor"]

TRAINABLE = {"dense", "conv", "conv_transpose", "affine", "token attention"}
KINDS = {
    "conv_transpose": "transposed conv",
    "sum": "add",
    "normalise": "norm",
    "affine": "scale",
    "token attention": "attention",
}


@dataclass(frozen=True)
class LayerBound:
    """One row of the table.

    Attributes:
        name: the layer's name in the network, or what it does.
        kind: dense, conv, norm, attention, add, ...
        shape: of its weights, or of its output where it has none.
        norm: certified l2 norm; for a branching point, the factor on the largest branch.
        product: Lipschitz constant from the network's input to here.
        share: part in log L_z; all shares add up to 1 (nan where L_z is 0 or 1).
        elasticity: scaling ``norm`` by c scales L_z by about c^elasticity.
        trainable: whether training can change ``norm``.
    """

    name: str
    kind: str
    shape: str
    norm: float
    product: float
    share: float
    elasticity: float
    trainable: bool


@dataclass(frozen=True)
class LipschitzBound:
    """An upper bound on how fast the logits can move, ||z(x) - z(y)|| <= lipschitz ||x - y|| in l2.

    Attributes:
        lipschitz: L_z, in logits per input unit.
        layers: the table, in the order of evaluation.
        scope: ``global``, or the inputs for which it holds.
        notes: sentences to read with the number.
        seconds: how long it took.
    """

    lipschitz: float
    layers: tuple[LayerBound, ...]
    scope: str
    notes: tuple[str, ...]
    seconds: float

    @property
    def spectral_norm_bound(self) -> float:
        """Bound on lambda_max(F), F the input-space Fisher information, everywhere in scope: L_z^2 / 2, in 1 / (input
        unit)^2."""
        return self.lipschitz**2 / 2

    def local_spectral_norm_bound(self, probabilities: Any) -> Any:
        """c(p) L_z^2 for each row of probabilities, c(p) = min(1/2, p_max, 2 (1 - p_max)); (n, K) to (n,)."""
        return covariance_factor(probabilities) * self.lipschitz**2

    def certified_radius(self, probabilities: Any) -> Any:
        """The l2 distance within which the decision cannot change, (z1 - z2) / (sqrt 2 L_z), for each row; (n, K) to (n,).

        z1 - z2 = log(p1 / p2) needs no logits. In input units; infinite where the runner-up's probability is rounded to 0.
        """
        top = np.sort(np.asarray(probabilities, dtype=np.float64), axis=-1)[..., ::-1]
        with np.errstate(divide="ignore"):
            margin = np.log(top[..., 0]) - np.log(top[..., 1])
        return margin / (math.sqrt(2) * self.lipschitz)

    @property
    def heaviest(self) -> LayerBound | None:
        """The layer that training can change with the largest share in log L_z; ``None`` where there is none."""
        rows = [layer for layer in self.layers if layer.trainable and math.isfinite(layer.share)]
        return max(rows, key=lambda layer: layer.share, default=None)

    @property
    def advice(self) -> str:
        """Which layer to regularise, in a sentence."""
        layer = self.heaviest
        if layer is None:
            return "No layer has weights to regularise."
        factor = 2.0**layer.elasticity
        return (
            f"Regularise {layer.name} ({layer.kind} {layer.shape}) first: its norm {layer.norm:.4g} makes "
            f"{layer.share:.0%} of log L_z, "
            f"and halving it divides L_z by about {factor:.3g} and the bound on lambda by {factor**2:.3g}."
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "lipschitz": self.lipschitz,
            "spectral_norm_bound": self.spectral_norm_bound,
            "scope": self.scope,
            "seconds": self.seconds,
            "notes": list(self.notes),
            "advice": self.advice,
            "layers": [{k: None if v != v else v for k, v in asdict(layer).items()} for layer in self.layers],
        }


def covariance_factor(probabilities: Any) -> Any:
    """c(p) = min(1/2, p_max, 2 (1 - p_max)) >= lambda_max(diag(p) - p p^T), for rows (..., K).

    Gershgorin's rows give 2 p_i (1 - p_i), at most 1/2 and at most 2 (1 - p_max); p_max because diag(p) - p p^T <= diag(p).

    >>> round(float(covariance_factor([0.9, 0.1])), 12)
    0.2
    """
    p = np.sort(np.asarray(probabilities, dtype=np.float64), axis=-1)
    top = p[..., -1]
    rest = np.maximum(1 - top, p[..., :-1].sum(axis=-1))  # 1 - p_max alone rounds to 0 in saturated answers
    return np.minimum(np.minimum(0.5, top), 2 * rest)


def bound_of(output: Node, scope: str, notes: Sequence[str]) -> LipschitzBound:
    """Run the recursion up to the logits and read the table off it."""
    node, remarks = logits_of(output), list(notes)
    steps = propagate(node)
    size = steps[-1].lipschitz
    if node.shape[-1:] == (1,) or math.prod(node.shape[1:]) == 1:
        size /= math.sqrt(2)
        remarks.append(
            "One output: the logit z is read as the pair (z/2, -z/2), so L_z is the constant of z divided by sqrt 2."
        )
    if not math.isfinite(size):
        raise UnboundedError("expected a finite bound, got infinity: the product of the layers' norms overflows float64")
    total = math.log(steps[-1].lipschitz) if steps[-1].lipschitz > 0 else 0.0
    layers = tuple(_row(step, total) for step in steps if _shown(step))
    own = [step.node.op for step in steps if step.registered]
    if own:
        remarks.append(f"Taken on the caller's word: the constant of {', '.join(sorted(set(own)))}.")
    return LipschitzBound(float(size), layers, scope, tuple(remarks), 0.0)


def logits_of(output: Node) -> Node:
    """Step back over a final softmax (or the sigmoid of a single logit): L_z is a statement about logits."""
    node = output
    while node.op == "view" and node.size == node.inputs[0].size:
        node = node.inputs[0]
    if node.op in ("softmax", "log_softmax"):
        return node.inputs[0]
    single = math.prod(output.shape[1:]) == 1
    return node.inputs[0] if single and node.op == "activation" and node.attrs["function"] == "sigmoid" else output


def _shown(step: Step) -> bool:
    return step.node.op not in ("input", "held", "centre") and not (step.node.op == "view" and step.norm == 1.0)


def _row(step: Step, total: float) -> LayerBound:
    node = step.node
    kind = node.attrs.get("kind") or node.attrs.get("function") or KINDS.get(node.op, node.op)
    weight = node.attrs.get("weight")
    if node.op == "token attention":
        heads = len(node.attrs["sequences"][0])
        shape = f"{node.attrs['queries']} x {node.attrs['keys']} tokens, width {node.attrs['width']}, {heads} heads"
    else:
        shape = " x ".join(str(n) for n in (node.shape[1:] if weight is None else weight.shape))
    share = step.contribution / total if total else math.nan
    name = node.name or node.op
    return LayerBound(
        name, str(kind), shape, step.norm, step.lipschitz, share, step.elasticity, node.op in TRAINABLE and name != "affine"
    )
