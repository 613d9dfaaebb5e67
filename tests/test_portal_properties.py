"""The parts of the portal layer, with whatever a portal may say."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from copick.errors import FormatError
from copick.kinds import TOMOGRAM
from copick.layers.portal import points_of, tomo_type
from copick.layers.portal_catalogue import TABLES, PortalTomogram, Spacing, _joined
from support import portal as fixture

pytest.importorskip("cryoet_data_portal")

from copick.layers.portal_client import FEWEST_ROWS, PortalClient, Table
from copick.testing.portal_server import PortalServer

if TYPE_CHECKING:
    from collections.abc import Iterator

TEXT = st.text(max_size=20)
MAYBE_ID = st.none() | st.integers(1, 5)
NUMBER = st.floats(-1e6, 1e6, allow_nan=False)


@pytest.fixture(scope="module")
def server() -> Iterator[PortalServer]:
    with PortalServer() as portal:
        yield portal


@given(rows=st.integers(0, 120), at_once=st.integers(5, 200))
@settings(max_examples=15, deadline=None)
def test_pages_give_each_row_once(server: PortalServer, rows: int, at_once: int) -> None:
    server.clear()
    made = [server.add("Run", dataset_id=1, name=str(at)) for at in range(rows)]
    server.add("Run", dataset_id=2, name="of another")
    client = PortalClient(server.url, 60.0, "portal")
    client._rows = at_once
    runs = Table("runs", "Run", ("id", "name")).of({"datasetId": {"_in": [1]}})
    (found,) = client.rows(runs)
    assert found == [(row, str(at)) for at, row in enumerate(made)]
    # One that is no full page, if that may be all that the server gives at once, is followed by another question.
    assert len(server.requests) == rows // at_once + 1 + (FEWEST_ROWS <= rows < at_once)


@given(TEXT, st.sampled_from(["raw", "filtered_even"]), st.none() | TEXT, st.none() | st.booleans())
@example(".", "raw", None, None)
@example("é" * 300, "raw", None, None)
def test_types_of_tomograms_can_be_file_names(
    method: str, processing: str, software: str | None, corrected: bool | None
) -> None:
    name = tomo_type(PortalTomogram(1, Spacing(1, 10.0), method, processing, software, corrected, "s3://x"))
    assert TOMOGRAM.parse(TOMOGRAM.file_name((name,))) == TOMOGRAM.meta_of((name,))


@pytest.mark.parametrize(
    ("software", "word"),
    [
        ("cryoCARE", "cryocare"),
        ("IsoNet 0.3", "isonet0.3"),
        ("Tomo3D v2.2", "tomo3DV2.2"),
        ("deep_de-conv", "deepDeConv"),
        (None, None),
    ],
)
def test_types_of_tomograms(software: str | None, word: str | None) -> None:
    made = PortalTomogram(1, Spacing(1, 10.0), "Fourier_Space", "denoised", software, True, "s3://x")
    assert tomo_type(made) == "-".join(filter(None, ["fourierSpace", "denoised", word, "ctfdeconv"]))


@given(
    st.lists(
        st.tuples(st.tuples(NUMBER, NUMBER, NUMBER), st.none() | st.lists(NUMBER, min_size=9, max_size=9)),
        max_size=5,
    ),
    st.floats(0.1, 100),
)
def test_points_are_in_angstrom(points: list[Any], voxel_size: float) -> None:
    stated = [
        fixture.point(*where, None if turned is None else np.reshape(turned, (3, 3)).tolist())
        for where, turned in points
    ]
    found = points_of(fixture.ndjson(stated), voxel_size, "here")
    assert [tuple(point["location"].values()) for point in found] == [
        tuple(voxel_size * value for value in where) for where, _ in points
    ]
    for point, (_, turned) in zip(found, points, strict=True):
        matrix = np.array(point["transformation_"])
        assert np.array_equal(matrix[:3, :3], np.eye(3) if turned is None else np.reshape(turned, (3, 3)))
        assert np.array_equal(matrix[3], [0, 0, 0, 1])
        assert not matrix[:3, 3].any()


@given(
    st.recursive(
        st.none() | st.booleans() | NUMBER | TEXT, lambda item: st.lists(item) | st.dictionaries(TEXT, item)
    )
)
def test_whatever_is_no_point_is_told(said: Any) -> None:
    with pytest.raises(FormatError, match="here, line 1: is no point"):
        points_of(json.dumps(said).encode(), 1.0, "here")


VALUES = {
    "id": st.integers(1, 9),
    "name": TEXT,
    "datasetId": st.integers(1, 2),
    "format": st.sampled_from(["ndjson", "zarr", "mrc"]),
    "annotationShape.shapeType": st.sampled_from(["Point", "SegmentationMask"]) | st.none(),
    "voxelSpacing": st.floats(0.5, 20) | st.none(),
    "ctfCorrected": st.booleans() | st.none(),
}


def table_rows(columns: tuple[str, ...]) -> Any:
    of_ids = {
        column: MAYBE_ID for column in columns if column.lower().endswith("id") and column not in VALUES
    }
    row = st.tuples(*(VALUES.get(column, of_ids.get(column, st.none() | TEXT)) for column in columns))
    return st.lists(row, max_size=6, unique_by=lambda values: values[0])


@given(st.tuples(*(table_rows(table.columns) for table in TABLES)))
def test_rows_that_lack_anything_are_left_out(tables: Any) -> None:
    runs, _, tomograms, files = tables
    found = _joined(*tables)
    assert {*found} == {row[0] for row in runs}
    shown = [each for run in found.values() for each in run.tomograms]
    assert len(shown) == len({each.id for each in shown}) <= len(tomograms)
    assert all(each.path and each.spacing.size > 0 for each in shown)
    listed = [each for run in found.values() for each in run.files]
    assert {each.id for each in listed} <= {row[0] for row in files}
    assert all(each.path and each.object_id and each.spacing.id for each in listed)
