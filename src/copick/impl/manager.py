"""The layers of a project, each as a root of its own, and the proxies that join what they hold."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any, TypeVar

from copick.errors import NotFoundError
from copick.models import (
    CopickFeatures,
    CopickFilaments,
    CopickMesh,
    CopickObject,
    CopickPicks,
    CopickRoot,
    CopickRun,
    CopickSegmentation,
    CopickTomogram,
    CopickVoxelSpacing,
)
from copick.util.lazy import lazy
from copick.util.words import nearest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from copick.config import CopickConfig, CopickConfigSQLiteDB, LayerConfig
    from copick.impl.cache import CopickRootCache
    from copick.impl.sqlite_db import CopickRootSQLiteDB
    from copick.layers.stack import LayerStack
    from copick.models import Entity

E = TypeVar("E", bound="Entity")


class LayerManager:
    """The layers of a stack by name, each as a root that works alone.

    Attributes:
        layers: Name → root, highest priority first.
        configs: Name → config.
        default_write_layer: Where writes go; None = nowhere.
        cache_layer: The cache's root, if there is a cache.
        db_layer: The index database's root, if there is one.
    """

    def __init__(self, config: CopickConfig, stack: LayerStack | None = None) -> None:
        from copick.layers.build import build_stack, choose_cache, places_of

        self.config = config
        self.stack = build_stack(config, choose_cache(config)) if stack is None else stack
        places, self.default_write_layer = places_of(config)
        self.configs: dict[str, LayerConfig] = {
            place.layer_name or place.config_type: place for place in places
        }
        self.layers: OrderedDict[str, CopickRoot] = OrderedDict()
        self.cache_layer: CopickRootCache | None = None
        self.db_layer: CopickRootSQLiteDB | None = None
        self.connect_layers()

    def __repr__(self) -> str:
        return f"<LayerManager {' › '.join(self.layers)}>"

    def connect_layers(self) -> None:
        """Make the root of each layer; those that cache others are connected to them."""
        from copick.impl import root_class

        self.layers.clear()
        for name, config in self.configs.items():
            own = config.model_copy(
                update={
                    "pickable_objects": self.config.pickable_objects,
                    "user_id": config.user_id or self.config.user_id,
                    "session_id": config.session_id or self.config.session_id,
                }
            )
            self.layers[name] = root_class(own)(own, self.stack.narrowed(name))
        self._connect_cache()
        self._connect_index()

    def _connect_index(self) -> None:
        """The index's root shows all layers."""
        index: CopickConfigSQLiteDB | None = getattr(self.config, "index", None)
        if index is None:
            return
        from copick.impl.sqlite_db import CopickRootSQLiteDB

        name = index.layer_name or "db"
        self.db_layer = self.layers[name] = CopickRootSQLiteDB(index)
        self.db_layer.set_layer_manager(self)
        self.layers.move_to_end(name, last=False)

    def _connect_cache(self) -> None:
        """The cache's root shows the layers that it caches, as one project."""
        from copick.layers.cached import CachedLayer
        from copick.layers.stack import LayerStack

        cached = [layer for layer in self.stack.layers if isinstance(layer, CachedLayer)]
        if not cached:
            return
        from copick.impl.cache import CopickRootCache

        config, name = cached[0].config, cached[0].config.layer_name or "cache"
        parents = LayerStack([layer.parent for layer in cached])
        self.cache_layer = root = CopickRootCache(
            config, self.stack.narrowed([layer.name for layer in cached])
        )
        root.config = config.model_copy(update={"pickable_objects": self.config.pickable_objects})
        root.parent_root = CopickRoot(self.config, parents)
        self.layers[name] = root
        self.layers.move_to_end(name, last=False)

    def get_layer(self, name: str) -> CopickRoot:
        """The root of a layer. Raises NotFoundError, naming those there are."""
        try:
            return self.layers[name]
        except KeyError:
            raise NotFoundError(
                f"there is no layer {name!r}{nearest(str(name), list(self.layers))}; the layers are {', '.join(self.layers)}"
            ) from None

    def get_layers_by_priority(self) -> list[CopickRoot]:
        """The roots of the layers, highest priority first."""
        return list(self.layers.values())

    def refresh_all(self) -> None:
        """Forget what was listed, in every layer."""
        self.stack.refresh()
        for root in self.layers.values():
            root.refresh()


