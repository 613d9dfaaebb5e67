"""Write a project to files of other programs, and link it, by the functions that copick 1.31 and this package share.

    python export_project.py FOLDER fill
    python export_project.py FOLDER

Runs unchanged under either, in a folder that `make_project.py` has filled: the first adds two runs, the second leaves
FOLDER/out. A call that fails leaves a file of that name that says by which of Python's own errors.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np

import copick
from copick.ops import deposit, export

OUT = Path("out")
CONFIG = "project.json"
RUNS = ["E_1", "E_2"]
TOMOGRAMS = """data_global

loop_
_rlnTomoName #1
_rlnTomoTiltSeriesPixelSize #2
_rlnTomoSizeX #3
_rlnTomoSizeY #4
_rlnTomoSizeZ #5
_rlnVoltage #6
_rlnSphericalAberration #7
_rlnAmplitudeContrast #8
E_1 2.5 300 200 100 300 2.7 0.1
E_2 2.6 310 210 110 200 2.6 0.07
"""


def poses(seed: int, n: int) -> np.ndarray:
    """(n, 4, 4) rotations of any kind, each with a shift."""
    random = np.random.default_rng(seed)
    matrices = np.tile(np.eye(4), (n, 1, 1))
    for matrix in matrices:
        turn, _ = np.linalg.qr(random.normal(size=(3, 3)))
        matrix[:3, :3] = turn * np.linalg.det(turn)
        matrix[:3, 3] = random.normal(size=3)
    return matrices


def fill(root: Any) -> None:
    for seed, name in enumerate(RUNS):
        random = np.random.default_rng(seed)
        run = root.new_run(name)
        run.new_voxel_spacing(10.0).new_tomogram("wbp").from_numpy(random.normal(size=(9, 10, 11 + seed)))
        picks = run.new_picks("ribosome", "s1")
        picks.from_numpy(random.uniform(0, 90, (5, 3)), poses(seed, 5), np.arange(5), np.linspace(0, 1, 5))
        run.new_picks("ribosome", "none").store()
        tubes = run.new_picks("microtubule", "s1")
        tubes.from_numpy(random.uniform(0, 90, (6, 3)), poses(seed + 9, 6), np.array([2, 1, 1, 3, 1, 3]))
    filaments = root.get_run("E_1").new_filaments("microtubule", "s1")
    lines = [np.arange(6.0).reshape(2, 3) * 10 + at for at in range(3)]
    filaments.from_numpy(lines, instance_ids=[1, 2, 3], polarity_known=[True, False, True])
    filaments.store()
    few = root.get_run("E_2").new_filaments("microtubule", "s1")
    few.from_numpy(lines[:2], instance_ids=[1, 2])
    few.store()
    values = np.zeros((4, 5, 6), np.int64)
    for most in (40000, 100000, 2**24 + 1, 2**31):
        values[1, 2, 3] = most
        run = root.get_run("E_1")
        run.new_segmentation(10.0, "ribosome", f"m{most}", is_instance=True).from_numpy(values)


def attempt(name: str, function: Any, *arguments: Any, **options: Any) -> None:
    try:
        function(*arguments, **options)
    except Exception as error:  # noqa: BLE001 (what both raise is compared by the builtin that it is)
        builtin = next(
            each for each in type(error).__mro__ if each.__module__ == "builtins" and each is not KeyError
        )
        with contextlib.suppress(OSError):
            os.makedirs(OUT, exist_ok=True)
            (OUT / f"{name}.error").write_text(builtin.__name__ + "\n")


def picks_files(root: Any) -> None:
    run = root.get_run("E_1")
    (picks,) = run.get_picks("ribosome", session_id="s1")
    (none,) = run.get_picks("ribosome", session_id="none")
    (tubes,) = run.get_picks("microtubule", session_id="s1")
    for kind, end in (("em", "em"), ("dynamo", "tbl"), ("star", "star"), ("csv", "csv")):
        attempt(
            f"one-{kind}", export.export_picks, picks, str(OUT / f"one.{end}"), kind, 10.0, tomogram_index=7
        )
        if kind != "csv":  # without points 1.31 leaves out a column
            attempt(f"none-{kind}", export.export_picks, none, str(OUT / f"none.{end}"), kind, 10.0)
    star: dict[str, dict[str, Any]] = {
        "pixels": {"tilt_series_pixel_size": 2.0},
        "no-optics": {"tilt_series_pixel_size": 2.0, "include_optics": False},
        "stated": {"tomograms_star": "tomograms.star"},
        "stated-centered": {"tomograms_star": "tomograms.star", "coordinates": "centered"},
        "both": {"tomograms_star": "tomograms.star", "tilt_series_pixel_size": 7.0},
        "nowhere": {"tomo_type": "nope"},
        "bad": {"coordinates": "x"},
    }
    for name, options in star.items():
        attempt(name, export.export_picks, picks, str(OUT / f"{name}.star"), "star", 10.0, **options)
    filaments: dict[str, dict[str, Any]] = {
        "frame": {},
        "off": {"filament_columns": "off"},
        "pose": {"filament_angles": "pose", "half_sets": "filament"},
        "unknown": {"polarity_from_filaments": False},
        "named": {"filaments_uri": "microtubule:alice/s1"},
        "nobody": {"filaments_uri": "microtubule:nobody/s1"},
        "halves-of-none": {"filament_columns": "off", "half_sets": "filament"},
    }
    for name, options in filaments.items():
        attempt(
            f"tube-{name}",
            export.export_picks,
            tubes,
            str(OUT / f"tube-{name}.star"),
            "star",
            10.0,
            **options,
        )
    (others,) = root.get_run("E_2").get_picks("microtubule", session_id="s1")
    attempt("tube-few", export.export_picks, others, str(OUT / "tube-few.star"), "star", 10.0)


def combined(root: Any) -> None:
    numbers = {"E_1": 3, "E_2": 8}
    for kind, end in (("em", "em"), ("dynamo", "tbl"), ("csv", "csv"), ("star", "star")):
        options = {"run_to_index": numbers} if kind in ("em", "dynamo") else {}
        path = str(OUT / "all" / f"all.{end}")
        arguments = CONFIG, path, "ribosome:alice/s1", kind, 10.0, RUNS
        attempt(f"all-{kind}", export.export_picks_combined, *arguments, **options)
    cases: dict[str, dict[str, Any]] = {
        "plain": {},
        "voxels": {"voxel_spacing": 10.0, "tomo_type": "nope"},
        "sizes": {"tilt_series_pixel_size": {"E_1": 2.0, "E_2": 3.0}},
        "one-size": {"tilt_series_pixel_size": {"E_1": 2.0}},
        "centers": {"tomogram_centers": {"E_1": (50.0, 50.0, 50.0)}},
        "import": {"layout": "import", "tomograms_star": "tomograms.star"},
    }
    for name, options in cases.items():
        path = str(OUT / name / "particles.star")
        options = {"run_names": RUNS, **options}
        attempt(f"relion-{name}", relion, name, root, "ribosome:alice/s1", path, **options)
    halves: dict[str, Any] = {"half_sets": "filament", "run_names": ["E_2", "E_1"]}
    halves["polarity_from_filaments"] = False
    attempt(
        "relion-halves", relion, "halves", root, "microtubule:alice/s1", str(OUT / "halves.star"), **halves
    )
    attempt(
        "relion-none", relion, "none", root, "ribosome:nobody/s1", str(OUT / "none/x.star"), run_names=RUNS
    )
    options = {"run_names": RUNS, "allow_empty": True}
    attempt("relion-empty", relion, "empty", root, "ribosome:nobody/s1", str(OUT / "empty.star"), **options)


def relion(name: str, *arguments: Any, **options: Any) -> None:
    """What is returned is compared, too."""
    found = export.export_relion_particles(*arguments, **options)
    said = {
        each: getattr(found, each) for each in ("path", "layout", "files", "rows", "filament", "half_sets")
    }
    polarity = {run: [each.source, each.known, each.unknown] for run, each in found.polarity.items()}
    (OUT / f"{name}.json").write_text(json.dumps({**said, "polarity": polarity}, sort_keys=True))


def volumes(root: Any) -> None:
    run = root.get_run("TS_1")
    for tomogram in run.get_voxel_spacing(10.0).tomograms:
        if tomogram.tomo_type == "empty":
            continue
        name = tomogram.tomo_type
        for kind in ("mrc", "tiff", "zarr"):
            attempt(f"{name}-{kind}", export.export_tomogram, tomogram, str(OUT / f"{name}.{kind}"), kind)
        attempt(f"{name}-1", export.export_tomogram, tomogram, str(OUT / f"{name}-1.mrc"), "mrc", 1)
        attempt(f"{name}-z", export.export_tomogram, tomogram, str(OUT / f"{name}-z.tiff"), "tiff", 0, "zlib")
        path = str(OUT / f"{name}-0.zarr")
        attempt(f"{name}-0", export.export_tomogram, tomogram, path, "zarr", copy_all_levels=False)
    for owner in (run, root.get_run("E_1")):
        for mask in owner.get_segmentations(is_instance=None, is_panoptic=None):
            name = f"mask-{mask.name}-{mask.session_id}-{mask.segmentation_type}"
            if "none-yet" in name:
                continue
            for kind in ("mrc", "tiff", "em", "zarr"):
                path = OUT / f"{name}.{kind}"
                attempt(f"{name}-{kind}", export.export_segmentation, mask, str(path), kind)
                if not path.is_dir() and (OUT / f"{name}-{kind}.error").exists():
                    path.unlink(missing_ok=True)  # 1.31 leaves the beginning of a file
            for channel in ("label", "instance") if mask.is_panoptic else ():
                path = OUT / f"{name}-{channel}.mrc"
                attempt(
                    f"{name}-{channel}", export.export_segmentation, mask, str(path), "mrc", channel=channel
                )


def runs(root: Any) -> None:
    run = root.get_run("TS_1")
    folder = str(OUT / "run")
    uris = {"tomogram_uri": "wbp@10.0", "segmentation_uri": "*:*/s1@10.0"}
    found = export.export_run(run, folder, **uris, output_format="mrc")
    (OUT / "run.json").write_text(json.dumps({**found, "errors": len(found["errors"])}, sort_keys=True))
    options: dict[str, Any] = {"segmentation_uri": "*:*/s1@10.0?panoptic=true", "output_format": "tiff"}
    export.export_run(run, folder, **options)
    assert export.export(CONFIG, folder, RUNS, picks_uri="*:*/s1", output_format="csv") == []
    options = {"picks_uri": "ribosome:*/s1", "output_format": "dynamo", "voxel_spacing": 10.0}
    assert export.export(CONFIG, folder, RUNS, **options, run_to_index={"E_1": 4, "E_2": 5}) == []


def links(root: Any) -> None:
    everything = {
        "picks_uris": ["*:*/s1"],
        "meshes_uris": ["*:*/s1"],
        "segmentations_uris": ["*:*/s1@10.0", "*:*/s1@*?instance=true"],
        "tomograms_uris": ["wbp@10.0"],
        "features_uris": ["wbp@10.0:sobel"],
    }
    names = ["TS_1", "E_1", "E_2"]
    for _ in range(2):  # again: nothing changes
        deposit.deposit(CONFIG, str(OUT / "links"), names, "p_", "(.*_[0-9])", **everything)
    run = root.get_run("TS_1")
    attempt("links", deposit.deposit_run, run, str(OUT / "links"), run_name_regex="(nope)", picks_uris=["*"])


def main(folder: Path) -> None:
    os.chdir(folder)
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    root = copick.from_file(CONFIG)
    if len(sys.argv) > 2:
        Path("tomograms.star").write_text(TOMOGRAMS)
        fill(root)
        return
    OUT.mkdir()
    for step in (picks_files, combined, volumes, runs, links):
        step(root)


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute())
