"""Every name and method of the specifications exists and works. `docs/specs.md` says which test shows what.

The names are used here as the specifications use them; what they do in detail is tested elsewhere.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import copick
from copick.cache import CacheInfo
from copick.cache.manager import CacheManager
from copick.cache.store import CachingZarrStore
from copick.config import CopickConfigCache, CopickConfigFS
from copick.errors import NotFoundError, ReadOnlyError
from copick.impl import cache as caches
from copick.impl import filesystem, multilayer, sqlite_db
from copick.impl.cache import CopickRootCache
from copick.impl.manager import LayerManager, ProxyFactory
from copick.impl.multilayer import (
    CopickConfigML,
    CopickConfigMultilayer,
    CopickRootML,
    CopickRootMultilayer,
)
from projects import OBJECTS, VOLUME

if TYPE_CHECKING:
    from copick.models import CopickRun

TABLE = Path(__file__).parent.parent / "docs" / "specs.md"
KINDS = ("Run", "VoxelSpacing", "Tomogram", "Features", "Picks", "Mesh", "Segmentation", "Object")


def config(tmp_path: Path, **more: Any) -> CopickConfigMultilayer:
    """A work layer over a read-only archive."""
    (tmp_path / "archive").mkdir(exist_ok=True)
    return CopickConfigMultilayer(
        user_id="me",
        pickable_objects=OBJECTS,
        layers=["work", "archive"],
        layer_configs={
            "work": CopickConfigFS(root=str(tmp_path / "work"), layer_name="work", priority=50),
            "archive": CopickConfigFS(
                root=str(tmp_path / "archive"), layer_name="archive", priority=10, read_only=True
            ),
        },
        default_write_layer="work",
        **more,
    )


@pytest.fixture
def root(tmp_path: Path) -> CopickRootMultilayer:
    """A project whose archive holds one of everything."""
    archive = filesystem.CopickRootFS(
        CopickConfigFS(root=str(tmp_path / "archive"), user_id="them", pickable_objects=OBJECTS)
    )
    run = archive.new_run("TS_1")
    spacing = run.new_voxel_spacing(10)
    tomogram = spacing.new_tomogram("wbp")
    tomogram.from_numpy(VOLUME)
    tomogram.new_features("edges").from_numpy(VOLUME)
    run.new_picks("ribosome", "1").from_numpy([[1, 2, 3]])
    run.new_mesh("membrane", "1")
    run.new_segmentation(10, "membrane", "1").from_numpy(VOLUME > 5)
    ribosome = archive.get_object("ribosome")
    assert ribosome is not None
    ribosome.from_numpy(VOLUME, 10)
    return CopickRootMultilayer(config(tmp_path))


@pytest.fixture
def run(root: CopickRootMultilayer) -> CopickRun:
    found = root.get_run("TS_1")
    assert found is not None
    return found


# The table


def rows() -> list[tuple[str, str, str]]:
    cells = (
        re.findall(r"`([^`]+)`", line) for line in TABLE.read_text().splitlines() if line.startswith("| `")
    )
    return [(row[0], row[1], row[2]) for row in cells]


@pytest.mark.parametrize(("name", "place", "shown_by"), rows(), ids=lambda cell: str(cell))
def test_table(name: str, place: str, shown_by: str) -> None:
    """Each name is where the table says, and the test it names uses it."""
    found = found_at(place)
    assert found is not None
    last = name.rpartition(".")[2]
    if name.endswith("()"):
        assert callable(found), f"{place} cannot be called"
        last = name.rpartition(".")[2].removesuffix("()")
    file, _, test = shown_by.partition("::")
    source = source_of(Path(__file__).parent.parent / file, test)
    assert re.search(rf"\b{re.escape(last)}\b", source), f"{shown_by} does not use {last}"


def found_at(place: str) -> Any:
    """What a dotted path stands for. Attributes that only instances have are those that `__init__` sets or a model declares."""
    parts = place.split(".")
    for at in range(len(parts), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:at]))
        except ModuleNotFoundError:
            continue
        break
    for part in parts[at:]:
        if hasattr(found, part):
            found = getattr(found, part)
        elif part in getattr(found, "model_fields", {}):
            found = found.model_fields[part]
        else:
            made = "\n".join(
                inspect.getsource(cls.__init__) for cls in found.__mro__[:-1] if "__init__" in vars(cls)
            )
            assert re.search(rf"self\.{part}\b", made), f"{found} has no {part}"
            found = part
    return found


def source_of(path: Path, test: str) -> str:
    text = path.read_text()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef) and node.name == test:
            return ast.get_source_segment(text, node) or ""
    pytest.fail(f"{path.name} has no {test}")


def test_the_table_is_complete() -> None:
    """No name of the specifications is missing from the table."""
    named = {cell for name, _, _ in rows() for cell in [name.removesuffix("()")]}
    for kind in (*KINDS, "Root", "Config"):
        assert f"Copick{kind}ML" in named
    assert len(named) == len(rows()), "a name stands twice"


# Names of families


def test_the_entities_of_a_stack(root: CopickRootMultilayer) -> None:
    """`CopickRunML` and the like are the classes that a stack gives."""
    assert isinstance(root, CopickRootML)
    assert CopickConfigML is CopickConfigMultilayer
    (run,) = root.runs
    assert isinstance(run, multilayer.CopickRunML)
    assert multilayer.CopickRunMultilayer is multilayer.CopickRunML
    (spacing,) = run.voxel_spacings
    assert isinstance(spacing, multilayer.CopickVoxelSpacingML)
    (tomogram,) = spacing.tomograms
    assert isinstance(tomogram, multilayer.CopickTomogramML)
    assert isinstance(tomogram.features[0], multilayer.CopickFeaturesML)
    assert isinstance(run.picks[0], multilayer.CopickPicksML)
    assert isinstance(run.meshes[0], multilayer.CopickMeshML)
    assert isinstance(run.segmentations[0], multilayer.CopickSegmentationML)
    assert isinstance(root.get_object("ribosome"), multilayer.CopickObjectML)


def test_what_layers_can_do(root: CopickRootMultilayer, run: CopickRun) -> None:
    """Every layer answers `ensure` and `refresh`; those that are only read refuse to store, create and ensure."""
    (picks,) = run.picks
    fixed = picks.on("archive")
    assert fixed.ensure()
    for name in root.layer_names:
        layer = root.layer_specific(name)
        assert layer.ensure() is (name != "work")  # nothing was written there yet
        layer.refresh()
    assert not root.ensure()
    with pytest.raises(
        ReadOnlyError, match="cannot change its root: no layer can be written; read-only are archive"
    ):
        root.layer_specific("archive").ensure(create=True)
    assert root.ensure(create=True)
    assert root.ensure()
    fixed.refresh()
    run.refresh()
    root.refresh()
    with pytest.raises(ReadOnlyError):
        fixed.store()
    with pytest.raises(ReadOnlyError):
        run.new_picks("membrane", "9", layers="archive")
    with pytest.raises(ReadOnlyError):
        run.on("archive").new_voxel_spacing(20).ensure(create=True)
    mine = run.new_picks("membrane", "9", layers="work")
    mine.store()
    assert mine.ensure()
    assert [p.session_id for p in run.get_picks(layers="work")] == ["9"]
    assert [p.session_id for p in run.query_picks(layers=["archive"])] == ["1"]


# Configs


def test_config_of_a_stack(tmp_path: Path) -> None:
    cache = CopickConfigCache(root=str(tmp_path / "cache"), parent_layer="archive")
    made = config(tmp_path, cache_config=cache)
    assert made.config_type == "multilayer"
    assert made.layers == ["work", "archive"]
    assert made.layer_configs["work"].priority == 50
    assert made.default_write_layer == "work"
    assert made.cache_config is not None
    assert made.cache_config.config_type == "cache"


def test_config_of_a_directory(tmp_path: Path) -> None:
    made = CopickConfigFS(
        root=str(tmp_path), fs_args={}, layer_name="filesystem", priority=50, read_only=True
    )
    assert (made.config_type, made.layer_name, made.priority, made.read_only) == (
        "filesystem",
        "filesystem",
        50,
        True,
    )
    assert filesystem.CopickRootFS(made).query() == []


def test_config_of_an_index(tmp_path: Path) -> None:
    made = sqlite_db.CopickConfigSQLiteDB(
        db_path=str(tmp_path / "index.db"),
        layer_name="db",
        priority=1000,
        auto_index=True,
        index_interval=3600,
    )
    assert (made.config_type, made.layer_name, made.priority) == ("sqlite_db", "db", 1000)
    assert (made.db_path, made.auto_index, made.index_interval) == (str(tmp_path / "index.db"), True, 3600)
    stack = CopickConfigMultilayer(**dict(config(tmp_path, db_config=made)))
    assert stack.db_config is not None
    assert stack.db_config.db_path == made.db_path


def test_index_root(tmp_path: Path, root: CopickRootMultilayer) -> None:
    index = sqlite_db.CopickConfigSQLiteDB(db_path=str(tmp_path / "index.db"), auto_index=False)
    stack = CopickRootMultilayer(config(tmp_path, db_config=index))
    found = stack.layer_specific("db")
    assert isinstance(found, sqlite_db.CopickRootSQLiteDB)
    assert found is stack.layer_manager.db_layer
    assert found.index_layer("work")["runs"] == 0
    assert found.index_all_layers()["archive"]["picks"] == 1
    assert [run.name for run in found.query()] == ["TS_1"]
    assert [picks.user_id for picks in found.find_objects(object_name="ribosome")["picks"]] == ["them"]
    assert [run.name for run in found.search("ts 1")["runs"]] == ["TS_1"]
    assert found.layer_status()["archive"]["indexed"]
    assert found.get_summary_statistics()["total"]["tomograms"] == 1
    other = sqlite_db.CopickRootSQLiteDB(index)
    other.set_layer_manager(stack.layer_manager)
    assert [run.name for run in other.query()] == ["TS_1"]


# The stack


def test_root(root: CopickRootMultilayer) -> None:
    assert isinstance(root.config, CopickConfigMultilayer)
    assert isinstance(root.layer_manager, LayerManager)
    assert [run.name for run in root.query()] == ["TS_1"]
    assert root.get_run("TS_1") is not None
    made = root.create_run("TS_2", description="tilted by hand")
    assert made.sources == ["work"]
    work = root.layer_specific("work")
    assert isinstance(work, filesystem.CopickRootFS)
    assert [(run.name, run.description) for run in work.runs] == [("TS_2", "tilted by hand")]
    with pytest.raises(NotFoundError, match="archive"):
        root.layer_specific("portal")


def test_finding(root: CopickRootMultilayer) -> None:
    counts = root.index_all_layers()
    assert counts["archive"]["picks"] == 1
    assert counts["work"]["runs"] == 0
    found = root.find_objects(user_id="them", object_name="ribosome")
    assert [picks.session_id for picks in found["picks"]] == ["1"]
    assert [t.tomo_type for t in root.search("TS 1 wbp", ["tomograms"])["tomograms"]] == ["wbp"]


def test_layer_manager(tmp_path: Path, root: CopickRootMultilayer) -> None:
    manager = LayerManager(config(tmp_path))
    assert list(manager.layers) == ["work", "archive"]
    assert manager.configs["archive"].read_only
    assert manager.default_write_layer == "work"
    assert manager.cache_layer is None
    assert manager.db_layer is None
    archive = manager.get_layer("archive")
    assert [run.name for run in archive.runs] == ["TS_1"]
    assert [layer.config.layer_name for layer in manager.get_layers_by_priority()] == ["work", "archive"]  # type: ignore[attr-defined]
    manager.get_layer("work").new_run("TS_3")
    manager.connect_layers()
    manager.refresh_all()
    assert [run.name for run in manager.get_layer("work").runs] == ["TS_3"]


def test_runs_of_several_layers(root: CopickRootMultilayer) -> None:
    root.layer_specific("work").new_run("TS_1").new_voxel_spacing(20)
    run = root.get_run("TS_1")
    assert run is not None
    assert run.root is root
    assert list(run.source_runs) == ["work", "archive"]
    assert run.primary_run.sources == ["work"]
    assert [spacing.voxel_size for spacing in run.query_voxelspacings()] == [10.0, 20.0]
    spacing = run.get_voxel_spacing(10.0)
    assert spacing is not None
    run.description = "both"
    run.store()
    assert run.source_runs["work"].description == "both"
    assert run.source_runs["archive"].description is None


def test_volumes_of_several_layers(run: CopickRun) -> None:
    (tomogram,) = run.voxel_spacings[0].tomograms
    assert tomogram.propagate("work") == ["work"]
    assert list(tomogram.source_tomograms) == ["work", "archive"]
    assert tomogram.primary_tomogram.sources == ["work"]
    tomogram.set_region(VOLUME[:1] + 1, z=slice(0, 1))
    assert (tomogram.primary_tomogram.numpy()[0] == VOLUME[0] + 1).all()
    assert (tomogram.source_tomograms["archive"].numpy() == VOLUME).all()
    segmentation = run.new_segmentation(10, "membrane", "9")
    assert list(segmentation.source_segmentations) == ["work"]


def test_proxies(root: CopickRootMultilayer, run: CopickRun) -> None:
    factory = root.proxy_factory
    assert isinstance(factory, ProxyFactory)
    proxy = factory.create_run_proxy(root, run.source_runs)
    assert (proxy.name, proxy.root) == ("TS_1", root)
    (spacing,) = run.voxel_spacings
    (tomogram,) = spacing.tomograms
    joined = factory.create_tomogram_proxy(spacing, tomogram.by_layer())
    assert np.array_equal(joined.numpy(), VOLUME)
    (picks,) = run.picks
    assert len(factory.create_picks_proxy(run, picks.by_layer(), picks).points) == 1
    with pytest.raises(ValueError, match="none is given"):
        factory.create_picks_proxy(run, {})


def test_reading_and_merging(root: CopickRootMultilayer, run: CopickRun) -> None:
    """Picks of one object, user and session in two layers are one; the higher layer's is read."""
    (picks,) = run.query_picks()
    picks.from_numpy([[4, 5, 6], [7, 8, 9]])
    (again,) = run.query_picks()
    assert again.sources == ["work", "archive"]
    assert len(again.points) == 2
    assert len(again.on("archive").points) == 1


