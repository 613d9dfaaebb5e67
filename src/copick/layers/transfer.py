"""Copying arrays from layer to layer: stored bytes, key by key, nothing decoded."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from concurrent.futures import wait
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from copick.errors import LayerError, NotFoundError
from copick.kinds import CHILDREN
from copick.layers.places import ROOT_DOCUMENTS
from copick.util import stopping
from copick.util.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterable, Iterator

    from zarr.abc.store import Store

    from copick.kinds import Ref
    from copick.layers.layer import Layer

T = TypeVar("T")

AT_ONCE = 8
"""Keys under way at a time. A chunk may take 67 MB."""

NODES = {"zarr.json", ".zarray", ".zgroup"}
"""Documents that arrays and groups have: one of these at least."""

LOCK_TIMEOUT_S = 3600.0
"""How long another process may copy an array before this one copies it, too."""


def entities(
    layer: Layer, parent: Ref | None = None, *, folders: bool = True, among: Layer | None = None
) -> Iterator[Ref]:
    """Everything a layer holds under `parent`, parents first.

    Args:
        folders: Runs and voxel spacings, too.
        among: Also what lies beside entities that this layer holds and `layer` itself does not: features whose
            tomogram is elsewhere.
    """
    for kind in CHILDREN.get(parent.kind if parent else None, ()):
        view = among if among and any(below.beside for below in CHILDREN.get(kind, ())) else layer
        for meta in view.list(parent, kind):
            ref = kind.ref(meta, parent)
            if (folders or kind.payload != "folder") and (view is layer or layer.exists(ref)):
                yield ref
            yield from entities(layer, ref, folders=folders, among=among)


def copy_entity(ref: Ref, source: Layer, target: Layer) -> None:
    """Copy one entity, without what is below it, in one step. What `target` had of it is replaced.

    A run or a voxel spacing of which nothing is said is only made.
    """
    if ref.kind.payload == "array":
        target.adopt(ref, source.original(ref))
    elif ref.kind.payload == "document":
        target.save(ref, source.load(ref))
    else:
        target.create(ref)
        with contextlib.suppress(NotFoundError):
            if said(document := source.load(ref)):
                target.save(ref, document)


def same_entity(ref: Ref, one: Layer, other: Layer) -> bool:
    """Whether two layers hold the same of one entity; of a run or a voxel spacing, also if one of them says nothing of it."""
    if ref.kind.payload == "array":
        return _same_array(one.original(ref), other.original(ref))
    (here, _), (there, _) = one.load_tagged(ref), other.load_tagged(ref)
    return here == there or (ref.kind.payload == "folder" and not (said(here) and said(there)))


def _same_array(one: Store, other: Store) -> bool:
    from zarr.core.buffer import default_buffer_prototype

    from copick.stores import run

    async def compare() -> bool:
        keys = await listed(one)
        if keys != await listed(other):
            return False
        for key in sorted(keys):
            here, there = [await store.get(key, default_buffer_prototype()) for store in (one, other)]
            if here is None or there is None or here.to_bytes() != there.to_bytes():
                return False
        return True

    return run(compare())


def said(document: bytes) -> dict[str, Any]:
    """What the document of a run or a voxel spacing says; often it is but a word, so that there is a file."""
    try:
        fields = json.loads(document)
    except ValueError:
        return {}
    return fields if isinstance(fields, dict) else {}


def copy_array(source: Store, target: Store, what: str) -> None:
    """Copy every key of `source` into `target`, which then holds these and no others; `what` names it in the progress bar.

    After a failure or an interrupt (Ctrl-C, also of whom this thread works for) it returns only when nothing is being written
    any more.

    Raises:
        LayerError: The source cannot be listed or read, or holds no array; or something was removed while it was copied, from
            the one or the other.
    """
    import asyncio

    from zarr.core.sync import _get_loop

    stopped = False
    reads: set[asyncio.Future[Any]] = set()

    async def copy() -> None:
        wanted = await read(listed(source))
        if not any(key.rpartition("/")[2] in NODES for key in wanted):
            raise LayerError(
                f"copying {what} failed: {getattr(source, 'where', '') or source} holds no array and no group; check that "
                "it is there and that it can be listed"
            )
        roots = wanted & ROOT_DOCUMENTS
        with Progress(f"copying {what}", len(wanted)) as progress:
            await copy_all(sorted(wanted - roots), progress)
            await copy_all(sorted(roots), progress)
        there = await listed(target)
        for key in there - wanted:  # left by an earlier attempt
            await target.delete(key)
        if (lost := wanted - there) and not stopped:
            raise _changed(what, f"{len(lost)} of its {len(wanted)} files were removed at the target")

    async def copy_all(keys: Iterable[str], progress: Progress) -> None:
        rest = iter(keys)
        # Not a task group: that would abandon what its other members are still writing, on other threads.
        ended = await asyncio.gather(
            *(copy_each(rest, progress) for _ in range(AT_ONCE)), return_exceptions=True
        )
        for error in ended:
            if error is not None:
                raise error

    async def copy_each(keys: Iterator[str], progress: Progress) -> None:
        from zarr.core.buffer import default_buffer_prototype

        nonlocal stopped
        try:
            for key in keys:
                if stopped:
                    return
                data = await read(source.get(key, default_buffer_prototype()))
                if data is None:
                    raise _changed(what, f"its {key} was removed at the source")
                await target.set(key, data)
                progress.step()
        except BaseException:
            stopped = True
            raise

    async def read(answer: Coroutine[Any, Any, T]) -> T:
        task = asyncio.ensure_future(answer)
        reads.add(task)
        try:
            return await task
        finally:
            reads.discard(task)

    def stop() -> None:
        nonlocal stopped
        stopped = True
        for task in reads:
            task.cancel()

    stopping.check()
    loop = _get_loop()
    future = asyncio.run_coroutine_threadsafe(copy(), loop)
    try:
        stopping.result(future)
    except BaseException:
        loop.call_soon_threadsafe(stop)  # nobody waits for what is only read
        wait([future])
        raise


async def listed(store: Store) -> set[str]:
    """The keys of a store."""
    return {key async for key in store.list()}


def _changed(what: str, how: str) -> LayerError:
    return LayerError(f"copying {what} failed: {how} meanwhile; try again")


@contextlib.contextmanager
def one_at_a_time(place: str, patience_s: float = LOCK_TIMEOUT_S) -> Iterator[None]:
    """Inside is one thread of one process at a time, for the same `place`: as far as locks work on this machine.

    Whoever has waited for `patience_s` seconds goes on all the same.
    """
    from copick.cache.locks import RangeLocks

    number = int.from_bytes(hashlib.sha256(place.encode()).digest()[:7], "big")
    user = os.getuid() if hasattr(os, "getuid") else ""
    folder = Path(tempfile.gettempdir()) / f"copick-locks-{user}"
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            folder.mkdir(mode=0o700, exist_ok=True)
            stack.enter_context(RangeLocks(folder).hold(number, patience_s))
        yield
