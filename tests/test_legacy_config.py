"""Configs of copick 1.x: opened unchanged, and what may be added to them."""

from __future__ import annotations

import json
import logging
import os
import re
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import copick
from copick.config import CopickConfig, CopickConfigCache, CopickConfigFSSpec, parse_config
from copick.errors import ConfigError, FormatError, ReadOnlyError
from copick.impl.filesystem import CopickRootFS, CopickRootFSSpec
from copick.impl.multilayer import CopickRootMultilayer
from copick.layers.build import choose_cache
from copick.models import PickableObject
from projects import OBJECTS, VOLUME, alone, run_of, tomogram_of

if TYPE_CHECKING:
    from pathlib import Path

    from copick.models import CopickRoot

EVERY_FIELD = {
    "config_type": "filesystem",
    "name": "demo",
    "description": "of everything",
    "version": "1.4.0",
    "pickable_objects": [
        {
            "name": "ribosome",
            "is_particle": True,
            "label": 1,
            "color": [0, 117, 220, 255],
            "go_id": "GO:0022626",
            "pdb_id": "4V9D",
            "emdb_id": "EMD-3883",
            "map_threshold": 0.037,
            "radius": 150.0,
            "metadata": {"copick": {"filament": {"polar": True}}},
        },
        {"name": "membrane", "is_particle": False, "label": None, "metadata": None},
    ],
    "user_id": "alice",
    "session_id": "s1",
    "voxel_spacings": [10, 20.5],
    "tomograms": {"10": ["wbp"]},
    "overlay_root": "local:///data/overlay/",
    "overlay_fs_args": {"auto_mkdir": True},
    "static_root": "s3://bucket/project",
    "static_fs_args": {"anon": True},
}


def of_1x(overlay: object, static: object = None, **fields: Any) -> dict[str, Any]:
    """A config of copick 1.x."""
    config = {
        "config_type": "filesystem",
        "user_id": "me",
        "pickable_objects": OBJECTS,
        "overlay_root": f"local://{overlay}",
        "overlay_fs_args": {"auto_mkdir": True},
        **fields,
    }
    return config if static is None else {**config, "static_root": f"local://{static}"}


def opened(config: dict[str, Any]) -> CopickRoot:
    return copick.from_string(json.dumps(config))


@pytest.fixture
def static(original: Path) -> Path:
    return original


# Fields


def test_every_field_is_kept_as_written() -> None:
    config = parse_config(EVERY_FIELD)
    assert isinstance(config, CopickConfigFSSpec)
    assert (config.overlay_root, config.static_root) == ("local:///data/overlay/", "s3://bucket/project")
    assert (config.overlay_fs_args, config.static_fs_args) == ({"auto_mkdir": True}, {"anon": True})
    assert (config.name, config.description, config.version) == ("demo", "of everything", "1.4.0")
    assert (config.user_id, config.session_id) == ("alice", "s1")
    assert config.voxel_spacings == [10.0, 20.5]
    assert config.tomograms == {10.0: ["wbp"]}
    assert config.pickable_objects[0].identifier == "GO:0022626"
    assert config.pickable_objects[1].metadata == {}


def test_defaults() -> None:
    config = parse_config({"config_type": "filesystem", "pickable_objects": [], "overlay_root": "data"})
    assert isinstance(config, CopickConfigFSSpec)
    assert (config.name, config.description, config.version) == ("CoPick", "Let's CoPick!", "0.2.0")
    assert (config.static_root, config.overlay_fs_args, config.static_fs_args) == (None, {}, {})
    assert (config.runs, config.voxel_spacings, config.tomograms) == (None, None, {})
    assert (config.cache, config.index, config.zarr_format) == (None, None, 2)


@pytest.mark.parametrize("field", ["overlay_fs_args", "static_fs_args", "tomograms", "name", "version"])
def test_nothing_may_be_stated_as_null(field: str) -> None:
    assert getattr(parse_config({**EVERY_FIELD, field: None}), field) is None


def test_unknown_keys_are_ignored(recwarn: pytest.WarningsRecorder) -> None:
    config = parse_config(
        {**EVERY_FIELD, "colour": 3, "pickable_objects": [{**OBJECTS[0], "shape": "round"}]}
    )
    assert isinstance(config, CopickConfigFSSpec)
    assert not recwarn.list


