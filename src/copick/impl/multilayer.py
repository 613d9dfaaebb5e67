"""Stacks of layers seen as one project, and the names that their entities go by."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from copick.config import CopickConfig, CopickConfigML, CopickConfigMultilayer
from copick.impl.manager import LayerManager, ProxyFactory, RootOfLayers
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
    from copick.layers.build import CacheChoice
    from copick.layers.layer import Layer


class CopickRootMultilayer(RootOfLayers):
    """A stack of layers seen as one project."""

    config_class: ClassVar[type[CopickConfig]] = CopickConfigMultilayer
    config: CopickConfigMultilayer

    def __init__(
        self, config: CopickConfigMultilayer, layer: Layer | None = None, *, cache: CacheChoice = None
    ) -> None:
        super().__init__(config, layer, cache=cache)


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
