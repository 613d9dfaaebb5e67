"""A small portal with everything that it may hold, files included."""

from __future__ import annotations

import json
import random
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy.typing as npt

    from copick.testing.portal_server import PortalServer

BUCKET = "cryoet-portal"
SIZE = 10.012
RIBOSOME, MEMBRANE = "GO:0022626", "GO:0016020"
AUTHORS = ("Ada Lovelace", "Grace Hopper")
TURNED = [[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]
OBJECTS: list[dict[str, Any]] = [
    {"name": "ribosome", "is_particle": True, "label": 1, "identifier": RIBOSOME},
    {"name": "membrane", "is_particle": False, "label": 2, "identifier": MEMBRANE},
]
VOLUME = np.random.default_rng(0).normal(size=(12, 14, 20)).astype(np.float32)
MASK = (VOLUME > 1).astype(np.int8)


class Portal:
    """Rows and files of a portal that grow together."""

    def __init__(self, server: PortalServer) -> None:
        self.server = server
        self.files: dict[str, bytes] = {}

    def dataset(self, row_id: int, runs: Iterable[str]) -> dict[str, int]:
        """A dataset with these runs; their ids by name."""
        self.server.add("Dataset", row_id, title=f"dataset {row_id}")
        return {name: self.server.add("Run", dataset_id=row_id, name=name) for name in runs}

    def spacing(self, run: int, size: float = SIZE) -> int:
        return self.server.add("TomogramVoxelSpacing", run_id=run, voxel_spacing=size)

    def tomogram(
        self,
        run: int,
        spacing: int,
        data: npt.NDArray[Any] | None = None,
        *,
        authors: Iterable[str] = (),
        **fields: Any,
    ) -> int:
        """A tomogram; without data it is listed, but its files are missing."""
        at = f"{run}/{spacing}/Tomograms/{len(self.server.tables['Tomogram'])}/{run}.zarr"
        said = {
            "reconstruction_method": "WBP",
            "processing": "raw",
            "ctf_corrected": False,
            "voxel_spacing": self.server.tables["TomogramVoxelSpacing"][spacing]["voxelSpacing"],
            "s3_omezarr_dir": f"s3://{BUCKET}/{at}",
            **fields,
        }
        row = self.server.add("Tomogram", run_id=run, tomogram_voxel_spacing_id=spacing, **said)
        for name in authors:
            self.server.add("TomogramAuthor", tomogram_id=row, name=name)
        if data is not None:
            self.files.update({f"{at}/{key}": content for key, content in multiscale(data).items()})
        return row

    def annotation(
        self,
        run: int,
        spacing: int | None,
        shape: str,
        content: Any = None,
        *,
        authors: Iterable[str] = (),
        file_fields: dict[str, Any] | None = None,
        **fields: Any,
    ) -> int:
        """An annotation with one shape in one file; the id of the file. Without content the file is missing."""
        said = {"object_id": RIBOSOME, "object_name": "cytosolic ribosome", **fields}
        row = self.server.add("Annotation", run_id=run, **said)
        for name in authors:
            self.server.add("AnnotationAuthor", annotation_id=row, name=name)
        shape_id = self.server.add("AnnotationShape", annotation_id=row, shape_type=shape)
        is_points = shape in ("Point", "OrientedPoint")
        at = f"{run}/Annotations/{row}/thing-1.0_{shape.lower()}.{'ndjson' if is_points else 'zarr'}"
        if content is not None:
            files: dict[str, bytes] = {"": ndjson(content)} if is_points else multiscale(content, levels=1)
            self.files.update({f"{at}/{key}".rstrip("/"): value for key, value in files.items()})
        stated = {
            "annotation_shape_id": shape_id,
            "tomogram_voxel_spacing_id": spacing,
            "format": "ndjson" if is_points else "zarr",
            "s3_path": f"s3://{BUCKET}/{at}",
            **(file_fields or {}),
        }
        return self.server.add("AnnotationFile", **stated)


def ndjson(points: Iterable[dict[str, Any]]) -> bytes:
    """As the portal writes them: no newline at the end."""
    return "\n".join(json.dumps(point) for point in points).encode()


def point(x: float, y: float, z: float, matrix: Any = None) -> dict[str, Any]:
    """A point in voxels."""
    said: dict[str, Any] = {
        "type": "point" if matrix is None else "orientedPoint",
        "location": {"x": x, "y": y, "z": z},
    }
    return said if matrix is None else {**said, "xyz_rotation_matrix": matrix}


def multiscale(data: npt.NDArray[Any], levels: int = 3) -> dict[str, bytes]:
    """The files of a volume as the portal has them: zarr v2, Blosc lz4, chunks in directories."""
    return _multiscale(data.tobytes(), data.dtype.str, data.shape, levels)


@cache
def _multiscale(content: bytes, dtype: str, shape: tuple[int, ...], levels: int) -> dict[str, bytes]:
    import zarr
    from numcodecs import Blosc
    from zarr.storage import MemoryStore

    data = np.frombuffer(content, dtype).reshape(shape)
    store = MemoryStore()
    group = zarr.open_group(store, mode="w", zarr_format=2)
    scales = []
    for level in range(levels):
        part = data[:: 2**level, :: 2**level, :: 2**level]
        array = group.create_array(
            str(level),
            shape=part.shape,
            dtype=part.dtype,
            chunks=(8,) * 3,
            compressors=Blosc("lz4", 5, Blosc.SHUFFLE),
            chunk_key_encoding={"name": "v2", "separator": "/"},
            fill_value=0,
        )
        array[:] = part
        scales.append(
            {
                "path": str(level),
                "coordinateTransformations": [{"type": "scale", "scale": [SIZE * 2**level] * 3}],
            }
        )
    axes = [{"name": axis, "type": "space", "unit": "angstrom"} for axis in "zyx"]
    group.attrs["multiscales"] = [{"version": "0.4", "name": "/", "axes": axes, "datasets": scales}]
    return {key: value.to_bytes() for key, value in store._store_dict.items()}


def small(portal: Portal) -> dict[str, int]:
    """Two datasets with three runs; the first has everything. The ids of its things."""
    first = portal.dataset(10440, ["TS_5_4", "TS_6_4"])
    second = portal.dataset(10441, ["TS_5_4"])
    run = first["TS_5_4"]
    spacing = portal.spacing(run)
    ids = {"run": run, "other run": first["TS_6_4"], "twin run": second["TS_5_4"], "spacing": spacing}
    ids["wbp"] = portal.tomogram(run, spacing, VOLUME, authors=AUTHORS)
    ids["denoised"] = portal.tomogram(
        run,
        spacing,
        VOLUME / 2,
        authors=AUTHORS[:1],
        processing="denoised",
        processing_software="cryoCARE",
        ctf_corrected=True,
    )
    ids["sirt"] = portal.tomogram(
        run, portal.spacing(run, 4.99), VOLUME, reconstruction_method="Fourier_Space"
    )
    ids["points"] = portal.annotation(
        run,
        spacing,
        "Point",
        [point(1, 2, 3), point(4.5, 5, 6)],
        authors=AUTHORS,
        ground_truth_status=True,
        annotation_publication="EMD-3883,PDB-4V9D,10.1101/x",
    )
    ids["oriented"] = portal.annotation(
        run,
        spacing,
        "OrientedPoint",
        [point(1, 1, 1, TURNED), point(2, 2, 2, np.eye(3).tolist())],
        authors=AUTHORS[1:],
        ground_truth_status=False,
    )
    membrane = {"object_id": MEMBRANE, "object_name": "membrane"}
    ids["mask"] = portal.annotation(run, spacing, "SegmentationMask", MASK, authors=AUTHORS, **membrane)
    instances = np.arange(MASK.size).reshape(MASK.shape).astype(np.uint16)
    ids["instances"] = portal.annotation(run, spacing, "InstanceSegmentationMask", instances, **membrane)
    portal.annotation(run, spacing, "Point", [], object_id="GO:9999999", object_name="unknown")
    ids["other points"] = portal.annotation(
        first["TS_6_4"], portal.spacing(first["TS_6_4"]), "Point", [point(0, 0, 0)]
    )
    return ids


def config(portal: PortalServer, endpoint: str, **more: Any) -> dict[str, Any]:
    """A config of these datasets alone."""
    return {
        "config_type": "cryoet_data_portal",
        "dataset_ids": [10440, 10441],
        "url": portal.url,
        "fs_args": {"endpoint_url": endpoint},
        "pickable_objects": OBJECTS,
        **more,
    }


def large(
    server: PortalServer, runs: int, *, tomograms: int = 4, annotations: int = 7, authors: int = 18
) -> None:
    """A dataset 10310 of many runs, without files."""
    server.add("Dataset", 10310, title="large")

    def add(type_name: str, rows: Iterable[dict[str, Any]]) -> list[int]:
        server.add_many(type_name, rows)
        return [*server.tables[type_name]]

    run_ids = add("Run", ({"dataset_id": 10310, "name": f"TS_{at}"} for at in range(runs)))
    spacings = add("TomogramVoxelSpacing", ({"run_id": run, "voxel_spacing": SIZE} for run in run_ids))
    processing = ("raw", "denoised", "filtered", "filtered_even")
    pairs = [*zip(run_ids, spacings, strict=True)]
    tomogram_ids = add(
        "Tomogram",
        (
            {
                "run_id": run,
                "tomogram_voxel_spacing_id": spacing,
                "voxel_spacing": SIZE,
                "reconstruction_method": "WBP",
                "processing": processing[at],
                "s3_omezarr_dir": f"s3://{BUCKET}/10310/{run}/Reconstructions/VoxelSpacing10.012/Tomograms/{at}/TS.zarr",
            }
            for run, spacing in pairs
            for at in range(tomograms)
        ),
    )
    annotation_ids = add(
        "Annotation",
        (
            {"run_id": run, "object_id": RIBOSOME, "object_name": "cytosolic ribosome"}
            for run in run_ids
            for _ in range(annotations)
        ),
    )
    shapes = add(
        "AnnotationShape", ({"annotation_id": each, "shape_type": "Point"} for each in annotation_ids)
    )
    add(
        "AnnotationFile",
        (
            {
                "annotation_shape_id": shape,
                "tomogram_voxel_spacing_id": spacings[at // annotations],
                "format": "ndjson",
                "s3_path": f"s3://{BUCKET}/10310/Reconstructions/VoxelSpacing10.012/Annotations/{shape}/ribosome-1.0_point.ndjson",
            }
            for at, shape in enumerate(shapes)
        ),
    )
    names = [f"author {at}" for at in range(authors)]
    add("TomogramAuthor", ({"tomogram_id": row, "name": name} for row in tomogram_ids for name in names))
    add(
        "AnnotationAuthor", ({"annotation_id": row, "name": name} for row in annotation_ids for name in names)
    )


def any_portal(portal: Portal, seed: int) -> None:
    """The datasets 10440 and 10441 with runs as they may come, files included."""
    chance = random.Random(seed)
    software = [None, "cryoCARE", "IsoNet 0.3", "Tomo3D v2.2", "deep_de-conv", "AreTomo,x", "denoiset"]
    methods = ["WBP", "SIRT", "SART", "Fourier_Space", "Unknown"]
    processing = ["raw", "filtered", "denoised", "filtered_even", "filtered_odd"]
    things = [(RIBOSOME, "Ribosome"), (MEMBRANE, "membrane"), ("GO:1", "unknown"), ("GO:2", "twice")]
    for dataset in (10440, 10441):
        for run in portal.dataset(dataset, [f"TS_{at}" for at in range(chance.randint(1, 4))]).values():
            for size in chance.sample([4.99, 10.012, 13.48, 7.0], chance.randint(0, 3)):
                spacing = portal.spacing(run, size)
                for _ in range(chance.randint(0, 3)):
                    portal.tomogram(
                        run,
                        spacing,
                        VOLUME[:3] * chance.random(),
                        authors=chance.sample(AUTHORS, chance.randint(0, 2)),
                        reconstruction_method=chance.choice(methods),
                        processing=chance.choice(processing),
                        processing_software=chance.choice(software),
                        ctf_corrected=chance.choice([True, False, None]),
                        is_portal_standard=chance.choice([True, False, None]),
                    )
                for _ in range(chance.randint(0, 4)):
                    identifier, name = chance.choice(things)
                    shape = chance.choice(
                        ["Point", "OrientedPoint", "SegmentationMask", "InstanceSegmentationMask"]
                    )
                    points = [
                        point(
                            chance.random() * 50,
                            chance.randint(0, 99),
                            chance.random(),
                            TURNED if shape == "OrientedPoint" else None,
                        )
                        for _ in range(chance.randint(1, 3))
                    ]
                    portal.annotation(
                        run,
                        spacing,
                        shape,
                        points if "Point" in shape else MASK[:4] * chance.randint(0, 1),
                        authors=chance.sample(AUTHORS, chance.randint(0, 2)),
                        object_id=identifier,
                        object_name=name,
                        ground_truth_status=chance.choice([True, False, None]),
                        annotation_method=chance.choice(["manual", "automated"]),
                        confidence_precision=chance.choice([None, 0.5, 90.0]),
                    )
