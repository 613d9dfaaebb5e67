"""Config files: what layers a project has, and how each is opened.

A config names a type (`config_type`). `multilayer` is a stack of layers; any other type is one layer, alone or
as an entry of `layer_configs`. Types beyond those here come from the entry-point group `copick.layers`.
Configs of copick 1.x (an overlay, maybe over static data) are told by their fields and mean what they meant there.
What a stack may be made of is checked here in one place, hence the length; the data portal's configs are in `config_portal`.
"""

from __future__ import annotations

import functools
import importlib
import logging
import os
import re
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, cast

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializeAsAny,
    field_validator,
    model_validator,
)

from copick.config_errors import from_json, validated
from copick.errors import ConfigError, MissingConfigError
from copick.meta import PickableObject, wrong_objects
from copick.util.escape import check_clean
from copick.util.urls import local_path, masked, shown_url
from copick.util.words import nearest

logger = logging.getLogger(__name__)

GIB = 1024**3
ENTRY_POINTS = "copick.layers"

CleanName = Annotated[str, AfterValidator(lambda name: check_clean(name, "name"))]
ZarrFormat = Literal[2, 3]
"""2 = OME-NGFF 0.4 in zarr v2, which every tool of the field reads; 3 = OME-Zarr 0.5 in zarr v3."""
WriteStrategy = Literal["default", "source", "cache"]
"""Where a change goes: the default write layer, the layer that serves the entity, or the cache first."""


class CopickConfig(BaseModel):
    """What every config has."""

    config_type: str = "filesystem"
    name: str | None = "CoPick"
    description: str | None = "Let's CoPick!"
    version: str | None = "0.2.0"
    pickable_objects: list[PickableObject] = Field(default_factory=list)
    user_id: CleanName | None = None
    session_id: CleanName | None = None
    runs: list[str] | None = None
    """The names of the runs to show; None = all that there are."""
    voxel_spacings: list[float] | None = None
    """Read and kept; as in copick 1.x, it changes nothing."""
    tomograms: dict[float, list[str]] | None = Field(default_factory=dict)
    """Read and kept; as in copick 1.x, it changes nothing."""

    @classmethod
    def from_file(cls, filename: str | os.PathLike[str]) -> CopickConfig:
        """Read a config file. Raises ConfigError, also if it is of another type."""
        config = read_config(filename)
        if not isinstance(config, cls):
            raise ConfigError(
                f"{filename}: holds a config of type {config.config_type!r}, not a {cls.__name__}"
            )
        return config

    @field_validator("pickable_objects", mode="before")
    @classmethod
    def _object_keys(cls, objects: Any) -> Any:
        """Where the config's own unknown keys are refused, those of its objects are, too."""
        if cls.model_config.get("extra") == "forbid" and isinstance(objects, list | tuple):
            for item in objects:
                if isinstance(item, Mapping):
                    PickableObject.check_keys(item)
        return objects

    def _check_objects(self) -> None:
        if problem := wrong_objects(self.pickable_objects):
            raise ValueError(f"pickable_objects: {problem}")

    def __repr_args__(self) -> Any:
        for key, value in super().__repr_args__():
            if isinstance(key, str) and key.endswith("fs_args"):
                value = masked(value)
            yield key, shown_url(value) if isinstance(value, str) else value


class LayerConfig(CopickConfig):
    """Base of the configs of single layers."""

    model_config = ConfigDict(extra="forbid")

    rank: ClassVar[int] = 0
    """Layers of a lower rank come first, whatever their priority."""
    only_one: ClassVar[bool] = False
    """Whether a stack may have but one such layer."""

    layer_name: str | None = Field(default=None, min_length=1)
    priority: int = 0
    """Among layers of equal rank and access, the higher comes first."""
    read_only: bool = False

    @model_validator(mode="after")
    def _objects_differ(self) -> LayerConfig:
        self._check_objects()
        return self

    @property
    def remote(self) -> bool:
        """Whether reading it goes over a network, so that a cache is worth its while."""
        return True


def protocol_of(root: str) -> str:
    """The scheme of a path or URL; `file` for paths."""
    match = re.match(r"([A-Za-z][A-Za-z0-9+.-]+)(?:://|::)", root)
    scheme = match[1].lower() if match else "file"
    return "file" if scheme == "local" else scheme


