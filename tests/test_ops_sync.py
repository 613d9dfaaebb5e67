"""Copies from project to project."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr

from copick import ome
from copick.errors import UnknownNameError
from copick.ops.sync import sync_filaments, sync_meshes, sync_picks, sync_segmentations, sync_tomograms
from copick.testing.http_server import FolderServer
from projects import OBJECTS, VOLUME, alone

if TYPE_CHECKING:
    from pathlib import Path

    from copick.models import CopickRoot

EXTRA = {"name": "large-ribosome", "is_particle": True, "label": 3}


@pytest.fixture
def source(tmp_path: Path) -> CopickRoot:
    root = alone(tmp_path / "source")
    for name in ("A", "B"):
        run = root.new_run(name)
        run.new_voxel_spacing(10).new_tomogram("wbp").from_numpy(VOLUME)
        run.new_voxel_spacing(20).new_tomogram("denoised").from_numpy(VOLUME)
        run.new_picks("ribosome", "0", "tool").from_numpy([[1, 2, 3]])
        run.new_picks("ribosome", "1", "bob").from_numpy([[4, 5, 6]], scores=[0.5])
        run.new_filaments("ribosome", "1", "bob").from_numpy([[[0, 0, 0], [1, 1, 1]]])
        run.new_mesh("membrane", "1", "bob")
        run.new_segmentation(10, "membrane", "1", user_id="bob").from_numpy(VOLUME > 9)
        run.new_segmentation(10, "all", "1", True, user_id="bob").from_numpy(VOLUME.astype(int))
        run.new_segmentation(20, "ribosome", "1", user_id="bob", is_instance=True).from_numpy(
            VOLUME.astype(int)
        )
    root.refresh()
    return root


@pytest.fixture
def target(tmp_path: Path) -> CopickRoot:
    return alone(tmp_path / "target", user_id="carl", pickable_objects=[*OBJECTS, EXTRA])


def files(tmp_path: Path) -> list[str]:
    """What the target holds: files, and arrays as a whole."""
    folder = tmp_path / "target/ExperimentRuns"
    found = (
        path.relative_to(folder) for path in folder.rglob("*") if path.suffix in {".json", ".glb", ".zarr"}
    )
    return sorted(map(str, found))


def stored(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_everything(source: CopickRoot, target: CopickRoot, tmp_path: Path) -> None:
    assert sync_picks(source, target) == {
        "A": {"processed": 2, "errors": []},
        "B": {"processed": 2, "errors": []},
    }
    for sync in (sync_filaments, sync_meshes, sync_segmentations, sync_tomograms):
        assert all(result["errors"] == [] for result in sync(source, target).values())
    assert files(tmp_path) == [
        f"{run}/{path}"
        for run in ("A", "B")
        for path in (
            "Filaments/bob_1_ribosome.json",
            "Meshes/bob_1_membrane.glb",
            "Picks/bob_1_ribosome.json",
            "Picks/tool_0_ribosome.json",
            "Segmentations/10.000_bob_1_all-multilabel.zarr",
            "Segmentations/10.000_bob_1_membrane.zarr",
            "VoxelSpacing10.000/wbp.zarr",
            "VoxelSpacing20.000/denoised.zarr",
        )
    ]
    for path in files(tmp_path):
        if path.endswith((".zarr", ".glb")):
            there, here = (tmp_path / each / "ExperimentRuns" / path for each in ("source", "target"))
            assert stored(here) == stored(there)
    run = target.get_run("A")
    assert run is not None
    (picks,) = run.get_picks(user_id="bob")
    assert (picks.numpy()[0].tolist(), picks.scores().tolist()) == ([[4, 5, 6]], [0.5])


def test_names_are_mapped(source: CopickRoot, target: CopickRoot, tmp_path: Path) -> None:
    renamed: dict[str, Any] = {
        "source_runs": ["A"],
        "target_runs": {"A": "X", "other": "Y"},
        "source_users": ["bob"],
        "target_users": {"bob": "rob"},
    }
    objects = {"source_objects": ["ribosome"], "target_objects": {"ribosome": "large-ribosome"}}
    sync_picks(source, target, **renamed, **objects)
    sync_filaments(source, target, **renamed, **objects)
    sync_meshes(source, target, **renamed)
    sync_segmentations(
        source, target, **renamed, source_names=["all"], target_names={"all": "other"}, voxel_spacings=[10]
    )
    sync_segmentations(source, target, **renamed, is_multilabel=False, is_instance=True)
    sync_tomograms(
        source,
        target,
        ["A"],
        {"A": "X"},
        voxel_spacings=[20.0],
        source_tomo_types=["denoised"],
        target_tomo_types={"denoised": "clean"},
    )
    assert files(tmp_path) == [
        "X/Filaments/rob_1_large-ribosome.json",
        "X/InstanceSegmentations/20.000_rob_1_ribosome.zarr",
        "X/Meshes/rob_1_membrane.glb",
        "X/Picks/rob_1_large-ribosome.json",
        "X/Segmentations/10.000_rob_1_other-multilabel.zarr",
        "X/VoxelSpacing20.000/clean.zarr",
    ]
    run = target.get_run("X")
    assert run is not None
    (picks,) = run.picks
    assert (picks.meta.run_name, picks.meta.pickable_object_name, picks.user_id) == (
        "X",
        "large-ribosome",
        "rob",
    )


def test_nothing_to_copy_makes_nothing(source: CopickRoot, target: CopickRoot, tmp_path: Path) -> None:
    assert sync_picks(source, target, source_users=["nobody"])["A"] == {"processed": 0, "errors": []}
    assert sync_tomograms(source, target, voxel_spacings=[5.0])["A"]["processed"] == 0
    assert target.query() == []


def test_what_is_there_stays_unless_told(
    source: CopickRoot, target: CopickRoot, caplog: pytest.LogCaptureFixture
) -> None:
    target.new_run("A").new_picks("ribosome", "1", "bob").from_numpy([[0, 0, 0]])
    tomogram = target.runs[0].new_voxel_spacing(10).new_tomogram("wbp")
    tomogram.from_numpy(VOLUME * 0)
    for sync in (sync_picks, sync_tomograms):
        result = sync(source, target, source_runs=["A"])["A"]
        assert result["processed"] == 1
        assert "the target has it; exist_ok replaces it" in result["errors"][0]
    assert "picks 'A/ribosome_bob_1' was not copied" in caplog.text
    assert target.runs[0].get_picks(user_id="bob")[0].numpy()[0].tolist() == [[0, 0, 0]]
    assert tomogram.numpy().max() == 0
    assert sync_picks(source, target, exist_ok=True)["A"] == {"processed": 2, "errors": []}
    assert sync_tomograms(source, target, exist_ok=True)["A"] == {"processed": 2, "errors": []}
    assert target.runs[0].get_picks(user_id="bob")[0].numpy()[0].tolist() == [[4, 5, 6]]
    assert np.array_equal(tomogram.numpy(), VOLUME)


def test_one_target_for_two(source: CopickRoot, target: CopickRoot) -> None:
    with pytest.raises(ValueError, match="target_runs: A and B would both become 'X'"):
        sync_picks(source, target, target_runs={"A": "X", "B": "X"})
    for run in source.runs:
        run.new_picks("ribosome", "1", "ann")
    result = sync_picks(source, target, target_users={"ann": "me", "bob": "me"}, exist_ok=True)["A"]
    assert result["processed"] == 1
    assert ["2 sources have this target" in error for error in result["errors"]] == [True, True]


def test_what_the_target_cannot_hold(
    source: CopickRoot, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    target = alone(tmp_path / "target", pickable_objects=[])
    result = sync_picks(source, target, ["A"])["A"]
    assert (result["processed"], len(result["errors"])) == (0, 2)
    assert "the project has no object 'ribosome'" in result["errors"][0]
    readonly = alone(tmp_path / "source", read_only=True)
    found = sync_picks(source, readonly, ["A"], {"A": "Z"})
    assert found["A"]["errors"] == ["run A failed"]
    assert "run A failed: ReadOnlyError" in caplog.text


def test_a_damaged_source_leaves_nothing(source: CopickRoot, target: CopickRoot, tmp_path: Path) -> None:
    (tmp_path / "source/ExperimentRuns/A/Picks/bob_1_ribosome.json").write_text("{")
    result = sync_picks(source, target, ["A"])["A"]
    assert result["processed"] == 1
    assert "ribosome_bob_1" in result["errors"][0]
    assert files(tmp_path) == ["A/Picks/tool_0_ribosome.json"]
    assert [picks.user_id for picks in target.runs[0].picks] == ["tool"]


def test_bad_arguments(source: CopickRoot, target: CopickRoot) -> None:
    with pytest.raises(UnknownNameError, match="no run 'C'"):
        sync_meshes(source, target, source_runs=["A", "C"])


def test_labels_that_mean_other_objects(
    source: CopickRoot, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    swapped = [{**OBJECTS[0], "label": 2}, {**OBJECTS[1], "label": 1}]
    target = alone(tmp_path / "target", pickable_objects=swapped)
    caplog.clear()
    sync_segmentations(source, target, is_multilabel=False, is_panoptic=False)
    assert "label" not in caplog.text
    sync_segmentations(source, target, exist_ok=True)
    assert "label 1 is 'ribosome' in the source and 'membrane' in the target" in caplog.text


def test_log_and_report(source: CopickRoot, target: CopickRoot, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    sync_meshes(source, target, ["A"], log=True)
    assert caplog.messages == [
        "mesh 'A/membrane_bob_1' is now mesh 'A/membrane_bob_1'",
        "all 1 items processed",
    ]


def test_codecs_and_formats_are_kept(source: CopickRoot, target: CopickRoot, tmp_path: Path) -> None:
    tomogram = source.runs[0].voxel_spacings[0].new_tomogram("odd")
    folder = tmp_path / "source" / tomogram.ref.path
    group = zarr.open_group(folder, mode="w", zarr_format=3)
    group.create_array("s0", data=VOLUME, chunks=(2, 2, 2), shards=(4, 4, 4), compressors=None)
    sync_tomograms(source, target, ["A"], source_tomo_types=["odd"])
    assert stored(tmp_path / "target" / tomogram.ref.path) == stored(folder)


@pytest.mark.skipif(os.name == "nt", reason="signals are sent as POSIX has them")
def test_an_interrupt_stops_the_copies_under_way(target: CopickRoot, tmp_path: Path) -> None:
    many = alone(tmp_path / "many")
    for name in "ABCD":
        tomogram = many.new_run(name).new_voxel_spacing(10).new_tomogram("wbp")
        store = tomogram.layer.store(tomogram.ref, write=True)
        ome.write_volume(store, VOLUME, 10.0, levels=1, chunks=(1, 1, 1))
    asked = []

    def fault(method: str, path: str) -> None:
        asked.append(path)
        if len([path for path in asked if path.rpartition("/")[2].isdigit()]) == 40:
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with FolderServer(tmp_path / "many", latency_s=0.02, fault=fault) as server:
            with pytest.raises(KeyboardInterrupt):
                sync_tomograms(alone(server.url), target)
            ended = len(asked)
            time.sleep(0.5)
            assert len(asked) < ended + 64, "something is still copied"  # what was on its way may arrive
    finally:
        signal.signal(signal.SIGINT, before)
    assert ended < 4 * VOLUME.size / 2
    assert files(tmp_path) == []
    assert not [*(tmp_path / "target").rglob(".copick-*")]
