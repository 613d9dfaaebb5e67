"""The layers of a project one by one, and the proxies that join what they hold."""

from __future__ import annotations

import json
import pickle
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import copick
from copick.config import CopickConfigMultilayer
from copick.errors import NotFoundError, ReadOnlyError
from copick.impl.filesystem import CopickRootFS
from copick.impl.multilayer import (
    CopickRootMultilayer,
    CopickRunML,
    CopickTomogramML,
    LayerManager,
    ProxyFactory,
)
from copick.models import CopickRun
from projects import OBJECTS, VOLUME, alone, opened, run_of, tomogram_of

if TYPE_CHECKING:
    from pathlib import Path

    from copick.cache.manager import CacheManager
    from copick.models import CopickRoot


def fs(tmp_path: Path, name: str, **fields: Any) -> dict[str, Any]:
    return {"config_type": "filesystem", "root": str(tmp_path / name), **fields}


@pytest.fixture
def manager(root: CopickRoot) -> LayerManager:
    assert isinstance(root, CopickRootMultilayer)
    return root.layer_manager


def test_layers_by_name(root: CopickRoot, manager: LayerManager) -> None:
    assert root.layer_manager is manager  # type: ignore[attr-defined]
    assert list(manager.layers) == root.layer_names == ["work", "archive"]
    assert manager.get_layers_by_priority() == [*manager.layers.values()]
    assert manager.get_layer("work") is manager.layers["work"]
    assert root.layer_specific("archive") is manager.layers["archive"]  # type: ignore[attr-defined]
    assert {name: config.layer_name for name, config in manager.configs.items()} == {
        "work": "work",
        "archive": "archive",
    }
    assert manager.configs["archive"].read_only
    assert manager.default_write_layer == "work"
    assert (manager.cache_layer, manager.db_layer) == (None, None)
    assert "work › archive" in repr(manager)
    for ask in (manager.get_layer, root.layer_specific):  # type: ignore[attr-defined]
        with pytest.raises(
            NotFoundError, match=r"no layer 'wrok' \(did you mean 'work'\?\); the layers are work, archive"
        ):
            ask("wrok")


def test_each_layer_is_a_project_of_its_own(root: CopickRoot, manager: LayerManager) -> None:
    work, archive = manager.get_layers_by_priority()
    assert isinstance(work, CopickRootFS)
    assert isinstance(archive, CopickRootFS)
    assert archive.layer_names == ["archive"]
    assert [item.name for item in archive.pickable_objects] == ["ribosome", "membrane"]
    assert (archive.user_id, archive.config.layer_name) == ("me", "archive")
    assert work.runs == []
    (run,) = archive.runs
    assert run.root is archive
    assert np.array_equal(tomogram_of(archive).numpy(), VOLUME)
    assert len(run.picks) == len(run.segmentations) == 1
    for write in (
        lambda: archive.new_run("x"),
        lambda: run.new_picks("ribosome", "1"),
        lambda: run.picks[0].store(),
        lambda: run.delete(),
        lambda: tomogram_of(archive).set_region(0),
    ):
        with pytest.raises(ReadOnlyError, match="read-only"):
            write()
    assert archive.refresh() is None  # every layer can
    copy = pickle.loads(pickle.dumps(archive))
    assert np.array_equal(tomogram_of(copy).numpy(), VOLUME)


def test_what_a_layer_writes_the_project_sees(root: CopickRoot, manager: LayerManager) -> None:
    work = manager.get_layer("work")
    made = work.new_run("TS_2")
    made.new_picks("ribosome", "1")
    assert [run.name for run in root.runs] == ["TS_1", "TS_2"]
    shadow = work.new_run("TS_1").new_picks("ribosome", "0", "tool")
    shadow.from_numpy([[9, 9, 9]])
    run = run_of(root)
    assert run.sources == ["work", "archive"]
    assert [p.sources for p in run.picks] == [["work", "archive"]]
    assert run.picks[0].numpy()[0].tolist() == [[9, 9, 9]]
    assert run_of(manager.get_layer("archive")).picks[0].numpy()[0].tolist() == [[1, 2, 3]]


def test_refresh_all(manager: LayerManager, tmp_path: Path) -> None:
    work = manager.get_layer("work")
    assert work.runs == []
    alone(tmp_path / "work").new_run("theirs")
    assert work.runs == []
    manager.refresh_all()
    assert [run.name for run in work.runs] == ["theirs"]


