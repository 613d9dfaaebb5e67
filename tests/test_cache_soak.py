"""Processes that read, write, evict and are killed beside each other: see `support.soak` for the long version."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING

import pytest

from support.volumes import python

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="/proc, and locks of open files")
def test_a_short_soak(tmp_path: Path) -> None:
    seconds = float(os.environ.get("SOAK_SECONDS", "20"))
    code = (
        "import json, sys; from pathlib import Path; from support.soak import is_sound, soak\n"
        "seen = soak(Path(sys.argv[1]), float(sys.argv[2]))\n"
        "print(json.dumps([is_sound(seen), seen]))"
    )
    done = python(code, tmp_path, seconds, timeout=seconds + 200)
    assert done.returncode == 0, done.stderr
    sound, seen = json.loads(done.stdout.splitlines()[-1])
    assert sound, seen
    assert min(seen["reads"], seen["writes"], seen["kills"], seen["evictions"]) > 0, seen
