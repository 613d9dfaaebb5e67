"""Objects: what the config says of them, and their density maps."""

from __future__ import annotations

import json
import logging
import os
import pickle
import stat
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr

import copick
from copick.errors import (
    AlreadyExistsError,
    ConfigError,
    FormatError,
    LayerError,
    NotFoundError,
    ReadOnlyError,
)
from copick.models import CopickObject, FilamentSpec, PickableObject
from projects import OBJECTS, VOLUME, alone, opened

if TYPE_CHECKING:
    from pathlib import Path

    from copick.models import CopickRoot

TUBULE = {"polar": True, "helical_rise_a": 9.4, "helical_twist_deg": -27.7, "lattice": "13-3"}


def named(root: CopickRoot, name: str = "ribosome") -> CopickObject:
    found = root.get_object(name)
    assert found is not None
    return found


@pytest.fixture
def mine(tmp_path: Path) -> CopickRoot:
    return alone(tmp_path / "mine")


# In the config


def test_every_field(mine: CopickRoot) -> None:
    item = mine.new_object(
        "proteasome",
        True,
        7,
        (1, 2, 3, 4),
        "EMD-1",
        "1PMA",
        "GO:0000502",
        0.5,
        60,
        {"a": [1, 2]},
    )
    assert (item.name, item.is_particle, item.label, item.color) == ("proteasome", True, 7, (1, 2, 3, 4))
    assert (item.emdb_id, item.pdb_id, item.identifier) == ("EMD-1", "1PMA", "GO:0000502")
    assert (item.map_threshold, item.radius, item.metadata) == (0.5, 60.0, {"a": [1, 2]})
    assert (item.filament, item.is_filament) == (None, False)
    assert item.meta.go_id == "GO:0000502"
    assert item.root is mine
    assert mine.config.pickable_objects[-1] is item.meta
    assert repr(item) == "CopickObject(name='proteasome', label=7, particle)"
    assert [each.name for each in mine.pickable_objects] == ["ribosome", "membrane", "proteasome"]
    assert mine.new_object("x", False).label == 8
    assert named(mine, "x").color == (100, 100, 100, 255)
    assert mine.get_object("nope") is None


def test_names_and_labels_stand_once(mine: CopickRoot) -> None:
    with pytest.raises(AlreadyExistsError, match="an object 'ribosome' already; pass exist_ok=True"):
        mine.new_object("ribosome", True)
    with pytest.raises(AlreadyExistsError, match="label 2 is taken; free is 3"):
        mine.new_object("x", True, 2)
    for name in ("a_b", "a b", "a/b", "", " ", "-a"):
        with pytest.raises(ValueError, match=r"name|character"):
            mine.new_object(name, True)
    assert len(mine.pickable_objects) == len(mine.config.pickable_objects) == 2


@pytest.mark.parametrize(
    "arguments",
    [
        {"label": 0},
        {"label": "one"},
        {"color": (1, 2, 3)},
        {"color": (1, 2, 3, 256)},
        {"radius": "wide"},
        {"metadata": [1]},
        {"filament": {"helical_rise_a": 0}},
        {"is_particle": False, "filament": {}},
        {"is_particle": "perhaps"},
    ],
)
def test_what_cannot_be_changes_nothing(mine: CopickRoot, arguments: dict[str, Any]) -> None:
    before = mine.config.model_dump_json()
    for name, exist_ok in (("new", False), ("ribosome", True)):
        with pytest.raises(ValueError, match=rf"{next(reversed(arguments))}|label|filament|expected"):
            mine.new_object(name, **{"is_particle": True, **arguments}, exist_ok=exist_ok)
        assert mine.config.model_dump_json() == before
    assert mine.get_object("new") is None


def test_updating_one(mine: CopickRoot) -> None:
    ribosome = named(mine)
    again = mine.new_object("ribosome", False, radius=12, metadata={"k": 1}, exist_ok=True)
    assert again is ribosome
    assert (ribosome.radius, ribosome.is_particle, ribosome.label, ribosome.metadata) == (
        12,
        False,
        1,
        {"k": 1},
    )
    with pytest.raises(AlreadyExistsError, match="label 2 is taken"):
        mine.new_object("ribosome", False, 2, exist_ok=True)
    assert mine.new_object("ribosome", False, 9, exist_ok=True).label == 9


