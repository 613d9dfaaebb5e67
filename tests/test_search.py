"""Finding things by field and by word, over all layers or some."""

from __future__ import annotations

import re
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from copick.errors import NotFoundError
from copick.models.search import FIELDS
from projects import VOLUME, alone, opened, tomogram_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from copick.models import CopickRoot

OBJECTS = [
    {
        "name": "ribosome",
        "is_particle": True,
        "label": 1,
        "radius": 150.0,
        "pdb_id": "4V9D",
        "emdb_id": "EMD-3883",
    },
    {"name": "beta-galactosidase", "is_particle": True, "label": 2, "identifier": "GO:0009341"},
    {"name": "membrane", "is_particle": False, "label": 3},
]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose work layer lies over an archive. Not to be changed."""
    tmp_path = tmp_path_factory.mktemp("project")
    archive = alone(tmp_path / "archive", pickable_objects=OBJECTS)  # type: ignore[arg-type]
    for name, text in (
        ("TS_1", "HeLa lamella, grid A"),
        ("TS_2", None),
        ("Position_10", "grid B of lamellae"),
    ):
        run = archive.create_run(name, text)
        spacing = run.new_voxel_spacing(10)
        for kind in ("wbp", "wbp-denoised"):
            spacing.new_tomogram(kind).from_numpy(VOLUME, levels=1)
        run.new_picks("ribosome", "0", "template-matching")
        run.new_picks("beta-galactosidase", "1", "alice")
        run.new_segmentation(10, "membrane", "0", user_id="membrain")
    tomogram_of(archive).new_features("unet").from_numpy(VOLUME)
    root = opened(tmp_path, pickable_objects=OBJECTS)
    run = root.get_run("TS_1")
    assert run is not None
    run.new_picks("ribosome", "0", "template-matching", layers="work")  # also in the archive
    run.new_picks("ribosome", "7", "alice")
    run.new_mesh("membrane", "7", "alice")
    run.new_filaments("ribosome", "7", "bob")
    run.new_voxel_spacing(7.84)
    run.new_segmentation(7.84, "cells", "7", True, "alice")
    run.new_segmentation(7.84, "ribosome", "7", user_id="alice", is_instance=True)
    run.new_segmentation(7.84, "cells", "7", user_id="alice", is_panoptic=True)
    return tmp_path


@pytest.fixture(scope="module")
def index(made: Path) -> Path:
    """An index of it."""
    path = made / "index.db"
    opened(made, pickable_objects=OBJECTS, db_config=by(path)).index_all_layers()
    return path


def by(path: Path) -> dict[str, Any]:
    return {"db_path": str(path), "auto_index": False}


@pytest.fixture(params=["by its layers", "by its index"])
def project(
    made: Path, index: Path, request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture
) -> Iterator[CopickRoot]:
    """The same is found with an index and without."""
    db = by(index) if request.param == "by its index" else None
    yield opened(made, pickable_objects=OBJECTS, db_config=db)
    assert "asked instead of the index" not in caplog.text


def counts(found: dict[str, list[Any]]) -> dict[str, int]:
    return {name: len(items) for name, items in found.items() if items}


def test_everything(project: CopickRoot) -> None:
    found = project.find_objects()
    assert list(found) == list(FIELDS)
    assert counts(found) == {
        "runs": 3,
        "voxel_spacings": 4,
        "tomograms": 6,
        "features": 1,
        "picks": 7,
        "meshes": 1,
        "filaments": 1,
        "segmentations": 6,
        "objects": 3,
    }


@pytest.mark.parametrize(
    ("criteria", "expected"),
    [
        ({"user_id": "alice"}, {"picks": 4, "meshes": 1, "segmentations": 3}),
        (
            {"user_id": ["alice", "bob"], "session_id": "7"},
            {"picks": 1, "meshes": 1, "filaments": 1, "segmentations": 3},
        ),
        ({"object_name": "ribosome"}, {"picks": 4, "filaments": 1, "objects": 1}),
        ({"pickable_object_name": "ribosome"}, {"picks": 4, "filaments": 1}),
        ({"name": "ribosome"}, {"segmentations": 1, "objects": 1}),
        (
            {"run_name": "TS_2"},
            {"runs": 1, "voxel_spacings": 1, "tomograms": 2, "picks": 2, "segmentations": 1},
        ),
        ({"run_name": {"TS_2", "nope"}, "tomo_type": "wbp"}, {"tomograms": 1}),
        ({"voxel_size": 10}, {"voxel_spacings": 3, "tomograms": 6, "features": 1, "segmentations": 3}),
        ({"voxel_size": np.float32(7.84)}, {"voxel_spacings": 1, "segmentations": 3}),
        ({"tomo_type": "wbp"}, {"tomograms": 3, "features": 1}),
        ({"feature_type": "unet"}, {"features": 1}),
        ({"is_multilabel": True}, {"segmentations": 1}),
        ({"segmentation_type": ("instance", "panoptic")}, {"segmentations": 2}),
        ({"is_particle": True}, {"objects": 2}),
        ({"label": 3}, {"objects": 1}),
        ({"radius": 150}, {"objects": 1}),
        ({"identifier": "GO:0009341"}, {"objects": 1}),
        ({"description": "grid B of lamellae"}, {"runs": 1}),
        ({"radius_min": 100, "radius_max": 150}, {"objects": 1}),
        ({"voxel_size_max": 8}, {"voxel_spacings": 1, "segmentations": 3}),
        ({"voxel_size_min": 7.84, "voxel_size_max": 7.84}, {"voxel_spacings": 1, "segmentations": 3}),
        ({"voxel_size_min": 11}, {}),
        ({"point_count": 0}, {"picks": 7}),
        ({"point_count_min": 1}, {}),
        ({"nx": 7, "ny": 6, "nz_max": 5}, {"tomograms": 6, "features": 1}),
        ({"nx": 8}, {}),
        ({"dtype": ["float32", "int8"], "feature_type": "unet"}, {"features": 1}),
        ({"layer": "work", "user_id": "alice"}, {"picks": 1, "meshes": 1, "segmentations": 3}),
        ({"layer": ["work", "archive"], "session_id": "0"}, {"picks": 3, "segmentations": 3}),
        ({"layer": "nowhere"}, {}),
        (
            {"having": {"picks": {"user_id": "alice"}, "meshes": {}}, "tomo_type": "wbp"},
            {"tomograms": 1, "features": 1},
        ),
        ({"having": {"filaments": {"user_id": "alice"}}, "user_id": "alice"}, {}),
        ({"user_id": "nobody"}, {}),
        ({"user_id": []}, {}),
        ({"user_id": "alice", "voxel_size": 10}, {}),
    ],
)
def test_by_field(project: CopickRoot, criteria: dict[str, Any], expected: dict[str, int]) -> None:
    assert counts(project.find_objects(**criteria)) == expected


def test_only_some_types(project: CopickRoot) -> None:
    found = project.find_objects("picks", user_id="alice")
    assert list(found) == ["picks"]
    assert counts(found) == {"picks": 4}
    assert counts(project.find_objects(["meshes", "runs"])) == {"meshes": 1, "runs": 3}
    # A type that has no such field is not asked.
    assert project.find_objects(["runs", "picks"], user_id="alice").keys() == {"picks"}


def test_what_cannot_be_asked(project: CopickRoot) -> None:
    with pytest.raises(ValueError, match=r"nothing has a field 'user'.*did you mean 'user_id'.*known are"):
        project.find_objects(user="alice")
    with pytest.raises(ValueError, match=r"there is no type 'pick'.*did you mean 'picks'"):
        project.find_objects("pick")
    with pytest.raises(ValueError, match="there is no type 'tomos'"):
        project.search("wbp", ["tomos"])
    with pytest.raises(ValueError, match=r"'radius_mn'.*did you mean 'radius_min'"):
        project.find_objects(radius_mn=1)
    with pytest.raises(ValueError, match=r"radius_min='wide': expected a number"):
        project.find_objects(radius_min="wide")
    with pytest.raises(ValueError, match="expected a dict of keys and values"):
        project.find_objects(metadata="x")
    with pytest.raises(ValueError, match="no run can have that"):
        project.find_objects(having={"picks": {"tomo_type": "wbp"}})
    for text in ("", "  ", "--", "!?"):
        with pytest.raises(ValueError, match="holds no word to search for"):
            project.search(text)
    with pytest.raises(NotFoundError, match="there is no layer 'nope'"):
        project.find_objects(layers="nope")
    for limit in (-1, 1.5):
        with pytest.raises(ValueError, match="expected a whole number of things"):
            project.find_objects("picks", limit=limit)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="expected a whole number of things"):
            project.search("alice", limit=limit)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="expected a dict of criteria"):
        project.find_objects(having={"picks": "alice"})
    with pytest.raises(ValueError, match=r"object 'ribosome' lies in no run; .*find_objects\(object_name="):
        project.find_related(project.pickable_objects[0])


def test_none_is_any(project: CopickRoot) -> None:
    assert counts(project.find_objects("picks", user_id=None, layer=None, point_count_min=None)) == {
        "picks": 7
    }
    assert counts(project.find_objects("runs", having={"picks": None}, metadata=None)) == {"runs": 3}
    assert counts(project.find_objects("picks", author=None, metadata={"x": None}, user_id="alice")) == {
        "picks": 4
    }


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("alice", {"picks": 4, "meshes": 1, "segmentations": 3}),
        ("ALICE ribo", {"picks": 1, "segmentations": 1}),
        (
            "ts",
            {
                "runs": 2,
                "voxel_spacings": 3,
                "tomograms": 4,
                "features": 1,
                "picks": 5,
                "meshes": 1,
                "filaments": 1,
                "segmentations": 5,
            },
        ),
        ("ts 2", {"runs": 1, "voxel_spacings": 1, "tomograms": 2, "picks": 2, "segmentations": 1}),
        ("denoised", {"tomograms": 3}),
        ("lamella", {"runs": 2}),
        ("grid b", {"runs": 1}),
        ("galactosidase", {"picks": 3, "objects": 1}),
        ("4v9d", {"objects": 1}),
        ("unet wbp ts_1", {"features": 1}),
        ("panoptic", {"segmentations": 1}),
        ("amella", {}),
        ("alice bob", {}),
    ],
)
def test_by_word(project: CopickRoot, query: str, expected: dict[str, int]) -> None:
    assert counts(project.search(query)) == expected


def test_words_in_some_types_and_layers(project: CopickRoot) -> None:
    assert counts(project.search("alice", "picks")) == {"picks": 4}
    assert counts(project.search("alice", ["picks", "meshes"], layers="work")) == {"picks": 1, "meshes": 1}
    assert counts(project.search("alice", layers=["archive"])) == {"picks": 3}
    assert counts(project.find_objects("picks", layers="work")) == {"picks": 2}
    assert counts(project.find_objects("runs", description="HeLa lamella, grid A", layers="work")) == {}


def test_what_is_found_is_what_the_tree_shows(project: CopickRoot) -> None:
    """Found through all layers: things know them all, and one that is in two is found once."""
    run = project.get_run("TS_1")
    assert run is not None
    found = project.find_objects("picks", run_name="TS_1", user_id="template-matching")["picks"]
    assert found == run.get_picks(user_id="template-matching")
    assert found[0].sources == ["work", "archive"]
    (tomogram,) = project.find_objects("tomograms", run_name="TS_2", tomo_type="wbp")["tomograms"]
    assert np.array_equal(tomogram.numpy(), VOLUME)
    assert tomogram.voxel_spacing.run.name == "TS_2"


def test_everything_is_counted_anew(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    project = opened(tmp_path, pickable_objects=OBJECTS)
    before = project.index_all_layers()
    assert before["work"] == {
        **dict.fromkeys(FIELDS, 0),
        "runs": 1,
        "voxel_spacings": 1,
        "picks": 2,
        "meshes": 1,
        "filaments": 1,
        "segmentations": 3,
        "objects": 3,
    }
    assert before["archive"]["picks"] == 6
    other = opened(tmp_path, pickable_objects=OBJECTS)
    theirs = other.new_run("TS_3")
    theirs.new_picks("ribosome", "1")
    assert counts(project.find_objects(["runs", "picks"])) == {"runs": 3, "picks": 7}
    after = project.index_all_layers()
    assert (after["work"]["runs"], after["work"]["picks"]) == (2, 3)
    assert after["archive"] == before["archive"]
    assert counts(project.find_objects(["runs", "picks"])) == {"runs": 4, "picks": 8}


WORDS = st.text("ab -_.Ü1", min_size=1, max_size=6).filter(lambda text: any(c.isalnum() for c in text))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(WORDS, min_size=1, max_size=4), at=st.integers(0, 3), cut=st.integers(1, 6))
def test_a_beginning_of_each_word_finds_it(tmp_path: Path, texts: list[str], at: int, cut: int) -> None:
    """Whatever is said of a run: the beginnings of its words find it, in any order and case."""
    root = alone(tmp_path)
    run = root.new_run("run", exist_ok=True)
    run.description = " ".join(texts)
    run.store()
    words = re.findall(r"[^\W_]+", run.description.casefold())
    asked = " ".join(word[:cut].upper() for word in [*words[at:], *words[:at]])
    assert root.search(asked, "runs")["runs"] == [run]
    assert root.search(f"{asked} zz", "runs")["runs"] == []
