"""What is known of what the data portal holds, beyond what is known of anything."""

from __future__ import annotations

from pydantic import BaseModel

from copick.meta import (
    CopickPicksFile,
    CopickSegmentationMeta,
    CopickTomogramMeta,
    CopickVoxelSpacingMeta,
)


class PortalAnnotationMeta(BaseModel):
    """Where an annotation comes from."""

    annotation_id: int
    annotation_shape_id: int
    annotation_file_id: int
    shape_type: str
    object_name: str
    """As the portal calls it."""
    object_id: str
    """Accession in an ontology or database."""
    s3_path: str


class PortalVoxelSpacingMeta(CopickVoxelSpacingMeta):
    portal_vs_id: int | None = None


class PortalTomogramMeta(CopickTomogramMeta):
    portal_tomo_type: str
    """What it is without the id that tells it from others of that type."""
    portal_tomo_id: int
    portal_tomo_path: str


class PortalPicksFile(CopickPicksFile):
    portal_metadata: PortalAnnotationMeta


class PortalSegmentationMeta(CopickSegmentationMeta):
    portal_metadata: PortalAnnotationMeta
