"""Any sequence of changes by two processes and by other programs: an index that is up to date says what the layers say."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

import copick
from copick.errors import CopickError
from copick.models.search import FIELDS
from projects import OBJECTS

if TYPE_CHECKING:
    import pytest

    from copick.models import CopickRoot

RUNS, USERS, NAMES = ["a", "b", "TS é 1"], ["me", "you"], ["ribosome", "membrane"]
LONG = bool(os.environ.get("COPICK_STRESS"))


def config(folder: Path, index: bool, **fields: Any) -> str:
    """Two layers that can be written over one that cannot, with an index or without."""
    for name in ("top", "shared", "archive"):
        (folder / name).mkdir(exist_ok=True)
    layers = {
        "top": {"config_type": "filesystem", "root": str(folder / "top"), "priority": 2},
        "shared": {"config_type": "filesystem", "root": str(folder / "shared"), "priority": 1},
        "archive": {"config_type": "filesystem", "root": str(folder / "archive"), "read_only": True},
    }
    db = {"db_path": str(folder / "index.db"), "auto_index": False}
    return json.dumps(
        {
            "config_type": "multilayer",
            "user_id": "me",
            "pickable_objects": OBJECTS,
            "layers": list(layers),
            "layer_configs": layers,
            "default_write_layer": "shared",
            **({"db_config": db} if index else {}),
            **fields,
        }
    )


def everything(root: CopickRoot) -> dict[str, Any]:
    """All that can be found, as plain values."""
    found: dict[str, Any] = {
        name: [(str(item.ref), tuple(item.sources)) for item in items]
        for name, items in root.find_objects([name for name in FIELDS if name != "objects"]).items()
    }
    found["summary"] = root.get_summary_statistics()
    for query in ("a", "ts", "é", "me rib", "membrane 1", "deep freeze", "wbp"):
        hits = root.search(query)
        found[query] = {
            name: [str(item.ref) for item in items] for name, items in hits.items() if name != "objects"
        }
    for criteria in (
        {"user_id": "me"},
        {"layer": "archive"},
        {"point_count_min": 2},
        {"voxel_size_max": 12},
        {"nx": 3, "dtype": "float32"},
        {"metadata": {"grid.name": "B"}},
        {"author": "Ada"},
        {"description": "deep freeze"},
        {"having": {"picks": {"object_name": "ribosome"}, "tomograms": {}}},
    ):
        hits = root.find_objects([name for name in FIELDS if name != "objects"], **criteria)
        found[str(criteria)] = {name: [str(item.ref) for item in items] for name, items in hits.items()}
    found["points"] = [
        (str(p.picks.ref), p.indices.tolist(), p.positions.tolist())
        for p in root.find_points([0, 0, 0], [5, 5, 5])
    ]
    return found


def write(root: CopickRoot, step: tuple[Any, ...]) -> None:
    """One change through copick."""
    what, run_name, user, name, layer, number = step
    run = root.new_run(run_name, exist_ok=True)
    if what == "picks":
        picks = run.new_picks(name, "1", user, exist_ok=True, layers=layer)
        picks.from_numpy(np.full((number, 3), number, float))
    elif what == "tomogram":
        spacing = run.new_voxel_spacing(10 + number, exist_ok=True, layers=layer)
        tomogram = spacing.new_tomogram("wbp", exist_ok=True)
        tomogram.from_numpy(np.zeros((2, 2, number + 1), np.float32), levels=1)
    elif what == "features":
        for spacing in run.voxel_spacings:
            for tomogram in spacing.tomograms:
                tomogram.new_features("unet", exist_ok=True).from_numpy(np.zeros((2, 2, 3), np.float32))
    elif what == "segmentation":
        mask = run.new_segmentation(10, name, "1", number > 2, user, exist_ok=True, layers=layer)
        mask.from_numpy(np.zeros((2, 2, number + 1), bool), levels=1)
    elif what == "describe":
        run.description = ["deep freeze", "grid é", None, "a"][number]
        run.store()
    elif what == "propagate":
        for picks in run.picks:
            picks.propagate(["top"])
    elif what == "delete picks":
        run.delete_picks(user_id=user)
    elif what == "delete tomograms":
        for spacing in run.voxel_spacings:
            spacing.delete_tomograms()
    elif what == "delete run":
        run.delete()


WRITES = (
    "picks", "tomogram", "features", "segmentation", "describe", "propagate", "delete picks", "delete tomograms", "delete run",
)  # fmt: skip


def elsewhere(folder: Path, step: tuple[Any, ...]) -> None:
    """One change by a program that does not know copick; it writes files in place, too."""
    what, run_name, user, name, layer, number = step
    run = folder / layer / "ExperimentRuns" / run_name
    if what == "write picks":
        document = {
            "pickable_object_name": name,
            "user_id": user,
            "session_id": "1",
            "authors": ["Ada"] * (number > 2),
            "points": [{"location": {"x": number, "y": 1, "z": 1}}] * number,
        }
        path = run / "Picks" / f"{user}_1_{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(document) if number else "no JSON")
    elif what == "write meta":
        run.mkdir(parents=True, exist_ok=True)
        said = [{"grid": {"name": "B"}}, {"description": "deep freeze"}, {"authors": [{"name": "Ada"}]}, {}][
            number
        ]
        (run / ".meta").write_text(json.dumps(said))
    elif what == "write array":
        array = run / f"VoxelSpacing{10 + number}.000" / "wbp.zarr" / "0"
        array.mkdir(parents=True, exist_ok=True)
        (array.parent / ".zgroup").write_text('{"zarr_format": 2}')
        (array / ".zarray").write_text(
            json.dumps({"zarr_format": 2, "shape": [1, 2, number], "dtype": "<f4"})
        )
    elif what == "rename run":
        if run.is_dir() and not (run.parent / "z").exists():
            run.rename(run.parent / "z")
    elif what == "remove run":
        shutil.rmtree(run, ignore_errors=True)
    elif what == "remove picks":
        shutil.rmtree(run / "Picks", ignore_errors=True)
    elif what == "strange files":
        (run / "Picks").mkdir(parents=True, exist_ok=True)
        (run / "Picks" / "x.json").write_text("{}")
        (run / "VoxelSpacing11").mkdir(exist_ok=True)


STEPS = st.tuples(
    st.just(""), st.sampled_from(RUNS), st.sampled_from(USERS), st.sampled_from(NAMES),
    st.sampled_from(["top", "shared"]), st.integers(0, 3),
)  # fmt: skip
THEIRS = (
    "write picks", "write meta", "write array", "rename run", "remove run", "remove picks", "strange files",
)  # fmt: skip


def serve(connection: Any, text: str) -> None:
    """Another process: does each step it is given."""
    root = copick.from_string(text)
    while (step := connection.recv()) is not None:
        root.refresh()
        try:
            write(root, step)
        except CopickError as error:
            connection.send(str(error))
        else:
            connection.send(None)


class IndexMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="copick-index-"))
        text = config(self.folder, True)
        self.root = copick.from_string(text)
        self.root.index_all_layers()
        self.plain = copick.from_string(config(self.folder, False))
        self.theirs, other = multiprocessing.Pipe()
        self.process = multiprocessing.get_context("fork").Process(target=serve, args=(other, text))
        self.process.start()

    @rule(step=STEPS, what=st.sampled_from(WRITES))
    def here(self, step: tuple[Any, ...], what: str) -> None:
        try:
            write(self.root, (what, *step[1:]))
        except CopickError:
            self.root.refresh()
        self.agrees()

    @rule(step=STEPS, what=st.sampled_from(WRITES))
    def in_another_process(self, step: tuple[Any, ...], what: str) -> None:
        self.theirs.send((what, *step[1:]))
        self.theirs.recv()
        self.agrees(fresh=True)

    @rule(step=STEPS, what=st.sampled_from(THEIRS), layer=st.sampled_from(["top", "shared", "archive"]))
    def by_another_program(self, step: tuple[Any, ...], what: str, layer: str) -> None:
        elsewhere(self.folder, (what, *step[1:4], layer, step[5]))
        self.root.index_all_layers()
        self.agrees()

    @rule(step=STEPS, what=st.sampled_from(THEIRS))
    def refreshed(self, step: tuple[Any, ...], what: str) -> None:
        elsewhere(self.folder, (what, *step[1:]))
        self.root.refresh()
        self.agrees()

    def agrees(self, fresh: bool = False) -> None:
        """What was written through copick, here or in another process, is found without an update."""
        root = copick.from_string(config(self.folder, True)) if fresh else self.root
        self.plain.refresh()
        assert everything(root) == everything(self.plain)
        assert not root.layer._complained  # type: ignore[attr-defined]

    @invariant()
    def no_rubbish_is_left(self) -> None:
        with self.root.layer.database.reading() as db:  # type: ignore[attr-defined]
            for table, column in (
                ("holdings", "entity"),
                ("facts", "entity"),
                ("points", "entity"),
                ("words", "rowid"),
            ):
                (count,) = db.execute(
                    f"SELECT count(*) FROM {table} WHERE {column} NOT IN (SELECT id FROM entities)"
                ).fetchone()
                assert count == 0, table

    def teardown(self) -> None:
        self.theirs.send(None)
        self.process.join(10)
        self.root.layer.database.close()  # type: ignore[attr-defined]
        shutil.rmtree(self.folder)


def test_the_index_is_what_the_layers_hold(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
    steps, examples = (50, int(os.environ.get("COPICK_EXAMPLES", "300"))) if LONG else (12, 6)
    run_state_machine_as_test(
        IndexMachine,
        settings=settings(max_examples=examples, stateful_step_count=steps, deadline=None, print_blob=True),
    )
