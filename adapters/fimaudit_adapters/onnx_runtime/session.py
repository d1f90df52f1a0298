"""One onnxruntime session on the best provider at hand, and the call of it that turns rows into a plain array."""

from __future__ import annotations

import contextlib
import ctypes
import io
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fimaudit.errors import MissingExtraError, ModelFailure, OutputError, TargetError
from fimaudit.foreign_errors import one_line
from fimaudit.models.labels import LabelledAs
from fimaudit_adapters.onnx_runtime.ports import HeldInput, Port, holds_labels

__all__ = ["OPTIMISATIONS", "Runner", "import_onnx", "new_session", "parse_device"]

#: Four rows of 3 x 224 x 224, 200 of 3 x 32 x 32 (benchmarks/memory.py measures what a call of SqueezeNet takes).
CALL_BYTES = 5 * 2**19
#: How far onnxruntime rewrites a graph, and its own names for that; ``all`` is its default. From ``extended`` on it computes
#: with the levels of quantised weights, which rounds activations that the file does not round.
OPTIMISATIONS = {
    "all": "ORT_ENABLE_ALL",
    "extended": "ORT_ENABLE_EXTENDED",
    "basic": "ORT_ENABLE_BASIC",
    "off": "ORT_DISABLE_ALL",
}
_FATAL = 4  # onnxruntime's log level that leaves stderr empty; what goes wrong is raised anyway
_CUDA = "CUDAExecutionProvider"
_CPU = "CPUExecutionProvider"


def import_onnx() -> Any:
    """The module onnxruntime, once onnx is known to be there too.

    Raises:
        MissingExtraError: one of the two is not installed.
        TargetError: one is installed, but does not load.
    """
    package = "onnx"
    try:
        import onnx  # noqa: F401

        package = "onnxruntime"
        # The import itself looks for devices and complains on stderr on some machines without a GPU.
        with contextlib.nullcontext() if package in sys.modules else _quiet_stderr():
            import onnxruntime
    except ModuleNotFoundError as exc:
        raise MissingExtraError("an ONNX model", package, "onnx") from exc
    except ImportError as exc:
        raise TargetError(
            f"the package {package!r} is installed but does not load: {one_line(exc, 300)}; install it again"
        ) from exc
    return onnxruntime


def parse_device(device: str | None) -> tuple[str, int] | None:
    """``cpu``, ``cuda`` or ``cuda:N`` as kind and number; ``None`` for the best at hand."""
    if device is None or device == "auto":
        return None
    kind, _, number = device.partition(":")
    if kind not in ("cpu", "cuda") or (":" in device and not number.isdigit()) or device == "cpu:":
        raise TargetError(f"expected --device cpu, cuda or cuda:N for an ONNX model, got {device!r}")
    return kind, int(number or 0)


