"""Roots that take their config, and the names that each family of entities goes by.

There is one class per entity: a run of one directory and a run of five layers are both a `CopickRun`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from copick.config import CopickConfig
    from copick.layers.build import CacheChoice
    from copick.models import CopickRoot

_MODULES = ("cache", "cryoet_data_portal", "filesystem", "multilayer", "sqlite_db")


def open_config(config: CopickConfig, cache: CacheChoice = None) -> CopickRoot:
    """The root that a config describes. Raises ConfigError."""
    return root_class(config)(config, cache=cache)


def root_class(config: CopickConfig) -> type[CopickRoot]:
    """The class of the root that a config describes."""
    from copick.impl.cryoet_data_portal import CopickRootCDP, CopickRootPortal
    from copick.impl.filesystem import CopickRootFS, CopickRootFSSpec
    from copick.impl.manager import RootOfLayers
    from copick.impl.multilayer import CopickRootMultilayer

    roots: tuple[type[CopickRoot], ...] = (
        CopickRootMultilayer,
        CopickRootFS,
        CopickRootFSSpec,
        CopickRootPortal,
        CopickRootCDP,
    )
    return next((root for root in roots if isinstance(config, root.config_class)), RootOfLayers)


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"copick.impl.{name}")
    raise AttributeError(f"module 'copick.impl' has no attribute {name!r}")
