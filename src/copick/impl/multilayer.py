"""Stacks of layers seen as one project, and the names that their entities go by."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from copick.config import CopickConfig, CopickConfigML, CopickConfigMultilayer
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


class CopickRootMultilayer(CopickRoot):
    """A stack of layers seen as one project."""

    config_class: ClassVar[type[CopickConfig]] = CopickConfigMultilayer
    config: CopickConfigMultilayer

    def __init__(
        self, config: CopickConfigMultilayer, layer: Layer | None = None, *, cache: CacheChoice = None
    ) -> None:
        super().__init__(config, layer, cache=cache)

    def layer_specific(self, name: str) -> CopickRootMultilayer:
        """The project as one of its layers alone shows it. Raises NotFoundError for an unknown name."""
        return self.on(name)


CopickRootML = CopickRootMultilayer
CopickObjectMultilayer = CopickObjectML = CopickObject
CopickRunMultilayer = CopickRunML = CopickRun
CopickVoxelSpacingMultilayer = CopickVoxelSpacingML = CopickVoxelSpacing
CopickTomogramMultilayer = CopickTomogramML = CopickTomogram
CopickPicksMultilayer = CopickPicksML = CopickPicks
CopickSegmentationMultilayer = CopickSegmentationML = CopickSegmentation

__all__ = [
    "CopickConfigML",
    "CopickConfigMultilayer",
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
]
