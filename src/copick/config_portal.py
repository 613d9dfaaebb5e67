"""Configs of the CryoET Data Portal: the layer, and the projects of copick 1.x that lie over it."""

from __future__ import annotations

import os
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator

from copick.config import CopickConfigOverlay, LayerConfig

PORTAL = "portal"
"""The name of the portal's layer in a project of copick 1.x."""

DatasetIds = Annotated[list[Annotated[int, Field(gt=0, lt=2**31)]], Field(min_length=1)]
"""GraphQL's integers have 32 bits."""


class CopickConfigPortal(LayerConfig):
    """Datasets of the CryoET Data Portal, or of a server that answers as it does. Can only be read."""

    rank: ClassVar[int] = 1
    only_one: ClassVar[bool] = True

    config_type: Literal["cryoet_data_portal"] = "cryoet_data_portal"
    dataset_ids: DatasetIds
    url: str | None = Field(
        default_factory=lambda: os.environ.get("COPICK_PORTAL_URL") or None, pattern=r"^https?://[^/]+"
    )
    """Where it answers GraphQL; None = where the client package says that it does."""
    fs_args: dict[str, Any] = Field(default_factory=dict)
    """Passed to fsspec for files in buckets. Without credentials they are read anonymously."""
    max_age: float = Field(default=7 * 24 * 3600, ge=0)
    """Seconds until the portal is asked again what there is; 0 = never."""
    timeout_s: float = Field(default=60.0, gt=0)
    """How long one request may take."""
    cache_dir: str | Literal[False] | None = Field(
        default_factory=lambda: os.environ.get("COPICK_PORTAL_CACHE_DIR")
    )
    """Where the answers are kept; None = in the project's cache, without one in the user's; False = nowhere."""
    read_only: bool = True

    @field_validator("read_only")
    @classmethod
    def _is_read_only(cls, value: bool) -> bool:
        if not value:
            raise ValueError("the portal cannot be written; leave read_only out")
        return value


class CopickConfigCDP(CopickConfigOverlay):
    """A project of copick 1.x over the data portal: an overlay that is written, over datasets that are only read.

    Keys it does not know are ignored, and so do copick 1.x with `cache`, `index`, `zarr_format`, `url` and `fs_args`.
    """

    config_type: Literal["cryoet_data_portal"] = "cryoet_data_portal"
    dataset_ids: DatasetIds
    url: str | None = Field(default=None, pattern=r"^https?://[^/]+")
    """As in `CopickConfigPortal`."""
    fs_args: dict[str, Any] = Field(default_factory=dict)
    """As in `CopickConfigPortal`."""
    portal_cache: bool = True
    """Whether what the portal answers is kept on disk."""
    portal_cache_ttl_seconds: float = 24 * 3600
    """Seconds until it is asked again; 0 or less = never."""
    portal_cache_dir: str | None = None
    """Where its answers are kept; None = in the project's cache, without one in the user's."""
    portal_cache_lock_timeout_seconds: float = 60
    """Read and kept; changes nothing."""

    @property
    def stack(self) -> list[LayerConfig]:
        return [self.overlay, self.portal]

    @property
    def portal(self) -> CopickConfigPortal:
        """The config of the datasets."""
        stated = {
            "layer_name": PORTAL,
            "dataset_ids": self.dataset_ids,
            "url": self.url,
            "fs_args": self.fs_args,
            "max_age": max(self.portal_cache_ttl_seconds, 0),
            "cache_dir": self.portal_cache_dir if self.portal_cache else False,
        }
        return CopickConfigPortal.model_validate(
            {key: value for key, value in stated.items() if value is not None}
        )