class RootOfLayers(CopickRoot):
    """A project that gives its layers as roots of their own."""

    @lazy
    def layer_manager(self) -> LayerManager:
        """The layers, each as a root of its own."""
        return LayerManager(self.config, self.layer)  # type: ignore[arg-type]

    @property
    def proxy_factory(self) -> ProxyFactory:
        """Joins what several layers hold of one thing into one entity."""
        return ProxyFactory()

    def layer_specific(self, name: str) -> CopickRoot:
        """The root of one layer, with what only that type of layer can do. Raises NotFoundError for an unknown name."""
        return self.layer_manager.get_layer(name)


class ProxyFactory:
    """Joins what several layers hold of one thing into one entity of the whole project.

    Each method takes the parent in the project and the same thing in some layers (name → entity, the primary one
    first) and gives the project's entity: it reads from the highest layer and knows them all. Metadata that the primary
    lacks are filled from the others. They raise ValueError if there are none, or if they are not the same thing.
    """

    @staticmethod
    def create_run_proxy(multilayer_root: CopickRoot, source_runs: Mapping[str, CopickRun]) -> CopickRun:
        """A run of the project from the runs of its layers."""
        return _joined(CopickRun, multilayer_root, source_runs)

    @staticmethod
    def create_voxel_spacing_proxy(
        run: CopickRun, sources: Mapping[str, CopickVoxelSpacing]
    ) -> CopickVoxelSpacing:
        """A voxel spacing of the project from those of its layers."""
        return _joined(CopickVoxelSpacing, run, sources)

    @staticmethod
    def create_tomogram_proxy(
        voxel_spacing: CopickVoxelSpacing,
        sources: Mapping[str, CopickTomogram],
        primary: CopickTomogram | None = None,
    ) -> CopickTomogram:
        """A tomogram of the project from those of its layers."""
        return _joined(CopickTomogram, voxel_spacing, sources, primary)

    @staticmethod
    def create_features_proxy(
        tomogram: CopickTomogram,
        sources: Mapping[str, CopickFeatures],
        primary: CopickFeatures | None = None,
    ) -> CopickFeatures:
        """Features of the project from those of its layers."""
        return _joined(CopickFeatures, tomogram, sources, primary)

    @staticmethod
    def create_picks_proxy(
        run: CopickRun, sources: Mapping[str, CopickPicks], primary: CopickPicks | None = None
    ) -> CopickPicks:
        """Picks of the project from those of its layers."""
        return _joined(CopickPicks, run, sources, primary)

    @staticmethod
    def create_mesh_proxy(
        run: CopickRun, sources: Mapping[str, CopickMesh], primary: CopickMesh | None = None
    ) -> CopickMesh:
        """A mesh of the project from those of its layers."""
        return _joined(CopickMesh, run, sources, primary)

    @staticmethod
    def create_filaments_proxy(
        run: CopickRun, sources: Mapping[str, CopickFilaments], primary: CopickFilaments | None = None
    ) -> CopickFilaments:
        """Filaments of the project from those of its layers."""
        return _joined(CopickFilaments, run, sources, primary)

    @staticmethod
    def create_segmentation_proxy(
        run: CopickRun, sources: Mapping[str, CopickSegmentation], primary: CopickSegmentation | None = None
    ) -> CopickSegmentation:
        """A segmentation of the project from those of its layers."""
        return _joined(CopickSegmentation, run, sources, primary)

    @staticmethod
    def create_object_proxy(
        multilayer_root: CopickRoot, sources: Mapping[str, CopickObject], primary: CopickObject | None = None
    ) -> CopickObject:
        """An object of the project from those of its layers."""
        return _joined(CopickObject, multilayer_root, sources, primary)


def _joined(cls: type[E], parent: Any, sources: Mapping[str, E], primary: E | None = None) -> E:
    if not sources:
        raise ValueError(f"a {cls.__name__} is joined from one layer or more; none is given")
    first = next(iter(sources.values())) if primary is None else primary
    meta = first.meta.model_copy(deep=True)
    for name, entity in sources.items():
        if entity.ref != first.ref:
            raise ValueError(f"layer {name!r} holds {entity.ref}, which is not {first.ref}")
        meta = meta.filled(entity.meta)
    return cls(parent, meta)
