"""The public classes: entities, their metadata, and configs."""

from copick.config import CopickConfig
from copick.filaments import CopickFilament, CopickFilamentCurve, CopickFilamentsFile
from copick.meta import (
    CopickFeaturesMeta,
    CopickLocation,
    CopickMeshMeta,
    CopickPicksFile,
    CopickPoint,
    CopickRunMeta,
    CopickSegmentationMeta,
    CopickTomogramMeta,
    CopickVoxelSpacingMeta,
    FilamentSpec,
    PickableObject,
)
from copick.models.annotations import Annotation, CopickPicks, Document
from copick.models.entity import Entity
from copick.models.filaments import CopickFilaments
from copick.models.mesh import CopickMesh
from copick.models.objects import CopickObject
from copick.models.root import CopickRoot
from copick.models.run import CopickRun
from copick.models.segmentation import CopickSegmentation
from copick.models.spacing import CopickVoxelSpacing
from copick.models.tomogram import CopickFeatures, CopickTomogram
from copick.models.volumes import StoredArray, Volume

__all__ = [
    "Annotation",
    "CopickConfig",
    "CopickFeatures",
    "CopickFeaturesMeta",
    "CopickFilament",
    "CopickFilamentCurve",
    "CopickFilaments",
    "CopickFilamentsFile",
    "CopickLocation",
    "CopickMesh",
    "CopickMeshMeta",
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
    "Document",
    "Entity",
    "FilamentSpec",
    "PickableObject",
    "StoredArray",
    "Volume",
]
