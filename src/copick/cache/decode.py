"""Decoding a source chunk straight into recycled memory.

Zarr decodes into fresh memory and copies from there into more fresh memory; for a 256³ float32 chunk that costs ten times what the
codec itself does. Where an array's codecs are a plain chain of byte codecs behind a memory layout (zarr v2 arrays always; v3 arrays
without sharding or array filters), the chain is run here with numcodecs. Anything else is read through zarr.
"""

from __future__ import annotations

import json
from math import prod
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from copick import _cachecore

if TYPE_CHECKING:
    import numpy.typing as npt
    import zarr

_BYTE_CODECS = ("blosc", "zstd", "gzip")
"""Codecs of zarr v3 whose bytes numcodecs decodes under the same name."""


class Crc32c:
    """The v3 codec `crc32c`: four bytes behind the data. numcodecs' own holds the interpreter lock."""

    def decode(self, data: Any) -> Any:
        view = np.frombuffer(data, np.uint8)
        payload, stored = view[:-4], int.from_bytes(view[-4:].tobytes(), "little")
        if len(view) < 4 or _cachecore.crc32c(payload) != stored:
            raise ValueError("the CRC-32C checksum does not match")
        return payload


class Decoder:
    """From the stored bytes of a chunk to its array."""

    def __init__(
        self, codecs: list[Any], dtype: np.dtype[Any], shape: tuple[int, ...], order: Literal["C", "F"]
    ) -> None:
        self._codecs = codecs  # in the order of encoding
        self._dtype, self._shape, self._order = dtype, shape, order

    @classmethod
    def of(cls, array: zarr.Array[Any]) -> Decoder | None:
        """The decoder of an array's chunks; None if only zarr can decode them."""
        document: dict[str, Any] = dict(array.metadata.to_dict())
        dtype = np.dtype(array.dtype)
        if array.metadata.zarr_format == 2:
            codecs = [*(document.get("filters") or ()), *filter(None, [document.get("compressor")])]
            order: Literal["C", "F"] = "F" if document.get("order") == "F" else "C"
            return cls([_numcodec(codec) for codec in codecs], dtype, tuple(array.chunks), order)
        chain = [json.loads(json.dumps(codec, default=_plain)) for codec in document["codecs"]]
        if not chain or chain[0]["name"] != "bytes" or array.shards is not None:
            return None
        endian = chain[0].get("configuration", {}).get("endian", "little")
        if any(codec["name"] not in (*_BYTE_CODECS, "crc32c") for codec in chain[1:]):
            return None
        byte_codecs = [
            Crc32c() if codec["name"] == "crc32c" else _numcodec({"id": codec["name"]}) for codec in chain[1:]
        ]
        stored = dtype.newbyteorder(">" if endian == "big" else "<")
        return None if stored != dtype else cls(byte_codecs, dtype, tuple(array.chunks), "C")

    def decode(self, data: Any) -> npt.NDArray[Any]:
        """The whole chunk, edge chunks included. Raises whatever the codecs raise, ValueError for a wrong length."""
        codecs = [*reversed(self._codecs)]
        if codecs and getattr(codecs[0], "codec_id", None) == "blosc":
            stored = int.from_bytes(bytes(memoryview(data)[12:16]), "little")
            if stored != len(data):  # c-blosc believes its header, and would read on behind the data
                raise ValueError(f"the chunk has {len(data)} bytes, not {stored}")
        size = prod(self._shape) * self._dtype.itemsize
        if len(codecs) == 1 and getattr(codecs[0], "codec_id", None) == "blosc":
            # What the data portal and copick write. The header tells the length, so the target can be memory that was used
            # before: a chunk that is too short must not show what was in it.
            held = int.from_bytes(bytes(memoryview(data)[4:8]), "little")
            if held != size:
                raise ValueError(f"the chunk holds {held} bytes, not {size}")
            flat = _cachecore.recycled((size,), np.uint8)
            codecs[0].decode(data, out=flat)
            return self._shaped(flat)
        for codec in codecs:
            data = codec.decode(data)
        from numcodecs.compat import ensure_contiguous_ndarray

        return self._shaped(ensure_contiguous_ndarray(data).view(np.uint8))

    def _shaped(self, flat: npt.NDArray[Any]) -> npt.NDArray[Any]:
        expected = prod(self._shape) * self._dtype.itemsize
        if flat.nbytes != expected:
            raise ValueError(f"the chunk holds {flat.nbytes} bytes, not {expected}")
        return flat.reshape(-1).view(self._dtype).reshape(self._shape, order=self._order)


def _numcodec(configuration: Any) -> Any:
    from numcodecs.registry import get_codec

    return get_codec(configuration) if isinstance(configuration, dict) else configuration


def _plain(value: Any) -> Any:
    """Enumerations and such in codec configurations, for JSON."""
    return getattr(value, "value", str(value))
