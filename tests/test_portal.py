"""The data portal as a layer: the portal's own client against a server and an S3 store on this machine."""

from __future__ import annotations

import gzip
import json
import logging
import os
import pickle
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import copick
from copick.config import CopickConfigFS
from copick.config_portal import CopickConfigPortal
from copick.errors import (
    ConfigError,
    FormatError,
    LayerError,
    NotFoundError,
    ReadOnlyError,
    UnknownNameError,
)
from copick.impl.cryoet_data_portal import (
    CopickPicksPortal,
    CopickRootCDP,
    CopickRootPortal,
    CopickRunCDP,
    CopickRunPortal,
    CopickSegmentationPortal,
    CopickTomogramPortal,
    CopickVoxelSpacingPortal,
    from_czcdp_datasets,
)
from copick.impl.multilayer import CopickConfigMultilayer, CopickRootMultilayer
from copick.index.stack import AGAIN_S, _update_if_due
from copick.layers.portal_client import ROWS, TRIES
from copick.layers.transfer import one_at_a_time
from copick.util.portal import objects_from_datasets
from support import portal as fixture
from support.portal import AUTHORS, MASK, OBJECTS, SIZE, TURNED, VOLUME

pytest.importorskip("cryoet_data_portal")

from copick.testing.portal_server import PortalServer
from copick.testing.s3_server import S3Server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from copick.models import CopickRoot, CopickRun

ONE = ("datasets", "runs", "tomogramVoxelSpacings", "tomograms", "annotationFiles")


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with S3Server() as server:
        server.put(fixture.BUCKET, {})
        server.publish(fixture.BUCKET)
        yield server


@pytest.fixture(scope="module")
def running() -> Iterator[PortalServer]:
    """One for all tests: the portal's client parses its schema for each address."""
    with PortalServer() as portal:
        yield portal


