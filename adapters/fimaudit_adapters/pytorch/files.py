"""Reading torch models: ``.pt2``, TorchScript, pickled modules, and weights for a module made by a factory."""

from __future__ import annotations

import os
import pickle
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.export.passes import move_to_device_pass

from fimaudit.bounds.importers.torch_archive import load_exported
from fimaudit.errors import MissingExtraError, TargetError, UntrustedPickleError
from fimaudit.foreign_errors import listed, one_line
from fimaudit.models.classifier import Options
from fimaudit_adapters.options import file_fingerprint, require_file

__all__ = ["LoadedModule", "load_module", "load_weights", "wrap_exported"]

#: Keys under which training scripts store the weights beside an epoch or an optimiser.
_WEIGHT_KEYS = ("state_dict", "model_state_dict", "model")


@dataclass(frozen=True)
class LoadedModule:
    """A module and what its file says about it.

    Attributes:
        module: what is called.
        name: for the report.
        format: ``module``, ``torch.export``, ``torchscript`` or ``pickle``.
        rows: fewest and most rows of one call; the file of an exported program may fix them.
        input_shape: shape of each tensor input by argument name, without the batch axis, where the file says so.
        dtype: dtype of each tensor input by argument name, likewise.
        details: facts for the report.
        notes: sentences for the user.
    """

    module: torch.nn.Module
    name: str
    format: str
    rows: tuple[int, int | None] = (1, None)
    input_shape: Mapping[str, tuple[int | None, ...]] = field(default_factory=dict)
    dtype: Mapping[str, torch.dtype] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def load_module(path: str, options: Options) -> LoadedModule:
    """Open a ``.pt2`` file, a TorchScript file or, with ``trust_pickle``, a pickled module.

    Raises:
        TargetError: no such file, a truncated one, or one that holds no model.
        UntrustedPickleError: it is a pickled module, or holds code, and ``trust_pickle`` is not set.
    """
    require_file(path, "a torch model")
    name, details = os.path.basename(path), {"sha256": file_fingerprint(path)}
    if path.lower().endswith(".pt2"):
        try:
            program = load_exported(path, options.trust_pickle)
        except UntrustedPickleError:
            raise
        except Exception as exc:
            raise TargetError(
                f"expected a program saved by torch.export.save at {path!r}, got {type(exc).__name__}: "
                f"{one_line(exc, 200)}; export it again, with this or an older version of torch"
            ) from exc
        return wrap_exported(program, options, name=name, details=details)
    if _is_torchscript(path):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                module = torch.jit.load(path, map_location="cpu")  # type: ignore[no-untyped-call]
        except RuntimeError as exc:
            raise TargetError(
                f"expected a TorchScript file at {path!r}, but torch cannot read it: {one_line(exc, 200)}"
            ) from exc
        return LoadedModule(module, name, "torchscript", details=details)
    return LoadedModule(_unpickled_module(path, options.trust_pickle), name, "pickle", details=details)


def wrap_exported(
    program: Any, options: Options, *, name: str = "ExportedProgram", details: Mapping[str, Any] | None = None
) -> LoadedModule:
    """What an exported program says about its inputs, and a module that runs it on the device asked for."""
    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if torch.device(device).type != "cpu":
        program = move_to_device_pass(program, device)
    shapes: dict[str, tuple[int | None, ...]] = {}
    dtypes: dict[str, torch.dtype] = {}
    rows: tuple[int, int | None] = (1, None)
    inputs = {str(n) for n in program.graph_signature.user_inputs}
    for node in program.graph.nodes:
        value = node.meta.get("val")
        if node.op != "placeholder" or node.name not in inputs or not isinstance(value, torch.Tensor) or value.ndim == 0:
            continue
        if not shapes:
            rows = _allowed_rows(value.shape[0], program.range_constraints)
        shapes[node.name] = tuple(n if isinstance(n, int) else None for n in value.shape[1:])
        dtypes[node.name] = value.dtype
    notes = []
    if rows[1] is not None and rows[0] == rows[1]:
        how = "row by row" if rows[1] == 1 else f"{rows[1]} rows at a time, the last call filled up with copies"
        notes.append(
            f"the program was exported for a batch of exactly {rows[1]}, so inputs are sent {how}; "
            "export it with a dynamic batch axis to go faster"
        )
    if _exported_in_training(program):
        notes.append("the program was exported in training mode, which cannot be undone here; export it after model.eval()")
    return LoadedModule(program.module(), name, "torch.export", rows, shapes, dtypes, dict(details or {}), tuple(notes))


