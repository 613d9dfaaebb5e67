"""Projects in one directory, and those of copick 1.x: an overlay, maybe over static data.

The names of copick 1.x end in `FSSpec`.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from copick.config import CopickConfig, CopickConfigFS, CopickConfigFSSpec, parse_config, protocol_of
from copick.errors import ConfigError
from copick.impl.manager import RootOfLayers
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
from copick.util.files import write_text
from copick.util.urls import LOCAL

if TYPE_CHECKING:
    from collections.abc import Iterable

    from copick.layers.build import CacheChoice
    from copick.layers.layer import Layer
    from copick.meta import PickableObject


class CopickRootFS(RootOfLayers):
    """A project in one directory."""

    config_class: ClassVar[type[CopickConfig]] = CopickConfigFS
    config: CopickConfigFS

    def __init__(
        self, config: CopickConfigFS, layer: Layer | None = None, *, cache: CacheChoice = None
    ) -> None:
        super().__init__(config, layer, cache=cache)


class CopickRootFSSpec(RootOfLayers):
    """A project of copick 1.x: the layer "overlay" is written, the layer "static" below it is only read."""

    config_class: ClassVar[type[CopickConfig]] = CopickConfigFSSpec
    config: CopickConfigFSSpec

    def __init__(
        self, config: CopickConfigFSSpec, layer: Layer | None = None, *, cache: CacheChoice = None
    ) -> None:
        super().__init__(config, layer, cache=cache)


def new_config(
    config: str | os.PathLike[str],
    overlay_root: str | os.PathLike[str],
    proj_name: str = "copick project",
    proj_description: str = "",
    pickable_objects: Iterable[PickableObject | dict[str, Any]] | None = None,
) -> CopickRootFSSpec:
    """Write the config of a new project, which copick 1.x can open, too; open it.

    Args:
        config: Where to write it; a file that is there is replaced.
        overlay_root: Where the project's data will be: a path or URL.

    Raises:
        ConfigError: The project could not be opened; nothing is written.
        LayerError: The config cannot be written.
    """
    from copick import __version__

    root = os.fspath(overlay_root)
    is_path = not LOCAL.match(root) and protocol_of(root) == "file"
    objects = [
        item if isinstance(item, dict) else item.model_dump(mode="json") for item in pickable_objects or []
    ]
    fields = {
        "config_type": "filesystem",
        "name": proj_name,
        "description": proj_description,
        "version": __version__,
        "pickable_objects": objects,
        "overlay_root": f"local://{root}" if is_path else root,
        "overlay_fs_args": {"auto_mkdir": True} if protocol_of(root) == "file" else {},
    }
    parsed: Any = parse_config(fields, os.fspath(config))
    for item in parsed.pickable_objects:
        if problem := item.problem():
            raise ConfigError(f"{os.fspath(config)}: {problem}")
    opened = CopickRootFSSpec(parsed)
    Path(config).parent.mkdir(parents=True, exist_ok=True)
    write_text(config, json.dumps(fields, indent=4), "the config file")
    return opened


CopickRunFS = CopickRunFSSpec = CopickRun
CopickVoxelSpacingFS = CopickVoxelSpacingFSSpec = CopickVoxelSpacing
CopickTomogramFS = CopickTomogramFSSpec = CopickTomogram
CopickFeaturesFS = CopickFeaturesFSSpec = CopickFeatures
CopickPicksFS = CopickPicksFSSpec = CopickPicks
CopickMeshFS = CopickMeshFSSpec = CopickMesh
CopickFilamentsFS = CopickFilamentsFSSpec = CopickFilaments
CopickSegmentationFS = CopickSegmentationFSSpec = CopickSegmentation
CopickObjectFS = CopickObjectFSSpec = CopickObject

__all__ = [
    "CopickConfigFS",
    "CopickConfigFSSpec",
    "CopickFeaturesFS",
    "CopickFeaturesFSSpec",
    "CopickFilamentsFS",
    "CopickFilamentsFSSpec",
    "CopickMeshFS",
    "CopickMeshFSSpec",
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
    "new_config",
]