@pytest.fixture
def server(running: PortalServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PortalServer:
    monkeypatch.setenv("COPICK_PORTAL_CACHE_DIR", str(tmp_path / "user"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    running.clear()
    return running


@pytest.fixture
def mortal(server: PortalServer, config: dict[str, Any]) -> PortalServer:
    """One that a test may close, with the same rows; the config asks it."""
    portal = PortalServer()
    portal.tables = server.tables
    config["url"] = portal.url
    return portal


@pytest.fixture
def portal(server: PortalServer) -> fixture.Portal:
    return fixture.Portal(server)


@pytest.fixture
def ids(portal: fixture.Portal, s3: S3Server) -> dict[str, int]:
    """The rows of a small portal, whose files are there."""
    made = fixture.small(portal)
    s3.put(fixture.BUCKET, portal.files)
    s3.requests.clear()
    return made


@pytest.fixture
def config(ids: dict[str, int], server: PortalServer, s3: S3Server) -> dict[str, Any]:
    return fixture.config(server, s3.url)


@pytest.fixture
def root(config: dict[str, Any]) -> CopickRoot:
    return copick.from_string(json.dumps(config))


@pytest.fixture
def run(root: CopickRoot, ids: dict[str, int]) -> CopickRun:
    found = root.get_run(str(ids["run"]))
    assert found is not None
    return found


def everything(root: CopickRoot) -> dict[str, list[str]]:
    """What is listed, run by run."""
    return {
        run.name: [
            *(str(tomogram.ref) for spacing in run.voxel_spacings for tomogram in spacing.tomograms),
            *(str(picks.ref) for picks in run.picks),
            *(str(mask.ref) for mask in run.segmentations),
        ]
        for run in root.runs
    }


# What is listed


def test_one_request_lists_everything(root: CopickRoot, server: PortalServer, ids: dict[str, int]) -> None:
    listed = everything(root)
    assert [request.fields for request in server.requests] == [ONE]
    assert [*listed] == ["1001", "1002", "1003"]
    assert [len(things) for things in listed.values()] == [7, 1, 0]


def test_runs(root: CopickRoot, run: CopickRun, ids: dict[str, int]) -> None:
    assert (run.name, run.portal_run_id, run.portal_run_name, run.portal_dataset_id) == (
        "1001",
        1001,
        "TS_5_4",
        10440,
    )
    assert [each.meta.portal_run_name for each in root.runs] == ["TS_5_4", "TS_6_4", "TS_5_4"]
    assert root.get_run("4711") is None
    assert root.get_run("no such") is None
    assert root.get_run("0") is None
    assert isinstance(root, CopickRootPortal)
    assert isinstance(run, CopickRunCDP)
    assert run.read_only


def test_runs_by_their_portal_name(
    root: CopickRoot, config: dict[str, Any], server: PortalServer, ids: dict[str, int]
) -> None:
    found = root.get_run("TS_6_4")
    assert found is not None
    assert found.name == str(ids["other run"])
    with pytest.raises(UnknownNameError, match="several runs 'TS_5_4': 1001, 1003"):
        root.get_run("TS_5_4")
    shown = copick.from_string(json.dumps({**config, "runs": ["1001"]}))
    assert shown.get_run("TS_6_4") is None
    assert [each.name for each in shown.runs] == ["1001"]
    assert len(server.requests) == 1  # for both: the second reads what the first has kept


def test_tomograms(run: CopickRun, s3: S3Server) -> None:
    sizes = {spacing.voxel_size: spacing for spacing in run.voxel_spacings}
    assert [*sizes] == [4.99, SIZE]
    types = [tomogram.tomo_type for tomogram in sizes[SIZE].tomograms]
    assert types == ["wbp-denoised-cryocare-ctfdeconv", "wbp-raw"]
    assert [tomogram.tomo_type for tomogram in sizes[4.99].tomograms] == ["fourierSpace-raw"]
    assert s3.requests == []
    (raw,) = sizes[SIZE].get_tomograms("wbp-raw")
    assert np.array_equal(raw.numpy(), VOLUME)
    assert raw.array("2").shape == (3, 4, 5)
    assert raw.read_only
    assert {request.method for request in s3.requests} == {"GET"}
    assert raw.features == []


def test_two_tomograms_of_one_type(
    root: CopickRoot, run: CopickRun, portal: fixture.Portal, ids: dict[str, int], s3: S3Server
) -> None:
    """Each is listed and can be told from the other; the type finds both, as in copick 1.x."""
    second = portal.tomogram(ids["run"], ids["spacing"], VOLUME + 1, name="second")
    s3.put(fixture.BUCKET, portal.files)
    root.refresh()
    spacing = run.get_voxel_spacing(SIZE)
    assert spacing is not None
    assert [t.tomo_type for t in spacing.tomograms] == [
        "wbp-denoised-cryocare-ctfdeconv",
        "wbp-raw",
        f"wbp-raw-{second}",
    ]
    both = spacing.get_tomograms("wbp-raw")
    assert [tomogram.meta.portal_tomo_id for tomogram in both] == [ids["wbp"], second]  # type: ignore[attr-defined]
    (found,) = spacing.get_tomograms("wbp-raw", portal_meta_query={"name": "second"})
    assert np.array_equal(found.numpy(), VOLUME + 1)
    portal.tomogram(ids["run"], ids["spacing"], processing_software=str(second + 2))
    portal.tomogram(ids["run"], ids["spacing"])  # its id is in the name of the one before
    root.refresh()
    assert {t.meta.portal_tomo_id for t in spacing.query_tomograms()} >= {second, second + 1, second + 2}  # type: ignore[attr-defined]


def test_picks(run: CopickRun, ids: dict[str, int], s3: S3Server) -> None:
    points, oriented = run.picks
    assert (points.pickable_object_name, points.user_id, points.session_id) == (
        "ribosome",
        "data-portal",
        str(ids["points"]),
    )
    assert (points.trust_orientation, oriented.trust_orientation) == (False, True)
    assert points.from_tool
    assert not points.from_user
    assert s3.requests == []
    locations, transforms = points.numpy()
    assert np.allclose(locations, np.array([[1, 2, 3], [4.5, 5, 6]]) * SIZE, rtol=1e-15)
    assert np.array_equal(transforms, np.tile(np.eye(4), (2, 1, 1)))
    turned = oriented.numpy()[1]
    assert np.array_equal(turned[0, :3, :3], TURNED)
    assert np.array_equal(turned[:, :, 3], [[0, 0, 0, 1]] * 2)
    about: Any = points.meta
    assert about.portal_metadata.annotation_file_id == ids["points"]
    assert about.portal_metadata.object_name == "cytosolic ribosome"
    assert (about.unit, about.run_name) == ("angstrom", "1001")
    assert len(s3.requests) == 2


def test_masks(run: CopickRun, ids: dict[str, int]) -> None:
    (mask,) = run.get_segmentations()
    (instances,) = run.get_segmentations(is_instance=True)
    assert (mask.name, mask.session_id, mask.voxel_size) == ("membrane", str(ids["mask"]), SIZE)
    assert np.array_equal(mask.numpy(), MASK)
    assert (instances.is_instance, instances.numpy().dtype) == (True, np.uint16)
    assert instances.session_id == str(ids["instances"])


def test_objects_that_the_project_looks_for_are_shown(run: CopickRun, root: CopickRoot) -> None:
    """Also one that is declared while the project is open; of two with one identifier the last counts, as in copick 1.x."""
    root.new_object("strange", True, identifier="GO:9999999")
    run.refresh_picks()
    assert [picks.pickable_object_name for picks in run.picks] == ["ribosome", "ribosome", "strange"]
    assert run.picks[2].points == []  # a file of nothing; copick 1.31 cannot read such
    root.new_object("other", True, identifier="GO:9999999")
    run.refresh_picks()
    assert [picks.pickable_object_name for picks in run.picks] == ["other", "ribosome", "ribosome"]


# Questions


def test_metadata_and_authors(
    root: CopickRoot, run: CopickRun, server: PortalServer, ids: dict[str, int]
) -> None:
    (true,) = run.get_picks(portal_meta_query={"ground_truth_status": True, "object_state": None})
    assert true.session_id == str(ids["points"])
    assert run.get_picks(portal_meta_query={"ground_truth_status": True, "object_id": "nothing"}) == []
    (both,) = run.get_picks(portal_author_query=[*AUTHORS])
    assert both.session_id == str(ids["points"])
    assert len(run.get_picks(portal_author_query=AUTHORS[1:])) == 2
    assert run.get_picks(portal_author_query=["ada lovelace"]) == []  # exact
    assert run.get_picks("membrane", portal_author_query=[*AUTHORS]) == []
    assert len(run.get_segmentations(portal_author_query=[*AUTHORS])) == 1
    spacing = run.get_voxel_spacing(SIZE)
    assert spacing is not None
    (denoised,) = spacing.get_tomograms(portal_meta_query={"processing": "denoised"})
    assert denoised.tomo_type == "wbp-denoised-cryocare-ctfdeconv"
    (wbp,) = spacing.get_tomograms(portal_author_query=[*AUTHORS])
    assert wbp.tomo_type == "wbp-raw"


def test_each_question_is_asked_once_for_all_runs(root: CopickRoot, server: PortalServer) -> None:
    _ = root.runs
    server.requests.clear()
    for _ in range(2):
        found = [run.get_picks(portal_author_query=["Ada Lovelace"]) for run in root.runs]
    assert [len(picks) for picks in found] == [1, 0, 0]
    assert [request.fields for request in server.requests] == [("annotations",)]


def test_questions_that_cannot_be(run: CopickRun, caplog: pytest.LogCaptureFixture) -> None:
    assert (
        len(run.get_picks(portal_meta_query={"ground_truth_statuz": True})) == 2
    )  # ignored, as in copick 1.x
    assert "did you mean 'ground_truth_status'" in caplog.text
    with pytest.raises(FormatError, match="cannot be asked that"):
        run.get_picks(portal_meta_query={"ground_truth_status": "yes"})
    for day, expected in ((datetime(2024, 1, 1, tzinfo=UTC), 2), (datetime(2020, 1, 1, tzinfo=UTC), 0)):
        assert len(run.get_picks(portal_meta_query={"deposition_date": day})) == expected


# Under and over other layers


def stacked(config: dict[str, Any], tmp_path: Path, **more: Any) -> CopickRoot:
    """The portal below a folder."""
    own = {key: value for key, value in config.items() if key != "pickable_objects"}
    return copick.from_string(
        json.dumps(
            {
                "config_type": "multilayer",
                "pickable_objects": OBJECTS,
                "user_id": "me",
                "layers": ["portal", "work"],
                "layer_configs": {
                    "portal": own,
                    "work": {"config_type": "filesystem", "root": str(tmp_path / "work")},
                },
                **more,
            }
        )
    )


def test_your_own_beside_the_portals(config: dict[str, Any], tmp_path: Path, ids: dict[str, int]) -> None:
    root = stacked(config, tmp_path)
    assert root.layer_names == ["work", "portal"]
    run = root.get_run("1001")
    assert run is not None
    mine = run.new_picks("ribosome", "1")
    mine.from_numpy([[1, 2, 3]])
    assert mine.sources == ["work"]
    assert [picks.sources for picks in run.picks] == [["portal"], ["portal"], ["work"]]
    assert (run.sources, run.portal_run_name) == (["work", "portal"], "TS_5_4")
    again = stacked(config, tmp_path)
    assert [(picks.user_id, len(picks.points)) for picks in again.runs[0].picks] == [
        ("data-portal", 2),
        ("data-portal", 2),
        ("me", 1),
    ]
    assert again.runs[0].portal_run_name == "TS_5_4"
    assert again.runs[0].get_picks(portal_author_query=["Ada Lovelace"])[0].user_id == "data-portal"
    assert [each.name for each in again.on("work").runs] == ["1001"]


INDEXES = pytest.mark.parametrize("by_index", [False, True], ids=["by its layers", "by its index"])


def over_the_portal(config: dict[str, Any], tmp_path: Path, by_index: bool, **more: Any) -> CopickRoot:
    """The portal below a folder, and an index, if there is one, that knows all."""
    db = {"db_path": str(tmp_path / "index.db"), "auto_index": False}
    root = stacked(config, tmp_path, **({"db_config": db} if by_index else {}), **more)
    if by_index:
        root.index_all_layers()
        root = type(root)(root.config)
    return root


def session_ids(found: list[Any]) -> list[str]:
    return sorted(each.session_id for each in found)


@INDEXES
def test_what_the_portal_says_of_things(
    config: dict[str, Any], tmp_path: Path, ids: dict[str, int], portal: fixture.Portal, by_index: bool
) -> None:
    """Listed or found, with an index and without."""
    twin = portal.tomogram(ids["run"], ids["spacing"])
    root = over_the_portal(config, tmp_path, by_index)
    run = root.get_run("1001")
    assert run is not None
    assert run.portal_run_name == "TS_5_4"
    spacing = run.voxel_spacings[1]
    assert spacing.meta.portal_vs_id == ids["spacing"]  # type: ignore[attr-defined]
    assert [t.tomo_type for t in spacing.get_tomograms("wbp-raw")] == ["wbp-raw", f"wbp-raw-{twin}"]
    found = over_the_portal(config, tmp_path, by_index)
    points = found.find_objects("picks", session_id=str(ids["points"]))["picks"]
    masks = found.find_objects("segmentations", is_instance=True)["segmentations"]
    tomograms = found.find_objects("tomograms", tomo_type="wbp-raw")["tomograms"]
    for one in (run.picks[0], *points, found.runs[0].picks[0]):
        assert one.meta.portal_metadata.annotation_file_id == ids["points"]  # type: ignore[attr-defined]
        assert [point.location.x for point in one.points] == pytest.approx([SIZE, 4.5 * SIZE])
        assert one.meta.portal_metadata.shape_type == "Point"  # type: ignore[attr-defined]
    for mask in (*run.get_segmentations(is_instance=True), *masks):
        assert mask.meta.portal_metadata.annotation_file_id == ids["instances"]  # type: ignore[attr-defined]
    for tomogram in (spacing.tomograms[1], *tomograms):
        assert tomogram.meta.portal_tomo_id == ids["wbp"]  # type: ignore[attr-defined]
        assert tomogram.voxel_spacing.meta.portal_vs_id == ids["spacing"]  # type: ignore[attr-defined]
        assert tomogram.voxel_spacing.run.meta.portal_run_id == ids["run"]
    assert not [each for each in (points[0].run, masks[0].run) if each.portal_run_name != "TS_5_4"]


@INDEXES
def test_finding_by_what_the_portal_alone_knows(
    config: dict[str, Any], tmp_path: Path, ids: dict[str, int], server: PortalServer, by_index: bool
) -> None:
    root = over_the_portal(config, tmp_path, by_index)
    mine = root.get_run("1001").new_picks("ribosome", "1")  # type: ignore[union-attr]
    mine.meta.portal_author = "Grace Hopper"  # type: ignore[attr-defined]
    mine.store()
    server.requests.clear()
    found = root.find_objects(author="Grace Hopper")
    assert session_ids(found["picks"]) == sorted(["1", str(ids["points"]), str(ids["oriented"])])
    assert session_ids(found["segmentations"]) == [str(ids["mask"])]
    assert [t.tomo_type for t in found["tomograms"]] == ["wbp-raw"]
    assert found["runs"] == []
    asked = [request.fields for request in server.requests if request.fields != ONE]
    assert sorted(asked) == [("annotations",), ("tomograms",)]
    both = root.find_objects("picks", author=[*AUTHORS], metadata={"ground_truth_status": True})["picks"]
    assert session_ids(both) == [str(ids["points"])]
    assert session_ids(
        root.find_objects("picks", metadata={"ground_truth_status": [True, False]})["picks"]
    ) == sorted([str(ids["points"]), str(ids["oriented"])])
    for nothing in ({"ground_truth_status": "maybe"}, {"object_state": "apo"}, {"no_column": True}):
        assert root.find_objects("picks", metadata=nothing)["picks"] == []
    having = root.find_objects("runs", having={"picks": {"author": "Ada Lovelace"}})["runs"]
    assert [run.name for run in having] == ["1001"]
    ((picks, *_), *more) = root.find_points([0, 0, 0], author="Ada Lovelace")
    assert (picks.session_id, more) == (str(ids["points"]), [])
    assert root.find_objects("picks", author="Ada Lovelace", layers="work")["picks"] == []


def test_an_index_notices_what_the_portal_and_the_config_say(
    config: dict[str, Any], tmp_path: Path, ids: dict[str, int], server: PortalServer, s3: S3Server
) -> None:
    """Other datasets, other objects, another row of the same id."""
    root = over_the_portal(config, tmp_path, True)
    fewer = over_the_portal({**config, "dataset_ids": [10440]}, tmp_path, True)
    assert [run.name for run in fewer.runs] == ["1001", "1002"]
    strange = {"name": "strange", "is_particle": True, "label": 9, "identifier": "GO:9999999"}
    db = {"db_path": str(tmp_path / "index.db"), "auto_index": False}
    other = stacked(config, tmp_path, db_config=db, pickable_objects=[*OBJECTS, strange])
    assert len(other.find_objects("picks", object_name="strange")["picks"]) == 1  # the layers are asked
    row = server.tables["AnnotationFile"][ids["points"]]
    row["s3Path"] = row["s3Path"].replace("thing", "other")
    s3.put(fixture.BUCKET, {row["s3Path"].split("/", 3)[3]: fixture.ndjson([fixture.point(9, 9, 9)] * 3)})
    root.index_all_layers()
    again = over_the_portal(config, tmp_path, True)
    assert session_ids(again.find_objects("picks", point_count=3)["picks"]) == [str(ids["points"])]


def test_a_file_that_the_portal_lacks_keeps_nobody_from_indexing(
    config: dict[str, Any], tmp_path: Path, ids: dict[str, int], portal: fixture.Portal
) -> None:
    missing = portal.annotation(ids["run"], ids["spacing"], "Point")
    for by_index in (False, True):
        root = over_the_portal(config, tmp_path, by_index)
        assert str(missing) in session_ids(root.find_objects("picks")["picks"])
        assert str(missing) not in session_ids(root.find_objects("picks", point_count_min=0)["picks"])
        assert root.search("ribosome")["picks"]
        assert root.get_summary_statistics()["total"]["points"] == 5
    assert root.layer_status()["portal"]["problem"] is None


def test_finding_what_is_listed_reads_no_file(config: dict[str, Any], tmp_path: Path, s3: S3Server) -> None:
    db = {"db_path": str(tmp_path / "never made.db"), "auto_index": False}
    for more in ({}, {"db_config": db}):
        root = stacked(config, tmp_path, **more)
        s3.requests.clear()
        assert len(root.find_objects("picks")["picks"]) == 3
        assert len(root.find_objects("tomograms", layer="portal")["tomograms"]) == 3
        assert root.find_objects("picks")["picks"][0].sources == ["portal"]
        assert s3.requests == []


def test_a_change_of_the_portals_is_copied_up(config: dict[str, Any], tmp_path: Path) -> None:
    root = stacked(config, tmp_path)
    run = root.get_run("1001")
    assert run is not None
    picks = run.picks[0]
    picks.points = picks.points[:1]
    picks.store()
    assert picks.sources == ["work", "portal"]
    assert [len(each.points) for each in stacked(config, tmp_path).runs[0].picks] == [1, 2]
    (mask,) = run.get_segmentations()
    mask.set_region(np.ones((1, 1, 1)), z=slice(0, 1), y=slice(0, 1), x=slice(0, 1))
    assert mask.sources == ["work", "portal"]
    assert np.array_equal(mask.numpy()[1:], MASK[1:])
    with pytest.raises(ReadOnlyError, match=r"still in layer.* portal"):
        mask.delete()


def test_nothing_is_written_to_the_portal(root: CopickRoot, run: CopickRun) -> None:
    for attempt in (
        lambda: root.new_run("TS_9"),
        lambda: run.new_voxel_spacing(20),
        lambda: run.new_picks("ribosome", "1", "me"),
        lambda: run.picks[0].store(),
        lambda: run.picks[0].delete(),
        lambda: run.segmentations[0].from_numpy(MASK),
        lambda: run.delete(),
    ):
        with pytest.raises(ReadOnlyError, match="read-only"):
            attempt()


def test_the_cache_serves_what_was_read(
    config: dict[str, Any],
    tmp_path: Path,
    server: PortalServer,
    s3: S3Server,
    own_managers: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("COPICK_PORTAL_CACHE_DIR")
    cache = {"config_type": "cache", "root": str(tmp_path / "cache")}

    def read() -> tuple[Any, Any]:
        root = stacked(config, tmp_path, cache_config=cache)
        run = root.get_run("1001")
        assert run is not None
        spacing = run.get_voxel_spacing(SIZE)
        assert spacing is not None
        (tomogram,) = spacing.get_tomograms("wbp-raw")
        return tomogram.numpy(), run.picks[0].numpy()[0]

    first = read()
    assert np.array_equal(first[0], VOLUME)
    assert s3.requests
    assert len(server.requests) == 1
    assert [*(tmp_path / "cache/.cache_metadata/portal").glob("*.json.gz")]
    assert not (tmp_path / "user").exists()
    s3.requests.clear()
    server.requests.clear()
    second = read()
    assert all(np.array_equal(one, other) for one, other in zip(first, second, strict=True))
    assert (s3.requests, server.requests) == ([], [])


def test_the_cache_does_not_take_one_file_for_another(
    config: dict[str, Any],
    tmp_path: Path,
    portal: fixture.Portal,
    ids: dict[str, int],
    s3: S3Server,
    own_managers: None,
) -> None:
    """What is called by the same name may be something else tomorrow: it went and the next one moved up, or it was made anew."""
    portal.tomogram(ids["run"], ids["spacing"], VOLUME + 1)
    cache = {"config_type": "cache", "root": str(tmp_path / "cache")}

    def read(root: CopickRoot) -> tuple[Any, Any, Any]:
        run = root.get_run("1001")
        assert run is not None
        spacing = run.get_voxel_spacing(SIZE)
        assert spacing is not None
        tomogram, mask, picks = spacing.get_tomograms("wbp-raw")[0], run.segmentations[0], run.picks[0]
        return tomogram.numpy(), mask.numpy(), picks.numpy()[0]

    s3.put(fixture.BUCKET, portal.files)
    root = stacked(config, tmp_path, cache_config=cache)
    before = read(root)
    assert np.array_equal(before[0], VOLUME)
    del portal.server.tables["Tomogram"][ids["wbp"]]
    rows = portal.server.tables["AnnotationFile"]
    for row, content in (
        (rows[ids["mask"]], fixture.multiscale(1 - MASK, levels=1)),
        (rows[ids["points"]], {"": fixture.ndjson([fixture.point(9, 9, 9)])}),
    ):
        row["s3Path"] = row["s3Path"].replace("-1.0_", "-2.0_")
        at = row["s3Path"].split("/", 3)[3]
        s3.put(fixture.BUCKET, {f"{at}/{key}".rstrip("/"): value for key, value in content.items()})
    root.refresh()
    for again in (root, stacked(config, tmp_path, cache_config=cache)):
        now = read(again)
        assert np.array_equal(now[0], VOLUME + 1)
        assert np.array_equal(now[1], 1 - MASK)
        assert np.allclose(now[2], 9 * SIZE)


def test_an_index_reads_what_the_portal_says_once(
    config: dict[str, Any], tmp_path: Path, server: PortalServer, s3: S3Server
) -> None:
    index = {"db_path": str(tmp_path / "index.db"), "auto_index": False}
    root = stacked(config, tmp_path, db_config=index)
    root.index_all_layers()
    assert s3.requests
    expected = [(str(picks.ref), len(picks.points)) for picks in root.runs[0].picks]
    s3.requests.clear()
    again = stacked(config, tmp_path, db_config=index)
    again.index_all_layers()
    found = again.find_objects("picks", point_count_min=1, layer="portal")["picks"]
    assert {str(picks.ref) for picks in found} >= {ref for ref, count in expected if count}
    assert s3.requests == []


def test_the_cache_knows_no_objects(
    config: dict[str, Any], tmp_path: Path, server: PortalServer, own_managers: None
) -> None:
    """Another object in the config is seen at once: what the portal said does not depend on it."""
    cache = {"config_type": "cache", "root": str(tmp_path / "cache")}
    assert len(stacked(config, tmp_path, cache_config=cache).runs[0].picks) == 2
    more = [*OBJECTS, {"name": "strange", "is_particle": True, "label": 3, "identifier": "GO:9999999"}]
    root = stacked(config, tmp_path, cache_config=cache, pickable_objects=more)
    assert len(root.runs[0].picks) == 3
    root.runs[0].refresh_picks()
    assert len(root.runs[0].picks) == 3
    assert [request.fields for request in server.requests] == [ONE, ONE[1:]]


# Projects of copick 1.x


def test_a_project_of_1x(
    config: dict[str, Any], tmp_path: Path, server: PortalServer, ids: dict[str, int]
) -> None:
    fields = {
        "config_type": "cryoet_data_portal",
        "name": "old",
        "dataset_ids": [10440],
        "overlay_root": f"local://{tmp_path / 'overlay'}",
        "overlay_fs_args": {"auto_mkdir": True},
        "pickable_objects": OBJECTS,
        "user_id": "me",
        "unknown_key": 1,
        "url": server.url,
        "fs_args": config["fs_args"],
        "portal_cache_dir": str(tmp_path / "kept"),
    }
    path = tmp_path / "project.json"
    path.write_text(json.dumps(fields))
    root = copick.from_file(path)
    assert isinstance(root, CopickRootCDP)
    assert root.layer_names == ["overlay", "portal"]
    assert root.dataset_ids == [10440]
    assert [(dataset.id, dataset.title) for dataset in root.datasets] == [(10440, "dataset 10440")]
    assert root.go_map == {item["identifier"]: item["name"] for item in OBJECTS}
    assert root.root_overlay == str(tmp_path / "overlay")
    assert [run.portal_run_id for run in root.runs] == [1001, 1002]
    run = root.runs[0]
    assert isinstance(run, CopickRunCDP)
    assert run.picks[0].read_only
    mine = run.new_picks("ribosome", "1")
    assert (mine.sources, mine.read_only) == (["overlay"], False)
    made = root.new_run("mine")  # 1.31 forgets it
    assert isinstance(made, CopickRunCDP)
    root.refresh()
    assert [each.name for each in root.runs] == ["1001", "1002", "mine"]
    assert [*(tmp_path / "kept").glob("*.json.gz")]
    root.save_config(path)
    assert [each.name for each in CopickRootCDP.from_file(path).runs] == ["1001", "1002", "mine"]


def test_runs_of_a_directory_are_not_of_the_portal(root: CopickRoot, tmp_path: Path) -> None:
    from projects import alone

    made = alone(tmp_path / "plain").new_run("TS_1")
    assert not isinstance(made, CopickRunCDP)
    assert (made.portal_run_id, made.portal_run_name) == (None, None)


def test_from_datasets(
    server: PortalServer, ids: dict[str, int], s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "config.json"
    root = from_czcdp_datasets(
        [10440, 10441],
        tmp_path / "overlay",
        {"auto_mkdir": True},
        "me",
        output_path=path,
        url=server.url,
        fs_args={"endpoint_url": s3.url},
    )
    assert copick.from_czcdp_datasets is from_czcdp_datasets
    objects = {item.name: item for item in root.pickable_objects}
    assert [*objects] == ["membrane", "cytosolic-ribosome", "unknown"]
    ribosome = objects["cytosolic-ribosome"]
    assert (ribosome.is_particle, ribosome.label, ribosome.radius) == (True, 2, 50)
    assert (ribosome.emdb_id, ribosome.pdb_id) == ("EMD-3883", "4V9D")
    assert not objects["membrane"].is_particle
    assert everything(copick.from_file(path)) == everything(root)
    assert len(server.requests) == 1
    written = path.read_text()
    with pytest.raises(LayerError, match="cannot be written"):
        from_czcdp_datasets([10440], tmp_path / "overlay", url=server.url, output_path=tmp_path)
    again = from_czcdp_datasets(np.array([10440]), tmp_path / "overlay", url=server.url, output_path=path)
    assert (path.read_text() != written, copick.from_file(path).dataset_ids) == (True, again.dataset_ids)  # type: ignore[attr-defined]


def test_generated_objects_are_the_same_in_every_process(server: PortalServer, ids: dict[str, int]) -> None:
    code = (
        "import sys; from copick.util.portal import objects_from_datasets as objects;"
        "print([item.model_dump() for item in objects([10440], url=sys.argv[1])])"
    )
    said = {
        subprocess.run(
            [sys.executable, "-c", code, server.url],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert said == {f"{[item.model_dump() for item in objects_from_datasets([10440], url=server.url)]}\n"}


def test_names_of_generated_objects(portal: fixture.Portal, server: PortalServer) -> None:
    """The commonest name of a thing counts; two things of one name are told apart."""
    run = portal.dataset(1, ["a"])["a"]
    spacing = portal.spacing(run)
    for identifier, name in (
        ("GO:1", "B"),
        ("GO:1", "A"),
        ("GO:1", "B"),
        ("GO:2", "b"),
        ("PDB-4V9D", "c d_e"),
        ("GO:3", ""),
        ("go:2", "b"),
        ("GO_2", "b"),
    ):
        portal.annotation(run, spacing, "Point", object_id=identifier, object_name=name)
    made = {item.identifier: item for item in objects_from_datasets([1], url=server.url)}
    assert {key: item.name for key, item in made.items()} == {
        "GO:1": "b",
        "GO:2": "b-go-2",
        "GO_2": "b-go-2-2",
        "go:2": "b-go-2-3",
        "GO:3": "go-3",
        "PDB-4V9D": "c-d-e",
    }
    assert made["PDB-4V9D"].pdb_id == "4V9D"
    assert len({item.color for item in made.values()}) == 6


def test_names_that_no_object_can_have(portal: fixture.Portal, server: PortalServer, tmp_path: Path) -> None:
    """What the portal calls things is free text: each is an object whose picks can be stored."""
    run = portal.dataset(1, ["a"])["a"]
    spacing = portal.spacing(run)
    for at, name in enumerate(
        ("..", "_", " / ", ".hidden", "x" * 300, "x" * 301, "é" * 150, "核糖体", "..-..")
    ):
        portal.annotation(run, spacing, "Point", [], object_id=f"GO:{at}", object_name=name)
    portal.annotation(run, spacing, "Point", [], object_id="/", object_name="/")
    root = from_czcdp_datasets([1], tmp_path, user_id="me", url=server.url)
    assert [item.name[:12] for item in root.pickable_objects] == [
        "object",
        *("go-0", "go-1", "go-2", "hidden", "x" * 12, "x" * 12, "é" * 12, "核糖体", "go-8"),
    ]
    (shown,) = root.runs
    for item in root.pickable_objects:
        shown.new_picks(item.name, "1").from_numpy([[1, 2, 3]])
    assert len(shown.query_picks()) == 20
    stack = {"portal": {"config_type": "cryoet_data_portal", "dataset_ids": [1], "url": server.url}}
    objects = [item.model_dump(mode="json") for item in root.config.pickable_objects]
    config = {"config_type": "multilayer", "layers": ["portal"], "layer_configs": stack}
    assert len(copick.from_string(json.dumps({**config, "pickable_objects": objects})).runs[0].picks) == 10


def test_types_that_are_too_long_for_a_file(
    config: dict[str, Any], portal: fixture.Portal, ids: dict[str, int], tmp_path: Path
) -> None:
    """The index, the cache and copies call files so."""
    for software in ("x" * 300, "x" * 301, "é" * 200):
        portal.tomogram(ids["run"], ids["spacing"], processing_software=software)
    root = over_the_portal(config, tmp_path, by_index=True)
    spacing = root.runs[0].voxel_spacings[1]
    types = [tomogram.tomo_type for tomogram in spacing.tomograms]
    assert len({*types}) == 5
    assert all(tomogram.ref.path for tomogram in spacing.tomograms)
    assert [t.tomo_type for t in root.find_objects("tomograms", tomo_type=types[2])["tomograms"]] == [
        types[2]
    ]


# Configs


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"dataset_ids": []}, "dataset_ids: "),
        ({"dataset_ids": ["x"]}, r"dataset_ids\.0: found 'x'"),
        ({"dataset_ids": [2**31]}, r"dataset_ids\.0: found 2147483648"),
        ({"dataset_id": [1]}, r"dataset_id: unknown key \(did you mean 'dataset_ids'\?\)"),
        ({"url": "portal.org"}, "url: found 'portal.org'"),
        ({"read_only": False}, "read_only: the portal cannot be written"),
        ({"timeout_s": 0}, "timeout_s: found 0"),
    ],
)
def test_configs_that_cannot_be(fields: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        copick.from_string(json.dumps({"config_type": "cryoet_data_portal", "dataset_ids": [1], **fields}))


def test_one_portal_in_a_stack(config: dict[str, Any], tmp_path: Path) -> None:
    own = {"config_type": "cryoet_data_portal", "dataset_ids": [1]}
    stack = {"config_type": "multilayer", "layers": ["a", "b"], "layer_configs": {"a": own, "b": own}}
    with pytest.raises(
        ConfigError, match=r"layer_configs\.b: is a second layer of type 'cryoet_data_portal'"
    ):
        copick.from_string(json.dumps(stack))
    root = stacked(config, tmp_path, layers=["portal", "work"])
    assert isinstance(root.layer_specific("portal"), CopickRootPortal)  # type: ignore[attr-defined]


def test_the_address_may_be_in_the_environment(
    config: dict[str, Any], server: PortalServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COPICK_PORTAL_URL", server.url)
    del config["url"]
    assert len(copick.from_string(json.dumps(config)).runs) == 3
    for more in ({}, {"overlay_root": str(tmp_path)}):
        root = copick.from_string(json.dumps({**config, **more}))
        assert [dataset.id for dataset in root.datasets] == [10440, 10441]  # type: ignore[attr-defined]
    monkeypatch.setenv("COPICK_PORTAL_URL", "")
    assert CopickConfigPortal(dataset_ids=[1]).url is None


# Processes


def test_a_project_goes_to_other_processes(root: CopickRoot, server: PortalServer) -> None:
    listed = everything(root)
    again = pickle.loads(pickle.dumps(root))
    assert everything(again) == listed
    again.new_object("strange", True, identifier="GO:9999999")
    assert len(again.runs[0].query_picks()) == 3
    assert len(server.requests) == 1


def test_threads_ask_once(root: CopickRoot, server: PortalServer) -> None:
    server.latency_s = 0.2
    found: list[int] = []
    threads = [threading.Thread(target=lambda: found.append(len(root.query()))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [3] * 4
    assert len(server.requests) == 1


def test_threads_that_need_a_run_anew(root: CopickRoot, run: CopickRun, server: PortalServer) -> None:
    assert len(run.picks) == 2
    server.latency_s = 0.2
    run.refresh()
    with ThreadPoolExecutor(4) as threads:
        asked = [threads.submit(run.query_picks) for _ in range(4)]
    assert [len(each.result()) for each in asked] == [2] * 4


def test_processes_that_start_together_ask_once(
    config: dict[str, Any], server: PortalServer, tmp_path: Path
) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    server.latency_s = 1.0
    code = "import copick, sys; print(len(copick.from_file(sys.argv[1]).runs))"
    started = [
        subprocess.Popen([sys.executable, "-c", code, path], stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    assert [process.communicate(timeout=120)[0] for process in started] == ["3\n"] * 4
    assert len(server.requests) == 1


# What may go wrong


def test_unknown_datasets(config: dict[str, Any]) -> None:
    root = copick.from_string(json.dumps({**config, "dataset_ids": [10440, 99999]}))
    with pytest.raises(ConfigError, match="has no dataset 99999; check dataset_ids"):
        _ = root.runs


def test_an_index_of_a_project_with_unknown_datasets(config: dict[str, Any], tmp_path: Path) -> None:
    """It has the other layers, and is tried again."""
    db = {"db_path": str(tmp_path / "index.db"), "auto_index": False}
    root = stacked({**config, "dataset_ids": [99999]}, tmp_path, db_config=db)
    with pytest.raises(LayerError, match=r"layer 'portal': .*has no dataset 99999"):
        root.index_all_layers()
    assert root.layer_status()["work"]["indexed"]
    assert "no dataset 99999" in root.layer_status()["portal"]["problem"]
    assert _update_if_due(root.layer) == AGAIN_S  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="has no dataset 99999"):
        root.search("ribosome")


def test_the_portal_is_down(config: dict[str, Any], mortal: PortalServer) -> None:
    url = mortal.url
    mortal.close()
    root = copick.from_string(json.dumps(config))
    with pytest.raises(LayerError, match=f"the portal {url} failed: .*check the address and the network"):
        _ = root.runs


def test_the_portal_is_silent(config: dict[str, Any], server: PortalServer) -> None:
    """It is asked for less each time, and not for ever."""
    server.latency_s = 0.6
    root = copick.from_string(json.dumps({**config, "timeout_s": 0.2}))
    with pytest.raises(LayerError, match=r"did not answer within timeout_s=0\.2"):
        _ = root.runs
    time.sleep(1)  # until the server has seen them all
    assert len(server.requests) == TRIES


@pytest.mark.parametrize(
    "answer",
    [
        b"<html>maintenance</html>",
        b"",
        b"null",
        b"5",
        b'"data"',
        b"[]",
        b'{"data": null}',
        b'{"data": []}',
        b'{"data": {}}',
        b'{"data": {"t0": null, "t1": null, "t2": null, "t3": null, "t4": null}}',
        b'{"data": {"t0": [null], "t1": [], "t2": [], "t3": [], "t4": []}}',
        b'{"data": {"t0": [{"id": 10440}, {"id": 10441}], "t1": [{"id": 1}], "t2": [], "t3": [], "t4": []}}',
        b'{"errors": "boom"}',
        b'{"errors": ["boom"], "data": null}',
        b'{"errors": [{"message": null}]}',
        b'{"errors": []}',
    ],
)
def test_answers_that_are_none(
    root: CopickRoot, running: PortalServer, monkeypatch: pytest.MonkeyPatch, answer: bytes
) -> None:
    """As a proxy gives them, or something else at that address."""
    monkeypatch.setattr(running, "_executed", lambda question: (200, answer))
    with pytest.raises(LayerError, match=f"the portal {running.url} failed: "):
        _ = root.runs
    monkeypatch.undo()
    assert len(root.runs) == 3


def test_an_address_with_a_password(
    config: dict[str, Any], server: PortalServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is used, and not shown."""
    caplog.set_level(logging.DEBUG, "copick")
    own = {
        **config,
        "url": server.url.replace("http://", "http://me:hunter2@"),
        "cache_dir": str(tmp_path / "kept"),
    }
    server.fail_next = [503, 403]
    root = copick.from_string(json.dumps(own))
    with pytest.raises(LayerError, match="403") as failed:
        _ = root.runs
    assert len(root.runs) == 3
    (layer,) = root.layer.layers  # type: ignore[attr-defined]
    (kept,) = (tmp_path / "kept").iterdir()
    for shown in (
        str(failed.value),
        repr(layer),
        layer.location,
        gzip.decompress(kept.read_bytes()),
        caplog.text,
    ):
        assert "hunter2" not in str(shown)


def test_an_answer_that_is_too_much(
    root: CopickRoot, server: PortalServer, config: dict[str, Any], portal: fixture.Portal
) -> None:
    """It asks for half, and half again; everything is found, once."""
    portal.server.add_many("Run", ({"dataset_id": 10441, "name": f"r{at}"} for at in range(5000)))
    server.max_rows = 2000
    runs = root.runs
    assert len({run.name for run in runs}) == len(runs) == 5003
    statuses = [request.status for request in server.requests]
    assert {*statuses} == {200, 502}
    assert statuses.count(502) <= 5
    assert statuses.count(200) <= 8


@pytest.mark.parametrize("stall_s", [0.0, 3.0], ids=["is cut off", "stops coming"])
def test_an_answer_that_does_not_end(
    config: dict[str, Any], server: PortalServer, portal: fixture.Portal, stall_s: float
) -> None:
    """It is asked for less, as after a 502."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            status, body = server._answered(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            whole = server.requests[-1].rows <= 1500
            self.wfile.write(body if whole else body[:100])
            self.wfile.flush()
            time.sleep(0 if whole else stall_s)

        def log_message(self, *_: object) -> None:
            pass

    server.add_many("Run", ({"dataset_id": 10441, "name": f"r{at}"} for at in range(3000)))
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as between:
        threading.Thread(target=between.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{between.server_port}/graphql"
        found = copick.from_string(json.dumps({**config, "url": url, "timeout_s": 2})).runs
        between.shutdown()
    assert len({run.name for run in found}) == len(found) == 3003


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_portal_that_is_busy(root: CopickRoot, server: PortalServer, status: int) -> None:
    server.fail_next = [status, status]
    assert len(root.runs) == 3
    assert [request.status for request in server.requests] == [status, status, 200]


@pytest.mark.parametrize("status", [429, 502, 503])
def test_a_portal_that_is_busy_in_graphql(
    root: CopickRoot, running: PortalServer, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    """Gateways say it in the form of a refusal."""
    executed, turns = running._executed, iter(range(9))
    busy = status, b'{"errors": [{"message": "too many requests"}]}'
    monkeypatch.setattr(running, "_executed", lambda asked: executed(asked) if next(turns) > 1 else busy)
    assert len(root.runs) == 3
    (layer,) = root.layer.layers  # type: ignore[attr-defined]
    assert layer.client._rows == (ROWS if status == 429 else ROWS // 4)


def test_an_error_that_stays_is_told_at_once(root: CopickRoot, server: PortalServer) -> None:
    server.refuse_next = ["Cannot query field 'x' on type 'Run'"] * 2
    with pytest.raises(LayerError, match="it refuses the question: Cannot query field 'x'"):
        _ = root.runs
    assert len(server.requests) == 1
    server.refuse_next, server.fail_next = [], [403]
    with pytest.raises(LayerError, match="403"):
        _ = root.runs
    assert len(server.requests) == 2
    assert len(root.runs) == 3


def test_what_was_kept_is_served_while_the_portal_is_down(
    config: dict[str, Any], mortal: PortalServer, caplog: pytest.LogCaptureFixture
) -> None:
    config["max_age"] = 0.05
    listed = everything(copick.from_string(json.dumps(config)))
    time.sleep(config["max_age"])
    mortal.close()
    root = copick.from_string(json.dumps(config))
    assert everything(root) == listed
    assert caplog.text.count("What it said 0.0 hours ago is used") == 1
    root.refresh()
    assert everything(root) == listed
    assert caplog.text.count("What it said 0.0 hours ago is used") == 2


def test_what_is_known_counts_before_what_was_kept_earlier(
    config: dict[str, Any], mortal: PortalServer, portal: fixture.Portal, tmp_path: Path
) -> None:
    """In a folder that cannot be written any more."""
    config["cache_dir"] = str(tmp_path / "kept")
    root = copick.from_string(json.dumps(config))
    assert len(root.runs) == 3
    (kept,) = (tmp_path / "kept").iterdir()
    old = kept.read_bytes()
    portal.dataset(10441, ["new"])
    root.refresh()
    assert len(root.runs) == 4
    kept.write_bytes(old)
    mortal.close()
    root.refresh()
    assert len(root.runs) == 4


def test_a_run_that_was_refreshed_while_the_portal_is_down(
    config: dict[str, Any], mortal: PortalServer, caplog: pytest.LogCaptureFixture
) -> None:
    root = copick.from_string(json.dumps(config))
    run = root.runs[0]
    mortal.close()
    run.refresh()
    assert len(run.picks) == 2
    assert len(run.voxel_spacings) == 2
    assert caplog.text.count("What it said 0.0 hours ago is used") == 1


def test_datasets_of_something_else(
    config: dict[str, Any], running: PortalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "_executed", lambda question: (200, b'{"data": null}'))
    with pytest.raises(LayerError, match=f"the portal {running.url} failed: "):
        _ = CopickRootPortal(CopickConfigPortal(**config)).datasets


def test_datasets_of_a_silent_portal(config: dict[str, Any], server: PortalServer, tmp_path: Path) -> None:
    from gql.transport.exceptions import TransportConnectionFailed

    portal = CopickRootPortal(CopickConfigPortal(**{**config, "timeout_s": 0.2}))
    (dataset, _) = portal.datasets
    server.latency_s = 0.6
    with pytest.raises(LayerError, match=r"did not answer within timeout_s=0\.2"):
        _ = portal.datasets
    with pytest.raises(TransportConnectionFailed, match="timed out"):
        _ = [*dataset.runs]
    legacy = copick.from_string(json.dumps({**config, "overlay_root": str(tmp_path)}))
    server.latency_s = 0
    assert [each.id for each in legacy.datasets] == [10440, 10441]  # type: ignore[attr-defined]


def test_a_portal_that_gives_fewer_rows_than_asked_for(
    config: dict[str, Any], server: PortalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = PortalServer._page
    monkeypatch.setattr(PortalServer, "_page", lambda self, *asked: page(self, *asked)[:200])
    server.add_many("Run", ({"dataset_id": 10441, "name": f"r{at}"} for at in range(997)))
    assert len(copick.from_string(json.dumps(config)).runs) == 1000


def test_what_is_old_is_asked_for_again(config: dict[str, Any], server: PortalServer) -> None:
    for age, asked in ((0, 1), (1000, 1), (1e-6, 2)):
        assert len(copick.from_string(json.dumps({**config, "max_age": age})).runs) == 3
        assert len(server.requests) == asked
    assert len(copick.from_string(json.dumps({**config, "cache_dir": False})).runs) == 3
    assert len(server.requests) == 3


def test_refresh(root: CopickRoot, run: CopickRun, portal: fixture.Portal, ids: dict[str, int]) -> None:
    assert len(run.picks) == 2
    new = portal.annotation(ids["run"], ids["spacing"], "Point", [])
    other = portal.dataset(10441, ["new"])["new"]
    portal.server.requests.clear()
    run.refresh_picks()
    assert [picks.session_id for picks in run.picks] == [
        str(ids["points"]),
        str(ids["oriented"]),
        str(new),
    ]
    assert root.get_run(str(other)) is None
    root.refresh()
    assert root.get_run(str(other)) is not None
    assert [request.fields for request in portal.server.requests] == [ONE[1:], ONE]


def test_a_clock_that_is_set_back(
    root: CopickRoot, server: PortalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was asked for after a refresh counts, whatever the time was then."""
    assert len(root.runs) == 3
    root.refresh()
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() - 7200)
    for _ in range(3):
        assert [len(run.query_picks()) for run in root.query()] == [2, 1, 0]
    assert len(server.requests) == 2


@pytest.mark.timeout(60)
def test_whoever_asks_and_was_stopped_holds_up_nobody(config: dict[str, Any], server: PortalServer) -> None:
    with one_at_a_time(f"portal {server.url} [10440, 10441]"):
        assert len(copick.from_string(json.dumps({**config, "timeout_s": 0.5})).runs) == 3


def test_a_damaged_file_is_asked_for_again(
    config: dict[str, Any], server: PortalServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config["cache_dir"] = str(tmp_path / "kept")
    listed = everything(copick.from_string(json.dumps(config)))
    (kept,) = (tmp_path / "kept").glob("*.json.gz")
    whole = kept.read_bytes()
    odd = [
        gzip.compress(text)
        for text in (b"null", b"[" * 200_000, b'{"tables": [], "time": 1%s}' % (b"0" * 400))
    ]
    for damaged in (b"", whole[:100], b"x" * 50, whole[:-1] + b"?", *odd):
        kept.write_bytes(damaged)
        server.requests.clear()
        assert everything(copick.from_string(json.dumps(config))) == listed
        assert len(server.requests) == 1
    assert caplog.text.count("cannot be read") >= 7


@pytest.mark.timeout(60)
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
def test_what_lies_in_the_place_of_a_kept_file(
    config: dict[str, Any], server: PortalServer, tmp_path: Path
) -> None:
    config["cache_dir"] = str(tmp_path / "kept")
    listed = everything(copick.from_string(json.dumps(config)))
    (kept,) = (tmp_path / "kept").glob("*.json.gz")
    kept.unlink()
    os.mkfifo(kept)
    assert everything(copick.from_string(json.dumps(config))) == listed
    assert kept.is_file()


def test_a_folder_behind_links(
    config: dict[str, Any], server: PortalServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As homes of clusters have them."""
    (tmp_path / "scratch").mkdir()
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "link").symlink_to(tmp_path / "scratch")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for folder in (
        str(tmp_path / "home" / "link"),
        str(tmp_path / "home" / "link" / "below"),
        "~/link/of home",
    ):
        server.requests.clear()
        for _ in range(2):
            assert len(copick.from_string(json.dumps({**config, "cache_dir": folder})).runs) == 3
        assert len(server.requests) == 1
    assert len([*(tmp_path / "scratch").rglob("*.json.gz")]) == 3


def test_the_users_own_folder(
    config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import platformdirs

    monkeypatch.delenv("COPICK_PORTAL_CACHE_DIR")
    monkeypatch.setattr(platformdirs, "user_cache_path", tmp_path.joinpath)
    assert len(copick.from_string(json.dumps(config)).runs) == 3
    assert len([*(tmp_path / "copick" / "portal").iterdir()]) == 1


def test_a_folder_that_cannot_be_written(
    config: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    root = copick.from_string(json.dumps({**config, "cache_dir": str(tmp_path / "file")}))
    assert len(root.runs) == 3
    assert caplog.text.count("cannot be kept") == 1


def test_rows_that_lack_something(
    root: CopickRoot, run: CopickRun, portal: fixture.Portal, ids: dict[str, int], server: PortalServer
) -> None:
    """What the portal says too little of is left out; the rest is shown."""
    listed = everything(root)
    server.add("Annotation", run_id=ids["run"], object_id=fixture.RIBOSOME)  # no shape
    portal.annotation(ids["run"], None, "Point", [])  # no voxel spacing
    server.add("AnnotationFile", annotation_shape_id=None, format="ndjson", s3_path="s3://x/y")
    shape = server.add("AnnotationShape", annotation_id=None, shape_type="Point")
    server.add("AnnotationFile", annotation_shape_id=shape, format="ndjson", s3_path="s3://x/y")
    portal.annotation(ids["run"], ids["spacing"], "SegmentationMask", file_fields={"format": "mrc"})
    portal.tomogram(ids["run"], ids["spacing"], s3_omezarr_dir=None)
    for size in (-1.0, 0.0, 0.0004, 1e300):
        portal.spacing(ids["run"], size)
    root.refresh()
    assert everything(root) == listed
    alone = server.add(  # its voxel size is stated by itself alone
        "Tomogram",
        run_id=ids["run"],
        tomogram_voxel_spacing_id=None,
        voxel_spacing=7.5,
        processing_software=None,
        s3_omezarr_dir="s3://x/y.zarr",
        ctf_corrected=None,
    )
    root.refresh()
    found = root.get_run("1001")
    assert found is not None
    (tomogram,) = found.voxel_spacings[1].tomograms
    assert (tomogram.voxel_spacing.voxel_size, tomogram.tomo_type) == (7.5, "sart-denoised")
    assert tomogram.meta.portal_tomo_id == alone  # type: ignore[attr-defined]


def test_files_that_are_missing(
    root: CopickRoot, run: CopickRun, portal: fixture.Portal, ids: dict[str, int]
) -> None:
    mask = portal.annotation(ids["run"], ids["spacing"], "SegmentationMask", object_id=fixture.MEMBRANE)
    points = portal.annotation(ids["run"], ids["spacing"], "Point")
    root.refresh()
    (missing,) = run.get_segmentations(session_id=str(mask))
    with pytest.raises(NotFoundError, match=r"s3://cryoet-portal/.*zarr has no array '0'"):
        missing.numpy()
    (picks,) = run.get_picks(session_id=str(points))
    with pytest.raises(NotFoundError, match=r"the portal lists s3://.*ndjson, but it is not there"):
        _ = picks.points
    assert len(run.picks[0].points) == 2


def test_files_on_the_web(
    root: CopickRoot, run: CopickRun, portal: fixture.Portal, ids: dict[str, int], s3: S3Server
) -> None:
    """They are read without what is stated for buckets, credentials among it."""
    tables = portal.server.tables
    for row, column in (
        (tables["Tomogram"][ids["wbp"]], "s3OmezarrDir"),
        (tables["AnnotationFile"][ids["points"]], "s3Path"),
    ):
        row[column] = row[column].replace("s3://", f"{s3.url}/")
    root.refresh()
    (picks,) = run.get_picks(session_id=str(ids["points"]))
    assert len(picks.points) == 2
    spacing = run.get_voxel_spacing(SIZE)
    assert spacing is not None
    assert np.array_equal(spacing.get_tomograms("wbp-raw")[0].numpy(), VOLUME)


@pytest.mark.parametrize(
    "path", ["s3://", "s3:///x", "s3://bucket/", "{here}/x", "file://{here}/x", "local://{here}/x", "x", " "]
)
def test_files_that_are_nowhere(
    root: CopickRoot, run: CopickRun, portal: fixture.Portal, ids: dict[str, int], tmp_path: Path, path: str
) -> None:
    """What the portal states leads to no file of this machine."""
    (tmp_path / "x").write_bytes(fixture.ndjson([fixture.point(1, 2, 3)]))
    stated = path.format(here=tmp_path)
    points = portal.annotation(ids["run"], ids["spacing"], "Point", [], file_fields={"s3_path": stated})
    tomogram = portal.tomogram(ids["run"], ids["spacing"], s3_omezarr_dir=stated)
    root.refresh()
    (picks,) = run.get_picks(session_id=str(points))
    with pytest.raises(FormatError, match="which is no address of a file; tell the portal"):
        _ = picks.points
    spacing = run.get_voxel_spacing(SIZE)
    assert spacing is not None
    (found,) = spacing.get_tomograms(f"wbp-raw-{tomogram}")
    with pytest.raises(FormatError, match="which is no address of a file; tell the portal"):
        found.numpy()
    assert len(run.picks[0].points) == 2


def test_files_that_are_refused(
    root: CopickRoot, run: CopickRun, portal: fixture.Portal, ids: dict[str, int], s3: S3Server
) -> None:
    s3.put("private-bucket", {"points.ndjson": b""})
    private = {"s3_path": "s3://private-bucket/points.ndjson"}
    points = portal.annotation(ids["run"], ids["spacing"], "Point", file_fields=private)
    root.refresh()
    (picks,) = run.get_picks(session_id=str(points))
    with pytest.raises(LayerError, match=r"s3://private-bucket/.* failed: .*check that you may read it"):
        _ = picks.points


def test_a_store_that_fails(run: CopickRun, s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3, "fault", lambda request: 403)
    for read in (lambda: run.picks[0].points, lambda: run.segmentations[0].numpy()):
        with pytest.raises(LayerError, match=r"s3://cryoet-portal/.* failed: .*a fault was injected"):
            read()


@pytest.mark.parametrize(
    "line",
    [
        b"{",
        b"[]",
        b'{"type": "point"}',
        b'{"location": {"x": 1, "y": 2}}',
        b'{"location": {"x": 1, "y": 2, "z": "a"}}',
        b'{"location": {"x": 1, "y": 2, "z": 3}, "xyz_rotation_matrix": [[1, 2], [3, 4]]}',
        b'{"location": {"x": 1, "y": 2, "z": 3}, "instance_id": Infinity}',
        b'{"location": {"x": 1%s, "y": 2, "z": 3}}' % (b"0" * 400),
        b"[" * 100_000,
    ],
)
def test_points_that_are_none(run: CopickRun, s3: S3Server, portal: fixture.Portal, line: bytes) -> None:
    path = next(path for path in portal.files if path.endswith("_point.ndjson"))
    s3.put(fixture.BUCKET, {path: fixture.ndjson([fixture.point(1, 2, 3)]) + b"\n" + line})
    with pytest.raises(FormatError, match=r"_point.ndjson, line 2: is no point"):
        _ = run.picks[0].points


def test_other_forms_of_points(run: CopickRun, s3: S3Server, portal: fixture.Portal) -> None:
    path = next(path for path in portal.files if path.endswith("_point.ndjson"))
    at = {"x": 1, "y": 2, "z": 3}
    lines = [{"location": at, "rotation_matrix": TURNED}, {"location": at, "instance_id": 7}]
    s3.put(fixture.BUCKET, {path: fixture.ndjson(lines) + b"\n\n"})
    picks = run.picks[0]
    assert np.array_equal(picks.numpy()[1][0, :3, :3], TURNED)
    assert picks.instance_ids().tolist() == [0, 7]


def test_the_package_is_missing(config: dict[str, Any]) -> None:
    code = (
        "import sys; sys.modules['cryoet_data_portal'] = None; import copick;copick.from_string(sys.argv[1])"
    )
    del config["url"]
    done = subprocess.run([sys.executable, "-c", code, json.dumps(config)], capture_output=True, text=True)
    assert 'try: pip install "copick[portal]"' in done.stderr


# The specifications


def test_portal_of_the_specification(config: dict[str, Any], server: PortalServer, tmp_path: Path) -> None:
    stack = CopickConfigMultilayer(
        layers=["filesystem", "portal"],
        layer_configs={
            "filesystem": CopickConfigFS(root=str(tmp_path / "data"), layer_name="filesystem", priority=50),
            "portal": CopickConfigPortal(
                dataset_ids=[10440],
                url=server.url,
                fs_args=config["fs_args"],
                layer_name="portal",
                priority=10,
            ),
        },
        default_write_layer="filesystem",
        pickable_objects=OBJECTS,
    )
    root = CopickRootMultilayer(stack)
    assert root.layer_names == ["filesystem", "portal"]
    assert [run.portal_run_name for run in root.query()] == ["TS_5_4", "TS_6_4"]
    alone = root.layer_specific("portal")
    assert isinstance(alone, CopickRootPortal)
    assert alone.dataset_ids == [10440]
    assert alone.config.layer_name == "portal"
    assert copick.config.CopickConfigPortal is CopickConfigPortal
    (run, _) = CopickRootPortal(stack.layer_configs["portal"]).runs
    assert isinstance(run, CopickRunPortal)
    assert len(root.find_objects(object_name="ribosome")["picks"]) == 3
    assert [found.portal_run_name for found in root.search("1002")["runs"]] == ["TS_6_4"]
    assert len(server.requests) == 1
    assert isinstance(alone.runs[0].voxel_spacings[0], CopickVoxelSpacingPortal)
    assert isinstance(alone.runs[0].voxel_spacings[0].tomograms[0], CopickTomogramPortal)
    assert isinstance(alone.runs[0].picks[0], CopickPicksPortal)
    assert isinstance(alone.runs[0].segmentations[0], CopickSegmentationPortal)


def test_command(
    server: PortalServer, ids: dict[str, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from click.testing import CliRunner

    from copick.cli.cli import cli

    monkeypatch.setenv("COPICK_PORTAL_URL", server.url)
    output = tmp_path / "config.json"
    asked = [
        "config",
        "dataportal",
        "-ds",
        "10440",
        "--overlay",
        str(tmp_path / "mine"),
        "--output",
        str(output),
    ]
    done = CliRunner().invoke(cli, asked, catch_exceptions=False)
    assert done.exit_code == 0
    assert f"Wrote {output}" in done.output
    root = copick.from_file(output)
    assert [run.portal_run_name for run in root.runs] == ["TS_5_4", "TS_6_4"]
    assert len(server.requests) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_reads_on(config: dict[str, Any], tmp_path: Path) -> None:
    """What the parent has opened is of no use to a child: it opens its own."""
    code = """
import os, sys, warnings, copick
warnings.simplefilter("ignore")
run = copick.from_string(sys.argv[1]).runs[0]
def read():
    run.refresh_picks()
    tomograms = [tomogram for spacing in run.voxel_spacings for tomogram in spacing.tomograms]
    return len(run.picks), len(run.picks[0].points), [tomogram.numpy().shape for tomogram in tomograms]
first = read()
child = os.fork()
if not child:
    os._exit(0 if read() == first else 1)
assert os.waitpid(child, 0)[1] == 0 and read() == first and first[0] == 2
"""
    subprocess.run([sys.executable, "-c", code, json.dumps(config)], check=True, timeout=120)
