"""Everything copick raises on purpose, grouped by what a caller would do about it.

    CopickError
    ├── ConfigError         (ValueError)       fix the config file
    │   └── MissingConfigError (FileNotFoundError)
    ├── NotFoundError       (KeyError)         ask for something that exists
    │   ├── UnknownNameError (ValueError)
    │   └── GoneError (FileNotFoundError)      list again: it was there
    ├── AlreadyExistsError  (FileExistsError)  pick another name, or pass exist_ok=True
    ├── ReadOnlyError       (PermissionError)  write to another layer
    ├── FormatError         (ValueError)       repair or replace the file
    │   ├── RelionPixelSizeError               state the pixel size
    │   └── RelionTomogramCenterError          state the centre, or add the tomogram
    ├── LayerError          (OSError)          the place itself failed: check it, try again
    │   ├── DeniedError (PermissionError)      get the permission, or state credentials
    │   └── ConflictError                      others changed it, too: choose which version stays
    └── CacheError                             never reaches a reader: the cache is bypassed instead
        └── CorruptEntryError

Each class also is the builtin that copick 1.x raised in that situation, so `except ValueError` and the like keep working.
A text says what failed, where (layer and path), what was tried and what to do.
"""

from __future__ import annotations


class CopickError(Exception):
    """Base of everything copick raises on purpose."""

    def __str__(self) -> str:  # KeyError would print the repr, OSError its errno
        return str(self.args[0]) if self.args else ""


class ConfigError(CopickError, ValueError):
    """A config file, or an argument that stands for one, cannot be used."""


class MissingConfigError(ConfigError, FileNotFoundError):
    """There is no such config file."""


class NotFoundError(CopickError, KeyError):
    """No layer that was asked holds it."""


class UnknownNameError(NotFoundError, ValueError):
    """A call names a run, a tomogram, ... that the project does not have."""


class GoneError(NotFoundError, FileNotFoundError):
    """What a caller holds is in no layer, or is there no more: a document to read, something to delete."""


class AlreadyExistsError(CopickError, FileExistsError, ValueError):
    """Something of that key exists already."""


class ReadOnlyError(CopickError, PermissionError):
    """The layer cannot be written."""


class FormatError(CopickError, ValueError):
    """A document or an array is there but cannot be understood."""


class RelionPixelSizeError(FormatError):
    """RELION's coordinates are in pixels, and nothing says how large these are."""


class RelionTomogramCenterError(FormatError):
    """RELION's coordinates are from the centre of the tomogram, and nothing says where that is."""


class LayerError(CopickError, OSError):
    """The place that holds the data failed: unreachable, refused, timed out."""

    @classmethod
    def of(cls, text: str, *causes: BaseException) -> LayerError:
        """What to raise after these failures: DeniedError if all of them are that something is not permitted."""
        denied = causes and all(isinstance(cause, PermissionError) for cause in causes)
        return DeniedError(text) if denied else cls(text)


class DeniedError(LayerError, PermissionError):
    """The place that holds the data does not permit it."""


class ConflictError(LayerError):
    """A change that waited cannot be passed on without replacing what others have changed meanwhile."""


class CacheError(CopickError):
    """The cache failed. Caught inside the cache: a reader gets its data from the source."""


class CorruptEntryError(CacheError):
    """A cached file does not hold what was written to it."""