def test_made_from_a_config_alone(tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    config = CopickConfigMultilayer(
        pickable_objects=OBJECTS,
        user_id="me",
        layers=["low", "high", "fixed"],
        layer_configs={
            "low": fs(tmp_path, "a", priority=1),
            "high": fs(tmp_path, "b", priority=5),
            "fixed": fs(tmp_path, "c", read_only=True, priority=99),
        },
        default_write_layer="low",
    )
    manager = LayerManager(config)
    assert list(manager.layers) == ["high", "low", "fixed"]
    assert manager.default_write_layer == "low"
    root = CopickRootMultilayer(config)
    run = root.new_run("r")
    assert run.sources == ["low"]
    assert manager.get_layer("low").query()[0].name == "r"
    assert manager.get_layer("high").query() == []
    before = [*manager.layers.values()]
    manager.connect_layers()
    assert list(manager.layers) == ["high", "low", "fixed"]
    assert not set(before) & set(manager.layers.values())


def test_a_run_knows_its_layers(root: CopickRoot, manager: LayerManager) -> None:
    run = run_of(root)
    assert isinstance(run, CopickRunML)
    assert list(run.source_runs) == ["archive"]
    run.new_picks("ribosome", "1")
    assert list(run.source_runs) == run.sources == ["work", "archive"]
    assert run.primary_run.sources == ["work"]
    assert [p.session_id for p in run.primary_run.picks] == ["1"]
    assert {name: len(each.picks) for name, each in run.source_runs.items()} == {"work": 1, "archive": 1}
    tomogram = tomogram_of(root)
    assert isinstance(tomogram, CopickTomogramML)
    assert list(tomogram.by_layer()) == ["archive"]
    assert np.array_equal(tomogram.by_layer()["archive"].numpy(), VOLUME)
    nowhere = CopickRun(root, copick_meta("nope"))
    assert nowhere.source_runs == {}


def copick_meta(name: str) -> Any:
    from copick.models import CopickRunMeta

    return CopickRunMeta(name=name)


def test_proxies(root: CopickRoot, manager: LayerManager, tmp_path: Path) -> None:
    archive = run_of(alone(tmp_path / "archive"))
    archive.description = "from below"
    archive.store()
    archive.new_mesh("membrane", "0", "tool")
    archive.new_filaments("ribosome", "0", "tool")
    tomogram_of(archive.root).new_features("unet").from_numpy(VOLUME)
    run_of(root).new_picks("ribosome", "0", "tool", layers="work").from_numpy([[7, 7, 7]])
    manager.refresh_all()
    factory = root.proxy_factory  # type: ignore[attr-defined]
    assert isinstance(factory, ProxyFactory)
    sources = {name: found for name, layer in manager.layers.items() if (found := layer.get_run("TS_1"))}
    assert list(sources) == ["work", "archive"]
    _ = sources["archive"].description
    run = factory.create_run_proxy(root, sources)
    assert (run.root, run.name, run.sources, run.description) == (
        root,
        "TS_1",
        ["work", "archive"],
        "from below",
    )
    assert len(run.picks) == 1

    def of(kind: str) -> dict[str, Any]:
        return {name: items[0] for name, source in sources.items() if (items := getattr(source, kind))}

    picks = factory.create_picks_proxy(run, of("picks"), of("picks")["work"])
    assert picks.numpy()[0].tolist() == [[7, 7, 7]]
    assert picks.sources == ["work", "archive"]
    assert factory.create_mesh_proxy(run, of("meshes")).mesh.is_empty
    assert factory.create_filaments_proxy(run, of("filaments")).filaments == []
    mask = factory.create_segmentation_proxy(run, of("segmentations"))
    assert np.array_equal(mask.numpy(), VOLUME > 100)
    spacing = factory.create_voxel_spacing_proxy(run, of("voxel_spacings"))
    assert spacing.sources == ["archive"]
    below = {"archive": sources["archive"].voxel_spacings[0].tomograms[0]}
    tomogram = factory.create_tomogram_proxy(spacing, below)
    assert np.array_equal(tomogram.numpy(), VOLUME)
    tomogram.set_region(0, z=slice(0, 1))  # copied up: it is the project's
    assert tomogram.sources == ["work", "archive"]
    features = factory.create_features_proxy(tomogram, {"archive": below["archive"].features[0]})
    assert np.array_equal(features.numpy(), VOLUME)
    item = factory.create_object_proxy(
        root, {name: layer.get_object("ribosome") for name, layer in manager.layers.items()}
    )
    assert (item.label, item.radius) == (1, 150)


def test_proxies_of_nothing_or_of_different_things(root: CopickRoot, manager: LayerManager) -> None:
    run = run_of(root)
    other = run.new_picks("ribosome", "9")
    factory = ProxyFactory()
    with pytest.raises(ValueError, match="a CopickPicks is joined from one layer or more; none is given"):
        factory.create_picks_proxy(run, {})
    with pytest.raises(ValueError, match=r"layer 'work' holds picks .*, which is not picks "):
        factory.create_picks_proxy(run, {"archive": run.get_picks(user_id="tool")[0], "work": other})


def test_metadata_of_the_primary_wins(root: CopickRoot) -> None:
    first, second = CopickRun(root, copick_meta("a")), CopickRun(root, copick_meta("a"))
    second.meta.description = "second"
    assert ProxyFactory.create_run_proxy(root, {"x": first, "y": second}).meta.description == "second"
    first.meta.description = "first"
    joined = ProxyFactory.create_run_proxy(root, {"x": first, "y": second})
    assert joined.meta.description == "first"
    joined.meta.description = "changed"
    assert first.meta.description == "first"


# `layers=` everywhere


def test_several_layers_at_once(tmp_path: Path) -> None:
    """A name, names in any order and number: seen in the order of the stack."""
    for name in ("a", "b", "c"):
        run = alone(tmp_path / name).new_run("TS_1")
        run.new_picks("ribosome", name, "u")
        run.new_picks("ribosome", "all", "u").from_numpy([[ord(name), 0, 0]])
    root = opened(
        tmp_path,
        layers=["a", "b", "c"],
        layer_configs={
            "a": fs(tmp_path, "a", priority=3),
            "b": fs(tmp_path, "b", priority=2),
            "c": fs(tmp_path, "c", read_only=True),
        },
    )
    run = run_of(root)

    def sessions(layers: Any) -> list[str]:
        return [p.session_id for p in run.get_picks(layers=layers)]

    def served(layers: Any) -> str:
        (picks,) = run.get_picks(session_id="all", layers=layers)
        return chr(int(picks.points[0].location.x))

    assert sessions(None) == ["a", "all", "b", "c"]
    assert (served(None), served("b"), served(["c", "b"]), served({"c"})) == ("a", "b", "b", "c")
    assert sessions("b") == ["all", "b"]
    assert sessions(["c", "a"]) == sessions(("a", "c")) == ["a", "all", "c"]
    assert sessions(iter(["b"])) == ["all", "b"]
    with pytest.raises(NotFoundError, match="no layer is named; the layers are a, b, c"):
        sessions([])
    with pytest.raises(NotFoundError, match="there is no layer 'd'"):
        sessions(["a", "d"])
    with pytest.raises(TypeError, match="layers= takes a name or names of layers, not 3"):
        sessions(3)
    # Writes go to the highest of these that can be written.
    assert run.new_picks("ribosome", "n1", "u", layers=["c", "b"]).sources == ["b"]
    assert run.new_picks("ribosome", "n2", "u", layers=["a", "b"]).sources == ["a"]
    with pytest.raises(ReadOnlyError, match="read-only are c"):
        run.new_picks("ribosome", "n3", "u", layers=["c"])


def test_every_query_and_getter_is_narrowed(root: CopickRoot, tmp_path: Path) -> None:
    """Each shows what the work layer has, what the archive has, and both."""
    for layer in ("work", "archive"):
        run = alone(tmp_path / layer).new_run("TS_1", exist_ok=True)
        size = {"work": 5, "archive": 6}[layer]
        tomogram = run.new_voxel_spacing(size).new_tomogram(layer)
        tomogram.from_numpy(VOLUME, levels=1)
        both = run.new_voxel_spacing(10, exist_ok=True).new_tomogram("wbp", exist_ok=True)
        both.from_numpy(VOLUME, levels=1)
        both.new_features(layer).from_numpy(VOLUME)
        run.new_picks("ribosome", layer)
        run.new_mesh("ribosome", layer)
        run.new_filaments("ribosome", layer)
        run.new_segmentation(10, "ribosome", layer)
        alone(tmp_path / layer).new_run(f"only-{layer}")
    root = opened(tmp_path)
    run = run_of(root)
    for layers in ("work", "archive", ["work", "archive"], None):
        seen = ["archive", "work"] if layers is None or len(layers) == 2 else [layers]
        for runs in (root.query(layers=layers), root.on(layers).runs):
            assert [r.name for r in runs if r.name != "TS_1"] == [f"only-{name}" for name in seen]
        for name in ("work", "archive"):
            assert (root.get_run(f"only-{name}", layers=layers) is not None) == (name in seen)
            size = {"work": 5, "archive": 6}[name]
            assert (run.get_voxel_spacing(size, layers=layers) is not None) == (name in seen)
        for kind in ("picks", "meshes", "filaments", "segmentations"):
            for get in (getattr(run, f"get_{kind}"), getattr(run, f"query_{kind}")):
                found = {item.session_id for item in get(layers=layers)} - {"0", "1"}
                assert found == {*seen}
        sizes = [s.voxel_size for s in run.query_voxelspacings(layers=layers)]
        assert sizes == [size for size in (5, 6, 10) if size == 10 or {5: "work", 6: "archive"}[size] in seen]
        spacing = run.get_voxel_spacing(10)
        assert spacing is not None
        for tomograms in (spacing.get_tomograms(layers=layers), spacing.query_tomograms(layers=layers)):
            assert [t.tomo_type for t in tomograms] == ["wbp"]
        tomogram = spacing.tomograms[0]
        assert [f.feature_type for f in tomogram.query_features(layers=layers)] == seen
        for name in ("work", "archive"):
            assert (tomogram.get_features(name, layers=layers) is not None) == (name in seen)


# Roots that are no stacks


def controls(root: Any) -> CacheManager:
    """The cache of a project, by all ways to it."""
    (manager,) = {root.cache_manager, root.layer_manager.cache_layer.cache_manager}
    assert manager.get_stats()["cache_root"] == root.get_cache_stats()["cache_root"]
    assert root.layer_manager.get_layer("cache") is root.layer_manager.cache_layer
    return manager


def test_every_root_has_the_controls_of_its_cache(tmp_path: Path, original: Path) -> None:
    """Of copick 1.x, of one layer, of a stack: epochs of training begin the same way."""
    one = {"config_type": "filesystem", "root": str(original), "read_only": True, "pickable_objects": OBJECTS}
    legacy = {
        "config_type": "filesystem",
        "pickable_objects": OBJECTS,
        "overlay_root": str(tmp_path / "mine"),
        "static_root": str(original),
    }
    stack = {"config_type": "multilayer", "layers": ["x"], "layer_configs": {"x": one}}
    for at, config in enumerate((one, legacy, stack)):
        cache = {"root": str(tmp_path / f"cache{at}"), "parent_layer": "*", "policy": "epoch"}
        root: Any = copick.from_string(json.dumps(config), cache=cache)
        tomogram_of(root).numpy()
        controls(root).new_epoch(1)
        assert root.get_cache_stats()["bytes_fetched"] > 0
        assert root.on(root.layer_names[-1]).cache_manager is root.cache_manager
        plain: Any = copick.from_string(json.dumps(config), cache=False)
        assert (plain.cache_manager, plain.get_cache_stats(), plain.layer_manager.cache_layer) == (
            None,
            {},
            None,
        )


def test_layers_of_roots_that_are_no_stacks(tmp_path: Path, original: Path) -> None:
    config = {"config_type": "filesystem", "overlay_root": str(tmp_path), "static_root": str(original)}
    legacy: Any = copick.from_string(json.dumps({**config, "pickable_objects": OBJECTS}))
    assert list(legacy.layer_manager.layers) == ["overlay", "static"]
    assert isinstance(legacy.layer_specific("static"), CopickRootFS)
    assert [len(legacy.layer_specific(name).runs) for name in ("overlay", "static")] == [0, 1]
    assert legacy.layer_manager.default_write_layer == "overlay"
    single: Any = alone(original)
    assert single.layer_specific("filesystem").runs[0].name == "TS_1"
    memory: Any = copick.from_string('{"config_type": "memory", "pickable_objects": []}')
    memory.new_run("A")
    assert memory.layer_specific("memory").runs[0].name == "A"
    with pytest.raises(NotFoundError, match="no layer 'x'; the layers are memory"):
        memory.layer_specific("x")