def test_writing(root: CopickRootMultilayer, run: CopickRun) -> None:
    """A segmentation that only a read-only layer holds is stored in the layer that writes go to."""
    (mask,) = run.segmentations
    mask.store()
    assert mask.sources == ["work", "archive"]
    assert np.array_equal(mask.on("work").numpy(), VOLUME > 5)


def test_propagating(tmp_path: Path) -> None:
    names = ["first", "second"]
    stack = CopickRootMultilayer(
        CopickConfigMultilayer(
            user_id="me",
            pickable_objects=OBJECTS,
            layers=names,
            layer_configs={name: CopickConfigFS(root=str(tmp_path / name)) for name in names},
            write_strategy="source",
        )
    )
    picks = stack.create_run("TS_1").new_picks("ribosome", "1", layers="second")
    picks = stack.runs[0].picks[0]
    picks.from_numpy([[1, 2, 3]])
    assert picks.sources == ["second"]
    assert picks.propagate("first") == ["first"]
    assert picks.sources == ["first", "second"]


def test_bare_import_is_enough() -> None:
    assert copick.impl.multilayer.CopickRootMultilayer is CopickRootMultilayer


# The cache


@pytest.fixture
def cache(root: CopickRootMultilayer, tmp_path: Path, own_managers: None) -> CopickRootCache:
    """The cache of the archive."""
    made = CopickRootCache(CopickConfigCache(root=str(tmp_path / "cache"), layer_name="cache", priority=100))
    made.connect_parent_layer(root.layer_specific("archive"))
    return made


