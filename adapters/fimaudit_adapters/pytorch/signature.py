"""How a torch module is called and which of its outputs is read."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from fimaudit.errors import DataError, OutputError, TargetError
from fimaudit.models.normalising import Normalize
from fimaudit.models.packing import HeldPart, Packing

__all__ = ["Argument", "CallPlan", "check_input", "plan_call", "select_output"]


@dataclass(frozen=True)
class Argument:
    """One argument of a module's forward."""

    name: str
    required: bool
    positional: bool


@dataclass
class CallPlan:
    """Where the audited input goes, and the inputs that are held constant.

    Attributes:
        audited: name of the audited argument.
        positional: names passed by position, in order.
        keywords: names passed by keyword.
        held: one input's value of every other argument, without the batch axis.
        packing: what rows hold behind the audited numbers, where other arguments have a value for each input.
        normalise: what is done with the audited input first.
        held_axis: where the batch lies in held arrays of two axes or more: first, or second as in recurrent states
            (layers, batch, units), which a module that refuses the former is given from then on.
    """

    audited: str
    positional: tuple[str, ...]
    keywords: tuple[str, ...]
    held: Mapping[str, torch.Tensor]
    packing: Packing | None = None
    normalise: Normalize | None = None
    held_axis: int = 0
    _asked: bool = False

    def __post_init__(self) -> None:
        """Without held arrays there is no axis to find."""
        self._asked = not (self.packing or any(value.ndim > 1 for value in self.held.values()))

    def __call__(self, module: Callable[..., Any], x: torch.Tensor) -> Any:
        """Call ``module`` on a batch of audited inputs, the held ones repeated."""
        if len(x) > 1 and not self._asked:
            self(module, x[:1])  # of one row it shows which axis is which: as many layers as rows would hide it
        self._asked = True
        try:
            return self._called(module, x, self.held_axis)
        except RuntimeError as exc:
            if isinstance(exc, torch.OutOfMemoryError) or self.held_axis or not (self.held or self.packing):
                raise
            try:
                answer = self._called(module, x, 1)
            except RuntimeError:
                raise exc from None
            self.held_axis = 1
            return answer

    def _called(self, module: Callable[..., Any], x: torch.Tensor, axis: int) -> Any:
        rows = len(x)
        values = {name: _like(value, x).expand(rows, *value.shape) for name, value in self.held.items()}
        if self.packing is not None:
            x, numbers = self.packing.split(x)
            values |= {part.name: _restored(part, numbers[part.name]) for part in self.packing.parts}
        if axis:
            values = {name: _as_state(value) for name, value in values.items()}
        values[self.audited] = x if self.normalise is None else self.normalise(x)
        return module(*[values[name] for name in self.positional], **{name: values[name] for name in self.keywords})


def _as_state(value: torch.Tensor) -> torch.Tensor:
    """(B, layers, units), or (B, layers, 1, units), as (layers, B, units); what has fewer axes is no state."""
    if value.ndim == 4 and value.shape[2] == 1:
        value = value.squeeze(2)
    return value.movedim(0, 1).contiguous() if value.ndim == 3 else value


def _restored(part: HeldPart, numbers: torch.Tensor) -> torch.Tensor:
    """(B, size) numbers as (B, \\*shape) values in the part's type; no derivative goes there."""
    values = numbers.detach().reshape(-1, *part.shape)
    kind = np.dtype(part.dtype)
    return values if kind.kind == "f" else values.round().to(getattr(torch, kind.name))