def load_weights(module: torch.nn.Module, options: Options) -> LoadedModule:
    """A module in memory, with ``options.weights`` read into it when given.

    Raises:
        TargetError: the file is missing or unreadable, or its keys or shapes are not the module's.
        UntrustedPickleError: the ``.pt`` file holds more than tensors.
    """
    module = getattr(module, "_orig_mod", module)  # torch.compile: the same function, without a compiler between
    name, script = type(module).__name__, isinstance(module, torch.jit.ScriptModule)
    if options.weights is None:
        return LoadedModule(module, name, "torchscript" if script else "module")
    path = require_file(options.weights, "weights (.safetensors or .pt)")
    weights = _read_weights(path)
    wanted = module.state_dict()
    missing, unknown = sorted(set(wanted) - set(weights)), sorted(set(weights) - set(wanted))
    if missing or unknown:
        raise TargetError(
            f"the weights in {path!r} do not fit {name}: it lacks {listed(missing, 3) or 'nothing'} and holds "
            f"{listed(unknown, 3) or 'nothing'} that the "
            "module does not have; save module.state_dict() of this very class"
        )
    for key, value in weights.items():
        if value.shape != wanted[key].shape:
            raise TargetError(
                f"the weights in {path!r} do not fit {name}: {key} has shape {tuple(value.shape)}, "
                f"expected {tuple(wanted[key].shape)}; build the module with the settings it was trained with"
            )
    module.load_state_dict(dict(weights))
    return LoadedModule(module, name, "module", details={"weights_sha256": file_fingerprint(path)})


def _read_weights(path: str) -> Mapping[str, torch.Tensor]:
    if path.lower().endswith(".safetensors"):
        try:
            from safetensors.torch import load_file
        except ImportError as exc:
            raise MissingExtraError("reading .safetensors weights", "safetensors", "torch") from exc
        try:
            weights: dict[str, torch.Tensor] = load_file(path)
            return weights
        except Exception as exc:
            raise TargetError(
                f"expected safetensors weights at {path!r}, but it cannot be read: {one_line(exc, 200)}"
            ) from exc
    _require_saved(path, "weights saved by torch.save")
    try:
        held = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as exc:
        raise UntrustedPickleError(
            f"{path!r} holds more than tensors and reading it would unpickle code; "
            "save module.state_dict() alone, or better as .safetensors"
        ) from exc
    except Exception as exc:
        raise TargetError(
            f"expected weights saved by torch.save at {path!r}, but it cannot be read: {one_line(exc, 200)}"
        ) from exc
    if isinstance(held, Mapping):
        for candidate in (held, *(held[key] for key in _WEIGHT_KEYS if isinstance(held.get(key), Mapping))):
            if candidate and all(isinstance(value, torch.Tensor) for value in candidate.values()):
                return dict(candidate)
    raise TargetError(
        f"expected a state dict (names to tensors) at {path!r}, got {type(held).__name__}; save module.state_dict()"
    )


def _unpickled_module(path: str, trust_pickle: bool) -> torch.nn.Module:
    _require_saved(path, "a torch model")
    try:
        held = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as exc:
        if not trust_pickle:
            raise UntrustedPickleError(
                f"{path!r} is a pickled module, and opening a pickle can run any code; if you trust where it comes from, "
                "pass --trust-pickle, else save it with torch.export.save"
            ) from exc
    except Exception as exc:
        raise TargetError(
            f"expected a torch model at {path!r}, but it cannot be read ({one_line(exc, 200)}); it may be truncated"
        ) from exc
    else:
        raise TargetError(
            f"{path!r} holds {_described(held)} and no network to run; name the code that builds the network as "
            f"package.module:factory and pass --weights {path}"
        )
    try:
        module = torch.load(path, map_location="cpu", weights_only=False)
    except Exception as exc:
        raise TargetError(
            f"unpickling {path!r} failed: {one_line(exc, 200)}; the module's own code must be importable"
        ) from exc
    if not isinstance(module, torch.nn.Module):
        raise TargetError(f"expected a torch module in {path!r}, got {type(module).__name__}")
    return module


def _require_saved(path: str, what: str) -> None:
    """Refuse what torch.save cannot have written, which would otherwise pass for a pickle."""
    with open(path, "rb") as handle:
        start = handle.read(2)
    if not zipfile.is_zipfile(path) and start[:1] != b"\x80":
        raise TargetError(
            f"expected {what} at {path!r}, but torch cannot read it: not a file that torch.save writes, or truncated"
        )


def _is_torchscript(path: str) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def _allowed_rows(axis: Any, ranges: Mapping[Any, Any]) -> tuple[int, int | None]:
    """Fewest and most rows of a call, from the batch axis of an exported program's first input."""
    if isinstance(axis, int):
        return axis, axis
    allowed = ranges.get(axis.node.expr)
    if allowed is None:
        return 1, None
    upper = int(allowed.upper) if allowed.upper.is_Integer and int(allowed.upper) < 2**31 else None
    return max(1, int(allowed.lower)), upper


def _exported_in_training(program: Any) -> bool:
    """Whether dropout or batch statistics are live in the graph."""
    for node in program.graph.nodes:
        target = str(node.target)
        if target.startswith("aten.dropout") and len(node.args) > 2 and node.args[2] is True:
            return True
        if target.startswith("aten.batch_norm") and len(node.args) > 5 and node.args[5] is True:
            return True
    return False


def _described(held: Any) -> str:
    if isinstance(held, Mapping):
        weights = all(isinstance(v, torch.Tensor) for v in held.values())
        return "a state dict" if weights else f"a dict of {listed(list(held), 3)}"
    return "a tensor" if isinstance(held, torch.Tensor) else f"a {type(held).__name__}"
