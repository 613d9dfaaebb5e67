"""Datasets of the CryoET Data Portal as a layer that can only be read.

A run is called by its portal id, as in copick 1.x. Annotations of an object that the project looks for (the same `identifier`)
are picks and segmentations of the user "data-portal", in a session called by the id of their file.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
from datetime import date
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from copick.config import CopickConfigFS
from copick.errors import FormatError, NotFoundError
from copick.kinds import (
    INSTANCE_SEGMENTATION,
    PICKS,
    RUN,
    SEGMENTATION,
    TOMOGRAM,
    VOXEL_DECIMALS,
    VOXEL_SPACING,
    Ref,
    normal,
)
from copick.layers.filesystem import FilesystemLayer
from copick.layers.layer import Layer
from copick.layers.portal_catalogue import POINTS, PortalFile, PortalTomogram, Source
from copick.layers.portal_client import PortalClient, Table
from copick.layers.portal_meta import (
    PortalAnnotationMeta,
    PortalPicksFile,
    PortalSegmentationMeta,
    PortalTomogramMeta,
    PortalVoxelSpacingMeta,
)
from copick.layers.protocols import OBJECT_STORES
from copick.meta import IDENTITY, PORTAL_USER, CopickRunMeta, Meta
from copick.util.escape import cut_name, sanitize_name
from copick.util.urls import local_path, shown_url
from copick.util.words import nearest

if TYPE_CHECKING:
    import builtins
    from collections.abc import Iterable, Iterator, Mapping

    from zarr.abc.store import Store

    from copick.config_portal import CopickConfigPortal
    from copick.kinds import Kind, Value
    from copick.layers.portal_catalogue import Catalogue, PortalRun

logger = logging.getLogger(__name__)

LONGEST_TYPE = 160
"""Bytes of a tomogram's type: file names have 255, and may also hold an id and the name of features."""
AUTHORS = "authors"
"""In a query of `matching`: names that must all be among the authors."""

_METAS: Mapping[Kind, type[Meta]] = {
    VOXEL_SPACING: PortalVoxelSpacingMeta,
    TOMOGRAM: PortalTomogramMeta,
    PICKS: PortalPicksFile,
    SEGMENTATION: PortalSegmentationMeta,
    INSTANCE_SEGMENTATION: PortalSegmentationMeta,
}
_SHAPES = {
    PICKS: POINTS,
    SEGMENTATION: ("SegmentationMask",),
    INSTANCE_SEGMENTATION: ("InstanceSegmentationMask",),
}
_CREDENTIALS = {"key", "secret", "token", "profile", "anon"}
_WEB = {"http", "https"}


_NO_POINT = (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError)
"""What reading a line as a point raises if it is none."""