def test_config_of_a_cache(tmp_path: Path) -> None:
    made = CopickConfigCache(
        root=str(tmp_path / "cache"),
        max_size_bytes=10 * 1024**3,
        max_age=7 * 24 * 60 * 60,
        parent_layer="archive",
        layer_name="cache",
        priority=5,
    )
    assert made.config_type == "cache"
    assert (made.max_size_bytes, made.max_age, made.parent_layer) == (10 << 30, 604800, "archive")
    assert (made.root, made.layer_name, made.priority) == (str(tmp_path / "cache"), "cache", 5)


def test_the_entities_of_a_cache(cache: CopickRootCache) -> None:
    assert isinstance(cache, filesystem.CopickRootFS)
    (run,) = cache.runs
    assert isinstance(run, caches.CopickRunCache)
    assert isinstance(run.voxel_spacings[0], caches.CopickVoxelSpacingCache)
    assert isinstance(run.voxel_spacings[0].tomograms[0], caches.CopickTomogramCache)
    assert isinstance(run.picks[0], caches.CopickPicksCache)


def test_cache_root(cache: CopickRootCache, tmp_path: Path) -> None:
    assert cache.config.config_type == "cache"
    assert cache.parent_root is not None
    assert isinstance(cache.cache_manager, CacheManager)
    assert cache.ensure()
    assert [run.name for run in cache.query()] == ["TS_1"]
    assert getattr(cache.get_cache_info(), "source_layer", None) == "archive"
    assert cache.get_cache_info("ExperimentRuns/TS_9") is None
    (tmp_path / "archive").rename(tmp_path / "gone")
    assert [run.name for run in cache.query()] == ["TS_1"]


