"""One dataset API over every place a cryo-electron-tomography project is kept.

import copick

root = copick.from_file("project.json")
for run in root.runs:
    tomogram = run.get_voxel_spacing(10.0).get_tomogram("wbp")
    patch = tomogram.numpy(z=slice(0, 64))
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import os

    from copick.layers.build import CacheChoice
    from copick.models import CopickRoot

__version__ = "2.0.0"

_ENTITIES = (
    "CopickRoot",
    "CopickRun",
    "CopickVoxelSpacing",
    "CopickTomogram",
    "CopickFeatures",
    "CopickPicks",
    "CopickMesh",
    "CopickSegmentation",
    "CopickObject",
    "CopickFilaments",
)
_ERRORS = (
    "CopickError",
    "ConfigError",
    "MissingConfigError",
    "NotFoundError",
    "UnknownNameError",
    "GoneError",
    "AlreadyExistsError",
    "ReadOnlyError",
    "FormatError",
    "LayerError",
    "DeniedError",
    "CacheError",
)
_MODULES = (
    "arrays",
    "config",
    "errors",
    "impl",
    "kinds",
    "layers",
    "meta",
    "models",
    "ome",
    "ops",
    "stores",
    "util",
)

# What is not needed to import copick is imported when it is first used.
_HOMES = {
    "new_config": "copick.impl.filesystem",
    "from_czcdp_datasets": "copick.impl.cryoet_data_portal",
    **dict.fromkeys(_ENTITIES, "copick.models"),
    **dict.fromkeys(_ERRORS, "copick.errors"),
}

__all__ = [  # noqa: PLE0604
    "COPICK_TYPES",
    "__version__",
    "from_czcdp_datasets",
    "from_file",
    "from_string",
    "new_config",
    *_ENTITIES,
    *_ERRORS,
]


def from_file(path: str | os.PathLike[str], cache: CacheChoice = None) -> CopickRoot:
    """Open the project that a config file describes.

    Args:
        path: A JSON config file.
        cache: A directory, the fields of a cache config, or a `CopickConfigCache`: cache remote layers there.
            `False`: no cache, whatever the config or the environment say. Default: as the config says; without
            a cache there, as `COPICK_CACHE_DIR` and `COPICK_CACHE_SIZE` say.

    Raises:
        MissingConfigError: There is no such file (also a FileNotFoundError).
        ConfigError: It cannot be used; the text names the field and what is expected.
    """
    from copick.config import read_config
    from copick.impl import open_config

    return open_config(read_config(path), cache)


def from_string(data: str | bytes, cache: CacheChoice = None) -> CopickRoot:
    """Open the project that a JSON config describes. As `from_file`."""
    from copick.config import parse_config
    from copick.impl import open_config

    return open_config(parse_config(data), cache)


def __getattr__(name: str) -> Any:
    if name == "COPICK_TYPES":
        return tuple(__getattr__(entity) for entity in _ENTITIES)
    if name in _MODULES:
        return importlib.import_module(f"copick.{name}")
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'copick' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_MODULES})
