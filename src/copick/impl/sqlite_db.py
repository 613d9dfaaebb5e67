"""The index database of a project, as a root: everything that the layers hold, to be looked at and not changed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

from copick.config import CopickConfig, CopickConfigSQLiteDB
from copick.errors import ReadOnlyError
from copick.index.stack import IndexedStack
from copick.layers.stack import LayerStack
from copick.models import (
    CopickFeatures,
    CopickFilaments,
    CopickMesh,
    CopickObject,
    CopickPicks,
    CopickRoot,
    CopickRun,
    CopickSegmentation,
    CopickTomogram,
    CopickVoxelSpacing,
)

if TYPE_CHECKING:
    from copick.impl.manager import LayerManager
    from copick.layers.layer import Layer


class _Fixed(IndexedStack):
    """An indexed stack that changes nothing."""

    def delete(self, ref: Any) -> NoReturn:
        raise ReadOnlyError(f"cannot delete {ref} through the index; delete it in the project itself")

    def propagate(self, ref: Any, names: Any) -> NoReturn:
        raise ReadOnlyError(f"cannot copy {ref} through the index; copy it in the project itself")


class CopickRootSQLiteDB(CopickRoot):
    """What the index says of a project. It shows nothing before it is connected to the layers (`set_layer_manager`)."""

    config_class: ClassVar[type[CopickConfig]] = CopickConfigSQLiteDB
    config: CopickConfigSQLiteDB

    def __init__(self, config: CopickConfigSQLiteDB, layer: Layer | None = None) -> None:
        super().__init__(config, LayerStack([]) if layer is None else layer)

    def set_layer_manager(self, manager: LayerManager) -> None:
        """Connect it to the layers whose index it is."""
        own = self.config.model_copy(update={"auto_index": False})  # the project itself looks for changes
        self.layer = _Fixed(manager.stack.layers, index=own)
        self.config = self.config.model_copy(update={"pickable_objects": manager.config.pickable_objects})
        self._remember_nothing()
        self._objects = None


CopickRunSQLiteDB = CopickRun
CopickVoxelSpacingSQLiteDB = CopickVoxelSpacing
CopickTomogramSQLiteDB = CopickTomogram
CopickFeaturesSQLiteDB = CopickFeatures
CopickPicksSQLiteDB = CopickPicks
CopickMeshSQLiteDB = CopickMesh
CopickFilamentsSQLiteDB = CopickFilaments
CopickSegmentationSQLiteDB = CopickSegmentation
CopickObjectSQLiteDB = CopickObject

__all__ = [
    "CopickConfigSQLiteDB",
    "CopickFeaturesSQLiteDB",
    "CopickFilamentsSQLiteDB",
    "CopickMeshSQLiteDB",
    "CopickObjectSQLiteDB",
    "CopickPicksSQLiteDB",
    "CopickRootSQLiteDB",
    "CopickRunSQLiteDB",
    "CopickSegmentationSQLiteDB",
    "CopickTomogramSQLiteDB",
    "CopickVoxelSpacingSQLiteDB",
]
