"""A torch module as a ``Classifier``: convert in, call in eval mode, convert out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fimaudit.errors import DataError, ModelFailure, TargetError
from fimaudit.models.classes import finding_names, finding_position
from fimaudit.models.classifier import ModelInfo, Options
from fimaudit.models.labels import label_codes
from fimaudit.models.links import Link, as_rows, chosen_finding, chosen_step, to_probabilities
from fimaudit.perturbations.sign_rows import displaced_bounds
from fimaudit.space import Box
from fimaudit_adapters.options import LogitCheck
from fimaudit_adapters.pytorch import derivatives as torch_derivatives
from fimaudit_adapters.pytorch import identity as torch_identity
from fimaudit_adapters.pytorch.device_signs import displaced_on_device
from fimaudit_adapters.pytorch.files import LoadedModule
from fimaudit_adapters.pytorch.identity import Matvec
from fimaudit_adapters.pytorch.linearization import TorchLinearization
from fimaudit_adapters.pytorch.numerics import module_untouched
from fimaudit_adapters.pytorch.signature import check_input, plan_call, select_output

__all__ = ["TorchClassifier"]

#: On a GPU only packed bits travel, so the batch is bounded by the device's memory and not by the host's.
GPU_ROWS = 256
#: Memory of one row's activations, in inputs: a first guess at how many rows fit; halving corrects it.
ACTIVATIONS = 100
_HOST_DTYPE = {torch.bfloat16: "float32"}


class TorchClassifier:
    """A torch module that answers with probabilities, on one device, in eval mode.

    Opening it moves the module to the device and switches it to eval mode; ``close`` puts both back. Answers are
    computed without gradients, the link in float64 on the host. A call that runs out of device memory is halved and
    sent again. The displaced batch is built on the device (``DeviceClassifier``).

    Args:
        loaded: the module and what its file says about it.
        options: see ``PytorchAdapter.open``.
    """

    def __init__(self, loaded: LoadedModule, options: Options) -> None:
        module = loaded.module
        self.module = module
        self._output, self._step = options.output, options.output_step
        names = _class_names(module)
        self._finding = finding_position(options.finding, names)
        self.link = _link_of_findings(module, options.link, self._finding, names)
        self._logit_check = LogitCheck(self.link)
        homes = {tensor.device for tensor in (*module.parameters(), *module.buffers())}
        # A module spread over several devices stays where it is.
        self._home = homes.pop() if len(homes) == 1 else None
        self.device = _chosen_device(options.device, self._home)
        self._flags = [(part, part.training) for part in module.modules()]
        notes = list(loaded.notes)
        if loaded.format != "torch.export" and any(flag for _, flag in self._flags):
            notes.append("the module was in training mode; it was switched to eval mode, and back when closed")
            with suppress(NotImplementedError):  # what torch.export makes is in no mode
                module.eval()
        if self._home is not None and self._home != self.device:
            module.to(self.device)
        floating = _parameter_dtype(module)
        self.plan = plan_call(
            module, options.input, options.hold, self.device, loaded.dtype, floating, options.packing, options.normalise
        )
        self.dtype = loaded.dtype.get(self.plan.audited, floating)
        if self.dtype == torch.bfloat16:
            notes.append(
                "the module computes in bfloat16, which rounds inputs to 8 bits: small displacements are not sent as "
                "computed; prefer --mode white-box, or convert the module to float32"
            )
        _refuse_positions(module, self.plan.audited, options.data)
        self._fewest, self._most = loaded.rows
        self._limit = loaded.rows[1]
        shape = options.extra.get("input_shape", loaded.input_shape.get(self.plan.audited))
        if options.packing is not None:
            check_input((1, *options.packing.shape), None if shape is None else tuple(shape))
            shape = (options.packing.features + options.packing.held,)
        on_gpu = self.device.type == "cuda"
        self._details = {
            "format": loaded.format,
            "class": getattr(module, "original_name", type(module).__name__),
            "parameters": sum(p.numel() for p in module.parameters()),
            "model_dtype": str(floating).removeprefix("torch."),
            "torch": torch.__version__,
            "device_name": torch.cuda.get_device_name(self.device) if on_gpu else "cpu",
            **loaded.details,
        }
        self._info = ModelInfo(
            finding=self._finding,
            name=str(options.extra.get("name", loaded.name)),
            adapter="pytorch",
            input_shape=None if shape is None else tuple(shape),
            dtype=_HOST_DTYPE.get(self.dtype) or str(self.dtype).removeprefix("torch."),
            device=str(self.device),
            preferred_batch=loaded.rows[1] or (GPU_ROWS if on_gpu else None),
            details=self._details,
            notes=tuple(notes),
            not_smooth=_rounding_part(module),
            labels_only=options.link == "labels",
            class_names=finding_names(self._finding, names) or names,
            held=0 if options.packing is None else options.packing.held,
        )

    @property
    def info(self) -> ModelInfo:
        """What is known about the model without asking it, and a warning that its answers give rise to."""
        return self._logit_check.noted(self._info)

    def probabilities(self, batch: NDArray[Any]) -> NDArray[np.float64]:
        """Answer (B, \\*shape) inputs with (B, K) probabilities in float64; see ``Classifier``."""
        array = np.asarray(batch)
        check_input(array.shape, self._info.input_shape)
        if len(array) == 0:
            raise DataError("expected at least one input, got an empty batch")

        def build(start: int, stop: int) -> torch.Tensor:
            # A copy: the module may work in place, and the batch is the caller's.
            own = np.array(array[start:stop], dtype=self._info.dtype, order="C")
            return torch.from_numpy(own).to(self.device, self.dtype)

        return self._answer(build, len(array))

    def displaced(
        self, x: NDArray[Any], packed_signs: NDArray[np.uint8], step: NDArray[Any], lower: NDArray[Any], upper: NDArray[Any]
    ) -> NDArray[np.float64]:
        """Answer base +- step by the sign bits, built on the device; see ``DeviceClassifier``."""
        low, high = displaced_bounds(x, step, Box(lower, upper), self._info.dtype)
        ends = torch.tensor(low, device=self.device), torch.tensor(high, device=self.device)

        def build(start: int, stop: int) -> torch.Tensor:
            return displaced_on_device(packed_signs[start:stop], *ends).to(self.dtype)

        return self._answer(build, len(packed_signs))

    def close(self) -> None:
        """Put the training flags and the device back; may be called twice."""
        if self._home is not None and self._home != self.device:
            self.module.to(self._home)
        for part, flag in self._flags:
            if part.training != flag:
                part.training = flag
        self._flags = []

    def linearize(self, batch: NDArray[Any], dtype: torch.dtype | None = None) -> TorchLinearization:
        """First derivatives at (B, \\*shape) inputs, in the module's precision (at least float32) or ``dtype``."""
        return torch_derivatives.linearize(self, batch, dtype)

    def derivative_rows(self, row_bytes: int) -> int:
        """How many inputs to linearise together; see ``fimaudit.models.linearization.Linearizable``."""
        return torch_derivatives.derivative_rows(self, row_bytes)

    def fisher_forms(self, x: NDArray[Any]) -> dict[str, Matvec]:
        """Products with three forms of the Fisher information at one input; see ``fimaudit.whitebox.identity``."""
        return torch_identity.fisher_forms(self, x)

    def vjp(self, batch: Any, cotangents: Any) -> torch.Tensor:
        """J_s^T w; see ``Differentiable``."""
        return torch_derivatives.root_vjp(self, batch, cotangents)

    def jvp(self, batch: Any, tangents: Any) -> torch.Tensor:
        """J_s v; see ``Differentiable``. How it was formed is kept in ``info.details["jvp"]``."""
        pushed, how = torch_derivatives.root_jvp(self, batch, tangents)
        self._details["jvp"] = how
        return pushed

    def call(self, module: Callable[..., Any], x: torch.Tensor) -> torch.Tensor:
        """The chosen output of ``module`` for a batch of audited inputs, as the model gives it."""
        step = chosen_step(select_output(self.plan(module, x), self._output), self._step)
        chosen: torch.Tensor = chosen_finding(step, self._finding)
        return chosen

    def _answer(self, build: Callable[[int, int], torch.Tensor], rows: int) -> NDArray[np.float64]:
        """Probabilities of ``rows`` rows, built and asked piece by piece, the piece halved when memory runs out."""
        pieces: list[NDArray[Any]] = []
        start = 0
        while start < rows:
            stop = min(rows, start + (self._limit or rows))
            try:
                if self.device.type == "cuda" and self._limit is None:
                    stop = min(stop, start + self._rows_that_fit(build(start, start + 1)))
                with torch.no_grad(), module_untouched(self.module, self.device) if self._strayed() else nullcontext():
                    output = self.call(self.module, self.filled(build(start, stop)))
                    pieces.append(self._rows(_on_host(output), max(stop - start, self._fewest))[: stop - start])
            except torch.OutOfMemoryError as exc:
                if stop - start <= self._fewest:
                    raise ModelFailure(
                        f"{self.device} ran out of memory on a single call of {stop - start} rows; use --device cpu"
                    ) from exc
                self._limit = max(self._fewest, (stop - start) // 2)
                if self.device.type == "cuda":
                    torch.cuda.empty_cache()
                continue
            start = stop
        values = np.concatenate(pieces)
        if self.link == "labels":
            return np.asarray(values, dtype=np.float64)
        if self.dtype == torch.bfloat16 and self.link in ("auto", "identity"):
            values = _renormalised(values)
        self._logit_check.watch(values)
        return to_probabilities(values, self.link, rows=rows)

    def _rows(self, output: NDArray[Any], rows: int) -> NDArray[Any]:
        return label_codes(output, rows) if self.link == "labels" else as_rows(output, rows)

    def _rows_that_fit(self, row: torch.Tensor) -> int:
        """Rows of one call on a GPU, from its free memory."""
        free, _ = torch.cuda.mem_get_info(self.device)
        self._limit = max(self._fewest, int(free // (ACTIVATIONS * row.numel() * row.element_size())))
        return self._limit

    def _strayed(self) -> bool:
        """Whether someone has switched the module back to training mode meanwhile."""
        return self._info.details["format"] != "torch.export" and self.module.training

    def filled(self, x: torch.Tensor) -> torch.Tensor:
        """The batch filled up with copies of its last row, where the program demands more rows than there are."""
        short = self._fewest - len(x)
        return x if short <= 0 else torch.cat([x, x[-1:].expand(short, *x.shape[1:])])


def _rounding_part(module: torch.nn.Module) -> str | None:
    """A part that computes with few levels, as a short reason."""
    for part in module.modules():
        if ".nn.quantized" in type(part).__module__:
            return f"quantised module ({type(part).__name__}): activations are rounded to a few levels"
    return None


def _refuse_positions(module: torch.nn.Module, audited: str, data: str | None) -> None:
    """Refuse integers that the module looks up in a table: token ids have neighbours only by accident."""
    whole = data is not None and np.dtype(data).kind in "iu" and data not in ("uint8", "int8") if data != "table" else False
    tables = any(isinstance(part, torch.nn.Embedding | torch.nn.EmbeddingBag) for part in module.modules())
    if audited == "input_ids" or (whole and tables):
        raise TargetError(
            f"the input {audited!r} holds positions in a table (token ids): 17 and 18 are no neighbours, so a small change "
            "of it has no meaning; audit the embedding instead (--input inputs_embeds, or a module that begins after it)"
        )


def _link_of_findings(module: torch.nn.Module, link: Link, finding: int | None, names: tuple[str, ...] | None) -> Link:
    """The link of a Hugging Face model that says it is multi-label: its columns are logits of their own."""
    if getattr(getattr(module, "config", None), "problem_type", None) != "multi_label_classification":
        return link
    if finding is None and link != "labels":
        known = f" ({', '.join(names)})" if names else ""
        raise TargetError(
            f"the model says that its classes do not exclude each other (problem_type multi_label_classification){known}, "
            "so they are no distribution; audit one of them against its complement with --class NAME"
        )
    return "sigmoid" if link == "auto" else link


def _class_names(module: torch.nn.Module) -> tuple[str, ...] | None:
    """Names that a model of Hugging Face's carries in ``config.id2label``."""
    named = getattr(getattr(module, "config", None), "id2label", None)
    if not isinstance(named, Mapping) or len(named) < 2:
        return None
    try:
        names = tuple(str(named[k] if k in named else named[str(k)]) for k in range(len(named)))
        return None if names == tuple(f"LABEL_{k}" for k in range(len(named))) else names  # made up
    except KeyError:
        return None


def _chosen_device(asked: str | None, home: torch.device | None) -> torch.device:
    if asked is None:
        return (
            torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else home or torch.device("cpu")
        )
    try:
        device = torch.device(asked)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as exc:
        raise TargetError(
            f"the device {asked!r} is not available here ({str(exc).splitlines()[0]}); use --device cpu"
        ) from exc
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", torch.cuda.current_device())
    return device


def _parameter_dtype(module: torch.nn.Module) -> torch.dtype:
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.is_floating_point():
            return tensor.dtype
    return torch.float32


def _on_host(output: torch.Tensor) -> NDArray[Any]:
    """The output as an array; bfloat16, which numpy lacks, as float32."""
    tensor = output.detach().to("cpu")
    return np.asarray((tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy())


def _renormalised(values: NDArray[Any]) -> NDArray[Any]:
    """Rows of bfloat16 probabilities scaled to sum to 1, when they do so within bfloat16's rounding (2^-9 a value)."""
    wide = values.astype(np.float64)
    sums = wide.sum(axis=1, keepdims=True)
    rounded = np.abs(sums - 1.0) <= wide.shape[1] * 2.0**-9
    if wide.shape[1] < 2 or wide.min() < 0 or not rounded.all():
        return values
    return np.asarray(wide / sums)
