"""Cut the power at any traced call: files as a disk may hold them then, made anew from the calls that were synced.

What POSIX promises and nothing more: a file's bytes survive that were there when it was last synced, a folder's names those
that it had when it was last synced. Beyond that a disk may hold anything, of which three cases are tried: nothing that was
not synced (``lost``), every name but zeros for unsynced bytes (``zeros``), and a seeded half of the unsynced pages and names
(``mixed``).
"""

from __future__ import annotations

import copy
import random
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from scripts.crash.disturbing import Undisturbed
from scripts.crash.forked_command import run
from scripts.crash.operations import Operation
from scripts.crash.system_calls import watching

CASES = ("lost", "zeros", "mixed")
PAGE = 4096
_LINE = re.compile(r"^(\d+) +(\w+)\((.*)\) += (-?\d+)")
_UNFINISHED = re.compile(r"^(\d+) +(\w+)\((.*) <unfinished \.\.\.>$")
_RESUMED = re.compile(r"^(\d+) +<\.\.\. (\w+) resumed>(.*)$")
_TEXT = re.compile(r'"((?:\\x[0-9a-f]{2})*)"(?:\.\.\.)?')


@dataclass
class Inode:
    """A file: its bytes now, and when it was last synced."""

    now: bytearray = field(default_factory=bytearray)
    synced: bytes = b""


@dataclass
class Disk:
    """Names and files below one folder, now and as synced; paths are absolute.

    Attributes:
        names: path to inode, ``None`` for a folder.
        synced: the same as on the disk for certain.
        handles: descriptor to path and position.
    """

    names: dict[str, Inode | None] = field(default_factory=dict)
    synced: dict[str, Inode | None] = field(default_factory=dict)
    handles: dict[int, tuple[Inode | None, str, int]] = field(default_factory=dict)

    def apply(self, call: str, arguments: str, result: int) -> bool:
        """Apply one traced call; whether it changed anything."""
        step = getattr(self, f"_{call.removesuffix('at').removesuffix('64')}", None)
        if result < 0 or step is None:
            return False
        return bool(step(arguments, result))

    def _open(self, arguments: str, result: int) -> bool:
        path, flags = _paths(arguments)[0], arguments
        made = path not in self.names and "O_CREAT" in flags
        if made:
            self.names[path] = Inode()
        inode = self.names.get(path)
        if inode is not None and "O_TRUNC" in flags:
            made |= bool(inode.now)
            inode.now.clear()
        end = len(inode.now) if inode is not None and "O_APPEND" in flags else 0
        self.handles[result] = (inode, path, end)
        return made

    def _close(self, arguments: str, _: int) -> bool:
        self.handles.pop(int(arguments.split(",")[0]), None)
        return False

    def _lseek(self, arguments: str, result: int) -> bool:
        self._move(int(arguments.split(",")[0]), result)
        return False

    def _write(self, arguments: str, result: int) -> bool:
        handle = int(arguments.split(",")[0])
        inode, _, at = self.handles.get(handle, (None, "", 0))
        return inode is not None and self._put(inode, at, arguments, result) and self._move(handle, at + result)

    def _read(self, arguments: str, result: int) -> bool:
        handle = int(arguments.split(",")[0])
        if handle in self.handles:
            self._move(handle, self.handles[handle][2] + result)
        return False

    def _pwrite(self, arguments: str, result: int) -> bool:
        inode = self.handles.get(int(arguments.split(",")[0]), (None, "", 0))[0]
        return inode is not None and self._put(inode, int(arguments.rsplit(",", 1)[1]), arguments, result)

    def _ftruncate(self, arguments: str, _: int) -> bool:
        handle, size = (int(part) for part in arguments.split(","))
        inode = self.handles.get(handle, (None, "", 0))[0]
        if inode is not None:
            del inode.now[size:]
            inode.now.extend(bytes(size - len(inode.now)))
        return True

    def _rename(self, arguments: str, _: int) -> bool:
        old, new = _paths(arguments)
        moved = {p: i for p, i in self.names.items() if p == old or p.startswith(f"{old}/")}
        for path, inode in moved.items():
            del self.names[path]
            self.names[new + path.removeprefix(old)] = inode
        return bool(moved)

    def _unlink(self, arguments: str, _: int) -> bool:
        path = _paths(arguments)[-1]
        gone = [p for p in self.names if p == path or p.endswith(f"/{path}")]
        for name in gone:
            del self.names[name]
        return bool(gone)

    _rmdir = _unlink

    def _mkdir(self, arguments: str, _: int) -> bool:
        self.names[_paths(arguments)[0]] = None
        return True

    def _fsync(self, arguments: str, _: int) -> bool:
        inode, path, _at = self.handles.get(int(arguments.split(",")[0]), (None, "", 0))
        if inode is not None:
            inode.synced = bytes(inode.now)
        elif path:
            self.synced = {p: i for p, i in self.synced.items() if str(Path(p).parent) != path}
            self.synced |= {p: i for p, i in self.names.items() if str(Path(p).parent) == path}
        return True

    _fdatasync = _fsync

    def _put(self, inode: Inode, at: int, arguments: str, count: int) -> bool:
        data = _bytes(arguments)[:count]
        inode.now.extend(bytes(max(0, at - len(inode.now))))
        inode.now[at : at + len(data)] = data
        return True

    def _move(self, handle: int, to: int) -> bool:
        if handle in self.handles:
            inode, path, _ = self.handles[handle]
            self.handles[handle] = (inode, path, to)
        return True

    def after_a_cut(self, case: str, draw: random.Random) -> dict[str, bytes | None]:
        """What lies on the disk when power comes back."""
        names = dict(self.synced) if case == "lost" else dict(self.names)
        if case == "mixed":
            for path in {*self.synced, *self.names}:
                if self.synced.get(path) is not self.names.get(path) and draw.random() < 0.5:
                    names.pop(path, None)
                    names |= {path: self.synced[path]} if path in self.synced else {}
        return {path: None if inode is None else _held(inode, case, draw) for path, inode in names.items()}


