"""How a source array is divided into cached chunks, and the zarr metadata that describes them.

A cached chunk is the decoded data in C order. Its grid is the source's where source chunks are small; larger ones (the data portal
serves 256³: 67 MB of float32) are cut into equal parts of at most 8 MiB, so that eviction is fine-grained and the padding of edge
chunks stays small.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from copick.cache.source import join

if TYPE_CHECKING:
    import zarr

CHUNK_BYTES = 8 << 20
MAX_CELL_BYTES = 4 << 30
"""A source with larger chunks is not cached: nobody writes such, and who says so wants to fill the memory."""
MAX_ENCODED_RATIO = 0.8
"""An array is cached decoded if encoding saves less than this (encoded / raw)."""
CODEC_OVERHEAD = 16
"""Bytes that blosc adds at most to what it cannot compress."""


@dataclass(frozen=True)
class Geometry:
    """What must be known to read an array from the cache without asking its source."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fill: bytes
    """The fill value, as one item of `dtype`."""
    chunks: tuple[int, ...]
    """Shape of a cached chunk."""
    cells: tuple[int, ...]
    """Shape of what is fetched at once, a chunk (of a shard) of the source: a multiple of `chunks`, or all of an axis."""
    zarr_format: int

    @classmethod
    def of(cls, array: zarr.Array[Any]) -> Geometry | None:
        """The geometry of a source array; None if its items have no fixed size and cannot be cached."""
        dtype = np.dtype(array.dtype)
        if dtype.hasobject or dtype.itemsize == 0 or dtype.kind == "T" or (not array.chunks and array.shape):
            return None
        if prod(array.chunks) * dtype.itemsize > MAX_CELL_BYTES:
            return None
        fill = np.zeros((), dtype) if array.fill_value is None else np.full((), array.fill_value, dtype)
        shape, chunks = tuple(array.shape), tuple(array.chunks)
        return cls(
            shape,
            dtype,
            fill.tobytes(),
            divide(shape, chunks, dtype.itemsize),
            chunks,
            array.metadata.zarr_format,
        )

    def same_data(self, other: Geometry) -> bool:
        """Whether both describe the same elements, however they are divided."""
        return (self.shape, self.dtype, self.fill) == (other.shape, other.dtype, other.fill)

    @property
    def chunk_bytes(self) -> int:
        """Of a decoded chunk."""
        return prod(self.chunks) * self.dtype.itemsize

    @property
    def most_stored(self) -> int:
        """No chunk file holds more bytes, but for its checksum: what a codec cannot make smaller it stores as it is."""
        return self.chunk_bytes + CODEC_OVERHEAD

    @property
    def prefix(self) -> str:
        """What stands before the coordinates in the names of chunk files."""
        return "c/" if self.zarr_format == 3 else ""

    def cell_of(self, chunk: int) -> int:
        """The source cell that holds a cached chunk, both as row-major indexes."""
        cell = 0
        coordinates = np.unravel_index(chunk, grid(self.shape, self.chunks)) if self.shape else ()
        for at, size, extent, across in zip(
            coordinates, self.chunks, self.cells, grid(self.shape, self.cells), strict=True
        ):
            cell = cell * across + int(at) * size // extent
        return cell

    def cell_box(self, cell: int) -> tuple[tuple[int, ...], tuple[slice, ...]]:
        """Where a source cell begins, and its slices, clipped to the array."""
        at = np.unravel_index(cell, grid(self.shape, self.cells)) if self.shape else ()
        origin = tuple(int(index) * size for index, size in zip(at, self.cells, strict=True))
        ends = (
            min(first + size, full) for first, size, full in zip(origin, self.cells, self.shape, strict=True)
        )
        return origin, tuple(slice(first, end) for first, end in zip(origin, ends, strict=True))

    def to_json(self) -> dict[str, Any]:
        return {
            "shape": self.shape, "dtype": _dtype_to_json(self.dtype), "fill": self.fill.hex(), "chunks": self.chunks,
            "cells": self.cells, "zarr_format": self.zarr_format,
        }  # fmt: skip

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Geometry:
        """Raises KeyError, TypeError or ValueError for what `to_json` never wrote."""
        found = cls(
            tuple(document["shape"]), _dtype_from_json(document["dtype"]), bytes.fromhex(document["fill"]),
            tuple(document["chunks"]), tuple(document["cells"]), document["zarr_format"],
        )  # fmt: skip
        axes = (found.shape, found.chunks, found.cells)
        whole = all(type(size) is int for axis in axes for size in axis) and len(set(map(len, axes))) == 1
        if not whole or min((*found.shape, 0)) < 0 or min((*found.chunks, *found.cells, 1)) < 1:
            raise ValueError(f"no geometry of an array: {document}")
        if max(found.chunk_bytes, prod(found.cells) * found.dtype.itemsize) > MAX_CELL_BYTES:
            raise ValueError(f"chunks of {found.chunks} are larger than any that were ever cached")
        if found.dtype.hasobject or len(found.fill) != found.dtype.itemsize or not found.dtype.itemsize:
            raise ValueError(f"a fill value of {len(found.fill)} bytes for {found.dtype}")
        return found


