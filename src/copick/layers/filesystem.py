"""A project in a directory, here or on any file system that fsspec reaches."""

from __future__ import annotations

import contextlib
import logging
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from copick.errors import ConfigError, CopickError, FormatError, LayerError, NotFoundError
from copick.kinds import CHILDREN, Kind, Ref, check_name, prefix_of
from copick.layers.ahead import Entry
from copick.layers.layer import Layer
from copick.layers.places import LocalPlace, Place, RemotePlace, hidden
from copick.layers.protocols import filesystem_class
from copick.util.urls import secrets_in, shown_url, without

if TYPE_CHECKING:
    import builtins
    from collections.abc import Callable, Iterator

    from zarr.abc.store import Store

    from copick.config import CopickConfigFS
    from copick.meta import Meta

logger = logging.getLogger(__name__)

T = TypeVar("T")

GROUPS = {
    2: (".zgroup", b'{\n    "zarr_format": 2\n}'),
    3: ("zarr.json", b'{"zarr_format": 3, "node_type": "group"}'),
}
"""What an empty zarr group is on disk, by zarr format."""
V3 = "zarr.json"
_ARRAY_TAGGED = (".zarray", V3)
_GROUP_TAGGED = (".zattrs", V3, ".zgroup")
"""The metadata documents that are looked for to tell versions apart."""
META = ".meta"
"""The document of a run or voxel spacing."""
_PARTS = {
    "folder": (META,),
    "document": (),
    "array": (".zattrs", "zarr.json", "0/.zarray", "0/zarr.json"),
}
"""What tells of a change in an entry, by payload: these files in it; of a document, itself."""
PARTIAL = ".copick-partial-"
"""Before the name of an array in a file name: that array is not whole yet. For places that cannot rename."""


