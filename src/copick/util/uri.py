"""URIs: one line of text that names entities of a project, or a pattern of them.

    picks, mesh, filaments   object:user/session
    segmentation             name:user/session@voxel_size, then ?multilabel=true, ?instance=true or ?panoptic=true
    tomogram                 tomo_type@voxel_size
    feature                  tomo_type@voxel_size:feature_type

What is left out stands for anything. Parts are glob patterns (`*`, `?`, `[abc]`); after the prefix `re:` they
are regular expressions that match from the start of a name. Voxel sizes are numbers in ångström (`10` is `10.0`), or
patterns of them. Segmentations without a type are binary or multilabel ones.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import parse_qsl

from copick.util.words import nearest

if TYPE_CHECKING:
    from collections.abc import Callable

    from copick.models import CopickRoot, CopickRun


class _Type(NamedTuple):
    syntax: re.Pattern[str]
    """One group per part."""
    template: str


def _syntax(text: str) -> re.Pattern[str]:
    return re.compile(text, re.DOTALL)


_ANNOTATION = _Type(
    _syntax(r"(?P<object_name>[^:]*)(:(?P<user_id>[^:/]*)(/(?P<session_id>[^:]*))?)?"),
    "{object_name}:{user_id}/{session_id}",
)
_TYPES = {
    "picks": _ANNOTATION,
    "mesh": _ANNOTATION,
    "filaments": _ANNOTATION,
    "segmentation": _Type(
        _syntax(
            r"(?P<name>[^:@]*)(:(?P<user_id>[^:/@]*)(/(?P<session_id>[^:@]*))?)?(@(?P<voxel_spacing>.*))?"
        ),
        "{name}:{user_id}/{session_id}@{voxel_spacing}",
    ),
    "tomogram": _Type(
        _syntax(r"(?P<tomo_type>[^@]*)(@(?P<voxel_spacing>.*))?"), "{tomo_type}@{voxel_spacing}"
    ),
    "feature": _Type(
        _syntax(r"(?P<tomo_type>[^@]*)(@(?P<voxel_spacing>[^:]*)(:(?P<feature_type>.*))?)?"),
        "{tomo_type}@{voxel_spacing}:{feature_type}",
    ),
}

_FLAGS = ("multilabel", "instance", "panoptic")
_VALUES = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
_QUERY = re.compile(r"\?(\w+=[^?&]*(?:&\w+=[^?&]*)*)$")
"""What follows a `?` that is not part of a pattern."""

_SESSIONS = ("{instance_id}", "{input_session_id}")
"""Placeholders that stand for sessions."""


def parse_copick_uri(uri: str, object_type: str) -> dict[str, Any]:
    """The parts of a URI.

    Returns:
        `object_type`, `pattern_type` ("glob" or "regex") and the parts as text, "*" where left out: `object_name`, or
        `name` of a segmentation, `user_id`, `session_id`, `voxel_spacing`, `tomo_type`, `feature_type`; of a
        segmentation also `multilabel`, `instance` and `panoptic`: True, False, or None if the URI does not say.

    Raises:
        ValueError: There is no such type, or this is no URI of it.
    """
    kind = _type(object_type)
    text = uri.strip()
    body, query = _without_query(text.removeprefix("re:"))
    match = kind.syntax.fullmatch(body)
    if match is None:
        raise ValueError(f"{uri!r} is no {object_type} URI; write {_form(kind)}")
    pattern_type = "regex" if text.startswith("re:") else "glob"
    parsed: dict[str, Any] = {
        "object_type": object_type,
        "pattern_type": pattern_type,
        **match.groupdict("*"),
    }
    if object_type == "segmentation":
        parsed.update(_flags(query, uri))
    return parsed


def _type(object_type: str) -> _Type:
    if object_type not in _TYPES:
        raise ValueError(f"there is no object type {object_type!r}; use one of {', '.join(_TYPES)}")
    return _TYPES[object_type]


def _form(kind: _Type) -> str:
    return kind.template.replace("{", "").replace("}", "")


def _without_query(text: str) -> tuple[str, dict[str, str]]:
    match = _QUERY.search(text)
    return (text, {}) if match is None else (text[: match.start()], dict(parse_qsl(match[1], True)))


def _flags(query: dict[str, str], uri: str) -> dict[str, bool | None]:
    flags: dict[str, bool | None] = dict.fromkeys(_FLAGS)
    for key, text in query.items():
        if key not in flags:
            raise ValueError(
                f"{uri!r}: there is no {key!r}{nearest(key, list(_FLAGS))}; use {', '.join(_FLAGS)}"
            )
        if text.lower() not in _VALUES:
            raise ValueError(f"{uri!r}: {key} is {text!r}; use true or false")
        flags[key] = _VALUES[text.lower()]
    _check_one([flag for flag in _FLAGS if flags[flag]])
    return flags


def _check_one(types: list[str]) -> None:
    if len(types) > 1:
        raise ValueError(f"a segmentation has one type, not {' and '.join(types)}")


def serialize_copick_uri(obj: Any) -> str:
    """The URI that names exactly this entity.

    Raises:
        ValueError: It is none of picks, mesh, filaments, segmentation, tomogram or features.
    """
    from copick import models

    classes = {
        "picks": models.CopickPicks,
        "mesh": models.CopickMesh,
        "filaments": models.CopickFilaments,
        "segmentation": models.CopickSegmentation,
        "tomogram": models.CopickTomogram,
        "feature": models.CopickFeatures,
    }
    for object_type, cls in classes.items():
        if isinstance(obj, cls):
            flags = {flag: getattr(obj, f"is_{flag}") for flag in _FLAGS if object_type == "segmentation"}
            return serialize_copick_uri_from_dict(object_type, **_parts(obj, object_type), **flags)
    raise ValueError(f"a {type(obj).__name__} has no URI; only {', '.join(classes)} have")


def serialize_copick_uri_from_dict(
    object_type: str,
    object_name: str | None = None,
    name: str | None = None,
    user_id: str | None = None,
    session_id: str | None = None,
    tomo_type: str | None = None,
    voxel_spacing: float | str | None = None,
    feature_type: str | None = None,
    multilabel: bool | None = None,
    instance: bool | None = None,
    panoptic: bool | None = None,
) -> str:
    """A URI from its parts; those that the type does not have are ignored.

    Args:
        name: Of a segmentation; anything else has an `object_name`.
        voxel_spacing: In ångström, or a pattern.

    Raises:
        ValueError: There is no such type, a part is missing, or more than one type of segmentation is set.
    """
    kind = _type(object_type)
    given = {
        "object_name": object_name,
        "name": name,
        "user_id": user_id,
        "session_id": session_id,
        "tomo_type": tomo_type,
        "voxel_spacing": voxel_spacing,
        "feature_type": feature_type,
    }
    missing = [part for part in kind.syntax.groupindex if given[part] is None or given[part] == ""]
    if missing:
        raise ValueError(f"a {object_type} URI ({_form(kind)}) needs {' and '.join(missing)}")
    flags = {"multilabel": multilabel, "instance": instance, "panoptic": panoptic}
    return kind.template.format(**given) + (_query(flags) if object_type == "segmentation" else "")


def _query(flags: dict[str, bool | None]) -> str:
    types = [flag for flag in _FLAGS if flags[flag]]
    _check_one(types)
    return f"?{types[0]}=true" if types else ""


def expand_output_uri(
    output_uri: str,
    input_uri: str,
    input_type: str,
    output_type: str,
    command_name: str | None = None,
    individual_outputs: bool = False,
) -> str:
    """The full URI of what a command writes, from one that may leave parts out.

    Accepted are full URIs, which are returned as they are, `name:user`, `name/session`, `name`, `/session`, a session's
    placeholder alone, and nothing; of a segmentation also `@voxel_size` and its type. What is missing is filled in: the
    name, voxel size and type of the input; as user the command, or "converter"; as session `{instance_id}` for
    individual outputs, `{input_session_id}` if the input is a pattern, else "converted-001".

    Args:
        output_type: One of picks, mesh, filaments, segmentation.

    Raises:
        ValueError: One is no URI of its type, the output is a pattern, or neither has a name.
    """
    if output_type not in ("picks", "mesh", "filaments", "segmentation"):
        raise ValueError(f"the URI of a {output_type!r} cannot be expanded; write it in full")
    parsed = parse_copick_uri(output_uri, output_type)
    if parsed["pattern_type"] == "regex":
        raise ValueError(f"{output_uri!r} is a pattern; an output is one thing")
    wanted: dict[str, Any] = {part: "" if value == "*" else value for part, value in parsed.items()}
    name = wanted.get("object_name") or wanted.get("name", "")
    user, session, spacing = wanted["user_id"], wanted["session_id"], wanted.get("voxel_spacing", "")
    if not user and not session:
        name, _, session = ("", "", name) if name in _SESSIONS else name.partition("/")
    if name and user and session and (spacing or output_type != "segmentation"):
        return output_uri
    source = parse_copick_uri(input_uri, input_type)
    name = name or source.get("object_name") or source.get("name")
    if not name:
        raise ValueError(f"{output_uri!r} needs a name: the input, a {input_type}, has none to take over")
    session = session or _default_session(source, individual_outputs)
    expanded = f"{name}:{user or command_name or 'converter'}/{session}"
    if output_type != "segmentation":
        return expanded
    inherited = source.get("voxel_spacing", "")
    spacing = spacing or (inherited if _number(inherited) is not None else "")
    types = source if all(wanted[flag] is None for flag in _FLAGS) else wanted
    return expanded + (f"@{spacing}" if spacing else "") + _query({flag: types.get(flag) for flag in _FLAGS})


def _default_session(source: dict[str, Any], individual_outputs: bool) -> str:
    if individual_outputs:
        return "{instance_id}"
    names = [source[part] for part in ("object_name", "name", "user_id", "session_id") if part in source]
    is_pattern = source["pattern_type"] == "regex" or any(char in "*?[" for name in names for char in name)
    return "{input_session_id}" if names and is_pattern else "converted-001"


def resolve_copick_objects(
    uri: str, root: CopickRoot, object_type: str, run_name: str | None = None
) -> list[Any]:
    """The entities that a URI names, in one run or in all.

    Raises:
        ValueError: There is no such type or run, or this is no URI of that type.
    """
    parsed = parse_copick_uri(uri, object_type)
    return get_copick_objects_by_type(root, run_name=run_name, **parsed)


def get_copick_objects_by_type(
    root: CopickRoot, object_type: str, run_name: str | None = None, **filters: Any
) -> list[Any]:
    """The entities of a type, in one run or in all.

    Args:
        object_type: One of picks, mesh, filaments, segmentation, tomogram, feature.
        filters: Parts and flags as `parse_copick_uri` returns them: patterns, several of them, or None for anything;
            `pattern_type` says of which kind they are, "glob" unless given.

    Raises:
        ValueError: There is no such type or run, or a pattern is no regular expression.
        TypeError: The type has no such part.
    """
    kind = _type(object_type)
    regex = filters.pop("pattern_type", "glob") == "regex"
    flags = {flag: filters.pop(flag, None) for flag in _FLAGS if object_type == "segmentation"}
    for part in filters:
        if part not in kind.syntax.groupindex:
            raise TypeError(f"a {object_type} has no {part!r}; filter by {', '.join(kind.syntax.groupindex)}")

    def fits(part: str, value: str | float) -> bool:
        return _matches(value, filters.get(part), regex)

    return [
        obj
        for run in _runs(root, run_name)
        for obj in _listed(run, object_type, fits, flags)
        if all(fits(part, value) for part, value in _parts(obj, object_type).items())
    ]


def _runs(root: CopickRoot, run_name: str | None) -> list[CopickRun]:
    if not run_name:
        return root.runs
    run = root.get_run(run_name)
    if run is None:
        raise ValueError(f"the project has no run {run_name!r}")
    return [run]


def _listed(
    run: CopickRun, object_type: str, fits: Callable[[str, str | float], bool], flags: dict[str, bool | None]
) -> Iterable[Any]:
    """What may be meant: nothing is listed below what does not fit."""
    if object_type == "picks":
        return run.picks
    if object_type == "mesh":
        return run.meshes
    if object_type == "filaments":
        return run.filaments
    if object_type == "segmentation":
        plain = flags["instance"] is None and flags["panoptic"] is None
        return run.get_segmentations(
            is_multilabel=flags["multilabel"],
            is_instance=False if plain else flags["instance"],
            is_panoptic=False if plain else flags["panoptic"],
        )
    spacings = [each for each in run.voxel_spacings if fits("voxel_spacing", each.voxel_size)]
    tomograms = [tomogram for each in spacings for tomogram in each.tomograms]
    if object_type == "tomogram":
        return tomograms
    return [
        each for tomogram in tomograms if fits("tomo_type", tomogram.tomo_type) for each in tomogram.features
    ]


def _parts(obj: Any, object_type: str) -> dict[str, Any]:
    if object_type in ("tomogram", "feature"):
        tomogram = obj if object_type == "tomogram" else obj.tomogram
        parts = {"tomo_type": tomogram.tomo_type, "voxel_spacing": tomogram.voxel_spacing.voxel_size}
        return parts if object_type == "tomogram" else {**parts, "feature_type": obj.feature_type}
    parts = {"user_id": obj.user_id, "session_id": obj.session_id}
    if object_type == "segmentation":
        return {**parts, "name": obj.name, "voxel_spacing": obj.voxel_size}
    return {**parts, "object_name": obj.pickable_object_name}


def _matches(value: str | float, pattern: Any, regex: bool) -> bool:
    if not isinstance(pattern, str) and isinstance(pattern, Iterable):
        return any(_matches(value, each, regex) for each in pattern)
    if pattern in (None, "", "*"):  # left out; also beside regular expressions
        return True
    text, pattern = str(value), str(pattern)
    number = None if isinstance(value, str) else _number(pattern)
    if number is not None:
        from copick.kinds import normal

        return normal(number) == normal(value)
    if not regex:
        return text == pattern or fnmatchcase(text, pattern)
    try:
        return re.match(pattern, text) is not None
    except re.error as error:
        raise ValueError(f"{pattern!r} is no regular expression ({error})") from error


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
