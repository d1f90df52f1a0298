"""Data in many files: numbered through, read a few at a time, and audited to the same numbers as in memory."""

from __future__ import annotations

import io
import json
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from fimaudit import audit
from fimaudit.audit_report import Report
from fimaudit.data.arrays import Inputs
from fimaudit.data.filesystems import find_files
from fimaudit.data.images import decode_image
from fimaudit.data.streams import Stream, open_data
from fimaudit.errors import DataError, UsageError
from fimaudit.storage.tables import read_inputs_table

RNG = np.random.default_rng(0)
X = RNG.standard_normal((23, 6)).astype(np.float32)
Y = np.arange(23) % 3
PIXELS = RNG.integers(0, 256, (7, 8, 9, 3), dtype=np.uint8)
WEIGHTS = np.random.default_rng(1).standard_normal((6, 3))


def softmax(x: Any) -> Any:
    z = np.tanh(x.reshape(len(x), -1)) @ WEIGHTS
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def png(pixels: Any) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def npz_shards(folder: Path, *, packed: bool = False) -> str:
    for k, part in enumerate(np.array_split(np.arange(23), 4)):
        save = np.savez_compressed if packed else np.savez
        save(folder / f"shard-{k:02d}.npz", x=X[part], y=Y[part], group=np.array([f"g{k}"] * len(part)))
    return str(folder / "shard-*.npz")


def npy_shards(folder: Path) -> str:
    for k, part in enumerate(np.array_split(X, 3)):
        np.save(folder / f"{k}.npy", part)
    return str(folder)


def list_parquet(folder: Path) -> str:
    for k, part in enumerate(np.array_split(np.arange(23), 2)):
        table = pa.table({"x": list(X[part]), "label": Y[part]})
        pq.write_table(table, folder / f"{k}.parquet", row_group_size=5)
    return str(folder / "*.parquet")


def table_parquet(folder: Path) -> str:
    for k, part in enumerate(np.array_split(np.arange(23), 2)):
        columns = {f"f{i}": X[part, i] for i in range(6)}
        pq.write_table(pa.table({**columns, "y": Y[part]}), folder / f"{k}.parquet", row_group_size=4)
    return str(folder / "*.parquet")


def npy_tar(folder: Path) -> str:
    for k, part in enumerate(np.array_split(np.arange(23), 2)):
        with tarfile.open(folder / f"train-{k:03d}.tar", "w") as tar:
            for i in part:
                out = io.BytesIO()
                np.save(out, X[i])
                for name, data in ((f"{i:06d}.npy", out.getvalue()), (f"{i:06d}.cls", str(Y[i]).encode())):
                    info = tarfile.TarInfo(name)
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
    return str(folder / "train-{000..001}.tar")


MAKERS: dict[str, tuple[Callable[[Path], str], bool]] = {
    "npz": (npz_shards, True),
    "packed npz": (lambda folder: npz_shards(folder, packed=True), True),
    "npy": (npy_shards, False),
    "parquet with arrays": (list_parquet, True),
    "parquet table": (table_parquet, True),
    "tar": (npy_tar, True),
}


@pytest.mark.parametrize("name", MAKERS)
def test_each_format_gives_the_inputs_in_any_order(name: str, tmp_path: Path) -> None:
    make, labelled = MAKERS[name]
    stream = pickle.loads(pickle.dumps(open_data(make(tmp_path))))
    assert isinstance(stream, Stream)
    assert len(stream) == 23
    wanted = [0, 22, 5, 6, 7, 12, 11]
    rows = list(stream.rows(wanted))
    for i, row in zip(wanted, rows, strict=True):
        assert row.x is not None
        np.testing.assert_array_equal(row.x, X[i])
        assert row.y == (Y[i] if labelled else None)


