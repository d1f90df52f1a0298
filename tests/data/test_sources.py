"""Reading inputs: every format, and every refusal in words."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fimaudit.data.arrays import Inputs, check_inputs, read_inputs
from fimaudit.errors import DataError

X = np.random.default_rng(0).standard_normal((6, 2, 3)).astype(np.float32)


def test_npz_holds_x_and_what_is_known_of_each(tmp_path: Path) -> None:
    file = tmp_path / "data.npz"
    np.savez(file, x=X, y=np.arange(6), group=np.array(list("aabbcc")))
    read = check_inputs(read_inputs(file), (2, 3))
    np.testing.assert_array_equal(read.x, X)
    assert read.x.dtype == np.float32
    np.testing.assert_array_equal(read.y, np.arange(6))
    assert list(read.group) == list("aabbcc")
    assert read.source == str(file)
    assert len(read) == 6


def test_npy_is_x_alone(tmp_path: Path) -> None:
    np.save(tmp_path / "data.npy", X)
    read = read_inputs(tmp_path / "data.npy")
    np.testing.assert_array_equal(read.x, X)
    assert read.y is None


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_tables_have_one_feature_a_column(tmp_path: Path, suffix: str) -> None:
    columns = {"age": [30, 40, 50], "y": [0, 1, 1], "dose": [0.5, 1.5, 2.5], "group": ["a", "b", "b"]}
    file = tmp_path / f"data{suffix}"
    if suffix == ".csv":
        lines = [",".join(columns)] + [",".join(str(columns[k][i]) for k in columns) for i in range(3)]
        file.write_text("\n".join(lines) + "\n")
    else:
        pq.write_table(pa.table(columns), file)
    read = check_inputs(read_inputs(file), (2,))
    np.testing.assert_array_equal(read.x, [[30, 0.5], [40, 1.5], [50, 2.5]])
    assert read.names == ("age", "dose")
    np.testing.assert_array_equal(read.y, [0, 1, 1])
    assert list(read.group) == ["a", "b", "b"]


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def npz(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


def object_npy(path: Path) -> Path:
    np.save(path, np.array([{}, 1], dtype=object), allow_pickle=True)
    return path


def folder(path: Path) -> Path:
    path.mkdir()
    return path


def half(path: Path) -> Path:
    np.savez(path, x=X)
    path.write_bytes(path.read_bytes()[:-60])
    return path


UNREADABLE = {
    "missing": (lambda d: d / "none.npz", "no such data file: .*none.npz; give a .npz"),
    "unknown ending": (
        lambda d: write(d / "data.mat", b""),
        "expected data in .npz, .*, .tsv, got data.mat",
    ),
    "no x": (lambda d: npz(d / "d.npz", inputs=X), "holds inputs; expected an array called x"),
    "empty archive": (lambda d: npz(d / "d.npz"), "holds nothing; expected an array called x"),
    "truncated": (lambda d: half(d / "d.npz"), "could not read .*d.npz as .npz"),
    "not an archive": (lambda d: write(d / "d.npz", b"not an archive"), "d.npz is not a .npz file; write it"),
    "an empty file": (lambda d: write(d / "d.npy", b""), "d.npy is empty; write it with numpy.save"),
    "an array under another name": (lambda d: write(d / "d.npz", _npy_bytes()), "is not a .npz archive"),
    "an archive under another name": (lambda d: write(d / "d.npy", _npz_bytes(d)), "npz"),
    "pickled objects": (lambda d: object_npy(d / "d.npy"), "could not read .*d.npy as .npy"),
    "words in a table": (
        lambda d: write(d / "d.csv", b"age,sex\n3,1\n4,f\n?,2\n"),
        r"column 'age' of d.csv holds numbers and text \('\?'\)",
    ),
    "an empty table": (lambda d: write(d / "d.csv", b""), "d.csv is empty; expected a line with the columns' names"),
    "empty lines": (lambda d: write(d / "d.csv", b" \r\n\n"), "d.csv is empty"),
    "an empty packed table": (lambda d: write(d / "d.csv.gz", gzip.compress(b"")), "d.csv.gz is empty"),
    "no features": (lambda d: write(d / "d.csv", b"y,group\n1,a\n"), "no feature columns"),
    "broken table": (lambda d: write(d / "d.parquet", b"PAR1"), "could not read .*d.parquet"),
    "a folder": (lambda d: d, "expected data in"),
    "a folder that is called an array": (lambda d: folder(d / "d.npz"), r"\.tsv, got the folder d\.npz"),
}


def _npy_bytes() -> bytes:
    import io

    out = io.BytesIO()
    np.save(out, X)
    return out.getvalue()


def _npz_bytes(folder: Path) -> bytes:
    return npz(folder / "other.npz", x=X).read_bytes()


@pytest.mark.parametrize("name", UNREADABLE)
def test_unreadable_data_are_refused_in_words(name: str, tmp_path: Path) -> None:
    make, words = UNREADABLE[name]
    with pytest.raises(DataError, match=words):
        read_inputs(make(tmp_path))


NAN = X.copy()
NAN[2, 0, 1], NAN[4, 1, 1] = np.nan, np.inf

UNFIT: dict[str, tuple[Inputs, Any, str]] = {
    "empty": (Inputs(X[:0]), None, r"at least one input, got x of shape \(0, 2, 3\)"),
    "no features": (Inputs(np.zeros((3, 0))), None, "at least one input"),
    "no axis of inputs": (Inputs(X[0, 0]), None, "add the axis of inputs first"),
    "complex": (Inputs(X.astype(complex)), None, "real numbers, got dtype complex128"),
    "text": (Inputs(np.array([["a"]])), None, "real numbers"),
    "wrong shape": (Inputs(X), (3, 2), r"takes inputs of shape \(3, 2\), but x holds inputs of shape \(2, 3\)"),
    "wrong rank": (Inputs(X), (6,), r"takes inputs of shape \(6\)"),
    "free axis of another rank": (Inputs(X), (None, 3, 1), r"shape \(any, 3, 1\)"),
    "not finite": (Inputs(NAN), None, r"NaN or infinite values in 2 of 6 inputs \(first: input 2\)"),
    "labels of another length": (Inputs(X, np.zeros(5)), None, r"one label for each of 6 inputs, got y of shape \(5,\)"),
    "fractional labels": (Inputs(X, np.full(6, 0.5)), None, "the labels hold 0.5, which matches no class"),
    "labels in words": (Inputs(X, np.array(list("abcdef"))), None, "a, b, c, d, e, f, which matches no class"),
    "groups of another length": (Inputs(X, None, np.zeros(5)), None, "one group for each of 6 inputs"),
}


@pytest.mark.parametrize("name", UNFIT)
def test_unfit_inputs_are_refused_in_words(name: str) -> None:
    inputs, expected, words = UNFIT[name]
    with pytest.raises(DataError, match=words):
        check_inputs(inputs, expected)


def test_free_axes_and_columns_of_labels_pass() -> None:
    assert check_inputs(Inputs(X), (None, 3)).x.shape == (6, 2, 3)
    assert check_inputs(Inputs(X), None).y is None
    labels = check_inputs(Inputs(X, np.arange(6.0)[:, None]), None).y
    assert labels is not None
    assert labels.dtype == np.int64
    assert labels.shape == (6,)


def test_fingerprint_knows_values_shape_and_dtype() -> None:
    prints = {Inputs(x).fingerprint() for x in (X, X + 1, X.reshape(6, 6), X.astype(np.float64))}
    assert len(prints) == 4
    assert Inputs(X[:, ::-1]).fingerprint() == Inputs(np.ascontiguousarray(X[:, ::-1])).fingerprint()
