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

FILTERED, SLACK = 16, 1 << 16
"""What a chunk's codecs may need in between: so many times its size, and some bytes more."""

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
        size = prod(self._shape) * self._dtype.itemsize
        if len(codecs) == 1 and getattr(codecs[0], "codec_id", None) == "blosc":
            # What the data portal and copick write. The header tells the length, so the target can be memory that was used
            # before: a chunk that is too short must not show what was in it.
            flat = _cachecore.recycled((size,), np.uint8)
            decode_blosc(codecs[0], data, flat)
            return self._shaped(flat)
        # A filter may make data larger before they are compressed, but not without end.
        most = FILTERED * size + SLACK
        for codec in codecs[:-1]:
            data = bounded(codec, data, most)
        for codec in codecs[-1:]:
            data = bounded(codec, data, size, exactly=True)
        from numcodecs.compat import ensure_contiguous_ndarray

        return self._shaped(ensure_contiguous_ndarray(data).view(np.uint8))

    def _shaped(self, flat: npt.NDArray[Any]) -> npt.NDArray[Any]:
        expected = prod(self._shape) * self._dtype.itemsize
        if flat.nbytes != expected:
            raise ValueError(f"the chunk holds {flat.nbytes} bytes, not {expected}")
        return flat.reshape(-1).view(self._dtype).reshape(self._shape, order=self._order)


def blosc_sizes(data: Any) -> tuple[int, int]:
    """How long data are that blosc encoded: decoded, and as they are. Raises ValueError if there is no header."""
    header = bytes(memoryview(data)[:16])
    if len(header) < 16:
        raise ValueError(f"{len(header)} bytes are too few for blosc")
    return int.from_bytes(header[4:8], "little"), int.from_bytes(header[12:16], "little")


def decode_blosc(codec: Any, data: Any, out: npt.NDArray[np.uint8]) -> None:
    """Decode into all of `out`. Raises ValueError if the data are of another length, and what the codec raises."""
    decoded, stored = blosc_sizes(data)
    if stored != len(data):  # c-blosc believes its header, and would read on behind the data
        raise ValueError(f"the chunk has {len(data)} bytes, not {stored}")
    if decoded != len(out):
        raise ValueError(f"the chunk holds {decoded} bytes, not {len(out)}")
    codec.decode(data, out=out)


def bounded(codec: Any, data: Any, most: int, *, exactly: bool = False) -> Any:
    """What `codec` decodes, if that is at most (or `exactly`) `most` bytes: a few bytes can ask for any amount of memory.

    Raises ValueError if it is not, and what the codec raises. Codecs that do not compress cannot do much harm.
    """
    name = getattr(codec, "codec_id", None)
    if name == "blosc":
        held, stored = blosc_sizes(data)
        if stored != len(data):
            raise ValueError(f"the chunk has {len(data)} bytes, not {stored}")
    elif name == "lz4":
        held = int.from_bytes(bytes(memoryview(data)[:4]), "little")
    elif name == "zstd":
        held, is_exact = zstd_size(memoryview(data))
        if exactly and (held == most or not is_exact):
            return codec.decode(data, out=np.empty(most, np.uint8))
    elif name in ("gzip", "zlib", "bz2", "lzma"):
        return _unpacked(codec, data, most)
    else:
        return codec.decode(data)
    if held > most:
        raise ValueError(f"the chunk says that it holds {held} bytes, of at most {most}")
    return codec.decode(data)


def _unpacked(codec: Any, data: Any, most: int) -> bytes:
    """What the standard library's codecs decode. As with its one-step functions, several streams may follow each other."""
    import bz2
    import lzma
    import zlib

    def begin() -> Any:
        if codec.codec_id == "bz2":
            return bz2.BZ2Decompressor()
        if codec.codec_id == "lzma":
            return lzma.LZMADecompressor(format=codec.format, filters=codec.filters)
        return zlib.decompressobj(wbits=31 if codec.codec_id == "gzip" else 15)

    parts: list[bytes] = []
    rest = bytes(data)
    while rest or not parts:
        stream = begin()
        try:
            part = stream.decompress(rest, most + 1)
        except (OSError, lzma.LZMAError):
            if not parts:
                raise
            break  # something else behind a whole stream: bz2 and lzma ignore it
        parts.append(part)
        most -= len(part)
        if most < 0:
            raise ValueError("the chunk holds more bytes than it may")
        if not stream.eof:
            raise ValueError("the chunk is truncated")
        if codec.codec_id == "zlib":
            break
        rest = stream.unused_data.lstrip(b"\0") if codec.codec_id == "gzip" else stream.unused_data
    return b"".join(parts)


_ZSTD, _SKIPPABLE = 0xFD2FB528, 0x184D2A50
_ZSTD_BLOCK = 128 << 10


def zstd_size(data: memoryview) -> tuple[int, bool]:
    """How many bytes zstd frames hold at most, and whether it is just that many. Raises ValueError if there is no frame.

    A frame may keep silent about it; its blocks hold at most 128 KiB each.
    """
    total, is_exact, at = 0, True, 0

    def number(size: int) -> int:
        nonlocal at
        at += size
        if at > len(data):
            raise ValueError("the chunk is truncated")
        return int.from_bytes(data[at - size : at], "little")

    while at < len(data):
        magic = number(4)
        if magic & ~15 == _SKIPPABLE:
            at += number(4)
            continue
        if magic != _ZSTD:
            raise ValueError("the chunk is no zstd frame")
        flags = number(1)
        single, size_flag = flags >> 5 & 1, flags >> 6
        at += 1 - single  # the window
        number((0, 1, 2, 4)[flags & 3])  # the dictionary
        size_bytes = (single, 2, 4, 8)[size_flag]
        held = number(size_bytes) + (256 if size_bytes == 2 else 0)
        blocks, last = 0, False
        while not last:
            header = number(3)
            last, kind, size = bool(header & 1), header >> 1 & 3, header >> 3
            blocks += _ZSTD_BLOCK if kind == 2 else size
            at += 1 if kind == 1 else size
        at += 4 if flags & 4 else 0  # the checksum
        total += held if size_bytes else blocks
        is_exact = is_exact and size_bytes > 0
    return total, is_exact


def _numcodec(configuration: Any) -> Any:
    from numcodecs.registry import get_codec

    return get_codec(configuration) if isinstance(configuration, dict) else configuration


def _plain(value: Any) -> Any:
    """Enumerations and such in codec configurations, for JSON."""
    return getattr(value, "value", str(value))
