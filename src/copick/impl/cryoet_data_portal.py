"""Datasets of the CryoET Data Portal as a project, alone or, as copick 1.x has them, under an overlay that is written.

The names of copick 1.x end in `CDP`.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any, ClassVar

from copick.config import CopickConfig, parse_config
from copick.config_portal import CopickConfigCDP, CopickConfigPortal
from copick.impl.manager import RootOfLayers
from copick.layers.portal_meta import (
    PortalAnnotationMeta,
    PortalPicksFile,
    PortalSegmentationMeta,
    PortalTomogramMeta,
    PortalVoxelSpacingMeta,
)
from copick.meta import CopickRunMeta
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
    from collections.abc import Iterable

    from copick.layers.build import CacheChoice
    from copick.layers.layer import Layer


class CopickRootPortal(RootOfLayers):
    """Datasets of the data portal, which can only be read."""

    config_class: ClassVar[type[CopickConfig]] = CopickConfigPortal
    config: CopickConfigPortal | CopickConfigCDP

    def __init__(
        self,
        config: CopickConfigPortal | CopickConfigCDP,
        layer: Layer | None = None,
        *,
        cache: CacheChoice = None,
    ) -> None:
        super().__init__(config, layer, cache=cache)

    @property
    def dataset_ids(self) -> list[int]:
        """The ids of the datasets in the portal."""
        return list(self.config.dataset_ids)

    @property
    def datasets(self) -> list[Any]:
        """The datasets as the portal's own client gives them, asked for now. Raises LayerError."""
        from copick.layers.portal_client import PortalClient

        config = self.config.portal if isinstance(self.config, CopickConfigCDP) else self.config
        return PortalClient(config.url, config.timeout_s, "portal").datasets(self.dataset_ids)

    @property
    def go_map(self) -> dict[str, str]:
        """Identifiers of objects → their names here."""
        return {item.identifier: item.name for item in self.config.pickable_objects if item.identifier}


class CopickRootCDP(CopickRootPortal):
    """A project of copick 1.x: the layer "overlay" is written, the layer "portal" below it is only read."""

    config_class: ClassVar[type[CopickConfig]] = CopickConfigCDP
    config: CopickConfigCDP


def from_czcdp_datasets(
    dataset_ids: Iterable[int],
    overlay_root: str | os.PathLike[str],
    overlay_fs_args: dict[str, Any] | None = None,
    user_id: str | None = None,
    session_id: str | None = None,
    output_path: str | os.PathLike[str] | None = None,
    *,
    url: str | None = None,
    fs_args: dict[str, Any] | None = None,
    cache: CacheChoice = None,
) -> CopickRootCDP:
    """Open datasets of the data portal, with everything that is annotated in them as objects.

    Args:
        overlay_root: Where your own data go: a path or URL.
        output_path: Write the config there; copick 1.x can open it, too.
        url, fs_args: Of a portal that is somewhere else: see `CopickConfigPortal`.
        cache: As of `copick.from_file`.

    Raises:
        ConfigError: The portal has no such dataset.
        LayerError: The portal does not answer, or the config cannot be written.
    """
    from copick.util.files import write_text
    from copick.util.portal import objects_from_datasets

    ids = [*dataset_ids]
    named = ", ".join(map(str, ids))
    given = {
        "config_type": "cryoet_data_portal",
        "name": "CZ cryoET Data Portal Dataset",
        "description": f"Datasets {named} of the CZ cryoET Data Portal.",
        "version": _version(),
        "pickable_objects": [item.model_dump(mode="json") for item in objects_from_datasets(ids, url=url)],
        "overlay_root": os.fspath(overlay_root),
        "overlay_fs_args": overlay_fs_args or {},
        "dataset_ids": ids,
        "user_id": user_id,
        "session_id": session_id,
        "url": url,
        "fs_args": fs_args,
    }
    fields = {key: value for key, value in given.items() if value is not None}
    root = CopickRootCDP(parse_config(fields, "from_czcdp_datasets"), cache=cache)  # type: ignore[arg-type]
    if output_path is not None:
        stated = {**fields, "dataset_ids": root.dataset_ids}
        write_text(output_path, json.dumps(stated, indent=4), "the config")
    return root


def _version() -> str:
    from copick import __version__

    return __version__


class _OfPortal(type):
    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, CopickRun) and (
            isinstance(instance.root, CopickRootPortal) or instance.meta.portal_run_id is not None
        )


class CopickRunCDP(CopickRun, metaclass=_OfPortal):
    """What runs of a project over the portal are instances of, and no others: plugins ask."""


CopickRunPortal = CopickRunCDP
CopickVoxelSpacingPortal = CopickVoxelSpacingCDP = CopickVoxelSpacing
CopickTomogramPortal = CopickTomogramCDP = CopickTomogram
CopickFeaturesPortal = CopickFeaturesCDP = CopickFeatures
CopickPicksPortal = CopickPicksCDP = CopickPicks
CopickMeshPortal = CopickMeshCDP = CopickMesh
CopickFilamentsPortal = CopickFilamentsCDP = CopickFilaments
CopickSegmentationPortal = CopickSegmentationCDP = CopickSegmentation
CopickObjectPortal = CopickObjectCDP = CopickObject
CopickRunMetaCDP = CopickRunMeta
CopickVoxelSpacingMetaCDP = PortalVoxelSpacingMeta
CopickTomogramMetaCDP = PortalTomogramMeta
CopickSegmentationMetaCDP = PortalSegmentationMeta
CopickPicksFileCDP = PortalPicksFile

__all__ = [
    "CopickConfigCDP",
    "CopickConfigPortal",
    "CopickFeaturesCDP",
    "CopickFeaturesPortal",
    "CopickFilamentsCDP",
    "CopickFilamentsPortal",
    "CopickMeshCDP",
    "CopickMeshPortal",
    "CopickObjectCDP",
    "CopickObjectPortal",
    "CopickPicksCDP",
    "CopickPicksFileCDP",
    "CopickPicksPortal",
    "CopickRootCDP",
    "CopickRootPortal",
    "CopickRunCDP",
    "CopickRunMetaCDP",
    "CopickRunPortal",
    "CopickSegmentationCDP",
    "CopickSegmentationMetaCDP",
    "CopickSegmentationPortal",
    "CopickTomogramCDP",
    "CopickTomogramMetaCDP",
    "CopickTomogramPortal",
    "CopickVoxelSpacingCDP",
    "CopickVoxelSpacingMetaCDP",
    "CopickVoxelSpacingPortal",
    "PortalAnnotationMeta",
    "from_czcdp_datasets",
]
