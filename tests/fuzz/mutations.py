"""Changing a valid input so that it stays half valid: bytes, JSON values, ONNX fields, archive members with their hashes."""

from __future__ import annotations

import io
import json
import math
import random
import re
import zipfile
from collections.abc import Callable
from typing import Any

__all__ = ["mutated"]

#: What stands in the place of one value of a document.
HOSTILE: tuple[Any, ...] = (
    None, True, 0, -1, 1, 2**31, 2**63, -(2**63), 10**400, 1e308, -0.0, 5e-324, float("nan"), float("inf"), "", "0", "nan",
    "\x1b[31m\u202e\x00", "</script><script>alert(1)</script>", "../../etc/passwd", "a" * 5000, [], {}, [[]], [None],
    {"": None},
    [0.5, 0.5], {"a": 1}, ["a", "a"], "\ud800",
)  # fmt: skip
NUMBERS = (0, 1, -1, 2, 127, 255, 2**16, 2**31 - 1, 2**31, 2**32, 2**40, 2**62, -(2**31), -(2**62))
BYTES = (
    b"\0",
    b"\xff",
    b"\0\0\0\0",
    b"\xff\xff\xff\xff",
    b"\x7f\xff\xff\xff\xff\xff\xff\xff",
    b"'",
    b'"',
    b"\n",
    b"{",
    b"[" * 50,
)


def mutated(reader: str, data: bytes, rng: random.Random) -> bytes:
    """Another input for this reader."""
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        change = _KINDS.get(reader, _wire if reader.startswith("wire_") else _bytes) if rng.random() < 0.7 else _bytes
        try:
            data = change(data, rng)
        except Exception:  # no longer of its kind: any change will do
            data = _bytes(data, rng)
    return data


def _bytes(data: bytes, rng: random.Random) -> bytes:
    """Change, cut, repeat or insert a few bytes; a number in text becomes another."""
    at = rng.randrange(len(data) + 1)
    to = min(len(data), at + rng.choice((1, 1, 2, 4, 8, 64)))
    kind = rng.randrange(7)
    if kind == 0 and at < len(data):
        return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]
    if kind == 1:
        return data[:at] + data[to:]
    if kind == 2:
        return data[:at] + data[at:to] * rng.choice((2, 3, 50)) + data[to:]
    if kind == 3:
        return data[:at] + rng.choice(BYTES) + data[at:]
    if kind == 4:
        return data[:at] + rng.choice(BYTES) + data[to:]
    if kind == 5:
        return data[:at]
    found = list(re.finditer(rb"\d+", data))
    if not found:
        return data + rng.choice(BYTES)
    one = rng.choice(found)
    return data[: one.start()] + str(rng.choice(NUMBERS)).encode() + data[one.end() :]


def _json(data: bytes, rng: random.Random) -> bytes:
    """One value of the document becomes another, goes, or is there twice."""
    document = json.loads(data)
    places = list(_places(document))
    if not places:
        return json.dumps(rng.choice(HOSTILE)).encode()
    holder, key = rng.choice(places)
    kind = rng.randrange(4)
    if kind == 0:
        del holder[key]
    elif kind == 1:
        other, name = rng.choice(places)
        holder[key] = json.loads(json.dumps(other[name])) if isinstance(other, list) or name in other else None
    else:
        holder[key] = rng.choice(HOSTILE)
    return json.dumps(document).encode()


def _places(document: Any) -> Any:
    for key in list(document) if isinstance(document, dict) else range(len(document)) if isinstance(document, list) else ():
        yield document, key
        yield from _places(document[key])


def _wire(data: bytes, rng: random.Random) -> bytes:
    if data[2:8] == b"\x93NUMPY":
        return data[:2] + _npy(data[2:], rng)
    return data[:2] + _json(data[2:], rng)


def _yaml(data: bytes, rng: random.Random) -> bytes:
    import yaml

    return _json(json.dumps(yaml.safe_load(data)).encode(), rng)


def _onnx(data: bytes, rng: random.Random) -> bytes:
    """One field of the message, at any depth, becomes another value, goes, or is repeated."""
    import onnx

    model = onnx.ModelProto.FromString(data)
    fields = list(_fields(model))
    message, field = rng.choice(fields)
    if rng.random() < 0.15:
        message.ClearField(field.name)
    elif field.is_repeated:
        values = getattr(message, field.name)
        kind = rng.randrange(3)
        if kind == 0 and len(values):
            del values[rng.randrange(len(values))]
        elif field.message_type is not None:
            others = [m.SerializeToString() for m, _ in fields if type(m).__name__ == field.message_type.name]
            values.add().MergeFromString(rng.choice(others) if others else b"")
        else:
            values.insert(rng.randrange(len(values) + 1), _scalar(field, model, rng))
    elif field.message_type is None:
        setattr(message, field.name, _scalar(field, model, rng))
    return bytes(model.SerializeToString())


def _fields(message: Any) -> Any:
    for field, value in message.ListFields():
        yield message, field
        for one in value if field.is_repeated else (value,):
            if field.message_type is not None:
                yield from _fields(one)


OPERATORS = ("Reshape", "Loop", "If", "Scan", "Constant", "ConstantOfShape", "Expand", "Tile", "Range", "Resize",
    "Pad", "Gather",
             "Concat", "Cast", "Slice", "Split", "Squeeze", "Conv", "Gemm", "Attention", "OneHot", "EyeLike",
             "Shape")  # fmt: skip


