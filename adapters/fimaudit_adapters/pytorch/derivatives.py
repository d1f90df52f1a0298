"""Derivatives of a ``TorchClassifier``: the network as a function of its audited input alone, and its linearisation."""

from __future__ import annotations

import copy
import sys
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray

from fimaudit.errors import FimauditError, TargetError
from fimaudit.models.classifier import ModelInfo
from fimaudit.models.linearization import derivative_failure
from fimaudit.models.links import Link
from fimaudit_adapters.pytorch.jacobian_products import Function, JacobianProducts
from fimaudit_adapters.pytorch.linearization import LinkDerivative, TorchLinearization, on_host
from fimaudit_adapters.pytorch.numerics import module_untouched
from fimaudit_adapters.pytorch.operator_rewrites import CheaperDerivatives, goes_back_by_code

__all__ = ["TorchModel", "derivative_rows", "linearize", "raw_function", "root_jvp", "root_vjp"]

#: Inputs that are linearised together: on a CPU as many as keep its caches, on a GPU a share of the free memory.
CPU_BYTES, CPU_ROWS, GPU_ROWS = 4 * 2**20, 16, 64
#: Memory that the recorded graphs take, in inputs; a ResNet-50 takes about 400.
GRAPH_INPUTS = 500
#: Networks that did not run with channels last in memory, or that look at derivatives in their middle.
_AS_WRITTEN: weakref.WeakSet[torch.nn.Module] = weakref.WeakSet()


class TorchModel(Protocol):
    """What derivatives need of a torch classifier."""

    @property
    def module(self) -> torch.nn.Module: ...

    @property
    def link(self) -> Link: ...

    @property
    def device(self) -> torch.device: ...

    @property
    def dtype(self) -> torch.dtype: ...

    @property
    def info(self) -> ModelInfo: ...

    def call(self, module: Callable[..., Any], x: torch.Tensor) -> torch.Tensor: ...

    def filled(self, x: torch.Tensor) -> torch.Tensor: ...


def linearize(model: TorchModel, batch: NDArray[Any], dtype: torch.dtype | None = None) -> TorchLinearization:
    """Linearise ``model`` at (B, \\*shape) inputs.

    Half-precision networks are differentiated in float32, on copies of their parameters, at the function that the
    parameters define: their own rounding has no derivative. Where probabilities come back rounded to 0 (link identity),
    the batch is done again in float64, which resolves them.

    Raises:
        TargetError: the input is not a floating-point tensor, or the output does not depend on it differentiably.
        ModelFailure: the network raised.
    """
    if not model.dtype.is_floating_point:
        raise TargetError(f"the model takes {model.dtype} inputs, which have no derivative; use --mode black-box")
    low = model.dtype in (torch.float16, torch.bfloat16)
    working = dtype or (torch.float32 if low else model.dtype)
    try:
        made = _linearized(model, batch, working)
    except (FimauditError, torch.OutOfMemoryError):
        raise
    except Exception as exc:
        if dtype is not None or not low:
            raise derivative_failure(exc) from exc
        try:  # a network with its precision written into its code
            made = _linearized(model, batch, model.dtype)
        except RuntimeError as again:
            raise derivative_failure(again) from again
    lost = made.link.kind in ("identity", "column") and bool((made.link.probabilities == 0).any())
    if lost and dtype is None and working == torch.float32:
        try:
            return _linearized(model, batch, torch.float64)
        except RuntimeError:
            return made
    return made


def raw_function(model: TorchModel, dtype: torch.dtype, *, rewritten: bool = False) -> Function:
    """The network's raw output (B, M) as a function of the audited input, in ``dtype``, its parameters held constant.

    Call it within ``module_untouched``. ``rewritten`` records the cheaper derivatives of ``operator_rewrites``.
    """
    runner = _runner(model.module, dtype, model.dtype)

    def called(x: torch.Tensor) -> torch.Tensor:
        if not rewritten:
            return model.call(runner, model.filled(x))
        if model.module not in _AS_WRITTEN:
            derivatives = CheaperDerivatives(unrestricted=True)
            try:
                with derivatives:
                    output = model.call(runner, model.filled(x))
                if not derivatives.reordered or not goes_back_by_code(output):
                    return output
            except torch.OutOfMemoryError:
                raise
            except Exception:
                if not (derivatives.reordered or derivatives.joined):  # the network's own
                    raise
            # A view that this order does not allow, an assertion, or a look at derivatives in the middle.
            _AS_WRITTEN.add(model.module)
        with CheaperDerivatives():
            return model.call(runner, model.filled(x))

    def function(x: torch.Tensor) -> torch.Tensor:
        rows = len(x)
        with _as_written():
            output = called(x)
        flat = output.reshape(len(output), -1) if output.ndim == 1 or output[0].numel() == output.shape[1] else output
        return flat[:rows]

    return function