def test_cached_entities(cache: CopickRootCache) -> None:
    (run,) = cache.runs
    assert run.root is cache
    assert run.meta.name == "TS_1"
    assert not run.is_cached()
    assert run.ensure()
    (spacing,) = run.query_voxelspacings()
    assert [picks.session_id for picks in run.query_picks()] == ["1"]
    (tomogram,) = spacing.query_tomograms()
    assert [each.tomo_type for each in spacing.get_tomograms("wbp")] == ["wbp"]
    assert [each.feature_type for each in tomogram.query_features()] == ["edges"]
    archive: Any = cache.parent_root
    assert run.parent_run is archive.runs[0]
    assert spacing.parent_voxel_spacing is archive.runs[0].voxel_spacings[0]
    assert tomogram.parent_tomogram is archive.runs[0].voxel_spacings[0].tomograms[0]
    assert tomogram.parent_tomogram.parent_tomogram is None  # the archive is no cache
    assert tomogram.ensure_region_cached(z=slice(0, 2))
    assert np.array_equal(tomogram.numpy(z=slice(0, 2)), VOLUME[:2])
    begun = tomogram.prefetch_region("1")
    assert begun is not None
    assert begun.wait(60)
    assert begun.failed == 0
    fetched = cache.get_cache_stats()["fetched_cells"]
    assert tomogram.numpy("1").shape == (3, 3, 4)
    assert cache.get_cache_stats()["fetched_cells"] == fetched
    for work in (
        cache.prefetch_tomogram("TS_1/10.0/wbp"),
        cache.prefetch_tomogram(tomogram),
        cache.prefetch_run("TS_1"),
    ):
        assert work is not None
        work.finish("TS_1")
    assert tomogram.is_cached()
    with pytest.raises(TypeError, match="a tomogram is named RUN/VOXEL_SIZE/TYPE, not by NoneType None"):
        cache.prefetch_tomogram(None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"there is no tomogram 'TS_1/10\.0/none'"):
        cache.prefetch_tomogram("TS_1/10.0/none")


