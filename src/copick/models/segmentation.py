"""Masks."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np

from copick.errors import ConfigError
from copick.kinds import INSTANCE_SEGMENTATION, PANOPTIC_SEGMENTATION, SEGMENTATION, Kind
from copick.models.annotations import Annotation
from copick.models.volumes import ALL, Volume, about
from copick.util.segmentation import (
    PANOPTIC_CHANNELS,
    check_panoptic_values,
    checked_label_cast,
    label_dtype,
    panoptic_channel_index,
    segmentation_type,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy.typing as npt

    from copick.meta import CopickSegmentationMeta
    from copick.models.root import CopickRoot
    from copick.models.run import CopickRun

Channel = str | int | None
"""A channel of a panoptic segmentation: "label" or 0, "instance" or 1; None = both."""


def segmentation_kind(is_instance: bool = False, is_panoptic: bool = False) -> Kind:
    """Where a segmentation with these flags lies."""
    return PANOPTIC_SEGMENTATION if is_panoptic else INSTANCE_SEGMENTATION if is_instance else SEGMENTATION


class CopickSegmentation(Annotation, Volume):
    """A mask.

    Its values are 0/1 for one object (binary), the objects' labels (multilabel), ids of the instances of one object
    (instance), or two channels, label and instance id (panoptic). Arrays are z, y, x; panoptic ones c, z, y, x.
    """

    kinds = (SEGMENTATION, INSTANCE_SEGMENTATION, PANOPTIC_SEGMENTATION)
    factory = "_segmentation_factory"
    meta: CopickSegmentationMeta

    def __init__(self, run: CopickRun, meta: CopickSegmentationMeta) -> None:
        super().__init__(run, meta)

    @classmethod
    def kind_of(cls, meta: CopickSegmentationMeta) -> Kind:
        """The row of the table that a segmentation with this metadata belongs to."""
        return segmentation_kind(meta.is_instance, meta.is_panoptic)

    @property
    def name(self) -> str:
        """Name of the object; any name for multilabel and panoptic segmentations."""
        return self.meta.name

    @property
    def is_multilabel(self) -> bool:
        """Whether its values are the objects' labels."""
        return self.meta.is_multilabel

    @property
    def is_instance(self) -> bool:
        """Whether its values are ids of instances of one object."""
        return self.meta.is_instance

    @property
    def is_panoptic(self) -> bool:
        """Whether it has two channels: labels and instance ids."""
        return self.meta.is_panoptic

    @property
    def voxel_size(self) -> float:
        """In ångström."""
        return self.meta.voxel_size

    @property
    def segmentation_type(self) -> str:
        """ "binary", "multilabel", "instance" or "panoptic"."""
        return segmentation_type(self.is_multilabel, self.is_instance, self.is_panoptic)

    @property
    def directory(self) -> str:
        """Where in a run's folder it lies."""
        return self.kind.folder

    @property
    def color(self) -> Sequence[int]:
        """Of the object; grey and transparent where there are several objects, and for unknown ones."""
        several = self.is_multilabel or self.is_panoptic
        found = None if several else self._root.get_object(self.name)
        return found.color if found else [128, 128, 128, 0]

    @property
    def source_segmentations(self) -> dict[str, CopickSegmentation]:
        """The segmentation as each layer that holds it shows it; the one that serves it first."""
        return self.by_layer()

    @property
    def filename(self) -> str:
        """What its folder is called."""
        return self.ref.file_name

    @property
    def _root(self) -> CopickRoot:
        return self.run.root

    def numpy(
        self,
        zarr_group: str | None = "0",
        x: slice = ALL,
        y: slice = ALL,
        z: slice = ALL,
        channel: Channel = None,
        *,
        out: npt.NDArray[Any] | None = None,
    ) -> npt.NDArray[Any]:
        """The voxels of a level, or of a box of it: z, y, x, or c, z, y, x for a panoptic one.

        Args:
            channel: One channel of a panoptic segmentation, as z, y, x.

        Raises:
            ValueError: There is no such channel.
        """
        if not self.is_panoptic:
            self._refuse_channel(channel)
            return self._read(zarr_group, (z, y, x), out)
        at, place = self._channel(channel), out
        if channel is not None and out is not None:
            place = out[np.newaxis]
        data = self._read(zarr_group, (at, z, y, x), place)
        return data if channel is None else data[0]

    def from_numpy(
        self,
        data: npt.ArrayLike,
        levels: int = 1,
        dtype: npt.DTypeLike | None = None,
        *,
        zarr_format: int | None = None,
    ) -> None:
        """Replace the mask by `data`: z, y, x, or (2, z, y, x) for a panoptic one. Coarser levels take single voxels.

        Args:
            dtype: None = the smallest unsigned type that holds the labels; uint16 or more for instance ids.
            zarr_format: 2 = OME-NGFF 0.4, 3 = 0.5; None = as the project's config says.

        Raises:
            ValueError: A value is negative or fractional, does not fit `dtype`, is the label of no object
                (panoptic), or is the id of an instance of the background (panoptic).
        """
        from copick.ome import write_volume

        values = np.asarray(data)
        with about(self._ref):
            if self.is_panoptic:
                if values.ndim != 4 or len(values) != len(PANOPTIC_CHANNELS):
                    raise ValueError(
                        f"a panoptic segmentation is an array (2, z, y, x) of labels and instance ids, not {values.shape}"
                    )
                self._check(values[0], values[1])
            if dtype is not None and np.dtype(dtype).kind not in "biu":
                raise ValueError(f"labels are stored as whole numbers, not as {np.dtype(dtype)}")
            floor = np.uint16 if self.is_instance or self.is_panoptic else np.uint8
            needed = label_dtype(values, floor)
            cast = checked_label_cast(values, needed if dtype is None else dtype)
        self._replace(
            write_volume,
            cast,
            self.voxel_size,
            levels=levels,
            labels=True,
            channels=PANOPTIC_CHANNELS if self.is_panoptic else None,
            zarr_format=zarr_format,
        )

    def set_region(
        self,
        data: npt.ArrayLike,
        zarr_group: str | None = "0",
        x: slice = ALL,
        y: slice = ALL,
        z: slice = ALL,
        channel: Channel = None,
    ) -> None:
        """Overwrite a box of one level, or of one channel of it. Coarser levels are not computed again.

        A mask that a read-only layer serves is first copied, whole, to the layer that is written.

        Raises:
            ValueError: The shape does not match, or values are not allowed (see `from_numpy`) or do not fit.
        """
        if not self.is_panoptic:
            self._refuse_channel(channel)
            self._write_region(data, zarr_group, (z, y, x))
            return
        values, at = np.asarray(data), self._channel(channel)
        if channel is not None:
            values = values[np.newaxis]
        elif values.ndim != 4 or len(values) != len(PANOPTIC_CHANNELS):
            raise ValueError(f"{self._ref}: a panoptic region is an array (2, z, y, x), not {values.shape}")
        labels = values[0] if at in (ALL, slice(0, 1)) else self.numpy(zarr_group, x, y, z, channel="label")
        ids = values[-1] if at in (ALL, slice(1, 2)) else self.numpy(zarr_group, x, y, z, channel="instance")
        if labels.shape != ids.shape:
            raise ValueError(f"{self._ref}: the region has the shape {ids.shape}, the data {labels.shape}")
        with about(self._ref):
            self._check(labels, ids)
        self._write_region(values, zarr_group, (at, z, y, x))

    def _box(self, x: slice, y: slice, z: slice) -> tuple[slice, ...]:
        return (ALL, z, y, x) if self.is_panoptic else (z, y, x)

    # Instances

    def instance_ids(
        self, zarr_group: str | None = "0", object_name: str | None = None
    ) -> npt.NDArray[np.int64]:
        """The ids there are, sorted, without 0.

        Args:
            object_name: Of a panoptic segmentation: whose instances.

        Raises:
            ValueError: It has no instances, or a panoptic one was asked without an object.
        """
        if self.is_panoptic:
            if object_name is None:
                raise ValueError(f"{self._ref}: instance ids are per object; pass object_name=")
            label = self._label_of(object_name)
            found = [
                np.unique(ids[labels == label]).astype(np.int64) for labels, ids in self._blocks(zarr_group)
            ]
        elif self.is_instance:
            found = [np.unique(ids).astype(np.int64) for (ids,) in self._blocks(zarr_group)]
        else:
            raise ValueError(
                f"{self._ref} is {self.segmentation_type}: only instance and panoptic ones have ids"
            )
        together = np.unique(np.concatenate([np.zeros(1, np.int64), *found]))
        inside: npt.NDArray[np.int64] = together[together != 0]
        return inside

    def segments(self, zarr_group: str | None = "0") -> list[tuple[str, int]]:
        """What a panoptic segmentation holds: (object name, instance id), sorted; id 0 = a part without one."""
        self._need_channels()
        pairs: set[tuple[int, int]] = set()
        for labels, ids in self._blocks(zarr_group):
            inside = labels != 0
            both = np.stack([labels[inside], ids[inside]], axis=1)
            pairs.update((int(label), int(i)) for label, i in np.unique(both, axis=0))
        names = {item.label: item.name for item in reversed(self._root.pickable_objects)}  # the first counts
        return sorted((names.get(label, str(label)), i) for label, i in pairs)

    def label_volume(self, zarr_group: str | None = "0") -> npt.NDArray[Any]:
        """The labels of a panoptic segmentation: z, y, x."""
        self._need_channels()
        return self.numpy(zarr_group, channel="label")

    def instance_volume(self, object_name: str, zarr_group: str | None = "0") -> npt.NDArray[Any]:
        """The instance ids of one object in a panoptic segmentation, 0 elsewhere: z, y, x."""
        self._need_channels()
        label = self._label_of(object_name)
        labels, ids = self.numpy(zarr_group)
        return np.where(labels == label, ids, np.zeros((), ids.dtype))

    def _blocks(self, zarr_group: str | None) -> Iterator[npt.NDArray[Any]]:
        """The whole level in pieces of its chunks along z, y and x, channels first (1 where there are none)."""
        array = self.array(zarr_group)
        space, steps = array.shape[-3:], array.chunks[-3:]
        for corner in itertools.product(*(range(0, n, step) for n, step in zip(space, steps, strict=True))):
            box = [slice(at, at + step) for at, step in zip(corner, steps, strict=True)]
            block = self._read(zarr_group, [ALL, *box] if self.is_panoptic else box, None)
            yield block if self.is_panoptic else block[np.newaxis]

    def _check(self, labels: npt.NDArray[Any], instances: npt.NDArray[Any]) -> None:
        known = [item.label for item in self._root.pickable_objects if item.label is not None]
        check_panoptic_values(labels, instances, known)

    def _label_of(self, object_name: str) -> int:
        found = self._root.get_object(object_name)
        if found is None or found.label is None:
            raise ConfigError(f"{self._ref}: the project has no object {object_name!r} with a label")
        return found.label

    def _need_channels(self) -> None:
        if not self.is_panoptic:
            raise ValueError(f"{self._ref} is {self.segmentation_type}: only panoptic ones have channels")

    def _refuse_channel(self, channel: Channel) -> None:
        if channel is not None:
            self._need_channels()

    @staticmethod
    def _channel(channel: Channel) -> slice:
        if channel is None:
            return ALL
        at = panoptic_channel_index(channel)
        return slice(at, at + 1)