class PortalLayer(Layer):
    """What the portal holds. Asked once for everything there is; files are read where the portal says that they are."""

    read_only = True

    def __init__(self, config: CopickConfigPortal, name: str) -> None:
        self.name, self.config = name, config
        self.client = PortalClient(config.url, config.timeout_s, name)
        folder = _folder(config.cache_dir) if config.cache_dir else None
        self._source = Source(self.client, config.dataset_ids, folder, config.max_age)
        self._buckets: dict[str, _Bucket] = {}
        self._matches: dict[str, frozenset[int]] = {}

    def __repr__(self) -> str:
        return f"<PortalLayer {self.name!r} {shown_url(self.config.url or '')} {self.config.dataset_ids}>"

    @property
    def location(self) -> str:
        return f"portal {self.client.shown}"

    @property
    def content(self) -> str:
        shown = json.dumps([self._source.dataset_ids, sorted(self.objects.items())])
        return f"{self.location} {_digest(shown)}"

    def check(self) -> None:
        """Refuse a config that cannot work, as far as that is known without a request. Raises ConfigError."""
        _ = self.client.url
        if self.config.cache_dir is None:
            import platformdirs

            self._source.folder = _folder(platformdirs.user_cache_path("copick") / "portal")

    def keep_listings(self, folder: Path) -> bool:
        if self.config.cache_dir is None:
            self._source.folder = folder / "portal"
        return True

    @property
    def catalogue(self) -> Catalogue:
        """Everything there is. Raises LayerError if the portal does not answer."""
        return self._source.get()

    @property
    def objects(self) -> dict[str, str]:
        """Identifiers of the objects that the project looks for → their names. Of two with one identifier the last counts."""
        return {item.identifier: item.name for item in self.config.pickable_objects if item.identifier}

    # Listings

    def list(self, parent: Ref | None, kind: Kind) -> builtins.list[Meta]:
        return [meta for meta, _ in self._rows(parent, kind)]

    def _rows(self, parent: Ref | None, kind: Kind) -> builtins.list[tuple[Meta, object]]:
        """What is listed, and the row of the portal that each is: runs without what belongs to them."""
        rows: builtins.list[tuple[Meta, object]] = []
        if parent is None and kind is RUN:
            rows = [(_run_meta(run), None) for run in self.catalogue.runs.values()]
        elif (run := self._run_of(parent)) is not None and parent is not None:
            if parent.kind is VOXEL_SPACING and kind is TOMOGRAM:
                rows = [(meta, None) for meta in self._tomograms(run, parent).values()]
            elif parent.kind is RUN and kind is VOXEL_SPACING:
                sizes = {normal(spacing.size): spacing.id for spacing in reversed(run.spacings)}
                rows = [
                    (PortalVoxelSpacingMeta(voxel_size=size, portal_vs_id=key), None)
                    for size, key in sizes.items()
                ]
            elif parent.kind is RUN and kind in _SHAPES:
                rows = [(self._meta(file), file) for file in self._files(run, kind)]
        return sorted(rows, key=lambda row: kind.key(row[0]))

    def meta_of(self, kind: Kind, fields: Mapping[str, Any]) -> Meta:
        try:
            return _METAS.get(kind, kind.meta)(**fields)
        except ValidationError:  # somebody else's fields
            return super().meta_of(kind, fields)

    def stamps(self, parent: Ref | None, kind: Kind) -> dict[str, str | None]:
        # All that the portal says of it; the files themselves are never replaced.
        return {
            kind.file_name(kind.key(meta)): _digest(f"{meta!r} {row!r}")
            for meta, row in self._rows(parent, kind)
        }

    def exists(self, ref: Ref) -> bool:
        if ref.kind is RUN:
            return self._run_of(ref) is not None
        return ref.parent is not None and any(
            ref.kind.key(meta) == ref.values for meta in self.list(ref.parent, ref.kind)
        )

    def matching(self, parent: Ref | None, kind: Kind, query: Mapping[str, Any]) -> set[Ref]:
        if parent is None and kind is RUN:
            return {RUN.ref(_run_meta(run), None) for run in self.catalogue.named(str(query.get("name")))}
        run = self._run_of(parent)
        if run is None or parent is None:
            return set()
        if kind is TOMOGRAM:
            ids = self._matching("tomograms", "Tomogram", query)
            return {
                kind.ref(meta, parent)
                for meta in self._tomograms(run, parent).values()
                if meta.portal_tomo_id in ids
            }
        ids = self._matching("annotations", "Annotation", query)
        return {
            kind.ref(self._meta(file), parent) for file in self._files(run, kind) if file.annotation_id in ids
        }

    def found_by(self, kind: Kind, field: str, values: Iterable[Value]) -> set[Ref] | None:
        table = ("tomograms", "Tomogram") if kind is TOMOGRAM else ("annotations", "Annotation")
        if kind is not TOMOGRAM and kind not in _SHAPES:
            return None
        if field != AUTHORS and field not in self._columns(table[1]):
            return None
        ids: set[int] = set()
        for value in values:
            with contextlib.suppress(FormatError):  # no value of that column
                ids |= self._matching(*table, {field: [value] if field == AUTHORS else value})
        return {ref for run in self.catalogue.runs.values() for ref in self._with_ids(run, kind, ids)}

    def _with_ids(self, run: PortalRun, kind: Kind, ids: set[int]) -> Iterator[Ref]:
        """The tomograms of a run that have one of these ids, or the annotations of which that have one."""
        own = RUN.ref(_run_meta(run), None)
        if kind is TOMOGRAM:
            for size in {normal(each.spacing.size) for each in run.tomograms if each.id in ids}:
                spacing = Ref(VOXEL_SPACING, (size,), own)
                for key, meta in self._tomograms(run, spacing).items():
                    if key in ids:
                        yield kind.ref(meta, spacing)
        else:
            for file in self._files(run, kind):
                if file.annotation_id in ids:
                    yield kind.ref(self._meta(file), own)

    def _run_of(self, ref: Ref | None) -> PortalRun | None:
        """The portal's run that `ref` is or lies in."""
        if ref is None or next(ref.walk()).kind is not RUN:
            return None
        number = self._run_id(ref)
        return None if number is None else self._source.run(number)

    @staticmethod
    def _run_id(ref: Ref) -> int | None:
        """The portal's id of the run that `ref` is or lies in, if it can be one."""
        name = str(next(ref.walk()).values[0])
        return int(name) if re.fullmatch("[1-9][0-9]{0,17}", name) else None

    def _files(self, run: PortalRun, kind: Kind) -> builtins.list[PortalFile]:
        """The files of a run that hold annotations of this kind, of objects that the project looks for."""
        shapes, wanted = _SHAPES.get(kind, ()), self.objects
        return [file for file in run.files if file.shape in shapes and file.object_id in wanted]

    def _meta(self, file: PortalFile) -> PortalPicksFile | PortalSegmentationMeta:
        name, session, about = self.objects[file.object_id], str(file.id), _about(file)
        if file.shape in POINTS:
            return PortalPicksFile(
                pickable_object_name=name,
                user_id=PORTAL_USER,
                session_id=session,
                trust_orientation=file.shape == "OrientedPoint",
                portal_metadata=about,
            )
        return PortalSegmentationMeta(
            name=name,
            user_id=PORTAL_USER,
            session_id=session,
            is_multilabel=False,
            is_instance=file.shape == "InstanceSegmentationMask",
            is_panoptic=False,
            voxel_size=round(file.spacing.size, VOXEL_DECIMALS),
            portal_metadata=about,
        )

    def _tomograms(self, run: PortalRun, spacing: Ref) -> dict[int, PortalTomogramMeta]:
        """The tomograms of a voxel spacing by portal id. Of several of one type, all but the first have their id in the name."""
        found: dict[int, PortalTomogramMeta] = {}
        taken: set[str] = set()
        for tomogram in sorted(run.tomograms, key=attrgetter("id")):
            if normal(tomogram.spacing.size) != spacing.values[0]:
                continue
            name = common = tomo_type(tomogram)
            while name in taken:
                name = f"{name}-{tomogram.id}"
            taken.add(name)
            found[tomogram.id] = PortalTomogramMeta(
                tomo_type=name,
                portal_tomo_type=common,
                portal_tomo_id=tomogram.id,
                portal_tomo_path=tomogram.path,
            )
        return found

    # Questions to the portal about what is not in the catalogue

    def _matching(self, field: str, type_name: str, query: Mapping[str, Any]) -> frozenset[int]:
        """Ids of the rows, of all runs, whose fields are as asked and which have all the authors. Each question is asked once."""
        names = self._columns(type_name)
        wanted = {
            key: value.isoformat() if isinstance(value, date) else value
            for key, value in query.items()
            if key != AUTHORS and value is not None
        }
        for key in wanted.keys() - names.keys():
            logger.warning("portal_meta_query: %r is ignored%s", key, nearest(key, [*names]))
        conditions: builtins.list[Mapping[str, Any]] = [
            {names[key]: {"_eq": value}} for key, value in wanted.items() if key in names
        ]
        conditions += [{"authors": {"name": {"_eq": name}}} for name in query.get(AUTHORS) or ()]
        asked = {
            json.dumps([field, condition], sort_keys=True, default=str): condition for condition in conditions
        }
        known = self._matches
        new = {key: condition for key, condition in asked.items() if key not in known}
        whole = Table(field, type_name, ("id",), ("run",)).of(self._source.scope)
        # Conditions may be about one column, so each is a question of its own; all go in one request.
        tables = [whole._replace(where={**whole.where, **condition}) for condition in new.values()]
        for key, rows in zip(new, self.client.rows(*tables), strict=True):
            known[key] = frozenset(row[0] for row in rows)
        return frozenset.intersection(*(known[key] for key in asked)) if asked else self._every(field)

    def _columns(self, type_name: str) -> dict[str, str]:
        """What may be asked for: as the portal's client calls it → as GraphQL does."""
        return {_snake(name): name for name in self.client.columns(type_name)}

    def _every(self, field: str) -> frozenset[int]:
        runs = self.catalogue.runs.values()
        if field == "tomograms":
            return frozenset(tomogram.id for run in runs for tomogram in run.tomograms)
        return frozenset(file.annotation_id for run in runs for file in run.files)

    # Contents

    def load(self, ref: Ref) -> bytes:
        run = self._run_of(ref)
        if run is not None and ref.kind is RUN:
            return _run_meta(run).model_dump_json(exclude={"name"}, exclude_none=True).encode()
        file = self._file(ref)
        bucket, path = self._bucket(file.path)
        content = bucket.read(path)
        document = {
            **self._meta(file).model_dump(mode="json"),
            "run_name": None if run is None else str(run.id),
            "voxel_spacing": file.spacing.size,
            "points": points_of(content, file.spacing.size, f"layer {self.name!r}: {file.path}"),
        }
        return json.dumps(document).encode()

    def store(self, ref: Ref, *, write: bool = False) -> Store:
        if write:
            self.check_writable(ref)
        bucket, path = self._bucket(self._array_path(ref))
        return bucket.volume(path)

    def address(self, ref: Ref) -> str | None:
        # The portal gives what it processes anew another file; and the first tomogram of a type may go, and the next be called so.
        if ref.kind.payload == "array":
            return self._array_path(ref)
        return repr(self._file(ref)) if ref.kind is PICKS else None

    def _file(self, ref: Ref) -> PortalFile:
        """The file of an annotation. Raises NotFoundError."""
        run = self._run_of(ref)
        for file in self._files(run, ref.kind) if run is not None else ():
            if ref.kind.key(self._meta(file)) == ref.values:
                return file
        raise NotFoundError(f"layer {self.name!r} has no {ref}")

    def _array_path(self, ref: Ref) -> str:
        run = self._run_of(ref)
        if run is None or ref.parent is None or ref.kind is not TOMOGRAM:
            return self._file(ref).path
        for meta in self._tomograms(run, ref.parent).values():
            if ref.kind.key(meta) == ref.values:
                return meta.portal_tomo_path
        raise NotFoundError(f"layer {self.name!r} has no {ref}")

    def _bucket(self, url: str) -> tuple[_Bucket, str]:
        """Where a file lies, and its path there. Raises FormatError if that is no address of a file on a server."""
        protocol, _, rest = url.partition("://")
        name, _, path = rest.partition("/")
        root, path = f"{protocol}://{name}", path.rstrip("/")
        # A server shall not lead us to files of this machine.
        if not (name and path) or protocol not in _WEB | OBJECT_STORES:
            raise FormatError(
                f"layer {self.name!r}: the portal states {url!r}, which is no address of a file; tell the portal"
            )
        if root not in self._buckets:
            given: Mapping[str, Any] = {} if protocol in _WEB else self.config.fs_args
            anonymous = protocol == "s3" and not _CREDENTIALS & {*given}
            config = CopickConfigFS(
                root=root,
                fs_args={"anon": True, **given} if anonymous else dict(given),
                timeout_s=self.config.timeout_s,
                read_only=True,
            )
            self._buckets[root] = _Bucket(config, self.name)
        return self._buckets[root], path

    # The rest of a layer

    def create(self, ref: Ref) -> None:
        self.check_writable(ref)

    def delete(self, ref: Ref) -> None:
        self.check_writable(ref)

    def save(self, ref: Ref, document: bytes) -> None:
        self.check_writable(ref)

    def reconnect(self) -> None:
        for bucket in self._buckets.values():
            bucket.reconnect()

    def refresh(self, ref: Ref | None = None) -> None:
        """Ask the portal again when something is next needed: about everything, or about the run that `ref` lies in."""
        self._matches = {}
        if ref is None:
            self._source.refresh()
        elif (run := self._run_id(ref)) is not None:
            self._source.refresh(run)