def _held(inode: Inode, case: str, draw: random.Random) -> bytes:
    if case == "lost":
        return inode.synced
    held = bytearray(inode.now)
    for start in range(0, len(held), PAGE):
        page = slice(start, start + PAGE)
        before = inode.synced[page]
        if held[page] != before and (case == "zeros" or draw.random() < 0.5):
            held[page] = before.ljust(len(held[page]), b"\0")[: len(held[page])]
    return bytes(held)


def cut_everywhere(operation: Operation, whole: Undisturbed, place: Path, *, every: int = 1) -> tuple[int, list[str]]:
    """Cut the power after every so many calls that changed something, in each case, and type the command again.

    Returns:
        how many cuts were made, and what went wrong where.
    """
    root, lost, cuts = operation.folder.parent, [], 0
    for number, (disk, name, last) in enumerate(_disks(operation, place)):
        if (number + 1) % every and not last:
            continue
        for case in CASES:
            shutil.rmtree(operation.folder, ignore_errors=True)
            _lay_down(root, disk.after_a_cut(case, random.Random(number)))
            cuts += 1
            wrong = _survives(operation, whole, place, whole_already=last)
            if wrong:
                lost.append(f"{case} after call {number} ({name}): {wrong}")
                print(f"FAILED power cut, {lost[-1]}", flush=True)
    return cuts, lost


def _survives(operation: Operation, whole: Undisturbed, place: Path, *, whole_already: bool) -> str:
    """Why the run did not survive; a command that has ended left all of it behind."""
    if whole_already and (other := _differences(operation, whole)):
        return f"the command had ended, and yet {other} differ"
    ended = run(operation.again, place / "said.txt")
    if ended.code != 0:
        return f"the command typed again ended with {ended.code}: {ended.stderr.strip()[-400:]}"
    other = _differences(operation, whole)
    return f"another outcome in {other}" if other else ""


def _differences(operation: Operation, whole: Undisturbed) -> str:
    try:
        outcome = operation.outcome()
    except (OSError, ValueError) as exc:
        return f"what could not be read ({exc})"
    free = {"in use"}  # that a lock is gone need not be on the disk: nobody holds it
    return ", ".join(sorted(n for n in {*outcome, *whole.outcome} - free if outcome.get(n) != whole.outcome.get(n)))


def _disks(operation: Operation, place: Path) -> Iterator[tuple[Disk, str, bool]]:
    """The disk after every call that changed something, what the call was, and whether it is the last."""
    operation.prepare()
    trace = place / "power.txt"
    paths = [operation.folder.parent, *operation.paths]
    options = ["-o", str(trace), "-s", str(2**26), "-xx", *watching("folder", paths)]
    run(operation.arguments, place / "said.txt", options)
    disk = Disk()
    changed = []
    for call, arguments, result in _calls(trace):
        if disk.apply(call, arguments, result):
            changed.append((copy.deepcopy(disk), call))
    for number, (state, name) in enumerate(changed):
        yield state, name, number == len(changed) - 1


def _calls(trace: Path) -> Iterator[tuple[str, str, int]]:
    begun: dict[tuple[str, str], str] = {}
    for line in trace.read_text(errors="replace").splitlines():
        if (cut := _UNFINISHED.match(line)) is not None:
            begun[cut[1], cut[2]] = cut[3]
            continue
        if (resumed := _RESUMED.match(line)) is not None:
            line = f"{resumed[1]} {resumed[2]}({begun.pop((resumed[1], resumed[2]), '')}{resumed[3]}"
        if (whole := _LINE.match(line)) is not None:
            yield whole[2], whole[3], int(whole[4])


def _lay_down(root: Path, files: dict[str, bytes | None]) -> None:
    for path in sorted(files):
        if not path.startswith(f"{root}/"):
            continue
        if not Path(path).parent.is_dir():
            continue  # its folder's own name was lost
        held = files[path]
        if held is None:
            Path(path).mkdir(exist_ok=True)
        else:
            Path(path).write_bytes(held)


def _paths(arguments: str) -> list[str]:
    return [text.decode() for text in map(_decoded, _TEXT.findall(arguments))]


def _bytes(arguments: str) -> bytes:
    found = _TEXT.search(arguments)
    return b"" if found is None else _decoded(found[1])


def _decoded(text: str) -> bytes:
    return bytes.fromhex(text.replace("\\x", ""))