def test_images_by_folder_and_in_a_tar(tmp_path: Path) -> None:
    for i, pixels in enumerate(PIXELS):
        (tmp_path / "folder" / f"class{i % 2}").mkdir(parents=True, exist_ok=True)
        (tmp_path / "folder" / f"class{i % 2}" / f"{i}.png").write_bytes(png(pixels))
    with tarfile.open(tmp_path / "images.tar", "w") as tar:
        for i, pixels in enumerate(PIXELS):
            for name, data in ((f"a/{i}.png", png(pixels)), (f"a/{i}.json", json.dumps({"label": i}).encode())):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    folder = open_data(tmp_path / "folder")
    assert isinstance(folder, Stream)
    rows = list(folder.for_model((3, 8, 9), "float32").rows(range(7)))
    order = [0, 2, 4, 6, 1, 3, 5]  # class by class
    assert [row.y for row in rows] == ["class0"] * 4 + ["class1"] * 3
    assert rows[-1].group == "class1"
    for i, row in zip(order, rows, strict=True):
        np.testing.assert_array_equal(row.x, np.moveaxis(PIXELS[i], -1, 0).astype(np.float32) / np.float32(255))
    packed = open_data(tmp_path / "images.tar")
    assert isinstance(packed, Stream)
    for i, row in enumerate(packed.for_model((8, 9, 3), "uint8").rows(range(7))):
        np.testing.assert_array_equal(row.x, PIXELS[i])
        assert row.y == i
    grey = decode_image(png(PIXELS[0]), (8, 9), "float32")
    assert grey.shape == (8, 9)
    with pytest.raises(DataError, match="no image has"):
        decode_image(png(PIXELS[0]), (12,), "float32")


def test_urls_are_read_through_fsspec(tmp_path: Path) -> None:
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    npz_shards(tmp_path)
    for path in tmp_path.iterdir():
        memory.pipe(f"/bucket/{path.name}", path.read_bytes())
    try:
        stream = open_data("memory://bucket/shard-*.npz")
        assert isinstance(stream, Stream)
        assert len(stream) == 23
        np.testing.assert_array_equal([row.x for row in stream.rows(range(23))], X)
        report = audit(softmax, "memory://bucket/shard-*.npz", queries=16)
        assert report.data["measured"] == 23
        with pytest.raises(DataError, match="no data at memory://bucket/none"):
            open_data("memory://bucket/none-*.npz")
    finally:
        memory.rm("/bucket", recursive=True)
    with pytest.raises(DataError, match="cannot read nothing://"):
        open_data("nothing://bucket/x.npz")


def test_counts_can_be_given_beside_the_files(tmp_path: Path) -> None:
    spec = npy_tar(tmp_path)
    (tmp_path / "sizes.json").write_text(json.dumps({"train-000.tar": 12, "train-001.tar": 11}))

    def never(_: Any) -> Any:
        raise AssertionError("counted")

    stream = open_data(spec, never)
    assert isinstance(stream, Stream)
    assert stream.counts == (12, 11)
    (tmp_path / "sizes.json").write_text(json.dumps({"train-000.tar": 13, "train-001.tar": 11}))
    lied = open_data(spec, never)
    assert isinstance(lied, Stream)
    assert "holds 12 inputs now and held 13" in str(next(lied.rows([0])).reason)


