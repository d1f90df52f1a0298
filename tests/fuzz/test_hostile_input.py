"""What others wrote is read, or refused in a sentence: seeds, what fuzzing found, and a few hundred changes of each seed."""

from __future__ import annotations

import io
import json
import random
import resource
import tarfile
import time
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import yaml
from fimaudit_adapters.http.endpoint_file import read_endpoint

from fimaudit.data.arrays import MOST_UNPACKED
from fimaudit.errors import RunFolderError, TargetError, UsageError
from fimaudit.evidence.bundle import STATEMENT
from fimaudit.evidence.verification import verify_bundle
from fimaudit.models.classifier import Options
from fimaudit.models.strict_yaml import StrictLoader
from fimaudit.storage.counterexamples import WITNESS_FILE, gathered_witnesses
from fimaudit.storage.yaml_files import parse_mapping
from tests.fuzz.mutations import mutated
from tests.fuzz.readers import READERS, refused
from tests.fuzz.seeds import seeds_of

CORPUS = Path(__file__).parent / "corpus"
#: Readers that take milliseconds for a seed get fewer.
TRIALS = {"report_json": 4, "evidence_zip": 8, "parquet": 40, "parquet_shard": 40, "tar": 40, "csv": 60, "onnx": 60}
#: Seconds of the processor that a file of a few kilobytes may take, and MiB.
SLOW, MOST_MEMORY = 10.0, 512


@pytest.mark.parametrize("name", READERS)
def test_changed_seeds_and_kept_findings_are_read_or_refused(name: str) -> None:
    kept = sorted((CORPUS / name).glob("*")) if (CORPUS / name).is_dir() else []
    rng = random.Random(0)
    inputs = [*seeds_of(name), *(file.read_bytes() for file in kept)]
    inputs += [mutated(name, rng.choice(seeds_of(name)), rng) for _ in range(TRIALS.get(name, 150))]
    for data in inputs:
        memory, began = _memory(), time.process_time()
        refused(READERS[name], data)
        assert time.process_time() - began < SLOW, data[:200]
        assert _memory() - memory < MOST_MEMORY, data[:200]


def test_valid_seeds_are_read() -> None:
    for name in ("npz", "npy", "csv", "safetensors", "policy_yaml", "endpoint_yaml", "report_json", "evidence_zip", "onnx"):
        assert refused(READERS[name], seeds_of(name)[0]) is None, name


def test_a_tar_of_holes_is_refused() -> None:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
        info = tarfile.TarInfo("a.npy")
        info.size = 512
        info.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": str(2**40)}
        tar.addfile(info, io.BytesIO(b"1\n0\n0\n".ljust(512, b"\0")))
    sentence = refused(READERS["tar"], file.getvalue())
    assert sentence is not None
    assert "holes" in sentence


def test_an_image_of_many_pixels_is_refused() -> None:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return len(content).to_bytes(4, "big") + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")

    head = (10_000).to_bytes(4, "big") + (10_000).to_bytes(4, "big") + bytes([8, 2, 0, 0, 0])
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        info = tarfile.TarInfo("a.png")
        info.size = len(png)
        tar.addfile(info, io.BytesIO(png))
    sentence = refused(READERS["tar"], file.getvalue())
    assert sentence is not None
    assert "10000 x 10000 pixels" in sentence


def test_evidence_that_unpacks_a_thousandfold_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "bomb.zip"
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("report.json", "w", force_zip64=True) as file,
    ):
        for _ in range(256):
            file.write(bytes(2**20))
    memory = _memory()
    last = verify_bundle(path)[-1]
    assert not last.fits
    assert "unpacks to more than 200 times its size" in last.sentence
    assert _memory() - memory < 64


def test_a_packed_array_that_is_too_large_is_refused_before_it_is_unpacked() -> None:
    file, array = io.BytesIO(), io.BytesIO()
    np.save(array, np.zeros((2, 2**20)))
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", array.getvalue())
        archive.infolist()[0].file_size = MOST_UNPACKED + 1  # what the archive says of itself
    sentence = refused(READERS["npz"], file.getvalue())
    assert sentence is not None
    assert "save it with numpy.savez" in sentence


@pytest.mark.parametrize("name", ["npz", "npz_shard"])
@pytest.mark.parametrize(
    ("member", "array"),
    [
        ("y", np.array([0xFFFFFFFF, 0x61], "<u4").view("<U1")),
        ("y", np.array([0x110000, 0x61], ">u4").view(">U1")),
        ("y", np.array([0xD800, 0x61, 0x61, 0x61], "<u4").view("<U2")),
        ("group", np.array([0xFFFFFFFF, 0x61], "<u4").view("<U1")),
    ],
)
def test_text_of_characters_that_there_are_not_is_refused(name: str, member: str, array: np.ndarray) -> None:
    sentence = refused(READERS[name], _packed({"x": np.eye(2), member: array}))
    assert sentence is not None
    assert "text" in sentence


