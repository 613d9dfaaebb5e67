"""Stacks of layers seen as one project, and the names that their entities go by."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from copick.config import CopickConfig, CopickConfigML, CopickConfigMultilayer
from copick.impl.manager import LayerManager, ProxyFactory
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

if TYPE_CHECKING:
    from copick.layers.build import CacheChoice
    from copick.layers.layer import Layer


class CopickRootMultilayer(CopickRoot):
    """A stack of layers seen as one project."""

    config_class: ClassVar[type[CopickConfig]] = CopickConfigMultilayer
    config: CopickConfigMultilayer

    def __init__(
        self, config: CopickConfigMultilayer, layer: Layer | None = None, *, cache: CacheChoice = None
    ) -> None:
        super().__init__(config, layer, cache=cache)

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


CopickRootML = CopickRootMultilayer
CopickObjectMultilayer = CopickObjectML = CopickObject
CopickRunMultilayer = CopickRunML = CopickRun
CopickVoxelSpacingMultilayer = CopickVoxelSpacingML = CopickVoxelSpacing
CopickTomogramMultilayer = CopickTomogramML = CopickTomogram
CopickFeaturesMultilayer = CopickFeaturesML = CopickFeatures
CopickPicksMultilayer = CopickPicksML = CopickPicks
CopickMeshMultilayer = CopickMeshML = CopickMesh
CopickFilamentsMultilayer = CopickFilamentsML = CopickFilaments
CopickSegmentationMultilayer = CopickSegmentationML = CopickSegmentation

__all__ = [
    "CopickConfigML",
    "CopickConfigMultilayer",
    "CopickFeaturesML",
    "CopickFeaturesMultilayer",
    "CopickFilamentsML",
    "CopickFilamentsMultilayer",
    "CopickMeshML",
    "CopickMeshMultilayer",
    "CopickObjectML",
    "CopickObjectMultilayer",
    "CopickPicksML",
    "CopickPicksMultilayer",
    "CopickRootML",
    "CopickRootMultilayer",
    "CopickRunML",
    "CopickRunMultilayer",
    "CopickSegmentationML",
    "CopickSegmentationMultilayer",
    "CopickTomogramML",
    "CopickTomogramMultilayer",
    "CopickVoxelSpacingML",
    "CopickVoxelSpacingMultilayer",
    "LayerManager",
    "ProxyFactory",
]