REFUSED: dict[str, tuple[Callable[[Path], str], str]] = {
    "nothing there": (lambda d: str(d / "*.npz"), "no data at .*npz: expected .npz"),
    "several kinds": (lambda d: (npz_shards(d), npy_shards(d))[1], "several kinds \\(.npy, .npz\\)"),
    "no array x": (lambda d: (np.savez(d / "a.npz", z=X), str(d / "*.npz"))[1], "expected an array called x"),
    "columns first": (lambda d: (np.save(d / "a.npy", np.asfortranarray(X)), str(d / "*.npy"))[1], "save it in C order"),
    "objects": (
        lambda d: (np.save(d / "a.npy", np.array([{}, 1], dtype=object), allow_pickle=True), str(d / "*.npy"))[1],
        "Python objects",
    ),
    "words": (
        lambda d: (pq.write_table(pa.table({"a": [[1]], "c": [1.0]}), d / "a.parquet"), str(d / "*.parquet"))[1],
        "column 'a' of .* holds list<.*> values",
    ),
    "damaged": (lambda d: ((d / "a.npz").write_bytes(b"PK no"), str(d / "*.npz"))[1], "could not read .*a.npz as .npz"),
    "empty": (lambda d: (np.save(d / "a.npy", X[:0]), str(d / "*.npy"))[1], "got none in 1 files"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_unreadable_streams_are_refused_in_words(name: str, tmp_path: Path) -> None:
    make, words = REFUSED[name]
    with pytest.raises(DataError, match=words):
        open_data(make(tmp_path))


def test_a_small_file_is_read_whole_and_a_large_one_is_not(tmp_path: Path) -> None:
    np.savez(tmp_path / "one.npz", x=X)
    assert isinstance(open_data(tmp_path / "one.npz"), Inputs)
    assert isinstance(open_data(tmp_path / "one.npz", most_bytes=100), Stream)
    assert [f.path for f in find_files(str(tmp_path))] == [str(tmp_path / "one.npz")]


def without_times(report: Report) -> dict[str, Any]:
    document = report.model_dump(exclude={"environment", "inputs_file"})
    document["data"] = {k: v for k, v in document["data"].items() if k in ("inputs", "measured", "shape")}
    return document


def test_a_stream_gives_the_numbers_of_the_array(tmp_path: Path) -> None:
    spec = npz_shards(tmp_path)
    groups = np.concatenate([[f"g{k}"] * len(part) for k, part in enumerate(np.array_split(X, 4))])
    whole = audit(softmax, X, y=Y, group=groups, queries=24, witness=True)
    streamed = audit(softmax, spec, queries=24, witness=True, out=tmp_path / "run")
    assert without_times(streamed) == without_times(whole)
    assert streamed.groups.keys() == {"g0", "g1", "g2", "g3"}
    assert read_inputs_table(tmp_path / "run" / "inputs.parquet") == streamed.inputs
    assert (tmp_path / "run" / "witness.npz").exists() == any(s.witness for s in whole.inputs)
    assert not (tmp_path / "run" / "parts").exists()
    again = audit(softmax, spec, queries=24, witness=True, out=tmp_path / "run", resume=True)
    assert without_times(again) == without_times(whole)


def test_a_bad_input_of_a_stream_fails_alone(tmp_path: Path) -> None:
    x = X.copy()
    x[4, 2] = np.nan
    np.save(tmp_path / "a.npy", x)
    (tmp_path / "b.npy").write_bytes((tmp_path / "a.npy").read_bytes()[:-10])
    report = audit(softmax, str(tmp_path / "*.npy"), queries=16)
    failed = {s.index: s.reason for s in report.inputs if s.status == "failed"}
    assert failed == {
        4: failed[27],
        27: failed[4],
        45: "the file ends before this input",
    }
    with pytest.raises(UsageError, match="0 or more, got -1"):
        audit(softmax, X, max_failures=-1)


def test_too_many_failures_stop_a_run_that_can_be_resumed(tmp_path: Path) -> None:
    x = np.concatenate([X] * 4)
    x[[5, 48, 60], 0] = np.inf
    np.save(tmp_path / "a.npy", x)
    settings: dict[str, Any] = {"queries": 16, "out": tmp_path / "run"}
    data = str(tmp_path / "*.npy")
    short = audit(softmax, data, max_failures=1, **settings)
    assert 48 <= short.data["measured"] < 92
    assert any("2 inputs failed, more than the 1 that max_failures= allows" in w for w in short.warnings)
    rest = audit(softmax, data, max_failures=3, resume=True, **settings)
    assert rest.data["measured"] == 92
    assert without_times(rest) == without_times(audit(softmax, data, queries=16, out=tmp_path / "other"))
    x[:, 0] = np.inf
    np.save(tmp_path / "a.npy", x)
    with pytest.raises(DataError, match="holds finite numbers"):
        audit(softmax, data, queries=16)