def _path(value: Any) -> Any:
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _usable(root: str) -> str:
    """`root` itself. Raises ValueError; the text does not quote it, for it may hold a password."""
    scheme, mark, rest = root.partition("://")
    protocol = protocol_of(root)
    if any(ord(char) < 32 or ord(char) == 127 for char in root):
        raise ValueError("holds control characters; expected a path or URL")
    if mark and protocol not in {"file", "memory"} and not rest.strip("/"):
        what = "bucket" if protocol in {"s3", "s3a", "gs", "gcs"} else "host"
        raise ValueError(f"{scheme}:// names no {what}; expected {scheme}://{what.upper()}/FOLDER")
    if protocol in {"http", "https"} and ("?" in rest or "#" in rest):
        raise ValueError("holds ? or #; expected the address of a directory, without a query")
    return root


Location = Annotated[str, BeforeValidator(_path), AfterValidator(_usable)]
"""A path or URL."""


class CopickConfigFS(LayerConfig):
    """A project on any file system that fsspec knows."""

    must_exist: ClassVar[bool] = True
    """Whether a root that is not there, and cannot be made, is an error."""

    config_type: Literal["filesystem"] = "filesystem"
    root: Annotated[Location, Field(min_length=1)]
    """Path or URL. A relative path is relative to the current directory."""
    fs_args: dict[str, Any] = Field(default_factory=dict)
    """Passed to fsspec."""
    timeout_s: float = Field(default=60.0, gt=0)
    """How long one request may take to connect or to send something."""
    zarr_format: ZarrFormat = 2
    """What new arrays are written as."""

    @model_validator(mode="after")
    def _http_is_read_only(self) -> CopickConfigFS:
        self.read_only |= self.protocol in {"http", "https"}
        return self

    @property
    def protocol(self) -> str:
        """The scheme of the URL; `file` for paths."""
        return protocol_of(self.root)

    @property
    def remote(self) -> bool:
        return self.protocol not in {"file", "memory"}


class CopickConfigMemory(LayerConfig):
    """An empty project in this process's memory, for tests."""

    config_type: Literal["memory"] = "memory"

    @property
    def remote(self) -> bool:
        return False


class CopickConfigCache(CopickConfigFS):
    """A local cache of other layers."""

    config_type: Literal["cache"] = "cache"  # type: ignore[assignment]
    max_size_bytes: int = Field(default=10 * GIB, ge=0)
    """0 = unlimited."""
    max_age: float = Field(default=7 * 24 * 3600, ge=0)
    """Seconds until listings and metadata are asked for again; 0 = never."""
    parent_layer: str | list[str] | None = None
    """The layers to cache; `"*"` = all, None = every remote one."""
    disk_format: Literal["auto", "raw", "encoded"] = "auto"
    decoded_bytes: int = Field(default=256 * 1024**2, ge=0)
    """Budget of the decoded tier, per process."""
    policy: Literal["lru", "epoch", "pin"] = "lru"
    """What may come into a full cache. "lru": anything, for the least recently used; "epoch", for training that reads everything
    once per epoch: what takes the place of what idled for two epochs, and little else; "pin": nothing."""
    quotas: dict[str, Annotated[int, Field(ge=0)]] = Field(default_factory=dict)
    """Bytes that the chunks of a layer may take, by the layer's name; 0 or absent = any number."""
    mode: str = Field(default="0700", pattern="^[0-2]?7[0-7][0-7]$")
    """Permissions of the folder if it is made, and so of all in it; "0770" = for a group of users."""
    propagate: bool = True
    """With the write strategy `cache`: whether changes also go to a layer below, or stay in the cache only."""

    @property
    def parents(self) -> list[str]:
        named = self.parent_layer
        return [] if named is None else [named] if isinstance(named, str) else list(named)

    def check_names(self, layers: list[str], where: str) -> None:
        """Raises ValueError if it names layers that the project does not have; `where` is this config in its text."""
        for field, names in (("parent_layer", self.parents), ("quotas", list(self.quotas))):
            for name in names:
                if name not in layers and (field, name) != ("parent_layer", "*"):
                    raise ValueError(
                        f"{where}.{field}: found {name!r}, "
                        + _unknown_layer(name, layers, "is no layer to cache")
                    )

    @model_validator(mode="after")
    def _is_local(self) -> CopickConfigCache:
        if self.protocol != "file":
            raise ValueError(f"root: a cache needs a local directory, not {self.root!r}")
        return self


