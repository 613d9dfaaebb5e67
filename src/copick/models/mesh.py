"""Surfaces."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np

from copick.errors import ConfigError, FormatError
from copick.kinds import MESH
from copick.models.annotations import ObjectAnnotation

if TYPE_CHECKING:
    import trimesh

    from copick.meta import CopickMeshMeta
    from copick.models.run import CopickRun


class CopickMesh(ObjectAnnotation):
    """Surfaces of one object in one run, kept as binary glTF. Vertices are x, y, z in ångström."""

    kinds = (MESH,)
    factory = "_mesh_factory"
    meta: CopickMeshMeta

    _mesh: trimesh.Geometry | None = None

    def __init__(self, run: CopickRun, meta: CopickMeshMeta, mesh: trimesh.Geometry | None = None) -> None:
        super().__init__(run, meta)
        self._mesh = mesh

    @property
    def mesh(self) -> Any:
        """A `trimesh.Scene`, or what was set. Loaded on first access; changes are kept in memory until `store()`."""
        return self.load() if self._mesh is None else self._mesh

    @mesh.setter
    def mesh(self, mesh: trimesh.Geometry | None) -> None:
        self._mesh = mesh

    def load(self) -> Any:
        """Read the surfaces again, dropping changes in memory.

        Raises:
            GoneError: No layer holds them. (A KeyError and a FileNotFoundError.)
            FormatError: They are no binary glTF.
        """
        document = self._document()
        try:
            scene = _trimesh().load(io.BytesIO(document), file_type="glb")
        except Exception as error:  # its reader raises what it likes on damaged bytes
            cause = f"{type(error).__name__}: {error}"
            raise FormatError(
                f"{self._where()} is not binary glTF ({cause}); the file is truncated or damaged"
            ) from error
        self._mesh = scene
        return scene

    def store(self) -> None:
        """Write the surfaces, in one step.

        Raises:
            TypeError: What was set as `mesh` is nothing that can be written.
            FormatError: A vertex is not finite.
            ReadOnlyError: No layer can be written.
        """
        self._write()
        self._changed()

    def _write(self) -> None:
        mesh = self.mesh
        if not callable(getattr(mesh, "export", None)):
            raise TypeError(f"{self.ref}: a mesh is a trimesh geometry, not {mesh!r:.80}")
        scene = mesh if isinstance(mesh, _trimesh().Scene) else mesh.scene()
        if not scene.geometry:  # its writer refuses a scene of nothing, but not one of an empty surface
            scene = _trimesh().Scene(_trimesh().Trimesh())
        for name, part in scene.geometry.items():
            if not np.isfinite(getattr(part, "vertices", 0.0)).all():
                raise FormatError(
                    f"{self.ref}: vertices of {name!r} are not finite; readers would find nothing there"
                )
        self.layer.save(self.ref, scene.export(file_type="glb"))

    def _create(self) -> None:
        if self._mesh is None:
            self._mesh = _trimesh().Scene()
        self._write()

    def refresh(self) -> None:
        """Read the surfaces again, dropping changes in memory."""
        super().refresh()
        self.load()

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_mesh": None}


def _trimesh() -> Any:
    try:
        import trimesh
    except ImportError as error:
        raise ConfigError('meshes need trimesh; try: pip install "copick[mesh]"') from error
    return trimesh