def _scalar(field: Any, model: Any, rng: random.Random) -> Any:
    if field.cpp_type in (field.CPPTYPE_INT32, field.CPPTYPE_ENUM):
        return rng.choice(
            (0, 1, 2, 7, 16, 23, 2**31 - 1) if field.cpp_type == field.CPPTYPE_ENUM else (0, 1, -1, 3, 7, 10, 13, 2**31 - 1)
        )
    if field.cpp_type in (field.CPPTYPE_FLOAT, field.CPPTYPE_DOUBLE):
        return rng.choice((0.0, 1.0, -1.0, 1e38, float("nan"), float("inf")))
    if field.cpp_type != field.CPPTYPE_STRING:
        return rng.choice(NUMBERS)
    names = [name for node in model.graph.node for name in (*node.input, *node.output)]
    text = rng.choice((*OPERATORS, *names, "", "../x", "\x1b[31m", "a" * 300))
    return text.encode() if field.type == field.TYPE_BYTES else text


def _archive(data: bytes, rng: random.Random, change: Callable[[str, bytes], bytes]) -> bytes:
    """One member is changed within; or an entry is there twice, elsewhere, or not."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = [(info.filename, archive.read(info)[: 2**20]) for info in archive.infolist()]
    at = rng.randrange(len(members))
    name, content = members[at]
    kind = rng.randrange(8)
    if kind == 0:
        members.append((name, content[::-1]))
    elif kind == 1:
        members[at] = (rng.choice(("../" + name, "/etc/" + name, "", name * 50, "x.npy", name + "\n\x1b[31m")), content)
    elif kind == 2:
        del members[at]
    else:
        members[at] = (name, change(name, content))
    out = io.BytesIO()
    how = rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA))
    import warnings

    with warnings.catch_warnings(), zipfile.ZipFile(out, "w", how) as archive:
        warnings.simplefilter("ignore")  # of names that are there twice
        for name, content in members:
            archive.writestr(name, content)
    return out.getvalue()


def _npz(data: bytes, rng: random.Random) -> bytes:
    return _archive(data, rng, lambda name, content: _npy(content, rng))


#: Types of as many bytes as an array holds, whatever they are.
TYPES = ("<f4 >f8 <f2 <f16 <U1 >U1 <U3 |S1 |S3 <m8[s] <M8 <M8[Y] <M8[as] |V3 <c16 |b1 >i2 <u8").split()  # noqa: SIM905


def _npy(data: bytes, rng: random.Random) -> bytes:
    """The header says another shape or type; or an array of another type, whose bytes are any."""
    if rng.random() < 0.3:
        header = re.search(rb"'shape': \(([0-9, ]*)\)", data)
        shape = tuple(int(n) for n in header[1].split(b",") if n.strip()) if header else (4,)
        return _array(rng.choice(TYPES), shape, rng)
    shapes = "() (0,) (4,0) (-1,3) (4,3,1) (1000000000000,3) (4,4611686018427387904) (4,1e3) (True,3) (4000000,1000) 4"
    shape = rng.choice((*shapes.split(), f"({'1,' * 70})"))
    kind = rng.choice(
        ("<f4", "<f8", "|O", "<U3", "<m8[s]", "|V2000000", "<c16", "|b1", ">i2", "<f2", "[('x', '<f4')]", "<U999999999")
    )
    changed = re.sub(rb"'shape': \([^)]*\)", f"'shape': {shape}".encode(), data) if rng.random() < 0.6 else data
    if rng.random() < 0.4:
        changed = re.sub(rb"'descr': '[^']*'", f"'descr': '{kind}'".encode(), changed)
    if len(changed) != len(data) and changed[:6] == b"\x93NUMPY":
        length = int.from_bytes(data[8:10], "little") + len(changed) - len(data)
        changed = changed[:8] + length.to_bytes(2, "little") + changed[10:]
    return changed if changed != data else _bytes(data, rng)


def _array(kind: str, shape: tuple[int, ...], rng: random.Random) -> bytes:
    import numpy as np

    out, size = io.BytesIO(), min(4096, math.prod(shape) * np.dtype(kind).itemsize)
    np.lib.format.write_array_header_1_0(out, {"descr": kind, "fortran_order": False, "shape": shape})
    parts = (b"\0", b"\xff", b"\x00\xd8\0\0", b"\0\0\x11\0", b"\x80", b"\x7f", b"a\0\0\0", bytes([rng.randrange(256)]))
    return out.getvalue() + b"".join(rng.choice(parts) for _ in range(size))[:size]


def _evidence(data: bytes, rng: random.Random) -> bytes:
    """A member is changed and the statement says so, as somebody would who wants it believed."""

    def change(name: str, content: bytes) -> bytes:
        return _json(content, rng) if name.endswith(".json") else _bytes(content, rng)

    changed = _archive(data, rng, change)
    if rng.random() < 0.3:
        return changed
    from fimaudit.evidence.bundle import STATEMENT, build_statement

    with zipfile.ZipFile(io.BytesIO(changed)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members[STATEMENT] = build_statement(members)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return out.getvalue()


_KINDS: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "onnx": _onnx, "onnx_bounds": _onnx, "npz": _npz, "npz_shard": _npz, "npy": _npy, "npy_shard": _npy,
    "report_json": _json,
    "endpoint_yaml": _yaml, "policy_yaml": _yaml, "evidence_zip": _evidence,
}  # fmt: skip