def new_session(
    ort: Any, model: str | bytes, folder: str | None, device: tuple[str, int] | None, optimisation: str = "all"
) -> Any:
    """An ``InferenceSession`` on ``device``, quiet; on CUDA without TF32 and with repeatable algorithms.

    Args:
        ort: the module onnxruntime.
        model: path, or the serialised model.
        folder: where a serialised model's external data lie.
        device: as ``parse_device`` gives it.
        optimisation: of the graph, among ``OPTIMISATIONS``.

    Raises:
        TargetError: CUDA was asked for and is not there.
    """
    options = ort.SessionOptions()
    options.log_severity_level = _FATAL
    options.use_deterministic_compute = True
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, OPTIMISATIONS[optimisation])
    if isinstance(model, bytes) and folder is not None:
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", folder)
    if device is None or device[0] == "cuda":
        number = device[1] if device else 0
        problem = cuda_problem(ort, number)
        if problem is None:
            settings = {"device_id": str(number), "use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}
            with _quiet_logger(ort):
                session = ort.InferenceSession(model, options, providers=[(_CUDA, settings), _CPU], enable_fallback=0)
            if session.get_providers()[0] == _CUDA:
                return session
            problem = "onnxruntime could not start its CUDA provider"
        if device is not None:
            raise TargetError(
                f"--device {device[0]}:{number} was asked for, but {problem}; "
                "leave --device out or take --device cpu to run on the CPU"
            )
    return ort.InferenceSession(model, options, providers=[_CPU], enable_fallback=0)


def cuda_problem(ort: Any, number: int = 0) -> str | None:
    """Why CUDA cannot be used here, ``None`` when everything it needs loads. Writes nothing, on no stream."""
    if _CUDA not in ort.get_available_providers():
        return f"this build of onnxruntime ({ort.__version__}) has no CUDA provider"
    windows = sys.platform == "win32"
    try:
        driver = ctypes.CDLL("nvcuda.dll" if windows else "libcuda.so.1")
        count = ctypes.c_int(0)
        if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
            return "the NVIDIA driver finds no usable GPU"
    except (OSError, AttributeError):
        return "this machine has no NVIDIA driver (libcuda does not load)"
    if number >= count.value:
        return f"this machine has {count.value} GPU(s), numbered from 0"
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(Exception):
        ort.preload_dlls()  # from the nvidia-* packages or torch, where they are installed
    major = _cuda_major()
    if windows or major is None:
        return None
    for library in (f"libcudart.so.{major}", f"libcublasLt.so.{major}", f"libcublas.so.{major}", "libcurand.so.10"):
        try:
            ctypes.CDLL(library)
        except OSError:
            return f"the CUDA library {library} does not load; install CUDA {major} or its nvidia-* packages"
    return None


@dataclass
class Runner:
    """A session bound to one input and one output. Called with n rows, it answers with whatever the model gives for them.

    Attributes:
        session: the ``InferenceSession``.
        port: the audited input.
        output: the session's declaration of the output to read (name, type, shape).
        held: the other inputs.
        ort: the module onnxruntime.
        classes: keys of the maps that the model answers with, in the order of the columns; ``None`` for arrays.
        provider: the execution provider that really runs.
        device: ``cpu`` or ``cuda:N``.
    """

    session: Any
    port: Port
    output: Any
    held: Sequence[HeldInput]
    ort: Any
    classes: list[Any] | None = None
    labels: LabelledAs | None = None
    provider: str = field(init=False)
    device: str = field(init=False)
    _options: Any = field(init=False, repr=False)
    _outputs: list[str] = field(init=False, repr=False)
    _bound: bool = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._options = self.ort.RunOptions()
        self._options.log_severity_level = _FATAL
        self._outputs = [self.output.name]
        self.provider = str(self.session.get_providers()[0])
        settings = self.session.get_provider_options().get(_CUDA, {})
        self.device = f"cuda:{settings.get('device_id', '0')}" if self.provider == _CUDA else "cpu"
        self._bound = self.provider == _CUDA and self.output.type.startswith("tensor(") and "string" not in self.output.type

    @property
    def call_bytes(self) -> int | None:
        """Bytes of the rows of one call: on the CPU more of them leave the cache between two layers."""
        return CALL_BYTES if self.device == "cpu" else None

    def __call__(self, rows: NDArray[Any], count: int | None = None) -> NDArray[Any]:
        """The output for an array that is sent as it is; ``count`` rows, the length of its first axis when left out.

        Raises:
            ModelFailure: the model raised.
            OutputError: the answers are not numbers by class.
        """
        feeds = self.port.feeds(rows)
        for held in self.held:
            feeds[held.name] = held.feed(len(rows) if count is None else count)
        try:
            if self._bound:
                answer = run_bound(self.ort, self.session, feeds, self.output.name, *self.device.split(":"))
            else:
                answer = self.session.run(self._outputs, feeds, self._options)[0]
        except Exception as exc:
            raise ModelFailure(
                f"the model raised on an input of shape {rows.shape} and type {rows.dtype}: {one_line(exc, 300)}"
            ) from exc
        if self.labels is not None and holds_labels(self.output):
            return self.labels(answer, rows=len(answer))
        return answer if isinstance(answer, np.ndarray) else self._from_maps(answer)

    def _from_maps(self, answer: Any) -> NDArray[Any]:
        """skl2onnx's list of {class: probability}; columns stay in the order of the first answer."""
        maps = answer if isinstance(answer, list) else [answer]
        if not maps or not all(isinstance(row, dict) for row in maps):
            raise OutputError(f"expected an array or a list of maps from the model, got {type(answer).__name__}")
        if self.classes is None:
            self.classes = list(maps[0])
        try:
            table = np.array([[row[key] for key in self.classes] for row in maps], dtype=np.float32)
        except KeyError as exc:
            raise OutputError(f"expected the classes {self.classes} in every row, one row lacks {exc.args[0]!r}") from exc
        if any(len(row) != len(self.classes) for row in maps):
            raise OutputError(f"expected the classes {self.classes} in every row, one row has others as well")
        return table


def run_bound(
    ort: Any, session: Any, feeds: dict[str, NDArray[Any]], output: str, kind: str, number: str = "0"
) -> NDArray[Any]:
    """One run with the inputs put on the device first and only the audited output brought back."""
    binding = session.io_binding()
    for name, value in feeds.items():
        binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(value), kind, int(number)))
    binding.bind_output(output, "cpu")
    options = ort.RunOptions()
    options.log_severity_level = _FATAL
    session.run_with_iobinding(binding, options)
    return np.asarray(binding.copy_outputs_to_cpu()[0])


def _cuda_major() -> int | None:
    try:
        from onnxruntime.capi.build_and_package_info import cuda_version

        return int(str(cuda_version).split(".")[0])
    except (ImportError, ValueError):
        return None


@contextlib.contextmanager
def _quiet_logger(ort: Any) -> Iterator[None]:
    """Silence the default logger, which speaks when a provider does not load; 2 (warning) is its own default."""
    ort.set_default_logger_severity(_FATAL)
    try:
        yield
    finally:
        ort.set_default_logger_severity(2)


@contextlib.contextmanager
def _quiet_stderr() -> Iterator[None]:
    """Send file descriptor 2, which C++ writes to, nowhere."""
    try:
        kept = os.dup(2)
    except OSError:
        yield
        return
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