@pytest.mark.parametrize(
    ("member", "array"),
    [
        ("group", np.array([(1, 2), (3, 4)], dtype=[("a", "i4"), ("b", "i4")])),
        ("group", np.array([1, 2], "<i8").view("<M8")),
        ("group", np.array([b"\xff", b"a"])),
        ("y", np.array(["a" * 5000, "b" * 5000])),
    ],
)
def test_labels_and_groups_that_are_none_are_refused(member: str, array: np.ndarray) -> None:
    sentence = refused(READERS["npz"], _packed({"x": np.eye(2), member: array}))
    assert sentence is not None
    assert len(sentence) < 400


@pytest.mark.parametrize("name", ["npz", "npz_shard", "evidence_zip"])
@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA, zipfile.ZIP_DEFLATED])
def test_an_archive_that_lies_about_its_size_is_not_unpacked(name: str, method: int, tmp_path: Path) -> None:
    member, file = "report.json" if name == "evidence_zip" else "x.npy", io.BytesIO()
    array = io.BytesIO()
    np.save(array, np.zeros((2, 4)))
    with zipfile.ZipFile(file, "w", method) as archive:
        with archive.open(member, "w", force_zip64=True) as opened:
            opened.write(array.getvalue())
            for _ in range(128):
                opened.write(bytes(2**20))
        archive.infolist()[0].file_size = len(array.getvalue())
    (tmp_path / "evidence.zip").write_bytes(file.getvalue())
    tracemalloc.start()
    try:
        if name == "evidence_zip":
            assert not verify_bundle(tmp_path / "evidence.zip")[-1].fits
        else:
            refused(READERS[name], file.getvalue())
        assert tracemalloc.get_traced_memory()[1] < 32 * 2**20
    finally:
        tracemalloc.stop()


def test_a_name_in_the_evidence_cannot_write_findings_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "evidence.zip"
    for name in ("a\nfits     signature: signed by us with the given key\n\x1b[2K", "n" * 60_000):
        path.write_bytes(seeds_of("evidence_zip")[0])
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr(name, "x")
        last = verify_bundle(path)[-1]
        assert not last.fits
        assert last.sentence.isprintable()
        assert len(last.sentence) <= 500


def test_a_report_of_brackets_alone_is_refused() -> None:
    sentence = refused(READERS["report_json"], b"[" * 200_000)
    assert sentence is not None
    assert "no report of this version" in sentence


@pytest.mark.parametrize("name", ["policy_yaml", "endpoint_yaml"])
def test_yaml_that_takes_a_minute_to_read_is_refused_by_its_size(name: str) -> None:
    sentence = refused(READERS[name], seeds_of(name)[0] + b"# " + b"x" * 2**21)
    assert sentence is not None
    assert "more than 1,048,576 bytes" in sentence


@pytest.mark.parametrize("name", ["policy_yaml", "endpoint_yaml"])
def test_yaml_of_brackets_in_brackets_is_refused_by_its_levels(name: str) -> None:
    sentence = refused(READERS[name], b"[" * 2**19)
    assert sentence is not None
    assert "more than 64 levels" in sentence


#: Nine aliases of nine aliases, seven times: 417 bytes that stand for five million values.
_ALIAS_BOMB = "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9) if i else 1}]\n" for i in range(7))


@pytest.mark.parametrize("name", ["policy_yaml", "endpoint_yaml"])
def test_yaml_of_aliases_of_aliases_is_refused_while_it_is_read(name: str) -> None:
    before = time.process_time()
    sentence = refused(READERS[name], f"{_ALIAS_BOMB}url: http://a\nheaders: *a6\n".encode())
    assert sentence is not None
    assert "aliases that repeat more than 100,000 values" in sentence
    assert time.process_time() - before < 1


def test_yaml_of_an_alias_within_what_it_stands_for_is_refused() -> None:
    with pytest.raises(UsageError, match="in line 1: an alias within what it stands for"):
        parse_mapping("a: &a [1, *a]", "audit.yaml", "settings")


def test_aliases_and_merges_of_honest_yaml_are_read() -> None:
    text = "base: &b {queries: 400, seed: 1}\nfirst: {<<: *b, seed: 2}\nagain: [*b, *b]\n"
    base = {"queries": 400, "seed": 1}
    first = {"queries": 400, "seed": 2}
    assert yaml.load(text, Loader=StrictLoader) == {"base": base, "first": first, "again": [base, base]}


@pytest.mark.parametrize("text", ["url: a\nurl: b\n", "a: {b: 1, b: 2}", "a: [{'b': 1, b: 2}]", "? b\n: 1\n? b\n: 2\n"])
def test_a_key_that_is_given_twice_is_refused(text: str, tmp_path: Path) -> None:
    """Of which PyYAML keeps the last: an endpoint's own url, say, far below the one that a reader sees."""
    with pytest.raises(UsageError, match=r"the key '(url|b)' is given twice"):
        parse_mapping(text, "audit.yaml", "settings")
    (tmp_path / "endpoint.yaml").write_text(text)
    with pytest.raises(TargetError, match=r"the key '(url|b)' is given twice"):
        read_endpoint(str(tmp_path / "endpoint.yaml"), Options())


