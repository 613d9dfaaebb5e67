"""Where things lie, by the names that copick 1.x has for it.

The overlay is the layer that writes go to; static data lie in the highest layer that is only read. A project that has no such
layer calls the overlay static, too. What does not lie in files (the portal, memory) has no path: the attribute is missing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from copick.kinds import Ref
    from copick.layers.layer import Layer


class InFiles:
    """The paths of the root or of an entity. Nothing need be there."""

    layer: Layer

    @property
    def ref(self) -> Ref | None:
        """The address, the same in every layer; None for the root."""
        return None

    @property
    def fs(self) -> Any:
        """The fsspec filesystem of the layer that serves it."""
        return self.layer.files(self.ref)[0]

    @property
    def path(self) -> str:
        """Where it lies in `fs`."""
        return self.layer.files(self.ref)[1]

    @property
    def directory(self) -> str:
        """The directory that it lies in, with a slash at the end."""
        return self.path.rpartition("/")[0] + "/"

    @property
    def fs_overlay(self) -> Any:
        """The fsspec filesystem of the overlay."""
        return self.layer.overlay.files(self.ref)[0]

    @property
    def overlay_path(self) -> str:
        """Where it lies in the overlay, or would."""
        return self.layer.overlay.files(self.ref)[1]

    @property
    def overlay_stem(self) -> str:
        """`overlay_path` without the suffix."""
        return self.overlay_path.removesuffix(".zarr")

    @property
    def fs_static(self) -> Any:
        """The fsspec filesystem of the static data."""
        return self.layer.static.files(self.ref)[0]

    @property
    def static_path(self) -> str:
        """Where it lies among the static data, or would."""
        return self.layer.static.files(self.ref)[1]

    @property
    def static_stem(self) -> str:
        """`static_path` without the suffix."""
        return self.static_path.removesuffix(".zarr")

    @property
    def static_is_overlay(self) -> bool:
        """Whether there are no static data beside the overlay."""
        return self.layer.static is self.layer.overlay