def test_a_croissant_project_is_refused_by_name() -> None:
    """copick 1.x opens them; this version says that it does not, and what to do."""
    config = {"config_type": "mlcroissant", "pickable_objects": [], "croissant_url": "x", "overlay_root": "y"}
    with pytest.raises(
        ConfigError, match=r"'mlcroissant' \(Croissant .*\) cannot be opened by this version; name"
    ):
        opened(config)


def test_without_a_type(tmp_path: Path) -> None:
    path = tmp_path / "project.json"
    path.write_text(json.dumps({"pickable_objects": [], "overlay_root": str(tmp_path)}))
    with pytest.warns(
        DeprecationWarning, match=r"project\.json: config_type is missing; read as 'filesystem'"
    ):
        root = copick.from_file(path)
    assert isinstance(root, CopickRootFSSpec)
    assert root.config.config_type == "filesystem"


def test_a_key_that_stands_twice_counts_as_in_copick_1x(caplog: pytest.LogCaptureFixture) -> None:
    text = '{"config_type": "filesystem", "overlay_root": "a", "overlay_root": "b"}'
    config = parse_config(text)
    assert isinstance(config, CopickConfigFSSpec)
    assert config.overlay_root == "b"
    assert "'overlay_root' stands twice" in caplog.text
    with pytest.raises(ConfigError, match="the key 'root' stands twice in one object"):
        parse_config('{"config_type": "filesystem", "root": "a", "root": "b"}')


def test_saved_and_read_again(tmp_path: Path) -> None:
    config = parse_config({**EVERY_FIELD, "overlay_root": str(tmp_path), "static_root": None})
    assert isinstance(config, CopickConfigFSSpec)
    CopickRootFSSpec(config).save_config(tmp_path / "saved.json")
    text = (tmp_path / "saved.json").read_text()
    saved = json.loads(text)
    assert text == json.dumps(saved, indent=4)
    assert {*EVERY_FIELD, "runs"} <= {*saved}
    assert saved["pickable_objects"][0]["identifier"] == "GO:0022626"
    assert "go_id" not in saved["pickable_objects"][0]
    assert parse_config(text) == config


TEXTS = st.none() | st.text(max_size=8)
NAMES = st.text("abcXYZ019-.+ä", min_size=1, max_size=8).filter(lambda name: name == name.strip("-"))
ARGS = st.none() | st.dictionaries(
    st.text(max_size=5), st.integers() | st.booleans() | st.text(max_size=5), max_size=3
)
LEGACY = st.fixed_dictionaries(
    {"overlay_root": st.sampled_from(["data", "/data", "local:///data", "s3://bucket/x", "memory://x"])},
    optional={
        "config_type": st.just("filesystem"),
        "name": TEXTS,
        "description": TEXTS,
        "version": TEXTS,
        "user_id": st.none() | NAMES,
        "session_id": st.none() | NAMES,
        "runs": st.none() | st.lists(st.text(max_size=5), max_size=3),
        "voxel_spacings": st.none() | st.lists(st.floats(1, 100), max_size=3),
        "tomograms": st.none()
        | st.dictionaries(st.floats(1, 100).map(str), st.lists(NAMES, max_size=2), max_size=2),
        "static_root": st.none() | st.sampled_from(["data", "static", "s3://bucket/x"]),
        "overlay_fs_args": ARGS,
        "static_fs_args": ARGS,
        "pickable_objects": st.lists(
            st.fixed_dictionaries({"name": NAMES, "is_particle": st.booleans()}, optional={"go_id": TEXTS}),
            max_size=3,
        ),
    },
)


@settings(suppress_health_check=[HealthCheck.too_slow])  # that is the machine's
@given(LEGACY, st.dictionaries(st.text("xyz", min_size=1, max_size=4), st.integers(), max_size=2))
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_whatever_copick_1x_accepts(fields: dict[str, Any], unknown: dict[str, int]) -> None:
    """Every field is kept, unknown ones are ignored, and what is saved says the same."""
    config = parse_config(json.dumps({**unknown, **fields}))
    assert isinstance(config, CopickConfigFSSpec)
    kept = config.model_dump(mode="json")
    for name, value in fields.items():
        if name not in {"pickable_objects", "tomograms"}:
            assert kept[name] == value
    assert [item.name for item in config.pickable_objects] == [
        item["name"] for item in fields.get("pickable_objects", [])
    ]
    assert not {*unknown} & {*kept}
    assert config.stack[0].layer_name == "overlay"
    assert parse_config(json.dumps(kept)) == config


