"""Files that were made to do harm, given to the command line: `python scripts/hostile_files.py [FOLDER]`.

Archives of evidence, reports, endpoint files and policies, written into FOLDER (a temporary one when left out). Each is
opened by a command of its own, which must refuse it (exit code 1 of ``verify``, 2 of the others) in a sentence, in bounded
time and memory, and leave nothing outside FOLDER. Prints a line for each, and exits with 1 where one did not.
"""

from __future__ import annotations

import io
import json
import os
import resource
import subprocess
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "adapters")]

from tests.fuzz import seeds  # noqa: E402

#: Seconds of the processor and bytes of address space that one command may take.
SECONDS, MEMORY = 30, 8 * 2**30
MARK = "hostile-file-was-here"
POLICY = "rules: [{rule: not_ok, at_most: 0.5}]\n"
ENDPOINT = "url: https://host/v2/models/m/infer\nprotocol: open_inference\n"


def archives() -> Iterator[tuple[str, bytes]]:
    """Evidence with what no evidence holds."""
    _, evidence = seeds.evidence_run()

    def changed(change: Callable[[zipfile.ZipFile], None]) -> bytes:
        out = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(evidence)) as source, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
            for info in source.infolist():
                archive.writestr(info.filename, source.read(info))
            change(archive)
        return out.getvalue()

    def add(name: str, content: bytes | str = "x") -> bytes:
        return changed(lambda archive: archive.writestr(name, content))

    def lie(archive: zipfile.ZipFile) -> None:
        archive.writestr("bomb", bytes(400 * 2**20))
        archive.infolist()[-1].file_size = 100

    many = io.BytesIO()
    with zipfile.ZipFile(many, "w") as archive:
        for k in range(30_000):
            archive.writestr(f"m{k}", "")
    locked = bytearray(evidence)
    locked[locked.rfind(b"PK\1\2") + 8] |= 1
    yield "above", add(f"../../{MARK}")
    yield "absolute", add(f"/tmp/{MARK}")
    yield "twice", add("report.json", "{}")
    yield "bomb", add("bomb", bytes(400 * 2**20))
    yield "lie", changed(lie)
    yield "half", evidence[: len(evidence) // 2]
    yield "empty", b""
    yield "text", b"hello"
    yield "encrypted", bytes(locked)
    yield "many", many.getvalue()
    yield "long name", add("n" * 60_000)
    yield "control characters", add("a\x1b[31mRED\n\nall files fit")


def reports() -> Iterator[tuple[str, bytes]]:
    """``report.json`` that no fimaudit wrote."""
    report, _ = seeds.evidence_run()
    known = json.loads(report)
    script = "</script><script>alert(1)</script>"
    yield "brackets", b"[" * 200_000
    yield "long number", b'{"a": ' + b"9" * 10_000 + b"}"
    yield "null", b"null"
    yield "bytes", b"\xff\xfe\0\0"
    yield "empty", b""
    yield "version that is no number", json.dumps({**known, "schema_version": float("nan")}).encode()
    yield "version to come", json.dumps({**known, "schema_version": 999}).encode()
    yield "surrogate", json.dumps({**known, "model": {**known["model"], "name": f"\ud800{script}\x1b[31m"}}).encode()
    yield "below zero", json.dumps({**known, "data": {**known["data"], "inputs": -5, "measured": 10**30}}).encode()
    yield "key twice", report.rstrip()[:-1] + b', "summary": 3}'


def yaml_files(base: str) -> Iterator[tuple[str, bytes]]:
    """YAML that runs code, takes for ever, or hides a line."""
    bomb = "a: &a [x,x,x,x,x,x,x,x,x]\n"
    for k in range(9):
        bomb += f"{chr(98 + k)}: &{chr(98 + k)} [{','.join(['*' + chr(97 + k)] * 9)}]\n"
    yield "aliases", (base + bomb).encode()
    yield "aliases used", f"{bomb}\nname: *j\nurl: *j\nrules: *j\n".encode()
    yield "code", f"{base}x: !!python/object/apply:os.system ['touch /tmp/{MARK}']\n".encode()
    yield "brackets", b"[" * 100_000
    yield "bytes", b"\xff\xfe\0\x01"
    yield "itself", b"&a [*a]\n"
    yield "two documents", f"{base}---\n{base}".encode()
    yield "twice", (base + base).encode()
    yield "no date", f"{base}name: 2020-99-99\n".encode()
    yield "empty", b""
    yield "number", b"1e999999999"
    yield "long numbers", f"rules: {'9' * 6000}\nurl: {'9' * 6000}\n".encode()
    yield "merge of numbers", f"<<: [1,2]\n{base}".encode()
    yield "sixties", f"{base}b: 1:2:3:4:5:6:7\n".encode()
    yield "unknown merge", f"a: &a {{k: v}}\nb: {{<<: [*a,*a,*a]}}\n<<: *a\n{base}".encode()
    yield "30 MB", f"{base}#{'x' * 30_000_000}".encode()
    yield "keys that are none", f"{base}? [1,2]\n: 3\n? {{a: b}}\n: 4\n".encode()


def commands(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """What each file is, once it is written, and the command that opens it."""
    sound = folder / "sound"
    with zipfile.ZipFile(io.BytesIO(seeds.evidence_run()[1])) as archive:
        archive.extractall(sound)
    np.savez(folder / "x.npz", x=np.zeros((2, 4)))
    for name, content in archives():
        yield f"evidence: {name}", ["verify", _written(folder / f"{name}.zip", content)]
    for name, content in reports():
        yield f"report: {name}", ["report", str(Path(_written(folder / f"report {name}" / "report.json", content)).parent)]
    for name, content in yaml_files(ENDPOINT):
        path = _written(folder / f"endpoint {name}.yaml", content)
        yield f"endpoint: {name}", ["plan", path, "--data", str(folder / "x.npz")]
    for name, content in yaml_files(POLICY):
        yield f"policy: {name}", ["gate", str(sound), "--policy", _written(folder / f"policy {name}.yaml", content)]


def _written(path: Path, content: bytes) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return str(path)


def _limits() -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))


