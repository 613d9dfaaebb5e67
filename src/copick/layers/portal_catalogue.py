"""What there is in some datasets of the portal: asked for at once, kept on disk as columns, looked up run by run."""

from __future__ import annotations

import gzip
import hashlib
import json
import logging
import math
import time
import zlib
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from copick.errors import ConfigError, LayerError
from copick.kinds import VOXEL_DECIMALS
from copick.layers.portal_client import TRIES, PortalClient, Row, Table
from copick.layers.transfer import one_at_a_time

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

logger = logging.getLogger(__name__)

POINTS = ("Point", "OrientedPoint")
MASKS = ("SegmentationMask", "InstanceSegmentationMask")
"""Shapes of annotations, as the portal calls them."""

DATASETS = Table("datasets", "Dataset", ("id",))
RUNS = Table("runs", "Run", ("id", "datasetId", "name"))
SPACINGS = Table("tomogramVoxelSpacings", "TomogramVoxelSpacing", ("id", "runId", "voxelSpacing"), ("run",))
TOMOGRAMS = Table(
    "tomograms",
    "Tomogram",
    (
        "id",
        "runId",
        "tomogramVoxelSpacingId",
        "voxelSpacing",
        "reconstructionMethod",
        "processing",
        "processingSoftware",
        "ctfCorrected",
        "s3OmezarrDir",
    ),
    ("run",),
)
FILES = Table(
    "annotationFiles",
    "AnnotationFile",
    (
        "id",
        "format",
        "tomogramVoxelSpacingId",
        "s3Path",
        "annotationShape.id",
        "annotationShape.shapeType",
        "annotationShape.annotation.id",
        "annotationShape.annotation.runId",
        "annotationShape.annotation.objectId",
        "annotationShape.annotation.objectName",
        "annotationShape.annotation.annotationPublication",
    ),
    ("annotationShape", "annotation", "run"),
    {"format": {"_in": ["ndjson", "zarr"]}, "annotationShape": {"shapeType": {"_in": [*POINTS, *MASKS]}}},
)
TABLES = (RUNS, SPACINGS, TOMOGRAMS, FILES)

VERSION = 1
"""Of the file."""
LARGEST_SIZE = 1e9
"""No voxel is larger, in ångström."""
PATIENCE_S = 60.0
"""How long a portal that did not answer is left alone, where what it said earlier will do."""
_DAMAGED = (OSError, EOFError, ValueError, KeyError, TypeError, ArithmeticError, RecursionError, zlib.error)
"""What reading a file may raise that we have not written."""


class Spacing(NamedTuple):
    id: int | None
    size: float
    """In ångström, with all decimals that the portal states."""


class PortalTomogram(NamedTuple):
    id: int
    spacing: Spacing
    method: str | None
    processing: str | None
    software: str | None
    ctf_corrected: bool | None
    path: str


class PortalFile(NamedTuple):
    """A file with points or a mask."""

    id: int
    spacing: Spacing
    path: str
    shape_id: int
    shape: str
    annotation_id: int
    object_id: str
    object_name: str
    publication: str | None


@dataclass(slots=True)
class PortalRun:
    id: int
    dataset_id: int
    name: str
    spacings: list[Spacing] = field(default_factory=list)
    tomograms: list[PortalTomogram] = field(default_factory=list)
    files: list[PortalFile] = field(default_factory=list)


class Catalogue(NamedTuple):
    """What the rows of `TABLES` say."""

    runs: dict[int, PortalRun]
    time: float
    """When the portal was asked."""

    def with_run(self, run_id: int, part: list[list[Row]]) -> Catalogue:
        """With what `part` says of one run instead of what was known of it."""
        runs = {key: run for key, run in self.runs.items() if key != run_id}
        runs.update(_joined(*part))
        return self._replace(runs=runs)

    def named(self, name: str) -> list[PortalRun]:
        """The runs that the portal calls so: one in each dataset at most, as a rule."""
        return [run for run in self.runs.values() if run.name == name]


