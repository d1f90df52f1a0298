"""Lipschitz bounds of dot-product attention on tokens of bounded norm.

Dot-product attention has no global Lipschitz constant (Kim, Papamakarios & Mnih, ICML 2021, arXiv 2006.04710), but it
has one on tokens of norm at most r, and the layer norm before it supplies r = sqrt(d). The bound below is proven
here, and is never above the published sqrt(3) ||V|| sqrt(||A||^2 r^4 (4n + 1) + n) (Castin, Ablin & Peyre, ICML 2024,
arXiv 2312.14820).

*Derivation.* One head, tokens x_j in R^d, o_i = sum_j p_ij v_j, p_i = softmax_j(s q_i . k_j), with q = Q x + b_q and
so on. Then

    do_i = sum_j p_ij dv_j + Cov_{j ~ p_i}(v_j, dS_ij),     dS_ij = s (k_j . dq_i + q_i . dk_j).

With C = max_j sum_i p_ij <= n_q and |Cov(v, t)| <= sqrt(lambda_max Cov(v)) sqrt(Var t), where sqrt(lambda_max Cov(v))
<= ||V|| r =: rho (biases drop out of a covariance):

- values: sum_i |sum_j p_ij dv_j|^2 <= sum_j (sum_i p_ij) |dv_j|^2 gives sqrt(C) ||V||;
- queries: k_j . dq_i s = x_j . A dx_i + a term without j, A = s K^T Q; Var_j(x_j . a) <= r^2 |a|^2 gives rho r ||A||,
  *without* n;
- keys: q_i . dk_j s = u_i . dx_j with u_i = A x_i + s K^T b_q, |u_i| <= ||A|| r + s |K^T b_q| =: U; and
  sum_i sum_j p_ij (u_i . dx_j)^2 <= C U^2 sum_j |dx_j|^2 gives rho sqrt(C) U.

The three add up. (Without biases: ||V|| (||A|| r^2 (1 + sqrt n) + sqrt n), whose square is at most ||V||^2 (||A||^2
r^4 (4 + 4n) + 2n): below the published one.) Several heads: squares add up, so that the query term is r ||stack_h
rho_h A_h|| and the key term the smaller of sqrt(C sum rho_h^2 U_h^2) and sqrt(n_q) (||stack_h rho_h A_h|| r +
|stack_h rho_h s K_h^T b_h|).
C shrinks where scores cannot differ much: p_ij <= 1 / (1 + (n_k - 1) exp(-2 r U)).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fimaudit.bounds.norms.matrix import OUTWARD, spectral_norm_upper

__all__ = ["Head", "self_attention_lipschitz", "separate_attention_gains"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Head:
    """One head on a common token space: ``query``, ``key`` (d_head, d), ``value`` (d_value, d), ``query_bias`` (d_head,)."""

    query: Array
    key: Array
    value: Array
    query_bias: Array


def self_attention_lipschitz(
    heads: Sequence[Head], radius: float, queries: int, keys: int, scale: float, masked: bool = False
) -> float:
    """Lipschitz constant of multi-head attention as a map of the tokens (n, d), all of norm at most ``radius``.

    Args:
        heads: the heads that read the same tokens.
        radius: bound on each token's l2 norm.
        queries: number of query tokens, each one of the key tokens.
        keys: number of key tokens, all different.
        scale: factor on the scores, 1 / sqrt(d_head) as a rule.
        masked: a constant is added to the scores (a mask, a relative position bias).

    Returns:
        The bound in l2 from all tokens together to all outputs together, before any output projection.

    Source: derived above; the test compares it with dense Jacobians.

    >>> eye = np.eye(2)
    >>> round(self_attention_lipschitz([Head(0 * eye, eye, eye, np.zeros(2))], 1.0, 4, 4, 1.0), 2)
    1.0
    """
    values = [spectral_norm_upper(head.value) for head in heads]
    forms = [scale * head.key.T @ head.query for head in heads]
    offsets = [scale * head.key.T @ head.query_bias for head in heads]
    reaches = [
        spectral_norm_upper(form) * radius + OUTWARD * float(np.linalg.norm(offset))
        for form, offset in zip(forms, offsets, strict=True)
    ]
    stacked = radius * spectral_norm_upper(np.vstack([v * form for v, form in zip(values, forms, strict=True)]))
    offset = radius * OUTWARD * float(np.linalg.norm([v * b for v, b in zip(values, offsets, strict=True)]))
    column = _column_sum(queries, keys, 2 * radius * max(reaches), masked)
    apart = math.sqrt(column * sum((v * radius * u) ** 2 for v, u in zip(values, reaches, strict=True)))
    together = math.sqrt(queries) * (stacked * radius + offset)
    value_term = math.sqrt(column) * spectral_norm_upper(np.vstack([head.value for head in heads]))
    return OUTWARD * (value_term + radius * stacked + min(apart, together))


def separate_attention_gains(
    radii: tuple[float, float, float], queries: int, keys: int, scale: float, masked: bool = False
) -> tuple[float, float, float]:
    """Gains of attention with respect to its queries, keys and values, each a tensor of its own.

    ||dO|| <= s R_v R_k ||dQ|| + s R_v R_q sqrt(C) ||dK|| + sqrt(C) ||dV||: the derivation above with K, Q and V the
    identity.

    Args:
        radii: bounds on the l2 norm of every query, key and value token of every head.
    """
    query, key, value = radii
    column = _column_sum(queries, keys, 2 * scale * query * key, masked)
    return (
        OUTWARD * scale * value * key,
        OUTWARD * scale * value * query * math.sqrt(column),
        OUTWARD * math.sqrt(column),
    )


def _column_sum(queries: int, keys: int, spread: float, masked: bool) -> float:
    """Bound on sum_i p_ij, given how far the scores of one row can differ."""
    if masked:
        return float(queries)
    return queries / (1.0 + (keys - 1) * math.exp(-min(spread, 700.0)))
