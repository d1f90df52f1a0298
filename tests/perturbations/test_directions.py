"""Directions and displaced rows: exact averages over all sign vectors, orthonormality, and rows that keep to the domain."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fimaudit.estimation.secants import contrasts
from fimaudit.perturbations.orthonormal_rows import OrthonormalRows, _cosines, orthonormal_signs
from fimaudit.perturbations.random_signs import generator, packed_signs
from fimaudit.perturbations.rows import CoordinateRows, JoinedRows, PlainRows, builds_anew
from fimaudit.perturbations.sign_rows import BLOCK_ELEMENTS, DisplacedRows, RungRows, displaced_bounds, displaced_rows
from fimaudit.space import Box

DTYPES = st.sampled_from(["float16", "float32", "float64"])
OPEN = (-np.inf, np.inf)


def unpacked(packed: np.ndarray, features: int) -> np.ndarray:
    return np.unpackbits(packed, axis=1, count=features).astype(np.float64) * 2 - 1


def everywhere(*shape: int) -> Box:
    return box(shape, *OPEN)


def box(shape: tuple[int, ...], low: float, high: float) -> Box:
    return Box(np.full(shape, low), np.full(shape, high))


def every_sign_vector(features: int) -> np.ndarray:
    bits = np.array(list(itertools.product([0, 1], repeat=features)), dtype=np.uint8)
    return np.packbits(bits, axis=1)


@pytest.mark.parametrize("features", [1, 2, 5, 8, 9, 10])
@pytest.mark.parametrize("gradients", ["dense", "sparse"])
def test_gram_and_trace_over_all_sign_vectors_are_the_truth(features: int, gradients: str) -> None:
    """sqrt(p) linear in x: s = s0 + J x; over all 2^n directions the mean Gram of the secants is J J^T, to rounding."""
    rng = np.random.default_rng(features)
    J = rng.standard_normal((4, features)) if gradients == "dense" else np.eye(4, features)
    x, h = rng.standard_normal(features), 1e-2
    rows = DisplacedRows(x, every_sign_vector(features), np.full(features, h), everywhere(features), "float64")
    secants = (rows.build(0, len(rows)) - x) @ J.T * (2 / h)
    gram = secants.T @ secants / len(secants)
    np.testing.assert_allclose(gram, 4 * J @ J.T, rtol=1e-9, atol=1e-9)
    assert (secants**2).sum() / len(secants) == pytest.approx(4 * (J**2).sum(), rel=1e-9)
    assert np.linalg.eigvalsh(gram)[-1] == pytest.approx(np.linalg.eigvalsh(4 * J.T @ J)[-1], rel=1e-9)


@pytest.mark.parametrize("features", [1, 2, 3])
def test_contrasts_over_all_pairs_of_sign_vectors_keep_the_scale(features: int) -> None:
    """Two directions, one contrast: over all pairs its mean Gram is the truth too, so removing the mean costs no scale."""
    J = np.random.default_rng(1).standard_normal((3, features))
    V = unpacked(every_sign_vector(features), features)
    pairs = [contrasts(np.stack([a, b]) @ J.T)[0] for a in V for b in V]
    np.testing.assert_allclose(np.mean([np.outer(c, c) for c in pairs], axis=0), J @ J.T, rtol=1e-12, atol=1e-12)


def test_signs_depend_on_seed_and_index_alone() -> None:
    forward = [packed_signs(generator(3, i), 5, 21) for i in range(4)]
    backward = [packed_signs(generator(3, i), 5, 21) for i in (3, 2, 1, 0)][::-1]
    for a, b in zip(forward, backward, strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(forward[0], forward[1])
    assert not np.array_equal(forward[0], packed_signs(generator(4, 0), 5, 21))
    assert not np.array_equal(forward[0], packed_signs(generator(3, 0, stream=1), 5, 21))
    assert forward[0].dtype == np.uint8
    assert forward[0].shape == (5, 3)


def test_seeds_of_any_size_are_taken() -> None:
    for seed in (-1, 2**70, 0):
        assert packed_signs(generator(seed, 0), 1, 8).shape == (1, 1)
    np.testing.assert_array_equal(packed_signs(generator(-1, 0), 2, 64), packed_signs(generator(2**64 - 1, 0), 2, 64))


def test_signs_are_fair_and_uncorrelated() -> None:
    V = unpacked(packed_signs(generator(0, 0), 4000, 12), 12)
    assert abs(V.mean(axis=0)).max() < 4 / np.sqrt(4000)
    assert abs(V.T @ V / 4000 - np.eye(12)).max() < 4 / np.sqrt(4000)


@st.composite
def blocks(draw: st.DrawFn) -> DisplacedRows:
    shape = draw(hnp.array_shapes(min_dims=1, max_dims=3, max_side=6))
    dtype = draw(DTYPES)
    count = draw(st.sampled_from([1, 3, 53]))
    edges = st.sampled_from([OPEN, (0.0, 1.0), (0.0, np.inf), (-np.inf, 0.75), (0.25, 0.3)])
    low, high = draw(edges)
    x = draw(hnp.arrays(np.float64, shape, elements=st.floats(max(low, -3), min(high, 3))))
    step = draw(st.sampled_from([1e-3, 0.05, 0.4, 2.0])) * np.ones(shape)
    step[draw(hnp.arrays(bool, shape))] = 0.0
    packed = packed_signs(generator(draw(st.integers(0, 99)), 0), count, x.size)
    return DisplacedRows(x, packed, step, box(shape, low, high), dtype)


@given(blocks(), st.data())
@settings(max_examples=100)
def test_displaced_rows_keep_to_the_box_and_are_what_was_sent(rows: DisplacedRows, data: st.DataObject) -> None:
    built = rows.build(0, len(rows))
    assert built.dtype == rows.dtype
    assert built.shape == (len(rows), *rows.x.shape)
    # the bounds themselves as the model's dtype holds them
    assert (built >= rows.box.lower.astype(rows.dtype)).all()
    assert (built <= rows.box.upper.astype(rows.dtype)).all()
    held = rows.step == 0
    assert (built[:, held] == rows.x.astype(rows.dtype)[held]).all()
    # half-widths equal what was sent: every value is middle - sent or middle + sent by its bit
    low, high = displaced_bounds(rows.x, rows.step, rows.box, rows.dtype)
    signs = unpacked(rows.packed, rows.x.size).reshape(built.shape)
    np.testing.assert_array_equal(built, np.where(signs > 0, high, low))
    np.testing.assert_array_equal(rows.sent(), (high.astype(np.float64) - low.astype(np.float64)) / 2)
    assert (rows.sent()[held] == 0).all()
    # the reference for device classifiers, and pieces, are the same bytes
    reference = displaced_rows(rows.x, rows.packed, rows.step, rows.box.lower, rows.box.upper, rows.dtype)
    assert reference.tobytes() == np.ascontiguousarray(built).tobytes()
    cut = data.draw(st.integers(0, len(rows)))
    np.testing.assert_array_equal(np.concatenate([rows.build(0, cut), rows.build(cut, len(rows))]), built)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_wide_rows_are_chosen_by_their_bits_across_blocks(dtype: str) -> None:
    features = BLOCK_ELEMENTS // 3 + 13
    packed = packed_signs(generator(0, 0), 7, features)
    x, step = np.linspace(-1, 1, features), np.full(features, 0.125)
    rows = DisplacedRows(x, packed, step, everywhere(features), dtype)
    np.testing.assert_array_equal(
        rows.build(0, 7), np.where(unpacked(packed, features) > 0, x + step, x - step).astype(dtype)
    )


@pytest.mark.parametrize("count", [0, 2, 40])
def test_a_weighted_sum_of_wide_rows_needs_none_of_them(count: int) -> None:
    features = BLOCK_ELEMENTS // 3 + 13
    packed, weights = packed_signs(generator(0, 0), 40, features), np.linspace(-1, 1, count)
    rows = DisplacedRows(np.linspace(-1, 1, features), packed, np.full(features, 0.125), everywhere(features), "float64")
    np.testing.assert_allclose(rows.combined(weights), weights @ rows.build(0, count), atol=1e-5)


def test_at_the_edge_the_base_moves_inward_and_the_width_is_kept() -> None:
    low, high = displaced_bounds(np.array([0.0, 0.5, 1.0]), np.full(3, 0.1), box((3,), 0.0, 1.0), "float64")
    np.testing.assert_allclose(low, [0.0, 0.4, 0.8])
    np.testing.assert_allclose(high, [0.2, 0.6, 1.0])


def orthonormal(x: np.ndarray, count: int, step: np.ndarray, bounds: tuple[float, float], dtype: str) -> OrthonormalRows:
    drawn = orthonormal_signs(generator(5, 1), count, int((step != 0).sum()))
    return OrthonormalRows(x, *drawn, step, box(x.shape, *bounds), dtype)


@pytest.mark.parametrize("features", [16, 17, 40])
def test_orthonormal_rows_are_orthogonal_of_length_root_d(features: int) -> None:
    rows = orthonormal(np.zeros(features), features, np.ones(features), OPEN, "float64")
    V = rows.build(0, features)
    np.testing.assert_allclose(V @ V.T, features * np.eye(features), atol=1e-5 * features)
    some = contrasts(V[: features // 2])
    np.testing.assert_allclose(some @ some.T, features * np.eye(features // 2 - 1), atol=1e-5 * features)
    # all d of them: trace and Gram are exact, whatever the signs
    J = np.random.default_rng(0).standard_normal((3, features))
    np.testing.assert_allclose((V @ J.T).T @ (V @ J.T) / features, J @ J.T, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("bounds", [OPEN, (0.0, 1.0)])
@pytest.mark.parametrize("held", [0, 5])
def test_blocks_of_orthonormal_rows_are_the_rows_that_the_table_gives(bounds: tuple[float, float], held: int) -> None:
    features, count = 2000, 80  # more than one block, and the last one shorter
    x, step = np.random.default_rng(0).random(features), np.where(np.arange(features) < held, 0.0, 0.3)
    rows = orthonormal(x, count, step, bounds, "float32")
    v = _cosines(features - held, 0)[rows.chosen] * rows.per_row[:, None] * rows.per_feature
    built = rows.build(0, count)
    low, high = displaced_bounds(x, step * np.sqrt(2.0), box(x.shape, *bounds), "float64")
    moved = ((low + high) / 2)[held:] + ((high - low) / np.sqrt(8.0))[held:] * v
    np.testing.assert_allclose(built[:, held:], np.clip(moved, *bounds), atol=1e-6)
    np.testing.assert_array_equal(built[:, :held], np.tile(x[:held].astype(np.float32), (count, 1)))
    for start, stop in ((0, 0), (31, 80), (79, 80)):
        np.testing.assert_array_equal(rows.build(start, stop), built[start:stop])


@pytest.mark.parametrize(("features", "count"), [(40, 40), (41, 17)])
def test_a_weighted_sum_of_orthonormal_rows_needs_none_of_them(features: int, count: int) -> None:
    step = np.linspace(0.5, 1.5, features) * (np.arange(features) != 3)
    rows = orthonormal(np.linspace(-1, 1, features), min(count, features - 1), step, OPEN, "float64")
    weights = np.linspace(-1, 1, len(rows)) ** 3  # odd, so that they add up to 0
    np.testing.assert_allclose(rows.combined(weights), weights @ rows.build(0, len(rows)), atol=1e-5)


@pytest.mark.parametrize("bounds", [(0.0, 255.0), (-np.inf, np.inf)])
def test_whole_numbers_without_levels_have_orthonormal_rows(bounds: tuple[float, float]) -> None:
    x = np.random.default_rng(0).integers(20, 200, 400).astype(np.uint8)
    whole, wide = (orthonormal(x, 30, np.full(400, 3.0), bounds, dtype).build(0, 30) for dtype in ("uint8", "float32"))
    assert whole.dtype == np.uint8
    assert np.abs(whole - wide).max() <= 1.0


def test_orthonormal_rows_carry_a_sign_a_feature_and_a_sign_a_direction() -> None:
    V = np.array([orthonormal_rows(seed, 6, 16) for seed in range(400)])
    assert abs(V.mean(axis=0)).max() < 5 / np.sqrt(400) * np.sqrt(2)  # every entry is as often + as -
    products = (V[:, 0] * V[:, 1]).mean(axis=0)  # two directions share no common sign
    assert abs(products).max() < 5 / np.sqrt(400) * 2
    neighbours = (V[:, :, 0] * V[:, :, 1]).mean(axis=0)
    assert abs(neighbours).max() < 5 / np.sqrt(400) * 2


def orthonormal_rows(seed: int, count: int, features: int) -> np.ndarray:
    drawn = orthonormal_signs(generator(seed, 0), count, features)
    rows = OrthonormalRows(np.zeros(features), *drawn, np.ones(features), everywhere(features), "float64")
    return np.asarray(rows.build(0, count))


def test_neighbouring_features_do_not_predict_the_next_orthonormal_row() -> None:
    """Rows of near frequencies are alike on neighbouring features; a random place for each feature breaks that."""
    likeness = []
    for seed in range(40):
        head = orthonormal_rows(seed, 60, 300)[:, :39]
        head = head / np.linalg.norm(head, axis=1, keepdims=True)
        gram = abs(head @ head.T) - np.eye(60)
        likeness.append(gram.max())
    assert np.mean(likeness) < 0.7  # 0.97 without


@given(st.data())
@settings(max_examples=60)
def test_orthonormal_rows_keep_to_the_box(data: st.DataObject) -> None:
    shape = data.draw(st.sampled_from([(20,), (4, 6), (2, 3, 4)]))
    dtype = data.draw(DTYPES)
    low, high = data.draw(st.sampled_from([OPEN, (0.0, 1.0), (-2.0, np.inf)]))
    x = data.draw(hnp.arrays(np.float64, shape, elements=st.floats(max(low, -3), min(high, 3))))
    step = data.draw(st.sampled_from([1e-3, 0.1, 2.0])) * np.ones(shape)
    step.ravel()[0] = 0.0
    rows = orthonormal(x, 9, step, (low, high), dtype)
    built = rows.build(0, 9)
    assert built.dtype == dtype
    assert built.shape == (9, *shape)
    assert (built >= low).all()
    assert (built <= high).all()
    assert (built.reshape(9, -1)[:, 0] == x.astype(dtype).ravel()[0]).all()
    np.testing.assert_array_equal(np.concatenate([rows.build(0, 4), rows.build(4, 9)]), built)
    if np.isinf(low) and np.isinf(high):
        np.testing.assert_allclose(rows.sent(), step, rtol=1e-9, atol=1e-12)


def test_joined_rows_are_nobody_elses() -> None:
    """A model may write into them."""
    held = np.zeros((2, 3))
    joined = JoinedRows([PlainRows(held), PlainRows(np.ones((1, 3)))])
    assert builds_anew(joined)
    for start, stop in ((0, 2), (1, 2), (0, 3), (2, 3)):
        joined.build(start, stop)[...] = 9.0
    assert (held == 0).all()


def test_coordinate_plain_and_joined_rows() -> None:
    x = np.arange(6.0).reshape(2, 3)
    moved = CoordinateRows(x, np.array([0, 5, 2]), np.array([10.0, 11.0, 12.0]), "float32")
    built = moved.build(0, 3)
    assert built.dtype == np.float32
    assert built.shape == (3, 2, 3)
    difference = built - x.astype(np.float32)
    assert [int(np.flatnonzero(row)[0]) for row in difference.reshape(3, -1)] == [0, 5, 2]
    plain = PlainRows(x[None].astype(np.float32))
    joined = JoinedRows([plain, moved, plain])
    assert len(joined) == 5
    assert joined.row_bytes == 24
    everything = joined.build(0, 5)
    for start, stop in itertools.combinations(range(6), 2):
        np.testing.assert_array_equal(joined.build(start, stop), everything[start:stop])


@pytest.mark.parametrize(
    ("dtype", "features", "own"), [("float32", 24, True), ("float64", 24, True), ("float32", 21, False)]
)
def test_one_step_for_all_features_is_added_to_the_same_bits(dtype: str, features: int, own: bool) -> None:
    """The short way gives the rows of the reference; bounds, other types and odd numbers of features take the long one."""
    rng = np.random.default_rng(0)
    x = (10 * rng.standard_normal((features // 3, 3))).astype(dtype)
    packed, wide = packed_signs(generator(0, 0), 50, features), np.full(x.shape, np.inf)
    step = np.full(x.shape, float(np.float32(0.0217)))
    rows = DisplacedRows(x, packed, step, Box(-wide, wide), dtype)
    assert (rows._one_step is not None) is own
    np.testing.assert_array_equal(rows.build(3, 50), displaced_rows(x, packed[3:], step, -wide, wide, dtype))
    assert rows.build(0, 50).dtype == dtype
    for other in (
        DisplacedRows(x, packed, step, Box(np.full(x.shape, x.min()), wide), dtype),
        DisplacedRows(x, packed, step * (1 + rng.random(x.shape)), Box(-wide, wide), dtype),
        DisplacedRows(x.astype(np.float64) + 1e-9, packed, step, Box(-wide, wide), "float32"),
    ):
        assert other._one_step is None


@pytest.mark.parametrize(
    ("dtype", "features", "unit", "edge"),
    [
        ("float32", 24, 1.0, np.inf),
        ("float32", 24, 1 / 255, np.inf),
        ("float64", 24, 0.3, np.inf),
        ("float32", 21, 1.0, np.inf),
        ("float32", 24, 1.0, 12.0),
        ("float32", 24, None, np.inf),
    ],
)
def test_rungs_are_the_rows_of_each_displacement(dtype: str, features: int, unit: float | None, edge: float) -> None:
    """The same signs at several sizes are what each size gives alone, wherever a piece begins and ends."""
    rng = np.random.default_rng(1)
    x = np.clip(10 * rng.standard_normal((features // 3, 3)), -edge, edge).astype(dtype)
    packed, wide = packed_signs(generator(0, 0), 5, features), np.full(x.shape, edge)
    steps = rng.random(x.shape) if unit is None else np.full(x.shape, unit)
    sizes = np.array([0.001, 0.0217, 0.3])
    rungs = RungRows(x, packed, steps, sizes, Box(-wide, wide), dtype)
    each = []
    for size, sent in zip(sizes, np.concatenate(list(rungs.sent()), axis=1), strict=True):
        step = steps * size
        own = step.astype(np.float32).astype(float) if dtype == "float32" else step
        one = DisplacedRows(x, packed, own, Box(-wide, wide), dtype)
        each.append(one.build(0, 5))
        np.testing.assert_array_equal(sent, one.sent().ravel())
    for start, stop in [(0, 15), (3, 11), (5, 10), (14, 15)]:
        np.testing.assert_array_equal(rungs.build(start, stop), np.concatenate(each)[start:stop])