def sound_files(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Files without harm: where these are refused, the refusal of the others says nothing."""
    yield "evidence", ["verify", _written(folder / "sound.zip", seeds.evidence_run()[1])]
    yield "report", ["report", str(folder / "sound")]
    yield "endpoint", ["plan", _written(folder / "sound.yaml", ENDPOINT.encode()), "--data", str(folder / "x.npz")]
    yield "policy", ["gate", str(folder / "sound"), "--policy", _written(folder / "policy.yaml", POLICY.encode())]


def _opened(arguments: list[str], folder: Path) -> tuple[int, str]:
    code = [sys.executable, "-W", "ignore", "-m", "fimaudit", *arguments]
    done = subprocess.run(code, capture_output=True, text=True, errors="replace", cwd=folder, preexec_fn=_limits)
    return done.returncode, done.stdout + done.stderr


def _run(folder: Path) -> int:
    wrong = tried = 0
    for name, arguments in commands(folder):
        code, said = _opened(arguments, folder)
        left = [
            str(path) for path in (Path("/tmp") / MARK, folder.parent / MARK, folder.parent.parent / MARK) if path.exists()
        ]
        bad = code != (1 if arguments[0] == "verify" else 2) or "Traceback" in said or "\x1b[31mRED" in said or bool(left)
        tried, wrong = tried + 1, wrong + bad
        last = " ".join(said.split())[-150:]
        print(f"{'WRONG ' if bad else ''}{name}: exit {code}, {last}", *left, flush=True)
    for name, arguments in sound_files(folder):
        code, said = _opened(arguments, folder)
        bad = code not in ((0, 1) if arguments[0] == "gate" else (0,))
        wrong += bad
        print(f"{'WRONG ' if bad else ''}without harm, {name}: exit {code}", flush=True)
    most = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(f"{tried} files, {wrong} wrong; most memory {most.ru_maxrss / 1024:.0f} MiB")
    return int(wrong > 0)


def main() -> None:
    """Write and open them all."""
    warnings.simplefilter("ignore")  # zipfile's, of the name that is there twice
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path[:2])
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(sys.argv[1] if len(sys.argv) > 1 else temporary).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        sys.exit(_run(folder))


if __name__ == "__main__":
    main()