class Source:
    """The catalogue of some datasets: as it is known here, as it is on disk, as the portal states it now.

    Args:
        folder: Where it is kept; None = nowhere.
        max_age: Seconds until the portal is asked again; 0 = never.
    """

    def __init__(
        self, client: PortalClient, dataset_ids: Sequence[int], folder: Path | None, max_age: float
    ) -> None:
        self.client, self.dataset_ids = client, sorted({*dataset_ids})
        self.folder, self.max_age = folder, max_age
        self._known: Catalogue | None = None
        self._asked_after = 0.0
        # These do not leave the process; its clock cannot be set.
        self._satisfied_until = -math.inf
        self._outdated: dict[int, float] = {}  # runs that were refreshed, and when they are asked for

    def __getstate__(self) -> dict[str, Any]:
        again = dict.fromkeys(self._outdated, -math.inf)
        return {**self.__dict__, "_known": None, "_satisfied_until": -math.inf, "_outdated": again}

    @property
    def scope(self) -> dict[str, Any]:
        """The condition that runs of these datasets fulfil."""
        return {"datasetId": {"_in": self.dataset_ids}}

    @property
    def path(self) -> Path | None:
        """The file that keeps it: one for each address, these datasets, and the columns that are needed."""
        if self.folder is None:
            return None
        key = json.dumps([VERSION, self.client.url, self.dataset_ids, TABLES])
        return self.folder / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json.gz"

    def get(self) -> Catalogue:
        """The catalogue. Raises LayerError if it is not known and the portal does not answer; ConfigError."""
        known = self._known or self._read()
        if known is None or not self._is_fresh(known):
            # Who was stopped, or does not come to an end, keeps nobody from asking for longer than a question may take.
            patience_s = TRIES * self.client.timeout_s
            with one_at_a_time(f"portal {self.client.url} {self.dataset_ids}", patience_s):
                kept = self._read()  # somebody else may have asked meanwhile
                if known is None or (kept is not None and kept.time > known.time):
                    known = kept
                if known is None or not self._is_fresh(known):
                    known = self._fetch(known)
        self._known = known
        return known

    def run(self, run_id: int) -> PortalRun | None:
        """One run, asked for alone if it was refreshed. Raises as `get`."""
        known = self.get()
        if run_id in known.runs and self._outdated.get(run_id, math.inf) <= time.monotonic():
            own = {"id": {"_eq": run_id}, **self.scope}
            try:
                part = self.client.rows(*(table.of(own) for table in TABLES))
            except LayerError as error:
                self._use_old(error, known)
                self._outdated[run_id] = time.monotonic() + PATIENCE_S
            else:
                self._known = known = known.with_run(run_id, part)
                self._outdated.pop(run_id, None)  # another thread may have asked, too
        return known.runs.get(run_id)

    def refresh(self, run_id: int | None = None) -> None:
        """Ask again when it is next needed: about all, or about one run."""
        if run_id is not None:
            self._outdated[run_id] = -math.inf
        else:
            self._asked_after, self._satisfied_until = time.time(), -math.inf

    def _is_fresh(self, known: Catalogue) -> bool:
        if time.monotonic() < self._satisfied_until:
            return True
        age = time.time() - known.time
        return known.time >= self._asked_after and (not self.max_age or -60 < age < self.max_age)

    def _fetch(self, old: Catalogue | None) -> Catalogue:
        """The catalogue as the portal states it now; if it does not answer, the old one."""
        asked, after = time.time(), self._asked_after
        try:
            datasets, *rows = self.client.rows(
                DATASETS._replace(where={"id": {"_in": self.dataset_ids}}),
                *(table.of(self.scope) for table in TABLES),
            )
        except LayerError as error:
            if old is None:
                raise
            self._use_old(error, old)
            self._satisfied_until = time.monotonic() + PATIENCE_S
            return old
        if unknown := {*self.dataset_ids} - {row[0] for row in datasets}:
            which = ", ".join(map(str, sorted(unknown)))
            raise ConfigError(
                f"layer {self.client.name!r}: the portal {self.client.shown} has no dataset {which}; check dataset_ids"
            )
        self._write(rows, asked)
        self._outdated.clear()
        if self._asked_after == after:  # nobody wants it anew meanwhile
            self._asked_after = min(after, asked)  # the clock may have been set back
        return Catalogue(_joined(*rows), asked)

    @staticmethod
    def _use_old(error: LayerError, old: Catalogue) -> None:
        age = (time.time() - old.time) / 3600
        logger.warning("%s. What it said %.1f hours ago is used", str(error), age)

    def _read(self) -> Catalogue | None:
        from copick.cache import info

        if self.path is None:
            return None
        try:
            document = json.loads(gzip.decompress(info.content(self.path)))
            columns, asked = document["tables"], float(document["time"])
            return Catalogue(_joined(*(zip(*table, strict=True) for table in columns)), asked)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except _DAMAGED as error:
            logger.warning(
                "layer %r: %s cannot be read (%s); the portal is asked", self.client.name, self.path, error
            )
            return None

    def _write(self, rows: Sequence[Sequence[Row]], asked: float) -> None:
        from copick.cache import info

        if self.path is None:
            return
        columns = [
            [*zip(*table_rows, strict=True)] or [()] * len(table.columns)
            for table, table_rows in zip(TABLES, rows, strict=True)
        ]
        document = {
            "url": self.client.shown,
            "dataset_ids": self.dataset_ids,
            "time": asked,
            "tables": columns,
        }
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            info.write(self.path, gzip.compress(json.dumps(document, separators=(",", ":")).encode(), 1))
        except OSError as error:
            logger.warning("layer %r: what the portal said cannot be kept: %s", self.client.name, error)


def _joined(
    runs: Iterable[Row], spacings: Iterable[Row], tomograms: Iterable[Row], files: Iterable[Row]
) -> dict[int, PortalRun]:
    """Rows → runs with what belongs to them. What the portal does not say enough of is left out, with a line in the log."""
    found = {key: PortalRun(key, dataset, name) for key, dataset, name in runs}
    sizes: dict[int, Spacing] = {}
    left_out: Mapping[str, list[int]] = defaultdict(list)
    for key, run, size in spacings:
        if run in found and _is_size(size):
            sizes[key] = Spacing(key, size)
            found[run].spacings.append(sizes[key])
        else:
            left_out["voxel spacings"].append(key)
    for key, run, spacing, size, method, processing, software, ctf, path in tomograms:
        at = sizes.get(spacing) or (Spacing(None, size) if _is_size(size) else None)
        if run in found and at and path:
            found[run].tomograms.append(PortalTomogram(key, at, method, processing, software, ctf, path))
            if at.id is None:
                found[run].spacings.append(at)
        else:
            left_out["tomograms"].append(key)
    for key, kind, spacing, path, shape_id, shape, annotation, run, object_id, name, publication in files:
        if kind != ("ndjson" if shape in POINTS else "zarr"):
            continue
        at = sizes.get(spacing)
        if run in found and at and path and object_id:
            found[run].files.append(
                PortalFile(key, at, path, shape_id, shape, annotation, object_id, name or "", publication)
            )
        else:
            left_out["annotation files"].append(key)
    for what, ids in left_out.items():
        logger.info(
            "%d %s of the portal lack a run, a voxel size, an object or a file: %s", len(ids), what, ids
        )
    return found


def _is_size(size: Any) -> bool:
    """Whether a folder can be called by this voxel size."""
    return bool(size) and 0 < round(size, VOXEL_DECIMALS) < LARGEST_SIZE
