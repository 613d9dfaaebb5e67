"""A layer in a dict: the reference for what a layer must do, and a test double."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from copick.errors import NotFoundError
from copick.layers.layer import Layer

if TYPE_CHECKING:
    from collections.abc import Iterable

    from zarr.abc.store import Store
    from zarr.storage import MemoryStore

    from copick.kinds import Kind, Ref
    from copick.meta import Meta


class MemoryLayer(Layer):
    """Lives and dies with its process; a pickled one arrives with a copy of its documents and arrays."""

    def __init__(self, name: str, *, read_only: bool = False) -> None:
        self.name, self.read_only = name, read_only
        self.documents: dict[Ref, bytes] = {}
        self.arrays: dict[Ref, MemoryStore] = {}

    def __repr__(self) -> str:
        return f"<MemoryLayer {self.name!r}{' (read-only)' if self.read_only else ''}>"

    def list(self, parent: Ref | None, kind: Kind) -> list[Meta]:
        held = {*self.documents, *self.arrays}
        children = sorted((r for r in held if r.kind is kind and r.parent == parent), key=lambda r: r.values)
        return [kind.meta_of(child.values) for child in children]

    def exists(self, ref: Ref) -> bool:
        return ref in self.documents or ref in self.arrays

    def create(self, ref: Ref) -> None:
        self.check_writable(ref)
        for each in ref.walk():
            if each is ref or each.kind.payload == "folder":
                self._make(each)

    def _make(self, ref: Ref) -> None:
        _ = ref.path  # refuses names that no layer could hold
        if ref.kind.payload != "array":
            self.documents.setdefault(ref, b"meta" if ref.kind.payload == "folder" else b"")
        elif ref not in self.arrays:
            import zarr
            from zarr.storage import MemoryStore

            self.arrays[ref] = MemoryStore()
            zarr.create_group(self.arrays[ref], zarr_format=2)

    def delete(self, ref: Ref) -> None:
        self.check_writable(ref)
        if not self.exists(ref):
            raise self._missing(ref)
        self.documents = {r: v for r, v in self.documents.items() if not r.within(ref)}
        self.arrays = {r: v for r, v in self.arrays.items() if not r.within(ref)}

    def prune(self, folder: Ref) -> None:
        if self.exists(folder) and not any(
            ref.within(folder) for ref in (*self.documents, *self.arrays) if ref != folder
        ):
            self.delete(folder)

    def load(self, ref: Ref) -> bytes:
        try:
            return self.documents[ref]
        except KeyError:
            raise self._missing(ref) from None

    def tag(self, ref: Ref, path: str = "") -> str | None:
        if ref not in self.arrays:
            return _digest([self.load(ref)])
        stored = self.arrays[ref]._store_dict
        return _digest(part for name in sorted(stored) for part in (name.encode(), stored[name].to_bytes()))

    def save(self, ref: Ref, document: bytes) -> None:
        self.create(ref)
        self.documents[ref] = document

    def store(self, ref: Ref, *, write: bool = False) -> Store:
        from copick.stores import MappingStore

        if write:
            self.create(ref)
        if ref not in self.arrays:
            raise self._missing(ref)
        return MappingStore(self.arrays[ref].with_read_only(not write))

    def adopt(self, ref: Ref, source: Store, *, replace: bool = True) -> None:
        from zarr.storage import MemoryStore

        from copick.layers.transfer import copy_array

        self.check_writable(ref)
        copy = MemoryStore()
        copy_array(source, copy, f"{ref} to {self.name}")
        if replace or ref not in self.arrays:
            self.create(ref)
            self.arrays[ref] = copy

    def refresh(self, ref: Ref | None = None) -> None:
        pass

    def _missing(self, ref: Ref) -> NotFoundError:
        return NotFoundError(f"layer {self.name!r} has no {ref}")


def _digest(parts: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()