def test_caching_store(cache: CopickRootCache) -> None:
    tomogram = cache.runs[0].voxel_spacings[0].tomograms[0]
    layer: Any = cache.layer
    store = layer.store(tomogram.ref)
    assert isinstance(store, CachingZarrStore)
    assert store.cache_manager is cache.cache_manager
    assert Path(store.local_path).is_relative_to(cache.cache_manager.cache_root)
    assert store.parent_store is not None
    assert store.fs is cache.cache_manager.fs
    assert len(store["0/0/0/0"]) >= VOLUME.nbytes
    assert "0/.zarray" in store  # __contains__
    assert "0/9/9/9" not in store
    with pytest.raises(ReadOnlyError):
        store["0/0/0/0"] = b""  # __setitem__ of a layer that is only read
    assert store.__getitem__("0/0/0/0") == store["0/0/0/0"]


def test_clearing(cache: CopickRootCache) -> None:
    tomogram = cache.runs[0].voxel_spacings[0].tomograms[0]
    tomogram.numpy()
    assert cache.get_cache_stats()["size_bytes"] > 0
    cache.invalidate("ExperimentRuns/TS_1/VoxelSpacing10.000/wbp.zarr")
    assert not tomogram.is_cached()
    tomogram.numpy()
    assert cache.clear_cache() > 0
    assert cache.get_cache_stats()["size_bytes"] == 0
    tomogram.numpy()
    assert cache.cache_manager.clear_path("ExperimentRuns/TS_1/VoxelSpacing10.000/wbp.zarr") > 0
    tomogram.numpy()
    assert cache.cache_manager.clear_all() > 0
    assert np.array_equal(tomogram.numpy(), VOLUME)
    for outside in ("../x", ".cache_metadata"):
        with pytest.raises(NotFoundError):
            cache.invalidate(outside)


