"""Config → layers. The only module that knows all of them."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from copick.config import (
    CopickConfig,
    CopickConfigCache,
    CopickConfigFS,
    CopickConfigMemory,
    CopickConfigMultilayer,
    CopickConfigOverlay,
    LayerConfig,
    LayerType,
    plugin_layer_type,
)
from copick.config_errors import validated
from copick.config_portal import CopickConfigPortal
from copick.errors import ConfigError
from copick.layers.bases import Bases
from copick.layers.filesystem import FilesystemLayer
from copick.layers.memory import MemoryLayer
from copick.layers.stack import LayerStack
from copick.util.sizes import parse_size
from copick.util.urls import local_path

if TYPE_CHECKING:
    from collections.abc import Sequence

    from copick.cache.manager import CacheManager
    from copick.layers.layer import Layer

logger = logging.getLogger(__name__)


PENDING = "pending"
"""The folder of a cache where changes wait to be passed on."""


def _filesystem(config: CopickConfigFS, name: str) -> Layer:
    layer = FilesystemLayer(config, name)
    layer.check()
    return layer


def _portal(config: CopickConfigPortal, name: str) -> Layer:
    from copick.layers.portal import PortalLayer

    layer = PortalLayer(config, name)
    layer.check()
    return layer


def _memory(config: CopickConfigMemory, name: str) -> Layer:
    return MemoryLayer(name, read_only=config.read_only)


filesystem = LayerType(CopickConfigFS, _filesystem)
memory = LayerType(CopickConfigMemory, _memory)
portal = LayerType(CopickConfigPortal, _portal)

_BUILT_IN = {"filesystem": filesystem, "memory": memory, "cryoet_data_portal": portal}


def build_layer(config: LayerConfig, *, cached: bool = False) -> Layer:
    """One layer, without a cache; for one that will be `cached`, a root that is not there is no error. Raises ConfigError."""
    if cached and isinstance(config, CopickConfigFS):
        return FilesystemLayer(config, config.layer_name or config.config_type)
    layer_type = _BUILT_IN.get(config.config_type) or plugin_layer_type(config.config_type)
    if layer_type is None:
        raise ConfigError(
            f"config_type {config.config_type!r} cannot be opened alone; give it the layers it serves"
        )
    layer: Layer = layer_type.build(config, config.layer_name or config.config_type)
    return layer


def places_of(config: CopickConfig) -> tuple[Sequence[LayerConfig], str | None]:
    """The configs of a project's layers, highest first, and the default write layer. Raises ConfigError."""
    if isinstance(config, CopickConfigMultilayer | CopickConfigOverlay):
        return config.stack, config.default_write_layer
    if isinstance(config, LayerConfig):
        return [config], None if config.read_only else _name(config)
    raise ConfigError(f"a config of type {config.config_type!r} describes no layers")


def cache_of(layer: Layer) -> CacheManager | None:
    """The cache that a layer, or one of a stack, is read through."""
    from copick.layers.cached import CachedLayer

    layers = layer.layers if isinstance(layer, LayerStack) else [layer]
    return next((each.manager for each in layers if isinstance(each, CachedLayer)), None)


def build_stack(config: CopickConfig, cache: CopickConfigCache | None = None) -> LayerStack:
    """The layers of a project, in order, cached where `cache` says so. Raises ConfigError."""
    places, default = places_of(config)
    chosen = _chosen(places, cache)
    # The portal shows what the project looks for, so layers get its objects: the same list, which may grow.
    objects = {"pickable_objects": config.pickable_objects}
    layers = [
        build_layer(place.model_copy(update=objects), cached=_name(place) in chosen) for place in places
    ]
    strategy = config.write_strategy if isinstance(config, CopickConfigMultilayer) else "default"
    pending = _pending(layers, cache, config) if strategy == "cache" else None
    if cache is not None and chosen:
        layers = _cached(layers, chosen, cache)
    index = config.index if isinstance(config, CopickConfigMultilayer | CopickConfigOverlay) else None
    stack: Any = LayerStack
    if index is not None:
        from copick.index.stack import IndexedStack

        stack = partial(IndexedStack, index=index)
    built: LayerStack = stack(
        layers,
        default,
        strategy="default" if strategy == "cache" and pending is None else strategy,
        pending=pending,
        propagate=cache is None or cache.propagate,
        bases=None if pending is None else Bases(pending.place),
    )
    return built


