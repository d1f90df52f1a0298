"""A loopback proxy that spoils answers: ``python fault_proxy.py PORT UPSTREAM_PORT``.

``POST /__faults__`` with ``{"rate": 0.2, "kinds": [...], "seed": 0}`` sets what goes wrong; ``GET /__faults__`` counts it
and lists the SHA-256 of each request body that was answered untouched. Only POSTs are spoiled; ``after`` of them are not,
nor are more than ``most``. ``POST /__hold__`` with a number: so many more POSTs pass and the others stay without an answer;
``GET /__hold__`` answers as soon as one does; ``POST /__hold__`` with ``null`` lets them fail and the next ones pass.
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import json
import random
import re
import sys

SPOILING = ("garbage", "half", "reset", "nan", "rows", "503", "429", "502", "504")
HOSTILE = ("endless", "deep", "bomb", "huge", "digits", "html")


class Proxy:
    def __init__(self, upstream: int) -> None:
        self.upstream = upstream
        self.rate, self.kinds, self.random = 0.0, list(SPOILING), random.Random(0)
        self.after, self.most = 0, float("inf")
        self.posts = 0
        self.passing: int | None = None
        self.held, self.let_go = asyncio.Event(), asyncio.Event()
        self.counts: dict[str, int] = {}
        self.answered: list[str] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await self._one(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = await reader.readuntil(b"\r\n\r\n")
        found = re.search(rb"(?i)\r\ncontent-length:\s*(\d+)", head)
        body = await reader.readexactly(int(found[1])) if found else b""
        if b"/__faults__" in head.split(b"\r\n")[0]:
            if head.startswith(b"POST"):
                wanted = json.loads(body)
                self.rate, self.kinds = wanted.get("rate", 0.0), wanted.get("kinds", list(SPOILING))
                self.random, self.after = random.Random(wanted.get("seed", 0)), wanted.get("after", 0)
                self.most = wanted.get("most", float("inf"))
                self.posts, self.counts, self.answered = 0, {}, []
            body = json.dumps({"counts": self.counts, "answered": self.answered}).encode()
            await self._answer(writer, b"200 OK", b"application/json", body)
            return True
        if b"/__hold__" in head.split(b"\r\n")[0]:
            if head.startswith(b"POST"):
                self.passing = json.loads(body)
                self.let_go.set()
                self.held, self.let_go = asyncio.Event(), asyncio.Event()
            else:
                await self.held.wait()
            await self._answer(writer, b"200 OK", b"application/json", b"null")
            return True
        post = head.startswith(b"POST")
        if post and self.passing is not None:
            self.passing -= 1
            if self.passing < 0:
                self.held.set()
                await self.let_go.wait()
                return False
        self.posts += post
        spoiled = sum(self.counts.values()) - self.counts.get("none", 0)
        spoil = post and self.posts > self.after and spoiled < self.most and self.random.random() < self.rate
        kind = self.random.choice(self.kinds) if spoil else ""
        self.counts[kind or "none"] = self.counts.get(kind or "none", 0) + post
        if kind == "reset":
            writer.transport.abort()
            return False
        if kind in ("503", "429", "502", "504"):
            extra = b"Retry-After: 0.05\r\n" if kind == "429" else b""
            await self._answer(writer, kind.encode() + b" No", b"text/html", b"<html><title>busy</title></html>", extra)
            return True
        if kind in HOSTILE:
            await self._hostile(writer, kind)
            return False
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self.upstream)
        head = re.sub(rb"(?i)\r\nconnection:[^\r]*", b"", head).replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
        up_writer.write(head + body)
        await up_writer.drain()
        answer = await up_reader.read(-1)
        up_writer.close()
        top, _, content = answer.partition(b"\r\n\r\n")
        if b"transfer-encoding: chunked" in top.lower():
            content = _unchunked(content)
            top = re.sub(rb"(?i)\r\ntransfer-encoding:[^\r]*", b"", top) + b"\r\nContent-Length: 0"
        if not kind:
            if post:
                self.answered.append(hashlib.sha256(body).hexdigest())
            writer.write(_with_length(top, content))
            await writer.drain()
            return True
        return await self._spoiled(writer, kind, top, content)

    async def _spoiled(self, writer: asyncio.StreamWriter, kind: str, top: bytes, content: bytes) -> bool:
        if kind == "garbage":
            writer.write(_with_length(top, b'{"outputs": [{"na\xff\xfe oops'))
        elif kind == "half":
            writer.write(_with_length(top, content)[: -max(1, len(content) // 2)])
            await writer.drain()
            return False
        elif kind == "drip":
            whole = _with_length(top, content)
            for i in range(len(whole)):
                writer.write(whole[i : i + 1])
                await writer.drain()
                await asyncio.sleep(0.05)
        else:
            writer.write(_with_length(top, _changed(content, kind)))
        await writer.drain()
        return True

    async def _answer(self, writer, status: bytes, kind: bytes, content: bytes, extra: bytes = b"") -> None:
        top = b"HTTP/1.1 " + status + b"\r\nContent-Type: " + kind + b"\r\n" + extra + b"Content-Length: 0"
        writer.write(_with_length(top, content))
        await writer.drain()

    async def _hostile(self, writer: asyncio.StreamWriter, kind: str) -> None:
        if kind == "endless":
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")
            while True:
                writer.write(b"10000\r\n" + b"[" * 0x10000 + b"\r\n")
                await writer.drain()
        content, extra = b"", b""
        if kind == "deep":
            content = b"[" * 2_000_000 + b"]" * 2_000_000
        elif kind == "bomb":
            content, extra = gzip.compress(bytes(2**28), 1), b"Content-Encoding: gzip\r\n"
        elif kind == "huge":
            content = (
                b'{"predictions": [[1e999, 0.5], [1' + b"0" * 400 + b', 0]], "outputs": [{"name": "a", "datatype": "FP64", '
            )
            content += b'"shape": [1, 2], "data": [1' + b"0" * 400 + b", 1]}]}"
        elif kind == "digits":
            content = b'{"outputs": [{"name": "a", "datatype": "FP64", "shape": [1, 1], "data": [' + b"9" * 100_000 + b"]}]}"
        elif kind == "html":
            content = b'[[{"label": "<script>alert(1)</script>\\u0000\\u202e", "score": 0.6}, {"label": "b", "score": 0.4}]]'
        await self._answer(writer, b"200 OK", b"application/json", content, extra)


def _changed(content: bytes, kind: str) -> bytes:
    """NaN in place of a number, a row less, or the classes in reverse order, in a V2 JSON answer."""
    document = json.loads(content)
    output = document["outputs"][0]
    rows, classes = output["shape"]
    table = [output["data"][i * classes : (i + 1) * classes] for i in range(rows)]
    if kind == "nan":
        table[0][0] = float("nan")
    elif kind == "rows":
        table = table[:-1] if rows > 1 else table * 2
        output["shape"] = [len(table), classes]
    elif kind == "swap":
        table = [row[::-1] for row in table]
    output["data"] = [v for row in table for v in row]
    return json.dumps(document).encode()


def _with_length(top: bytes, content: bytes) -> bytes:
    top = re.sub(rb"(?i)\r\n(content-length|connection):[^\r]*", b"", top)
    return top + b"\r\nContent-Length: " + str(len(content)).encode() + b"\r\n\r\n" + content


def _unchunked(content: bytes) -> bytes:
    parts = []
    while content:
        size, _, content = content.partition(b"\r\n")
        length = int(size, 16)
        parts.append(content[:length])
        content = content[length + 2 :]
    return b"".join(parts)


async def main(port: int, upstream: int) -> None:
    server = await asyncio.start_server(Proxy(upstream).serve, "127.0.0.1", port, limit=2**26)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2])))
