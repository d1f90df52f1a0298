"""ONNX models through onnxruntime: ``model.onnx`` or a ``ModelProto``, on CUDA where it exists, on the CPU otherwise."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fimaudit.errors import DataError, FimauditError, ModelFailure, TargetError
from fimaudit.foreign_errors import one_line
from fimaudit.models.classes import finding_names, finding_position
from fimaudit.models.classifier import ModelInfo, Options
from fimaudit.models.labels import LabelledAs
from fimaudit.models.links import Link, chosen_finding, chosen_step, to_probabilities
from fimaudit_adapters.onnx_runtime.batch_axis import BatchAxisVerdict, probe_rows, repeatable, same_answers
from fimaudit_adapters.onnx_runtime.batch_choice import Choice, choose_batching
from fimaudit_adapters.onnx_runtime.classes import class_values, metadata_names, quantisation, refuse_positions, votes
from fimaudit_adapters.onnx_runtime.files import OLDEST_OPSET, OnnxSource, read_source, serialised
from fimaudit_adapters.onnx_runtime.graph_facts import not_smooth, quantised_weights
from fimaudit_adapters.onnx_runtime.ports import (
    HeldInput,
    Port,
    choose_input,
    choose_output,
    column_port,
    fits,
    held_inputs,
    packed_port,
)
from fimaudit_adapters.onnx_runtime.session import OPTIMISATIONS, Runner, import_onnx, new_session, parse_device
from fimaudit_adapters.options import LogitCheck, refuse_unused

__all__ = ["ADAPTER", "OnnxClassifier"]


class OnnxClassifier:
    """A ``Classifier`` on an onnxruntime session; thread-safe, because sessions are."""

    def __init__(self, choice: Choice, info: ModelInfo, link: Link, step: int | None, finding: int | None = None) -> None:
        self._choice: Choice | None = choice
        self._info = info
        self._link, self._step, self._finding = link, step, finding
        self._dtype, self._logit_check = np.dtype(info.dtype), LogitCheck(link)
        self._checks = choice.checks

    @property
    def info(self) -> ModelInfo:
        """What is known about the model; notes and batch kind may change at the first real rows."""
        return self._logit_check.noted(self._info)

    def probabilities(self, batch: NDArray[Any]) -> NDArray[np.float64]:
        """Answer (B, \\*shape) inputs with (B, K) probabilities.

        Raises:
            DataError: the inputs do not have the model's shape, or do not fit into its type.
            OutputError, LinkError: the answers are no distributions, see ``links.to_probabilities``.
            ModelFailure: the model raised.
        """
        if self._choice is None:
            raise ModelFailure("the model was closed; open it again")
        rows = self._fitting(np.asarray(batch))
        raw = self._compared(self._choice, rows) if self._checks and len(rows) > 1 else self._choice.batching(rows)
        chosen = chosen_finding(chosen_step(raw, self._step), self._finding)
        self._logit_check.watch(chosen)
        return to_probabilities(chosen, self._link, rows=len(rows))

    def close(self) -> None:
        """Let the session go."""
        self._choice = None

    def _fitting(self, batch: NDArray[Any]) -> NDArray[Any]:
        shape = self._info.input_shape
        if batch.ndim == 0 or len(batch) == 0 or (shape is not None and not fits(batch.shape[1:], shape)):
            expected = ", ".join("any" if n is None else str(n) for n in shape) if shape is not None else "..."
            raise DataError(f"expected inputs of shape (rows, {expected}), got an array of shape {batch.shape}")
        if batch.dtype != self._dtype:
            batch = _cast(batch, self._dtype)
        return np.ascontiguousarray(batch)

    def _compared(self, choice: Choice, rows: NDArray[Any]) -> NDArray[Any]:
        """Answer, and look whether single rows are answered alike; where not, they go one by one from here on."""
        picked = np.unique([0, len(rows) // 2, len(rows) - 1])
        try:
            alone = np.concatenate([choice.reference(rows[i : i + 1]) for i in picked])
        except FimauditError:
            return choice.batching(rows)  # nothing to compare with; the model's own error, if any, is the better one
        try:
            raw = choice.batching(rows)
            verdict = same_answers(raw[picked], alone, choice.tolerance)
        except FimauditError:
            verdict = BatchAxisVerdict.DIFFERENT
        else:
            if verdict is not BatchAxisVerdict.DIFFERENT or not repeatable(
                choice.reference, rows[:1], alone[:1], choice.tolerance
            ):
                self._checks = 0 if verdict is BatchAxisVerdict.SAME else self._checks - 1
                if self._checks == 0:
                    self._choice = replace(choice, reference=choice.batching)  # lets an original graph go
                return raw
        self._checks = 0
        self._choice = replace(choice, batching=choice.reference)
        self._info = replace(
            self._info,
            preferred_batch=1,
            details={**self._info.details, "batch": choice.reference.kind},
            notes=(
                *self._info.notes,
                f"{self._info.name}: a batch is not answered like its rows alone; rows go one by one, which takes longer",
            ),
        )
        return choice.reference(rows)


class _OnnxRuntimeAdapter:
    """Opens ``.onnx`` files and ``onnx.ModelProto`` objects."""

    option_names: tuple[str, ...] = ("optimisation",)

    def accepts(self, target: object) -> bool:
        """Strings that end in ``.onnx``, and ``ModelProto`` objects."""
        if isinstance(target, str):
            return target.lower().endswith(".onnx")
        kind = type(target)
        return kind.__name__ == "ModelProto" and kind.__module__.partition(".")[0] == "onnx"

    def open(self, target: Any, options: Options) -> OnnxClassifier:
        """Open it; options used: ``link``, ``device``, ``input``, ``output``, ``output_step``, ``hold``.

        By keyword ``optimisation``: how far onnxruntime rewrites the graph, ``all`` (its default), ``extended``, ``basic``
        or ``off``. With ``all`` quantised weights may round activations too, which the file does not.

        Raises:
            MissingExtraError: onnx or onnxruntime is not installed.
            TargetError: missing, truncated, not ONNX, not loadable, or ambiguous in its inputs or outputs.
        """
        refuse_unused(
            options,
            "onnx_runtime",
            used=("device", "input", "output", "output_step", "finding", "hold", "packing", "normalise"),
            extra=self.option_names,
        )
        optimisation = options.extra.get("optimisation", "all")
        if optimisation is False:  # what YAML reads in --set optimisation=off
            options = replace(options, extra={**options.extra, "optimisation": "off"})
        elif optimisation not in OPTIMISATIONS:
            raise TargetError(f"expected optimisation among {', '.join(OPTIMISATIONS)}, got {optimisation!r}")
        ort = import_onnx()
        try:
            return _open(ort, target, options)
        except FimauditError:
            raise
        except Exception as exc:
            raise TargetError(
                f"{target if isinstance(target, str) else 'the model'!r} cannot be read as ONNX: {one_line(exc, 300)}"
            ) from exc


ADAPTER = _OnnxRuntimeAdapter()


def _open(ort: Any, target: Any, options: Options) -> OnnxClassifier:
    device = parse_device(options.device)
    source = read_source(target)
    optimisation = str(options.extra.get("optimisation", "all"))
    proto, session, details = _loaded(ort, source, device, optimisation)
    inputs = session.get_inputs()
    packing = options.packing
    parts = {part.name: None for part in packing.parts} if packing is not None else {}
    port = None if options.input or packing else column_port(inputs, proto.graph, options.table, options.hold)
    if port is None:
        port = choose_input(inputs, proto.graph, options.input, {**options.hold, **parts})
    refuse_positions(proto.graph, port)
    if packing is not None:
        port = packed_port(port, inputs, proto.graph, packing)
    port = replace(port, normalise=options.normalise)
    held = held_inputs(inputs, proto.graph, port, options.hold)
    labels = LabelledAs() if options.link == "labels" else None
    output = choose_output(session.get_outputs(), options.output, labels=labels is not None)
    runner = Runner(session, port, output, held, ort, labels=labels)

    def load(rewritten: Any) -> Runner:
        data = serialised(rewritten, source.name)
        session = _session(ort, source, data, parse_device(runner.device), optimisation)
        return Runner(session, port, output, held, ort, labels=labels)

    choice = choose_batching(source.name, proto, runner, load)
    values, names = class_values(proto, choice.batching.ask), metadata_names(proto)
    finding = finding_position(options.finding, names or values)
    classes = _classes(choice, port) if options.output_step is None else None
    if finding is not None:
        classes, values, names = 2, None, finding_names(finding, names or values)
    info = ModelInfo(
        finding=finding,
        name=source.name,
        adapter="onnx_runtime",
        input_shape=choice.input_shape,
        dtype=port.dtype,
        classes=classes if labels is None else None,
        device=runner.device,
        preferred_batch=choice.batching.preferred,
        call_bytes=runner.call_bytes,
        details={**details, **_facts(ort, source, runner, held, optimisation), "batch": choice.batching.kind},
        notes=(choice.note,) if choice.note else (),
        class_values=_of_all(values, classes),
        class_names=_of_all(names, classes),
        exact=votes(proto),
        takes_columns=bool(port.sources),
        categorical=tuple(sorted(source.place for source in port.sources if source.discrete)),
        held=0 if packing is None else packing.held,
        not_smooth=not_smooth(proto.graph, port.name, output.name),
    )
    if labels is not None:
        info = replace(info, labels_only=True, details={**info.details, **labels.facts()})
    return OnnxClassifier(choice, info, options.link, options.output_step, finding)


def _of_all(names: tuple[Any, ...] | None, classes: int | None) -> tuple[Any, ...] | None:
    """Names that are as many as the classes."""
    return names if names is not None and classes in (None, len(names)) else None


def _loaded(
    ort: Any, source: OnnxSource, device: tuple[str, int] | None, optimisation: str
) -> tuple[Any, Any, dict[str, Any]]:
    """The graph and its session; operator sets that onnxruntime has no kernels for are converted first."""
    model = source.path if source.path is not None else serialised(source.proto, source.name)
    try:
        return source.proto, _session(ort, source, model, device, optimisation), {}
    except TargetError:
        if not 0 < source.opset < OLDEST_OPSET or source.external:
            raise
        try:
            from onnx import version_converter

            converted = version_converter.convert_version(source.proto, OLDEST_OPSET)
            session = _session(ort, source, serialised(converted, source.name), device, optimisation)
        except Exception:  # the first error says more
            converted = None
        if converted is None:
            raise
        return converted, session, {"converted_to_opset": OLDEST_OPSET}


def _session(ort: Any, source: OnnxSource, model: str | bytes, device: tuple[str, int] | None, optimisation: str) -> Any:
    try:
        return new_session(ort, model, source.folder, device, optimisation)
    except FimauditError:
        raise
    except Exception as exc:
        raise TargetError(
            f"onnxruntime {ort.__version__} cannot load {source.name}: {one_line(exc, 300)}; check that the file is "
            "complete and that this onnxruntime supports its operators, or export it again"
        ) from exc


def _classes(choice: Choice, port: Port) -> int | None:
    """Number of classes, from one answer to a random input; a single column is P(class 1) of two."""
    for rows in probe_rows(port, choice.input_shape, 1):
        try:
            answer = choice.batching(rows)
        except FimauditError:
            continue
        columns = answer.shape[1] if answer.ndim > 1 else 1
        return max(2, columns) if all(n == 1 for n in answer.shape[2:]) else None
    return None


def _facts(ort: Any, source: OnnxSource, runner: Runner, held: list[HeldInput], optimisation: str) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "sha256": source.sha256,
        "opset": source.opset,
        "ir_version": int(source.proto.ir_version),
        "producer": f"{source.proto.producer_name} {source.proto.producer_version}".strip(),
        "onnxruntime": str(ort.__version__),
        "provider": runner.provider,
        "input": runner.port.name,
        "output": runner.output.name,
    }
    if quantised_weights(source.proto.graph):
        facts["quantised_weights"] = True
    if optimisation != "all":
        facts["optimisation"] = optimisation
    quantised = quantisation(source.proto)
    if quantised is not None:
        facts["quantised"] = quantised
    if source.external:
        facts["external_data"] = source.external
    if held:
        facts["held"] = [h.name for h in held]
    return facts


def _cast(batch: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    if batch.dtype.kind not in "fiub":
        raise DataError(f"expected inputs of numbers ({dtype}), got dtype {batch.dtype}")
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        if not (np.isfinite(batch).all() and batch.min() >= limits.min and batch.max() <= limits.max):
            raise DataError(f"the model takes {dtype}, from {limits.min} to {limits.max}; the inputs go beyond that")
        if batch.dtype.kind == "f":
            batch = np.rint(batch)
    return batch.astype(dtype)
