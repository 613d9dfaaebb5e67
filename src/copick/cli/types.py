"""Types of parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    ParamType = click.ParamType[str]
else:
    ParamType = click.ParamType


class CopickURI(ParamType):
    """A URI of a project's objects: see `copick.util.uri`. Tools that make forms of commands read what it stands for.

    Args:
        object_type: "picks", "filaments", "mesh", "segmentation", "tomogram" or "feature".
        role: "input" or "output".
    """

    name = "COPICK_URI"

    def __init__(self, object_type: str, role: str = "input") -> None:
        self.object_type, self.role = object_type, role

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The text itself: commands parse it, and say what is wrong with it."""
        return str(value)

    def get_metavar(self, param: click.Parameter, *_: Any, **__: Any) -> str:
        return "URI"

    def __repr__(self) -> str:
        return f"CopickURI({self.object_type!r}, {self.role!r})"