class CopickConfigSQLiteDB(LayerConfig):
    """A database that remembers what the layers hold."""

    rank: ClassVar[int] = -1

    config_type: Literal["sqlite_db"] = "sqlite_db"
    db_path: Annotated[str, BeforeValidator(_path), Field(min_length=1)]
    """A file on a local disk. A relative path is relative to the current directory."""
    auto_index: bool = True
    """Look for changes in the background."""
    index_interval: float = Field(default=3600.0, ge=0)
    """Seconds from one such look to the next; 0 = only if it was never done."""

    @model_validator(mode="after")
    def _is_local(self) -> CopickConfigSQLiteDB:
        if protocol_of(self.db_path) != "file":
            raise ValueError(f"db_path: an index needs a local file, not {shown_url(self.db_path)!r}")
        self.db_path = local_path(self.db_path) if "://" in self.db_path else self.db_path
        return self

    @property
    def remote(self) -> bool:
        return False


class LayerType(NamedTuple):
    """What an entry point of the group `copick.layers` gives: how a type of layer is configured and built."""

    config: type[LayerConfig]
    build: Callable[[Any, str], Any]
    """(config, layer name) → `copick.layers.layer.Layer`."""


BUILT_IN: Mapping[str, type[LayerConfig]] = {
    "filesystem": CopickConfigFS,
    "memory": CopickConfigMemory,
    "cache": CopickConfigCache,
    "sqlite_db": CopickConfigSQLiteDB,
}


PORTAL_TYPE = "cryoet_data_portal"


@functools.cache
def plugin_layer_type(config_type: str) -> LayerType | None:
    """The layer type that an installed package offers under this name."""
    from importlib.metadata import entry_points

    for entry in entry_points(group=ENTRY_POINTS, name=config_type):
        loaded = entry.load()
        return LayerType(loaded.config, loaded.build)
    return None


def known_types() -> list[str]:
    from importlib.metadata import entry_points

    return sorted(
        {*BUILT_IN, PORTAL_TYPE, "multilayer", *(entry.name for entry in entry_points(group=ENTRY_POINTS))}
    )


def config_class(config_type: object) -> type[LayerConfig]:
    """The config class of a type of layer. Raises ValueError, naming the types there are."""
    if isinstance(config_type, str):
        if config_type in BUILT_IN:
            return BUILT_IN[config_type]
        if config_type == PORTAL_TYPE:
            return cast("type[LayerConfig]", __getattr__("CopickConfigPortal"))
        if (plugin := plugin_layer_type(config_type)) is not None:
            return plugin.config
    if config_type == "mlcroissant":
        raise ValueError(
            "'mlcroissant' (Croissant projects of copick 1.x) cannot be opened by this version; name the directory "
            "that their data lie in by a config of type 'filesystem', or stay with copick 1.x for them"
        )
    hint = nearest(str(config_type), known_types())
    raise ValueError(f"unknown config_type {config_type!r}{hint}; known are {', '.join(known_types())}")


