"""Configs: what is accepted, and what a refusal says."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

import copick
from copick.config import (
    CopickConfig,
    CopickConfigCache,
    CopickConfigFS,
    CopickConfigML,
    CopickConfigMultilayer,
    LayerConfig,
    parse_config,
    plugin_layer_type,
    read_config,
)
from copick.errors import ConfigError
from copick.layers.build import build_stack, choose_cache
from copick.layers.memory import MemoryLayer
from copick.util.sizes import parse_size

if TYPE_CHECKING:
    from pathlib import Path


def multilayer(**fields: Any) -> dict[str, Any]:
    return {
        "config_type": "multilayer",
        "layers": ["work", "archive"],
        "layer_configs": {
            "work": {"config_type": "filesystem", "root": "work"},
            "archive": {"config_type": "filesystem", "root": "archive", "read_only": True},
        },
        **fields,
    }


def layers(**more: dict[str, Any]) -> dict[str, Any]:
    """`multilayer` with entries added to `layer_configs` and `layers`."""
    base = multilayer()
    return multilayer(layers=[*base["layers"], *more], layer_configs={**base["layer_configs"], **more})


def test_defaults() -> None:
    config = parse_config(multilayer())
    assert isinstance(config, CopickConfigMultilayer)
    assert config.default_write_layer == "work"
    assert config.layer_configs["work"].layer_name == "work"
    assert config.cache is None
    assert (config.write_strategy, config.zarr_format) == ("default", 2)
    assert CopickConfigFS(root="x").zarr_format == 2
    cache = CopickConfigCache(root="x")
    assert cache.propagate
    assert (cache.max_size_bytes, cache.max_age, cache.disk_format) == (10 * 1024**3, 604800, "auto")
    assert cache.decoded_bytes == 256 * 1024**2


def test_dump_reads_back() -> None:
    config = parse_config(multilayer(cache_config={"root": "cache"}, user_id="me"))
    again = parse_config(json.dumps(config.model_dump(mode="json")))
    assert again == config


def test_unknown_keys_of_objects_are_refused() -> None:
    objects = [
        {"name": "a", "is_particle": True, "label": 1, "go_id": "GO:1", "metadata": {"radus": 5}},
        {"name": "b", "is_particle": True, "label": 2, "radus": 5},
    ]
    problem = r"pickable_objects: object 'b': unknown key 'radus' \(did you mean 'radius'\?\)"
    parse_config(multilayer(pickable_objects=objects[:1]))
    with pytest.raises(ConfigError, match=problem):
        parse_config(multilayer(pickable_objects=objects))
    with pytest.raises(ConfigError, match=problem):
        parse_config({"config_type": "filesystem", "root": "x", "pickable_objects": objects})


def test_quotas_name_layers() -> None:
    cache = {"root": "cache", "quotas": {"archiv": 1000}}
    problem = r"quotas: found 'archiv', which is no layer to cache \(did you mean 'archive'\?\)"
    with pytest.raises(ConfigError, match=rf"cache_config\.{problem}; expected one of work, archive"):
        parse_config(multilayer(cache_config=cache))
    with pytest.raises(ConfigError, match=r"cache\.quotas: found 'archiv'.*expected one of overlay"):
        parse_config({"config_type": "filesystem", "overlay_root": "x", "cache": cache})
    with pytest.raises(ConfigError, match=rf"cache\.{problem}"):
        build_stack(parse_config(multilayer()), choose_cache(parse_config(multilayer()), cache))
    parse_config(multilayer(cache_config={**cache, "quotas": {"archive": 1000}}))


@pytest.mark.parametrize("choice", [True, 3, ["x"]])
def test_a_cache_is_no_flag(choice: Any) -> None:
    with pytest.raises(ConfigError, match=r"cache=.*: expected a directory, .*or False for no cache"):
        choose_cache(parse_config(multilayer()), choice)


def test_the_spec_example_in_python() -> None:
    config = CopickConfigML(
        layers=["filesystem", "cache"],
        layer_configs={
            "filesystem": CopickConfigFS(root="/path/to/data", layer_name="filesystem", priority=50),
            "cache": CopickConfigCache(
                root="/cache", layer_name="cache", priority=100, parent_layer="filesystem"
            ),
        },
        default_write_layer="filesystem",
    )
    assert [place.layer_name for place in config.stack] == ["filesystem"]
    assert config.cache is not None
    assert config.cache.parents == ["filesystem"]


def test_order_of_the_stack() -> None:
    config = parse_config(
        layers(
            c={"config_type": "memory", "priority": 5},
            d={"config_type": "memory", "priority": 9, "read_only": True},
            e={"config_type": "memory", "priority": 5},
        )
    )
    assert isinstance(config, CopickConfigMultilayer)
    assert [place.layer_name for place in config.stack] == ["c", "e", "work", "d", "archive"]
    assert config.default_write_layer == "c"


def test_http_is_read_only() -> None:
    assert CopickConfigFS(root="https://example.org/x").read_only
    assert not CopickConfigFS(root="s3://bucket/x").read_only
    assert [CopickConfigFS(root=root).remote for root in ("x", "/x", "local:///x", "memory://x", "s3://x")] == [
        False, False, False, False, True,
    ]  # fmt: skip


def test_a_stack_without_a_writable_layer() -> None:
    config = parse_config(
        multilayer(layers=["archive"], layer_configs={"archive": multilayer()["layer_configs"]["archive"]})
    )
    assert isinstance(config, CopickConfigMultilayer)
    assert config.default_write_layer is None


def test_objects_of_layers_are_the_project_s() -> None:
    ours = {"name": "a", "is_particle": True, "label": 7}
    theirs = [{"name": "a", "is_particle": True, "label": 1}, {"name": "b", "is_particle": True, "label": 2}]
    config = parse_config(
        layers(x={"config_type": "memory", "pickable_objects": theirs}) | {"pickable_objects": [ours]}
    )
    assert [(item.name, item.label) for item in config.pickable_objects] == [("a", 7), ("b", 2)]


BAD: list[tuple[dict[str, Any], str]] = [
    (
        multilayer(default_write_layer="wrok"),
        r"default_write_layer: found 'wrok'.*did you mean 'work'.*work, archive",
    ),
    (
        multilayer(default_write_layer="archive"),
        r"default_write_layer: 'archive' is read-only; expected.*work",
    ),
    (multilayer(layers=["work", "archive", "wrk"]), r"layers\.2: found 'wrk'.*did you mean 'work'"),
    (multilayer(layers=["work", "work", "archive"]), r"layers\.1: 'work' is named twice"),
    (multilayer(layers=["work"]), r"layer_configs\.archive: is not named in layers"),
    (multilayer(layers=[]), r"layers: found an empty list"),
    ({"config_type": "multilayer", "layers": []}, r"layer_configs: is missing"),
    (layers(x={"config_type": "filesystem"}), r"layer_configs\.x\.root: is missing"),
    (layers(x={"config_type": "filesystem", "root": ""}), r"layer_configs\.x\.root: found ''"),
    (
        layers(x={"config_type": "filesytem"}),
        r"layer_configs\.x: unknown config_type 'filesytem' \(did you mean 'filesystem'\?\); known are",
    ),
    (layers(x={"root": "x"}), r"layer_configs\.x: config_type is missing"),
    (
        layers(x={"config_type": "multilayer"}),
        r"layer_configs\.x: config_type 'multilayer' cannot be a layer",
    ),
    (
        layers(x={"config_type": "memory", "priorty": 3}),
        r"layer_configs\.x\.priorty: unknown key \(did you mean 'priority'\?\)",
    ),
    (
        layers(x={"config_type": "memory", "priority": "high"}),
        r"layer_configs\.x\.priority: found 'high'; expected a valid integer",
    ),
    (
        layers(x={"config_type": "memory", "layer_name": "y"}),
        r"layer_configs\.x\.layer_name: found 'y'; expected 'x'",
    ),
    (
        multilayer(layer_configs={"work": 3, "archive": {"config_type": "memory"}}),
        r"layer_configs\.work: found 3; expected",
    ),
    (
        layers(x={"config_type": "cache", "root": "c"}) | {"cache_config": {"root": "d"}},
        r"cache_config: is a second cache beside layer_configs\.x",
    ),
    (
        layers(x={"config_type": "cache", "root": "c"}, y={"config_type": "cache", "root": "d"}),
        r"layer_configs\.y: is a second cache",
    ),
    (
        layers(x={"config_type": "cache", "root": "c"}) | {"default_write_layer": "x"},
        r"default_write_layer: 'x' is the cache",
    ),
    (
        multilayer(cache_config={"root": "c", "layer_name": "work"}),
        r"cache_config\.layer_name: 'work' is also",
    ),
    (
        multilayer(cache_config={"root": "c", "parent_layer": "wrk"}),
        r"cache_config\.parent_layer: found 'wrk'.*did you mean 'work'",
    ),
    (
        multilayer(cache_config={"root": "c", "parent_layer": ["work", "x"]}),
        r"cache_config\.parent_layer: found 'x'",
    ),
    (
        multilayer(cache_config={"root": "c", "max_size_byte": 1}),
        r"cache_config\.max_size_byte: unknown key \(did you mean 'max_size_bytes'",
    ),
    (
        multilayer(cache_config={"root": "c", "max_size_bytes": -1}),
        r"cache_config\.max_size_bytes: found -1; expected greater",
    ),
    (
        multilayer(cache_config={"root": "c", "disk_format": "zip"}),
        r"cache_config\.disk_format: found 'zip'; expected 'auto', 'raw' or 'encoded'",
    ),
    (multilayer(cache_config={"root": "s3://c"}), r"cache_config: root: a cache needs a local directory"),
    (multilayer(layers=["c"], layer_configs={"c": {"config_type": "cache", "root": "c"}}), "only a cache"),
    (multilayer(layer_config={}), r"layer_config: unknown key \(did you mean 'layer_configs'\?\)"),
    (
        multilayer(write_strategy="src"),
        r"write_strategy: found 'src'; expected 'default', 'source' or 'cache'",
    ),
    (multilayer(zarr_format=4), r"zarr_format: found 4; expected 2 or 3"),
    (multilayer(user_id="a_b"), r"user_id: .*try 'a-b'"),
    (multilayer(pickable_objects=[{"name": "a"}]), r"pickable_objects\.0\.is_particle: is missing"),
    (
        {"config_type": "filesystem", "root": "x", "fs_arg": {}},
        r"fs_arg: unknown key \(did you mean 'fs_args'\?\)",
    ),
    (
        {"config_type": "filesystem", "root": "x", "timeout_s": 0},
        r"timeout_s: found 0; expected greater than 0",
    ),
    ({"config_type": "sql"}, r"config_type: unknown config_type 'sql'; known are .*filesystem.*multilayer"),
    ({"config_type": 3}, r"config_type: unknown config_type 3"),
    ({"root": "x"}, r"config_type: is missing; known are"),
]


@pytest.mark.parametrize(("data", "problem"), BAD, ids=[problem[:40] for _, problem in BAD])
def test_refusals(data: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem) as caught:
        parse_config(data, "project.json")
    text = str(caught.value)
    assert text.startswith("project.json: ")
    assert "pydantic" not in text
    assert caught.value.__cause__ is None or "pydantic" not in str(caught.value.__cause__)
    assert isinstance(caught.value, ValueError)


def test_several_problems_are_told_at_once() -> None:
    with pytest.raises(ConfigError, match=r"2 problems:\n  .*root: is missing\n  .*rot: unknown key"):
        parse_config({"config_type": "filesystem", "rot": "x"})


@pytest.mark.parametrize("data", ["[]", "3", '"x"', "null"])
def test_a_config_is_an_object(data: str) -> None:
    with pytest.raises(ConfigError, match="expected an object with a config_type"):
        parse_config(data)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no config file .*nowhere\.json"):
        copick.from_file(tmp_path / "nowhere.json")


def test_a_file_that_is_no_json(tmp_path: Path) -> None:
    path = tmp_path / "project.json"
    path.write_text('{\n  "config_type": "memory", // mine\n}')
    with pytest.raises(ConfigError, match=r"project\.json: not valid JSON at line 2, column 28") as caught:
        copick.from_file(path)
    assert isinstance(caught.value, ValueError)


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "project.json"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_config(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_config(tmp_path)


def test_from_file_checks_the_type(tmp_path: Path) -> None:
    path = tmp_path / "project.json"
    path.write_text(json.dumps({"config_type": "memory"}))
    assert CopickConfig.from_file(path).config_type == "memory"
    with pytest.raises(ConfigError, match="type 'memory', not a CopickConfigFS"):
        CopickConfigFS.from_file(path)


def test_secrets_are_masked_in_repr_but_saved() -> None:
    args = {"key": "AKIA", "secret": "s3cr3t", "client_kwargs": {"aws_session_token": "t0ken"}, "anon": False}
    config = parse_config(layers(x={"config_type": "filesystem", "root": "s3://b", "fs_args": args}))
    for text in (repr(config), str(config)):
        assert not any(secret in text for secret in ("AKIA", "s3cr3t", "t0ken"))
        assert "'anon': False" in text
    assert config.model_dump()["layer_configs"]["x"]["fs_args"] == args


def test_secrets_are_not_in_refusals() -> None:
    data = {"config_type": "filesystem", "root": "s3://b", "fs_args": ["s3cr3t"], "secret_key": "s3cr3t"}
    with pytest.raises(ConfigError, match="fs_args") as caught:
        parse_config(data)
    assert "s3cr3t" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


# Which cache


def test_the_cache_of_the_config_comes_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COPICK_CACHE_DIR", "/environment")
    monkeypatch.setenv("COPICK_CACHE_SIZE", "5GB")
    stated, bare = parse_config(multilayer(cache_config={"root": "/own"})), parse_config(multilayer())
    for config, root in ((stated, "/own"), (bare, "/environment")):
        cache = choose_cache(config)
        assert cache is not None
        assert cache.root == root
    found = choose_cache(parse_config({"config_type": "filesystem", "root": "x"}))
    assert found is not None
    assert found.max_size_bytes == 5 * 1024**3


def test_the_caller_s_cache_comes_first(tmp_path: Path) -> None:
    config = parse_config(multilayer(cache_config={"root": "/own", "max_age": 5}))
    moved = choose_cache(config, tmp_path)
    assert moved is not None
    assert (moved.root, moved.max_age) == (str(tmp_path), 5)
    stated = choose_cache(config, {"root": "/other"})
    assert stated is not None
    assert (stated.root, stated.max_age) == ("/other", 604800)
    own = CopickConfigCache(root="/third")
    assert choose_cache(config, own) is own
    assert choose_cache(config, False) is None
    with pytest.raises(ConfigError, match=r"cache=: root: is missing"):
        choose_cache(config, {"max_age": 3})


def test_a_bad_size_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COPICK_CACHE_DIR", "/x")
    monkeypatch.setenv("COPICK_CACHE_SIZE", "lots")
    with pytest.raises(ConfigError, match=r"COPICK_CACHE_SIZE: found 'lots'"):
        choose_cache(parse_config(multilayer()))


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("10", 10),
        ("1.5k", 1536),
        ("20GB", 20 * 1024**3),
        ("2 TiB", 2 * 1024**4),
        ("500m", 500 * 1024**2),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text, "x") == size


# Layer types of other packages


class LabConfig(LayerConfig):
    config_type: str = "lab"
    bench: int = 0


class LabType:
    config = LabConfig

    @staticmethod
    def build(config: LabConfig, name: str) -> MemoryLayer:
        return MemoryLayer(f"{name}-{config.bench}")


def test_a_package_can_add_a_layer_type(monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib import metadata

    entry = metadata.EntryPoint("lab", f"{__name__}:LabType", "copick.layers")

    def entry_points(*, group: str, name: str | None = None) -> list[metadata.EntryPoint]:
        return [entry] if group == "copick.layers" and name in (None, "lab") else []

    monkeypatch.setattr(metadata, "entry_points", entry_points)
    plugin_layer_type.cache_clear()
    try:
        config = parse_config(layers(x={"config_type": "lab", "bench": 3, "priority": 99}))
        assert isinstance(config, CopickConfigMultilayer)
        assert isinstance(config.layer_configs["x"], LabConfig)
        only = parse_config({"config_type": "lab", "layer_name": "mine"})
        assert build_stack(only).names == ["mine-0"]
        with pytest.raises(
            ConfigError, match=r"layer_configs\.x\.bnch: unknown key \(did you mean 'bench'\?\)"
        ):
            parse_config(layers(x={"config_type": "lab", "bnch": 3}))
        with pytest.raises(
            ConfigError, match="known are cache, cryoet_data_portal, filesystem, lab, memory, multilayer"
        ):
            parse_config({"config_type": "zzz"})
    finally:
        plugin_layer_type.cache_clear()


def test_a_cache_cannot_be_opened_alone() -> None:
    with pytest.raises(ConfigError, match="cannot be opened alone"):
        copick.from_string(json.dumps({"config_type": "cache", "root": "x"}))