def derivative_rows(model: TorchModel, row_bytes: int) -> int:
    """How many inputs to linearise together."""
    if model.device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(model.device)
        rows = min(GPU_ROWS, free // (GRAPH_INPUTS * max(1, row_bytes)))
    else:
        rows = min(CPU_ROWS, CPU_BYTES // max(1, row_bytes))
    return max(1, min(rows, model.info.preferred_batch or rows))


def _linearized(model: TorchModel, batch: NDArray[Any], dtype: torch.dtype) -> TorchLinearization:
    x = torch.from_numpy(np.array(batch, dtype=model.info.dtype, order="C")).to(model.device, model.dtype).to(dtype)
    plain = raw_function(model, dtype)
    guard = partial(module_untouched, model.module, model.device)
    products = JacobianProducts(plain, x, raw_function(model, dtype, rewritten=True), guard)
    return TorchLinearization(products, LinkDerivative(on_host(products.output), model.link))


def _runner(module: torch.nn.Module, dtype: torch.dtype, native: torch.dtype) -> Callable[..., Any]:
    """The module, with converted copies of its parameters where ``dtype`` is not its own."""
    if dtype == native:
        return module
    if isinstance(module, torch.jit.ScriptModule):
        return copy.deepcopy(module).to(dtype)
    state = {
        name: value.detach().to(dtype) if value.is_floating_point() else value.detach()
        for name, value in (*module.named_parameters(), *module.named_buffers())
    }

    def run(*args: Any, **kwargs: Any) -> Any:
        return torch.func.functional_call(module, state, args, kwargs)

    return run


def _as_written() -> AbstractContextManager[Any]:
    """Parts that were compiled run as they were written: a compiled backward serves once, and has no second one."""
    if "torch._dynamo" not in sys.modules:  # then nothing was compiled, and setting a stance would load it
        return nullcontext()
    return cast(AbstractContextManager[Any], torch.compiler.set_stance("force_eager"))


def root_vjp(model: TorchModel, batch: Any, cotangents: Any) -> torch.Tensor:
    """J_s^T w: (B, \\*shape) inputs and (B, V, K) cotangents to (B, V, \\*shape)."""
    columns = torch.as_tensor(cotangents)
    pieces = []
    for part, at in _pieces(model, batch):
        pieces.append(torch.stack([at.root_pull(columns[part, v]) for v in range(columns.shape[1])], dim=1))
    return torch.cat(pieces)


def root_jvp(model: TorchModel, batch: Any, tangents: Any) -> tuple[torch.Tensor, str]:
    """J_s v: (B, \\*shape) inputs and (B, V, \\*shape) tangents to (B, V, K), and how it was formed."""
    along = torch.as_tensor(tangents, device=model.device)
    pieces, how = [], "double vjp"
    for part, at in _pieces(model, batch):
        pieces.append(torch.stack([at.root_push(along[part, v]) for v in range(along.shape[1])], dim=1))
        how = at.fallback or how
    return torch.cat(pieces), how


def _pieces(model: TorchModel, batch: Any) -> Iterator[tuple[slice, TorchLinearization]]:
    """The batch linearised in pieces that an exported program allows."""
    array = _array(batch)
    rows = model.info.preferred_batch or len(array)
    for start in range(0, len(array), rows):
        yield slice(start, start + rows), linearize(model, array[start : start + rows])


def _array(batch: Any) -> NDArray[Any]:
    return np.asarray(batch.detach().cpu().numpy() if isinstance(batch, torch.Tensor) else batch)
