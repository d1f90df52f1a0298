"""The conformance suite: what every classifier must do for a measurement to be right, for anyone who writes an adapter.

::

    from fimaudit.testing import check_classifier

    def test_my_adapter(my_model, inputs):
        check_classifier(my_model, inputs)

``checks_for(model)`` gives the single checks, for a parametrised test. Each takes the model and example inputs, returns
nothing, and raises ``AssertionError`` with a sentence.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fimaudit.errors import FimauditError
from fimaudit.models.classifier import Classifier, DeviceClassifier, Differentiable, ModelInfo
from fimaudit.perturbations.random_signs import generator, packed_signs
from fimaudit.perturbations.sign_rows import displaced_rows

if TYPE_CHECKING:
    import torch

__all__ = ["CHECKS", "DEVICE_CHECKS", "DIFFERENTIABLE_CHECKS", "Check", "check_classifier", "check_close", "checks_for"]

Check = Callable[[Any, NDArray[Any]], None]


def check_classifier(model: Classifier, x: NDArray[Any]) -> list[str]:
    """Run every check that applies to ``model`` on the example inputs.

    Args:
        model: an open classifier; it is closed at the end.
        x: at least three different inputs, (n, \\*shape), of a dtype that converts to ``model.info.dtype``.

    Returns:
        The names of the checks that ran, in order.

    Raises:
        AssertionError: what was expected and what came, for the first check that fails.
    """
    names = []
    for check in checks_for(model):
        check(model, x)
        names.append(check.__name__)
    return names


def checks_for(model: object) -> list[Check]:
    """The checks that apply: the common ones, those of a device or differentiable classifier, and closing at the end."""
    extra = [*(DEVICE_CHECKS if isinstance(model, DeviceClassifier) else ())]
    extra += DIFFERENTIABLE_CHECKS if isinstance(model, Differentiable) else ()
    return [*CHECKS[:-1], *extra, CHECKS[-1]]


def check_protocol(model: Classifier, x: NDArray[Any]) -> None:
    """``info``, ``probabilities`` and ``close`` are there."""
    assert isinstance(model, Classifier), f"expected info, probabilities and close, {type(model).__name__} lacks one"
    assert len(x) >= 3, f"the suite needs at least three example inputs, got {len(x)}"


def check_info(model: Classifier, x: NDArray[Any]) -> None:
    """What ``info`` declares is well-formed, constant and true of the inputs and answers."""
    info = model.info
    assert isinstance(info, ModelInfo), f"expected info to be a ModelInfo, got {type(info).__name__}"
    assert info == model.info, "expected the same info each time it is read"
    assert info.name, "expected a name"
    assert info.adapter, "expected the adapter's registered name"
    assert np.dtype(info.dtype).kind in "fiu", f"expected a numeric dtype, got {info.dtype}"
    shape = info.input_shape
    fits = shape is None or (
        len(shape) == x.ndim - 1 and all(w in (None, n) for w, n in zip(shape, x.shape[1:], strict=True))
    )
    assert fits, f"info declares inputs of shape {shape}, but the examples have shape {x.shape[1:]}"
    classes = _ask(model, x).shape[1]
    assert info.classes in (None, classes), f"info declares {info.classes} classes, but answers have {classes}"


def check_distributions(model: Classifier, x: NDArray[Any]) -> None:
    """One float64 distribution over at least two classes for each input."""
    p = model.probabilities(_fed(model, x))
    assert isinstance(p, np.ndarray), f"expected a numpy array, got {type(p).__name__}"
    assert p.dtype == np.float64, f"expected float64 probabilities, got {p.dtype}"
    assert p.ndim == 2, f"expected (rows, classes), got shape {p.shape}"
    assert len(p) == len(x), f"expected {len(x)} rows for {len(x)} inputs, got {len(p)}"
    assert p.shape[1] >= 2, f"expected at least two classes, got {p.shape[1]}"
    assert np.isfinite(p).all(), "expected finite probabilities"
    assert p.min() >= 0, f"expected probabilities of 0 and more, got {p.min():.3g}"
    worst = np.abs(p.sum(axis=1) - 1).max()
    assert worst <= max(1e-5, p.shape[1] * _tolerance(model)), f"expected rows that sum to 1, one misses by {worst:.3g}"


def check_row_order(model: Classifier, x: NDArray[Any]) -> None:
    """Row i of the answer belongs to input i, whatever the order and the neighbours."""
    order = np.arange(len(x))[::-1]
    _same(model, _ask(model, x[order]), _ask(model, x)[order], "inputs in reverse order")
    twice = np.concatenate([x, x[:1]])
    _same(model, _ask(model, twice)[-1], _ask(model, x)[0], "the first input again at the end")


def check_single_rows(model: Classifier, x: NDArray[Any]) -> None:
    """A batch of one gives what the same input gives in a larger batch."""
    one_by_one = np.concatenate([_ask(model, x[i : i + 1]) for i in range(len(x))])
    _same(model, one_by_one, _ask(model, x), "inputs one at a time")


def check_repeated_rows(model: Classifier, x: NDArray[Any]) -> None:
    """The same input several times in a batch gets the same answer each time."""
    answers = _ask(model, np.repeat(x[:1], 5, axis=0))
    _same(model, answers, np.repeat(answers[:1], 5, axis=0), "five copies of one input")


def check_deterministic(model: Classifier, x: NDArray[Any]) -> None:
    """The same batch twice gives the same answers."""
    _same(model, _ask(model, x), _ask(model, x), "the same batch again")


def check_memory_layout(model: Classifier, x: NDArray[Any]) -> None:
    """Fortran order, negative strides and views are read by value, not by memory."""
    fed = _fed(model, x)
    plain = model.probabilities(fed)
    _same(model, model.probabilities(np.asfortranarray(fed)), plain, "the batch in Fortran order")
    _same(model, model.probabilities(fed[::-1])[::-1], plain, "a batch with negative strides")
    padded = np.stack([fed, fed], axis=-1)[..., 0]
    _same(model, model.probabilities(padded), plain, "a batch that is a view with gaps")
    frozen = fed.copy()
    frozen.setflags(write=False)
    _same(model, model.probabilities(frozen), plain, "a read-only batch")


def check_input_untouched(model: Classifier, x: NDArray[Any]) -> None:
    """The caller's batch is as it was, and later changes to it do not reach answers already given."""
    fed = _fed(model, x)
    before = fed.copy()
    p = model.probabilities(fed)
    assert np.array_equal(fed, before), "expected the batch to be left alone, but the model changed it"
    kept = p.copy()
    fed[...] = fed[::-1].copy()
    model.probabilities(fed)
    assert np.array_equal(p, kept), "expected an answer of its own, but a later call changed an earlier answer"


