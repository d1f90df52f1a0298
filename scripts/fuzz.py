"""Coverage-guided fuzzing of everything that reads others' bytes: `make fuzz`, or `python scripts/fuzz.py npz --minutes 5`.

Each reader runs in a process of its own under atheris (libFuzzer). What is no error of ours, is no sentence, takes longer
than ``SLOW`` seconds or more than ``MOST_MEMORY`` is a finding and lies in ``runs/fuzz/READER/``. What is short of it goes
into ``tests/fuzz/corpus/READER/``, which the tests replay. ``python scripts/fuzz.py npz FILE`` replays one input.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import re
import resource
import subprocess
import sys
import time
import traceback
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RUNS, CORPUS = ROOT / "runs" / "fuzz", ROOT / "tests" / "fuzz" / "corpus"
#: Seconds of the processor that one input may take, and MiB by which the process may grow over one.
SLOW, MOST_MEMORY = 10.0, 512
#: Of these the lines that are reached guide the search.
INSTRUMENTED = ["fimaudit", "fimaudit_adapters", "zipfile", "tarfile", "yaml", "numpy.lib", "jmespath", "onnx.reference"]


def main() -> None:
    """Fuzz the readers named, or all, one after the other; exit 1 where something was found."""
    sys.path[:0] = [str(ROOT), str(ROOT / "adapters")]
    parser = argparse.ArgumentParser(description="Fuzz the readers of files and answers.")
    parser.add_argument("names", nargs="*", help="readers (all when left out), or one reader and files to replay")
    parser.add_argument("--minutes", type=float, default=30.0, help="of each reader")
    parser.add_argument("--in-process", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.in_process:
        _fuzz(options.names[0], options.minutes)
        return
    from tests.fuzz.readers import READERS

    names = [name for name in options.names if name in READERS]
    files = [Path(name) for name in options.names if name not in READERS]
    unknown = [str(file) for file in files if not file.is_file()]
    if unknown or (files and len(names) != 1):
        parser.error(
            f"expected readers among {', '.join(READERS)}, or one reader and files, got {', '.join(map(str, files))}"
        )
    if files:
        for file in files:
            _replay(names[0], file)
        return
    found = [name for name in names or READERS if _run(name, options.minutes)]
    print(f"findings in: {', '.join(found)}" if found else "nothing found")
    sys.exit(bool(found))


def _run(name: str, minutes: float) -> bool:
    """One reader in a process of its own, started anew where a crash or a memory limit ended it."""
    place = RUNS / name
    (place / "corpus").mkdir(parents=True, exist_ok=True)
    until, runs, starts = time.monotonic() + 60 * minutes, 0, 0
    before, done = set(place.glob("*-*")), subprocess.CompletedProcess[str]([], 0, stdout="")
    while (left := until - time.monotonic()) > 1 and starts < 20:
        starts += 1
        command = [sys.executable, str(Path(__file__)), name, "--in-process", "--minutes", str(left / 60)]
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", cwd=place
        )
        (place / "log.txt").write_text(done.stdout[-200_000:])
        counts = [int(n) for n in re.findall(r"^(?:#|Done )(\d+)", done.stdout, re.MULTILINE)]
        runs += max(counts, default=0)
    found = sorted(set(place.glob("*-*")) - before)
    print(f"{name}: {runs:,} inputs in {minutes:g} min, {starts} starts, {len(found)} findings", flush=True)
    for one in found:
        print(f"  {one.relative_to(ROOT)}", flush=True)
    if not runs:
        print(f"  it does not run: {(done.stdout.strip().splitlines() or ['no word'])[-1]}", flush=True)
    return bool(found) or not runs


def _fuzz(name: str, minutes: float) -> None:
    import atheris

    with atheris.instrument_imports(include=INSTRUMENTED):
        from tests.fuzz import mutations, readers, seeds
    reader, place = readers.READERS[name], RUNS / name
    first = place / "seeds"
    first.mkdir(exist_ok=True)
    for data in seeds.seeds_of(name):
        (first / hashlib.sha1(data).hexdigest()).write_bytes(data)
    seen: set[str] = set()

    def one(data: bytes) -> None:
        memory, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
        try:
            readers.refused(reader, data)
            why = None
        except BaseException as exc:
            why = "".join(traceback.format_exception(exc))
            last = traceback.extract_tb(exc.__traceback__)[-1]
            kind = f"{type(exc).__name__}-{Path(last.filename).stem}-{last.lineno}"
        if why is None and time.process_time() - began > SLOW:
            why, kind = f"took {time.process_time() - began:.1f} s", "slow-input"
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory) // 1024
        if why is None and grown > MOST_MEMORY:
            why, kind = f"took {grown} MiB", "memory-input"
        if why is not None and kind not in seen:
            seen.add(kind)
            (place / kind).write_bytes(data)
            (place / f"{kind}.txt".replace("-", "_")).write_text(why)

    def change(data: bytes, most: int, seed: int) -> bytes:
        rng = random.Random(seed)
        if rng.random() < 0.4:
            return bytes(atheris.Mutate(data, most))
        return mutations.mutated(name, bytes(data), rng)[:most]

    folders = [str(place / "corpus"), str(first), *([str(CORPUS / name)] if (CORPUS / name).is_dir() else [])]
    longest = max([65_536, *(2 * len(data) for data in seeds.seeds_of(name))])
    # libFuzzer would call a unit slow by the clock on the wall, of a busy machine too; `one` goes by the processor.
    options = [
        f"-max_total_time={max(1, int(60 * minutes))}",
        "-timeout=60",
        "-report_slow_units=3600",
        "-rss_limit_mb=6000",
        f"-max_len={longest}",
    ]
    atheris.Setup([sys.argv[0], *options, f"-artifact_prefix={place}/", *folders], one, custom_mutator=change)
    atheris.Fuzz()


def _replay(name: str, file: Path) -> None:
    from tests.fuzz.readers import READERS, refused

    print(f"{file}: {refused(READERS[name], file.read_bytes()) or 'read'}")


if __name__ == "__main__":
    main()
