"""A training loss that lowers the Fisher sensitivity of a torch classifier, differentiable with respect to its weights.

F(x) = 4 J_s^T J_s = J_z^T C J_z with s = sqrt(p), C = diag(p) - p p^T. Two estimates, each from products with J_z^T
only, which is one backward pass a vector:

- ``trace``: F = A^T A with A = C^(1/2) J_z. C^(1/2) is applied without a root: with w = sqrt(p) * e - p (sqrt(p) .
  e), E[e e^T] = I, the covariance of w is C, so that E ||J_z^T w||^2 = tr(J_z^T C J_z) = tr F, exactly, for any
  number of draws.
- ``spectral_norm``: lambda from below by one power step of the class-side matrix, u <- (C^(1/2) J_z J_z^T C^(1/2)) u
  from a random start, then the Rayleigh quotient ||J_z^T C^(1/2) u||^2 with u held fixed. On a batch it is the mean
  over inputs.

Source: the trace penalty, Shen et al., Defending Against Adversarial Attacks by Suppressing the Largest Eigenvalue of Fisher
Information Matrix, arXiv 1909.06137; the metric, arXiv 2606.04767; Hutchinson 1989, doi:10.1080/03610918908812806.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from fimaudit.errors import MissingExtraError, UsageError

if TYPE_CHECKING:
    import torch

__all__ = ["fisher_penalty"]


def fisher_penalty(
    model: Any,
    x: torch.Tensor,
    *,
    kind: Literal["trace", "spectral_norm"] = "trace",
    draws: int = 1,
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """Mean over a batch of tr F(x), or of lambda_max(F(x)) by one power step, as a loss to add to the training loss.

    tr F = sum_k p_k ||grad log p_k||^2 in 1 / (input unit)^2. The estimate of the trace is unbiased (Hutchinson,
    ``draws`` Rademacher vectors); that of lambda is a lower bound in every draw. Both cost two backward passes,
    whatever the number of classes.

    Args:
        model: a callable from a batch (B, \\*shape) to logits (B, K), K >= 2, or (B, 1) for a single logit z of P(class 1).
        x: (B, \\*shape), in the unit in which the penalty is meant. It is detached: no gradient flows into it.
        kind: what is penalised.
        draws: random vectors an input; their mean is returned.
        generator: the source of randomness, on x's device; torch's global one where left out.

    Returns: A scalar that can be differentiated with respect to the model's parameters. Fused attention has no second
        derivative, so the forward pass runs on torch's plain attention kernel.

    Raises:
        UsageError: the output is not (B, K), or ``kind`` or ``draws`` is not known.
        MissingExtraError: torch is not installed.

    Assumes that rows of a batch do not influence each other (batch norm in evaluation, or its cross-talk neglected).

    >>> import torch
    >>> net = torch.nn.Linear(3, 2)
    >>> loss = fisher_penalty(net, torch.zeros(5, 3), generator=torch.Generator().manual_seed(0))
    >>> loss.backward()
    >>> net.weight.grad.shape
    torch.Size([2, 3])
    """
    try:
        import torch
        from torch.nn.attention import SDPBackend, sdpa_kernel
    except ImportError as exc:
        raise MissingExtraError("fisher_penalty", "torch", "torch") from exc
    if kind not in ("trace", "spectral_norm"):
        raise UsageError(f"expected kind 'trace' or 'spectral_norm', got {kind!r}")
    if draws < 1:
        raise UsageError(f"expected at least one draw, got {draws}")
    point = x.detach().clone().requires_grad_(True)
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        logits = model(point)
        if logits.ndim != 2 or logits.shape[0] != x.shape[0]:
            raise UsageError(f"expected logits of shape ({x.shape[0]}, classes), got {tuple(logits.shape)}")
        if logits.shape[1] == 1:
            logits = torch.cat([torch.zeros_like(logits), logits], dim=1)
        p = logits.softmax(dim=1)
        total = logits.new_zeros(())
        for _ in range(draws):
            bits = torch.randint(0, 2, p.shape, generator=generator, device=p.device)
            signs = (2 * bits - 1).to(p.dtype)
            if kind == "spectral_norm":
                signs = _power_step(logits, p, point, signs)
            row = _pulled_back(logits, _rooted(p, signs), point, create_graph=True)
            total = total + row.square().sum(dim=1).mean()
        mean: torch.Tensor = total / draws
        return mean


def _rooted(p: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    """B u with B = diag(sqrt p) - p sqrt(p)^T, B B^T = diag(p) - p p^T; p is kept from 0, where the root has no
    derivative."""
    import torch

    root = p.clamp_min(torch.finfo(p.dtype).tiny).sqrt()
    return root * u - p * (root * u).sum(dim=1, keepdim=True)


def _pulled_back(logits: torch.Tensor, w: torch.Tensor, point: torch.Tensor, create_graph: bool) -> torch.Tensor:
    """J_z^T w for each row of the batch, (B, d); w may depend on the weights and its derivative is kept."""
    import torch

    # grad of z . w with w free, so that w's own dependence on x does not enter J_z^T w.
    seed = w if create_graph else w.detach()
    (row,) = torch.autograd.grad(logits, point, grad_outputs=seed, create_graph=create_graph, retain_graph=True)
    return row.flatten(1)


def _power_step(logits: torch.Tensor, p: torch.Tensor, point: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    """One step u <- B^T J_z J_z^T B u, of unit length and without a graph."""
    import torch

    # The forward product J_z v is the derivative of J_z^T a with respect to a (the double-backward trick).
    dummy = torch.zeros_like(logits, requires_grad=True)
    row = _pulled_back(logits, _rooted(p, u).detach(), point, create_graph=False).detach()
    (linear,) = torch.autograd.grad(logits, point, grad_outputs=dummy, create_graph=True)
    (pushed,) = torch.autograd.grad(linear.flatten(1), dummy, grad_outputs=row)
    with torch.no_grad():
        root = p.sqrt()
        step = root * pushed - root * (p * pushed).sum(dim=1, keepdim=True)
        length = step.norm(dim=1, keepdim=True)
        return torch.where(length > 0, step / length.clamp_min(torch.finfo(p.dtype).tiny), u / u.norm(dim=1, keepdim=True))