def test_a_cache_in_a_stack(tmp_path: Path, root: CopickRootMultilayer, own_managers: None) -> None:
    stated = CopickConfigCache(root=str(tmp_path / "cache"), layer_name="cache", parent_layer="archive")
    stack = CopickRootMultilayer(config(tmp_path, cache_config=stated))
    found = stack.layer_specific("cache")
    assert found is stack.layer_manager.cache_layer
    assert isinstance(found, CopickRootCache)
    assert [run.name for run in found.query()] == ["TS_1"]
    assert next(iter(stack.layer_manager.get_layers_by_priority())).config.layer_name == "cache"  # type: ignore[attr-defined]


def test_cache_manager(cache: CopickRootCache, tmp_path: Path) -> None:
    manager = cache.cache_manager
    assert manager.cache_root == tmp_path / "cache"
    assert manager.db_path == tmp_path / "cache" / ".cache_metadata" / "entries.db"
    assert (manager.max_size_bytes, manager.max_age) == (cache.config.max_size_bytes, cache.config.max_age)
    assert "size_bytes" in manager.get_stats()
    assert manager.fs.isdir(str(manager.cache_root))
    path = "ExperimentRuns/TS_1/VoxelSpacing10.000/wbp.zarr/0"
    assert manager.is_stale(path)
    cache.runs[0].voxel_spacings[0].tomograms[0].numpy()
    assert not manager.is_stale(path)
    manager.set_cache_entry(path, etag="v1")
    manager.update_access_time(path)
    found = manager.get_info(path)
    assert isinstance(found, CacheInfo)
    assert (found.source_layer, found.etag, found.is_complete) == ("archive", "v1", True)
    assert found.cached_at <= found.last_accessed
    assert found.expires_at is not None
    assert found.cached_at < found.expires_at
    assert found.size_bytes >= VOLUME.nbytes
    manager.set_cache_entry(path, expires_at=found.cached_at)
    assert manager.cleanup() > 0
    assert manager.get_info(path) is None
