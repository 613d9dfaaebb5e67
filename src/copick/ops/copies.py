"""Copies of entities: stored bytes of arrays and meshes, documents under another name. Nothing is converted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from copick.models import CopickMesh
from copick.models.volumes import StoredArray
from copick.ops.targets import filling

if TYPE_CHECKING:
    from collections.abc import Callable


def copy_entity(source: Any, new: Callable[[bool], Any], replace: bool) -> Any:
    """Make a copy of `source`, which may be in another project.

    Args:
        new: (exist_ok) → an entity of the same kind and type.
        replace: Whether that may exist.

    Raises:
        AlreadyExistsError: It does, and `replace` is False.
        LayerError: Something could not be read or written. No part of a copy is left.
    """
    with filling(new, replace) as target:
        if isinstance(source, StoredArray):
            target.layer.adopt(target.ref, source.layer.original(source.ref))
            target.refresh()
        elif isinstance(source, CopickMesh):
            target.layer.save(target.ref, source.layer.load(source.ref))
            target.mesh = None
        else:
            document = type(source.meta).from_json(source.layer.load(source.ref), str(source.ref))
            named = {name: getattr(target.meta, name) for name in target.kind.identity}
            copy = document.model_copy(update={**named, "run_name": target.run.name})
            target.layer.save(target.ref, copy.to_json())
            target.load()
    return target
