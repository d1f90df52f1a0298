"""One command line in a forked child, which has everything imported already; under strace where wanted."""

from __future__ import annotations

import gc
import os
import select
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

#: A command that takes longer hangs.
MOST_SECONDS = 180.0


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    Attributes:
        code: exit code; minus the signal that ended it; ``None`` when it hung.
        stderr: what it said there.
    """

    code: int | None
    stderr: str


def warmed(commands: Sequence[Sequence[str]]) -> None:
    """Run commands in this process, so that its forks have imported, compiled and cached whatever these need.

    A command takes a tenth of the processor's time then, and makes the same calls on its folder and sockets.
    """
    from fimaudit.cli import main

    before = sys.argv
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        for arguments in commands:
            sys.argv = ["fimaudit", *arguments]
            try:
                main()
            except SystemExit as end:
                if end.code:
                    raise RuntimeError(f"fimaudit {' '.join(arguments)} ended with {end.code}") from None
    sys.argv = before
    gc.collect()
    gc.freeze()  # or each fork copies what its collector touches


def run(arguments: Sequence[str], log: Path, strace: Sequence[str] = (), *, threads: bool = True) -> Ended:
    """Run ``fimaudit ARGUMENTS`` in a fork of this process, which has no threads but idle pools of libraries.

    Args:
        arguments: of the command line.
        log: where standard error goes; standard output goes nowhere.
        strace: options of strace, which sees the child from its first system call on.
        threads: whether it sees all threads and children of the child, or the main thread alone.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if not child:
        _be_the_command(arguments, log, stopped=bool(strace))
    tracer = None
    if strace:
        os.waitpid(child, os.WUNTRACED)
        tracer = subprocess.Popen(["strace", *["-f"] * threads, "-q", *strace, "-p", str(child)], stderr=subprocess.DEVNULL)
        while "TracerPid:\t0\n" in Path(f"/proc/{child}/status").read_text():
            if tracer.poll() is not None:
                os.kill(child, signal.SIGKILL)
                raise RuntimeError(f"strace ended with {tracer.returncode}: {strace}")
            time.sleep(0.002)
        os.kill(child, signal.SIGCONT)
    code = _wait(child)
    if tracer is not None:
        tracer.wait()
    return Ended(code, log.read_text(errors="replace"))


def _wait(child: int) -> int | None:
    ends = os.pidfd_open(child)
    ready, _, _ = select.select([ends], [], [], MOST_SECONDS)
    os.close(ends)
    if not ready:
        os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    return os.waitstatus_to_exitcode(status) if ready else None


def _be_the_command(arguments: Sequence[str], log: Path, *, stopped: bool) -> None:
    """Never returns."""
    code = 70
    try:
        for handle, place, flags in ((0, os.devnull, os.O_RDONLY), (1, os.devnull, os.O_WRONLY)):
            os.dup2(os.open(place, flags), handle)
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666), 2)
        sys.argv = ["fimaudit", *arguments]
        if stopped:
            os.kill(os.getpid(), signal.SIGSTOP)
        from fimaudit.cli import main

        main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
