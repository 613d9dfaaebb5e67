"""What a project over the data portal shows, as JSON. Run by copick 1.31 and by this package.

python read_portal.py CONFIG OUT URL
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import warnings
from typing import Any

warnings.simplefilter("ignore")

QUESTIONS: dict[str, dict[str, Any]] = {
    "true": {"portal_meta_query": {"ground_truth_status": True}},
    "not true": {"portal_meta_query": {"ground_truth_status": False, "object_state": None}},
    "manual": {"portal_meta_query": {"annotation_method": "manual", "ground_truth_status": True}},
    "number": {"portal_meta_query": {"confidence_precision": 90.0}},
    "nothing": {"portal_meta_query": {}},
    "unknown": {"portal_meta_query": {"no_such_field": 3}},
    "one author": {"portal_author_query": ["Ada Lovelace"]},
    "both authors": {"portal_author_query": ["Grace Hopper", "Ada Lovelace"]},
    "nobody": {"portal_author_query": ["nobody"]},
    "both": {
        "portal_meta_query": {"ground_truth_status": True},
        "portal_author_query": ["Ada Lovelace"],
    },
}
OF_TOMOGRAMS: dict[str, dict[str, Any]] = {
    "raw": {"portal_meta_query": {"processing": "raw"}},
    "method": {"portal_meta_query": {"reconstruction_method": "Fourier_Space"}},
    "corrected": {"portal_meta_query": {"ctf_corrected": True}},
    "author": {"portal_author_query": ["Ada Lovelace"]},
}


def read(config: str) -> dict[str, Any]:
    import copick

    root = copick.from_file(config)
    return {
        "root": {"dataset_ids": root.dataset_ids, "go_map": root.go_map, "datasets": ids(root.datasets)},
        "runs": {run.name: of_run(run) for run in root.runs},
    }


def of_run(run: Any) -> dict[str, Any]:
    masks = {"is_instance": None, "is_panoptic": None}
    return {
        "portal": [run.portal_run_id, run.portal_run_name, run.portal_dataset_id],
        "voxel_spacings": {
            f"{spacing.voxel_size:.3f}": of_spacing(spacing) for spacing in run.voxel_spacings
        },
        "picks": {picks.session_id: of_picks(picks) for picks in run.picks},
        "masks": {mask.session_id: of_mask(mask) for mask in run.get_segmentations(**masks)},
        "meshes": len(run.meshes),
        "picks found": {name: keys(run.get_picks(**asked)) for name, asked in QUESTIONS.items()},
        "masks found": {
            name: keys(run.get_segmentations(**masks, **asked)) for name, asked in QUESTIONS.items()
        },
        "of tools": keys(run.tool_picks()),
        "of users": keys(run.user_picks()),
    }


def of_spacing(spacing: Any) -> dict[str, Any]:
    types = sorted({tomogram.tomo_type for tomogram in spacing.tomograms})
    return {
        "types": types,
        "tomograms": {
            str(tomogram.meta.portal_tomo_id): [
                tomogram.tomo_type,
                tomogram.read_only,
                digest(tomogram.numpy()),
                digest(tomogram.numpy("1")),
            ]
            for tomogram in spacing.tomograms
        },
        "by type": {
            each: sorted(t.meta.portal_tomo_id for t in spacing.get_tomograms(each)) for each in types
        },
        "found": {
            f"{name} {each}": sorted(t.meta.portal_tomo_id for t in spacing.get_tomograms(each, **asked))
            for name, asked in OF_TOMOGRAMS.items()
            for each in types
        },
    }


def of_picks(picks: Any) -> list[Any]:
    about = picks.meta.portal_metadata
    return [
        picks.pickable_object_name,
        picks.user_id,
        picks.trust_orientation,
        [picks.from_tool, picks.from_user, picks.read_only],
        list(picks.color),
        [about.annotation_id, about.annotation_file_id, about.shape_type, about.object_name, about.object_id],
        about.s3_path,
        [array.tolist() for array in picks.numpy()],
        [[p.instance_id, p.score] for p in picks.points],
    ]


def of_mask(mask: Any) -> list[Any]:
    return [
        mask.name,
        mask.user_id,
        round(mask.voxel_size, 3),
        [mask.is_instance, mask.is_multilabel, mask.is_panoptic, mask.from_tool, mask.read_only],
        list(mask.color),
        digest(mask.numpy()),
    ]


def digest(array: Any) -> str:
    return f"{array.dtype} {array.shape} {hashlib.sha256(array.tobytes()).hexdigest()[:16]}"


def ids(items: Any) -> list[int]:
    return sorted(item.id for item in items)


def keys(items: Any) -> list[str]:
    return sorted(item.session_id for item in items)


if __name__ == "__main__":
    import cryoet_data_portal._client

    cryoet_data_portal._client.DEFAULT_URL = sys.argv[3]  # 1.31 knows no other way
    os.environ["NO_PROXY"] = "127.0.0.1,localhost"
    with open(sys.argv[2], "w", encoding="utf-8") as out:
        json.dump(read(sys.argv[1]), out)
