"""Projects in one directory, and those of copick 1.x: an overlay, maybe over static data.

The names of copick 1.x end in `FSSpec`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from copick.config import CopickConfig, CopickConfigFS, CopickConfigFSSpec
from copick.models import (
    CopickObject,
    CopickPicks,
    CopickRoot,
    CopickRun,
    CopickSegmentation,
    CopickTomogram,
    CopickVoxelSpacing,
)

if TYPE_CHECKING:
    from copick.layers.build import CacheChoice
    from copick.layers.layer import Layer


class CopickRootFS(CopickRoot):
    """A project in one directory."""

    config_class: ClassVar[type[CopickConfig]] = CopickConfigFS
    config: CopickConfigFS

    def __init__(
        self, config: CopickConfigFS, layer: Layer | None = None, *, cache: CacheChoice = None
    ) -> None:
        super().__init__(config, layer, cache=cache)


class CopickRootFSSpec(CopickRoot):
    """A project of copick 1.x: the layer "overlay" is written, the layer "static" below it is only read."""

    config_class: ClassVar[type[CopickConfig]] = CopickConfigFSSpec
    config: CopickConfigFSSpec

    def __init__(
        self, config: CopickConfigFSSpec, layer: Layer | None = None, *, cache: CacheChoice = None
    ) -> None:
        super().__init__(config, layer, cache=cache)


CopickRunFS = CopickRunFSSpec = CopickRun
CopickVoxelSpacingFS = CopickVoxelSpacingFSSpec = CopickVoxelSpacing
CopickTomogramFS = CopickTomogramFSSpec = CopickTomogram
CopickPicksFS = CopickPicksFSSpec = CopickPicks
CopickSegmentationFS = CopickSegmentationFSSpec = CopickSegmentation
CopickObjectFS = CopickObjectFSSpec = CopickObject

__all__ = [
    "CopickConfigFS",
    "CopickConfigFSSpec",
    "CopickObjectFS",
    "CopickObjectFSSpec",
    "CopickPicksFS",
    "CopickPicksFSSpec",
    "CopickRootFS",
    "CopickRootFSSpec",
    "CopickRunFS",
    "CopickRunFSSpec",
    "CopickSegmentationFS",
    "CopickSegmentationFSSpec",
    "CopickTomogramFS",
    "CopickTomogramFSSpec",
    "CopickVoxelSpacingFS",
    "CopickVoxelSpacingFSSpec",
]
