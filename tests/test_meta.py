"""Metadata and documents."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from copick.errors import FormatError
from copick.meta import (
    CopickLocation,
    CopickPicksFile,
    CopickPoint,
    CopickSegmentationMeta,
    CopickVoxelSpacingMeta,
    PickableObject,
)

DOCUMENT = {
    "pickable_object_name": "ribosome",
    "user_id": "alice",
    "session_id": "s1",
    "run_name": "TS_1",
    "voxel_spacing": None,
    "unit": "angstrom",
    "points": [
        {
            "location": {"x": 100.0, "y": 200.0, "z": 300.0},
            "transformation_": [
                [1.0, 0.0, 0.0, 0.0],
                [0.0, 1.0, 0.0, 0.0],
                [0.0, 0.0, 1.0, 0.0],
                [0.0, 0.0, 0.0, 1.0],
            ],
            "instance_id": 0,
            "score": 1.0,
        }
    ],
    "trust_orientation": True,
}


def test_picks_documents_are_written_as_1x_writes_them() -> None:
    document = json.dumps(DOCUMENT, indent=4).encode()
    assert CopickPicksFile.from_json(document, "x").to_json() == document


def test_missing_optional_keys_have_defaults() -> None:
    bare = {
        "pickable_object_name": "a",
        "user_id": "b",
        "session_id": "c",
        "points": [{"location": {"x": 1, "y": 2, "z": 3}}],
    }
    file = CopickPicksFile.from_json(json.dumps(bare).encode(), "x")
    assert file.trust_orientation
    assert file.points[0].score == 1.0
    assert np.array_equal(file.points[0].transformation, np.eye(4))


def test_unknown_keys_survive_a_rewrite() -> None:
    file = CopickPicksFile.from_json(json.dumps({**DOCUMENT, "lab_note": "x"}).encode(), "x")
    assert json.loads(file.to_json())["lab_note"] == "x"


@pytest.mark.parametrize(
    ("document", "problem"),
    [
        (b"", "Invalid JSON"),
        (b"[]", "document"),
        (b"{", "Invalid JSON"),
        (json.dumps({**DOCUMENT, "session_id": 3}).encode(), "session_id"),
        (json.dumps({**DOCUMENT, "points": [{}]}).encode(), r"points\.0\.location"),
    ],
)
def test_broken_documents(document: bytes, problem: str) -> None:
    with pytest.raises(FormatError, match=problem) as caught:
        CopickPicksFile.from_json(document, "picks 'x'")
    assert "picks 'x'" in str(caught.value)
    assert "pydantic.dev" not in str(caught.value)


def test_transformation_keyword_works() -> None:
    matrix = np.eye(4)
    matrix[:3, 3] = 1, 2, 3
    location = CopickLocation(x=0, y=0, z=0)
    assert np.array_equal(CopickPoint(location=location, transformation=matrix).transformation, matrix)  # type: ignore[call-arg]
    assert np.array_equal(
        CopickPoint(location=location, transformation_=matrix.tolist()).transformation, matrix
    )
    point = CopickPoint(location=location)
    point.transformation = matrix
    assert np.array_equal(point.transformation, matrix)


@pytest.mark.parametrize("matrix", [np.eye(3), np.zeros((4, 4)), 2 * np.eye(4), np.ones((4, 5))])
def test_transformations_must_be_affine(matrix: np.ndarray) -> None:  # type: ignore[type-arg]
    with pytest.raises(ValidationError, match=r"4x4|last row"):
        CopickPoint(location=CopickLocation(x=0, y=0, z=0), transformation_=matrix.tolist())
    point = CopickPoint(location=CopickLocation(x=0, y=0, z=0))
    with pytest.raises(ValidationError, match=r"4x4|last row"):
        point.transformation = matrix


finite = st.floats(allow_nan=False, allow_infinity=False)


@given(st.lists(st.tuples(finite, finite, finite, finite, st.integers(0, 2**40))))
def test_points_round_trip(rows: list[tuple[float, float, float, float, int]]) -> None:
    points = [
        CopickPoint(location=CopickLocation(x=x, y=y, z=z), score=score, instance_id=number)
        for x, y, z, score, number in rows
    ]
    file = CopickPicksFile(pickable_object_name="a", user_id="b", session_id="c", points=points)
    assert CopickPicksFile.from_json(file.to_json(), "x").points == points


def test_scores_that_are_not_finite_can_be_read_and_written() -> None:
    file = CopickPicksFile.from_json(
        json.dumps(DOCUMENT).replace('"score": 1.0', '"score": NaN').encode(), "x"
    )
    assert math.isnan(file.points[0].score)
    assert math.isnan(json.loads(file.to_json())["points"][0]["score"])


@pytest.mark.parametrize("size", [0, -1, math.nan, math.inf])
def test_voxel_sizes_are_finite_and_positive(size: float) -> None:
    with pytest.raises(ValidationError, match=r"greater than 0|finite"):
        CopickVoxelSpacingMeta(voxel_size=size)
    with pytest.raises(ValidationError, match=r"greater than 0|finite"):
        CopickSegmentationMeta(name="a", user_id="b", session_id="c", voxel_size=size)


def test_object_defaults() -> None:
    item = PickableObject(name="ribosome", is_particle=True)
    assert item.label == 1
    assert item.color == (100, 100, 100, 255)
    assert item.metadata == {}
    assert PickableObject(name="a", is_particle=True, label=None).label is None
    assert PickableObject.model_validate({"name": "a", "is_particle": True, "metadata": None}).metadata == {}


def test_go_id_is_the_identifier() -> None:
    item = PickableObject.model_validate({"name": "a", "is_particle": True, "go_id": "GO:1"})
    assert item.identifier == item.go_id == "GO:1"
    item.go_id = "GO:2"
    assert item.model_dump()["identifier"] == "GO:2"
    assert "go_id" not in item.model_dump()
    both = {"name": "a", "is_particle": True, "identifier": "GO:2"}
    assert PickableObject.model_validate({**both, "go_id": "GO:1"}).identifier == "GO:1"  # as in copick 1.x
    assert PickableObject.model_validate({**both, "go_id": None}).identifier == "GO:2"


def test_set_filament_by_keyword() -> None:
    item = PickableObject(name="actin", is_particle=True)
    item.set_filament(filament={"polar": True})
    assert item.is_filament


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"name": "a_b"}, "try 'a-b'"),
        ({"name": ""}, "no character"),
        ({"label": 0}, "reserved for the background"),
        ({"color": (1, 2, 3)}, "color"),
        ({"color": (1, 2, 3, 256)}, "255"),
        ({"color": None}, "color"),
    ],
)
def test_objects_that_cannot_be(fields: dict[str, object], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        PickableObject.model_validate({"name": "a", "is_particle": True, **fields})


def test_metadata_is_filled_but_never_overwritten() -> None:
    mine = CopickPicksFile(pickable_object_name="a", user_id="b", session_id="c", run_name="mine")
    theirs = CopickPicksFile(
        pickable_object_name="z", user_id="b", session_id="c", run_name="theirs", voxel_spacing=3.0
    )
    merged = mine.filled(theirs)
    assert (merged.pickable_object_name, merged.run_name, merged.voxel_spacing) == ("a", "mine", 3.0)
    assert mine.voxel_spacing is None
