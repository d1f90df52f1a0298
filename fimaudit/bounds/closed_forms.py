"""Closed forms of the bound for four families of architectures, as functions of depth, width and layer norms.

The layers' norms are those of ``conv_norm`` and ``spectral_norm_upper`` with the batch norm after a layer folded into
it; activations have constant 1 (ReLU) unless said otherwise. With the same norms the recursion over the graph gives
the same numbers; the tests hold the two together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from fimaudit.bounds.norms.activations import ACTIVATIONS

__all__ = [
    "attention_sublayer_lipschitz",
    "densenet_lipschitz",
    "gaussian_layer_norm",
    "mlp_sublayer_lipschitz",
    "resnet_lipschitz",
    "transformer_lipschitz",
    "uniform_growth",
    "vgg_lipschitz",
]


def vgg_lipschitz(layers: Sequence[float], activation: float = 1.0, pool: float = 1.0, pools: int = 0) -> float:
    """Chain of D layers: L = a^(D-1) m^P prod_i s_i.

    *Derivation.* ||f(g(x)) - f(g(y))|| <= Lip(f) ||g(x) - g(y)||: constants of a composition multiply. Between D
    layers stand D - 1 activations of constant a, and P pools of constant m (1 for windows that do not overlap, an
    average over k x k has 1/k).

    Args:
        layers: l2 norms of the convolutions and dense layers, in any order.
        activation: constant of the activation.
        pool: constant of each pool.
        pools: their number.

    >>> vgg_lipschitz([2.0, 3.0, 0.5])
    3.0
    """
    return math.prod(layers) * activation ** max(len(layers) - 1, 0) * pool**pools


def resnet_lipschitz(
    stem: float, blocks: Sequence[tuple[Sequence[float], float]], head: float, activation: float = 1.0
) -> float:
    """Chain of B residual blocks: L = stem prod_b a (r_b + a^(n_b - 1) prod_i s_bi) head.

    *Derivation.* A block is y = act(S x + f(x)) with f a chain of n_b layers: by the triangle inequality Lip(S + f)
    <= Lip(S) + Lip(f), with Lip(S) = r_b, 1 for the identity. Blocks compose as in a chain. With s the norm of every
    layer and n = 2, L grows as (1 + s^2)^B: exponential in the depth 2 B as for VGG's s^(2B), but the base never
    falls below 1.

    Args:
        stem: constant of all that stands before the first block.
        blocks: for each the norms of its branch's layers and that of its shortcut.
        head: constant of all that stands after the last block (global average over k x k positions: 1/k, times the
            dense layer).
        activation: constant of the activation, inside the branch and after the sum.

    >>> resnet_lipschitz(1.0, [((2.0, 0.5), 1.0), ((3.0, 1.0), 0.5)], 2.0)
    14.0
    """
    product = math.prod(
        activation * (shortcut + activation ** (len(branch) - 1) * math.prod(branch)) for branch, shortcut in blocks
    )
    return stem * product * head


def densenet_lipschitz(stem: float, blocks: Sequence[Sequence[float]], transitions: Sequence[float], head: float) -> float:
    """Dense blocks: L = stem prod_b [prod_l sqrt(1 + s_bl^2)] prod_t t head.

    *Derivation.* A dense layer is y = (x, f(x)): ||y - y'||^2 = ||x - x'||^2 + ||f(x) - f(x')||^2 <= (1 + s^2) ||x - x'||^2.
    Keeping all earlier features adds squares where a residual block adds norms: (1 + s^2)^(1/2) <= 1 + s, so at equal norms
    a DenseNet's bound is the smallest of the families that keep their input. It is sharp where x and f(x) move together.

    Args:
        stem: constant of all before the first block.
        blocks: for each block the constants of its layers (norm, activation and convolutions of one layer multiplied).
        transitions: constants of the transitions between blocks (convolution, pool).
        head: constant of all after the last block.

    >>> round(densenet_lipschitz(1.0, [[1.0, 1.0], [math.sqrt(3.0)]], [0.5], 1.0), 12)
    2.0
    """
    product = math.prod(math.sqrt(1.0 + norm**2) for block in blocks for norm in block)
    return stem * product * math.prod(transitions) * head


def transformer_lipschitz(embedding: float, blocks: Sequence[tuple[float, float]], head: float) -> float:
    """Pre-norm transformer of D blocks: L = embedding prod_b (1 + L_att) (1 + L_mlp) head.

    *Derivation.* Each sublayer is x + f(norm(x)): a residual block with constant 1 + Lip(f o norm). L_att and L_mlp
    come from ``attention_sublayer_lipschitz`` and ``mlp_sublayer_lipschitz``; adding the positions has constant 1.

    Args:
        embedding: norm of the patch or token embedding.
        blocks: (L_att, L_mlp) of each block.
        head: constant of the last norm, the pooling of tokens and the dense layer.

    >>> transformer_lipschitz(2.0, [(1.0, 0.5)], 1.0)
    6.0
    """
    return embedding * math.prod((1 + attention) * (1 + mlp) for attention, mlp in blocks) * head


def attention_sublayer_lipschitz(
    width: int, tokens: int, form: float, value: float, output: float, eps: float = 1e-5
) -> float:
    """Layer norm, one attention head and its output projection, on n tokens of width d.

    L_att = (output / sqrt eps) value [sqrt C + a d (1 + sqrt C)],   C = n / (1 + (n - 1) exp(-2 a d)) <= n.

    *Derivation.* The layer norm has constant 1 / sqrt(eps) (its variance can vanish) and puts tokens on radius sqrt
    d; the bracket is the bound of ``attention_norm`` with r^2 = d and no biases. Width enters through d, depth
    through the number of blocks, and the number of tokens only through sqrt n.

    Args:
        width: d.
        tokens: n.
        form: a = ||K^T Q|| / sqrt(d_head), restricted to centred tokens, the norm's gain included.
        value: ||V||, likewise.
        output: norm of the output projection.
        eps: of the layer norm.
    """
    column = tokens / (1 + (tokens - 1) * math.exp(-min(2 * form * width, 700.0)))
    bracket = math.sqrt(column) + form * width * (1 + math.sqrt(column))
    return output / math.sqrt(eps) * value * bracket


def mlp_sublayer_lipschitz(
    first: float, second: float, activation: float = ACTIVATIONS["gelu"].slope, eps: float = 1e-5
) -> float:
    """Layer norm and a two-layer perceptron: L_mlp = a s_1 s_2 / sqrt(eps), the norm's gain included in s_1."""
    return activation * first * second / math.sqrt(eps)


def uniform_growth(family: str, depth: int, norm: float) -> float:
    """The bound of D equal layers of norm s: what depth alone does in each family.

    ``vgg`` s^D, ``resnet`` (1 + s^2)^(D/2) (two layers a block), ``densenet`` (1 + s^2)^(D/2) (one layer each),
    ``transformer`` (1 + s)^D (one sublayer each, s its constant). D layers of norm 1: 1, 2^(D/2), 2^(D/2), 2^D.

    Raises:
        ValueError: another family.

    >>> [round(uniform_growth(family, 4, 1.0), 9) for family in ("vgg", "resnet", "densenet", "transformer")]
    [1.0, 4.0, 4.0, 16.0]
    """
    bases = {"vgg": norm, "resnet": math.sqrt(1 + norm**2), "densenet": math.sqrt(1 + norm**2), "transformer": 1 + norm}
    if family not in bases:
        raise ValueError(f"expected one of {', '.join(bases)}, got {family!r}")
    return float(bases[family] ** depth)


def gaussian_layer_norm(inputs: int, outputs: int, gain: float = math.sqrt(2.0)) -> float:
    """Typical norm of a dense layer of independent entries of variance gain^2 / inputs: gain (1 + sqrt(outputs / inputs)).

    What width does at initialisation: the norm depends on the ratio of widths, not on the width. An estimate (the
    edge of the Marchenko-Pastur law), not a bound.

    >>> round(gaussian_layer_norm(100, 100, gain=1.0), 3)
    2.0
    """
    return gain * (1.0 + math.sqrt(outputs / inputs))