def _layer_config(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    if "config_type" not in value:
        raise ValueError(f"config_type is missing; known are {', '.join(known_types())}")
    if value["config_type"] == "multilayer":
        raise ValueError("config_type 'multilayer' cannot be a layer of a stack; list its layers here")
    return config_class(value["config_type"]).model_validate(value)


def _cache_config(value: Any) -> Any:
    return CopickConfigCache.model_validate(value) if isinstance(value, Mapping) else value


def _db_config(value: Any) -> Any:
    return CopickConfigSQLiteDB.model_validate(value) if isinstance(value, Mapping) else value


AnyLayerConfig = Annotated[SerializeAsAny[LayerConfig], BeforeValidator(_layer_config)]


class CopickConfigMultilayer(CopickConfig):
    """A stack of layers seen as one project."""

    model_config = ConfigDict(extra="forbid")

    config_type: Literal["multilayer"] = "multilayer"
    layers: list[str]
    layer_configs: dict[str, AnyLayerConfig]
    default_write_layer: str | None = None
    """None = the first layer that can be written."""
    cache_config: Annotated[CopickConfigCache | None, BeforeValidator(_cache_config)] = None
    db_config: Annotated[CopickConfigSQLiteDB | None, BeforeValidator(_db_config)] = None
    write_strategy: WriteStrategy = "default"
    zarr_format: ZarrFormat = 2
    """What new arrays are written as."""

    @model_validator(mode="after")
    def _is_consistent(self) -> CopickConfigMultilayer:
        self._name_layers()
        self._check_names()
        self._check_caches()
        self._check_single()
        self._check_indexes()
        self._check_write_layer()
        self._collect_objects()
        self._check_objects()
        return self

    @property
    def cache(self) -> CopickConfigCache | None:
        """The cache, wherever the config states it."""
        stated = (config for config in self.layer_configs.values() if isinstance(config, CopickConfigCache))
        return self.cache_config or next(stated, None)

    @property
    def index(self) -> CopickConfigSQLiteDB | None:
        """The index, wherever the config states it."""
        configs = self.layer_configs.values()
        stated = (config for config in configs if isinstance(config, CopickConfigSQLiteDB))
        return self.db_config or next(stated, None)

    @property
    def stack(self) -> list[LayerConfig]:
        """The configs of the layers that hold data, first in the stack first."""
        places = [self.layer_configs[name] for name in self.layers]
        places = [
            place for place in places if not isinstance(place, CopickConfigCache | CopickConfigSQLiteDB)
        ]
        return sorted(places, key=lambda place: (place.rank, place.read_only, -place.priority))

    def _name_layers(self) -> None:
        for name, layer in self.layer_configs.items():
            if layer.layer_name is None:
                layer.layer_name = name
            elif layer.layer_name != name:
                raise ValueError(
                    f"layer_configs.{name}.layer_name: found {layer.layer_name!r}; "
                    f"expected {name!r}, the key it stands under"
                )
        if self.cache_config is not None and self.cache_config.layer_name is None:
            self.cache_config.layer_name = "cache"
        if self.db_config is not None and self.db_config.layer_name is None:
            self.db_config.layer_name = "db"

    def _check_names(self) -> None:
        known = list(self.layer_configs)
        beside = {"cache_config": self.cache_config, "db_config": self.db_config}
        names = {config.layer_name: field for field, config in beside.items() if config is not None}
        for name, field in names.items():
            if name in self.layer_configs:
                raise ValueError(
                    f"{field}.layer_name: {name!r} is also a key of layer_configs; expected another name"
                )
        if not self.layers:
            raise ValueError("layers: found an empty list; expected the names of the layers of the stack")
        for at, name in enumerate(self.layers):
            if name in self.layers[:at]:
                raise ValueError(f"layers.{at}: {name!r} is named twice")
            if name not in self.layer_configs and name not in names:
                raise ValueError(
                    f"layers.{at}: found {name!r}, "
                    + _unknown_layer(name, known, "has no entry in layer_configs")
                )
        for name in known:
            if name not in self.layers:
                raise ValueError(
                    f"layer_configs.{name}: is not named in layers {self.layers}; "
                    "add it there or remove it here"
                )
        self.layers = [name for name in self.layers if name not in names]
        if not self.stack:
            raise ValueError(
                "layers: found only a cache or an index; expected at least one layer that holds data"
            )

    def _check_indexes(self) -> None:
        stated = [
            f"layer_configs.{name}"
            for name in self.layers
            if isinstance(self.layer_configs[name], CopickConfigSQLiteDB)
        ]
        if self.db_config is not None:
            stated.append("db_config")
        if len(stated) > 1:
            raise ValueError(f"{stated[-1]}: is a second index beside {stated[0]}; expected at most one")

    def _check_caches(self) -> None:
        stated = [
            f"layer_configs.{name}"
            for name in self.layers
            if isinstance(self.layer_configs[name], CopickConfigCache)
        ]
        if self.cache_config is not None:
            stated.append("cache_config")
        if len(stated) > 1:
            raise ValueError(f"{stated[-1]}: is a second cache beside {stated[0]}; expected at most one")
        if not stated or self.cache is None:
            return
        self.cache.check_names([place.layer_name or "" for place in self.stack], stated[0])

    def _check_single(self) -> None:
        single: dict[str, str] = {}
        for name in self.layers:
            config = self.layer_configs[name]
            if config.only_one and (first := single.setdefault(config.config_type, name)) != name:
                what = f"a second layer of type {config.config_type!r} beside layer_configs.{first}"
                raise ValueError(f"layer_configs.{name}: is {what}; expected at most one")

    def _check_write_layer(self) -> None:
        name, writable = (
            self.default_write_layer,
            [place.layer_name for place in self.stack if not place.read_only],
        )
        if name is None:
            self.default_write_layer = writable[0] if writable else None
            return
        config = self.cache if self.cache and self.cache.layer_name == name else self.layer_configs.get(name)
        expected = (
            f"expected one that can be written: {', '.join(map(str, writable)) or '(this stack has none)'}"
        )
        if config is None:
            known = [place.layer_name or "" for place in self.stack]
            raise ValueError(
                f"default_write_layer: found {name!r}, "
                + _unknown_layer(name, known, "is no layer of this stack")
            )
        if isinstance(config, CopickConfigCache):
            raise ValueError(f"default_write_layer: {name!r} is the cache; {expected}")
        if isinstance(config, CopickConfigSQLiteDB):
            raise ValueError(f"default_write_layer: {name!r} is the index; {expected}")
        if config.read_only:
            raise ValueError(f"default_write_layer: {name!r} is read-only; {expected}")

    def _collect_objects(self) -> None:
        """Objects that only layers declare are the project's too; those of the project come first."""
        names = {item.name for item in self.pickable_objects}
        for layer in self.stack:
            for item in layer.pickable_objects:
                if item.name not in names:
                    names.add(item.name)
                    self.pickable_objects.append(item)


CopickConfigML = CopickConfigMultilayer


class _StaticConfig(CopickConfigFS):
    """The static data of a 1.x project. As there, a directory that is missing is an empty one."""

    must_exist: ClassVar[bool] = False


class CopickConfigOverlay(CopickConfig):
    """A project of copick 1.x: an overlay that is written, maybe over something that is only read.

    Keys it does not know are ignored, and so do copick 1.x with the last three: one file serves both.
    """

    overlay_root: Location
    overlay_fs_args: dict[str, Any] | None = Field(default_factory=dict)
    cache: Annotated[CopickConfigCache | None, BeforeValidator(_cache_config)] = None
    index: Annotated[CopickConfigSQLiteDB | None, BeforeValidator(_db_config)] = None
    zarr_format: ZarrFormat = 2
    """What new arrays are written as."""

    @model_validator(mode="after")
    def _cache_has_parents(self) -> CopickConfigOverlay:
        if self.cache is not None:
            self.cache.check_names([place.layer_name or "" for place in self.stack], "cache")
        return self

    @property
    def stack(self) -> list[LayerConfig]:
        """The configs of its layers, first in the stack first."""
        return [self.overlay]

    @property
    def overlay(self) -> CopickConfigFS:
        """The config of the overlay."""
        return CopickConfigFS(
            layer_name=OVERLAY,
            root=self.overlay_root or os.curdir,
            fs_args=self.overlay_fs_args or {},
            zarr_format=self.zarr_format,
        )

    @property
    def default_write_layer(self) -> str | None:
        """The overlay, unless it cannot be written (it is on the web)."""
        return None if self.stack[0].read_only else OVERLAY


class CopickConfigFSSpec(CopickConfigOverlay):
    """A project of copick 1.x in files: an overlay, maybe over static data."""

    config_type: Literal["filesystem"] = "filesystem"
    static_root: Location | None = None
    static_fs_args: dict[str, Any] | None = Field(default_factory=dict)

    @property
    def stack(self) -> list[LayerConfig]:
        if self.static_root is None:
            return [self.overlay]
        static = _StaticConfig(
            layer_name=STATIC,
            root=self.static_root or os.curdir,
            fs_args=self.static_fs_args or {},
            read_only=True,
        )
        return [self.overlay] if _same_place(self.overlay, static) else [self.overlay, static]


OVERLAY, STATIC = "overlay", "static"
"""The names of the layers of a 1.x project."""


def _same_place(one: CopickConfigFS, other: CopickConfigFS) -> bool:
    if one.protocol == other.protocol == "file":
        return os.path.realpath(local_path(one.root)) == os.path.realpath(local_path(other.root))
    server = [{key: place.fs_args.get(key) for key in ("endpoint_url", "host")} for place in (one, other)]
    return one.root.rstrip("/") == other.root.rstrip("/") and server[0] == server[1]


def _is_of_1x(data: Mapping[str, Any]) -> bool:
    """Whether a config is one of copick 1.x: told by its fields, for the type is called the same."""
    if data.get("config_type") == PORTAL_TYPE:
        return "overlay_root" in data
    fields = {"overlay_root", "static_root", "overlay_fs_args", "static_fs_args"}
    return (
        data.get("config_type", "filesystem") == "filesystem"
        and "root" not in data
        and bool(fields & {*data})
    )


def _unknown_layer(name: str, known: list[str], what: str) -> str:
    return f"which {what}{nearest(name, known)}; expected one of {', '.join(known) or '(none)'}"


def read_config(path: str | os.PathLike[str]) -> CopickConfig:
    """The config in a file. Raises ConfigError; MissingConfigError (a FileNotFoundError) if there is no file."""
    try:
        text = Path(path).read_text(encoding="utf-8-sig")  # some editors put a mark before the text
    except FileNotFoundError:
        raise MissingConfigError(
            f"there is no config file {os.fspath(path)!r} (looked in {Path.cwd()})"
        ) from None
    except (OSError, ValueError) as error:  # ValueError: it is no text, or a path cannot be so
        raise ConfigError(f"the config file {os.fspath(path)!r} cannot be read: {error}") from error
    return parse_config(text, str(path))


def parse_config(data: str | bytes | Mapping[str, Any], where: str = "config") -> CopickConfig:
    """A config from JSON text or a dict; `where` names it in errors. Raises ConfigError."""
    repeated: list[str] = []
    if isinstance(data, str | bytes):
        data, repeated = from_json(data, where)
    if not isinstance(data, Mapping):
        raise ConfigError(f"{where}: found a {type(data).__name__}; expected an object with a config_type")
    if _is_of_1x(data):
        return _config_of_1x(data, where, repeated)
    if repeated:  # the last would win without a word: a layer would be missing
        raise ConfigError(
            f"{where}: cannot be used: the key {repeated[0]!r} stands twice in one object; remove one"
        )
    if "config_type" not in data:
        raise ConfigError(f"{where}: config_type: is missing; known are {', '.join(known_types())}")
    try:
        kind = data["config_type"]
        cls = CopickConfigMultilayer if kind == "multilayer" else config_class(kind)
    except ValueError as error:
        raise ConfigError(f"{where}: config_type: {error}") from error
    config: CopickConfig = validated(cls, data, where, _keys_of)
    return config


def _config_of_1x(data: Mapping[str, Any], where: str, repeated: list[str]) -> CopickConfigOverlay:
    """A config that copick 1.x would open, and what there is to say about it."""
    if "config_type" not in data:
        warnings.warn(
            f"{where}: config_type is missing; read as 'filesystem'. Add it to the file",
            DeprecationWarning,
            stacklevel=5,
        )
    cls: type[CopickConfigOverlay] = CopickConfigFSSpec
    if data.get("config_type") == PORTAL_TYPE:
        cls = __getattr__("CopickConfigCDP")
    config = validated(cls, data, where, _keys_of)
    if repeated:
        logger.warning("%s: the key %r stands twice in one object; the last counts", where, repeated[0])
    if problem := wrong_objects(config.pickable_objects):
        logger.warning("%s: pickable_objects: %s", where, problem)
    return config


_STATED: Mapping[str, type[LayerConfig]] = {
    "cache_config": CopickConfigCache,
    "cache": CopickConfigCache,
    "db_config": CopickConfigSQLiteDB,
    "index": CopickConfigSQLiteDB,
}
"""What stands under a key that does not say its type."""


def _keys_of(key: str, data: Mapping[str, Any]) -> list[str]:
    """The keys that the config of a layer or a cache may have."""
    try:
        stated = _STATED.get(key)
        cls = config_class(data.get("config_type")) if stated is None else stated
    except ValueError:
        return []
    return list(cls.model_fields)


def __getattr__(name: str) -> Any:
    """The configs of the data portal: they are built on this module."""
    if name in ("CopickConfigCDP", "CopickConfigPortal"):
        return getattr(importlib.import_module("copick.config_portal"), name)
    raise AttributeError(f"module 'copick.config' has no attribute {name!r}")