def check_empty_batch(model: Classifier, x: NDArray[Any]) -> None:
    """No inputs give no rows, or a sentence; never a crash of the framework."""
    try:
        p = model.probabilities(_fed(model, x)[:0])
    except FimauditError:
        return
    except Exception as exc:
        raise AssertionError(f"expected (0, K) or a FimauditError for an empty batch, got {type(exc).__name__}") from exc
    assert p.shape[0] == 0, f"expected no rows for an empty batch, got {p.shape[0]}"


def check_close(model: Classifier, x: NDArray[Any]) -> None:
    """``close`` may be called twice."""
    model.close()
    model.close()


def check_displaced(model: Any, x: NDArray[Any]) -> None:
    """``displaced`` answers the rows of ``displaced.displaced_rows``, bounds and held features included."""
    info, base = model.info, _fed(model, x)[0]
    wide = base.astype(np.float64)
    spread = max(float(wide.std()), 1e-3)
    step = np.full(base.shape, 0.01 * spread)
    held = step.copy()
    held.ravel()[:: max(2, base.size // 3)] = 0.0
    edge = np.where(np.arange(base.size).reshape(base.shape) % 2 == 0, wide, wide - spread)
    cases = {
        "no bounds": (step, np.full(base.shape, -np.inf), np.full(base.shape, np.inf)),
        "every second feature at its lower bound": (step, edge, wide + 2 * spread),
        "held features": (held, wide - spread, wide + spread),
    }
    for case, (size, lower, upper) in cases.items():
        for count in (1, 7):
            packed = packed_signs(generator(11, count), count, base.size)
            rows = displaced_rows(base, packed, size, lower, upper, info.dtype)
            expected = model.probabilities(rows)
            got = model.displaced(base, packed, size, lower, upper)
            assert got.dtype == np.float64, f"expected float64 from displaced, got {got.dtype}"
            _same(model, got, expected, f"displaced, {case}, {count} rows")


def check_adjoint(model: Any, x: NDArray[Any]) -> None:
    """Dot test: w . (J_s v) = (J_s^T w) . v."""
    batch, tangents, cotangents = _derivative_case(model, x)
    forward, backward = model.jvp(batch, tangents), model.vjp(batch, cotangents)
    left = (forward.double() * cotangents).sum(-1)
    right = (backward.double() * tangents).flatten(2).sum(-1)
    sizes = forward.double().norm(dim=-1) * cotangents.norm(dim=-1)
    floor = backward.double().flatten(2).norm(dim=-1) * tangents.flatten(2).norm(dim=-1)
    worst = float(((left - right).abs() / (sizes + floor).clamp_min(1e-300)).max())
    assert worst <= _derivative_tolerance(model), f"jvp and vjp are not adjoint: relative difference {worst:.3g}"


def check_linear(model: Any, x: NDArray[Any]) -> None:
    """vjp and jvp are linear in the cotangents and tangents."""
    batch, tangents, cotangents = _derivative_case(model, x)
    for name, product, at in (("jvp", model.jvp, tangents), ("vjp", model.vjp, cotangents)):
        parts = product(batch, at).double()
        mixed = product(batch, 2.0 * at[:, :1] - 0.5 * at[:, 1:2]).double()
        expected = 2.0 * parts[:, :1] - 0.5 * parts[:, 1:2]
        worst = float((mixed - expected).abs().max() / expected.abs().max().clamp_min(1e-300))
        assert worst <= _derivative_tolerance(model), f"{name} is not linear: relative difference {worst:.3g}"


def check_finite_differences(model: Any, x: NDArray[Any]) -> None:
    """jvp is the derivative of s = sqrt(p), by central differences over a ladder of steps (hidden by half precision)."""
    if _tolerance(model) > 1e-3:
        return
    batch, tangents, _ = _derivative_case(model, x)
    got = model.jvp(batch, tangents[:, :1])[:, 0].double().cpu().numpy()
    base = np.asarray(batch.double().cpu().numpy())
    along = np.asarray(tangents[:, 0].cpu().numpy())
    errors = []
    for size in 10.0 ** -np.arange(0.0, 6.0, 0.5):
        up, down = ((base + sign * size * along).astype(model.info.dtype) for sign in (1, -1))
        sent = (up.astype(np.float64) - down).reshape(len(base), -1)
        reach = (sent * along.reshape(len(base), -1)).sum(1) / (along.reshape(len(base), -1) ** 2).sum(1)
        change = np.sqrt(model.probabilities(up)) - np.sqrt(model.probabilities(down))
        secant = change / np.where(reach == 0, np.inf, reach)[:, None]
        errors.append(np.linalg.norm(secant - got, axis=1) / np.maximum(np.linalg.norm(got, axis=1), 1e-300))
    best = np.min(errors, axis=0)
    assert np.median(best) <= 0.02, f"jvp misses central differences of sqrt(p) by {np.median(best):.3g} at the best step"


CHECKS: tuple[Check, ...] = (
    check_protocol,
    check_info,
    check_distributions,
    check_row_order,
    check_single_rows,
    check_repeated_rows,
    check_deterministic,
    check_input_untouched,
    check_memory_layout,
    check_empty_batch,
    check_close,
)
DEVICE_CHECKS: tuple[Check, ...] = (check_displaced,)
DIFFERENTIABLE_CHECKS: tuple[Check, ...] = (check_adjoint, check_linear, check_finite_differences)


def _fed(model: Classifier, x: NDArray[Any]) -> NDArray[Any]:
    return np.array(x, dtype=model.info.dtype, order="C")


def _ask(model: Classifier, x: NDArray[Any]) -> NDArray[np.float64]:
    return model.probabilities(_fed(model, x))


def _tolerance(model: Classifier) -> float:
    """How far two answers to the same input may lie apart: the sums inside a model depend on the batch."""
    declared = str(model.info.details.get("model_dtype", model.info.dtype))
    return {"float64": 1e-9, "float16": 5e-3, "bfloat16": 4e-2}.get(declared, 1e-5)


def _derivative_tolerance(model: Classifier) -> float:
    return 1e-9 if model.info.dtype == "float64" else 1e-3


def _same(model: Classifier, got: NDArray[Any], expected: NDArray[Any], what: str) -> None:
    assert got.shape == expected.shape, f"{what}: expected shape {expected.shape}, got {got.shape}"
    worst = float(np.abs(got - expected).max(initial=0.0))
    allowed = _tolerance(model)
    assert worst <= allowed, f"{what}: answers differ by {worst:.3g}, more than {allowed:.1g}"


def _derivative_case(model: Any, x: NDArray[Any]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Inputs, two tangents and two cotangents each, as tensors on the model's device; the last two in float64."""
    import torch

    classes = _ask(model, x[:1]).shape[1]
    rng, fed = np.random.default_rng(5), _fed(model, x[:3])
    spread = max(float(fed.astype(np.float64).std()), 1e-3)
    where = model.info.device
    tangents = torch.tensor(rng.standard_normal((len(fed), 2, *fed.shape[1:])) * spread, device=where)
    cotangents = torch.tensor(rng.standard_normal((len(fed), 2, classes)), device=where)
    return torch.tensor(fed, device=where), tangents, cotangents