class FilesystemLayer(Layer):
    """The copick directory layout under one root.

    Args:
        lasting: A local root that was there is missed when it is gone. False: it may go, and is then empty.
    """

    def __init__(self, config: CopickConfigFS, name: str, *, lasting: bool = True) -> None:
        self.name, self.read_only, self.config = name, config.read_only, config
        self.is_local = config.protocol == "file"
        self.place: Place = (
            LocalPlace(config.root, lasting=lasting)
            if self.is_local
            else RemotePlace(config.root, config.protocol, config.fs_args, config.timeout_s)
        )
        self._shown = self.place.root if self.is_local else shown_url(config.root).rstrip("/")
        self._has_root = False
        # Directories whose names are not what we would write ("VoxelSpacing10").
        self._odd_names: dict[Ref, str] = {}
        self._seen: set[Ref] = set()  # what a remote place was seen to hold
        self._is_v3 = False  # the zarr format of the volume that was last asked for its tag

    def __repr__(self) -> str:
        return f"<FilesystemLayer {self.name!r} {self._shown}{' (read-only)' if self.read_only else ''}>"

    @property
    def location(self) -> str:
        endpoint = self.config.fs_args.get("endpoint_url") or self.config.fs_args.get("host") or ""
        return f"{shown_url(str(endpoint))} {self._shown.rstrip('/')}".strip()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_seen": set()}

    def check(self) -> None:
        """Refuse a config that cannot work, as far as that is known without a request. Raises ConfigError."""
        if not self.is_local:
            try:
                filesystem_class(self.config.protocol)
            except ConfigError as error:
                raise ConfigError(
                    f"layer {self.name!r}: root {self._shown!r} cannot be used: {error}"
                ) from error
            return
        problem = self.place.missing_root(self.read_only)
        if problem and self.config.must_exist:
            raise ConfigError(f"layer {self.name!r}: root {self.place.root!r} cannot be used: {problem}")
        if not problem and not self.place.had_root:
            logger.warning(
                "layer %r: root %s is not there; the first write will make it, unless a disk has to be mounted first",
                self.name,
                self._shown,
            )

    def ensure(self, *, create: bool = False) -> bool:
        if create:
            self.check_writable("its root")
            with self._asking(""):
                self.place.make_folder("")
        try:
            with self._asking(""):
                # Where there are no directories (object stores), a new project is one that nothing was put into.
                return self.place.missing_root(self.read_only or self.place.can_rename) is None
        except LayerError:
            return False

    def path(self, ref: Ref) -> str:
        """Where `ref` lies, relative to the root."""
        name = self._odd_names.get(ref) or ref.file_name
        folder = self._folder(ref.kind, ref.parent)
        return f"{folder}/{name}" if folder else name

    def _folder(self, kind: Kind, parent: Ref | None) -> str:
        """Where the files of a kind under `parent` lie, relative to the root."""
        above = parent.parent if kind.beside and parent else parent
        return "/".join([*([self.path(above)] if above else []), *([kind.folder] if kind.folder else [])])

    def _document_path(self, ref: Ref) -> str:
        path = self.path(ref)
        return f"{path}/{META}" if ref.kind.payload == "folder" else path

    def list(self, parent: Ref | None, kind: Kind) -> list[Meta]:
        folder, prefix = self._folder(kind, parent), prefix_of(kind, parent)
        with self._asking(folder):
            try:
                entries = self.place.entries(folder)
            except (FileNotFoundError, NotADirectoryError):
                self._check_root()
                return []
        partial_copies = {name.removeprefix(PARTIAL) for name, _ in entries if name.startswith(PARTIAL)}
        found: dict[Ref, Meta] = {}
        for name, is_folder in sorted(entries):
            if not name.startswith(prefix) or kind.hides(name) or name in partial_copies:
                continue
            if (meta := self._parsed(kind, name, prefix, is_folder, folder)) is not None:
                self._note(kind.ref(meta, parent), meta, name, folder, found)
        if not self.is_local:
            self._seen.update(found)
        return [found[ref] for ref in sorted(found, key=lambda ref: ref.values)]

    def odd_name(self, ref: Ref) -> str | None:
        return self._odd_names.get(ref)

    def call(self, ref: Ref, name: str) -> None:
        self._odd_names[ref] = name

    def stamps(self, parent: Ref | None, kind: Kind) -> dict[str, str | None] | None:
        folder, prefix = self._folder(kind, parent), prefix_of(kind, parent)
        with self._asking(folder):
            try:
                found = self.place.stamps(folder, _PARTS[kind.payload])
            except (FileNotFoundError, NotADirectoryError):
                self._check_root()
                return {}
        if found is None:
            return None
        return {
            name: stamp
            for name, stamp in found.items()
            if name.startswith(prefix) and (name.startswith(PARTIAL) or not kind.hides(name))
        }

    def _parsed(self, kind: Kind, name: str, prefix: str, is_folder: bool, folder: str) -> Meta | None:
        """What an entry stands for; None, and a line in the log, if it is none of this kind."""
        if is_folder == (kind.payload == "document"):
            what = "a directory, not a file" if is_folder else "a file, not a directory"
            level = logging.WARNING if kind.ignores else logging.INFO  # a run may have any name
            logger.log(level, "skipped %r: it is %s (%s)", self._full(folder, name), what, kind.label)
            return None
        try:
            check_name(name, "file name")
        except FormatError as error:
            logger.warning("skipped a file in layer %r, %s: %s", self.name, folder, error)
            return None
        return kind.parse(name.removeprefix(prefix), self._full(folder, name))

    def _full(self, folder: str, name: str) -> str:
        return "/".join(filter(None, (self._shown, folder, name)))

    def _note(self, ref: Ref, meta: Meta, name: str, folder: str, found: dict[Ref, Meta]) -> None:
        """Add to a listing. Of two names for one entity ("VoxelSpacing10", "VoxelSpacing10.000") ours wins."""
        try:
            ours = ref.file_name
        except FormatError:  # readable although we would not write it
            ours = None
        if ref in found:
            ignored = self._odd_names.get(ref) if name == ours else name
            logger.warning("layer %r: %s holds %s twice; %r is ignored", self.name, folder, ref, ignored)
            if name != ours:
                return
        if name == ours:
            self._odd_names.pop(ref, None)
        else:
            self._odd_names[ref] = name
        found[ref] = meta

    def _check_root(self) -> None:
        """Called when something is missing, or is about to be made: it may be that all is. A remote place is asked once."""
        if self.is_local or not self._has_root:  # a mount may vanish
            if problem := self.place.missing_root(self.read_only):
                self._without_root(problem)
            self._has_root = True

    def nowhere(self) -> str | None:
        return self.place.missing_root(read_only=True) if self.is_local else None

    def _without_root(self, problem: str) -> None:
        text = f"layer {self.name!r}: root {self._shown!r} cannot be read: {problem}"
        if self.place.had_root:
            raise LayerError(f"{text}; it was there before: is its disk mounted?")
        if self.config.must_exist:
            raise LayerError(f"{text}; check the address")
        if not self._has_root:
            logger.warning("%s; it is taken for empty", text)

    def check_writable(self, what: object) -> None:
        super().check_writable(what)
        if self.is_local:
            self._check_root()

    def exists(self, ref: Ref) -> bool:
        path = self.path(ref)
        with self._asking(path):
            found = self._is_there(ref, path)
            if not found:
                self._check_root()
            return found

    def _is_there(self, ref: Ref, path: str) -> bool:
        folder, _, name = path.rpartition("/")
        with contextlib.suppress(FileNotFoundError):
            if (entries := self.place.known(folder)) is not None:
                found = Entry(name, ref.kind.payload != "document") in entries
                return found and Entry(f"{PARTIAL}{name}", False) not in entries
        if ref.kind.payload == "document":
            return self.place.has_file(path)
        if ref.kind.payload == "folder" or self.is_local:
            return self.place.has_folder(path)
        # The group's own file answers with one request as a rule; a directory may take several.
        if self.place.has_file(f"{path}/.zgroup"):
            return True
        return self.place.has_folder(path) and not self._has_part(path)

    def create(self, ref: Ref) -> None:
        self.check_writable(ref)
        for each in ref.walk():
            # What is above is made where it is a folder; features do not bring an empty tomogram with them.
            if (each is not ref and each.kind.payload != "folder") or self.exists(each):
                continue
            path = self.path(each)
            with self._asking(path):
                if each.kind.payload == "document":
                    self.place.write(path, b"")
                else:
                    if each.kind.payload == "array" and self._has_part(path):
                        self._remove_part(path)
                    self.place.make_folder(path)
                    # A file inside makes directories exist on object stores, too.
                    is_array = each.kind.payload == "array"
                    name, content = GROUPS[self.config.zarr_format] if is_array else (META, b"meta")
                    self.place.write(f"{path}/{name}", content)

    def delete(self, ref: Ref) -> None:
        self.check_writable(ref)
        self._seen.clear()
        if not self.exists(ref):
            raise self._missing(ref)
        beside = [kind for kind in CHILDREN.get(ref.kind, ()) if kind.beside]
        for path in [
            *(self.path(kind.ref(meta, ref)) for kind in beside for meta in self.list(ref, kind)),
            self.path(ref),
        ]:
            whole = self._marked(path) if ref.kind.payload == "array" else contextlib.nullcontext()
            with whole, self._asking(path):
                self.place.remove(path)

    def prune(self, folder: Ref) -> None:
        self.check_writable(folder)
        path = self.path(folder)
        with self._asking(path):
            self.place.prune(path, META)

    def load(self, ref: Ref) -> bytes:
        return self._of_document(ref, self.place.read)

    def load_tagged(self, ref: Ref) -> tuple[bytes, str | None]:
        return self._of_document(ref, self.place.read_tagged)

    def _of_document(self, ref: Ref, ask: Callable[[str], T]) -> T:
        path = self._document_path(ref)
        with self._asking(path):
            try:
                return ask(path)
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
                self._check_root()
                raise self._missing(ref) from None

    def tag(self, ref: Ref, path: str = "") -> str | None:
        if ref.kind.payload != "array":
            return self._of_document(ref, self.place.tag)
        folder = "/".join(filter(None, (self.path(ref), path)))
        names = _ARRAY_TAGGED if path else _GROUP_TAGGED
        # What one volume of a layer is, the next one probably is, too: that saves a request.
        for name in sorted(names, key=lambda name: (name == V3) != self._is_v3):
            file = f"{folder}/{name}"
            with self._asking(file), contextlib.suppress(FileNotFoundError, NotADirectoryError):
                tag = self.place.tag(file)
                self._is_v3 = name == V3
                # A directory's own tag also tells of chunks that were put into it.
                if tag is not None and self.is_local:
                    tag = f"{tag} {self.place.tag(folder)}"
                return tag and f"{name} {tag}"
        self._check_root()
        raise self._missing(ref)

    def save(self, ref: Ref, document: bytes) -> None:
        self.check_writable(ref)
        path = self._document_path(ref)
        with self._asking(path):
            self.place.write(path, document)

    def store(self, ref: Ref, *, write: bool = False) -> Store:
        if write:
            self.check_writable(ref)
        elif ref not in self._seen and not self.exists(ref):
            raise self._missing(ref)
        path = self.path(ref)
        return self._store(path, path, read_only=not write)

    def part(self, ref: Ref, key: str) -> bytes | None:
        path = f"{self.path(ref)}/{key}"
        with self._asking(path):
            try:
                return self.place.read(path)
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
                self._check_root()
                return None

    def _store(self, path: str, shown: str, *, read_only: bool) -> Store:
        from copick.stores import VolumeStore

        with self._asking(shown):
            store = self.place.store(path, read_only=read_only)
        return VolumeStore(
            store,
            f"layer {self.name!r}: {self._shown}/{shown}",
            partial(self._failure, shown),
            partial(self._keys, path),
            self._check_root if self.is_local else None,
        )

    def _keys(self, path: str, folder: str) -> Iterator[builtins.list[str]]:
        """The keys of the store at `path` that lie below a folder of it."""
        try:
            for found in self.place.files(f"{path}/{folder}".rstrip("/")):
                yield [f"{folder}/{key}" if folder else key for key in found]
        except (FileNotFoundError, NotADirectoryError):  # a store may be empty
            self._check_root()

    @contextlib.contextmanager
    def writing(self, ref: Ref, *, keep: bool = False) -> Iterator[Store]:
        self.check_writable(ref)
        with super().writing(ref, keep=True) if keep else self._replacing(ref) as store:
            yield store

    def adopt(self, ref: Ref, source: Store, *, replace: bool = True) -> None:
        from copick.layers.transfer import copy_array, one_at_a_time

        self.check_writable(ref)
        path = self.path(ref)
        with one_at_a_time(f"{self.location}/{path}"):
            self.place.forget(path)  # someone else may have been first
            if replace or not self.exists(ref):
                with self._replacing(ref, replace) as store:
                    copy_array(source, store, f"{path.rpartition('/')[2]} to {self.name}")

    @contextlib.contextmanager
    def _replacing(self, ref: Ref, replace: bool = True) -> Iterator[Store]:
        """A store whose content is the array of `ref` once the block ends. If it fails, what was there stays."""
        path = self.path(ref)
        self._seen.discard(ref)
        in_place = not self.place.can_rename and not self.exists(ref)
        at = path if in_place else hidden(path, "tmp")
        with self._marked(path) if in_place else contextlib.nullcontext():
            try:
                with self._asking(path):
                    self.place.make_folder(at)
                with self.place.standing(path) as stands:
                    yield self._store(at, path, read_only=False)
                    if not stands():  # what is there now was written after it came back
                        raise LayerError(
                            f"{self._full('', path)}: the folder it lies in was removed meanwhile"
                        )
                if not in_place:
                    with self._marked(path), self._asking(path):
                        self.place.swap_in(at, path, replace)
            except BaseException:
                with contextlib.suppress(Exception):  # what failed first is what counts
                    self._remove_part(path) if in_place else self.place.remove(at)
                raise

    @contextlib.contextmanager
    def _marked(self, path: str) -> Iterator[None]:
        """Where folders cannot be renamed: the array at `path` is not seen until the block has ended without an error."""
        if self.place.can_rename:
            yield
            return
        mark = _partial_mark(path)
        with self._asking(path):
            self.place.write(mark, b"")
        yield
        with self._asking(path), contextlib.suppress(FileNotFoundError):  # someone else finished the same
            self.place.remove_file(mark)

    def _has_part(self, path: str) -> bool:
        return not self.place.can_rename and self.place.has_file(_partial_mark(path))

    def _remove_part(self, path: str) -> None:
        """Remove what an interrupted copy left at `path`."""
        if self.place.has_folder(path):
            self.place.remove(path)
        self.place.remove_file(_partial_mark(path))

    def files(self, ref: Ref | None) -> tuple[Any, str]:
        path = self.path(ref) if ref else ""
        with self._asking(path):
            return self.place.address(path)

    def reconnect(self) -> None:
        self.place.reconnect()

    def refresh(self, ref: Ref | None = None) -> None:
        self._seen.clear()
        self.place.forget()

    def _missing(self, ref: Ref) -> NotFoundError:
        return NotFoundError(f"layer {self.name!r} has no {ref} (looked for {self._shown}/{self.path(ref)})")

    @contextlib.contextmanager
    def _asking(self, path: str) -> Iterator[None]:
        """Turn whatever the place raises into a LayerError that says what to do."""
        try:
            yield
        except CopickError:
            raise
        except Exception as error:  # fsspec filesystems raise what their libraries raise
            raise self._failure(path, "", error) from error

    def _failure(self, path: str, key: str, error: Exception) -> CopickError:
        """What to tell the user of a failure at a path (and a key of the zarr store there)."""
        if isinstance(error, CopickError):
            return error
        self.place.failed(error)
        where = "/".join(filter(None, (self._shown, path, key)))
        cause = without(_cause(error), secrets_in(self.config.root, self.config.fs_args))
        return LayerError.of(f"layer {self.name!r}: {where} failed: {cause}; {self._advice(error)}", error)

    def _advice(self, error: BaseException) -> str:
        text = f"{type(error).__name__} {getattr(error, 'status', '')} {error}"
        if "HostKey" in text:
            return "connect once with ssh to trust the server, or state known_hosts in fs_args (null trusts any server)"
        if "Credentials" in text:
            return 'state credentials in fs_args, or {"anon": true} for a public bucket'
        if isinstance(error, PermissionError) or any(
            word in text for word in (" 401", " 403", "Forbidden", "AccessDenied")
        ):
            return (
                "check that you may read it (credentials in fs_args)"
                if not self.is_local
                else "check its permissions"
            )
        if isinstance(error, TimeoutError) or "Timeout" in text:
            return (
                f"it did not answer within timeout_s={self.config.timeout_s:g}; try again, or raise timeout_s"
            )
        if isinstance(error, TypeError) and self.config.fs_args:
            return "check that fs_args has only what this kind of file system takes"
        if isinstance(error, OSError) and self.is_local:
            return "check the disk"
        return "check the address and the network, and try again"


def _partial_mark(path: str) -> str:
    folder, _, name = path.rpartition("/")
    return f"{folder}/{PARTIAL}{name}"


def _cause(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