def _pending(
    layers: Sequence[Layer], cache: CopickConfigCache | None, config: CopickConfig
) -> FilesystemLayer | None:
    """Where changes wait in the cache for the layer that they are meant for; None if there is no such place."""
    target = next((layer for layer in layers if not layer.read_only), None)
    if cache is None or target is None:
        what = "cache" if cache is None else "layer that can be written"
        logger.warning("write_strategy 'cache': this project has no %s; writes go to the default layer", what)
        return None
    # Projects that share a cache folder must not see each other's changes.
    place = hashlib.sha256(target.location.encode()).hexdigest()[:16]
    root = f"{local_path(cache.root)}/{PENDING}/{place}"
    try:
        os.makedirs(root, exist_ok=True)
    except OSError as error:
        logger.warning(
            "write_strategy 'cache': %s cannot be used (%s); writes go to the default layer", root, error
        )
        return None
    name = cache.layer_name or "cache"
    zarr_format = getattr(config, "zarr_format", 2)
    place_config = CopickConfigFS(root=root, layer_name=name, zarr_format=zarr_format)
    return FilesystemLayer(place_config, name, lasting=False)  # it goes with the cache


def _name(place: LayerConfig) -> str:
    return place.layer_name or place.config_type


def _chosen(places: Sequence[LayerConfig], cache: CopickConfigCache | None) -> set[str]:
    """Names of the layers to cache. Raises ConfigError if the config names others."""
    if cache is None:
        return set()
    root = os.path.realpath(local_path(cache.root))
    for place in places:
        local = (
            local_path(place.root) if isinstance(place, CopickConfigFS) and place.protocol == "file" else None
        )
        if local is not None and os.path.realpath(local) == root:
            raise ConfigError(
                f"cache: root: {root} is the root of a layer; a cache needs a folder of its own"
            )
    wanted = cache.parents
    try:
        cache.check_names([_name(place) for place in places], "cache")
    except ValueError as error:
        raise ConfigError(str(error)) from None
    return {
        _name(place)
        for place in places
        if _name(place) in wanted or "*" in wanted or (not wanted and place.remote)
    }


def _cached(layers: Sequence[Layer], chosen: set[str], cache: CopickConfigCache) -> list[Layer]:
    from copick.layers.cached import CachedLayer, open_cache

    manager = open_cache(cache)  # if there is none, it said why in the log; a cache is never needed
    seen: list[Layer] = []
    for layer in layers:
        cached = None
        if layer.name in chosen and manager is not None:
            cached = CachedLayer(layer, cache, manager=manager)
        if isinstance(layer, FilesystemLayer) and not (cached and cached.knows_runs()):
            layer.check()
        seen.append(cached or layer)
    return seen


CacheChoice = str | os.PathLike[str] | Mapping[str, Any] | CopickConfigCache | bool | None
"""A directory, the fields of a cache config, a cache config, or False for no cache."""


def choose_cache(config: CopickConfig, choice: CacheChoice = None) -> CopickConfigCache | None:
    """The cache to use: the caller's choice, else the config's own, else the environment's.

    Raises:
        ConfigError: The choice cannot be used.
    """
    if choice is False:
        return None
    if isinstance(choice, CopickConfigCache):
        return choice
    if choice is not None and not isinstance(choice, Mapping | str | os.PathLike):
        raise ConfigError(
            f"cache={choice!r}: expected a directory, the fields of a cache config, a CopickConfigCache, "
            "or False for no cache"
        )
    own = config.cache if isinstance(config, CopickConfigMultilayer | CopickConfigOverlay) else None
    if isinstance(choice, Mapping):
        return _cache_of(choice, "cache=")
    if isinstance(choice, str | os.PathLike):
        return _cache_of({**(own.model_dump() if own else {}), "root": os.fspath(choice)}, "cache=")
    return own or _environment_cache()


def _environment_cache() -> CopickConfigCache | None:
    root = os.environ.get("COPICK_CACHE_DIR")
    if not root:
        return None
    size = os.environ.get("COPICK_CACHE_SIZE")
    limits = {"max_size_bytes": parse_size(size, "COPICK_CACHE_SIZE")} if size else {}
    return _cache_of({"root": root, **limits}, "COPICK_CACHE_DIR")


def _cache_of(fields: Mapping[str, Any], where: str) -> CopickConfigCache:
    named = {"config_type": "cache", "layer_name": "cache", **fields}
    return validated(CopickConfigCache, named, where, lambda key, data: list(CopickConfigCache.model_fields))
