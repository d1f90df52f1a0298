"""What an input may be, as it is said: bounds, quantum, frozen features, and the scale in which the metric is stated."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fimaudit.errors import DomainError
from fimaudit.space import Space, column_pieces

__all__ = ["InputDomain", "spreads_differ"]

Array = NDArray[np.float64]

#: Feature spreads that differ more than this make a raw norm meaningless: one year = one dollar.
SPREAD_RATIO = 10.0

#: Sizes of inputs, in units of the scale, whose fourth powers and their inverses float64 holds with room to spare.
LARGEST = 1e60


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
            raise DomainError(
                "expected at least one feature that may change, got all of them frozen: by --frozen, as categories of the "
                "model, or as whole numbers of a table; release those that may change with --free"
            )
        if self.scale is None and self.names is not None:
            ratio = spreads_differ(x, frozen)
            if ratio is not None:
                raise DomainError(
                    f"the columns' spreads differ by a factor of {ratio:.3g}, so one unit of each cannot count the same; "
                    "choose --scale std or range (or a file), or --scale raw if the units of the table are meant"
                )
        scale, unit = self._scaling(x, lower, upper)
        _require_sizes(x, scale, (lower, upper, quantum), frozen)
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


def _require_sizes(x: NDArray[Any], scale: Array, domain: Sequence[Array], frozen: NDArray[np.bool_]) -> None:
    """Refuse free features of sizes whose powers float64 does not hold; 0, gaps and open bounds have no size.

    >>> none = np.full(3, np.inf)
    >>> _require_sizes(np.array([[0.0, np.nan, -1e-9]]), np.ones(3), (-none, none, np.zeros(3)), np.zeros(3, bool))
    """
    ends = [np.asarray(f.reduce(x, axis=0), np.float64) for f in (np.fmin, np.fmax)]  # which leave gaps out
    lower, upper, quantum = domain
    for sizes, what in ((ends, "inputs"), ([lower, upper], "bounds"), ([quantum], "levels")):
        in_units = np.abs(np.stack([size / scale for size in sizes]))[..., ~frozen]
        largest = float(in_units.max(initial=0.0, where=np.isfinite(in_units)))
        if largest > LARGEST or 0 < largest < 1 / LARGEST:
            raise DomainError(
                f"expected numbers between {1 / LARGEST:g} and {LARGEST:g} in units of the scale, got {what} of up to "
                f"{largest:.3g}; check the data, leave out bounds that bound nothing, or choose another unit with --scale"
            )


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
    flat, free = x.reshape(len(x), -1), ~frozen.ravel()
    each = [np.ma.filled(_present(flat[:, some]).std(axis=0), 0.0) for some in column_pieces(*flat.shape)]
    std = np.concatenate(each)[free]
    std = std[std > 0]
    if std.size < 2:
        return None
    ratio = float(std.max() / std.min())
    return ratio if ratio > SPREAD_RATIO else None