def grid(shape: tuple[int, ...], chunks: tuple[int, ...]) -> tuple[int, ...]:
    """How many chunks lie along each axis."""
    return tuple(-(-size // chunk) for size, chunk in zip(shape, chunks, strict=True))


def chunk_name(geometry: Geometry, chunk: int) -> str:
    """The file of a chunk, as the native core names it."""
    if not geometry.shape:
        return "c" if geometry.zarr_format == 3 else "0"
    at = np.unravel_index(chunk, grid(geometry.shape, geometry.chunks))
    return geometry.prefix + "/".join(str(int(index)) for index in at)


def chunk_index(geometry: Geometry, name: str) -> int | None:
    """The chunk that a file holds; None if the file is no chunk."""
    if not geometry.shape:
        return 0 if name == chunk_name(geometry, 0) else None
    if not name.startswith(geometry.prefix):
        return None
    parts = name[len(geometry.prefix) :].split("/")
    across = grid(geometry.shape, geometry.chunks)
    if len(parts) != len(across):
        return None
    index = 0
    for part, n in zip(parts, across, strict=True):
        if not part.isascii() or not part.isdigit() or (part[0] == "0" and part != "0") or int(part) >= n:
            return None
        index = index * n + int(part)
    return index


def divide(shape: tuple[int, ...], chunks: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    """The shape of cached chunks for a source with `chunks`: at most CHUNK_BYTES where the source's can be divided so.

    A chunk that spans an axis may be cut anywhere along it; else the parts must be equal, so that each lies in one source chunk.
    """
    whole = [chunk >= size for size, chunk in zip(shape, chunks, strict=True)]
    base = [max(size, 1) if spans else chunk for size, chunk, spans in zip(shape, chunks, whole, strict=True)]
    parts = [1] * len(base)

    def now() -> list[int]:
        return [-(-size // count) for size, count in zip(base, parts, strict=True)]

    while prod(now()) * itemsize > CHUNK_BYTES:
        options = []
        for axis, size in enumerate(now()):
            factor = 2 if whole[axis] else next((p for p in (2, 3, 5, 7) if size % p == 0), 0)
            if factor and size > 1:
                options.append((size, axis, factor))
        if not options:
            break
        _, axis, factor = max(options)
        parts[axis] *= factor
    return tuple(now())


def zarr_document(
    geometry: Geometry, known: dict[str, bytes | None], path: str, *, stored: str | None
) -> tuple[str, bytes]:
    """Name and content of the zarr metadata of a cached array, made from the source's.

    `stored`: "raw" or "encoded" describes the chunk files (their last codec is the CRC-32C trailer); None describes plain
    decoded chunks, as `CachingZarrStore` serves them.
    """
    if geometry.zarr_format == 2:
        name = ".zarray"
        document = json.loads(known[join(path, name)] or b"{}")
        document.update(
            chunks=geometry.chunks, order="C", dimension_separator="/",
            compressor={"id": "crc32c", "location": "end"} if stored else None,
            filters=[blosc(geometry.dtype)] if stored == "encoded" else None,
        )  # fmt: skip
        return name, json.dumps(document, indent=1).encode()
    name = "zarr.json"
    document = json.loads(known[join(path, name)] or b"{}")
    endian = (
        {"endian": "big" if geometry.dtype.byteorder == ">" else "little"}
        if geometry.dtype.itemsize > 1
        else {}
    )
    codecs: list[dict[str, Any]] = [
        {"name": "bytes", "configuration": endian} if endian else {"name": "bytes"}
    ]
    if stored == "encoded":
        names = ("noshuffle", "shuffle", "bitshuffle")
        codec = blosc(geometry.dtype)
        configuration = {key: codec[key] for key in ("cname", "clevel", "blocksize")}
        configuration.update(shuffle=names[codec["shuffle"]], typesize=geometry.dtype.itemsize)
        codecs.append({"name": "blosc", "configuration": configuration})
    if stored:
        codecs.append({"name": "crc32c"})
    document.update(
        chunk_grid={"name": "regular", "configuration": {"chunk_shape": geometry.chunks}},
        chunk_key_encoding={"name": "default", "configuration": {"separator": "/"}},
        codecs=codecs,
    )
    document.pop("storage_transformers", None)
    return name, json.dumps(document, indent=1).encode()


def blosc(dtype: np.dtype[Any]) -> dict[str, Any]:
    """The codec of encoded cache entries, as numcodecs names it: fast to decode, and far under the threshold for masks."""
    return {
        "id": "blosc",
        "cname": "zstd",
        "clevel": 1,
        "shuffle": 1 if dtype.itemsize > 1 else 0,
        "blocksize": 0,
    }


def _dtype_to_json(dtype: np.dtype[Any]) -> Any:
    return dtype.str if dtype.names is None else [[name, *_field(dtype, name)] for name in dtype.names]


def _field(dtype: np.dtype[Any], name: str) -> list[Any]:
    assert dtype.fields is not None
    inner, shape = dtype.fields[name][0], ()
    if inner.subdtype is not None:
        inner, shape = inner.subdtype
    return [_dtype_to_json(inner), list(shape)]


def _dtype_from_json(value: Any) -> np.dtype[Any]:
    if isinstance(value, str):
        return np.dtype(value)
    return np.dtype([(name, _dtype_from_json(inner), tuple(shape)) for name, inner, shape in value])
