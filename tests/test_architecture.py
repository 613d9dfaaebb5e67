"""Who may import whom: one direction, cli → models → layers → cache → _cachecore."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import copick

SOURCE = Path(copick.__file__).parent
MODULES = sorted(SOURCE.rglob("*.py"))

LEAVES = {"errors", "util", "_cachecore"}
TABLE = {*LEAVES, "meta", "filaments", "kinds"}
CONFIGURED = {*TABLE, "config", "config_errors", "config_portal", "arrays", "stores"}
CACHE = {*CONFIGURED, "ome", "cache"}
LAYERS = {*CACHE, "layers"}
INDEX = {*LAYERS, "index"}
MODELS = {*INDEX, "models"}
OPERATIONS = {*MODELS, "impl", "ops", "copick"}
EVERYTHING = {*OPERATIONS, "testing", "demo", "cli"}

MAY_IMPORT = {
    "errors": set(),
    "util": {"errors", "util"},
    "util.segmentation": {"ome", "kinds", "meta"},
    "util.uri": {"kinds", "models"},
    "util.portal": {"config_errors", "config_portal", "layers", "meta"},
    "util.ome": {"ome", "arrays"},
    "util.path_util": {"ome"},
    "meta": {*LEAVES, "meta"},
    "filaments": {*LEAVES, "meta"},
    "kinds": TABLE,
    "config_errors": {*TABLE, "config_errors"},
    "config": {*TABLE, "config", "config_errors", "config_portal"},
    "config_portal": {*TABLE, "config", "config_errors"},
    "arrays": {"errors"},
    "stores": {"errors", "arrays"},
    "ome": TABLE,
    "cache": CACHE | {"layers.layer"},
    "layers": LAYERS,
    "layers.build": {"index"},
    "index": INDEX,
    "models": MODELS,
    "impl": {*MODELS, "impl"},
    "ops": OPERATIONS,
    "testing": EVERYTHING,
    "demo": EVERYTHING,
    "cli": EVERYTHING,
    "copick": {*MODELS, "impl"},
}

HEAVY = {
    "zarr",
    "fsspec",
    "numcodecs",
    "rich",
    "click",
    "aiohttp",
    "s3fs",
    "botocore",
    "torch",
    "matplotlib",
    "skimage",
    "pandas",
    "trimesh",
    "asyncio",
    "sqlite3",
    "cryoet_data_portal",
    "gql",
    "graphql",
    "requests",
    "tenacity",
}


def part_of(path: Path) -> str:
    relative = path.relative_to(SOURCE).with_suffix("")
    return "copick" if relative.name == "__init__" and len(relative.parts) == 1 else relative.parts[0]


def may_import(path: Path) -> set[str]:
    """What its part may import, and what the module itself may besides."""
    module = ".".join(path.relative_to(SOURCE).with_suffix("").parts)
    return MAY_IMPORT[part_of(path)] | MAY_IMPORT.get(module, set())


def imports(path: Path, *, top_only: bool = False) -> set[str]:
    """Dotted names of the modules that a file imports for use (not for types alone)."""
    found: set[str] = set()

    def walk(node: ast.AST) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
                continue
            if top_only and isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                continue
            if isinstance(child, ast.Import):
                found.update(alias.name for alias in child.names)
            elif isinstance(child, ast.ImportFrom) and child.module:
                assert child.level == 0, f"{path}: relative import"
                found.update(f"{child.module}.{alias.name}" for alias in child.names)
            walk(child)

    walk(ast.parse(path.read_text(encoding="utf-8")))
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_arrows(path: Path) -> None:
    own = part_of(path)
    assert own in MAY_IMPORT, f"say in MAY_IMPORT what {own} may import"
    for name in imports(path):
        head, _, rest = name.partition(".")
        if head != "copick":
            continue
        target = rest.split(".")[0] if rest else "copick"
        if (SOURCE / target).exists() or (SOURCE / f"{target}.py").exists() or target == "_cachecore":
            allowed = target in may_import(path) or any(
                rest.startswith(each) for each in may_import(path) if "." in each
            )
            assert allowed or target == own, f"{path.relative_to(SOURCE)} must not import {name}"


@pytest.mark.parametrize("path", [p for p in MODULES if part_of(p) in {*MODELS, "copick", "impl"}], ids=str)
def test_heavy_modules_are_imported_where_they_are_used(path: Path) -> None:
    if part_of(path) in {"cache", "index"} or path.name in {"cached.py", "places.py", "stores.py"}:
        return
    heavy = {name.partition(".")[0] for name in imports(path, top_only=True)} & HEAVY
    assert not heavy, f"{path.relative_to(SOURCE)} imports {heavy} at the top"


@pytest.mark.parametrize("code", ["import copick", "import copick; copick.models.CopickRun"])
def test_import_is_light(code: str) -> None:
    check = f"import sys; {code}; print(*sorted({HEAVY!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split()) - baseline()
    assert not loaded, f"{code} loads {loaded}"


def baseline() -> set[str]:
    """What NumPy and pydantic load anyway."""
    check = f"import sys, numpy, pydantic; print(*sorted({HEAVY!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_names_are_reachable_after_a_bare_import() -> None:
    for name in copick.__all__:
        assert getattr(copick, name) is not None
    assert copick.models.CopickRun is copick.CopickRun
    assert "from_file" in dir(copick)
    with pytest.raises(AttributeError, match="no attribute 'from_fiel'"):
        _ = copick.from_fiel
