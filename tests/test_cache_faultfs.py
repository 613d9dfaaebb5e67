"""The calls that a process makes to its cache folder fail one by one, or from some moment on, or end the process.

Reads, evictions, the journal and forgetting run with `support/faults.c` before libc. Whoever reads gets the source's bytes; nothing
that is in the folder afterwards is wrong.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from support.faults import CHANGES, LOCK, MAP, NAME, OPEN, READ, WRITE, library
from support.volumes import python

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="LD_PRELOAD")

STRESS = bool(os.environ.get("COPICK_STRESS"))

CASES = {
    "killed": {
        "killed, raw": (CHANGES, "kill", 43, "raw"),
        "killed, encoded": (CHANGES, "kill", 67, "encoded"),
    },
    "failing once": {
        "a file that cannot be opened": (OPEN, "once", 41, "raw"),
        "a read that fails": (READ, "once", 47, "encoded"),
        "a write that fails": (WRITE, "once", 47, "raw"),
        "a name that cannot be given": (NAME, "once", 23, "raw"),
        "a lock that fails": (LOCK, "once", 61, "raw"),
    },
    "failing from then on": {
        "files that cannot be opened": (OPEN, "always", 67, "raw"),
        "reads that fail": (READ, "always", 67, "raw"),
        "a full disk": (WRITE, "always", 61, "raw"),
        "a disk that became read-only": (NAME, "always", 29, "encoded"),
        "no mappings": (MAP, "always", 4, "raw"),
        "no locks": (LOCK, "always", 67, "raw"),
    },
    "short": {
        "short writes": (WRITE, "short", 53, "raw"),
        "short reads": (READ, "short", 61, "encoded"),
    },
}


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    try:
        return library(tmp_path_factory.mktemp("shim"))
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"there is no C compiler: {error}")


@pytest.mark.slow
@pytest.mark.parametrize("cases", CASES)
def test_calls_that_fail(tmp_path: Path, shim: Path, cases: str) -> None:
    chosen = {
        name: (kinds, how, 1 if STRESS else stride, disk_format)
        for name, (kinds, how, stride, disk_format) in CASES[cases].items()
    }
    code = "from support.faults import main; main()"
    done = python(
        code, tmp_path, json.dumps(chosen), timeout=6000 if STRESS else 280, env={"LD_PRELOAD": str(shim)}
    )
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout.splitlines()[-1])
    assert results.keys() == chosen.keys()
    failed = {name: what for name, what in results.items() if not what.endswith(" places")}
    assert not failed, failed