def _like(value: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """A held value in the precision of the audited input, where both have a fraction."""
    return value.to(x.dtype) if value.is_floating_point() and x.is_floating_point() else value


def arguments(module: torch.nn.Module) -> list[Argument]:
    """The arguments of ``module.forward``, without ``self`` and without ``*args`` and ``**kwargs``."""
    if isinstance(module, torch.jit.ScriptModule):
        schema = getattr(module.forward, "schema").arguments[1:]  # noqa: B009 (mypy knows forward as a plain callable)
        return [Argument(a.name, not a.has_default_value(), not a.kwarg_only) for a in schema]
    found = inspect.signature(module.forward).parameters.values()
    skipped = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [
        Argument(p.name, p.default is inspect.Parameter.empty, p.kind is not inspect.Parameter.KEYWORD_ONLY)
        for p in found
        if p.kind not in skipped
    ]


def plan_call(
    module: torch.nn.Module,
    input: str | None,
    hold: Mapping[str, Any],
    device: torch.device,
    dtypes: Mapping[str, torch.dtype],
    default: torch.dtype,
    packing: Packing | None = None,
    normalise: Normalize | None = None,
) -> CallPlan:
    """Decide how to call ``module`` with one audited input and the others held.

    Args:
        module: what is called.
        input: name of the audited argument; the first one when left out.
        hold: one input's value of the others by name, without the batch axis.
        device: where the held values go.
        dtypes: dtype of each argument, where the model's file says so.
        default: dtype of held values with a fraction otherwise.
        packing: what rows hold behind the audited numbers.
        normalise: what is done with the audited input first.

    Raises:
        TargetError: an unknown name, or an argument that is neither audited, held nor optional.
    """
    known = arguments(module)
    names = [a.name for a in known]
    parts = () if packing is None else packing.parts
    given = {*hold, *(part.name for part in parts)}
    audited = input or (names[0] if names else "x")
    for name in (*([input] if input else []), *given):
        if name not in names:
            raise TargetError(
                f"forward has no argument {name!r}; its arguments: {', '.join(names) or 'none that are named'}"
            )
    if audited in given:
        raise TargetError(f"{audited!r} is the audited input and cannot be held; choose another with --input")
    missing = [a.name for a in known if a.required and a.name != audited and a.name not in given]
    if missing:
        raise TargetError(
            f"forward also needs {', '.join(missing)}: give each a constant with --hold, or audit another with --input"
        )
    positional: list[str] = []
    keywords: list[str] = []
    for a in known or [Argument(audited, True, True)]:
        if a.name == audited or a.name in given:
            in_line = a.positional and not keywords and len(positional) == names.index(a.name) if names else True
            (positional if in_line else keywords).append(a.name)
    held = {}
    for name, value in hold.items():
        array = np.asarray(value)
        if array.dtype.kind not in "fiub":
            raise TargetError(f"expected numbers to hold {name!r} at, got {array.dtype}")
        wanted = dtypes.get(name, default if array.dtype.kind == "f" else None)
        held[name] = torch.tensor(array, dtype=wanted, device=device)
    if text := [part.name for part in parts if part.values]:
        raise TargetError(f"expected numbers to hold {text[0]!r} at, got text")
    return CallPlan(audited, tuple(positional), tuple(keywords), held, packing, normalise)


def select_output(answer: Any, output: str | int | None) -> torch.Tensor:
    """The tensor to read from what forward returned: chosen by name or position, else the only one or ``logits``.

    Raises:
        OutputError: there are several and none was chosen, or the choice is not there, or it is no tensor.
    """
    chosen = answer
    if not isinstance(answer, torch.Tensor):
        chosen = _pick(answer, output)
    elif output not in (None, 0, "0"):
        raise OutputError(f"the model returns a single tensor, so there is no output {output!r}; leave --output out")
    if not isinstance(chosen, torch.Tensor):
        raise OutputError(f"expected a tensor as the model's output, got {type(chosen).__name__}; choose one with --output")
    return chosen


def _pick(answer: Any, output: str | int | None) -> Any:
    named = _named(answer)
    if isinstance(output, str) and output in named:
        return named[output]
    if isinstance(output, str) and output.lstrip("-").isdigit():
        output = int(output)
    values = list(answer) if isinstance(answer, list | tuple) else list(named.values())
    if isinstance(output, int) and -len(values) <= output < len(values):
        return values[output]
    labels = ", ".join(named) if named else f"0 to {len(values) - 1}"
    if output is not None:
        raise OutputError(f"the model has no output {output!r}; expected one of {labels}")
    if "logits" in named:
        return named["logits"]
    if len(values) == 1:
        return values[0]
    if not values:
        raise OutputError(f"expected a tensor as the model's output, got {type(answer).__name__}")
    raise OutputError(f"the model returns {len(values)} outputs; choose one with --output ({labels})")


def _named(answer: Any) -> dict[str, Any]:
    if isinstance(answer, Mapping):
        return dict(answer)
    if hasattr(answer, "_fields"):
        return {name: getattr(answer, name) for name in answer._fields}
    if isinstance(answer, list | tuple):
        return {}
    held = {name: value for name, value in getattr(answer, "__dict__", {}).items() if not name.startswith("_")}
    if hasattr(answer, "logits"):
        held.setdefault("logits", answer.logits)
    return {name: value for name, value in held.items() if value is not None}


def check_input(shape: Sequence[int], expected: tuple[int | None, ...] | None) -> None:
    """Raise ``DataError`` unless a batch of this shape fits an input of the expected shape."""
    inner = tuple(shape[1:])
    fits = expected is None or (
        len(inner) == len(expected) and all(want is None or want == got for want, got in zip(expected, inner, strict=True))
    )
    if not fits or len(shape) == 0:
        wanted = tuple("any" if n is None else n for n in expected or ())
        raise DataError(f"expected inputs of shape {wanted}, got a batch of shape {tuple(shape)}")
