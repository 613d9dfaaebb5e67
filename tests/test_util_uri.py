"""URIs: parts, patterns, defaults, and what they find in a project."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from copick.util.uri import (
    expand_output_uri,
    get_copick_objects_by_type,
    parse_copick_uri,
    resolve_copick_objects,
    serialize_copick_uri,
    serialize_copick_uri_from_dict,
)
from projects import alone

if TYPE_CHECKING:
    from pathlib import Path

    from copick.models import CopickRoot

TYPES = ("picks", "mesh", "filaments", "segmentation", "tomogram", "feature")


def parts(uri: str, object_type: str) -> tuple[Any, ...]:
    parsed = parse_copick_uri(uri, object_type)
    assert parsed["object_type"] == object_type
    return tuple(parsed.values())[1:]


# Parts


@pytest.mark.parametrize("object_type", ["picks", "mesh", "filaments"])
def test_annotations(object_type: str) -> None:
    assert parse_copick_uri(" ribosome:alice/s1 ", object_type) == {
        "object_type": object_type,
        "pattern_type": "glob",
        "object_name": "ribosome",
        "user_id": "alice",
        "session_id": "s1",
    }


@pytest.mark.parametrize(
    ("object_type", "uri", "expected"),
    [
        ("picks", "r", ("glob", "r", "*", "*")),
        ("picks", "r:a", ("glob", "r", "a", "*")),
        ("picks", ":a/", ("glob", "", "a", "")),
        ("picks", "r?b:a*/[st]1", ("glob", "r?b", "a*", "[st]1")),
        ("picks", r"re:r.*?:a|b/s\d+", ("regex", "r.*?", "a|b", r"s\d+")),
        ("picks", "r:a/s/t@10", ("glob", "r", "a", "s/t@10")),
        ("picks", "r:a/s?instance=true", ("glob", "r", "a", "s")),
        ("segmentation", "m", ("glob", "m", "*", "*", "*", None, None, None)),
        ("segmentation", "m:a/s@10.0", ("glob", "m", "a", "s", "10.0", None, None, None)),
        ("segmentation", "m@10?multilabel=YES", ("glob", "m", "*", "*", "10", True, None, None)),
        (
            "segmentation",
            "m:a?multilabel=1&instance=0&panoptic=no",
            ("glob", "m", "a", "*", "*", True, False, False),
        ),
        ("segmentation", "m@1?.0?panoptic=true", ("glob", "m", "*", "*", "1?.0", None, None, True)),
        ("tomogram", "wbp", ("glob", "wbp", "*")),
        ("tomogram", r"re:wbp.*@1\d", ("regex", "wbp.*", r"1\d")),
        ("feature", "wbp", ("glob", "wbp", "*", "*")),
        ("feature", "wbp@7.84", ("glob", "wbp", "7.84", "*")),
        ("feature", "wbp@7.84:a:b", ("glob", "wbp", "7.84", "a:b")),
    ],
)
def test_what_is_left_out_stands_for_anything(object_type: str, uri: str, expected: tuple[Any, ...]) -> None:
    assert parts(uri, object_type) == expected


@pytest.mark.parametrize(
    ("object_type", "uri", "problem"),
    [
        ("picks", "a:b:c/d", "write object_name:user_id/session_id"),
        ("segmentation", "a:b:c@10", "write name:user_id/session_id@voxel_spacing"),
        ("features", "a", "use one of picks, mesh"),
        ("segmentation", "a?instance=true&multilabel=true", "one type, not multilabel and instance"),
        ("segmentation", "a?multilable=true", "did you mean 'multilabel'"),
        ("segmentation", "a?multilabel=ture", "multilabel is 'ture'; use true or false"),
    ],
)
def test_what_is_no_uri(object_type: str, uri: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem.replace("?", r"\?")):
        parse_copick_uri(uri, object_type)


name = st.text(
    st.characters(exclude_characters=":/@?", exclude_categories=["C", "Z"], codec="utf-8"), min_size=1
)
name = name.filter(lambda text: text != "*")
size = st.integers(1, 10**6).map(lambda n: n / 1000)


@given(st.sampled_from(TYPES), st.data())
def test_uris_read_back(object_type: str, data: st.DataObject) -> None:
    fields: dict[str, Any] = {}
    for part in parse_copick_uri("x", object_type):
        if part in ("multilabel", "instance", "panoptic"):
            continue
        if part not in ("object_type", "pattern_type"):
            fields[part] = data.draw(size if part == "voxel_spacing" else name, part)
    if object_type == "segmentation":
        flag = data.draw(st.sampled_from([None, "multilabel", "instance", "panoptic"]))
        fields.update({flag: True} if flag else {})
    parsed = parse_copick_uri(serialize_copick_uri_from_dict(object_type, **fields), object_type)
    assert {part: parsed[part] for part in fields} == {
        part: str(value) if part == "voxel_spacing" else value for part, value in fields.items()
    }


def test_parts_that_miss() -> None:
    with pytest.raises(ValueError, match=r"a picks URI .* needs user_id and session_id"):
        serialize_copick_uri_from_dict("picks", object_name="a", name="b")
    with pytest.raises(ValueError, match="needs voxel_spacing"):
        serialize_copick_uri_from_dict("tomogram", tomo_type="wbp")
    with pytest.raises(ValueError, match="one type, not instance and panoptic"):
        serialize_copick_uri_from_dict(
            "segmentation",
            name="a",
            user_id="b",
            session_id="c",
            voxel_spacing=1,
            instance=True,
            panoptic=True,
        )
    with pytest.raises(ValueError, match="no object type 'run'"):
        serialize_copick_uri_from_dict("run", name="a")


# Defaults


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("", "in:tool/converted-001"),
        ("out", "out:tool/converted-001"),
        ("out:me", "out:me/converted-001"),
        ("out/s2", "out:tool/s2"),
        ("/s2", "in:tool/s2"),
        (":me/s2", "in:me/s2"),
        ("out:/s2", "out:tool/s2"),
        ("{instance_id}", "in:tool/{instance_id}"),
        ("{input_session_id}", "in:tool/{input_session_id}"),
        ("{object_name}/x", "{object_name}:tool/x"),
        ("out:me/s2", "out:me/s2"),
        ("out:me/s-{instance_id}", "out:me/s-{instance_id}"),
    ],
)
def test_outputs(output: str, expected: str) -> None:
    assert expand_output_uri(output, "in:al/s1@10.0", "segmentation", "picks", "tool") == expected


@pytest.mark.parametrize(
    ("source", "session"),
    [
        ("in:al/s1", "converted-001"),
        ("in:al/*", "{input_session_id}"),
        ("in:al", "{input_session_id}"),
        ("i?:al/s1", "{input_session_id}"),
        ("in:al/s[12]", "{input_session_id}"),
        ("re:in:al/s1", "{input_session_id}"),
    ],
)
def test_sessions_of_outputs(source: str, session: str) -> None:
    assert expand_output_uri("x", source, "mesh", "mesh") == f"x:converter/{session}"
    assert expand_output_uri("x", source, "mesh", "mesh", None, True) == "x:converter/{instance_id}"


@pytest.mark.parametrize(
    ("output", "source", "expected"),
    [
        ("x", "in:al/s1@10.0", "x:t/converted-001@10.0"),
        ("x", "in:al/s1@10.0?multilabel=true", "x:t/converted-001@10.0?multilabel=true"),
        ("x:b/y", "in:al/s1@10.0?instance=true", "x:b/y@10.0?instance=true"),
        ("x:b/y?panoptic=true", "in:al/s1@10.0?instance=true", "x:b/y@10.0?panoptic=true"),
        ("x:b/y?instance=false", "in:al/s1@10.0?instance=true", "x:b/y@10.0"),
        ("@20", "in:al/s1@10.0", "in:t/converted-001@20"),
        ("x:b/y@20", "in:al/s1@10.0?instance=true", "x:b/y@20"),
        ("x", "in:al/s1@1*", "x:t/converted-001"),
        ("x", "in:al/s1", "x:t/converted-001"),
    ],
)
def test_segmentations_take_over_voxel_size_and_type(output: str, source: str, expected: str) -> None:
    assert expand_output_uri(output, source, "segmentation", "segmentation", "t") == expected


def test_outputs_from_tomograms() -> None:
    assert expand_output_uri("x", "wbp@10", "tomogram", "segmentation") == "x:converter/converted-001@10"
    with pytest.raises(ValueError, match="needs a name: the input, a tomogram"):
        expand_output_uri("/s", "wbp@10", "tomogram", "picks")


@pytest.mark.parametrize(
    ("output", "output_type", "problem"),
    [
        ("wbp", "tomogram", "write it in full"),
        ("re:a:b/c", "picks", "is a pattern"),
        ("a:b:c/d", "picks", "is no picks URI"),
        ("a?multilabel=true&instance=true", "segmentation", "one type"),
    ],
)
def test_what_is_no_output(output: str, output_type: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        expand_output_uri(output, "in:al/s1", "picks", output_type)


# In a project


@pytest.fixture
def project(tmp_path: Path) -> CopickRoot:
    """Two runs; listing needs no more than names."""
    for run in ("TS_1", "TS_2"):
        top = tmp_path / "ExperimentRuns" / run
        for folder, suffix in (("Picks", "json"), ("Meshes", "glb"), ("Filaments", "json")):
            (top / folder).mkdir(parents=True)
            for stem in ("al_s1_ribo", "al_s2_ribo", "bob_0_ribo", "al_s1_ribosome", "al_s1_a[1]"):
                (top / folder / f"{stem}.{suffix}").touch()
        for size in ("7.840", "10.000", "100.000"):
            for kind in ("wbp", "wbp-denoised", "wbp_sobel_features", "wbp_edge_features"):
                (top / f"VoxelSpacing{size}" / f"{kind}.zarr").mkdir(parents=True)
            for folder in ("Segmentations", "InstanceSegmentations", "PanopticSegmentations"):
                (top / folder / f"{size}_al_s1_ribo.zarr").mkdir(parents=True)
            (top / "Segmentations" / f"{size}_al_s1_ribo-multilabel.zarr").mkdir()
    return alone(tmp_path)


def found(root: CopickRoot, object_type: str, uri: str, run: str | None = "TS_1") -> list[str]:
    return sorted(serialize_copick_uri(obj) for obj in resolve_copick_objects(uri, root, object_type, run))


@pytest.mark.parametrize("object_type", ["picks", "mesh", "filaments"])
@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("ribo", ["ribo:al/s1", "ribo:al/s2", "ribo:bob/0"]),
        ("ribo:al/s?", ["ribo:al/s1", "ribo:al/s2"]),
        ("ribo*:*/s1", ["ribo:al/s1", "ribosome:al/s1"]),
        ("a[1]", ["a[1]:al/s1"]),
        ("ribo:/s1", ["ribo:al/s1"]),
        (r"re:ribo:.*/s\d", ["ribo:al/s1", "ribo:al/s2", "ribosome:al/s1"]),
        ("re:ribo$:al", ["ribo:al/s1", "ribo:al/s2"]),
        ("re:ibo", []),
        ("Ribo", []),
    ],
)
def test_annotations_are_found(project: CopickRoot, object_type: str, uri: str, expected: list[str]) -> None:
    assert found(project, object_type, uri) == expected


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", ["", "?multilabel=true"]),
        ("?multilabel=true", ["?multilabel=true"]),
        ("?multilabel=false", [""]),
        ("?instance=true", ["?instance=true"]),
        ("?instance=false", ["", "?multilabel=true", "?panoptic=true"]),
        ("?panoptic=true", ["?panoptic=true"]),
        ("?panoptic=false", ["", "?instance=true", "?multilabel=true"]),
    ],
)
def test_types_of_segmentations(project: CopickRoot, query: str, expected: list[str]) -> None:
    assert found(project, "segmentation", f"ribo@10{query}") == [
        f"ribo:al/s1@10.0{each}" for each in expected
    ]


@pytest.mark.parametrize(
    ("pattern", "sizes"),
    [
        ("10", ["10.0"]),
        ("10.00", ["10.0"]),
        ("1e1", ["10.0"]),
        ("10.0001", ["10.0"]),
        ("7.8", []),
        ("7*", ["7.84"]),
        ("1*", ["10.0", "100.0"]),
        ("1?.0", ["10.0"]),
        ("x", []),
        ("*", ["10.0", "100.0", "7.84"]),
    ],
)
def test_voxel_sizes(project: CopickRoot, pattern: str, sizes: list[str]) -> None:
    assert found(project, "tomogram", f"wbp@{pattern}") == [f"wbp@{each}" for each in sizes]
    one = f"ribo@{pattern}?instance=true"
    assert found(project, "segmentation", one) == [f"ribo:al/s1@{each}?instance=true" for each in sizes]


def test_numbers_in_regular_expressions_are_numbers(project: CopickRoot) -> None:
    assert found(project, "tomogram", "re:wbp$@10") == ["wbp@10.0"]
    assert found(project, "tomogram", "re:wbp$@10.*") == ["wbp@10.0", "wbp@100.0"]
    assert len(found(project, "tomogram", "re:.*")) == 6


def test_features_are_found(project: CopickRoot) -> None:
    assert found(project, "feature", "wbp@10") == ["wbp@10.0:edge", "wbp@10.0:sobel"]
    assert found(project, "feature", "w*@10:s*") == ["wbp@10.0:sobel"]


def test_runs(project: CopickRoot) -> None:
    assert len(found(project, "picks", "ribo:al/s1", None)) == 2
    assert {obj.run.name for obj in resolve_copick_objects("ribo", project, "picks", "TS_2")} == {"TS_2"}
    with pytest.raises(ValueError, match="no run 'TS_3'"):
        found(project, "picks", "ribo", "TS_3")


def test_filters(project: CopickRoot) -> None:
    def count(object_type: str, **filters: Any) -> int:
        return len(get_copick_objects_by_type(project, object_type, "TS_1", **filters))

    assert count("picks") == 5
    assert count("picks", object_name="ribo.*", user_id="al", session_id=None, pattern_type="regex") == 3
    assert count("picks", object_name=["ribosome", "a*"]) == 2
    assert count("picks", session_id=0) == 1
    assert count("segmentation", name="ribo", voxel_spacing=10) == 2
    assert count("segmentation", voxel_spacing=[10.0, "7.84"], panoptic=True) == 2
    with pytest.raises(TypeError, match="a tomogram has no 'multilabel'; filter by tomo_type"):
        count("tomogram", multilabel=True)
    with pytest.raises(ValueError, match=r"'\(' is no regular expression"):
        count("picks", object_name="(", pattern_type="regex")


def test_what_has_no_uri(project: CopickRoot) -> None:
    with pytest.raises(ValueError, match="a CopickRun has no URI; only picks"):
        serialize_copick_uri(project.runs[0])


def test_import_brings_no_models() -> None:
    code = "import copick.util.uri, sys; assert 'copick.models' not in sys.modules and 'pydantic' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
