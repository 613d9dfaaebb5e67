"""What this package and copick 1.31 show of one data portal: random ones on this machine, asked with the portal's own client."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from support import portal as fixture
from support.interop import differences

pytest.importorskip("cryoet_data_portal")

from copick.testing.portal_server import PortalServer
from copick.testing.s3_server import S3Server

if TYPE_CHECKING:
    from collections.abc import Iterator

INCUMBENT = os.environ.get("COPICK_INCUMBENT_PYTHON")
HERE = Path(__file__).parent

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(INCUMBENT is None, reason="needs copick 1.31: run `make interop`"),
]

DELIBERATE = {
    r"runs/\d+/voxel_spacings/[\d.]+/(types|tomograms/\d+|by type/.*-\d+|found/.*-\d+)": (
        "Of several tomograms of one type all but the first have their id in the name; 1.31 calls them the same. "
        "The type finds them all, in both."
    ),
}


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with S3Server() as server:
        yield server


def seen(python: str, config: Path, url: str, s3: S3Server, script: str) -> Any:
    out = config.with_name("seen.json")
    environment = {
        **os.environ,
        "AWS_ENDPOINT_URL_S3": s3.url,
        "NO_PROXY": "127.0.0.1,localhost",
        "XDG_CACHE_HOME": str(config.with_name("user")),
    }
    subprocess.run(
        [python, HERE / script, config, out, url], check=True, env=environment, stdout=subprocess.DEVNULL
    )
    return json.loads(out.read_text(encoding="utf-8"))


def read_by_both(
    server: PortalServer, s3: S3Server, folder: Path, script: str = "read_portal.py"
) -> tuple[Any, Any]:
    fields = {
        "config_type": "cryoet_data_portal",
        "dataset_ids": [10440, 10441],
        "overlay_root": "",
        "overlay_fs_args": {"auto_mkdir": True},
        "pickable_objects": [
            *fixture.OBJECTS,
            {"name": "first", "is_particle": True, "label": 3, "identifier": "GO:2"},
            {"name": "last", "is_particle": True, "label": 4, "identifier": "GO:2"},
            {"name": "without", "is_particle": True, "label": 5},
        ],
    }
    found = []
    for name, python in (("theirs", INCUMBENT or ""), ("ours", sys.executable)):
        config = folder / name / "config.json"
        config.parent.mkdir()
        config.write_text(json.dumps({**fields, "overlay_root": f"local://{folder / name / 'overlay'}"}))
        found.append(seen(python, config, server.url, s3, script))
    return found[0], found[1]


@pytest.mark.parametrize("seed", [None, 0, 1, 2])
def test_both_see_the_same(s3: S3Server, tmp_path: Path, seed: int | None) -> None:
    with PortalServer() as server:
        portal = fixture.Portal(server)
        if seed is None:
            fixture.small(portal)
        else:
            fixture.any_portal(portal, seed)
        s3.put(fixture.BUCKET, portal.files)
        s3.publish(fixture.BUCKET)
        theirs, ours = read_by_both(server, s3, tmp_path)
    found = differences(theirs, ours)
    unexplained = {
        path: values
        for path, values in found.items()
        if not any(re.fullmatch(each, path) for each in DELIBERATE)
    }
    assert unexplained == {}
    for path, (one, other) in found.items():
        if path.rpartition("/")[0].endswith("/tomograms"):  # the same but for the name
            assert other[0] == f"{one[0]}-{path.rpartition('/')[2]}"
            assert other[1:] == one[1:]
    assert len(ours["runs"]) >= 2


def test_both_link_the_same(s3: S3Server, tmp_path: Path) -> None:
    with PortalServer() as server:
        portal = fixture.Portal(server)
        fixture.small(portal)
        s3.put(fixture.BUCKET, portal.files)
        s3.publish(fixture.BUCKET)
        theirs, ours = read_by_both(server, s3, tmp_path, "deposit_portal.py")
    assert theirs == ours
    assert len(ours["links"]) >= 10
