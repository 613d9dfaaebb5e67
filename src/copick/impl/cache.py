"""The local cache of other layers, as a project of its own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from copick.cache.info import CacheInfo
from copick.cache.manager import CacheManager
from copick.cache.store import CachingZarrStore
from copick.config import CopickConfig, CopickConfigCache
from copick.errors import ConfigError, UnknownNameError
from copick.impl.filesystem import CopickRootFS
from copick.models import (
    CopickFeatures,
    CopickFilaments,
    CopickMesh,
    CopickObject,
    CopickPicks,
    CopickRun,
    CopickSegmentation,
    CopickTomogram,
    CopickVoxelSpacing,
)

if TYPE_CHECKING:
    from copick.cache.prefetch import Prefetch
    from copick.layers.build import CacheChoice
    from copick.layers.layer import Layer
    from copick.models import CopickRoot


class CopickRootCache(CopickRootFS):
    """A cache folder. Connected to a parent it is the parent's project, read through the cache.

    Attributes:
        parent_root: The project that is cached; None until `connect_parent_layer`: then it shows what the folder holds.
    """

    config_class: ClassVar[type[CopickConfig]] = CopickConfigCache
    config: CopickConfigCache

    def __init__(
        self, config: CopickConfigCache, layer: Layer | None = None, *, cache: CacheChoice = None
    ) -> None:
        """Open the folder, making it. Raises ConfigError if it cannot be used."""
        from copick.layers.cached import open_cache
        from copick.layers.filesystem import FilesystemLayer

        manager = open_cache(config)
        if manager is None:
            raise ConfigError(f"the cache folder {config.root!r} cannot be used; the log says why")
        self._manager = manager
        self.parent_root: CopickRoot | None = None
        if layer is None:
            layer = FilesystemLayer(
                config.model_copy(update={"read_only": True}), config.layer_name or "cache"
            )
        super().__init__(config, layer, cache=False)

    def connect_parent_layer(self, parent_root: CopickRoot) -> None:
        """Read `parent_root`'s project through the cache from now on; what is written goes to the parent."""
        from copick.layers.cached import CachedLayer

        self.parent_root = parent_root
        self.layer = CachedLayer(parent_root.layer, self.config, manager=self.cache_manager)
        self.config = self.config.model_copy(
            update={"pickable_objects": parent_root.config.pickable_objects, "user_id": parent_root.user_id}
        )
        self._forget_all()

    @property
    def cache_manager(self) -> CacheManager:
        """The folder as this process uses it."""
        return self._manager

    def ensure(self, create: bool = False) -> bool:
        """Whether the cache folder is there, after making it if `create`."""
        folder = Path(self.cache_manager.cache_root) / ".cache_metadata"
        if create:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return folder.is_dir()

    def get_cache_info(self, path: str = "") -> CacheInfo | None:
        """What is known of what is cached at a path of the project ("ExperimentRuns/TS_1/...") and below; None: nothing is."""
        return self.cache_manager.get_info(path)

    def clear_cache(self) -> int:
        """Remove everything that is cached, in every process; changes that wait to be passed on stay. Bytes freed."""
        freed = self.cache_manager.clear_all()
        self._forget_all()
        return freed

    def invalidate(self, path: str | None = None) -> None:
        """Forget what is cached at a path of the project ("ExperimentRuns/TS_1/...") and below; None = everything.

        Raises:
            NotFoundError: The path leads out of the cache.
        """
        self.cache_manager.invalidate(path)
        self._forget_all()

    def prefetch_tomogram(self, tomo_id: str | CopickTomogram) -> Prefetch | None:
        """Begin to cache all levels of a tomogram; it can be waited for or cancelled.

        Args:
            tomo_id: Its name, "RUN/10.000/TYPE", or a tomogram of any project that is called so here.

        Raises:
            UnknownNameError: There is no such tomogram (a KeyError and a ValueError).
        """
        from copick.cache.prefetch import begin

        if isinstance(tomo_id, CopickTomogram):
            spacing_of = tomo_id.voxel_spacing
            tomo_id = f"{spacing_of.run.name}/{spacing_of.voxel_size:.3f}/{tomo_id.tomo_type}"
        if not isinstance(tomo_id, str):
            raise TypeError(
                f"a tomogram is named RUN/VOXEL_SIZE/TYPE, not by {type(tomo_id).__name__} {tomo_id!r:.40}"
            )
        run_name, _, rest = tomo_id.partition("/")
        size, _, tomo_type = rest.partition("/")
        run = self.get_run(run_name)
        spacing = run.get_voxel_spacing(float(size)) if run and _is_number(size) else None
        found = spacing.get_tomograms(tomo_type) if spacing else []
        if not found:
            raise UnknownNameError(
                f"there is no tomogram {tomo_id!r}; expected RUN/VOXEL_SIZE/TYPE, for example TS_1/10.0/wbp"
            )
        return begin([(found[0].array(level), ()) for level in found[0].levels()])

    def prefetch_run(self, name: str) -> Prefetch | None:
        """Begin to cache all tomograms of a run, at all levels. Raises UnknownNameError if there is no such run."""
        from copick.cache.prefetch import begin

        run = self.get_run(name)
        if run is None:
            raise UnknownNameError(f"there is no run {name!r}")
        tomograms = [tomogram for spacing in run.voxel_spacings for tomogram in spacing.tomograms]
        return begin([(each.array(level), ()) for each in tomograms for level in each.levels()])

    def _forget_all(self) -> None:
        self.layer.refresh()
        self.refresh()


def _is_number(text: str) -> bool:
    try:
        return float(text) > 0
    except ValueError:
        return False


CopickRunCache = CopickRun
CopickVoxelSpacingCache = CopickVoxelSpacing
CopickTomogramCache = CopickTomogram
CopickFeaturesCache = CopickFeatures
CopickPicksCache = CopickPicks
CopickMeshCache = CopickMesh
CopickFilamentsCache = CopickFilaments
CopickSegmentationCache = CopickSegmentation
CopickObjectCache = CopickObject

__all__ = [
    "CacheInfo",
    "CacheManager",
    "CachingZarrStore",
    "CopickConfigCache",
    "CopickFeaturesCache",
    "CopickFilamentsCache",
    "CopickMeshCache",
    "CopickObjectCache",
    "CopickPicksCache",
    "CopickRootCache",
    "CopickRunCache",
    "CopickSegmentationCache",
    "CopickTomogramCache",
    "CopickVoxelSpacingCache",
]