# What kind of config, what kind of root


def test_the_fields_tell_the_versions_apart(tmp_path: Path) -> None:
    new = {"config_type": "filesystem", "root": str(tmp_path)}
    assert type(opened(new)) is CopickRootFS
    assert type(opened(of_1x(tmp_path))) is CopickRootFSSpec
    with pytest.raises(ConfigError, match="overlay_root: unknown key"):
        opened({**new, "overlay_root": str(tmp_path)})
    with pytest.raises(ConfigError, match="overlay_root: is missing"):
        opened({"config_type": "filesystem", "static_root": str(tmp_path)})
    with pytest.raises(ConfigError, match="config_type: is missing"):
        opened({"pickable_objects": []})


def test_from_file_of_each_class(tmp_path: Path) -> None:
    path = tmp_path / "project.json"
    path.write_text(json.dumps(of_1x(tmp_path)))
    assert isinstance(CopickRootFSSpec.from_file(path), CopickRootFSSpec)
    assert isinstance(CopickConfigFSSpec.from_file(path), CopickConfigFSSpec)
    assert isinstance(CopickConfig.from_file(path), CopickConfigFSSpec)
    with pytest.raises(ConfigError, match="type 'filesystem', not a CopickConfigMultilayer"):
        CopickRootMultilayer.from_file(path)
    with pytest.raises(ConfigError, match=r"not a CopickConfigFS$"):
        CopickRootFS.from_file(path)


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"user_id": "a_b"}, r"user_id: .*try 'a-b'"),
    ({"session_id": ""}, r"session_id: .*no character"),
    ({"overlay_root": None}, r"overlay_root: found None; expected a valid string"),
    ({"overlay_root": "s3://"}, r"overlay_root: s3:// names no bucket"),
    ({"static_root": "https://host/x?y"}, r"static_root: holds \? or #"),
    ({"overlay_fs_args": 3}, r"overlay_fs_args: expected a valid dictionary"),
    ({"pickable_objects": [{"name": "a_b", "is_particle": True}]}, r"pickable_objects\.0\.name: .*try 'a-b'"),
    ({"pickable_objects": [{"name": "a", "is_particle": True, "label": 0}]}, r"label: .*background"),
    ({"tomograms": {"ten": ["wbp"]}}, r"tomograms\.ten.*: expected a valid number"),
    ({"cache": {"root": "c", "max_sise_bytes": 1}}, r"cache\.max_sise_bytes: unknown key .*'max_size_bytes'"),
    ({"cache": {"root": "c", "parent_layer": "statik"}}, r"cache\.parent_layer: .*mean 'static'"),
    ({"zarr_format": 1}, r"zarr_format: found 1; expected 2 or 3"),
]


@pytest.mark.parametrize(("fields", "problem"), REFUSED, ids=[problem[:30] for _, problem in REFUSED])
def test_refusals(fields: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem) as caught:
        parse_config({**EVERY_FIELD, **fields}, "project.json")
    assert isinstance(caught.value, ValueError)


def test_secrets_are_not_shown() -> None:
    args = {"key": "AKIA", "secret": "s3cr3t"}
    config = parse_config({**EVERY_FIELD, "static_fs_args": args})
    assert "s3cr3t" not in repr(config)
    with pytest.raises(ConfigError) as caught:
        parse_config({**EVERY_FIELD, "static_fs_args": "s3cr3t"})
    assert "s3cr3t" not in str(caught.value)


# Objects that share a name or a label

TWINS: list[tuple[list[dict[str, Any]], str]] = [
    (
        [{"name": "a", "is_particle": True, "label": 1}, {"name": "a", "is_particle": True, "label": 2}],
        r"pickable_objects: 0 and 1 both have the name 'a'",
    ),
    (
        [{"name": "a", "is_particle": True}, {"name": "b", "is_particle": True}],
        r"pickable_objects: 'a' and 'b' both have the label 1; each needs",
    ),
]


