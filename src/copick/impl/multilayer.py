"""Roots that take their config, and the names that the multilayer family goes by.

There is one class per entity: a run of one directory and a run of five layers are both a `CopickRun`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from copick.config import CopickConfigFS, CopickConfigML, CopickConfigMultilayer
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

    config: CopickConfigFS

    def __init__(
        self, config: CopickConfigFS, layer: Layer | None = None, *, cache: CacheChoice = None
    ) -> None:
        super().__init__(config, layer, cache=cache)


class CopickRootMultilayer(CopickRoot):
    """A stack of layers seen as one project."""

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
    "CopickConfigFS",
    "CopickConfigML",
    "CopickConfigMultilayer",
    "CopickObjectML",
    "CopickObjectMultilayer",
    "CopickPicksML",
    "CopickPicksMultilayer",
    "CopickRootFS",
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
    "open_config",
]


def open_config(config: object, cache: CacheChoice = None) -> CopickRoot:
    """The root that a config describes."""
    if isinstance(config, CopickConfigMultilayer):
        return CopickRootMultilayer(config, cache=cache)
    if isinstance(config, CopickConfigFS):
        return CopickRootFS(config, cache=cache)
    return CopickRoot(config, cache=cache)  # type: ignore[arg-type]