def test_filaments(mine: CopickRoot) -> None:
    tubule = mine.new_object("tubule", True, metadata={"lab": 1}, filament=TUBULE)
    assert tubule.is_filament
    assert isinstance(tubule.filament, FilamentSpec)
    assert (tubule.filament.polar, tubule.filament.helical_rise_a) == (True, 9.4)
    assert tubule.metadata == {"lab": 1, "copick": {"filament": TUBULE}}
    assert "filament" in repr(tubule)
    mine.new_object("tubule", True, filament=FilamentSpec(polar=False), exist_ok=True)
    assert tubule.metadata == {"lab": 1, "copick": {"filament": {"polar": False}}}
    tubule.meta.set_filament(None)
    assert (tubule.is_filament, tubule.metadata) == (False, {"lab": 1})
    with pytest.raises(ValueError, match="is_particle must be true"):
        named(mine, "membrane").meta.set_filament({})
    assert not named(mine, "membrane").is_filament


def test_configs_that_name_things_twice(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """copick 1.x opens them. The first counts; of labels, too."""
    config = {
        "config_type": "filesystem",
        "overlay_root": f"local://{tmp_path}",
        "user_id": "me",
        "pickable_objects": [*OBJECTS, {**OBJECTS[0], "label": 5}, {**OBJECTS[1], "name": "er"}],
    }
    root = copick.from_string(json.dumps(config))
    assert "both have the name 'ribosome'" in caplog.text
    assert [(item.name, item.label) for item in root.pickable_objects] == [
        ("ribosome", 1),
        ("membrane", 2),
        ("ribosome", 5),
        ("er", 2),
    ]
    assert named(root).label == 1
    run = root.new_run("r")
    assert run.new_picks("ribosome", "1").color == (0, 117, 220, 255)
    mask = run.new_segmentation(10, "cell", "1", is_panoptic=True)
    mask.from_numpy(np.array([[[[0, 2, 2]]], [[[0, 1, 0]]]]))
    assert mask.segments() == [("membrane", 0), ("membrane", 1)]
    with pytest.raises(ConfigError, match="both have the name 'ribosome'; each needs a name of its own"):
        alone(tmp_path, pickable_objects=config["pickable_objects"])


def test_a_name_is_a_text(mine: CopickRoot) -> None:
    with pytest.raises(FormatError, match="name None: expected a valid string"):
        mine.new_object(None, True)  # type: ignore[arg-type]
    assert len(mine.pickable_objects) == 2


def test_names_like_those_of_multilabel_masks(mine: CopickRoot, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "copick"):
        mine.new_object("cell-multilabel", False)
    assert "would read back as a multilabel one" in caplog.text


def test_only_save_config_makes_them_last(tmp_path: Path) -> None:
    path = tmp_path / "project.json"
    (tmp_path / "archive").mkdir()
    opened(tmp_path).new_object("x", True)
    assert copick.from_file(path).get_object("x") is None
    root = copick.from_file(path)
    root.new_object("x", True, filament=TUBULE, identifier="GO:1")
    root.save_config(path)
    item = named(copick.from_file(path), "x")
    assert (item.label, item.identifier) == (3, "GO:1")
    assert item.filament is not None
    assert item.filament.model_dump() == TUBULE


def test_save_config_keeps_what_the_file_is(mine: CopickRoot, tmp_path: Path) -> None:
    """Its permissions (it may hold credentials), and that it is a link to a file elsewhere."""
    (tmp_path / "shared").mkdir()
    shared, link, new = tmp_path / "shared/real.json", tmp_path / "link.json", tmp_path / "new.json"
    for mode in (0o600, 0o664):
        shared.write_text("{}")
        shared.chmod(mode)
        link.unlink(missing_ok=True)
        link.symlink_to("shared/real.json")
        mine.save_config(link)
        assert link.is_symlink()
        assert len(json.loads(shared.read_text())["pickable_objects"]) == 2
        assert stat.S_IMODE(shared.stat().st_mode) == mode
    mine.save_config(new)
    assert stat.S_IMODE(new.stat().st_mode) == 0o666 & ~umask()
    assert {path.name for path in (tmp_path / "shared").iterdir()} == {"real.json"}


def umask() -> int:
    os.umask(found := os.umask(0))
    return found


def test_save_config_that_fails_says_where(mine: CopickRoot, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path, problem in (
        (tmp_path / "none/c.json", "No such file or directory"),
        (tmp_path, "it is a directory"),
        (tmp_path / "file/c.json", "Not a directory"),
    ):
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(
            LayerError, match=f"the config file '{path}' cannot be written: {problem}"
        ) as error:
            mine.save_config(path)
        assert "Name a file in a folder that you may write to" in str(error.value)
        assert sorted(tmp_path.rglob("*")) == before


def test_editing_the_config_itself(mine: CopickRoot) -> None:
    """Viewers edit the config's list, and drop the objects that were made from it."""
    assert len(mine.pickable_objects) == 2
    kept = named(mine)
    assert named(mine) is kept
    mine.config.pickable_objects.append(PickableObject(name="seen", is_particle=True, label=8))
    assert named(mine, "seen").label == 8
    mine.config.pickable_objects.append(PickableObject(name="new", is_particle=True, label=4))
    mine._objects = None
    assert named(mine, "new").label == 4
    mine.config.pickable_objects[0].color = (9, 9, 9, 9)
    assert named(mine).color == (9, 9, 9, 9)
    mine.config.pickable_objects = mine.config.pickable_objects[:1]
    mine.refresh()
    assert [item.name for item in mine.pickable_objects] == ["ribosome"]


# Density maps


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_density_maps(mine: CopickRoot, tmp_path: Path, zarr_format: int) -> None:
    ribosome = named(mine)
    assert not ribosome.has_density_map()
    with pytest.raises(NotFoundError, match="no layer has object 'ribosome'") as caught:
        ribosome.numpy()
    assert isinstance(caught.value, KeyError)
    ribosome.from_numpy(VOLUME, 4.5, zarr_format=zarr_format)
    assert ribosome.has_density_map()
    assert ribosome.path == str(tmp_path / "mine/Objects/ribosome.zarr")
    seen = named(alone(tmp_path / "mine"))
    assert np.array_equal(seen.numpy(), VOLUME)
    assert np.array_equal(seen.numpy("0", slice(1, 3), slice(2, 4), slice(0, 2)), VOLUME[0:2, 2:4, 1:3])
    out = np.empty((1, 6, 7), np.float32)
    assert seen.numpy(z=slice(2, 3), out=out) is out
    assert np.array_equal(out[0], VOLUME[2])
    assert seen.array().shape == VOLUME.shape
    assert np.array_equal(seen.patches([[0, 0, 0]], (2, 2, 2))[0], VOLUME[:2, :2, :2])
    attributes = dict(zarr.open_group(seen.zarr(), mode="r").attrs)
    assert copick.ome.voxel_size(attributes, "x") == 4.5
    with pytest.raises(NotFoundError, match="has no array '1'; it has 0"):
        seen.numpy("1")


def test_maps_are_replaced_and_changed(mine: CopickRoot) -> None:
    ribosome = named(mine)
    ribosome.from_numpy(VOLUME, 4, np.float16)
    assert ribosome.numpy().dtype == np.float16
    ribosome.from_numpy(VOLUME[:2], 4)
    assert ribosome.numpy().shape == (2, 6, 7)
    ribosome.set_region(-1, x=slice(0, 2))
    assert (ribosome.numpy(x=slice(0, 2)) == -1).all()
    assert np.array_equal(ribosome.numpy(x=slice(2, 7)), VOLUME[:2, :, 2:])
    with pytest.raises(ValueError, match="the region has the shape"):
        ribosome.set_region(VOLUME)
    zarr.group(ribosome.zarr(), overwrite=True).create_array("0", data=VOLUME)
    assert np.array_equal(ribosome.numpy(), VOLUME)


def test_regions_have_no_map(mine: CopickRoot, tmp_path: Path) -> None:
    membrane = named(mine, "membrane")
    assert (membrane.zarr(), membrane.numpy(), membrane.has_density_map()) == (None, None, False)
    for write in (
        lambda: membrane.from_numpy(VOLUME, 10),
        lambda: membrane.set_region(VOLUME),
        lambda: membrane.store(),
        lambda: membrane.ensure(create=True),
    ):
        with pytest.raises(ValueError, match=r"'membrane' is a region .*no density map"):
            write()
    for read in (membrane.array, lambda: membrane.patches([[0, 0, 0]], (1, 1, 1))):
        with pytest.raises(NotFoundError, match="no layer has object 'membrane'"):
            read()
    assert not (tmp_path / "mine/Objects").exists()


@pytest.mark.parametrize(
    ("data", "size", "problem"),
    [
        (VOLUME[0], 4, "axes z, y, x"),
        (VOLUME * 1j, 4, "real numbers"),
        (VOLUME.astype(np.float64) * 1e300, 4, "do not fit float32"),
        (VOLUME, 0, "voxel_size 0: expected"),
        (VOLUME, -1, "voxel_size -1: expected"),
        (VOLUME, float("nan"), "voxel_size nan: expected"),
        (VOLUME, float("inf"), "voxel_size inf: expected"),
        (VOLUME, "4", "voxel_size '4': expected"),
        (VOLUME, None, "voxel_size None: expected"),
        (VOLUME, 10**400, "voxel_size 1000.*: expected"),
    ],
    ids=lambda value: f"{value!s:.12}",
)
def test_maps_that_cannot_be_change_nothing(mine: CopickRoot, data: Any, size: Any, problem: str) -> None:
    ribosome = named(mine)
    ribosome.from_numpy(VOLUME, 4)
    with pytest.raises(ValueError, match=problem):
        ribosome.from_numpy(data, size)
    assert np.array_equal(ribosome.numpy(), VOLUME)


def test_archived_maps(root: CopickRoot, tmp_path: Path) -> None:
    assert not named(root).read_only
    named(alone(tmp_path / "archive")).from_numpy(VOLUME, 4)
    ribosome = named(opened(tmp_path))
    assert ribosome.read_only
    assert ribosome.zarr().read_only
    with pytest.raises(ReadOnlyError, match="was not removed"):
        ribosome.delete()
    assert ribosome.root.get_object("ribosome") is not None
    ribosome.set_region(0, z=slice(0, 1))
    assert ribosome.sources == ["work", "archive"]
    assert not ribosome.read_only
    assert not ribosome.numpy()[0].any()
    assert np.array_equal(ribosome.on("archive").numpy(), VOLUME)
    ribosome.delete(layers="work")
    assert np.array_equal(ribosome.numpy(), VOLUME)
    assert ribosome.root.get_object("ribosome") is not None


def test_no_map_and_nowhere_to_write_one(root: CopickRoot) -> None:
    """Viewers ask for the length of the store."""
    store = named(root.on("archive")).zarr()
    assert (len(store), store.read_only) == (0, True)


def test_objects_of_narrower_views(root: CopickRoot) -> None:
    """They know what is declared later, too."""
    run = root.get_run("TS_1")
    assert run is not None
    (picks,) = run.get_picks(layers="archive")
    assert picks.color == (0, 117, 220, 255)
    new = root.new_object("new", True, color=(1, 2, 3, 4))
    made = run.new_picks("new", "1", layers="work")
    assert made.color == (1, 2, 3, 4)
    new.delete()
    assert picks.run.root.get_object("new") is None


def test_deleting_one(mine: CopickRoot, tmp_path: Path) -> None:
    ribosome = named(mine)
    ribosome.from_numpy(VOLUME, 4)
    named(mine, "membrane").delete()
    ribosome.delete()
    assert mine.pickable_objects == []
    assert mine.config.pickable_objects == []
    assert list((tmp_path / "mine/Objects").iterdir()) == []


def test_objects_travel(mine: CopickRoot) -> None:
    ribosome = named(mine)
    ribosome.from_numpy(VOLUME, 4)
    copy = pickle.loads(pickle.dumps(ribosome))
    assert np.array_equal(copy.numpy(), VOLUME)
    assert (copy.label, copy.root.get_object("membrane").label) == (1, 2)
    meta = PickableObject(name="membrane", is_particle=True)
    made = CopickObject(mine, meta)
    made.from_numpy(VOLUME, 4)
    assert np.array_equal(CopickObject(root=mine, meta=meta).numpy(), VOLUME)


def test_no_map_is_written_under_another_name(mine: CopickRoot) -> None:
    mine.config.pickable_objects.append(PickableObject(name="x" * 252, is_particle=True, label=3))
    too_long = named(mine, "x" * 252)
    with pytest.raises(FormatError, match="takes 257 bytes"):
        too_long.from_numpy(VOLUME, 4)