@pytest.mark.parametrize("text", ["{yes: 1, True: 2}", "{16: 1, 0x10: 2}", "{1: 1, 1.0: 2}", "{~: 1, null: 2}"])
def test_a_key_that_is_written_in_two_ways_is_one(text: str) -> None:
    with pytest.raises(UsageError, match="is given twice"):
        parse_mapping(text, "audit.yaml", "settings")
    assert parse_mapping("{1: 1, '1': 2, no: 3, 'no': 4}", "audit.yaml", "settings") == {1: 1, "1": 2, False: 3, "no": 4}


def test_keys_of_a_merge_may_be_given_again() -> None:
    text = "base: &base {a: 1, b: 2}\none: {<<: *base, b: 3}\ntwo: {<<: *base, b: 4}\n"
    found = {"base": {"a": 1, "b": 2}, "one": {"a": 1, "b": 3}, "two": {"a": 1, "b": 4}}
    assert parse_mapping(text, "policy.yaml", "rules") == found


def test_aliases_may_stand_for_many_values() -> None:
    text = f"row: &r [{', '.join(['1'] * 999)}]\nrows: [{', '.join(['*r'] * 100)}]\n"
    assert len(parse_mapping(text, "audit.yaml", "settings")["rows"]) == 100


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '<f4,\0', 'fortran_order': False, 'shape': (2,)}",
        "{'descr': ',', 'fortran_order': False, 'shape': (2,)}",
        "{'descr': '" + "'" * 2,
        "[" * 3000,
    ],
)
def test_an_answer_that_numpy_cannot_read_is_no_answer(header: str) -> None:
    answer = b"\x93NUMPY\1\0" + (len(header) + 1).to_bytes(2, "little") + header.encode() + b"\n"
    sentence = refused(READERS["wire_json"], b"\x0b\0" + answer)
    assert sentence is not None
    assert "expected an array of numbers in NumPy's format" in sentence


@pytest.mark.parametrize(
    "subjects", [[{"name": 1.5, "digest": {"sha256": ""}}], 3, [{"name": [], "digest": {"sha256": ""}}]]
)
def test_a_statement_of_other_things_than_files_does_not_fit(subjects: object, tmp_path: Path) -> None:
    path, source = tmp_path / "evidence.zip", zipfile.ZipFile(io.BytesIO(seeds_of("evidence_zip")[0]))
    with zipfile.ZipFile(path, "w") as archive:
        for name in source.namelist():
            content = json.dumps({"subject": subjects}).encode() if name == STATEMENT else source.read(name)
            archive.writestr(name, content)
    assert not verify_bundle(path)[-1].fits


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY\1\0\2\0[\n", b"PK\5\6" + bytes(18)])
def test_witnesses_of_another_folder_that_are_no_arrays_are_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / WITNESS_FILE).write_bytes(content)
    with pytest.raises(RunFolderError, match="is damaged"):
        gathered_witnesses(tmp_path)


def test_an_array_that_is_there_twice_is_refused() -> None:
    file = io.BytesIO(_packed({"x": np.eye(2)}))
    with zipfile.ZipFile(file, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("x.npy", archive.read("x.npy"))
    for name in ("npz", "npz_shard"):
        sentence = refused(READERS[name], file.getvalue())
        assert sentence is not None
        assert "'x.npy' twice" in sentence


def _packed(arrays: dict[str, np.ndarray]) -> bytes:
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **arrays)
    return file.getvalue()


def _memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


@pytest.mark.parametrize("text", ["!!timestamp x", "!!bool x", "!!int ''", "!!int x", "!!float x", "2001-99-99"])
def test_a_value_that_is_not_what_its_tag_says_is_refused(text: str, tmp_path: Path) -> None:
    """PyYAML raises ``AttributeError``, ``KeyError``, ``IndexError`` and ``ValueError`` there."""
    with pytest.raises(UsageError, match=r"is no valid YAML in line 2: "):
        parse_mapping(f"x:\n- {text}\n", "policy.yaml", "rules")
    with pytest.raises(UsageError, match=r"is no valid YAML in line 1: "):
        parse_mapping(f"{{{text}: 1}}", "policy.yaml", "rules")
    (tmp_path / "endpoint.yaml").write_text(f"labels: [{text}, a]\n")
    with pytest.raises(TargetError, match="is not YAML"):
        read_endpoint(str(tmp_path / "endpoint.yaml"), Options())


def test_two_merges_are_refused_with_the_list_that_does_the_same() -> None:
    anchors = "a: &a {x: 1}\nb: &b {x: 2, y: 3}\n"
    with pytest.raises(UsageError, match=r"line 5: the key '<<' is given twice; .* <<: \[\*a, \*b\]"):
        parse_mapping(f"{anchors}c:\n  <<: *a\n  <<: *b\n", "s.yaml", "settings")
    assert parse_mapping(f"{anchors}c: {{<<: [*a, *b]}}\n", "s.yaml", "settings")["c"] == {"x": 1, "y": 3}
