"""Copying arrays from layer to layer: stored bytes, key by key, nothing decoded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from copick.kinds import CHILDREN
from copick.util.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Iterator

    from zarr.abc.store import Store

    from copick.kinds import Ref
    from copick.layers.layer import Layer

AT_ONCE = 8
"""Keys under way at a time. A chunk may take 67 MB."""

_ROOT_DOCUMENTS = {"zarr.json", ".zgroup", ".zattrs", ".zmetadata"}
"""What makes a folder an array group: copied last, so that a part of a copy does not look whole."""


def entities(layer: Layer, parent: Ref | None = None, *, folders: bool = True) -> Iterator[Ref]:
    """Everything a layer holds under `parent`, parents first. `folders`: runs and voxel spacings, too."""
    for kind in CHILDREN.get(parent.kind if parent else None, ()):
        for meta in layer.list(parent, kind):
            ref = kind.ref(meta, parent)
            if folders or kind.payload != "folder":
                yield ref
            yield from entities(layer, ref, folders=folders)


def copy_entity(ref: Ref, source: Layer, target: Layer) -> None:
    """Copy one entity, without what is below it, in one step. What `target` had of it is replaced."""
    if ref.kind.payload == "array":
        target.adopt(ref, source.original(ref))
    else:
        if ref.kind.payload == "folder":
            target.create(ref)
        target.save(ref, source.load(ref))


def copy_array(source: Store, target: Store, what: str) -> None:
    """Copy every key of `source` into `target`; `what` names it in the progress bar.

    After an interrupt (Ctrl-C) it returns only when nothing is being written any more.
    """
    import asyncio

    from zarr.core.sync import _get_loop

    stopped = False

    async def copy() -> None:
        keys = sorted([key async for key in source.list()], key=lambda key: (key in _ROOT_DOCUMENTS, key))
        chunks = iter([key for key in keys if key not in _ROOT_DOCUMENTS])
        with Progress(f"copying {what}", len(keys)) as progress:
            async with asyncio.TaskGroup() as group:
                for _ in range(AT_ONCE):
                    group.create_task(copy_each(chunks, progress))
            await copy_each(iter([key for key in keys if key in _ROOT_DOCUMENTS]), progress)

    async def copy_each(keys: Iterator[str], progress: Progress) -> None:
        from zarr.core.buffer import default_buffer_prototype

        for key in keys:
            if stopped:
                return
            data = await source.get(key, default_buffer_prototype())
            if data is not None:
                await target.set(key, data)
            progress.step()

    future = asyncio.run_coroutine_threadsafe(copy(), _get_loop())
    try:
        future.result()
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None
    except BaseException:
        stopped = True
        future.exception()
        raise