class _Bucket(FilesystemLayer):
    """Files that the portal names."""

    def read(self, path: str) -> bytes:
        """Raises NotFoundError, LayerError."""
        with self._asking(path):
            try:
                return self.place.read(path)
            except FileNotFoundError:
                raise NotFoundError(
                    f"layer {self.name!r}: the portal lists {self._full('', path)}, but it is not there; tell the portal"
                ) from None

    def volume(self, path: str) -> Store:
        return self._store(path, path, read_only=True)


def _folder(path: str | Path) -> Path:
    """The folder that a user calls so: below it no links are followed."""
    return Path(os.path.realpath(local_path(os.fspath(path))))


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=16).hexdigest()


def tomo_type(tomogram: PortalTomogram) -> str:
    """How a tomogram was made, as one word: `wbp-denoised-cryocare-ctfdeconv`."""
    said = [tomogram.method, tomogram.processing, tomogram.software]
    words = [camel_case(text) for text in said if text]
    name = "-".join([*words, *(["ctfdeconv"] if tomogram.ctf_corrected else [])])
    clean = sanitize_name(name, suppress_warnings=True).lstrip(".")  # a file with a dot first is hidden
    return cut_name(clean, LONGEST_TYPE)


def camel_case(text: str) -> str:
    """`Fourier Space` → `fourierSpace`."""
    joined = re.sub(r"[_-]+", " ", text).title().replace(" ", "")
    return joined[:1].lower() + joined[1:]


