"""Properties that are computed when they are first needed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar, overload

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


class lazy(Generic[T]):
    """As `functools.cached_property`, without a lock.

    In Python 3.11 that has one lock for all objects of a class, held while one of them computes: threads wait for each other,
    and a process that was forked meanwhile waits for ever. Here two threads may compute at once; the first result stays.
    """

    def __init__(self, compute: Callable[[Any], T]) -> None:
        self._compute = compute
        self.__doc__ = compute.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...

    @overload
    def __get__(self, instance: object, owner: type) -> T: ...

    def __get__(self, instance: object | None, owner: type) -> Self | T:
        if instance is None:
            return self
        known: dict[str, T] = instance.__dict__  # where it is found from then on
        return known.setdefault(self._name, self._compute(instance))
