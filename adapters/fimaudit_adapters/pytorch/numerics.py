"""What a derivative is taken under: full precision, deterministic kernels, and a module that stays as it was."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, NamedTuple

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


class _State(NamedTuple):
    """Something that is to be put back: what it is, how it is read and how it is set."""

    key: tuple[str, Any]
    read: Callable[[], Any]
    write: Callable[[Any], Any]


#: What is to be put back, its value before, and how many are inside: of threads with one module, the first comes upon the
#: user's state, and the last leaves.
_HELD: dict[tuple[str, Any], tuple[_State, Any, int]] = {}
_LOCK = threading.Lock()


@contextmanager
def module_untouched(module: torch.nn.Module, device: torch.device) -> Iterator[None]:
    """Eval mode and no gradients towards parameters; flags, requires_grad and the generators' states are put back.

    Several threads may be inside with modules that share parts: everything is put back when the last of them leaves.
    """
    parts = [
        _State(("part", id(of)), partial(getattr, of, "training"), partial(setattr, of, "training"))
        for of in module.modules()
    ]
    tensors = [
        _State(("tensor", id(of)), partial(getattr, of, "requires_grad"), of.requires_grad_)
        for of in {id(of): of for of in (*module.parameters(), *module.buffers()) if of.is_leaf}.values()
    ]
    generators = [_State(("generator", "cpu"), torch.get_rng_state, torch.set_rng_state)]
    if device.type == "cuda":
        on_device = partial(torch.cuda.get_rng_state, device), partial(torch.cuda.set_rng_state, device=device)
        generators.append(_State(("generator", str(device)), *on_device))
    switched = [*parts, *tensors]
    with _LOCK:
        for state in (*switched, *generators):
            known, before, inside = _HELD.get(state.key) or (state, state.read(), 0)
            _HELD[state.key] = known, before, inside + 1
    try:
        with _LOCK:
            for state in switched:
                if state.read():
                    state.write(False)
        yield
    finally:
        with _LOCK:
            for state in (*switched, *generators):
                known, before, inside = _HELD.pop(state.key)
                if inside > 1:
                    _HELD[state.key] = known, before, inside - 1
                elif state in generators or state.read() != before:
                    state.write(before)


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
