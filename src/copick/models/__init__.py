"""The public classes: entities, their metadata, and configs."""

from copick.config import CopickConfig
from copick.meta import (
    CopickLocation,
    CopickPicksFile,
    CopickPoint,
    CopickRunMeta,
    CopickSegmentationMeta,
    CopickTomogramMeta,
    CopickVoxelSpacingMeta,
    PickableObject,
)
from copick.models.annotations import Annotation, CopickPicks
from copick.models.entity import Entity
from copick.models.root import CopickObject, CopickRoot
from copick.models.run import CopickRun
from copick.models.spacing import CopickVoxelSpacing
from copick.models.volumes import CopickSegmentation, CopickTomogram, Volume

__all__ = [
    "Annotation",
    "CopickConfig",
    "CopickLocation",
    "CopickObject",
    "CopickPicks",
    "CopickPicksFile",
    "CopickPoint",
    "CopickRoot",
    "CopickRun",
    "CopickRunMeta",
    "CopickSegmentation",
    "CopickSegmentationMeta",
    "CopickTomogram",
    "CopickTomogramMeta",
    "CopickVoxelSpacing",
    "CopickVoxelSpacingMeta",
    "Entity",
    "PickableObject",
    "Volume",
]
