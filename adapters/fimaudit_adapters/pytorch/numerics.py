"""What a derivative is taken under: full precision, deterministic kernels, and a module that stays as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

__all__ = ["exact_numerics", "module_untouched"]


@contextmanager
def exact_numerics(device: torch.device) -> Iterator[None]:
    """Gradients on; autocast, TF32, reduced-precision and nondeterministic kernels off; all put back, also on an exception.

    Fused attention is replaced by its plain form, which has derivatives of every order.
    """
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for kind in {"cpu", device.type}:
            if torch.amp.is_autocast_available(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        stack.enter_context(_full_precision())
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        if device.type == "cuda":
            stack.enter_context(_deterministic())
        yield


@contextmanager
def module_untouched(module: torch.nn.Module, device: torch.device) -> Iterator[None]:
    """Eval mode and no gradients towards parameters; flags, requires_grad and the generators' states are put back."""
    flags = [(part, part.training) for part in module.modules()]
    tensors = [(t, t.requires_grad) for t in (*module.parameters(), *module.buffers()) if t.is_leaf]
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            for part, flag in flags:
                if flag:
                    part.training = False
            for tensor, wanted in tensors:
                if wanted:
                    tensor.requires_grad_(False)
            yield
    finally:
        for part, flag in flags:
            if part.training != flag:
                part.training = flag
        for tensor, wanted in tensors:
            if tensor.requires_grad != wanted:
                tensor.requires_grad_(wanted)


@contextmanager
def _full_precision() -> Iterator[None]:
    backends: Any = torch.backends
    if hasattr(backends.cudnn, "conv"):
        # One switch for each backend and operator; reading the older global flags in between would raise.
        parts = [
            backends.cuda.matmul,
            *(getattr(b, op) for b in (backends.cudnn, backends.mkldnn) for op in ("conv", "rnn")),
        ]
        parts.append(backends.mkldnn.matmul)
        saved = [part.fp32_precision for part in parts]
        try:
            for part in parts:
                part.fp32_precision = "ieee"
            yield
        finally:
            for part, value in zip(parts, saved, strict=True):
                part.fp32_precision = value
        return
    precision, convolutions = torch.get_float32_matmul_precision(), backends.cudnn.allow_tf32
    try:
        torch.set_float32_matmul_precision("highest")
        backends.cudnn.allow_tf32 = False
        yield
    finally:
        backends.cudnn.allow_tf32 = convolutions
        torch.set_float32_matmul_precision(precision)


@contextmanager
def _deterministic() -> Iterator[None]:
    cudnn: Any = torch.backends.cudnn
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    chosen, searched = cudnn.deterministic, cudnn.benchmark
    try:
        # Operators without a deterministic kernel still run: an answer with rounding noise beats none.
        torch.use_deterministic_algorithms(True, warn_only=True)
        cudnn.deterministic, cudnn.benchmark = True, False
        yield
    finally:
        cudnn.deterministic, cudnn.benchmark = chosen, searched
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
