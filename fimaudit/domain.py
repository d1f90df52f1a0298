"""What an input may be: bounds, quantum, frozen features, and the scale in which the metric is stated."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fimaudit.errors import DataError, DomainError

__all__ = ["Box", "InputDomain", "Space", "in_model_numbers", "sparsest_step"]

Array = NDArray[np.float64]

#: A feature moves in at least this share of the rows, so that 200 rows meet it eight times.
SPARSEST = 0.04
#: And this many features move in a row, where there are so many.
MOVING = 8
#: Values outside the bounds by less than this share of the range are float error and are clipped.
EDGE = 1e-6
#: Feature spreads that differ more than this make a raw norm meaningless: one year = one dollar.
SPREAD_RATIO = 10.0


@dataclass(frozen=True, eq=False)
class Box:
    """Bounds of each feature, shape \\*shape, infinite where there are none."""

    lower: NDArray[np.float64]
    upper: NDArray[np.float64]

    @cached_property
    def boundless(self) -> bool:
        """Whether no feature has a bound."""
        return bool(np.max(self.lower) == -np.inf and np.min(self.upper) == np.inf)


def in_model_numbers(step: NDArray[Any], dtype: str) -> NDArray[np.float64]:
    """Steps that a model of float32 can hold, whatever they are added to: the sum then rounds once; others as they are."""
    wide = np.asarray(step, np.float64)
    return wide.astype(np.float32).astype(np.float64) if np.dtype(dtype) == np.float32 else wide


def sparsest_step(quantum: NDArray[np.float64]) -> float:
    """The shortest root mean square step of a feature that levels allow.

    Args:
        quantum: (d,) distance of neighbouring values, in units of the scale; 0 for continuous features.
    """
    coarse = float(quantum.max(initial=0.0))
    share = min(1.0, max(SPARSEST, MOVING / quantum.size))
    return coarse * float(np.sqrt(share))


@dataclass(frozen=True)
class InputDomain:
    """The set of inputs that the model may be asked, and the unit of the metric.

    Attributes:
        lower, upper: bounds, a scalar, one a feature, or an array of the input's shape; ``None`` for none.
        quantum: distance of neighbouring values (1/255, 1), scalar or one a feature; ``None`` for continuous inputs.
        frozen: features that are held: a boolean mask of the input's shape, positions, or names.
        scale: ``"raw"``, ``"std"``, ``"range"``, or an array; displacements and the metric are in multiples of it. ``None``
            is raw, except for tables whose columns differ more than tenfold in spread, where one must be chosen.
        unit: name of the input unit, for people.
        names: feature names, where there are any.
    """

    lower: ArrayLike | None = None
    upper: ArrayLike | None = None
    quantum: ArrayLike | None = None
    frozen: Sequence[Any] | NDArray[Any] | None = None
    scale: str | ArrayLike | None = None
    unit: str | None = None
    names: Sequence[str] | None = None

    def for_table(
        self, names: Sequence[str], whole: Sequence[str], free: Sequence[str], fixed: Sequence[str] = ()
    ) -> InputDomain:
        """The same domain over named columns; integer columns are held unless freed, and then move by whole numbers.

        Args:
            names: of all columns.
            whole: columns of integers and truth values, among them categories.
            free: columns to release, or ``all``.
            fixed: columns between whose values there is nothing (text, dates): held always.

        Raises:
            DomainError: a released column does not exist, or cannot be released.
        """
        stuck = [name for name in free if name in fixed]
        if stuck:
            raise DomainError(
                f"the column {stuck[0]!r} holds no numbers, so it cannot change by a little; drop it from --free"
            )
        unknown = [name for name in free if name not in names and name != "all"]
        if unknown:
            raise DomainError(f"no column is called {unknown[0]!r}; expected one of {', '.join(names[:20])}, or all")
        released = set(names) if "all" in free else set(free)
        held = [name for name in whole if name not in released]
        if len(held) + len(fixed) == len(names) and held:
            raise DomainError(
                "every column holds integers (or no numbers), which are held because they may be categories; release those "
                "that may change "
                "with --free NAME,NAME or --free all"
            )
        frozen: list[Any] = [] if self.frozen is None else list(self._names(np.asarray(self.frozen), names))
        quantum = self.quantum
        if quantum is None and any(name in released for name in whole):
            quantum = [1.0 if name in whole else 0.0 for name in names]
        return replace(self, names=tuple(names), frozen=[*frozen, *held, *fixed], quantum=quantum)

    def also_frozen(self, positions: Sequence[int]) -> InputDomain:
        """The same domain with some features of a flat input held as well."""
        if not positions:
            return self
        given = np.asarray([] if self.frozen is None else self.frozen)
        before = np.flatnonzero(given).tolist() if given.dtype == bool else given.tolist()
        return replace(self, frozen=[*before, *positions])

    def with_defaults(self, declared: Mapping[str, Any] | None) -> InputDomain:
        """The same domain with what the model declares of its inputs where nothing was said."""
        kept = {k: v for k, v in (declared or {}).items() if k in ("lower", "upper", "quantum") and getattr(self, k) is None}
        return replace(self, **kept)

    @staticmethod
    def _names(frozen: NDArray[Any], names: Sequence[str]) -> list[Any]:
        return [names[int(i)] for i in np.flatnonzero(frozen)] if frozen.dtype == bool else frozen.tolist()

    def resolve(self, x: NDArray[Any], dtype: str) -> Space:
        """Fix everything against the data: arrays of one input's shape.

        Args:
            x: (n, \\*shape) inputs.
            dtype: what the model is fed.

        Raises:
            DomainError: bounds, quantum, frozen or scale that contradict each other or the data.
            DataError: inputs outside the bounds.
        """
        shape = x.shape[1:]
        least, most, unit_step = _implied(x, dtype)
        lower = self._per_feature(self.lower, shape, "lower", least)
        upper = self._per_feature(self.upper, shape, "upper", most)
        if np.any(lower >= upper):
            raise DomainError("expected lower < upper for every feature, got a feature where it is not")
        quantum = self._per_feature(self.quantum, shape, "quantum", unit_step)
        if np.any(quantum < 0):
            raise DomainError("expected a quantum of 0 (continuous) or more, got a negative one")
        frozen = self._frozen(shape)
        if frozen.all():
            raise DomainError("expected at least one feature that may change, got all of them frozen")
        if self.scale is None and self.names is not None:
            ratio = spreads_differ(x, frozen)
            if ratio is not None:
                raise DomainError(
                    f"the columns' spreads differ by a factor of {ratio:.3g}, so one unit of each cannot count the same; "
                    "choose --scale std or range (or a file), or --scale raw if the units of the table are meant"
                )
        scale, unit = self._scaling(x, lower, upper)
        return Space(lower, upper, quantum, frozen, scale, unit, dtype)

    def _per_feature(self, value: ArrayLike | None, shape: tuple[int, ...], name: str, missing: float) -> Array:
        if value is None:
            return np.full(shape, missing)
        try:
            array = np.asarray(value, dtype=np.float64)
        except (TypeError, ValueError) as exc:
            raise DomainError(f"expected {name} to be a number or an array of numbers, got {value!r}") from exc
        if np.isnan(array).any():
            raise DomainError(f"expected {name} without NaN")
        if array.ndim == 1 and len(shape) > 1 and array.size == int(np.prod(shape)):
            array = array.reshape(shape)
        try:
            return np.broadcast_to(array, shape).copy()
        except ValueError as exc:
            raise DomainError(f"{name} has shape {array.shape}; expected a number or the input's shape {shape}") from exc

    def _frozen(self, shape: tuple[int, ...]) -> NDArray[np.bool_]:
        if self.frozen is None or len(self.frozen) == 0:
            return np.zeros(shape, dtype=bool)
        given = np.asarray(self.frozen)
        if given.dtype == bool:
            if given.shape != shape:
                raise DomainError(f"expected a frozen mask of the input's shape {shape}, got {given.shape}")
            return given
        mask = np.zeros(int(np.prod(shape)), dtype=bool)
        for item in given.tolist():
            mask[self._position(item, mask.size)] = True
        return mask.reshape(shape)

    def _position(self, item: Any, features: int) -> int:
        if isinstance(item, int) or (isinstance(item, str) and item.isdigit()):
            if not 0 <= int(item) < features:
                raise DomainError(f"expected a frozen feature between 0 and {features - 1}, got {item}")
            return int(item)
        names = list(self.names or [])
        if item not in names:
            known = f"expected one of {', '.join(names[:20])}" if names else "the data has no feature names; give positions"
            raise DomainError(f"no feature is called {item!r}; {known}")
        return names.index(item)

    def _scaling(self, x: NDArray[Any], lower: Array, upper: Array) -> tuple[Array, str]:
        shape = x.shape[1:]
        unit = self.unit or "input unit"
        if isinstance(self.scale, str) and self.scale not in ("raw", "std", "range"):
            raise DomainError(f"expected scale raw, std, range or an array, got {self.scale!r}")
        if self.scale is None or (isinstance(self.scale, str) and self.scale == "raw"):
            return np.ones(shape), unit
        if isinstance(self.scale, str):
            wide = _present(x)
            if self.scale == "std":
                scale, unit = np.ma.filled(wide.std(axis=0), 0.0), "standard deviation of the feature"
            else:
                bounded = np.isfinite(lower) & np.isfinite(upper)
                scale = np.where(bounded, upper - lower, np.ma.filled(wide.max(axis=0) - wide.min(axis=0), 0.0))
                unit = "range of the feature"
            if np.any((scale == 0) & ~self._frozen(shape)):
                count = int(((scale == 0) & ~self._frozen(shape)).sum())
                raise DomainError(
                    f"scale {self.scale} needs features that vary, but {count} of {scale.size} are constant over the "
                    f"{len(x)} inputs; freeze them, give more inputs, or give a scale file"
                )
            return np.where(scale == 0, 1.0, scale), unit
        scale = self._per_feature(self.scale, shape, "scale", 1.0)
        if np.any(scale <= 0) or not np.isfinite(scale).all():
            raise DomainError("expected a positive finite scale for every feature")
        return scale, self.unit or "given scale"


def _implied(x: NDArray[Any], dtype: str) -> tuple[float, float, float]:
    """Bounds and quantum that follow from the type: bytes are 0 to 255, integer inputs move by whole numbers."""
    for kind in (np.dtype(dtype), x.dtype):
        if kind == np.uint8:
            return 0.0, 255.0, 1.0
    if np.dtype(dtype).kind in "iu":
        return -np.inf, np.inf, 1.0
    return -np.inf, np.inf, 0.0


class FreeFeatures(NamedTuple):
    """The features that may change, as they stand in a flat input.

    Attributes:
        place: where; a slice where all of them may.
        scale, quantum, lower, upper: theirs, (d,).
        plain: whether each counts as it is, has no levels and no bound.
    """

    place: NDArray[np.int64] | slice
    scale: Array
    quantum: Array
    lower: Array
    upper: Array
    plain: bool


@dataclass(frozen=True)
class Space:
    """An ``InputDomain`` fixed for one model and data set; arrays have the shape of one input."""

    lower: Array
    upper: Array
    quantum: Array
    frozen: NDArray[np.bool_]
    scale: Array
    unit: str
    dtype: str

    @cached_property
    def features(self) -> int:
        """How many features may change: the dimension d of the measurement."""
        return int((~self.frozen).sum())

    @cached_property
    def free(self) -> FreeFeatures:
        """The features that may change."""
        frozen = self.frozen.ravel()
        place = np.flatnonzero(~frozen) if frozen.any() else slice(None)
        scale, quantum, lower, upper = (of.ravel()[place] for of in (self.scale, self.quantum, self.lower, self.upper))
        plain = self._plain and not self.quantised and not self.bounded
        return FreeFeatures(place, scale, quantum, lower, upper, plain)

    @cached_property
    def box(self) -> Box:
        """The bounds of each feature."""
        return Box(self.lower, self.upper)

    def beside(self, held: int) -> Space:
        """The domain of flat rows with so many numbers behind, which are held."""
        if not held:
            return self

        def longer(values: NDArray[Any], fill: Any) -> NDArray[Any]:
            return np.concatenate([values.ravel(), np.full(held, fill, dtype=values.dtype)])

        bounds = longer(self.lower, -np.inf), longer(self.upper, np.inf)
        rest = longer(self.quantum, 0.0), longer(self.frozen, True), longer(self.scale, 1.0)
        return Space(*bounds, *rest, self.unit, self.dtype)

    def missing(self, x: NDArray[Any]) -> NDArray[np.bool_] | None:
        """The gaps of one input, shape \\*shape; ``None`` where there are none."""
        gaps = np.isnan(x) if x.dtype.kind == "f" else None
        return gaps if gaps is not None and gaps.any() else None

    def holding(self, x: NDArray[Any]) -> Space:
        """The domain of one input: its gaps are held as they are."""
        gaps = self.missing(x)
        return self if gaps is None else replace(self, frozen=self.frozen | gaps)

    @property
    def bounded(self) -> bool:
        """Whether any feature has a bound."""
        return not self.box.boundless

    @cached_property
    def quantised(self) -> bool:
        """Whether a feature that may change takes certain levels only."""
        return bool((self.quantum[~self.frozen] > 0).any())

    @cached_property
    def shortest(self) -> float:
        """The shortest displacement that levels allow (see ``levels``); 0 for continuous inputs."""
        if not self.quantised:
            return 0.0
        return sparsest_step((self.quantum / self.scale)[~self.frozen]) * float(np.sqrt(self.features))

    def step(self, displacement: float) -> Array:
        """Step of each feature whose displacement has l2 length ``displacement`` in units of the scale.

        For a model of float32 it is a float32 number, so that adding it to a feature rounds once.
        """
        return in_model_numbers(self.unit_step * (displacement / math.sqrt(self.features)), self.dtype)

    @cached_property
    def unit_step(self) -> Array:
        """One unit of the scale for each feature that may change."""
        return np.where(self.frozen, 0.0, self.scale)

    @cached_property
    def _plain(self) -> bool:
        """Whether every feature may change and counts as it is."""
        return not self.frozen.any() and bool((self.scale == 1.0).all())

    def inward(self, x: NDArray[Any], displacement: float) -> float:
        """How far, in units of the scale, the base moves away from the edges of the box for such a displacement."""
        if not self.bounded:
            return 0.0
        step = self.step(displacement)
        base = np.clip(x, np.minimum(self.lower + step, self.upper), np.maximum(self.upper - step, self.lower))
        return float(np.linalg.norm(((base - x) / self.scale)[~self.frozen]))

    def farthest(self, x: NDArray[Any]) -> float:
        """The largest displacement of x within the bounds, in units of the scale; infinite where there is no bound."""
        room = np.maximum(x - self.lower, self.upper - x) / self.scale
        return float(np.linalg.norm(room[~self.frozen]))

    def length(self, sent: Array) -> float:
        """Root mean square of the steps really sent, in units of the scale, over the features that may change."""
        return float(self.lengths(sent[None])[0])

    def lengths(self, sent: Array) -> Array:
        r"""``length`` of each of (n, \*shape)."""
        moved = sent.reshape(len(sent), -1) if self._plain else (sent / self.scale)[:, ~self.frozen]
        return np.asarray(np.sqrt((moved[:, None, :] @ moved[:, :, None])[:, 0, 0] / moved.shape[1]))

    def admit(self, x: NDArray[Any]) -> NDArray[Any]:
        """Inputs within the bounds: float error is clipped, anything beyond is refused.

        Raises:
            DataError: a value lies outside the bounds by more than float error.
        """
        if np.dtype(self.dtype).kind in "iu" and x.dtype.kind == "f" and np.isnan(x).any():
            raise DataError(
                f"the model takes {self.dtype}, in which nothing can be missing, but x has gaps (NaN); fill them"
            )
        if np.dtype(self.dtype).kind in "iu" and x.dtype.kind == "f" and not np.array_equal(x, np.round(x)):
            odd = x.ravel()[np.flatnonzero((x != np.round(x)).ravel())[0]]
            raise DataError(f"the model takes {self.dtype}, but x holds {float(odd):.6g}; give whole numbers")
        if not self.bounded:
            return x
        width = self.upper - self.lower
        slack = EDGE * np.where(np.isfinite(width), width, 1.0)
        outside = (x < self.lower - slack) | (x > self.upper + slack)
        if outside.any():
            first = tuple(int(i) for i in np.argwhere(outside)[0])
            raise DataError(
                f"expected inputs within the bounds, got {float(x[first]):.6g} at position {list(first)} "
                f"(bounds {self.lower[first[1:]]:.6g} to {self.upper[first[1:]]:.6g}; {int(outside.sum())} values outside); "
                "check the preprocessing or the bounds"
            )
        if x.dtype.kind != "f":  # an open bound has no integer to stand for it
            return np.asarray(np.clip(x, self.lower, self.upper).astype(x.dtype))
        return np.asarray(np.clip(x, self.lower.astype(x.dtype), self.upper.astype(x.dtype)))


def _present(x: NDArray[Any]) -> Any:
    """The values that are there, in float64: statistics over inputs leave gaps out."""
    wide = x.astype(np.float64)
    gaps = np.isnan(wide)
    if not gaps.any():
        return wide
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a column that is missing everywhere
        return np.ma.masked_array(wide, gaps)


def spreads_differ(x: NDArray[Any], frozen: NDArray[np.bool_]) -> float | None:
    """The ratio of the largest to the smallest spread of features that vary, where it exceeds ``SPREAD_RATIO``."""
    std = np.ma.filled(_present(x).std(axis=0), 0.0)[~frozen]
    std = std[std > 0]
    if std.size < 2:
        return None
    ratio = float(std.max() / std.min())
    return ratio if ratio > SPREAD_RATIO else None
