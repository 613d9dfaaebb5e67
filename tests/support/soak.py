"""Processes that read, write and evict in one small cache while they are killed, for as long as one likes.

    SOAK_SECONDS=600 python -m support.soak

The working set is five times the cache. Each voxel says where it belongs, and in which version it was written, so that a wrong byte
shows wherever it comes from. One process is never killed: its memory and its open files tell of leaks.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from support.crashes import warm
from support.volumes import TOMOGRAM, config_of, write_array

if TYPE_CHECKING:
    import numpy.typing as npt

    from copick.models import CopickRoot, CopickTomogram

PROCESSES, TOMOGRAMS, SIDE, CHUNK = 4, 40, 64, 32
CHUNK_FILE = CHUNK**3 * 4 + 4
LIMIT = TOMOGRAMS * (SIDE // CHUNK) ** 3 * CHUNK_FILE // 5
KILL_S = 2.0
VERSIONS = 256


def voxels(number: int, version: int) -> npt.NDArray[np.uint32]:
    """A version of a tomogram, uint32 (SIDE, SIDE, SIDE): place, tomogram and version of each voxel."""
    place = np.arange(SIDE**3, dtype=np.uint32).reshape(SIDE, SIDE, SIDE)
    return place | np.uint32(number << 18) | np.uint32(version % VERSIONS << 24)


class Board:
    """Numbers that all processes see: versions begun and done of each tomogram, and what was counted."""

    COUNTS = ("reads", "writes", "errors", "wrong")

    def __init__(self, folder: Path) -> None:
        path = folder / "board"
        if not path.exists():
            path.write_bytes(bytes(8 * (2 * TOMOGRAMS + len(self.COUNTS) * 4096)))
        whole = np.memmap(path, np.int64, "r+")
        self.begun, self.done = whole[:TOMOGRAMS], whole[TOMOGRAMS : 2 * TOMOGRAMS]
        self._counts = whole[2 * TOMOGRAMS :].reshape(4096, -1)

    def count(self, what: str) -> None:
        self._counts[os.getpid() % 4096, self.COUNTS.index(what)] += 1  # a row for each process: no lock

    def total(self) -> dict[str, int]:
        return dict(zip(self.COUNTS, self._counts.sum(0).tolist(), strict=True))


def project(folder: Path, disk_format: str = "auto") -> CopickRoot:
    import copick

    cache = {
        "root": str(folder / "cache"),
        "parent_layer": "*",
        "max_size_bytes": LIMIT,
        "disk_format": disk_format,
    }
    return copick.from_string(json.dumps(config_of(folder / "project")), cache=cache)


def tomogram_of(root: CopickRoot, number: int) -> CopickTomogram:
    run = root.get_run(f"R{number}")
    assert run is not None
    spacing = run.get_voxel_spacing(10.0)
    assert spacing is not None
    (tomogram,) = spacing.get_tomograms("wbp")
    return tomogram


def prepare(folder: Path) -> None:
    for number in range(TOMOGRAMS):
        group = folder / "project" / TOMOGRAM.replace("R1", f"R{number}")
        write_array(group, voxels(number, 0), chunks=(CHUNK,) * 3)
    Board(folder)


def rewrite(tomogram: CopickTomogram, data: npt.NDArray[np.uint32]) -> None:
    """Write a version, mostly into the chunks that there are, else as a new array of one chunk."""
    if random.random() < 0.9:
        tomogram.set_region(data)
    else:
        tomogram.from_numpy(data, levels=1, dtype=np.uint32)


def is_right(
    data: npt.NDArray[np.uint32], box: tuple[slice, ...], number: int, first: int, last: int
) -> bool:
    """Whether a region is of versions between two, each chunk of it of one."""
    if not np.array_equal(data & 0xFFFFFF, voxels(number, 0)[box]):
        return False
    allowed = {version % VERSIONS for version in range(first, last + 1)}
    corner = [each.start for each in box]
    for low in np.ndindex((SIDE // CHUNK,) * 3):
        part = tuple(
            slice(max(at * CHUNK - begin, 0), max((at + 1) * CHUNK - begin, 0))
            for at, begin in zip(low, corner, strict=True)
        )
        found = np.unique(data[part] >> 24)
        if len(found) > 1 or not allowed.issuperset(found.tolist()):
            return False
    return True


def work(folder: Path, seed: int) -> None:
    """Read, mostly; write now and then; until the file `stop` is there."""
    random.seed(seed)
    board = Board(folder)
    root = project(folder, random.choice(["auto", "raw", "encoded"]))
    while not (folder / "stop").exists():
        number = min(int(random.expovariate(0.08)), TOMOGRAMS - 1)  # some are more wanted than others
        tomogram = tomogram_of(root, number)
        if random.random() < 0.02:
            with open(folder / f"lock-{number}", "w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                board.begun[number] += 1
                version = int(board.begun[number])
                rewrite(tomogram, voxels(number, version))
                board.done[number] = version
            board.count("writes")
            continue
        low = [random.randrange(0, SIDE - 8) for _ in range(3)]
        box = tuple(slice(at, min(at + random.choice([8, 40, SIDE]), SIDE)) for at in low)
        first = int(board.done[number])
        data = tomogram.numpy(z=box[0], y=box[1], x=box[2])
        last = int(board.begun[number])
        board.count("reads")
        if not is_right(data, box, number, first, last):
            board.count("wrong")
            (folder / f"wrong-{os.getpid()}").write_text(f"{number} {box} {first} {last}")
    from copick.cache import manager as managers

    for manager in managers._managers.values():
        assert manager.check()
        manager.close()


def begin(folder: Path, seed: int) -> int:
    pid = os.fork()
    if pid:
        return pid
    try:
        work(folder, seed)
    except BaseException:  # noqa: BLE001 (a child must end here, whatever it raised)
        (folder / f"error-{os.getpid()}").write_text(traceback.format_exc())
        Board(folder).count("errors")
        os._exit(1)
    os._exit(0)


def chunk_bytes(cache: Path) -> int:
    total = 0
    for parent, folders, names in os.walk(cache):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if name.isdigit():
                with contextlib.suppress(OSError):
                    total += os.stat(os.path.join(parent, name)).st_size
    return total


def resources(pid: int) -> tuple[int, int]:
    """Open files, and megabytes of memory of its own, of a process: the least within seconds.

    A volume in one chunk of 256³, as they are written by default, takes 200 MB for a moment.
    """
    seen = []
    for _ in range(40):
        rows = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        seen.append((len(os.listdir(f"/proc/{pid}/fd")), int(rows["RssAnon"].split()[0]) >> 10))
        time.sleep(0.05)
    return min(files for files, _ in seen), min(memory for _, memory in seen)


def locked(path: Path) -> bool:
    """Whether anybody still holds a lock on any byte of a file."""
    import struct

    with open(path, "rb+") as file:
        asked = struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 0, 0)
        (kind,) = struct.unpack_from("h", fcntl.fcntl(file, fcntl.F_OFD_GETLK, asked))
    return bool(kind != fcntl.F_UNLCK)


def soak(folder: Path, seconds: float, kill_s: float = KILL_S) -> dict[str, Any]:
    """Run it; what was seen."""
    from copick.cache.manager import CacheManager
    from copick.cache.verify import collect, verify

    cache, found = folder / "cache", Counter[str]()
    warm(lambda: (prepare(folder / "warm"), project(folder / "warm").get_run("R0"), once(folder / "warm")))
    shutil.rmtree(folder / "warm")
    prepare_in_child(folder)
    seeds = iter(range(1 << 30))
    workers = [begin(folder, next(seeds)) for _ in range(PROCESSES)]
    elder, start, killed = workers[0], time.monotonic(), time.monotonic()
    early: tuple[int, int] | None = None
    most = 0
    while (now := time.monotonic()) < start + seconds:
        time.sleep(0.1)
        most = max(most, chunk_bytes(cache))
        if list(folder.glob("error-*")):
            break
        if early is None and now > start + seconds / 3:
            early = resources(elder)
        if now > killed + kill_s:
            at = random.randrange(1, PROCESSES)
            os.kill(workers[at], signal.SIGKILL)
            status = os.waitstatus_to_exitcode(os.waitpid(workers[at], 0)[1])
            found["killed" if status == -signal.SIGKILL else "ended"] += 1
            workers[at], killed = begin(folder, next(seeds)), now
        if found["ended"] or list(folder.glob("wrong-*")):
            break
    late = resources(elder) if not list(folder.glob("error-*")) else (0, 0)
    (folder / "stop").write_text("")
    statuses = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in workers]
    report = verify(cache)
    manager = CacheManager(cache, max_size_bytes=LIMIT)
    usage = manager.budget.ledger.add()
    collect(manager, older_than=0)
    manager.close()
    left = verify(cache)
    return {
        "seconds": round(time.monotonic() - start, 1), **Board(folder).total(), "kills": found["killed"],
        "exits": statuses, "evictions": usage and usage.evictions,
        "over_the_budget": most - LIMIT, "allowed_over": PROCESSES * (SIDE**3 * 4 + 4), "limit": LIMIT,
        "files_early_late": (early and early[0], late[0]), "megabytes_early_late": (early and early[1], late[1]),
        "problems": [f"{each.path}: {each.text}" for each in (*report.problems, *left.problems)],
        "leftovers_before_and_after_gc": (len(report.leftovers), len(left.leftovers)),
        "locked": locked(cache / ".cache_metadata" / "locks"),
        "errors_text": [path.read_text()[-2000:] for path in folder.glob("error-*")][:3],
        "wrong_text": [path.read_text() for path in folder.glob("wrong-*")],
    }  # fmt: skip


def once(folder: Path) -> None:
    tomogram = tomogram_of(project(folder, "encoded"), 1)
    tomogram.numpy()
    tomogram.set_region(voxels(1, 1))
    tomogram.from_numpy(voxels(1, 1), levels=1, dtype=np.uint32)


def prepare_in_child(folder: Path) -> None:
    """This process must not start a thread: its children would lack it."""
    if (pid := os.fork()) == 0:
        prepare(folder)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0


def is_sound(seen: dict[str, Any]) -> bool:
    """Whether nothing was wrong, no bound was passed and nothing leaked."""
    files, memory = seen["files_early_late"], seen["megabytes_early_late"]
    return bool(
        seen["wrong"] == seen["errors"] == 0
        and set(seen["exits"]) == {0}
        and not seen["problems"]
        and not seen["locked"]
        and seen["leftovers_before_and_after_gc"][1] == 0
        and seen["over_the_budget"] <= seen["allowed_over"]
        and files[1] <= files[0] + 20
        and memory[1] <= memory[0] + 50
    )


def main() -> None:
    seconds = float(os.environ.get("SOAK_SECONDS", "600"))
    folder = Path(tempfile.mkdtemp(prefix="copick-soak-"))
    seen = soak(folder, seconds)
    print(json.dumps(seen, indent=1))
    if not is_sound(seen):
        sys.exit(f"not sound; see {folder}")
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
