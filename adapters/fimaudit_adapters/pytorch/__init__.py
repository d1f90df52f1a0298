"""The adapter for torch: modules, exported programs (``.pt2``) and TorchScript files. Importing it imports no torch."""

from __future__ import annotations

import os
from typing import Any

from fimaudit.errors import MissingExtraError, TargetError
from fimaudit.models.classifier import Classifier, Options
from fimaudit_adapters.options import refuse_unused

__all__ = ["ADAPTER", "PytorchAdapter"]

#: Endings that are torch's own.
SUFFIXES = (".pt2", ".pt", ".pth", ".ts", ".torchscript")
_MODEL_TYPES = {("torch.nn.modules.module", "Module"), ("torch.export.exported_program", "ExportedProgram")}


class PytorchAdapter:
    """Opens torch modules and torch's own file formats; see ``torch_classifier.TorchClassifier`` for what comes out."""

    option_names = ("input_shape", "name")

    def accepts(self, target: object) -> bool:
        """A torch module or exported program, known by the names of its classes, or a path with one of torch's endings."""
        if isinstance(target, str):
            return os.path.splitext(target)[1].lower() in SUFFIXES
        return any((c.__module__, c.__name__) in _MODEL_TYPES for c in type(target).__mro__)

    def open(self, target: Any, options: Options) -> Classifier:
        """Open ``target`` with eval mode forced, on ``options.device`` or the best device at hand.

        Options: ``device``; ``weights`` (.safetensors, or .pt read with weights only) for a module; ``input`` and
        ``hold`` by the names of forward's arguments; ``output`` by name or position, ``output_step``; ``trust_pickle``; and,
        by keyword, ``name`` and ``input_shape``.

        Raises:
            MissingExtraError: torch is not installed.
            TargetError: no file there, not a model, weights that do not fit, arguments or outputs that cannot be identified.
            UntrustedPickleError: the file is a pickled module and ``trust_pickle`` is not set.
        """
        refuse_unused(
            options,
            "pytorch",
            used=("device", "weights", "input", "output", "output_step", "finding", "hold", "packing", "normalise"),
            extra=self.option_names,
        )
        try:
            import torch  # noqa: F401
        except ImportError as exc:
            raise MissingExtraError("opening a torch model", "torch", "torch") from exc
        from fimaudit_adapters.pytorch.classifier import TorchClassifier
        from fimaudit_adapters.pytorch.files import load_module, load_weights, wrap_exported

        if isinstance(target, str):
            if options.weights is not None:
                raise TargetError(
                    f"--weights goes with a package.module:factory target, but {target!r} brings its own; leave it out"
                )
            return TorchClassifier(load_module(target, options), options)
        if not hasattr(target, "forward"):
            return TorchClassifier(wrap_exported(target, options), options)
        return TorchClassifier(load_weights(target, options), options)


ADAPTER = PytorchAdapter()