@pytest.mark.parametrize(("objects", "problem"), TWINS, ids=["name", "label"])
def test_objects_that_are_alike(
    objects: list[dict[str, Any]], problem: str, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    root = opened(of_1x(tmp_path, pickable_objects=objects))
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    with pytest.raises(ConfigError, match=problem):
        raise ConfigError(record.getMessage())
    assert len(root.pickable_objects) == 2

    layer = {"config_type": "filesystem", "root": str(tmp_path)}
    stack = {"config_type": "multilayer", "layers": ["x"], "layer_configs": {"x": layer}}
    for config in (
        {**layer, "pickable_objects": objects},
        {**stack, "pickable_objects": objects},
        {**stack, "layer_configs": {"x": {**layer, "pickable_objects": objects}}},
    ):
        with pytest.raises(ConfigError, match=problem):
            parse_config(config)


def test_objects_without_labels_are_not_alike() -> None:
    objects = [{"name": name, "is_particle": True, "label": None} for name in "ab"]
    assert len(parse_config({"config_type": "memory", "pickable_objects": objects}).pickable_objects) == 2


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"radius": float("nan")}, "object 'x': radius nan: expected a length in ångström, 0 or more"),
        ({"radius": -1}, "radius -1.0: expected"),
        ({"label": -3}, "label -3: expected 1 or more"),
        ({"map_threshold": float("inf")}, "map_threshold inf: expected a finite number"),
        ({"name": ".."}, r"object '\.\.': no file can be called so"),
        ({"name": "x" * 300}, "no file can be called so; expected at most 200 bytes"),
    ],
)
def test_values_that_cannot_be_are_said_of_projects_of_1x_and_refused_in_new_ones(
    fields: dict[str, Any], problem: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    objects = [{"name": "x", "is_particle": True, **fields}]
    root = opened(of_1x(tmp_path, pickable_objects=objects))
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert re.search(problem, record.getMessage())
    if "name" not in fields:  # what was so before may stay so, while something else of it changes
        root.new_object("x", True, identifier="GO:1", exist_ok=True)
    assert root.new_object("other", True).label == (1 if "label" in fields else 2)
    with pytest.raises(FormatError, match=problem):
        alone(tmp_path / "new").new_object(**{"name": "x", "is_particle": True, **fields, "exist_ok": True})
    with pytest.raises(ConfigError, match=problem):
        parse_config({"config_type": "memory", "pickable_objects": objects})
    path = tmp_path / "new/config.json"
    with pytest.raises(ConfigError, match=problem):
        copick.new_config(path, tmp_path / "data", pickable_objects=objects)
    assert not path.exists()


def test_an_object_of_a_layer_takes_no_label_of_another() -> None:
    layer = {"config_type": "memory", "pickable_objects": [{"name": "b", "is_particle": True, "label": 7}]}
    stack = {"config_type": "multilayer", "layers": ["x"], "layer_configs": {"x": layer}}
    with pytest.raises(ConfigError, match="'a' and 'b' both have the label 7"):
        parse_config({**stack, "pickable_objects": [{"name": "a", "is_particle": True, "label": 7}]})


# The stack


def test_overlay_over_static(tmp_path: Path, static: Path) -> None:
    root = opened(of_1x(tmp_path, static))
    assert root.layer.names == ["overlay", "static"]
    assert tomogram_of(root).sources == ["static"]
    assert tomogram_of(root).read_only
    run_of(root).new_picks("ribosome", "1")
    (mine,) = run_of(root).get_picks(user_id="me")
    (theirs,) = run_of(root).get_picks(user_id="tool")
    assert (mine.sources, theirs.sources) == (["overlay"], ["static"])
    assert (mine.read_only, theirs.read_only) == (False, True)
    assert (tmp_path / "ExperimentRuns/TS_1/Picks/me_1_ribosome.json").is_file()
    with pytest.raises(ReadOnlyError):
        theirs.delete()


def test_an_overlay_alone(tmp_path: Path) -> None:
    root = opened(of_1x(tmp_path / "data"))
    assert root.layer.names == ["overlay"]
    root.new_run("TS_1").new_voxel_spacing(10).new_tomogram("wbp").from_numpy(VOLUME)
    assert not tomogram_of(root).read_only
    assert (tmp_path / "data/ExperimentRuns/TS_1/VoxelSpacing10.000/wbp.zarr/0").is_dir()


def test_both_at_one_place_are_one_layer(tmp_path: Path) -> None:
    os.symlink(tmp_path, link := tmp_path / "link")
    for static in (tmp_path, f"{tmp_path}/", link):
        root = opened(of_1x(tmp_path, static))
        assert root.layer.names == ["overlay"]
    for other in ("memory://p", "s3://b/p"):
        fields = {"overlay_root": other, "static_root": f"{other}/"}
        config = parse_config({**EVERY_FIELD, **fields, "static_fs_args": {"anon": True}})
        assert isinstance(config, CopickConfigFSSpec)
        assert len(config.stack) == 1
    elsewhere = {**EVERY_FIELD, **fields, "static_fs_args": {"endpoint_url": "http://elsewhere"}}
    config = parse_config(elsewhere)
    assert isinstance(config, CopickConfigFSSpec)
    assert len(config.stack) == 2


def test_static_data_that_are_missing_are_none(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = opened(of_1x(tmp_path / "overlay", tmp_path / "nowhere"))
    assert root.runs == []
    assert root.get_run("TS_1") is None
    root.new_run("TS_1").new_picks("ribosome", "1")
    assert [picks.session_id for picks in run_of(root).picks] == ["1"]
    first, told = dict.fromkeys(caplog.messages)
    assert "layer 'overlay'" in first
    assert "layer 'static'" in told
    assert str(tmp_path / "nowhere") in told
    (tmp_path / "nowhere/ExperimentRuns/late").mkdir(parents=True)
    root.refresh()
    assert [run.name for run in root.runs] == ["TS_1", "late"]


def test_relative_paths_are_relative_to_the_current_directory(
    tmp_path: Path, static: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(static.parent)
    config = {**of_1x(""), "overlay_root": "", "static_root": static.name}
    root = opened(config)
    assert root.config.overlay_root == ""  # type: ignore[attr-defined]
    assert [run.name for run in root.runs] == ["TS_1"]


def test_static_data_on_a_server(
    tmp_path: Path, static: Path, s3_bucket: str, s3_args: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    import fsspec

    fs = fsspec.filesystem("s3", skip_instance_cache=True, **s3_args)
    fs.put(str(static), f"{s3_bucket}/static", recursive=True)
    there = {"static_root": f"s3://{s3_bucket}/static", "static_fs_args": s3_args}
    root = opened({**of_1x(tmp_path), **there})
    assert tomogram_of(root).numpy().shape == (8, 8, 8)
    assert tomogram_of(root).sources == ["static"]
    nothing = {**there, "static_root": f"s3://{s3_bucket}/nothing"}
    assert opened({**of_1x(tmp_path), **nothing}).runs == []
    assert "taken for empty" in caplog.text


def test_an_overlay_that_cannot_be_written(static: Path) -> None:
    config = parse_config({**EVERY_FIELD, "overlay_root": "https://example.org/data", "static_root": None})
    assert isinstance(config, CopickConfigFSSpec)
    assert config.default_write_layer is None


# Runs


@pytest.mark.parametrize("base", ["1.x", "layer"])
def test_the_runs_to_show(tmp_path: Path, base: str) -> None:
    for name in ("a", "b", "c"):
        alone(tmp_path).new_run(name)
    config = of_1x(tmp_path) if base == "1.x" else {"config_type": "filesystem", "root": str(tmp_path)}
    none = opened({**config, "runs": []})
    assert none.runs == []
    assert none.get_run("a") is None

    some = opened({**config, "runs": ["c", "a", "x"]})
    assert some.get_run("a") is not None
    assert some.get_run("b") is None
    assert some.get_run("x") is None
    assert [run.name for run in some.runs] == ["a", "c"]
    assert [run.name for run in some.query()] == ["a", "c"]
    assert some.get_run("b") is None
    with pytest.raises(ValueError, match="exists already"):
        some.new_run("a")
    some.new_run("d").new_voxel_spacing(10)
    assert some.new_run("b").ensure()
    some.refresh()
    assert [run.name for run in some.runs] == ["a", "b", "c", "d"]
    assert some.config.runs == ["c", "a", "x", "d", "b"]


def test_voxel_spacings_and_tomograms_of_a_config_hide_nothing(tmp_path: Path, static: Path) -> None:
    root = opened(of_1x(tmp_path, static, voxel_spacings=[], tomograms={"10": []}))
    (spacing,) = run_of(root).voxel_spacings
    assert [tomogram.tomo_type for tomogram in spacing.tomograms] == ["v3", "wbp"]


# What may be added


def test_a_cache_may_be_added(tmp_path: Path, static: Path, own_managers: None) -> None:
    cache = {"root": str(tmp_path / "cache"), "parent_layer": "static"}
    root = opened(of_1x(tmp_path / "overlay", static, cache=cache))
    assert (tomogram_of(root).numpy() == tomogram_of(alone(static)).numpy()).all()
    assert list((tmp_path / "cache").rglob("wbp.zarr"))
    config = root.config
    assert isinstance(config, CopickConfigFSSpec)
    assert isinstance(config.cache, CopickConfigCache)
    assert json.loads(config.model_dump_json())["cache"]["parent_layer"] == "static"


def test_the_cache_of_a_config_may_be_overridden(tmp_path: Path) -> None:
    config = parse_config(of_1x(tmp_path, cache={"root": "/own", "max_age": 5}))
    moved = choose_cache(config, tmp_path)
    assert moved is not None
    assert (moved.root, moved.max_age) == (str(tmp_path), 5)
    assert choose_cache(config, False) is None


def test_an_index_may_be_stated(tmp_path: Path, static: Path) -> None:
    """An `index` block gives a project of copick 1.x an index."""
    index = {"db_path": str(tmp_path / "index.db"), "auto_index": False}
    root = opened(of_1x(tmp_path, static, index=index))
    root.index_all_layers()
    assert (tmp_path / "index.db").is_file()
    assert root.layer_status()["static"]["indexed"]
    assert json.loads(root.config.model_dump_json())["index"]["db_path"] == index["db_path"]
    with pytest.raises(ConfigError, match=r"index.auto_indx: unknown key.*auto_index"):
        parse_config(of_1x(tmp_path, index={**index, "auto_indx": True}))


@pytest.mark.parametrize(("zarr_format", "file"), [(2, ".zgroup"), (3, "zarr.json")])
def test_the_format_of_new_arrays_may_be_stated(
    tmp_path: Path, static: Path, zarr_format: int, file: str
) -> None:
    root = opened(of_1x(tmp_path, static, zarr_format=zarr_format))
    run_of(root).new_voxel_spacing(5).new_tomogram("mine").from_numpy(VOLUME)
    assert (tmp_path / "ExperimentRuns/TS_1/VoxelSpacing5.000/mine.zarr" / file).is_file()


def test_the_base_config_has_what_1x_gave_it() -> None:
    config = CopickConfig(pickable_objects=[])
    assert (config.name, config.version, config.runs, config.tomograms) == ("CoPick", "0.2.0", None, {})


def test_a_config_may_be_bytes(tmp_path: Path) -> None:
    """As they come from the web or from an fsspec filesystem."""
    text = json.dumps(of_1x(tmp_path), ensure_ascii=False)
    assert copick.from_string(text.encode()).config == copick.from_string(text).config
    with pytest.raises(ConfigError, match="config: cannot be used: 'utf-8' codec"):
        copick.from_string(b'{"name": "\xff"}')


# New projects


def test_new_config(tmp_path: Path) -> None:
    config, data = tmp_path / "deep/er/project.json", tmp_path / "data"
    objects = [
        PickableObject(name="ribosome", is_particle=True),
        {"name": "b", "is_particle": False, "label": 2},
    ]
    root = copick.new_config(config, str(data), "mine", "of me", objects)
    assert isinstance(root, CopickRootFSSpec)
    assert [item.name for item in root.pickable_objects] == ["ribosome", "b"]
    written = json.loads(config.read_text())
    assert written["overlay_root"] == f"local://{data}"
    assert written["overlay_fs_args"] == {"auto_mkdir": True}
    assert (written["config_type"], written["name"], written["description"]) == (
        "filesystem",
        "mine",
        "of me",
    )
    assert written["version"] == copick.__version__
    assert not data.exists()
    root.new_run("TS_1")
    assert [run.name for run in copick.from_file(config).runs] == ["TS_1"]


def test_new_config_of_a_url(tmp_path: Path) -> None:
    copick.new_config(tmp_path / "project.json", "memory://x")
    written = json.loads((tmp_path / "project.json").read_text())
    assert (written["overlay_root"], written["overlay_fs_args"]) == ("memory://x", {})
    assert (written["name"], written["pickable_objects"]) == ("copick project", [])


def test_a_new_config_that_cannot_be_used_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="names no bucket"):
        copick.new_config(tmp_path / "project.json", "s3://")
    assert not (tmp_path / "project.json").exists()


def test_types_are_those_of_models() -> None:
    assert copick.CopickRoot in copick.COPICK_TYPES
    assert all(getattr(copick.models, cls.__name__) is cls for cls in copick.COPICK_TYPES)