def points_of(content: bytes, voxel_size: float, where: str) -> list[dict[str, Any]]:
    """The points of a file of the portal, one JSON object a line, as a picks document has them.

    Args:
        voxel_size: In ångström; the file states positions in voxels.

    Raises:
        FormatError: It is no such file; `where` names it.
    """
    points = []
    for number, line in enumerate(content.splitlines(), 1):
        if not line.strip():
            continue
        try:
            said = json.loads(line)
            at = {axis: float(said["location"][axis]) * voxel_size for axis in "xyz"}
            matrix = said.get("xyz_rotation_matrix") or said.get("rotation_matrix")
            turned = IDENTITY
            if matrix is not None:
                turned = [[*map(float, row), 0.0] for row in matrix] + IDENTITY[3:]
                if [len(row) for row in turned] != [4] * 4:
                    raise ValueError("a rotation is a 3x3 matrix")
            instance = int(said.get("instance_id") or 0)
        except _NO_POINT as error:
            raise FormatError(
                f"{where}, line {number}: is no point ({type(error).__name__}: {error}); found {line[:80]!r}"
            ) from error
        points.append({"location": at, "transformation_": turned, "instance_id": instance})
    return points


def _run_meta(run: PortalRun) -> CopickRunMeta:
    return CopickRunMeta(
        name=str(run.id),
        portal_run_id=run.id,
        portal_run_name=run.name,
        portal_dataset_id=run.dataset_id,
    )


def _about(file: PortalFile) -> PortalAnnotationMeta:
    return PortalAnnotationMeta(
        annotation_id=file.annotation_id,
        annotation_shape_id=file.shape_id,
        annotation_file_id=file.id,
        shape_type=file.shape,
        object_name=file.object_name,
        object_id=file.object_id,
        s3_path=file.path,
    )


def _snake(name: str) -> str:
    """`objectId` → `object_id`, as the client calls it."""
    return re.sub("([A-Z])", r"_\1", name).lower()
